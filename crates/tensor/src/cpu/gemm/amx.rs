//! The tile of Intel's matrix extension: 32 × 32 sums, made in two bands of 16 rows on tile registers.
//!
//! ```text
//!              B  32 columns
//!   A          ┌───────────────────┐     one step = 16 units = 32 elements of the inner dimension;
//!   32 rows    │ band 0            │     the second band finds B in the nearest cache
//!              ├───────────────────┤
//!              │ band 1            │
//!              └───────────────────┘
//! ```
//!
//! The left panel is `[steps][32 rows][16 units]`, filled up with zeros to whole steps, so that a tile lies in
//! one piece; the right panel is `[units][32 columns]`, as everywhere.

use super::super::amx::{self, BAND, SIDE, Strides, add_steps, start_band, store_band};
use std::arch::asm;
use std::arch::x86_64::*;

/// Rows and columns of the tile.
pub(super) const EDGE: usize = 2 * SIDE;
/// f32 from one tile to the next: not a page, or loads of one would wait for stores to the other.
pub(super) const TILE: usize = EDGE * EDGE + SIDE;
/// Cache lines of the next right panel that a step of both bands brings nearer.
pub(super) const LINES_AHEAD: usize = 2 * amx::LINES_AHEAD;

const _: () = assert!(EDGE == BAND, "a panel of the right operand is as wide as a band");

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
    const ROW: usize = 4 * EDGE;
    const STRIDES: Strides =
        Strides { left_row: 4 * SIDE, left_step: 4 * SIDE * EDGE, right_row: ROW, right_step: SIDE * ROW };
    let (steps, tail) = (units / SIDE, units % SIDE);
    // SAFETY: the operands hold `units`, the left one in whole steps; `top` is a whole tile.
    unsafe {
        let mut rest = Rest([[0; EDGE]; SIDE]);
        if tail > 0 {
            let from = b.add(steps * SIDE * EDGE);
            std::ptr::copy_nonoverlapping(from, rest.0.as_mut_ptr().cast(), tail * EDGE);
        }
        for band in 0..2 {
            let (a, top) = (a.add(band * SIDE * SIDE), top.add(band * SIDE * EDGE));
            let ahead = ahead.wrapping_add(band * steps * amx::LINES_AHEAD * 64);
            start_band(top, ROW, continued);
            add_steps(steps, a, b, STRIDES, ahead);
            if tail > 0 {
                add_steps(1, a.add(steps * SIDE * EDGE), rest.0.as_ptr().cast(), STRIDES, ahead);
            }
            store_band(top, ROW);
        }
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
struct Rest([[u32; EDGE]; SIDE]);

/// Adds the `JOINS` tiles below `top` to it, the nearest first, in place of the lowest.
///
/// # Safety
/// `JOINS` tiles lie before `top`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn join<const JOINS: usize>(top: *mut f32) {
    for at in (0..EDGE * EDGE).step_by(SIDE) {
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
        asm!(
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
