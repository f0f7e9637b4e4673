//! Continuing a text, token by token.

use crate::{Decode, Sampler, Sampling, SamplingError};
use std::ops::ControlFlow;

/// What to continue, and how far.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// At least one token (an empty text starts with the end-of-document token).
    pub prompt: &'a [u32],
    /// Most tokens to add.
    pub max_tokens: usize,
    /// Ends the text; usually the end-of-document token.
    pub stop: Option<u32>,
    pub sampling: Sampling,
}

/// One new token, as the callback of [`generate`] sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token {
    pub id: u32,
    /// Natural logarithm of its probability under the network as trained (no temperature, no cuts).
    pub log_probability: f32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The new tokens, without the stop token.
    pub tokens: Vec<Token>,
    pub finish: Finish,
}

/// Why the text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The network gave the stop token.
    Stop,
    /// `max_tokens` were made.
    Length,
    /// The network's context is full.
    Context,
    /// The callback asked for the end.
    Cancelled,
}

impl Finish {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Context => "context",
            Self::Cancelled => "cancelled",
        }
    }
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InferError {
    #[error("the text has no tokens; begin with the end-of-document token to start from nothing")]
    Empty,
    #[error(
        "token {id} at place {place} is beyond the network's vocabulary of {vocabulary}: is this its tokenizer?"
    )]
    Token { id: u32, place: usize, vocabulary: usize },
    #[error(
        "the text has {tokens} tokens, the network's context holds {capacity}: shorten it to at most {capacity}"
    )]
    TooLong { tokens: usize, capacity: usize },
    #[error(transparent)]
    Sampling(#[from] SamplingError),
}

/// Continues `request.prompt`; `each` sees every new token at once and may end the text.
///
/// # Errors
/// When the prompt is empty, too long or has ids beyond the vocabulary, or the logits are not finite.
pub fn generate<D: Decode + ?Sized>(
    network: &mut D,
    request: &Request<'_>,
    mut each: impl FnMut(Token) -> ControlFlow<()>,
) -> Result<Generated, InferError> {
    check(network, request.prompt)?;
    let mut sampler = Sampler::new(request.sampling)?;
    let mut tokens = Vec::new();
    network.clear();
    let mut fresh = request.prompt.to_vec();
    let mut position = 0;
    let finish = loop {
        if tokens.len() == request.max_tokens {
            break Finish::Length;
        }
        if position + fresh.len() > network.capacity() {
            break Finish::Context;
        }
        let logits = network.feed(&fresh);
        position += fresh.len();
        let id = sampler.draw(logits, position as u64)?;
        if request.stop == Some(id) {
            break Finish::Stop;
        }
        let token = Token { id, log_probability: log_probability(logits, id) };
        tokens.push(token);
        if each(token).is_break() {
            break Finish::Cancelled;
        }
        fresh.clear();
        fresh.push(id);
    };
    Ok(Generated { tokens, finish })
}

/// `logits[id] - ln Σ exp(logits)`.
pub(crate) fn log_probability(logits: &[f32], id: u32) -> f32 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from((l - highest).exp())).sum();
    (f64::from(logits[id as usize] - highest) - sum.ln()) as f32
}

pub(crate) fn check<D: Decode + ?Sized>(network: &D, tokens: &[u32]) -> Result<(), InferError> {
    let (vocabulary, capacity) = (network.vocabulary(), network.capacity());
    if tokens.is_empty() {
        return Err(InferError::Empty);
    }
    if tokens.len() > capacity {
        return Err(InferError::TooLong { tokens: tokens.len(), capacity });
    }
    match tokens.iter().position(|&id| id as usize >= vocabulary) {
        Some(place) => Err(InferError::Token { id: tokens[place], place, vocabulary }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::tests::Counting;

    fn request(prompt: &[u32], max_tokens: usize, stop: Option<u32>) -> Request<'_> {
        Request { prompt, max_tokens, stop, sampling: Sampling::GREEDY }
    }

    fn ids(generated: &Generated) -> Vec<u32> {
        generated.tokens.iter().map(|t| t.id).collect()
    }

    fn run(network: &mut Counting, request: &Request<'_>) -> Generated {
        generate(network, request, |_| ControlFlow::Continue(())).unwrap()
    }

    #[test]
    fn greedy_text_follows_the_network_until_the_length() {
        let generated = run(&mut Counting::new(10, 32), &request(&[3, 4], 4, None));
        assert_eq!((ids(&generated), generated.finish), (vec![5, 6, 7, 8], Finish::Length));
    }

    #[test]
    fn the_stop_token_ends_the_text_and_is_left_out() {
        let generated = run(&mut Counting::new(10, 32), &request(&[3], 100, Some(7)));
        assert_eq!((ids(&generated), generated.finish), (vec![4, 5, 6], Finish::Stop));
    }

    #[test]
    fn a_full_context_ends_the_text() {
        let mut network = Counting::new(10, 5);
        let generated = run(&mut network, &request(&[1, 2, 3], 100, None));
        assert_eq!(generated.finish, Finish::Context);
        assert_eq!((generated.tokens.len(), network.fed.len()), (3, 5));
    }

    #[test]
    fn the_callback_sees_each_token_and_may_cancel() {
        let mut seen = Vec::new();
        let generated = generate(&mut Counting::new(10, 32), &request(&[0], 100, None), |token| {
            seen.push(token.id);
            if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert_eq!((seen, generated.finish), (vec![1, 2, 3], Finish::Cancelled));
    }

    #[test]
    fn the_same_seed_gives_the_same_text_and_another_seed_another() {
        let text = |seed| {
            let sampling = Sampling { temperature: 3.0, top_k: 0, top_p: 1.0, seed };
            let request = Request { prompt: &[1], max_tokens: 40, stop: None, sampling };
            ids(&run(&mut Counting::new(10, 64), &request))
        };
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }

    #[test]
    fn log_probabilities_are_those_of_the_network_without_temperature() {
        let generated = run(&mut Counting::new(10, 32), &request(&[0], 1, None));
        let expected = 4.0 - (4.0f64.exp() + 9.0).ln();
        assert!((f64::from(generated.tokens[0].log_probability) - expected).abs() < 1e-5);
    }

    #[test]
    fn impossible_prompts_are_refused() {
        let refuse = |prompt: &[u32]| {
            generate(&mut Counting::new(10, 4), &request(prompt, 1, None), |_| ControlFlow::Continue(()))
                .unwrap_err()
        };
        assert_eq!(refuse(&[]), InferError::Empty);
        assert_eq!(refuse(&[0; 5]), InferError::TooLong { tokens: 5, capacity: 4 });
        assert_eq!(refuse(&[1, 10]), InferError::Token { id: 10, place: 1, vocabulary: 10 });
    }
}
