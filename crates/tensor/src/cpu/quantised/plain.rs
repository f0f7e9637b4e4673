//! The product's tile in plain Rust, for machines without integer dot products.

use super::super::isa::Isa;
use super::activations::Activations;
use super::layout::{Form, LANES, Weights};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// See [`super::tile`].
pub(super) fn tile(
    isa: Isa,
    form: Form,
    weights: &Weights<'_>,
    rounded: &Activations<'_>,
    (first, rows): (usize, usize),
    panels: usize,
    values: &mut [f32],
) {
    for row in 0..rows {
        for panel in 0..panels {
            let to = &mut values[(row * panels + panel) * LANES..][..LANES];
            match isa {
                // On x86-64 without FMA a fused multiply-add would call a library.
                Isa::Portable => {
                    let sums =
                        one::<{ cfg!(target_arch = "aarch64") }>(form, weights, rounded, first + row, panel);
                    to.copy_from_slice(&sums);
                }
                #[cfg(target_arch = "x86_64")]
                _ => isa.vectorize(
                    #[inline(always)]
                    || to.copy_from_slice(&one::<true>(form, weights, rounded, first + row, panel)),
                ),
            }
        }
    }
}

/// One row, one panel.
#[inline(always)]
fn one<const FUSED: bool>(
    form: Form,
    weights: &Weights<'_>,
    rounded: &Activations<'_>,
    row: usize,
    panel: usize,
) -> [f32; LANES] {
    let multiply_add = |a: f32, b: f32, c: f32| if FUSED { a.mul_add(b, c) } else { a * b + c };
    let Activations { groups, parts, .. } = *rounded;
    let mut sums = [0.0f32; LANES];
    for group in 0..groups {
        // SAFETY: a group's codes and numbers lie in the matrix, whose size is checked when it is made.
        let codes =
            unsafe { std::slice::from_raw_parts(weights.codes(form, group, panel), form.code_bytes()) };
        let x = &rounded.codes[(row * groups + group) * 32..][..32];
        let scale = rounded.scales[row * groups + group];
        for part in 0..parts {
            let at = (row * groups + group) * parts + part;
            let mut products = [-form.zero * rounded.counts[at] as i32; LANES];
            for quad in part * 8 / parts..(part + 1) * 8 / parts {
                let mut four = [0i32; 4];
                for b in 0..4 {
                    four[b] = i32::from(x[quad * 4 + b] as i8);
                }
                let bytes = &codes[if form.nibbles { quad / 2 } else { quad } * 64..][..64];
                let shift = if form.nibbles { 4 * (quad % 2) } else { 0 };
                let mask = if form.nibbles { 15 } else { 255 };
                for (sum, bytes) in products.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    for b in 0..4 {
                        *sum += four[b] * i32::from(bytes[b] >> shift & mask);
                    }
                }
            }
            let scales = numbers(form, weights.numbers(form, group, part, 0, panel));
            for l in 0..LANES {
                sums[l] = multiply_add(products[l] as f32, scales[l] * scale, sums[l]);
            }
            if form.minima {
                let minima = numbers(form, weights.numbers(form, group, part, 1, panel));
                for l in 0..LANES {
                    sums[l] = multiply_add(minima[l], rounded.sums[at], sums[l]);
                }
            }
        }
    }
    sums
}

#[inline(always)]
fn numbers(form: Form, at: *const u8) -> [f32; LANES] {
    let mut values = [0.0f32; LANES];
    if form.halves {
        // SAFETY: sixteen numbers of the matrix, which lie on even addresses.
        unsafe { &*at.cast::<[f16; LANES]>() }.convert_to_f32_slice(&mut values);
    } else {
        // SAFETY: as above, on addresses divisible by four.
        values = unsafe { at.cast::<[f32; LANES]>().read() };
    }
    values
}
