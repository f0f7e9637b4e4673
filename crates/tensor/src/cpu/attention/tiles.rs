//! Block products of bf16 pairs on tile registers: 16 × 32 sums at a time, read from the same packed operands as by
//! `vdpbf16ps`.
//!
//! ```text
//! left [rows][inner]     tile: 16 rows × 16 units, from row to row `inner` units
//! right [inner][lanes]   tile: 16 units × 16 lanes, from unit to unit `lanes` units
//! ```

use super::super::amx::{BAND, SIDE, Strides, add_steps, start_band, store_band};

/// Whether blocks of this size consist of whole tiles.
pub(super) const fn fit(rows: usize, inner: usize, lanes: usize) -> bool {
    rows.is_multiple_of(SIDE) && lanes.is_multiple_of(BAND) && inner.is_multiple_of(SIDE) && inner > 0
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
    let strides = Strides {
        left_row: 4 * inner,
        left_step: 4 * SIDE,
        right_row: 4 * lanes,
        right_step: 4 * SIDE * lanes,
    };
    for lane in (0..lanes).step_by(BAND) {
        for row in (0..rows).step_by(SIDE) {
            // SAFETY: whole tiles inside the operands and the output (asserted).
            unsafe {
                let out = out.as_mut_ptr().add(row * lanes + lane);
                let (left, right) = (left.as_ptr().add(row * inner), right.as_ptr().add(lane));
                start_band(out, strides.right_row, accumulate);
                // What comes next is in reach: these blocks live in the nearest caches.
                add_steps(inner / SIDE, left, right, strides, left.cast());
                store_band(out, strides.right_row);
            }
        }
    }
}
