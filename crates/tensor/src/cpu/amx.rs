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

/// Makes the first four registers the sums of 32 × 32: those at `from`, whose rows lie `stride` bytes apart, or zeros.
///
/// # Safety
/// The registers have [`Shapes::FULL`]; the sums are readable.
#[inline(always)]
pub(super) unsafe fn start_sums(from: *const f32, stride: usize, continued: bool) {
    // SAFETY: by the contract; compiled code does not use tile registers.
    unsafe {
        if continued {
            asm!(
                "tileloadd tmm0, [{from} + {stride}]",
                "tileloadd tmm1, [{from} + {stride} + 64]",
                "tileloadd tmm2, [{below} + {stride}]",
                "tileloadd tmm3, [{below} + {stride} + 64]",
                from = in(reg) from,
                below = in(reg) from.byte_add(SIDE * stride),
                stride = in(reg) stride,
                options(nostack, readonly)
            );
        } else {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
        }
    }
}

/// Writes the sums that the first four registers hold to `to`, with rows `stride` bytes apart.
///
/// # Safety
/// As [`start_sums`], and they are writable.
#[inline(always)]
pub(super) unsafe fn store_sums(to: *mut f32, stride: usize) {
    // SAFETY: by the contract.
    unsafe {
        asm!(
            "tilestored [{to} + {stride}], tmm0",
            "tilestored [{to} + {stride} + 64], tmm1",
            "tilestored [{below} + {stride}], tmm2",
            "tilestored [{below} + {stride} + 64], tmm3",
            to = in(reg) to,
            below = in(reg) to.byte_add(SIDE * stride),
            stride = in(reg) stride,
            options(nostack)
        );
    }
}
