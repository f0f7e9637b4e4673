//! One row of logits as a distribution: `ln p(i) = l(i) - ln Σ exp(l)`, and its likeliest tokens.

use crate::logits::highest;
use crate::{SamplingError, TokenScore};
use std::cmp::Ordering;

/// Elements summed in f32 before the sum goes on in f64, in so many lanes.
const LANES: usize = 16;
const RUN: usize = 16 * LANES;

/// A row with its normaliser.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Distribution<'a> {
    logits: &'a [f32],
    highest: f32,
    /// `ln Σ exp(l - highest)`.
    log_sum: f64,
}

impl<'a> Distribution<'a> {
    /// # Errors
    /// When a logit is NaN or +∞, or all are −∞.
    pub(crate) fn new(logits: &'a [f32]) -> Result<Self, SamplingError> {
        let highest = highest(logits)?;
        if highest == f32::NEG_INFINITY {
            return Err(SamplingError::Logit { token: 0, value: highest });
        }
        let sum = sum_of_exp(logits, highest);
        Ok(Self { logits, highest, log_sum: sum.ln() })
    }

    pub(crate) fn log_prob(&self, token: u32) -> f32 {
        (f64::from(self.logits[token as usize] - self.highest) - self.log_sum) as f32
    }

    /// `token` in this place, with the `top` likeliest and those of `also`.
    pub(crate) fn score(&self, token: u32, top: usize, also: &[u32]) -> TokenScore {
        let log_prob = self.log_prob(token);
        // Compared as they are told: who reads only log-probabilities comes to the same answer.
        let greedy = log_prob >= (-self.log_sum) as f32;
        let mut top = self.top(top);
        top.extend(also.iter().map(|&token| (token, self.log_prob(token))));
        TokenScore { token, log_prob, greedy, top }
    }

    fn top(&self, count: usize) -> Vec<(u32, f32)> {
        let count = count.min(self.logits.len());
        if count == 0 {
            return Vec::new();
        }
        // Few are asked for: a sorted list of the best so far, rarely touched after the first logits.
        let mut best: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
        for (token, &logit) in self.logits.iter().enumerate() {
            if best.len() == count && logit <= best[count - 1].1 {
                continue;
            }
            let place = best.partition_point(|&(_, l)| l.total_cmp(&logit) != Ordering::Less);
            best.insert(place, (token as u32, logit));
            best.truncate(count);
        }
        best.into_iter().map(|(token, _)| (token, self.log_prob(token))).collect()
    }
}

fn sum_of_exp(logits: &[f32], highest: f32) -> f64 {
    let mut sum = 0.0;
    for run in logits.chunks(RUN) {
        let mut lanes = [0.0f32; LANES];
        let (whole, rest) = run.as_chunks::<LANES>();
        for chunk in whole {
            for lane in 0..LANES {
                lanes[lane] += exp(chunk[lane] - highest);
            }
        }
        sum += lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>();
        sum += rest.iter().map(|&logit| f64::from(exp(logit - highest))).sum::<f64>();
    }
    sum
}

/// `eˣ` for x ≤ 0 to 2 units in the last place, in arithmetic that vectorises: 2ⁿ · e^r with |r| ≤ ln 2 / 2 and the
/// Taylor polynomial of degree 7; NaN stays NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + coefficient;
    }
    // n lies in the low bits of what it was rounded by.
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    // Below this the result is subnormal; it counts as nothing beside the highest logit's 1.
    if x < -87.0 { 0.0 } else { p * f32::from_bits(exponent << 23) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn log_probabilities_are_those_of_the_softmax(
            logits in proptest::collection::vec(-60.0f32..60.0, 1..700),
        ) {
            let distribution = Distribution::new(&logits).unwrap();
            let highest = logits.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = logits.iter().map(|&l| f64::from(l - highest).exp()).sum();
            for (token, &logit) in logits.iter().enumerate() {
                let expected = f64::from(logit - highest) - sum.ln();
                let found = f64::from(distribution.log_prob(token as u32));
                prop_assert!((found - expected).abs() <= 2e-6 * expected.abs().max(1.0), "{found} {expected}");
            }
        }

        #[test]
        fn the_top_tokens_are_the_likeliest_in_order(
            logits in proptest::collection::vec((-5i8..5).prop_map(f32::from), 1..60), count in 0usize..70,
        ) {
            let top = Distribution::new(&logits).unwrap().score(0, count, &[]).top;
            let mut order: Vec<u32> = (0..logits.len() as u32).collect();
            order.sort_by(|&a, &b| {
                logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b))
            });
            order.truncate(count);
            prop_assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), order);
        }
    }

    #[test]
    fn the_exponential_is_exact_to_its_last_places() {
        for i in 0..87_000 {
            let x = -(i as f32) / 1000.0;
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found / expected - 1.0).abs() < 2.5e-7, "exp({x}) = {found}, not {expected}");
        }
        assert!(exp(f32::NAN).is_nan() && exp(f32::NEG_INFINITY) == 0.0);
    }

    #[test]
    fn a_token_is_greedy_when_none_is_likelier() {
        let distribution = Distribution::new(&[1.0, 3.0, 3.0, -1.0]).unwrap();
        let greedy: Vec<bool> = (0..4).map(|token| distribution.score(token, 0, &[]).greedy).collect();
        assert_eq!(greedy, [false, true, true, false]);
    }

    #[test]
    fn damaged_logits_are_refused_by_token() {
        for logits in [[0.0, f32::NAN], [0.0, f32::INFINITY]] {
            let error = Distribution::new(&logits).unwrap_err();
            assert!(matches!(error, SamplingError::Logit { token: 1, .. }), "{error}");
        }
    }
}
