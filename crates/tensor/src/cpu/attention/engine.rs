//! What blocked attention asks of an instruction set: packing blocks as operands, and their products.

use super::super::isa::Isa;
use super::super::math::Act;
use super::Matrix;

/// Products `out (+)= left · right` of packed blocks.
///
/// A left operand is `[rows][inner units]`, a right operand `[inner units][lanes]`; a unit holds `DEPTH`
/// consecutive elements of the inner dimension. Packing fills up with zeros.
pub(super) trait Engine<T: Act>: Copy + Send + Sync {
    /// Four bytes, so that operands are carved from work memory of floats.
    type Unit: bytemuck::Pod + Send + Sync;
    const DEPTH: usize;

    fn isa(self) -> Isa;

    /// What a worker must hold while it works through an item.
    fn set_up(self) -> impl Sized {}

    /// Left operand `[to.len() / units][units of columns]`: rows from `first` on as they are.
    fn rows(self, from: Matrix<'_, T>, first: usize, to: &mut [Self::Unit]);
    /// Left operand `[columns][KEYS / DEPTH]`: the transposed block of `KEYS` rows from `first` on.
    fn columns(self, from: Matrix<'_, T>, first: usize, to: &mut [Self::Unit]);
    /// Right operand `[units of columns][QUERIES]`: the transposed block of `QUERIES` rows from `first` on.
    fn rows_across(self, from: Matrix<'_, T>, first: usize, to: &mut [Self::Unit]);
    /// Right operand `[QUERIES / DEPTH][width]`: the block of `QUERIES` rows from `first` on as it is.
    fn columns_across(self, from: Matrix<'_, T>, first: usize, width: usize, to: &mut [Self::Unit]);
    /// A tile `[KEYS][QUERIES]` as left operand `[KEYS][QUERIES / DEPTH]`.
    fn tile_left(self, tile: &[f32], to: &mut [Self::Unit]);
    /// A tile `[KEYS][QUERIES]` as right operand `[KEYS / DEPTH][QUERIES]`.
    fn tile_right(self, tile: &[f32], to: &mut [Self::Unit]);

    /// `out[rows][lanes] (+)= left[rows][inner] · right[inner][lanes]`, all dense; lanes is a multiple of 16.
    fn product(
        self,
        left: &[Self::Unit],
        right: &[Self::Unit],
        out: &mut [f32],
        inner: usize,
        lanes: usize,
        accumulate: bool,
    );
}
