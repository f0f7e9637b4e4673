//! Block products in f32, for any activation type, as loops that the compiler vectorises.

use super::super::isa::Isa;
use super::super::math::Act;
use super::engine::Engine;
use super::{KEYS, Matrix, QUERIES, VECTOR};
use crate::cpu::Kernel;

#[derive(Clone, Copy)]
pub(super) struct Float {
    isa: Isa,
}

impl Float {
    pub(super) const fn new(isa: Isa) -> Self {
        Self { isa }
    }
}

impl<T: Act> Engine<T> for Float {
    type Unit = f32;
    const DEPTH: usize = 1;

    fn isa(self) -> Isa {
        self.isa
    }

    fn rows(self, from: Matrix<'_, T>, first: usize, to: &mut [f32]) {
        copy_rows(self.isa, from, first, from.cols, to);
    }

    fn columns(self, from: Matrix<'_, T>, first: usize, to: &mut [f32]) {
        transpose(self.isa, from, first, KEYS, to);
    }

    fn rows_across(self, from: Matrix<'_, T>, first: usize, to: &mut [f32]) {
        transpose(self.isa, from, first, QUERIES, to);
    }

    fn columns_across(self, from: Matrix<'_, T>, first: usize, width: usize, to: &mut [f32]) {
        copy_rows(self.isa, from, first, width, to);
    }

    fn tile_left(self, tile: &[f32], to: &mut [f32]) {
        to.copy_from_slice(tile);
    }

    fn tile_right(self, tile: &[f32], to: &mut [f32]) {
        to.copy_from_slice(tile);
    }

    fn product(
        self,
        left: &[f32],
        right: &[f32],
        out: &mut [f32],
        inner: usize,
        lanes: usize,
        accumulate: bool,
    ) {
        let block = Block { inner, lanes, accumulate };
        match self.isa.kernel() {
            Kernel::Amx | Kernel::Avx512 | Kernel::Avx512Bf16 => self.isa.vectorize(
                #[inline(always)]
                || product::<4, 64, true>(left, right, out, block),
            ),
            Kernel::Avx2 => self.isa.vectorize(
                #[inline(always)]
                || product::<4, 16, true>(left, right, out, block),
            ),
            _ => product::<2, 16, { cfg!(target_arch = "aarch64") }>(left, right, out, block),
        }
    }
}

fn copy_rows<T: Act>(isa: Isa, from: Matrix<'_, T>, first: usize, width: usize, to: &mut [f32]) {
    isa.vectorize(
        #[inline(always)]
        || {
            for (i, to) in to.chunks_exact_mut(width).enumerate() {
                let Some(row) = (first + i < from.rows).then(|| from.row(first + i)) else {
                    to.fill(0.0);
                    continue;
                };
                let (values, rest) = to.split_at_mut(row.len());
                values.iter_mut().zip(row).for_each(|(t, x)| *t = x.to_f32());
                rest.fill(0.0);
            }
        },
    );
}

/// `to[columns][count]`.
fn transpose<T: Act>(isa: Isa, from: Matrix<'_, T>, first: usize, count: usize, to: &mut [f32]) {
    let mut strip = [0.0f32; VECTOR * VECTOR];
    for start in (0..count).step_by(VECTOR) {
        for col in (0..from.cols).step_by(VECTOR) {
            let width = (from.cols - col).min(VECTOR);
            strip.fill(0.0);
            for (i, strip) in strip.chunks_exact_mut(VECTOR).enumerate() {
                if first + start + i < from.rows {
                    let row = &from.row(first + start + i)[col..col + width];
                    strip.iter_mut().zip(row).for_each(|(s, x)| *s = x.to_f32());
                }
            }
            super::transpose::square(isa, bytemuck::cast_mut(&mut strip));
            for (i, strip) in strip.chunks_exact(VECTOR).enumerate().take(width) {
                to[(col + i) * count + start..][..VECTOR].copy_from_slice(strip);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Block {
    inner: usize,
    lanes: usize,
    accumulate: bool,
}

/// In register tiles of `R` rows and `N` lanes; what is left over one row or 16 lanes at a time. Plain loops,
/// for a closure's body would not be compiled for the caller's instruction set.
#[inline(always)]
fn product<const R: usize, const N: usize, const FUSED: bool>(
    left: &[f32],
    right: &[f32],
    out: &mut [f32],
    block: Block,
) {
    let rows = out.len() / block.lanes;
    let (wide, tall) = (block.lanes / N * N, rows / R * R);
    for lane in (0..wide).step_by(N) {
        for row in (0..tall).step_by(R) {
            tile::<R, N, FUSED>(left, right, out, block, row, lane);
        }
        for row in tall..rows {
            tile::<1, N, FUSED>(left, right, out, block, row, lane);
        }
    }
    for lane in (wide..block.lanes).step_by(VECTOR) {
        for row in (0..tall).step_by(R) {
            tile::<R, VECTOR, FUSED>(left, right, out, block, row, lane);
        }
        for row in tall..rows {
            tile::<1, VECTOR, FUSED>(left, right, out, block, row, lane);
        }
    }
}

#[inline(always)]
fn tile<const R: usize, const N: usize, const FUSED: bool>(
    left: &[f32],
    right: &[f32],
    out: &mut [f32],
    block: Block,
    row: usize,
    lane: usize,
) {
    let Block { inner, lanes, accumulate } = block;
    let left: [&[f32]; R] = std::array::from_fn(|r| &left[(row + r) * inner..(row + r + 1) * inner]);
    let mut sums = [[0.0f32; N]; R];
    for (k, right) in right.chunks_exact(lanes).enumerate().take(inner) {
        let right = &right[lane..lane + N];
        for r in 0..R {
            let l = left[r][k];
            for i in 0..N {
                sums[r][i] = if FUSED { l.mul_add(right[i], sums[r][i]) } else { l * right[i] + sums[r][i] };
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let out = &mut out[(row + r) * lanes + lane..][..N];
        if accumulate {
            out.iter_mut().zip(sums).for_each(|(o, s)| *o += s);
        } else {
            out.copy_from_slice(sums);
        }
    }
}
