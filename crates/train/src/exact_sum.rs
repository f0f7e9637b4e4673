//! A sum of non-negative f64 values without any rounding, so that it does not depend on their order or on which
//! rank adds what: a fixed-point number wide enough for every finite f64 (Kulisch).
//!
//! ```text
//! bit 0 is 2^-1074; 2^1023 · (1 + …) needs 2098 bits; 36 limbs of 64 leave room for 2^206 summands
//! ```

/// 64-bit digits, the lowest first.
const LIMBS: usize = 36;
/// Exponent of bit 0.
const LOWEST: i32 = -1074;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExactSum {
    limbs: [u64; LIMBS],
    /// Something added was infinite or no number.
    nonfinite: bool,
}

impl Default for ExactSum {
    fn default() -> Self {
        Self { limbs: [0; LIMBS], nonfinite: false }
    }
}

impl ExactSum {
    /// # Panics
    /// For a negative value.
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            self.nonfinite = true;
            return;
        }
        assert!(value >= 0.0, "{value} is negative");
        let bits = value.to_bits();
        let (exponent, fraction) = ((bits >> 52) as usize, bits & ((1 << 52) - 1));
        // Subnormal numbers have the exponent of the smallest normal ones, without the leading 1.
        let (shift, mantissa) =
            if exponent == 0 { (0, fraction) } else { (exponent - 1, fraction | 1 << 52) };
        let wide = u128::from(mantissa) << (shift % 64);
        self.add_at(shift / 64, [wide as u64, (wide >> 64) as u64]);
    }

    fn add_at(&mut self, place: usize, digits: [u64; 2]) {
        let mut carry = false;
        let digits = digits.into_iter().chain(std::iter::repeat(0));
        for (index, (limb, digit)) in self.limbs[place..].iter_mut().zip(digits).enumerate() {
            let (sum, over) = limb.overflowing_add(digit);
            let (sum, over_by_carry) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = over || over_by_carry;
            // Behind both digits only a carry goes on.
            if index > 0 && !carry {
                break;
            }
        }
    }

    /// Adds another sum.
    pub fn join(&mut self, other: &Self) {
        self.nonfinite |= other.nonfinite;
        let mut carry = false;
        for (limb, digit) in self.limbs.iter_mut().zip(other.limbs) {
            let (sum, over) = limb.overflowing_add(digit);
            let (sum, over_by_carry) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = over || over_by_carry;
        }
    }

    /// The sum, rounded towards zero by at most two units in the last place; NaN when something was not finite.
    pub fn value(&self) -> f64 {
        if self.nonfinite {
            return f64::NAN;
        }
        let Some(top) = self.limbs.iter().rposition(|&limb| limb != 0) else { return 0.0 };
        let below = if top > 0 { self.limbs[top - 1] } else { 0 };
        let wide = u128::from(self.limbs[top]) << 64 | u128::from(below);
        // The 53 leading bits, exactly.
        let spare = wide.leading_zeros();
        let mantissa = (wide << spare >> 75) as u64;
        let exponent = LOWEST + 64 * (top as i32 - 1) + 75 - spare as i32;
        // In two steps: one power of two alone may be out of range.
        let half = exponent / 2;
        mantissa as f64 * 2f64.powi(half) * 2f64.powi(exponent - half)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.limbs.iter().flat_map(|limb| limb.to_le_bytes()).collect();
        bytes.push(u8::from(self.nonfinite));
        bytes
    }

    /// What [`ExactSum::to_bytes`] wrote; none for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&nonfinite, limbs) = bytes.split_last()?;
        let mut sum = Self { nonfinite: nonfinite != 0, ..Self::default() };
        if limbs.len() != 8 * LIMBS {
            return None;
        }
        for (limb, bytes) in sum.limbs.iter_mut().zip(limbs.as_chunks::<8>().0) {
            *limb = u64::from_le_bytes(*bytes);
        }
        Some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(values: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        values.iter().for_each(|&value| sum.add(value));
        sum
    }

    fn value() -> impl Strategy<Value = f64> {
        (any::<u64>())
            .prop_map(|bits| f64::from_bits(bits & !(1 << 63)))
            .prop_filter("finite", |x| x.is_finite())
    }

    proptest! {
        #[test]
        fn order_and_grouping_do_not_matter(values in proptest::collection::vec(value(), 0..40), cut in 0usize..40) {
            let mut backwards = values.clone();
            backwards.reverse();
            prop_assert_eq!(sum(&values), sum(&backwards));
            let cut = cut.min(values.len());
            let mut joined = sum(&values[..cut]);
            joined.join(&sum(&values[cut..]));
            prop_assert_eq!(&joined, &sum(&values));
            prop_assert_eq!(ExactSum::from_bytes(&joined.to_bytes()), Some(joined));
        }

        #[test]
        fn one_value_comes_back(value in value()) {
            prop_assert_eq!(sum(&[value]).value(), value);
        }

        #[test]
        fn small_whole_numbers_add_exactly(values in proptest::collection::vec(0u32.., 1..50)) {
            let floats: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
            prop_assert_eq!(sum(&floats).value(), values.iter().map(|&v| u64::from(v)).sum::<u64>() as f64);
        }
    }

    #[test]
    fn a_value_whose_low_digit_is_zero_keeps_its_high_one() {
        // 2^-64 shifts so far that all its bits lie in the second digit.
        for exponent in -70..70 {
            let value = 2f64.powi(exponent) * 1.5;
            assert_eq!(sum(&[value]).value(), value);
        }
    }

    #[test]
    fn what_f64_would_lose_is_kept() {
        let mut both = sum(&[1e300, 1.0, f64::from_bits(1)]);
        both.join(&sum(&[1e300]));
        assert_eq!(both.value(), 2e300);
        assert_ne!(both, sum(&[1e300, 1e300]));
        assert_eq!(sum(&[]).value(), 0.0);
    }

    #[test]
    fn a_value_that_is_no_number_spoils_the_sum() {
        for bad in [f64::NAN, f64::INFINITY] {
            assert!(sum(&[1.0, bad]).value().is_nan());
        }
    }
}
