//! The product's tile with integer dot products of 64 bytes (AVX-512 VNNI).
//!
//! `vpdpbusd` multiplies unsigned codes by signed activations, four neighbours of the inner dimension at once,
//! and adds them to one of 16 sums: R rows × P panels of sums stay in registers for a group.

use super::activations::Activations;
use super::layout::{Form, LANES, Weights};
use std::arch::x86_64::*;

/// Groups of 32 that are brought nearer before they are read.
const AHEAD: usize = 6;
/// Rows of tiles that are made of few rows.
const FEW: usize = 4;
/// Bytes of a cache line.
const LINE: usize = 64;

/// What a coding's kernel is compiled for; see [`Form`].
trait Kind {
    const FORM: Form;
}

macro_rules! kinds {
    ($($name:ident: $nibbles:literal $halves:literal $parts:literal $minima:literal;)*) => {
        $(
            struct $name;
            impl Kind for $name {
                const FORM: Form =
                    Form { nibbles: $nibbles, halves: $halves, parts: $parts, minima: $minima, zero: 0 };
            }
        )*

        /// See [`super::tile`].
        ///
        /// # Safety
        /// The machine has AVX-512 with VNNI; rows and panels lie in the operands.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
        pub(super) unsafe fn tile(
            form: Form,
            weights: &Weights<'_>,
            rounded: &Activations<'_>,
            rows: (usize, usize),
            panels: usize,
            values: &mut [f32],
        ) {
            assert_eq!(values.len(), rows.1 * panels * LANES);
            let zero = form.zero;
            match (form.nibbles, form.halves, form.parts, form.minima) {
                // SAFETY: passed on.
                $(($nibbles, $halves, $parts, $minima) => unsafe {
                    sized::<$name>(zero, weights, rounded, rows, panels, values)
                },)*
                _ => unreachable!("no coding has {form:?}"),
            }
        }
    };
}

kinds! {
    Nibbles: true true 1 false;
    NibblesMinima: true true 1 true;
    WideNibblesMinima: true false 1 true;
    Bytes: false true 1 false;
    BytesMinima: false true 1 true;
    WideBytesMinima: false false 1 true;
    Halves: false false 2 false;
    HalvesMinima: false false 2 true;
}

/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn sized<K: Kind>(
    zero: i32,
    weights: &Weights<'_>,
    rounded: &Activations<'_>,
    (first, rows): (usize, usize),
    panels: usize,
    values: &mut [f32],
) {
    // SAFETY: passed on.
    unsafe {
        match (rows, panels) {
            (1, 4) => fixed::<K, 1, 4>(zero, weights, rounded, first, values),
            (2, 4) => fixed::<K, 2, 4>(zero, weights, rounded, first, values),
            (1, 2) => fixed::<K, 1, 2>(zero, weights, rounded, first, values),
            (2, 2) => fixed::<K, 2, 2>(zero, weights, rounded, first, values),
            (4, 2) => fixed::<K, 4, 2>(zero, weights, rounded, first, values),
            (6, 2) => fixed::<K, 6, 2>(zero, weights, rounded, first, values),
            other => unreachable!("no tile has (rows, panels) {other:?}"),
        }
    }
}

