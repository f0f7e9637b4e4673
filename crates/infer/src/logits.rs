//! Looks over one row of logits, in lanes that do not wait for each other.
//!
//! ```text
//! highest   m_l = max of logits l, l + 16, l + 32, …   then the highest of the 16      NaN and +∞ are refused
//! ```

use crate::SamplingError;

/// Neighbours compared at once.
const LANES: usize = 16;
/// Logits among which a place is looked for at once.
const RUN: usize = 8 * LANES;

/// The highest logit; −∞ where all are.
///
/// # Errors
/// When a logit is NaN or +∞.
pub(crate) fn highest(logits: &[f32]) -> Result<f32, SamplingError> {
    let (mut lanes, mut unsound) = ([f32::NEG_INFINITY; LANES], [0u32; LANES]);
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let logit = chunk[lane];
            lanes[lane] = if logit > lanes[lane] { logit } else { lanes[lane] };
            unsound[lane] |= u32::from(is_unsound(logit));
        }
    }
    if unsound.iter().any(|&found| found != 0) || rest.iter().any(|&logit| is_unsound(logit)) {
        let token = logits.iter().position(|&logit| is_unsound(logit)).unwrap_or(0);
        return Err(SamplingError::Logit { token, value: logits[token] });
    }
    Ok(lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max))
}

#[inline(always)]
fn is_unsound(logit: f32) -> bool {
    // Without a branch, so that the lanes stay lanes.
    logit.is_nan() | (logit == f32::INFINITY)
}

/// Where `value` comes first.
pub(crate) fn first(logits: &[f32], value: f32) -> Option<usize> {
    let holds = |run: &[f32]| run.iter().fold(false, |found, &logit| found | (logit == value));
    let (number, run) = logits.chunks(RUN).enumerate().find(|(_, run)| holds(run))?;
    Some(number * RUN + run.iter().position(|&logit| logit == value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_highest_logit_is_found_where_it_comes_first(
            logits in proptest::collection::vec((-9i8..9).prop_map(f32::from), 1..400),
        ) {
            let expected = logits.iter().copied().fold(f32::MIN, f32::max);
            prop_assert_eq!(highest(&logits).unwrap(), expected);
            prop_assert_eq!(first(&logits, expected), logits.iter().position(|&l| l == expected));
            prop_assert_eq!(first(&logits, 10.0), None);
        }

        #[test]
        fn a_damaged_logit_is_named_wherever_it_is(count in 1usize..70, place: prop::sample::Index, plus: bool) {
            let (place, value) = (place.index(count), if plus { f32::INFINITY } else { f32::NAN });
            let mut logits = vec![0.5; count];
            logits[place] = value;
            let found = highest(&logits);
            prop_assert!(matches!(found, Err(SamplingError::Logit { token, .. }) if token == place), "{found:?}");
        }
    }

    #[test]
    fn forbidden_tokens_are_lower_than_all() {
        assert_eq!(highest(&[f32::NEG_INFINITY; 20]).unwrap(), f32::NEG_INFINITY);
        assert_eq!(highest(&[f32::NEG_INFINITY, -3.0]).unwrap(), -3.0);
    }
}
