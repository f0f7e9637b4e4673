//! The reference device's arena: bytes, read as f64 matrices and written back with one rounding.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

use half::{bf16, f16};

use crate::arena::Block;
use crate::{DType, HostMemory, OutOfMemory, View};

/// A row-major matrix of f64, indexed `[(row, col)]`.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) values: Vec<f64>,
}

impl Matrix {
    pub(super) fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, values: vec![0.0; rows * cols] }
    }

    pub(super) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.cols..(row + 1) * self.cols]
    }

    pub(super) fn transposed(&self) -> Self {
        let mut to = Self::zeros(self.cols, self.rows);
        for row in 0..self.rows {
            for col in 0..self.cols {
                to[(col, row)] = self[(row, col)];
            }
        }
        to
    }
}

impl Index<(usize, usize)> for Matrix {
    type Output = f64;

    fn index(&self, (row, col): (usize, usize)) -> &f64 {
        debug_assert!(row < self.rows && col < self.cols);
        &self.values[row * self.cols + col]
    }
}

impl IndexMut<(usize, usize)> for Matrix {
    fn index_mut(&mut self, (row, col): (usize, usize)) -> &mut f64 {
        debug_assert!(row < self.rows && col < self.cols);
        &mut self.values[row * self.cols + col]
    }
}

/// The value as the dtype stores it, seen as f64.
pub(super) fn rounded(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(value as f32),
        DType::Bf16 => bf16::from_f32(odd_rounded(value)).to_f64(),
        DType::F16 => f16::from_f32(odd_rounded(value)).to_f64(),
        DType::F64 => value,
        DType::U32 => panic!("arithmetic on u32"),
    }
}

/// f32 by rounding to odd: what is lost stays visible in the last bit, so that a second rounding to a
/// 16-bit format gives the same as one rounding from f64 would.
fn odd_rounded(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) == value || nearest.is_nan() {
        return nearest;
    }
    let away_from_zero = f64::from(nearest).abs() > value.abs();
    f32::from_bits((nearest.to_bits() - u32::from(away_from_zero)) | 1)
}

/// The arena.
#[derive(Debug, Default)]
pub(super) struct Memory {
    block: Arc<Block>,
}

impl Memory {
    pub(super) fn zeroed(bytes: usize) -> Result<Self, OutOfMemory> {
        Ok(Self { block: Arc::new(Block::new(bytes)?) })
    }

    #[track_caller]
    pub(super) fn host(&self, view: View) -> HostMemory {
        self.check(view);
        self.block.host(view)
    }

    #[track_caller]
    fn slice(&self, view: View) -> &[u8] {
        self.check(view);
        // SAFETY: in range of the block, which only `slice_mut` writes; bytes that were given away by
        // `host` are not used by operations.
        unsafe { std::slice::from_raw_parts(self.block.pointer(view.offset, view.bytes()), view.bytes()) }
    }

    #[track_caller]
    fn slice_mut(&mut self, view: View) -> &mut [u8] {
        self.check(view);
        // SAFETY: in range of the block, which `&mut self` keeps other slices from; bytes that were given
        // away by `host` are not used by operations.
        unsafe { std::slice::from_raw_parts_mut(self.block.pointer(view.offset, view.bytes()), view.bytes()) }
    }

    #[track_caller]
    fn check(&self, view: View) {
        assert!(
            view.offset.checked_add(view.bytes()).is_some_and(|end| end <= self.block.bytes()),
            "{view:?} leaves the arena of {} bytes",
            self.block.bytes()
        );
        assert!(view.offset.is_multiple_of(view.dtype.bytes()), "{view:?} is not aligned to its elements");
    }

    /// `count` bytes that are no matrix of numbers, in a range of whole words.
    #[track_caller]
    pub(super) fn bytes_mut(&mut self, offset: usize, count: usize) -> &mut [u8] {
        &mut self.slice_mut(words(offset, count))[..count]
    }

    #[track_caller]
    pub(super) fn bytes(&self, offset: usize, count: usize) -> &[u8] {
        &self.slice(words(offset, count))[..count]
    }

    #[track_caller]
    pub(super) fn upload(&mut self, to: View, bytes: &[u8]) {
        assert_eq!(bytes.len(), to.bytes(), "host bytes uploaded to {to:?}");
        self.slice_mut(to).copy_from_slice(bytes);
    }

