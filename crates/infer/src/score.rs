//! How likely the network finds a given text: `ln p(continuation | context)`, token by token.

use crate::generate::{check, log_probability};
use crate::{Decode, InferError};

/// The log-probabilities of a continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Natural logarithms, one for each token of the continuation.
    pub log_probabilities: Vec<f32>,
    /// Whether the network would have chosen just these tokens at temperature 0.
    pub greedy: bool,
}

impl Score {
    /// `ln p` of the whole continuation.
    pub fn sum(&self) -> f64 {
        self.log_probabilities.iter().map(|&l| f64::from(l)).sum()
    }
}

/// Scores `continuation` after `context` (at least one token; the end-of-document token for a text's begin).
///
/// # Errors
/// When the context is empty, both together exceed the network's context, or an id is beyond the vocabulary.
pub fn score<D: Decode + ?Sized>(
    network: &mut D,
    context: &[u32],
    continuation: &[u32],
) -> Result<Score, InferError> {
    if context.is_empty() {
        return Err(InferError::Empty);
    }
    let text = [context, continuation].concat();
    check(network, &text)?;
    network.clear();
    let mut score = Score { log_probabilities: Vec::with_capacity(continuation.len()), greedy: true };
    let mut fresh = context;
    for place in context.len()..text.len() {
        let (logits, id) = (network.feed(fresh), text[place]);
        score.log_probabilities.push(log_probability(logits, id));
        let chosen = logits[id as usize];
        score.greedy &=
            logits.iter().enumerate().all(|(t, &l)| l < chosen || (l == chosen && t >= id as usize));
        fresh = &text[place..=place];
    }
    Ok(score)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::tests::Counting;

    #[test]
    fn an_expected_continuation_is_greedy_and_its_score_the_sum_of_its_tokens() {
        let score = score(&mut Counting::new(10, 32), &[1, 2], &[3, 4]).unwrap();
        let expected = 2.0 * (4.0 - (4.0f64.exp() + 9.0).ln());
        assert!(score.greedy && (score.sum() - expected).abs() < 1e-5);
    }

    #[test]
    fn a_surprise_costs_its_logit_and_is_not_greedy() {
        let score = score(&mut Counting::new(10, 32), &[1, 2], &[3, 9]).unwrap();
        let difference = score.log_probabilities[0] - score.log_probabilities[1];
        assert!(!score.greedy && (difference - 4.0).abs() < 1e-5);
    }

    #[test]
    fn a_text_longer_than_the_context_is_refused() {
        let error = score(&mut Counting::new(10, 4), &[1, 2, 3], &[4, 5]).unwrap_err();
        assert_eq!(error, InferError::TooLong { tokens: 5, capacity: 4 });
    }
}
