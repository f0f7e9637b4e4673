//! Activations' element type and the scalar functions of inner loops, written so that the compiler
//! vectorises them: no branches, no calls.

use super::isa::Isa;
use super::memory::Element;
use half::{bf16, f16};

/// An element type of activations: stored narrow, computed in f32.
pub(crate) trait Act: Element {
    fn to_f32(self) -> f32;
    /// Round to nearest even.
    fn from_f32(value: f32) -> Self;
}

impl Act for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Act for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        // A NaN must not be rounded to infinity: keep its top bits and make it quiet.
        let nan = (bits >> 16) | 0x40;
        Self::from_bits(if value.is_nan() { nan } else { rounded } as u16)
    }
}

impl Act for f16 {
    /// The fields moved into place and the exponents' biases evened out by one exact product, which serves
    /// subnormal numbers too; infinities and NaN keep their full exponent.
    #[inline(always)]
    fn to_f32(self) -> f32 {
        const BIAS: f32 = f32::from_bits((127 + 112) << 23);
        let bits = u32::from(self.to_bits());
        let magnitude = (f32::from_bits((bits & 0x7fff) << 13) * BIAS).to_bits();
        let full = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
        f32::from_bits(magnitude | full | (bits & 0x8000) << 16)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

/// Rounds a row to `T`. Beside tile registers the machine's own instruction for bf16 is used, which takes numbers below
/// 2⁻¹²⁶ for zero as the tiles do.
#[inline(always)]
pub(crate) fn narrow<T: Act>(isa: Isa, from: &[f32], to: &mut [T]) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Amx && T::DTYPE == crate::DType::Bf16 {
        assert_eq!(from.len(), to.len());
        // SAFETY: machines with tile registers of bf16 have the instruction; `to` holds as many bf16.
        unsafe { x86::narrow(from, to.as_mut_ptr().cast()) };
        return;
    }
    let _ = isa;
    for (to, &x) in to.iter_mut().zip(from) {
        *to = T::from_f32(x);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use half::bf16;
    use std::arch::x86_64::*;

    /// # Safety
    /// `to` has room for as many as there are in `from`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn narrow(from: &[f32], to: *mut bf16) {
        for at in (0..from.len()).step_by(16) {
            let mask = u16::MAX >> 16usize.saturating_sub(from.len() - at);
            // SAFETY: masked to what is there.
            unsafe {
                let values = _mm512_maskz_loadu_ps(mask, from.as_ptr().add(at));
                let rounded: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(values));
                _mm256_mask_storeu_epi16(to.add(at).cast(), mask, rounded);
            }
        }
    }
}

/// Runs an expression with a type name bound to the activation type of a dtype.
macro_rules! for_act {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::DType::Bf16 => {
                type $T = half::bf16;
                $body
            }
            $crate::DType::F16 => {
                type $T = half::f16;
                $body
            }
            other => panic!("{other} is not the type of an activation"),
        }
    };
}
pub(crate) use for_act;

/// `eˣ` within 2 units in the last place. Overflows to infinity above 88.72; below -87.33 the result is 0.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let (p, exponent) = exp_parts(x.clamp(-88.0, 88.8));
    // Two steps, so that 2¹²⁸ of the last octave does not overflow the exponent field.
    let half = exponent >> 1;
    let value = p * power_of_two(half) * power_of_two(exponent.wrapping_sub(half));
    if x < -87.33 { 0.0 } else { value }
}

/// `eˣ = p · 2ⁿ` as (p, n): `x - n ln 2` in two parts (Cody & Waite), then a polynomial of degree 6 on
/// |r| ≤ ln 2 / 2. A NaN becomes p.
#[inline(always)]
fn exp_parts(x: f32) -> (f32, i32) {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 · 2²³ rounds to an integer without a call, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.388_888_9e-3_f32;
    p = p * r + 8.333_334e-3;
    p = p * r + 4.166_666_8e-2;
    p = p * r + 1.666_666_7e-1;
    p = p * r + 0.5;
    (p * r * r + r + 1.0, exponent)
}

/// 2ⁿ for -126 ≤ n ≤ 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// `1 / (1 + e⁻ˣ)`; its smallest value is 1.6e-38.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    let (p, exponent) = exp_parts((-x).clamp(-87.0, 87.0));
    1.0 / (1.0 + p * power_of_two(exponent))
}

const GELU_SCALE: f32 = 0.797_884_6; // √(2/π)
const GELU_CUBIC: f32 = 0.044_715;

/// GELU in its tanh form; `(1 + tanh u) / 2 = sigmoid(2u)`.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    let u = GELU_SCALE * (x + GELU_CUBIC * x * x * x);
    x * sigmoid(2.0 * u)
}

/// The derivative of [`gelu`].
#[inline(always)]
pub(crate) fn gelu_gradient(x: f32) -> f32 {
    let u = GELU_SCALE * (x + GELU_CUBIC * x * x * x);
    let s = sigmoid(2.0 * u);
    s + x * s * (1.0 - s) * 2.0 * GELU_SCALE * (1.0 + 3.0 * GELU_CUBIC * x * x)
}

/// `Σ a · b`, in lanes: element i goes to lane i % 16.
#[inline(always)]
pub(crate) fn dot<T: Act>(a: &[T], b: &[T]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for i in 0..LANES {
            sums[i] += a[i].to_f32() * b[i].to_f32();
        }
    }
    for ((s, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *s += a.to_f32() * b.to_f32();
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in 0..2_000_000 {
            let x = -87.0 + 175.7 * (f64::from(i) / 2_000_000.0);
            let x = x as f32;
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - exact) / exact).abs());
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "relative error {worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1000.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(1000.0), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn every_f16_is_widened_as_by_half() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            let (ours, theirs) = (Act::to_f32(value), value.to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{bits:#x}");
        }
    }

    #[test]
    fn bf16_rounding_agrees_with_half() {
        for bits in (0..=u32::MAX).step_by(65_521) {
            let value = f32::from_bits(bits);
            let (ours, theirs) = (<bf16 as Act>::from_f32(value), bf16::from_f32(value));
            assert!(ours.to_bits() == theirs.to_bits() || (value.is_nan() && ours.is_nan()), "{value}");
        }
    }
}
