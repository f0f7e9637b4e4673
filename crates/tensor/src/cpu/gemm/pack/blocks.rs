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
    if T::DTYPE == DType::F16 {
        // SAFETY: passed on.
        return unsafe { element_by_element(&matrix, part, count, to) };
    }
    // SAFETY: rows and units are inside their panel; what is read lies inside the matrix and the part.
    unsafe {
        // Along the rows of the matrix, from panel to panel, so that every line of it is used at once.
        if source.inner_rows {
            for first in (0..units).step_by(SIDE) {
                for row in (0..covered).step_by(SIDE) {
                    let to = to.add(row / WIDTH * panel_units + first * WIDTH);
                    let size = [SIDE.min(units - first), SIDE.min(covered - row)];
                    square(&matrix, [first_unit + first, first_outer + row], size, to);
                }
            }
        } else {
            for row in 0..covered {
                let from = matrix.pointer.add((first_outer + row) * source.inner + 2 * first_unit);
                let to = to.add(row / WIDTH * panel_units + row % WIDTH * SIDE);
                for first in (0..units).step_by(SIDE) {
                    let left = (2 * (units - first)).min(source.inner - 2 * (first_unit + first));
                    let sixteen = neighbours(from.add(2 * first), left.min(2 * SIDE));
                    _mm512_storeu_si512(to.add(first * WIDTH).cast(), sixteen);
                }
            }
        }
        let filled = if source.inner_rows { covered.next_multiple_of(SIDE) } else { covered };
        for row in filled..count * WIDTH {
            for first in (0..units).step_by(SIDE) {
                let to = to.add(row / WIDTH * panel_units + row % WIDTH * SIDE + first * WIDTH);
                _mm512_storeu_si512(to.cast(), _mm512_setzero_si512());
            }
        }
    }
}

/// What [`typed`] does, for types that the vector instructions don't convert.
///
/// # Safety
/// As [`panels`], with `T` the source's element type.
unsafe fn element_by_element<T: Act>(matrix: &Matrix<T>, part: Part, count: usize, to: *mut u32) {
    let whole = part.units.next_multiple_of(SIDE);
    for row in 0..count * WIDTH {
        for unit in 0..whole {
            let (k, outer) = (2 * (part.first_unit + unit), part.first_outer + row);
            let value = if outer < matrix.source.outer && unit < part.units {
                // SAFETY: `outer` is inside the matrix; `get` checks k.
                let [low, high] = unsafe { [matrix.get(k, outer), matrix.get(k + 1, outer)] };
                u32::from(bf16::bits_of(low)) | (u32::from(bf16::bits_of(high)) << 16)
            } else {
                0
            };
            let at = row / WIDTH * whole * WIDTH + (unit / SIDE * WIDTH + row % WIDTH) * SIDE + unit % SIDE;
            // SAFETY: inside the row's panel.
            unsafe { to.add(at).write(value) };
        }
    }
}

/// `count` neighbours, 1 to 32, as bf16; zeros behind them.
///
/// # Safety
/// They are readable at `at`; T is f32 or bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn neighbours<T: Act>(at: *const T, count: usize) -> __m512i {
    let mask = u32::MAX >> (2 * SIDE - count);
    // SAFETY: masked to what is there.
    unsafe {
        if T::DTYPE == DType::F32 {
            let low = _mm512_maskz_loadu_ps(mask as u16, at.cast());
            let high = _mm512_maskz_loadu_ps((mask >> SIDE) as u16, at.cast::<f32>().wrapping_add(SIDE));
            std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low))
        } else {
            _mm512_maskz_loadu_epi16(mask, at.cast())
        }
    }
}

/// 16 units of 16 outer neighbours from a matrix stored `[inner, outer]`, beginning at `[unit, outer]`. Of them
/// `[units, outers]` are there, the others zeros.
///
/// # Safety
/// Those lie inside the matrix; 256 units fit at `to`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn square<T: Act>(
    matrix: &Matrix<T>,
    [unit, outer]: [usize; 2],
    [units, outers]: [usize; 2],
    to: *mut u32,
) {
    let Source { inner, outer: stride, .. } = matrix.source;
    let mut rows = [_mm512_setzero_si512(); SIDE];
    for (i, row) in rows.iter_mut().enumerate().take(units) {
        let k = 2 * (unit + i);
        let sixteen = |k: usize| {
            let at = matrix.pointer.wrapping_add(k * stride + outer);
            let mask = if k < inner { u16::MAX >> (SIDE - outers) } else { 0 };
            // SAFETY: the masked elements lie inside the matrix; a prefetch may go anywhere.
            let bits = unsafe {
                // The panels' lines after the next: rows are too far apart for the hardware to see where this goes.
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(4 * SIDE).cast());
                if T::DTYPE == DType::F32 {
                    let rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, at.cast()));
                    std::mem::transmute::<__m256bh, __m256i>(rounded)
                } else {
                    _mm256_maskz_loadu_epi16(mask, at.cast())
                }
            };
            _mm512_cvtepu16_epi32(bits)
        };
        *row = _mm512_or_si512(sixteen(k), _mm512_slli_epi32::<16>(sixteen(k + 1)));
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