    #[track_caller]
    pub(super) fn download(&self, from: View, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), from.bytes(), "host bytes downloaded from {from:?}");
        bytes.copy_from_slice(self.slice(from));
    }

    #[track_caller]
    pub(super) fn clear(&mut self, view: View) {
        self.slice_mut(view).fill(0);
    }

    /// The elements of a floating-point view.
    #[track_caller]
    pub(super) fn read(&self, view: View) -> Matrix {
        let bytes = self.slice(view);
        let values = match view.dtype {
            DType::F32 => elements(bytes, |b| f64::from(f32::from_le_bytes(b))),
            DType::Bf16 => elements(bytes, |b| bf16::from_le_bytes(b).to_f64()),
            DType::F16 => elements(bytes, |b| f16::from_le_bytes(b).to_f64()),
            DType::F64 => elements(bytes, f64::from_le_bytes),
            DType::U32 => panic!("{view:?} read as numbers"),
        };
        Matrix { rows: view.rows, cols: view.cols, values }
    }

    /// Rounds once and stores.
    #[track_caller]
    pub(super) fn write(&mut self, view: View, matrix: &Matrix) {
        assert_eq!((view.rows, view.cols), (matrix.rows, matrix.cols), "a result stored to {view:?}");
        let values = &matrix.values;
        let bytes = self.slice_mut(view);
        match view.dtype {
            DType::F32 => store(bytes, values, |v| (v as f32).to_le_bytes()),
            DType::Bf16 => store(bytes, values, |v| bf16::from_f32(odd_rounded(v)).to_le_bytes()),
            DType::F16 => store(bytes, values, |v| f16::from_f32(odd_rounded(v)).to_le_bytes()),
            DType::F64 => store(bytes, values, f64::to_le_bytes),
            DType::U32 => panic!("{view:?} written as numbers"),
        }
    }

    /// The elements of a u32 view.
    #[track_caller]
    pub(super) fn read_ids(&self, view: View) -> Vec<u32> {
        assert!(view.dtype == DType::U32, "{view:?} read as u32");
        elements(self.slice(view), u32::from_le_bytes)
    }

    #[track_caller]
    pub(super) fn write_ids(&mut self, view: View, ids: &[u32]) {
        assert!(view.dtype == DType::U32 && view.len() == ids.len(), "{} u32 written to {view:?}", ids.len());
        store(self.slice_mut(view), ids, u32::to_le_bytes);
    }
}

fn elements<T, const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| decode(chunk)).collect()
}

fn store<T: Copy, const N: usize>(bytes: &mut [u8], values: &[T], encode: impl Fn(T) -> [u8; N]) {
    for (chunk, &value) in bytes.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *chunk = encode(value);
    }
}

/// The words that hold `count` bytes.
const fn words(offset: usize, count: usize) -> View {
    View { offset, rows: 1, cols: count.div_ceil(4), dtype: DType::U32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_just_above_a_tie_rounds_up() {
        // 1 + 2⁻⁸ lies between the bf16 neighbours 1 and 1 + 2⁻⁷; rounding to f32 first would lose the rest.
        let tie = 1.0 + 2f64.powi(-8);
        assert_eq!(rounded(tie, DType::Bf16), 1.0);
        assert_eq!(rounded(tie + 2f64.powi(-40), DType::Bf16), 1.0 + 2f64.powi(-7));
        let tie = 1.0 + 2f64.powi(-11);
        assert_eq!(rounded(tie, DType::F16), 1.0);
        assert_eq!(rounded(-tie - 2f64.powi(-40), DType::F16), -1.0 - 2f64.powi(-10));
    }

    #[test]
    fn overflow_and_underflow_follow_the_format() {
        assert_eq!(rounded(1e300, DType::Bf16), f64::INFINITY);
        assert_eq!(rounded(65519.0, DType::F16), 65504.0);
        assert_eq!(rounded(65520.0, DType::F16), f64::INFINITY);
        assert_eq!(rounded(1e-300, DType::F16), 0.0);
        assert_eq!(rounded(2f64.powi(-24), DType::F16), 2f64.powi(-24));
    }

    #[test]
    #[should_panic(expected = "leaves the arena of 64 bytes")]
    fn a_view_beyond_the_arena_is_refused() {
        let memory = Memory::zeroed(64).unwrap();
        memory.read(View { offset: 60, rows: 1, cols: 2, dtype: DType::F32 });
    }
}
