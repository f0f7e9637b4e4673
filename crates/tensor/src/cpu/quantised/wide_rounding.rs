//! Rounding a group, or four at once, with 512-bit vectors: the steps of the plain loops (`activations.rs`), to the bit.
//!
//! ```text
//! four groups   a a a …  b b b …  c c c …  d d d …   ─▶  a b c d   largest values, scales, counts: one vector for all
//! ```

use super::activations::{Group, ROUND, SMALLEST};
use std::arch::x86_64::*;

/// Groups that are rounded together.
pub(super) const TOGETHER: usize = 4;

/// What [`TOGETHER`] groups were rounded with.
pub(super) struct Groups {
    /// No number where a value was none.
    pub(super) scales: [f32; TOGETHER],
    /// Sums of the codes of the first halves, and of the second ones.
    pub(super) counts: [[i32; TOGETHER]; 2],
}

/// As [`round`], of each of four groups.
///
/// # Safety
/// The machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn round_together(
    values: &[f32; 32 * TOGETHER],
    codes: &mut [u8; 32 * TOGETHER],
) -> Groups {
    let half = |index: usize| {
        // SAFETY: sixteen of the values.
        unsafe { _mm512_loadu_ps(values.as_ptr().add(16 * index)) }
    };
    // Quiet or signalling, no number; plus or minus, infinite.
    const UNSOUND: i32 = 0x01 | 0x80 | 0x08 | 0x10;
    let mut largest = [_mm512_setzero_ps(); TOGETHER];
    let mut unsound = 0u8;
    for group in 0..TOGETHER {
        let (low, high) = (half(2 * group), half(2 * group + 1));
        let found = _mm512_fpclass_ps_mask::<UNSOUND>(low) | _mm512_fpclass_ps_mask::<UNSOUND>(high);
        unsound |= u8::from(found != 0) << group;
        // The second operand where one is no number.
        let zero = _mm512_setzero_ps();
        largest[group] = _mm512_max_ps(_mm512_abs_ps(high), _mm512_max_ps(_mm512_abs_ps(low), zero));
    }
    let most = {
        let [a, b, c, d] = largest;
        let ab = _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let cd = _mm512_max_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        let all = _mm512_max_ps(
            _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd),
            _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd),
        );
        let pair = _mm256_max_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps::<1>(all));
        _mm_max_ps(_mm256_castps256_ps128(pair), _mm256_extractf128_ps::<1>(pair))
    };
    let is_large = _mm_cmp_ps_mask::<_CMP_NLT_UQ>(most, _mm_set1_ps(SMALLEST));
    let steps = _mm_set1_ps(127.0);
    let scales = _mm_maskz_div_ps(is_large, most, steps);
    let mut inverses = [0.0f32; TOGETHER];
    // SAFETY: four elements.
    unsafe { _mm_storeu_ps(inverses.as_mut_ptr(), _mm_maskz_div_ps(is_large, steps, most)) };
    let shift = _mm512_set1_ps(ROUND);
    let mut quads = [_mm256_setzero_si256(); TOGETHER];
    for group in 0..TOGETHER {
        let inverse = _mm512_set1_ps(inverses[group]);
        let code = |index: usize| {
            let shifted = _mm512_add_ps(_mm512_mul_ps(half(index), inverse), shift);
            _mm512_cvtepi32_epi8(_mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_castps_si512(shift)))
        };
        let both = _mm256_set_m128i(code(2 * group + 1), code(2 * group));
        // SAFETY: the group's 32 codes.
        unsafe { _mm256_storeu_si256(codes.as_mut_ptr().add(32 * group).cast(), both) };
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), both);
        quads[group] = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    }
    let [a, b, c, d] = quads;
    // The first half's sums of all groups, then the second half's.
    let counts = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let nan = _mm_set1_ps(f32::NAN);
    let mut groups = Groups { scales: [0.0; TOGETHER], counts: [[0; TOGETHER]; 2] };
    // SAFETY: four and eight elements.
    unsafe {
        _mm_storeu_ps(groups.scales.as_mut_ptr(), _mm_mask_mov_ps(scales, unsound, nan));
        _mm256_storeu_si256(groups.counts.as_mut_ptr().cast(), counts);
    }
    groups
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::quantised::activations::plain;
    use crate::philox::Stream;

    #[test]
    fn groups_rounded_together_are_those_rounded_alone() {
        if !is_x86_feature_detected!("avx512dq") || !is_x86_feature_detected!("avx512bw") {
            return;
        }
        let stream = Stream::named(5, "groups");
        for turn in 0..200 {
            let mut values = [0.0f32; 32 * TOGETHER];
            for (place, value) in values.iter_mut().enumerate() {
                let group = turn + place / 32;
                // Groups of zeros, of subnormal and of large numbers among others.
                let size = [1.0, 0.0, 1e-33, 1e30][group % 7 % 4];
                *value = size * stream.normal((turn * 128 + place) as u64) as f32;
            }
            if turn % 5 == 0 {
                values[turn % 128] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][turn % 3];
            }
            let mut codes = [0u8; 32 * TOGETHER];
            // SAFETY: the machine has the instructions.
            let found = unsafe { round_together(&values, &mut codes) };
            for (group, values) in values.as_chunks::<32>().0.iter().enumerate() {
                let mut expected = [0u8; 32];
                let Group { scale, counts } = plain(values, &mut expected);
                if scale.is_nan() {
                    assert!(found.scales[group].is_nan());
                    continue;
                }
                assert_eq!(found.scales[group].to_bits(), scale.to_bits());
                assert_eq!([found.counts[0][group], found.counts[1][group]], counts);
                assert_eq!(codes[32 * group..][..32], expected);
            }
        }
    }
}
