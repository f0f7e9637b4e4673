//! Block products of bf16 pairs by AVX-512-BF16 (`vdpbf16ps` adds two products to each of 16 f32 sums), or on tile
//! registers where there are any and the blocks have whole tiles.
//!
//! A unit is two bf16 that are neighbours in the inner dimension, the earlier one in the low half.

use super::super::amx;
use super::super::isa::Isa;
use super::engine::Engine;
use super::transpose::{SIDE, square};
use super::{KEYS, Matrix, QUERIES, tiles};
use half::bf16;
use std::arch::x86_64::*;

/// Proof that the machine has the instructions: made by [`Self::new`] only.
#[derive(Clone, Copy)]
pub(super) struct Paired {
    isa: Isa,
}

impl Paired {
    pub(super) fn new(isa: Isa) -> Option<Self> {
        matches!(isa, Isa::Amx | Isa::Avx512Bf16).then_some(Self { isa })
    }
}

impl Engine<bf16> for Paired {
    type Unit = u32;
    const DEPTH: usize = 2;

    fn isa(self) -> Isa {
        self.isa
    }

    fn set_up(self) -> impl Sized {
        // SAFETY: the device runs on tile registers only where they are available.
        (self.isa == Isa::Amx).then(|| unsafe { amx::Tiles::new(&amx::Shapes::FULL) })
    }

    fn rows(self, from: Matrix<'_, bf16>, first: usize, to: &mut [u32]) {
        for (i, to) in to.chunks_exact_mut(from.cols.div_ceil(2)).enumerate() {
            copy_row(from, first + i, 0, to);
        }
    }

    fn columns(self, from: Matrix<'_, bf16>, first: usize, to: &mut [u32]) {
        const UNITS: usize = KEYS / 2;
        let mut block = [0u32; SIDE * SIDE];
        for start in (0..UNITS).step_by(SIDE) {
            for col in (0..from.cols).step_by(SIDE) {
                for (i, row) in block.chunks_exact_mut(SIDE).enumerate() {
                    interleave(self.isa, from, first + 2 * (start + i), col, row);
                }
                square(self.isa, &mut block);
                for (i, row) in block.chunks_exact(SIDE).enumerate().take(from.cols - col) {
                    to[(col + i) * UNITS + start..][..SIDE].copy_from_slice(row);
                }
            }
        }
    }

    fn rows_across(self, from: Matrix<'_, bf16>, first: usize, to: &mut [u32]) {
        let units = from.cols.div_ceil(2);
        let mut block = [0u32; SIDE * SIDE];
        for start in (0..QUERIES).step_by(SIDE) {
            for unit in (0..units).step_by(SIDE) {
                for (i, row) in block.chunks_exact_mut(SIDE).enumerate() {
                    copy_row(from, first + start + i, 2 * unit, row);
                }
                square(self.isa, &mut block);
                for (i, row) in block.chunks_exact(SIDE).enumerate().take(units - unit) {
                    to[(unit + i) * QUERIES + start..][..SIDE].copy_from_slice(row);
                }
            }
        }
    }

    fn columns_across(self, from: Matrix<'_, bf16>, first: usize, width: usize, to: &mut [u32]) {
        for (i, to) in to.chunks_exact_mut(width).enumerate() {
            interleave(self.isa, from, first + 2 * i, 0, to);
        }
    }

    fn tile_left(self, tile: &[f32], to: &mut [u32]) {
        // SAFETY: a value of this type proves that the machine has the instructions.
        unsafe { tile_left(tile, to) }
    }

    fn tile_right(self, tile: &[f32], to: &mut [u32]) {
        // SAFETY: as above.
        unsafe { tile_right(tile, to) }
    }

    fn product(
        self,
        left: &[u32],
        right: &[u32],
        out: &mut [f32],
        inner: usize,
        lanes: usize,
        accumulate: bool,
    ) {
        // SAFETY: as above; callers hold what `set_up` gave.
        unsafe {
            if self.isa == Isa::Amx && tiles::fit(out.len() / lanes, inner, lanes) {
                tiles::product(left, right, out, inner, lanes, accumulate);
            } else {
                product(left, right, out, inner, lanes, accumulate);
            }
        }
    }
}

/// Elements from `col` on of a row as units; zeros beyond the matrix.
fn copy_row(from: Matrix<'_, bf16>, row: usize, col: usize, to: &mut [u32]) {
    let to: &mut [bf16] = bytemuck::cast_slice_mut(to);
    let values = if row < from.rows { &from.row(row)[col..] } else { &[] };
    let count = values.len().min(to.len());
    to[..count].copy_from_slice(&values[..count]);
    to[count..].fill(bf16::ZERO);
}

