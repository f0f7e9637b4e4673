//! How far an f32 device may be from the f64 reference.
//!
//! With U = 2⁻²⁴, the unit roundoff of f32, one operation has relative error U. A sum of n terms in any
//! order has error at most n U Σ|term|; roundings behave like independent errors of mean zero, so that
//! λ √n U Σ|term| with λ = 8 holds with overwhelming probability (Higham & Mary 2019) and is sharp enough
//! to catch one missing term. An exponential may be 2 units in the last place off (4 U) and turns an
//! absolute error of its argument into a relative one of its value.

use triax_tensor::DType;

/// Unit roundoff of f32.
pub(crate) const U: f64 = 1.0 / 16_777_216.0;

/// Relative error, against the sum of magnitudes, of a sum of `terms` products.
pub(crate) fn sum(terms: usize) -> f64 {
    8.0 * (terms as f64).sqrt() * U
}

/// Unit roundoff of a stored dtype.
pub(crate) fn roundoff(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => U,
        DType::Bf16 => 1.0 / 256.0,
        DType::F16 => 1.0 / 2048.0,
        DType::F64 | DType::U32 => 0.0,
    }
}

/// Half the distance of subnormal numbers, or the smallest normal number where devices may flush below it.
fn floor(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2f64.powi(-25),
        DType::F32 | DType::Bf16 => f64::from(f32::MIN_POSITIVE),
        DType::F64 | DType::U32 => 0.0,
    }
}

/// Whether `found` may stand for `expected` when the values before storing are at most `bound` apart: both
/// are rounded once more by at most half a unit.
pub(crate) fn holds(found: f64, expected: f64, bound: f64, dtype: DType) -> bool {
    if expected.is_infinite() {
        return found == expected;
    }
    let storing =
        2.0 * roundoff(dtype) * (expected.abs() + bound) * (1.0 + roundoff(dtype)) + 2.0 * floor(dtype);
    (found - expected).abs() <= bound + if bound == 0.0 { 0.0 } else { storing }
}
