//! The register tile of Intel's matrix extension: 32 × 32 sums in four tile registers.
//!
//! ```text
//!              B  32 columns = 2 tiles
//!   A          ┌─────────┬─────────┐      one step = 16 units = 32 elements of the inner dimension:
//!   32 rows    │ tmm0    │ tmm1    │      4 loads, 4 multiplications of 16 × 16 × 32
//!   = 2 tiles  ├─────────┼─────────┤
//!              │ tmm2    │ tmm3    │
//!              └─────────┴─────────┘
//! ```
//!
//! The left panel is `[steps][32 rows][16 units]`, filled up with zeros to whole steps, so that a tile lies in
//! one piece; the right panel is `[units][32 columns]`, as everywhere.

use super::super::amx::{SIDE, start_sums, store_sums};
use std::arch::asm;
use std::arch::x86_64::*;

/// Rows and columns of the register tile.
pub(super) const EDGE: usize = 2 * SIDE;
/// f32 from one tile to the next: not a page, or loads of one would wait for stores to the other.
pub(super) const TILE: usize = EDGE * EDGE + SIDE;
/// Cache lines of the next right panel that a step brings nearer.
pub(super) const LINES_AHEAD: usize = 4;

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
    let (steps, tail) = (units / SIDE, units % SIDE);
    // SAFETY: the operands hold `units`, the left one in whole steps; `top` is a whole tile.
    unsafe {
        start_sums(top, 4 * EDGE, continued);
        run(steps, a, b, ahead);
        if tail > 0 {
            let mut rest = Rest([[0; EDGE]; SIDE]);
            let from = b.add(steps * SIDE * EDGE);
            std::ptr::copy_nonoverlapping(from, rest.0.as_mut_ptr().cast(), tail * EDGE);
            run(1, a.add(steps * SIDE * EDGE), rest.0.as_ptr().cast(), ahead);
        }
        store_sums(top, 4 * EDGE);
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

/// Adds `steps` steps to the four tiles of sums.
///
/// # Safety
/// The operands hold that many steps; the tile registers are set up and hold sums.
#[inline(always)]
unsafe fn run(steps: usize, a: *const u32, b: *const u32, ahead: *const u8) {
    if steps == 0 {
        return;
    }
    // SAFETY: reads the steps of both operands, by the contract; prefetches may go anywhere. Tile registers are
    // not used by compiled code.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm4, [{a} + {near}]",
            "tileloadd tmm6, [{b} + {far}]",
            "prefetcht1 [{ahead}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b} + {far} + 64]",
            "prefetcht1 [{ahead} + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a} + {near} + 1024]",
            "prefetcht1 [{ahead} + 128]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "prefetcht1 [{ahead} + 192]",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 2048",
            "add {b}, 2048",
            "add {ahead}, 256",
            "dec {steps}",
            "jnz 2b",
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            ahead = inout(reg) ahead => _,
            steps = inout(reg) steps => _,
            near = in(reg) 4 * SIDE,
            far = in(reg) 4 * EDGE,
            options(nostack, readonly)
        );
    }
}

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
