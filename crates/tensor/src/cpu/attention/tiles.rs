//! Block products of bf16 pairs on tile registers: 32 × 32 sums at a time, read from the same packed operands as by
//! `vdpbf16ps`.
//!
//! ```text
//! left [rows][inner]     tile: 16 rows × 16 units, from row to row `inner` units
//! right [inner][lanes]   tile: 16 units × 16 lanes, from unit to unit `lanes` units
//! ```

use super::super::amx::{SIDE, start_sums, store_sums};
use std::arch::asm;

/// Rows and lanes of the sums that are made at a time.
const EDGE: usize = 2 * SIDE;

/// Whether blocks of this size consist of whole tiles.
pub(super) const fn fit(rows: usize, inner: usize, lanes: usize) -> bool {
    rows.is_multiple_of(EDGE) && lanes.is_multiple_of(EDGE) && inner.is_multiple_of(SIDE) && inner > 0
}

/// `out[rows][lanes] (+)= left[rows][inner] · right[inner][lanes]`, all dense.
///
/// # Safety
/// This thread's tile registers are set up.
pub(super) unsafe fn product(
    left: &[u32],
    right: &[u32],
    out: &mut [f32],
    inner: usize,
    lanes: usize,
    accumulate: bool,
) {
    let rows = out.len() / lanes;
    assert!(fit(rows, inner, lanes) && out.len() == rows * lanes, "{} sums in rows of {lanes}", out.len());
    assert!(
        left.len() >= rows * inner && right.len() >= inner * lanes,
        "operands of {rows} x {inner} x {lanes}"
    );
    for lane in (0..lanes).step_by(EDGE) {
        for row in (0..rows).step_by(EDGE) {
            // SAFETY: whole tiles inside the operands and the output (asserted).
            unsafe {
                let out = out.as_mut_ptr().add(row * lanes + lane);
                square(
                    left.as_ptr().add(row * inner),
                    right.as_ptr().add(lane),
                    out,
                    inner,
                    lanes,
                    accumulate,
                );
            }
        }
    }
}

/// 32 × 32 sums.
///
/// # Safety
/// They and what they are made of lie inside the operands and the output; the tile registers are set up.
unsafe fn square(
    left: *const u32,
    right: *const u32,
    out: *mut f32,
    inner: usize,
    lanes: usize,
    accumulate: bool,
) {
    let (left_row, right_row) = (4 * inner, 4 * lanes);
    // SAFETY: by the contract; compiled code does not use tile registers.
    unsafe {
        start_sums(out, right_row, accumulate);
        asm!(
            "2:",
            "tileloadd tmm4, [{left} + {left_row}]",
            "tileloadd tmm6, [{right} + {right_row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{right} + {right_row} + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{below} + {left_row}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {left}, 64",
            "add {below}, 64",
            "add {right}, {step}",
            "dec {steps}",
            "jnz 2b",
            left = inout(reg) left => _,
            below = inout(reg) left.add(SIDE * inner) => _,
            right = inout(reg) right => _,
            left_row = in(reg) left_row,
            right_row = in(reg) right_row,
            step = in(reg) SIDE * right_row,
            steps = inout(reg) inner / SIDE => _,
            options(nostack, readonly)
        );
        store_sums(out, right_row);
    }
}
