//! Amounts of training, written `500 steps`, `3k samples` or `12B tokens`, and how far a run has come.

use crate::run::Amount;
use std::fmt;
use std::str::FromStr;

/// How far a run has come, after whole optimizer steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    pub step: u64,
    pub samples: u64,
    pub tokens: u64,
}

impl Progress {
    /// The progress after one more step of `batch` samples of `sequence` tokens.
    pub fn advanced(self, batch: u64, sequence: usize) -> Self {
        self.advanced_by(1, batch, sequence)
    }

    /// The progress after `steps` more steps of one batch size.
    pub(crate) fn advanced_by(self, steps: u64, batch: u64, sequence: usize) -> Self {
        let samples = self.samples.saturating_add(steps.saturating_mul(batch));
        Self {
            step: self.step.saturating_add(steps),
            samples,
            tokens: samples.saturating_mul(sequence as u64),
        }
    }
}

impl Amount {
    /// Larger amounts are refused in run files, so that products stay within 128 bits.
    pub const MOST: u64 = 1_000_000_000_000_000_000;

    /// The bare number, in the amount's own unit.
    pub fn number(self) -> u64 {
        match self {
            Self::Steps(number) | Self::Samples(number) | Self::Tokens(number) => number,
        }
    }

    /// `steps`, `samples` or `tokens`.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Steps(_) => "steps",
            Self::Samples(_) => "samples",
            Self::Tokens(_) => "tokens",
        }
    }

    /// The same unit with another number.
    pub fn with_number(self, number: u64) -> Self {
        match self {
            Self::Steps(_) => Self::Steps(number),
            Self::Samples(_) => Self::Samples(number),
            Self::Tokens(_) => Self::Tokens(number),
        }
    }

    /// `progress` counted in the unit of this amount.
    pub fn measure(self, progress: &Progress) -> u64 {
        match self {
            Self::Steps(_) => progress.step,
            Self::Samples(_) => progress.samples,
            Self::Tokens(_) => progress.tokens,
        }
    }

    pub fn reached(self, progress: &Progress) -> bool {
        self.measure(progress) >= self.number()
    }

    /// Whether a multiple of this amount lies in `(before, after]`: the rule for "every so much".
    /// An amount of 0 never comes due.
    pub fn due(self, before: &Progress, after: &Progress) -> bool {
        let number = self.number();
        number != 0 && self.measure(after) / number > self.measure(before) / number
    }
}

/// Why a text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    #[error("it has no unit: `steps`, `samples` or `tokens`")]
    Unit,
    #[error("its number is not a whole count such as 500, 1.5M or 12B (k, M, B, T)")]
    Number,
    #[error("it is more than {}", Amount::MOST)]
    TooLarge,
}

const SCALES: [(char, u32); 4] = [('T', 12), ('B', 9), ('M', 6), ('k', 3)];

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let text = text.trim();
        let unit_start = text.rfind(char::is_whitespace).ok_or(AmountError::Unit)?;
        let unit: fn(u64) -> Self = match text[unit_start..].trim_start() {
            "steps" | "step" => Self::Steps,
            "samples" | "sample" => Self::Samples,
            "tokens" | "token" => Self::Tokens,
            _ => return Err(AmountError::Unit),
        };
        whole(text[..unit_start].trim_end()).map(unit)
    }
}

/// `1.5M` as 1 500 000; fractions that leave no whole number are refused.
fn whole(text: &str) -> Result<u64, AmountError> {
    let (digits, exponent) = SCALES
        .iter()
        .find_map(|&(suffix, exponent)| Some((text.strip_suffix(suffix)?.trim_end(), exponent)))
        .unwrap_or((text, 0));
    let (integer, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    if !plain(integer) || !plain(fraction) || integer.is_empty() || digits.ends_with('.') {
        return Err(AmountError::Number);
    }
    let fraction: String = fraction.chars().filter(|&c| c != '_').collect();
    let fraction = fraction.trim_end_matches('0');
    let missing = (exponent as usize).checked_sub(fraction.len()).ok_or(AmountError::Number)?;
    let mut all: String = integer.chars().filter(|&c| c != '_').collect();
    if all.is_empty() {
        return Err(AmountError::Number);
    }
    all.push_str(fraction);
    all.extend(std::iter::repeat_n('0', missing));
    match all.parse::<u64>() {
        Ok(number) if number <= Amount::MOST => Ok(number),
        _ => Err(AmountError::TooLarge),
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number();
        let scale =
            SCALES.iter().find(|(_, exponent)| number != 0 && number.is_multiple_of(10u64.pow(*exponent)));
        match scale {
            Some((suffix, exponent)) => {
                write!(out, "{}{suffix} {}", number / 10u64.pow(*exponent), self.unit())
            }
            None => write!(out, "{number} {}", self.unit()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_read_as_people_write_them() {
        for (text, amount) in [
            ("500 steps", Amount::Steps(500)),
            ("1 step", Amount::Steps(1)),
            ("12B tokens", Amount::Tokens(12_000_000_000)),
            ("1.5M tokens", Amount::Tokens(1_500_000)),
            ("3k samples", Amount::Samples(3_000)),
            ("146_484_375 samples", Amount::Samples(146_484_375)),
            ("2 T tokens", Amount::Tokens(2_000_000_000_000)),
            ("0 steps", Amount::Steps(0)),
        ] {
            assert_eq!(text.parse(), Ok(amount), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused_with_the_reason() {
        for (text, error) in [
            ("", AmountError::Unit),
            ("500", AmountError::Unit),
            ("500 epochs", AmountError::Unit),
            ("tokens", AmountError::Unit),
            ("-1 steps", AmountError::Number),
            ("1.5 steps", AmountError::Number),
            ("1.2345k steps", AmountError::Number),
            ("12G tokens", AmountError::Number),
            ("_ steps", AmountError::Number),
            ("99999999T tokens", AmountError::TooLarge),
        ] {
            assert_eq!(text.parse::<Amount>(), Err(error), "{text}");
        }
    }

    #[test]
    fn every_500_steps_comes_due_once_whatever_the_stride() {
        let every = Amount::Samples(500);
        let mut progress = Progress::default();
        let mut due = 0;
        for _ in 0..100 {
            let next = progress.advanced(48, 16);
            due += u32::from(every.due(&progress, &next));
            progress = next;
        }
        assert_eq!(due, 4800 / 500);
        assert!(!Amount::Steps(0).due(&Progress::default(), &progress));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(number in 0..=Amount::MOST, zeros in 0u32..15) {
            let number = number / 10u64.pow(zeros) * 10u64.pow(zeros);
            for amount in [Amount::Steps(number), Amount::Samples(number), Amount::Tokens(number)] {
                prop_assert_eq!(amount.to_string().parse(), Ok(amount));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _ = text.parse::<Amount>();
        }
    }
}
