//! Left panels for tile registers: `[steps][rows][16 units]`, filled up with zeros to whole steps.
//!
//! ```text
//! stored [outer, inner]   a row's 16 units lie side by side: copied, 64 bytes at a time
//! stored [inner, outer]   rows 2u and 2u + 1 are paired, and squares of 16 × 16 units transposed
//! ```

use super::{Act, DType, Matrix, Part, RoundedBits, Source};
use crate::cpu::amx::SIDE;
use half::{bf16, f16};
use std::arch::x86_64::*;

/// Rows of a panel.
const WIDTH: usize = SIDE;

/// Packs `count` neighbouring panels, from `part` on, one behind the other.
///
/// # Safety
/// `source` describes readable memory, `to` points to as many panels of whole steps that do not overlap it, and the
/// machine has AVX-512 with bf16.
pub(super) unsafe fn panels(source: &Source, part: Part, count: usize, to: *mut u32) {
    assert_eq!(part.width, WIDTH, "a panel on tile registers");
    // SAFETY: passed on; the element type is the source's.
    unsafe {
        match source.dtype {
            DType::F32 => typed::<f32>(source, part, count, to),
            DType::Bf16 => typed::<bf16>(source, part, count, to),
            DType::F16 => typed::<f16>(source, part, count, to),
            other => panic!("operands are f32, bf16 or f16, not {other}"),
        }
    }
}

/// # Safety
/// As [`panels`], with `T` the source's element type.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2")]
unsafe fn typed<T: Act>(source: &Source, part: Part, count: usize, to: *mut u32) {
    let matrix = Matrix::<T> { pointer: source.pointer.cast(), source: *source };
    let Part { first_outer, first_unit, units, .. } = part;
    let panel_units = units.next_multiple_of(SIDE) * WIDTH;
    let covered = (count * WIDTH).min(source.outer - first_outer.min(source.outer));
    // What the vector loops do: whole squares inside the matrix.
    let whole_units = (source.inner / 2).saturating_sub(first_unit).min(units) / SIDE * SIDE;
    let (rows, done_units) = match (T::DTYPE, source.inner_rows) {
        (DType::F16, _) => (0, 0),
        (_, false) => (covered, whole_units),
        (_, true) => (covered / SIDE * SIDE, whole_units),
    };
    // SAFETY: rows and units are inside the matrix and their panel.
    unsafe {
        if source.inner_rows {
            // Along the rows of the matrix, from panel to panel, so that every line of it is used at once.
            for first in (0..done_units).step_by(SIDE) {
                for row in (0..rows).step_by(SIDE) {
                    let to = to.add(row / WIDTH * panel_units + first * WIDTH);
                    square(&matrix, first_unit + first, first_outer + row, to);
                }
            }
        } else {
            for row in 0..rows {
                let from = matrix.pointer.add((first_outer + row) * source.inner + 2 * first_unit);
                let to = to.add(row / WIDTH * panel_units + row % WIDTH * SIDE);
                for first in (0..done_units).step_by(SIDE) {
                    _mm512_storeu_si512(to.add(first * WIDTH).cast(), sixteen_units(from.add(2 * first)));
                }
            }
        }
    }
    for row in 0..count * WIDTH {
        for unit in if row < rows { done_units } else { 0 }..units.next_multiple_of(SIDE) {
            let (k, outer) = (2 * (first_unit + unit), first_outer + row);
            let value = if row < covered && unit < units {
                // SAFETY: `outer` is inside the matrix; `get` checks k.
                let [low, high] = unsafe { [matrix.get(k, outer), matrix.get(k + 1, outer)] };
                u32::from(bf16::bits_of(low)) | (u32::from(bf16::bits_of(high)) << 16)
            } else {
                0
            };
            let at = row / WIDTH * panel_units + (unit / SIDE * WIDTH + row % WIDTH) * SIDE + unit % SIDE;
            // SAFETY: inside the row's panel.
            unsafe { to.add(at).write(value) };
        }
    }
}

/// 32 neighbours as bf16.
///
/// # Safety
/// 32 elements are readable at `at`; T is f32 or bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn sixteen_units<T: Act>(at: *const T) -> __m512i {
    // SAFETY: by the contract.
    unsafe {
        if T::DTYPE == DType::F32 {
            let (low, high) = (_mm512_loadu_ps(at.cast()), _mm512_loadu_ps(at.cast::<f32>().add(16)));
            std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
        } else {
            _mm512_loadu_si512(at.cast())
        }
    }
}

/// 16 units of 16 outer neighbours, from a matrix stored `[inner, outer]`.
///
/// # Safety
/// The rows `2 · unit ..= 2 · unit + 31` and 16 columns from `outer` on are inside the matrix; 256 units fit at `to`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn square<T: Act>(matrix: &Matrix<T>, unit: usize, outer: usize, to: *mut u32) {
    let stride = matrix.source.outer;
    let mut rows = [_mm512_setzero_si512(); SIDE];
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: by the contract.
        unsafe {
            let even = matrix.pointer.add(2 * (unit + i) * stride + outer);
            // The panels' lines after the next: rows are too far apart for the hardware to see where this goes.
            _mm_prefetch::<_MM_HINT_T0>(even.wrapping_add(4 * SIDE).cast());
            _mm_prefetch::<_MM_HINT_T0>(even.wrapping_add(4 * SIDE + stride).cast());
            let [low, high] = [even, even.add(stride)].map(|at| {
                if T::DTYPE == DType::F32 {
                    let sixteen = _mm512_cvtneps_pbh(_mm512_loadu_ps(at.cast()));
                    std::mem::transmute::<__m256bh, __m256i>(sixteen)
                } else {
                    _mm256_loadu_si256(at.cast())
                }
            });
            let [low, high] = [low, high].map(|half| _mm512_cvtepu16_epi32(half));
            *row = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
        }
    }
    for (i, column) in transpose(rows).into_iter().enumerate() {
        // SAFETY: 16 rows of 16 units, by the contract.
        unsafe { _mm512_storeu_si512(to.add(i * SIDE).cast(), column) };
    }
}

/// A 16 × 16 square of units, columns for rows: pairs, then fours, then quarters of the registers change places.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; SIDE]) -> [__m512i; SIDE] {
    let mut twos = rows;
    for i in (0..SIDE).step_by(2) {
        twos[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        twos[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // fours[4 g + j]: in quarter q the columns 4 q + j of rows 4 g .. 4 g + 4.
    let mut fours = twos;
    for g in (0..SIDE).step_by(4) {
        fours[g] = _mm512_unpacklo_epi64(twos[g], twos[g + 2]);
        fours[g + 1] = _mm512_unpackhi_epi64(twos[g], twos[g + 2]);
        fours[g + 2] = _mm512_unpacklo_epi64(twos[g + 1], twos[g + 3]);
        fours[g + 3] = _mm512_unpackhi_epi64(twos[g + 1], twos[g + 3]);
    }
    let mut columns = fours;
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        // Quarters 0 and 2, and 1 and 3, of two registers; then the same of two such pairs.
        let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        columns[j] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
        columns[8 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even);
        columns[4 + j] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
        columns[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
    }
    columns
}