/// Elements from `col` on of two neighbouring rows, paired; zeros beyond the matrix.
fn interleave(isa: Isa, from: Matrix<'_, bf16>, row: usize, col: usize, to: &mut [u32]) {
    let part = |row: usize| if row < from.rows { &from.row(row)[col..] } else { &[] };
    let (even, odd) = (part(row), part(row + 1));
    let both = even.len().min(odd.len()).min(to.len());
    isa.vectorize(
        #[inline(always)]
        || {
            for ((to, even), odd) in to[..both].iter_mut().zip(even).zip(odd) {
                *to = u32::from(even.to_bits()) | u32::from(odd.to_bits()) << 16;
            }
        },
    );
    let single = even.len().min(to.len()).max(both);
    for (to, even) in to[both..single].iter_mut().zip(&even[both.min(even.len())..]) {
        *to = u32::from(even.to_bits());
    }
    to[single..].fill(0);
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn tile_left(tile: &[f32], to: &mut [u32]) {
    for (tile, to) in tile.chunks_exact(32).zip(to.chunks_exact_mut(16)) {
        // SAFETY: chunks of 32 floats and 16 units.
        unsafe {
            let (low, high) = (_mm512_loadu_ps(tile.as_ptr()), _mm512_loadu_ps(tile.as_ptr().add(16)));
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), both);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn tile_right(tile: &[f32], to: &mut [u32]) {
    // Element 2 i comes from the low half, 2 i + 1 from the high half.
    let order: [u16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * 16) as u16);
    // SAFETY: 64 bytes.
    let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
    for (rows, to) in tile.chunks_exact(2 * QUERIES).zip(to.chunks_exact_mut(QUERIES)) {
        for lane in (0..QUERIES).step_by(16) {
            // SAFETY: two rows of QUERIES floats, a row of QUERIES units.
            unsafe {
                let even = _mm512_loadu_ps(rows.as_ptr().add(lane));
                let odd = _mm512_loadu_ps(rows.as_ptr().add(QUERIES + lane));
                let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(odd, even));
                let units = _mm512_permutexvar_epi16(order, both);
                _mm512_storeu_si512(to.as_mut_ptr().add(lane).cast(), units);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn product(left: &[u32], right: &[u32], out: &mut [f32], inner: usize, lanes: usize, accumulate: bool) {
    let rows = out.len() / lanes;
    assert!(lanes.is_multiple_of(16) && out.len() == rows * lanes, "{} sums in rows of {lanes}", out.len());
    assert!(
        left.len() >= rows * inner && right.len() >= inner * lanes,
        "operands of {rows} x {inner} x {lanes}"
    );
    let (left, right, out) = (left.as_ptr(), right.as_ptr(), out.as_mut_ptr());
    let mut lane = 0;
    while lane < lanes {
        let vectors = ((lanes - lane) / 16).min(4);
        let mut row = 0;
        while row < rows {
            let tall = rows - row >= 4;
            // SAFETY: 4 or 1 rows and up to 4 vectors that lie within the operands and the output (asserted).
            unsafe {
                let (left, right, out) =
                    (left.add(row * inner), right.add(lane), out.add(row * lanes + lane));
                let place = Place { left, right, out, inner, lanes, accumulate };
                match (tall, vectors) {
                    (true, 4) => tile::<4, 4>(place),
                    (true, 3) => tile::<4, 3>(place),
                    (true, 2) => tile::<4, 2>(place),
                    (true, _) => tile::<4, 1>(place),
                    (false, 4) => tile::<1, 4>(place),
                    (false, 3) => tile::<1, 3>(place),
                    (false, 2) => tile::<1, 2>(place),
                    (false, _) => tile::<1, 1>(place),
                }
            }
            row += if tall { 4 } else { 1 };
        }
        lane += 16 * vectors;
    }
}

/// Where a register tile's operands and sums begin.
#[derive(Clone, Copy)]
struct Place {
    left: *const u32,
    right: *const u32,
    out: *mut f32,
    inner: usize,
    lanes: usize,
    accumulate: bool,
}

/// # Safety
/// `R` rows and `V` vectors from the place on lie within the operands and the output.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
unsafe fn tile<const R: usize, const V: usize>(place: Place) {
    let Place { left, right, out, inner, lanes, accumulate } = place;
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    // SAFETY: the contract of this function.
    unsafe {
        if accumulate {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(out.add(r * lanes + 16 * v));
                }
            }
        }
        for k in 0..inner {
            let mut units = [_mm512_setzero_si512(); V];
            for (v, units) in units.iter_mut().enumerate() {
                *units = _mm512_loadu_si512(right.add(k * lanes + 16 * v).cast());
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = _mm512_set1_epi32(*left.add(r * inner + k) as i32);
                for (sum, units) in sums.iter_mut().zip(units) {
                    *sum = _mm512_dpbf16_ps(
                        *sum,
                        std::mem::transmute::<__m512i, __m512bh>(left),
                        std::mem::transmute::<__m512i, __m512bh>(units),
                    );
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(out.add(r * lanes + 16 * v), *sum);
            }
        }
    }
}