/// # Safety
/// As [`tile`], with R rows and P panels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn fixed<K: Kind, const R: usize, const P: usize>(
    zero: i32,
    weights: &Weights<'_>,
    rounded: &Activations<'_>,
    first: usize,
    values: &mut [f32],
) {
    let form = K::FORM;
    let groups = rounded.groups;
    let mut sums = [[_mm512_setzero_ps(); P]; R];
    let x: [*const i32; R] =
        std::array::from_fn(|r| rounded.codes[(first + r) * groups * 32..][..groups * 32].as_ptr().cast());
    let scales: [*const f32; R] =
        std::array::from_fn(|r| rounded.scales[(first + r) * groups..][..groups].as_ptr());
    let of_parts = |r: usize| (first + r) * groups * form.parts..(first + r + 1) * groups * form.parts;
    let counts: [*const u32; R] = std::array::from_fn(|r| rounded.counts[of_parts(r)].as_ptr());
    let x_sums: [*const f32; R] = std::array::from_fn(|r| rounded.sums[of_parts(r)].as_ptr());
    let low = _mm512_set1_epi8(15);
    for group in 0..groups {
        // Few rows wait for the weights' way from memory: a machine's own guesses end with each page, and where a
        // stream is two.
        if R <= FEW {
            let [codes, numbers] = weights.ahead(group + AHEAD, groups);
            for line in 0..P * form.code_bytes() / LINE {
                _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(line * LINE).cast());
            }
            for line in 0..weights.number_bytes() / LINE {
                _mm_prefetch::<_MM_HINT_T0>(numbers.wrapping_add(line * LINE).cast());
            }
        }
        for part in 0..form.parts {
            let at = group * form.parts + part;
            let mut products = [[_mm512_setzero_si512(); P]; R];
            // Codings with minima have no code that stands for nothing else.
            for r in 0..if form.minima { 0 } else { R } {
                // SAFETY: the row's counts, one for each part of each group.
                let count = unsafe { counts[r].add(at).read() } as i32;
                products[r] = [_mm512_set1_epi32(-zero * count); P];
            }
            let quads = 8 / form.parts;
            if form.nibbles {
                for pair in 0..4 {
                    let (mut even, mut odd) = ([_mm512_setzero_si512(); P], [_mm512_setzero_si512(); P]);
                    for p in 0..P {
                        // SAFETY: a panel's codes of this group.
                        let bytes = unsafe {
                            _mm512_loadu_si512(weights.codes(form, group, p).add(pair * 64).cast())
                        };
                        even[p] = _mm512_and_si512(bytes, low);
                        odd[p] = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low);
                    }
                    for r in 0..R {
                        // SAFETY: the row's codes, eight quads for each group.
                        let (a, b) = unsafe {
                            let quad = x[r].add(group * 8 + 2 * pair);
                            (_mm512_set1_epi32(quad.read()), _mm512_set1_epi32(quad.add(1).read()))
                        };
                        for p in 0..P {
                            products[r][p] = _mm512_dpbusd_epi32(products[r][p], even[p], a);
                            products[r][p] = _mm512_dpbusd_epi32(products[r][p], odd[p], b);
                        }
                    }
                }
            } else {
                for quad in part * quads..(part + 1) * quads {
                    let mut codes = [_mm512_setzero_si512(); P];
                    for p in 0..P {
                        // SAFETY: as above.
                        codes[p] = unsafe {
                            _mm512_loadu_si512(weights.codes(form, group, p).add(quad * 64).cast())
                        };
                    }
                    for r in 0..R {
                        // SAFETY: as above.
                        let a = unsafe { _mm512_set1_epi32(x[r].add(group * 8 + quad).read()) };
                        for p in 0..P {
                            products[r][p] = _mm512_dpbusd_epi32(products[r][p], codes[p], a);
                        }
                    }
                }
            }
            for p in 0..P {
                // SAFETY: the panel's sixteen scales and minima.
                let (w, minimum) = unsafe {
                    let minimum = match form.minima {
                        true => numbers(form, weights.numbers(form, group, part, 1, p)),
                        false => _mm512_setzero_ps(),
                    };
                    (numbers(form, weights.numbers(form, group, part, 0, p)), minimum)
                };
                for r in 0..R {
                    // SAFETY: the row's scale of the group and sum of the part.
                    let (scale, sum) = unsafe {
                        (
                            _mm512_set1_ps(scales[r].add(group).read()),
                            _mm512_set1_ps(x_sums[r].add(at).read()),
                        )
                    };
                    let product = _mm512_cvtepi32_ps(products[r][p]);
                    sums[r][p] = _mm512_fmadd_ps(product, _mm512_mul_ps(w, scale), sums[r][p]);
                    if form.minima {
                        sums[r][p] = _mm512_fmadd_ps(minimum, sum, sums[r][p]);
                    }
                }
            }
        }
    }
    for r in 0..R {
        for p in 0..P {
            // SAFETY: `values` holds R · P vectors (asserted by `tile`).
            unsafe { _mm512_storeu_ps(values.as_mut_ptr().add((r * P + p) * LANES), sums[r][p]) };
        }
    }
}

/// # Safety
/// Sixteen numbers lie at `at`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn numbers(form: Form, at: *const u8) -> __m512 {
    // SAFETY: by the contract.
    unsafe {
        match form.halves {
            true => _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())),
            false => _mm512_loadu_ps(at.cast()),
        }
    }
}
