//! Which instructions the machine has, and compiling a loop for them.
//!
//! Element-wise code is written once as plain loops; [`Isa::vectorize`] compiles the same closure for each
//! instruction set and picks one at run time. The closure and everything called inside must be `#[inline(always)]`.

use super::UnsupportedKernel;

/// Which micro-kernels the device uses for matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kernel {
    /// The best the machine has.
    #[default]
    Auto,
    /// bf16 products on Intel's tile registers; other dtypes use the `Avx512` kernels.
    Amx,
    /// bf16 dot products, 512 bits wide; other dtypes use the `Avx512` kernels.
    Avx512Bf16,
    /// f32 arithmetic, 512 bits wide; bf16 and f16 are converted while packing.
    Avx512,
    /// f32 arithmetic, 256 bits wide.
    Avx2,
    /// f32 arithmetic in plain Rust, vectorised by the compiler (NEON on AArch64).
    Portable,
}

impl Kernel {
    /// The kernel whose products of many rows are fastest here, which is what training is made of; [`Kernel::Auto`] is
    /// the one that reads the fewest bytes of weights, which is what generating is made of.
    ///
    /// They part on Intel's cores without tile registers (or whose system does not lend them), whose bf16 dot products are
    /// slower than their f32 arithmetic: 176 against 231 GFLOP/s on two threads of Sapphire Rapids. It follows from the
    /// maker and the registers alone, so all machines of one kind compute the same bits.
    pub fn of_many_rows() -> Self {
        #[cfg(target_arch = "x86_64")]
        if Isa::available().first() == Some(&Isa::Avx512Bf16) {
            let maker = std::arch::x86_64::__cpuid(0);
            let name = [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).concat();
            if name == b"GenuineIntel" {
                return Self::Avx512;
            }
        }
        Self::Auto
    }
}

/// The kernel in use, after detection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    #[cfg(target_arch = "x86_64")]
    Amx,
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Isa {
    pub(crate) fn choose(kernel: Kernel) -> Result<Self, UnsupportedKernel> {
        let all = Self::available();
        let found = match kernel {
            Kernel::Auto => all.first().copied(),
            wanted => all.iter().copied().find(|isa| isa.kernel() == wanted),
        };
        found.ok_or_else(|| UnsupportedKernel {
            wanted: kernel,
            available: all.iter().map(|isa| isa.kernel()).collect(),
        })
    }

    /// Best first.
    #[cfg(target_arch = "x86_64")]
    fn available() -> Vec<Self> {
        let mut all = Vec::new();
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq");
        if avx512 && is_x86_feature_detected!("avx512bf16") {
            if super::amx::available() {
                all.push(Self::Amx);
            }
            all.push(Self::Avx512Bf16);
        }
        if avx512 {
            all.push(Self::Avx512);
        }
        if avx2 {
            all.push(Self::Avx2);
        }
        all.push(Self::Portable);
        all
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn available() -> Vec<Self> {
        vec![Self::Portable]
    }

    pub(crate) const fn kernel(self) -> Kernel {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Kernel::Amx,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Kernel::Avx512Bf16,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Kernel::Avx512,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Kernel::Avx2,
            Self::Portable => Kernel::Portable,
        }
    }

    /// Runs `body` compiled for this instruction set.
    #[inline(always)]
    pub(crate) fn vectorize<R>(self, body: impl FnOnce() -> R) -> R {
        match self {
            // SAFETY: values of these variants are made only by `available`, which detected the features.
            #[cfg(target_arch = "x86_64")]
            Self::Amx => unsafe { with_avx512_bf16(body) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 | Self::Avx512 => unsafe { with_avx512(body) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { with_avx2(body) },
            Self::Portable => body(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn with_avx512<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
fn with_avx512_bf16<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_avx2<R>(body: impl FnOnce() -> R) -> R {
    body()
}
