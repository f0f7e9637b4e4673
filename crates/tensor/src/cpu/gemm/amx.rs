//! The tile of Intel's matrix extension: one band of 16 × 32 sums.
//!
//! The left panel is `[steps][16 rows][16 units]`, filled up with zeros to whole steps of 16 units (32 elements of the inner
//! dimension), so that a step's rows lie in one piece; the right panel is `[units][32 columns]`, as everywhere.

use super::super::amx::{self, BAND, SIDE, Strides, add_steps, start_band, store_band};
use std::arch::x86_64::*;

/// Rows and columns of the tile.
pub(super) const ROWS: usize = SIDE;
pub(super) const COLS: usize = BAND;
/// f32 from one tile to the next: not half a page, or loads of one would wait for stores to another.
pub(super) const TILE: usize = ROWS * COLS + SIDE;
/// Cache lines of the next right panel that a step brings nearer.
pub(super) const LINES_AHEAD: usize = amx::LINES_AHEAD;

/// # Safety
/// As `Microkernel::tile`, with the left panel as above; this thread's tile registers are set up
/// ([`super::super::amx::Tiles`]).
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn tile(
    units: usize,
    a: *const u32,
    b: *const u32,
    top: *mut f32,
    continued: bool,
    joins: usize,
    ahead: *const u8,
) {
    const ROW: usize = 4 * COLS;
    const STRIDES: Strides =
        Strides { left_row: 4 * SIDE, left_step: 4 * SIDE * ROWS, right_row: ROW, right_step: SIDE * ROW };
    let (steps, tail) = (units / SIDE, units % SIDE);
    // SAFETY: the operands hold `units`, the left one in whole steps; `top` is a whole tile.
    unsafe {
        start_band(top, ROW, continued);
        add_steps(steps, a, b, STRIDES, ahead);
        if tail > 0 {
            let mut rest = Rest([[0; COLS]; SIDE]);
            let from = b.add(steps * SIDE * COLS);
            std::ptr::copy_nonoverlapping(from, rest.0.as_mut_ptr().cast(), tail * COLS);
            add_steps(1, a.add(steps * SIDE * ROWS), rest.0.as_ptr().cast(), STRIDES, ahead);
        }
        store_band(top, ROW);
        match joins {
            0 => {}
            1 => join::<1>(top),
            2 => join::<2>(top),
            3 => join::<3>(top),
            4 => join::<4>(top),
            _ => (1..=joins).for_each(|joined| join::<1>(top.sub((joined - 1) * TILE))),
        }
    }
}

/// The right operand of a last step that is not whole, zeros behind it.
#[repr(align(64))]
struct Rest([[u32; COLS]; SIDE]);

/// Adds the `JOINS` tiles below `top` to it, the nearest first, in place of the lowest.
///
/// # Safety
/// `JOINS` tiles lie before `top`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn join<const JOINS: usize>(top: *mut f32) {
    for at in (0..ROWS * COLS).step_by(SIDE) {
        // SAFETY: inside the tiles, by the contract.
        unsafe {
            let mut sum = _mm512_loadu_ps(top.add(at));
            for joined in 1..=JOINS {
                sum = _mm512_add_ps(_mm512_loadu_ps(top.sub(joined * TILE).add(at)), sum);
            }
            _mm512_storeu_ps(top.sub(JOINS * TILE).add(at), sum);
        }
    }
}

/// `rounds` steps on registers alone.
///
/// # Safety
/// The tile registers are set up.
pub(in super::super) unsafe fn spin(rounds: usize) {
    // SAFETY: touches no memory; the registers are set up.
    unsafe {
        std::arch::asm!(
            "tilezero tmm4",
            "tilezero tmm5",
            "tilezero tmm6",
            "tilezero tmm7",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            rounds = inout(reg) rounds.max(1) => _,
            options(nostack, nomem)
        );
    }
}
