//! From logits to the next token:
//!
//! ```text
//! l = logits + bias - penalties   forbidden tokens out   p = softmax(l / temperature)
//! keep the k likeliest   keep the fewest whose mass reaches top_p   keep p ≥ min_p · highest   draw
//! ```
//!
//! The draw is the inverse of the cumulative distribution at a Philox number addressed by (seed, position).

use crate::{Filter, logits};
use std::cmp::Ordering;
use triax_tensor::philox::Stream;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 always takes the likeliest token.
    pub temperature: f32,
    /// Only the `top_k` likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Only the fewest tokens whose probabilities sum to at least this; 1 keeps all.
    pub top_p: f32,
    /// Only tokens at least this many times as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Taken from the logits of tokens made before: once, and for each time.
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    pub seed: u64,
}

impl Sampling {
    /// Always the likeliest token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        seed: 0,
    };

    /// # Errors
    /// When a number is outside its range.
    pub fn validate(&self) -> Result<(), SamplingError> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return Err(SamplingError::Temperature(self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(SamplingError::TopP(self.top_p));
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return Err(SamplingError::MinP(self.min_p));
        }
        for penalty in [self.presence_penalty, self.frequency_penalty] {
            if !penalty.is_finite() {
                return Err(SamplingError::Penalty(penalty));
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplingError {
    #[error("temperature {0} is not a number ≥ 0 (0 always takes the likeliest token, 1 samples as trained)")]
    Temperature(f32),
    #[error("top-p {0} is not above 0 and at most 1 (1 keeps every token)")]
    TopP(f32),
    #[error("min-p {0} is not a number from 0 to 1 (0 keeps every token)")]
    MinP(f32),
    #[error("a penalty of {0} is not a finite number (0 is none)")]
    Penalty(f32),
    #[error("the network gave {value} as the logit of token {token}: its weights are damaged or diverged")]
    Logit { token: usize, value: f32 },
}

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub token: u32,
    /// After temperature and cuts; candidates sum to 1.
    pub probability: f32,
}

/// Chooses tokens; keeps its scratch between calls.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    stream: Stream,
    candidates: Vec<Candidate>,
    changed: Vec<f32>,
}

impl Sampler {
    /// # Errors
    /// As [`Sampling::validate`].
    pub fn new(sampling: Sampling) -> Result<Self, SamplingError> {
        sampling.validate()?;
        Ok(Self {
            sampling,
            stream: Stream::named(sampling.seed, "sample"),
            candidates: Vec::new(),
            changed: Vec::new(),
        })
    }

    /// The token at `position`, behind the tokens `made` so far, that `filter` allows.
    ///
    /// # Errors
    /// As [`Sampler::draw`].
    pub fn choose(
        &mut self,
        logits: &[f32],
        made: &[u32],
        filter: Option<&mut (dyn Filter + 'static)>,
        position: u64,
    ) -> Result<u32, SamplingError> {
        let Sampling { presence_penalty, frequency_penalty, .. } = self.sampling;
        let penalised = (presence_penalty != 0.0 || frequency_penalty != 0.0) && !made.is_empty();
        if !penalised && filter.is_none() {
            return self.draw(logits, position);
        }
        let mut changed = std::mem::take(&mut self.changed);
        changed.clear();
        changed.extend_from_slice(logits);
        if penalised {
            for (place, &token) in made.iter().enumerate() {
                let once = if made[..place].contains(&token) { 0.0 } else { presence_penalty };
                changed[token as usize] -= frequency_penalty + once;
            }
        }
        if let Some(filter) = filter {
            filter.forbid(&mut changed);
        }
        let token = self.draw(&changed, position);
        self.changed = changed;
        token
    }

    /// The token at `position` of the sequence.
    ///
    /// # Errors
    /// When a logit is NaN or +∞ (−∞ forbids a token).
    pub fn draw(&mut self, logits: &[f32], position: u64) -> Result<u32, SamplingError> {
        if self.sampling.temperature == 0.0 {
            return likeliest(logits);
        }
        let place = f64::from(self.stream.uniform(position));
        self.weigh(logits)?;
        let mut below = 0.0;
        for candidate in &self.candidates {
            below += f64::from(candidate.probability);
            if place < below {
                return Ok(candidate.token);
            }
        }
        // Rounding may leave the sum a hair under 1; the remainder belongs to the last that may be drawn.
        let last = self.candidates.iter().rfind(|candidate| candidate.probability > 0.0);
        Ok(last.map_or(0, |candidate| candidate.token))
    }

    /// The tokens that may be drawn, likeliest first (equal ones by id); never empty.
    ///
    /// # Errors
    /// As [`Sampler::draw`].
    pub fn distribution(&mut self, logits: &[f32]) -> Result<&[Candidate], SamplingError> {
        self.weigh(logits)?;
        self.candidates.sort_unstable_by(likelier_first);
        Ok(&self.candidates)
    }

    /// Fills `candidates`: likeliest first where there are cuts, by id where there are none.
    fn weigh(&mut self, logits: &[f32]) -> Result<(), SamplingError> {
        logits::highest(logits)?;
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let keep = match (temperature, top_k) {
            (0.0, _) => 1,
            (_, 0) => logits.len(),
            (_, k) => k.min(logits.len()),
        };
        // The field `probability` holds logits until the softmax below.
        self.candidates.clear();
        self.candidates
            .extend(logits.iter().enumerate().map(|(t, &l)| Candidate { token: t as u32, probability: l }));
        if keep < self.candidates.len() {
            self.candidates.select_nth_unstable_by(keep, likelier_first);
            self.candidates.truncate(keep);
        }
        softmax(&mut self.candidates, if temperature == 0.0 { 1.0 } else { temperature });
        if top_p >= 1.0 && min_p == 0.0 {
            return Ok(());
        }
        // Of n tokens, those with less than (1 - top_p) / n of the mass have less than 1 - top_p together: they
        // need not be sorted. Half of it, against rounding; and a token below min_p of the highest is out anyway.
        let hopeless = 0.5 * (1.0 - top_p) / self.candidates.len() as f32;
        let highest = self.candidates.iter().fold(0.0f32, |highest, c| highest.max(c.probability));
        let least = hopeless.max(0.5 * min_p * highest);
        self.candidates.retain(|candidate| candidate.probability >= least);
        self.candidates.sort_unstable_by(likelier_first);
        self.cut_to_mass();
        let least = min_p * self.candidates[0].probability;
        self.candidates.truncate(self.candidates.partition_point(|c| c.probability >= least).max(1));
        let mass: f32 = self.candidates.iter().map(|c| c.probability).sum();
        self.candidates.iter_mut().for_each(|c| c.probability /= mass);
        Ok(())
    }

    /// Keeps the fewest candidates that reach `top_p`.
    fn cut_to_mass(&mut self) {
        let mut mass = 0.0;
        let reached = self.candidates.iter().position(|c| {
            mass += c.probability;
            mass >= self.sampling.top_p
        });
        if let Some(last) = reached {
            self.candidates.truncate(last + 1);
        }
    }
}

/// The first of the highest logits.
fn likeliest(logits: &[f32]) -> Result<u32, SamplingError> {
    let highest = logits::highest(logits)?;
    Ok(logits::first(logits, highest).unwrap_or(0) as u32)
}

fn likelier_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.probability.total_cmp(&a.probability).then(a.token.cmp(&b.token))
}

/// Replaces logits by probabilities.
fn softmax(candidates: &mut [Candidate], temperature: f32) {
    let highest = candidates.iter().fold(f32::NEG_INFINITY, |highest, c| highest.max(c.probability));
    if highest == f32::NEG_INFINITY {
        // Everything is forbidden: no token is better than another.
        let share = 1.0 / candidates.len() as f32;
        candidates.iter_mut().for_each(|c| c.probability = share);
        return;
    }
    let mut sum = 0.0f64;
    for candidate in candidates.iter_mut() {
        candidate.probability = ((candidate.probability - highest) / temperature).exp();
        sum += f64::from(candidate.probability);
    }
    candidates.iter_mut().for_each(|c| c.probability = (f64::from(c.probability) / sum) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn logits() -> impl Strategy<Value = Vec<f32>> {
        proptest::collection::vec(-20.0f32..20.0, 1..60)
    }

    fn sampling(temperature: f32, top_k: usize, top_p: f32, seed: u64) -> Sampler {
        Sampler::new(Sampling { temperature, top_k, top_p, seed, ..Sampling::GREEDY }).unwrap()
    }

    fn softmax_of(logits: &[f32], temperature: f32) -> Vec<f64> {
        let highest = logits.iter().copied().fold(f32::MIN, f32::max);
        let scaled: Vec<f64> = logits.iter().map(|&l| f64::from((l - highest) / temperature).exp()).collect();
        let sum: f64 = scaled.iter().sum();
        scaled.iter().map(|s| s / sum).collect()
    }

    proptest! {
        #[test]
        fn without_cuts_the_distribution_is_the_softmax(logits in logits(), temperature in 0.2f32..3.0) {
            let expected = softmax_of(&logits, temperature);
            for c in sampling(temperature, 0, 1.0, 0).distribution(&logits).unwrap() {
                prop_assert!((f64::from(c.probability) - expected[c.token as usize]).abs() < 1e-4);
            }
        }

        #[test]
        fn candidates_are_sorted_and_sum_to_one(
            logits in logits(), temperature in 0.0f32..3.0, top_k in 0usize..70, top_p in 0.01f32..=1.0,
        ) {
            let mut sampler = sampling(temperature, top_k, top_p, 0);
            let candidates = sampler.distribution(&logits).unwrap();
            prop_assert!(candidates.windows(2).all(|w| w[0].probability >= w[1].probability));
            let sum: f32 = candidates.iter().map(|c| c.probability).sum();
            prop_assert!((sum - 1.0).abs() < 1e-4, "sum {sum}");
        }

        #[test]
        fn top_k_keeps_exactly_the_k_likeliest(logits in logits(), k in 1usize..70) {
            let mut sampler = sampling(1.0, k, 1.0, 0);
            let kept: Vec<u32> = sampler.distribution(&logits).unwrap().iter().map(|c| c.token).collect();
            prop_assert_eq!(kept.len(), k.min(logits.len()));
            let least = kept.iter().map(|&t| logits[t as usize]).fold(f32::MAX, f32::min);
            let better = logits.iter().filter(|&&l| l > least).count();
            prop_assert!(better < kept.len());
        }

        #[test]
        fn top_p_keeps_the_fewest_tokens_that_reach_the_mass(logits in logits(), top_p in 0.01f32..0.99) {
            let full = softmax_of(&logits, 1.0);
            let mut sampler = sampling(1.0, 0, top_p, 0);
            let kept: Vec<usize> =
                sampler.distribution(&logits).unwrap().iter().map(|c| c.token as usize).collect();
            let mass: f64 = kept.iter().map(|&t| full[t]).sum();
            let without_last: f64 = kept[..kept.len() - 1].iter().map(|&t| full[t]).sum();
            prop_assert!(mass >= f64::from(top_p) - 1e-4, "mass {mass}");
            prop_assert!(without_last < f64::from(top_p) + 1e-4, "one token fewer has {without_last}");
        }

        #[test]
        fn temperature_zero_and_top_k_one_take_the_first_maximum(logits in logits(), seed: u64, position: u64) {
            let highest = logits.iter().copied().fold(f32::MIN, f32::max);
            let first = logits.iter().position(|&l| l == highest).unwrap() as u32;
            prop_assert_eq!(sampling(0.0, 0, 1.0, seed).draw(&logits, position).unwrap(), first);
            prop_assert_eq!(sampling(1.0, 1, 1.0, seed).draw(&logits, position).unwrap(), first);
        }

        #[test]
        fn a_draw_depends_only_on_logits_seed_and_position(logits in logits(), seed: u64, position: u64) {
            let mut used = sampling(0.9, 20, 0.95, seed);
            used.draw(&logits, position.wrapping_add(1)).unwrap();
            let again = sampling(0.9, 20, 0.95, seed).draw(&logits, position).unwrap();
            prop_assert_eq!(used.draw(&logits, position).unwrap(), again);
        }

        #[test]
        fn forbidden_tokens_are_never_drawn(mut logits in logits(), position: u64) {
            logits.push(f32::NEG_INFINITY);
            let token = sampling(2.0, 0, 1.0, 3).draw(&logits, position).unwrap();
            prop_assert!((token as usize) < logits.len() - 1);
        }
    }

    #[test]
    fn min_p_keeps_what_is_likely_beside_the_likeliest() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
        let sampling = Sampling { temperature: 1.0, min_p: 0.25, ..Sampling::GREEDY };
        let kept = Sampler::new(sampling).unwrap().distribution(&logits).unwrap().to_vec();
        assert_eq!(kept.iter().map(|c| c.token).collect::<Vec<_>>(), [0, 1, 2]);
        assert!((kept[0].probability - 0.5 / 0.95).abs() < 1e-5);
    }

    #[test]
    fn penalties_lower_what_was_made_once_and_for_each_time() {
        let choose = |presence_penalty, frequency_penalty| {
            let sampling = Sampling { presence_penalty, frequency_penalty, ..Sampling::GREEDY };
            Sampler::new(sampling).unwrap().choose(&[3.0, 2.0, 1.0], &[0, 1, 0], None, 3).unwrap()
        };
        assert_eq!(choose(0.0, 0.0), 0);
        // 3 - 1.5 against 2 - 1.5 and 1.
        assert_eq!(choose(1.5, 0.0), 0);
        // 3 - 2 · 1.2 against 2 - 1.2 and 1.
        assert_eq!(choose(0.0, 1.2), 2);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.6f32.ln(), 0.3f32.ln(), 0.1f32.ln()];
        let mut sampler = sampling(1.0, 0, 1.0, 7);
        let mut counts = [0.0f64; 3];
        for position in 0..20_000 {
            counts[sampler.draw(&logits, position).unwrap() as usize] += 1.0 / 20_000.0;
        }
        for (count, expected) in counts.iter().zip([0.6, 0.3, 0.1]) {
            assert!((count - expected).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        let refused =
            |temperature, top_p| Sampling { temperature, top_p, ..Sampling::GREEDY }.validate().is_err();
        assert!(refused(-1.0, 1.0) && refused(f32::NAN, 1.0) && refused(1.0, 0.0) && refused(1.0, 1.5));
        assert!(!refused(0.0, 1.0));
    }

    #[test]
    fn a_nan_logit_is_refused_by_token() {
        let error = sampling(1.0, 0, 1.0, 0).draw(&[0.0, f32::NAN], 0).unwrap_err();
        assert!(matches!(error, SamplingError::Logit { token: 1, .. }));
    }
}
