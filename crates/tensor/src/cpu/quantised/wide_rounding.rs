//! Rounding a group with 512-bit vectors: the steps of the plain loops (`activations.rs`), to the bit.

use super::activations::{Group, ROUND, SMALLEST};
use std::arch::x86_64::*;

/// See [`super::activations::plain`].
///
/// # Safety
/// The machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn round(values: &[f32; 32], codes: &mut [u8; 32]) -> Group {
    // SAFETY: two halves of sixteen.
    let halves = unsafe { [_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values.as_ptr().add(16))] };
    let zero = _mm512_setzero_ps();
    let (mut largest, mut poison) = (zero, zero);
    for half in halves {
        // The second operand where one is no number.
        largest = _mm512_max_ps(_mm512_abs_ps(half), largest);
        poison = _mm512_add_ps(poison, _mm512_mul_ps(half, zero));
    }
    let most = _mm512_reduce_max_ps(largest);
    let (scale, inverse) = if most < SMALLEST { (0.0, 0.0) } else { (most / 127.0, 127.0 / most) };
    let round = _mm512_set1_ps(ROUND);
    let mut counts = [0; 2];
    for (index, half) in halves.into_iter().enumerate() {
        let shifted = _mm512_add_ps(_mm512_mul_ps(half, _mm512_set1_ps(inverse)), round);
        let steps = _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_castps_si512(round));
        let bytes = _mm512_cvtepi32_epi8(steps);
        // SAFETY: sixteen of the 32 codes.
        unsafe { _mm_storeu_si128(codes.as_mut_ptr().add(16 * index).cast(), bytes) };
        counts[index] = _mm512_reduce_add_epi32(_mm512_cvtepi8_epi32(bytes));
    }
    Group { scale: scale + _mm512_reduce_add_ps(poison), counts }
}
