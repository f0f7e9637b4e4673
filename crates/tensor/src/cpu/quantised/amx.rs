//! Sixteen rows of the product at a time on tile registers of bytes (AMX-INT8).
//!
//! ```text
//! group of 32      A  16 rows × 32 activations, i8, as they lie
//!                  B  8 quads × 16 outputs × 4 codes, u8, as they lie        C = A · B, i32, exact
//! ```
//! The sums of four groups are stored while the four before are scaled and added, in the order and with the
//! multiply-adds of the kernel for few rows (`vnni.rs`), so that a row has the same bits in both.

use super::super::amx;
use super::activations::Activations;
use super::layout::{Form, LANES, Weights};
use std::arch::asm;
use std::arch::x86_64::*;

/// Rows of a tile.
pub(super) const ROWS: usize = 16;
/// Groups whose sums are made together.
const TOGETHER: usize = 4;
/// i32 of a tile of sums.
const CELLS: usize = ROWS * LANES;

/// 0 and 1 sums, 2 rows of activations, 3 quads of codes; the others stay empty, see [`amx::add_steps`].
static SHAPES: amx::Shapes =
    amx::Shapes::new([(16, 64), (16, 64), (16, 32), (8, 64), (0, 0), (0, 0), (0, 0), (0, 0)]);

/// The tiles of this thread, ready for products until it is dropped, and the sums that they are stored to.
pub(super) struct Tiles {
    sums: [Sums; 2],
    _registers: amx::Tiles,
}

impl Tiles {
    /// # Safety
    /// [`amx::available`] said so.
    pub(super) unsafe fn new() -> Self {
        // SAFETY: passed on; the shapes are within bounds.
        let registers = unsafe { amx::Tiles::new(&SHAPES) };
        Self { sums: [const { Sums([0; TOGETHER * CELLS]) }; 2], _registers: registers }
    }

    /// `values[16][16]` of the rows from `first` on and one panel of 8-bit codes, whose coding has one scale a group.
    ///
    /// # Panics
    /// When the coding has two scales a group or 4-bit codes, or rows are missing.
    pub(super) fn product(
        &mut self,
        form: Form,
        weights: &Weights<'_>,
        rounded: &Activations<'_>,
        first: usize,
        panel: usize,
        values: &mut [f32; CELLS],
    ) {
        assert!(form.parts == 1 && !form.nibbles, "tiles for {form:?}");
        assert!(rounded.codes.len() >= (first + ROWS) * rounded.groups * 32, "rows from {first} on");
        // SAFETY: devices that run on tiles run on AVX-512 too; the rows are there (asserted), and so are the panel's
        // codes and numbers of every group.
        unsafe {
            match (form.halves, form.minima) {
                (true, true) => panel_of::<true, true>(
                    form.zero,
                    weights,
                    rounded,
                    (first, panel),
                    &mut self.sums,
                    values,
                ),
                (true, false) => panel_of::<true, false>(
                    form.zero,
                    weights,
                    rounded,
                    (first, panel),
                    &mut self.sums,
                    values,
                ),
                (false, true) => panel_of::<false, true>(
                    form.zero,
                    weights,
                    rounded,
                    (first, panel),
                    &mut self.sums,
                    values,
                ),
                (false, false) => panel_of::<false, false>(
                    form.zero,
                    weights,
                    rounded,
                    (first, panel),
                    &mut self.sums,
                    values,
                ),
            }
        }
    }
}

/// Sums of [`TOGETHER`] groups.
#[repr(C, align(64))]
struct Sums([i32; TOGETHER * CELLS]);

