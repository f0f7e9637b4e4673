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

/// Whether tiles of bf16 can be multiplied here. The first call asks the system for leave to use them, which holds
/// for all threads of the process.
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| cfg!(target_os = "linux") && has_instructions() && has_leave())
}

fn has_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & (BF16 | TILE) == BF16 | TILE
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

/// This thread's tile registers, all eight of 16 rows × 64 bytes, until dropped.
pub(super) struct Tiles(());

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// # Safety
    /// [`available`] said so.
    pub(super) unsafe fn new() -> Self {
        static ALL_FULL: Configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
            rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
        };
        // SAFETY: reads 64 bytes; the machine has the instruction and the system's leave by the contract.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const ALL_FULL, options(nostack, readonly)) };
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
