//! The arithmetic peak, measured on registers alone: what a product can at best reach on this machine, now.

use super::gemm::Microkernel;
use super::{isa::Isa, team::Team};
use crate::DType;
use std::hint::black_box;
use std::time::Instant;

/// Rounds of one measurement: some tens of milliseconds, so that waking the team, a tenth of a millisecond, is none of it.
const ROUNDS: usize = 4_000_000;
/// Measurements, of which the best counts: anything else is another process's time. Together some tenths of a second, for
/// a system may leave new threads on one core for tens of milliseconds before it spreads them, which
/// would halve the figure.
const REPEATS: usize = 15;

/// GFLOP/s of all workers together, for the instructions that products of `dtype` use.
pub(super) fn measure(team: &mut Team, isa: Isa, dtype: DType) -> f64 {
    let kernel = Microkernel::new(isa, dtype);
    let threads = team.threads();
    (0..REPEATS)
        .map(|_| {
            let start = Instant::now();
            team.run(threads, &|_, _| {
                black_box(spin(isa, kernel));
            });
            let flops = 2 * kernel.mr() * kernel.nr() * kernel.group() * ROUNDS * threads;
            flops as f64 / start.elapsed().as_secs_f64() / 1e9
        })
        .fold(0.0, f64::max)
}

/// `ROUNDS` multiply-add steps of a whole tile, without touching memory.
fn spin(isa: Isa, kernel: Microkernel) -> f32 {
    match kernel {
        // SAFETY: a kernel is chosen only where its instructions were detected.
        #[cfg(target_arch = "x86_64")]
        Microkernel::Bf16Amx => unsafe {
            let _tiles = kernel.set_up();
            super::gemm::amx::spin(ROUNDS / super::amx::SIDE);
            0.0
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Microkernel::Bf16Avx512 => unsafe { x86::bf16_avx512(ROUNDS) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Microkernel::F32Avx512 => unsafe { x86::f32_avx512(ROUNDS) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Microkernel::F32Avx2 => unsafe { x86::f32_avx2(ROUNDS) },
        Microkernel::Portable => isa.vectorize(
            #[inline(always)]
            || {
                let (x, y) = (black_box([0.5f32; 4]), black_box([1e-9f32; 16]));
                let mut acc = [[0.0f32; 16]; 4];
                for _ in 0..ROUNDS {
                    for (row, &x) in acc.iter_mut().zip(&x) {
                        for (sum, &y) in row.iter_mut().zip(&y) {
                            *sum =
                                if cfg!(target_arch = "aarch64") { x.mul_add(y, *sum) } else { x * y + *sum };
                        }
                    }
                }
                acc.iter().flatten().sum()
            },
        ),
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    macro_rules! spin {
        ($name:ident, $features:literal, $count:literal, $broadcast:expr, $multiply_add:expr, $sum:expr) => {
            /// # Safety
            /// The machine has the instructions.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(rounds: usize) -> f32 {
                let (x, y) = (black_box($broadcast(0.5)), black_box($broadcast(1e-9)));
                // Unknown to the compiler, which would otherwise find the sums alike and move them about.
                let mut acc = black_box([$broadcast(0.0); $count]);
                for _ in 0..rounds {
                    for sum in &mut acc {
                        *sum = $multiply_add(*sum, x, y);
                    }
                }
                acc.into_iter().map(|v| $sum(v)).sum()
            }
        };
    }

    spin!(
        bf16_avx512,
        "avx512f,avx512bf16",
        24,
        |v| _mm512_set1_ps(v),
        |acc, x: __m512, y: __m512| {
            // SAFETY: both types are 512 plain bits.
            let (x, y) = unsafe {
                (std::mem::transmute::<__m512, __m512bh>(x), std::mem::transmute::<__m512, __m512bh>(y))
            };
            _mm512_dpbf16_ps(acc, x, y)
        },
        |v| _mm512_reduce_add_ps(v)
    );
    spin!(f32_avx512, "avx512f", 24, |v| _mm512_set1_ps(v), |acc, x, y| _mm512_fmadd_ps(x, y, acc), |v| {
        _mm512_reduce_add_ps(v)
    });
    spin!(f32_avx2, "avx2,fma", 12, |v| _mm256_set1_ps(v), |acc, x, y| _mm256_fmadd_ps(x, y, acc), |v| {
        _mm256_cvtss_f32(v)
    });
}