/// # Safety
/// The tiles have [`SHAPES`]; the machine has AVX-512; sixteen rows lie behind `first`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn panel_of<const HALVES: bool, const MINIMA: bool>(
    zero: i32,
    weights: &Weights<'_>,
    rounded: &Activations<'_>,
    (first, panel): (usize, usize),
    sums: &mut [Sums; 2],
    values: &mut [f32; CELLS],
) {
    let form = Form { nibbles: false, halves: HALVES, parts: 1, minima: MINIMA, zero };
    let groups = rounded.groups;
    let mut totals = [_mm512_setzero_ps(); ROWS];
    let (scales, x_sums) = (&rounded.scales[first * groups..], &rounded.sums[first * groups..]);
    let counts = &rounded.counts[first * groups..];
    let blocks = groups.div_ceil(TOGETHER);
    for block in 0..=blocks {
        if block < blocks {
            // SAFETY: passed on; groups beyond the last are made from the last and not read.
            unsafe { integers(form, weights, rounded, first, panel, block, &mut sums[block % 2]) };
        }
        let Some(block) = block.checked_sub(1) else { continue };
        let of_block = &sums[block % 2].0;
        for (index, group) in (block * TOGETHER..groups.min((block + 1) * TOGETHER)).enumerate() {
            // SAFETY: the panel's sixteen scales and minima of the group.
            let (w, minimum) = unsafe {
                (
                    numbers::<HALVES>(weights.numbers(form, group, 0, 0, panel)),
                    match MINIMA {
                        true => numbers::<HALVES>(weights.numbers(form, group, 0, 1, panel)),
                        false => _mm512_setzero_ps(),
                    },
                )
            };
            for row in 0..ROWS {
                let at = row * groups + group;
                // SAFETY: the row's sixteen sums of the group; its scale, count and sum (sixteen rows of `groups`).
                let (product, scale, sum, count) = unsafe {
                    (
                        _mm512_load_si512(of_block.as_ptr().add(index * CELLS + row * LANES).cast()),
                        _mm512_set1_ps(*scales.get_unchecked(at)),
                        _mm512_set1_ps(*x_sums.get_unchecked(at)),
                        *counts.get_unchecked(at) as i32,
                    )
                };
                let product = match zero {
                    0 => product,
                    zero => _mm512_sub_epi32(product, _mm512_set1_epi32(zero * count)),
                };
                let product = _mm512_cvtepi32_ps(product);
                totals[row] = _mm512_fmadd_ps(product, _mm512_mul_ps(w, scale), totals[row]);
                if MINIMA {
                    totals[row] = _mm512_fmadd_ps(minimum, sum, totals[row]);
                }
            }
        }
    }
    for (to, total) in values.as_chunks_mut::<LANES>().0.iter_mut().zip(totals) {
        // SAFETY: sixteen elements.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), total) };
    }
}

/// Exact sums of four groups of 32.
///
/// # Safety
/// As [`panel_of`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn integers(
    form: Form,
    weights: &Weights<'_>,
    rounded: &Activations<'_>,
    first: usize,
    panel: usize,
    block: usize,
    sums: &mut Sums,
) {
    let groups = rounded.groups;
    let group = |index: usize| (block * TOGETHER + index).min(groups - 1);
    let rows = |index: usize| rounded.codes.as_ptr().wrapping_add((first * groups + group(index)) * 32);
    for row in ROWS..2 * ROWS {
        // The same groups of the rows that come next: a step from row to row is too long for the machine to guess.
        let ahead = rows(0).wrapping_add(row * groups * 32).cast::<i8>();
        _mm_prefetch::<_MM_HINT_T0>(ahead);
        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64));
    }
    let codes = |index: usize| weights.codes(form, group(index), panel);
    // SAFETY: a tile of rows reads 32 bytes of each of sixteen rows, one of codes the 512 bytes of a panel's group;
    // the sums are four tiles.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tileloadd tmm2, [{x0} + {step}]",
            "tileloadd tmm3, [{c0} + {line}]",
            "tdpbsud tmm0, tmm2, tmm3",
            "tilezero tmm1",
            "tileloadd tmm2, [{x1} + {step}]",
            "tileloadd tmm3, [{c1} + {line}]",
            "tdpbsud tmm1, tmm2, tmm3",
            "tilestored [{to} + {line}], tmm0",
            "tilestored [{to} + {line} + 1024], tmm1",
            "tilezero tmm0",
            "tileloadd tmm2, [{x2} + {step}]",
            "tileloadd tmm3, [{c2} + {line}]",
            "tdpbsud tmm0, tmm2, tmm3",
            "tilezero tmm1",
            "tileloadd tmm2, [{x3} + {step}]",
            "tileloadd tmm3, [{c3} + {line}]",
            "tdpbsud tmm1, tmm2, tmm3",
            "tilestored [{to} + {line} + 2048], tmm0",
            "tilestored [{to} + {line} + 3072], tmm1",
            x0 = in(reg) rows(0),
            x1 = in(reg) rows(1),
            x2 = in(reg) rows(2),
            x3 = in(reg) rows(3),
            c0 = in(reg) codes(0),
            c1 = in(reg) codes(1),
            c2 = in(reg) codes(2),
            c3 = in(reg) codes(3),
            to = in(reg) sums.0.as_mut_ptr(),
            step = in(reg) groups * 32,
            line = in(reg) 4 * LANES,
            out("tmm0") _,
            out("tmm1") _,
            out("tmm2") _,
            out("tmm3") _,
            options(nostack),
        );
    }
}

/// # Safety
/// Sixteen numbers lie at `at`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn numbers<const HALVES: bool>(at: *const u8) -> __m512 {
    // SAFETY: by the contract.
    unsafe {
        match HALVES {
            true => _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())),
            false => _mm512_loadu_ps(at.cast()),
        }
    }
}
