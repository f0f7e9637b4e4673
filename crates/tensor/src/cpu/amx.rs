//! Intel's matrix extension: whether this machine and its system let us use it, and a thread's tile registers.
//!
//! There are eight tile registers of 16 rows × 64 bytes. `tdpbf16ps` multiplies 16 rows of 16 bf16 pairs with 16 pairs of
//! 16 columns and adds to 16 × 16 f32, which is sixteen times the arithmetic of a vector instruction. The standard
//! library has no stable intrinsics for them, so the few instructions are written out.
//!
//! Source: Intel Architecture Instruction Set Extensions Programming Reference, chapter 3; Linux `Documentation/arch/x86/xstate.rst`.

use std::arch::asm;
use std::sync::OnceLock;

/// Rows of a tile, and units of 4 bytes in each of its rows.
pub(super) const SIDE: usize = 16;

/// Whether tiles of bf16 and of bytes can be multiplied here. The first call asks the system for leave to use them, which holds
/// for all threads of the process.
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| cfg!(target_os = "linux") && has_instructions() && has_leave())
}

fn has_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    /// Leaf 7, EDX: products of bf16, tiles, and products of bytes on them.
    const NEEDED: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & NEEDED == NEEDED
}

/// Linux saves the 8 KiB of tile registers only for processes that asked for them.
fn has_leave() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: a system call that touches no memory of ours; systems that don't know it say so.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL as isize => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    result == 0
}

/// How the eight tile registers are used: the operand of `ldtilecfg`.
#[repr(C, align(64))]
pub(super) struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// Rows and bytes of a row of each register; at most 16 and 64.
    pub(super) const fn new(of_registers: [(u8, u16); 8]) -> Self {
        let mut shapes =
            Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let mut register = 0;
        while register < of_registers.len() {
            (shapes.rows[register], shapes.row_bytes[register]) = of_registers[register];
            register += 1;
        }
        shapes
    }

    /// All of them as large as they can be.
    pub(super) const FULL: Self = Self::new([(16, 64); 8]);
}

/// This thread's tile registers, in some shapes until dropped.
pub(super) struct Tiles(());

impl Tiles {
    /// # Safety
    /// [`available`] said so, and the shapes are within the registers' bounds.
    pub(super) unsafe fn new(shapes: &'static Shapes) -> Self {
        // SAFETY: reads 64 bytes; the machine has the instruction and the system's leave by the contract.
        unsafe { asm!("ldtilecfg [{}]", in(reg) shapes, options(nostack, readonly)) };
        Self(())
    }
}

impl Drop for Tiles {
    /// Tiles in their first state cost nothing when threads are switched.
    fn drop(&mut self) {
        // SAFETY: a value of this type exists only where the instruction does.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Columns of a band of sums.
pub(super) const BAND: usize = 2 * SIDE;

/// Makes the first two registers a band of 16 × 32 sums: those at `from`, whose rows lie `stride` bytes apart, or zeros.
///
/// # Safety
/// The registers have [`Shapes::FULL`]; the sums are readable.
#[inline(always)]
pub(super) unsafe fn start_band(from: *const f32, stride: usize, continued: bool) {
    // SAFETY: by the contract; compiled code does not use tile registers.
    unsafe {
        if continued {
            asm!(
                "tileloadd tmm0, [{from} + {stride}]",
                "tileloadd tmm1, [{from} + {stride} + 64]",
                from = in(reg) from,
                stride = in(reg) stride,
                options(nostack, readonly)
            );
        } else {
            asm!("tilezero tmm0", "tilezero tmm1", options(nostack, nomem));
        }
    }
}

/// Writes the band that the first two registers hold to `to`, with rows `stride` bytes apart.
///
/// # Safety
/// As [`start_band`], and the sums are writable.
#[inline(always)]
pub(super) unsafe fn store_band(to: *mut f32, stride: usize) {
    // SAFETY: by the contract.
    unsafe {
        asm!(
            "tilestored [{to} + {stride}], tmm0",
            "tilestored [{to} + {stride} + 64], tmm1",
            to = in(reg) to,
            stride = in(reg) stride,
            options(nostack)
        );
    }
}

/// Where the operands of a band lie, in bytes: from one row of a tile to the next, and from one step of 16 units to the next.
#[derive(Clone, Copy)]
pub(super) struct Strides {
    pub(super) left_row: usize,
    pub(super) left_step: usize,
    pub(super) right_row: usize,
    pub(super) right_step: usize,
}

/// Cache lines at `ahead` that each step of [`add_steps`] brings nearer.
pub(super) const LINES_AHEAD: usize = 2;

/// Adds `steps` products of 16 × 16 units and 16 × 32 units to the band.
///
/// ```text
///              right  16 units × 32 columns, one tile after the other in the same register
///   left       ┌─────────┬─────────┐
///   16 rows    │ tmm0    │ tmm1    │     2 multiplications of 16 × 16 × 32 elements, 3 loads
///              └─────────┴─────────┘
/// ```
/// Four tiles of sums would need two loads fewer for four products. But a core whose sibling thread is busy has hardly any
/// registers left to rename tiles to, and the more of the eight hold something, the longer each waits for the one before: a
/// product with its loads takes 32 ns with all eight in use, 22 with seven and 14 with the four used here, against 7.4 each on a
/// core of one's own (Sapphire Rapids, 2.2 GHz).
///
/// # Safety
/// The operands hold that many steps; the registers have [`Shapes::FULL`] and hold a band. Prefetches may go anywhere.
#[inline(always)]
pub(super) unsafe fn add_steps(
    steps: usize,
    left: *const u32,
    right: *const u32,
    strides: Strides,
    ahead: *const u8,
) {
    if steps == 0 {
        return;
    }
    // SAFETY: by the contract; compiled code does not use tile registers.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm2, [{left} + {left_row}]",
            "tileloadd tmm3, [{right} + {right_row}]",
            "prefetcht1 [{ahead}]",
            "tdpbf16ps tmm0, tmm2, tmm3",
            "tileloadd tmm3, [{right} + {right_row} + 64]",
            "prefetcht1 [{ahead} + 64]",
            "tdpbf16ps tmm1, tmm2, tmm3",
            "add {left}, {left_step}",
            "add {right}, {right_step}",
            "add {ahead}, 128",
            "dec {steps}",
            "jnz 2b",
            left = inout(reg) left => _,
            right = inout(reg) right => _,
            ahead = inout(reg) ahead => _,
            steps = inout(reg) steps => _,
            left_row = in(reg) strides.left_row,
            left_step = in(reg) strides.left_step,
            right_row = in(reg) strides.right_row,
            right_step = in(reg) strides.right_step,
            options(nostack, readonly)
        );
    }
}
