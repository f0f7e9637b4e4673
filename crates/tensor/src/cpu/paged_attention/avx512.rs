//! Scores and weighted sums with 512-bit vectors, whose sums stay in registers: the multiply-adds of the plain loops in
//! the same order, so the same bits.

use super::{Head, LANES};
use crate::cpu::math::Act;
use half::{bf16, f16};
use std::arch::x86_64::*;

/// Queries of tiles whose keys and values come from far away: those of a text that goes on by a token.
const FEW: usize = 4;

/// Element types of a cache.
pub(super) trait Cached: Act {
    /// Sixteen neighbours as f32, exactly.
    ///
    /// # Safety
    /// They lie at `at`; the machine has AVX-512.
    unsafe fn widen(at: *const Self) -> __m512;

    /// Rounded to nearest even.
    ///
    /// # Safety
    /// The machine has AVX-512.
    unsafe fn narrow(numbers: &[f32; LANES]) -> [Self; LANES] {
        numbers.map(Self::from_f32)
    }
}

impl Cached for f32 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn widen(at: *const Self) -> __m512 {
        // SAFETY: by the contract.
        unsafe { _mm512_loadu_ps(at) }
    }
}

impl Cached for f16 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn widen(at: *const Self) -> __m512 {
        // SAFETY: by the contract.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(at.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn narrow(numbers: &[f32; LANES]) -> [Self; LANES] {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        let mut halves = [Self::ZERO; LANES];
        // SAFETY: sixteen elements each.
        unsafe {
            let rounded = _mm512_cvtps_ph::<NEAREST>(_mm512_loadu_ps(numbers.as_ptr()));
            _mm256_storeu_si256(halves.as_mut_ptr().cast(), rounded);
        }
        halves
    }
}

impl Cached for bf16 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn widen(at: *const Self) -> __m512 {
        // SAFETY: by the contract.
        let halves = unsafe { _mm256_loadu_si256(at.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }
}

/// See [`super::score`].
///
/// # Safety
/// The machine has AVX-512; the keys' blocks are in the cache.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn score<C: Cached, const R: usize, const V: usize>(
    head: &Head<'_, C>,
    table: &[u32],
    vectors: &[f32],
    first: usize,
    scores: &mut [f32],
    stride: usize,
) {
    let mut parts: [&[C]; V] = [&[]; V];
    for (v, part) in parts.iter_mut().enumerate() {
        let key = first + v * LANES;
        *part = &head.part_of(head.keys, table[key / head.block])[key % head.block..];
        // The last row's sixteen keys.
        assert!(part.len() >= (head.head_dim - 1) * head.block + LANES);
    }
    // Few queries wait for the keys' way from memory: those that come next are brought nearer.
    let mut next: [*const C; V] = [std::ptr::null(); V];
    let is_cold = R <= FEW && table.len() * head.block >= first + 2 * V * LANES;
    if is_cold {
        for (v, next) in next.iter_mut().enumerate() {
            let key = first + (V + v) * LANES;
            *next = head.part_of(head.keys, table[key / head.block])[key % head.block..].as_ptr();
        }
    }
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    for (d, query) in vectors.as_chunks::<R>().0[..head.head_dim].iter().enumerate() {
        if is_cold {
            for next in next {
                _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(d * head.block).cast());
            }
        }
        for v in 0..V {
            // SAFETY: within the part (asserted for the last row).
            let keys = unsafe { C::widen(parts[v].as_ptr().add(d * head.block)) };
            for r in 0..R {
                sums[r][v] = _mm512_fmadd_ps(_mm512_set1_ps(query[r]), keys, sums[r][v]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (v, &sums) in sums.iter().enumerate() {
            let to = &mut scores[r * stride + first + v * LANES..][..LANES];
            // SAFETY: sixteen elements.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), sums) };
        }
    }
}

/// See [`super::weigh`].
///
/// # Safety
/// The machine has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn weigh<C: Cached, const R: usize, const V: usize>(
    head: &Head<'_, C>,
    table: &[u32],
    scores: &[f32],
    stride: usize,
    seen: usize,
    first: usize,
    totals: &[f32; R],
    outputs: &mut [f32],
) {
    assert!(first + V * LANES <= head.head_dim);
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    for (index, &id) in table.iter().enumerate().take(seen.div_ceil(head.block)) {
        let start = index * head.block;
        let count = (seen - start).min(head.block);
        let part = &head.part_of(head.values, id)[..count * head.head_dim];
        let mut weights: [&[f32]; R] = [&[]; R];
        for (r, weights) in weights.iter_mut().enumerate() {
            *weights = &scores[r * stride + start..][..count];
        }
        let next = table.get(index + 1).filter(|_| R <= FEW);
        let next = next.map(|&id| head.part_of(head.values, id).as_ptr().wrapping_add(first));
        for at in 0..count {
            if let Some(next) = next {
                for line in 0..(V * LANES * size_of::<C>()).div_ceil(64) {
                    let ahead = next.wrapping_add(at * head.head_dim).cast::<i8>();
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line * 64));
                }
            }
            for v in 0..V {
                // SAFETY: within the key's row of the part.
                let values = unsafe { C::widen(part.as_ptr().add(at * head.head_dim + first + v * LANES)) };
                for r in 0..R {
                    let weight = _mm512_set1_ps(weights[r][at]);
                    sums[r][v] = _mm512_fmadd_ps(weight, values, sums[r][v]);
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let total = _mm512_set1_ps(totals[r]);
        for (v, &sums) in sums.iter().enumerate() {
            let to = &mut outputs[r * head.head_dim + first + v * LANES..][..LANES];
            // SAFETY: sixteen elements.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), _mm512_div_ps(sums, total)) };
        }
    }
}
