//! Requests and replies of the core, and [`Scorer`]: all that an evaluator needs to know of a network.

use crate::{Sampling, SamplingError};

/// How likely is `continuation` after `context`?
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScoreRequest {
    /// May be empty: then a document start is assumed.
    pub context: Vec<u32>,
    pub continuation: Vec<u32>,
    /// How many of the likeliest tokens to tell for each place.
    pub top: usize,
    /// Tokens to tell behind the likeliest ones for each place, whatever their rank.
    pub also: Vec<u32>,
}

/// One entry for each token of the continuation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoreReply {
    /// Natural logarithms.
    pub log_probs: Vec<f32>,
    /// No token was likelier.
    pub greedy: Vec<bool>,
    /// The `top` likeliest tokens, likeliest first, equal ones by id; then those of `also` in its order.
    pub top: Vec<Vec<(u32, f32)>>,
}

impl ScoreReply {
    /// `ln p` of the whole continuation.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.log_probs.iter().map(|&l| f64::from(l)).sum()
    }

    /// Whether temperature 0 would have given just this continuation.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.greedy.iter().all(|&greedy| greedy)
    }
}

/// What to continue, and how far.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// May be empty: then a document start is assumed.
    pub prompt: Vec<u32>,
    /// Most tokens to add.
    pub max_tokens: usize,
    pub sampling: Sampling,
    /// Each ends the text and is left out of it.
    pub stop_tokens: Vec<u32>,
    /// How many of the likeliest tokens to tell for each place.
    pub top: usize,
}

/// A token in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    pub token: u32,
    /// Natural logarithm of its probability under the network as trained (no temperature, no cuts).
    pub log_prob: f32,
    /// No token was likelier.
    pub greedy: bool,
    /// The likeliest tokens, likeliest first, equal ones by id; then others that were asked for.
    pub top: Vec<(u32, f32)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The new tokens, without the stop token.
    pub tokens: Vec<TokenScore>,
    pub finish: Finish,
}

impl Generated {
    #[must_use]
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|score| score.token).collect()
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The network gave a stop token, or a filter was satisfied.
    Stop,
    /// `max_tokens` were made.
    Length,
    /// The network's context is full.
    Context,
    /// The caller asked for the end.
    Cancelled,
}

impl Finish {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Context => "context",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Token ids in, log-probabilities and tokens out. Results do not depend on what else is asked, or when.
pub trait Scorer {
    /// Ids are below this.
    fn vocab(&self) -> usize;

    /// Most tokens of a text that the network sees.
    fn context_length(&self) -> usize;

    /// Replies in the order of the requests. A request's context and continuation together may have one token
    /// more than the context length: nothing follows the last one.
    ///
    /// # Errors
    /// When a request is too long or has ids beyond the vocabulary, or logits are not finite.
    fn score(&mut self, requests: &[ScoreRequest]) -> Result<Vec<ScoreReply>, InferError>;

    /// Replies in the order of the requests.
    ///
    /// # Errors
    /// As [`Scorer::score`], and when sampling numbers are outside their range.
    fn generate(&mut self, requests: &[GenerateRequest]) -> Result<Vec<Generated>, InferError>;
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InferError {
    #[error(
        "the text has no tokens, and the tokenizer no end-of-document token to begin with: give at least one token"
    )]
    Empty,
    #[error(
        "token {id} at place {place} is beyond the network's vocabulary of {vocabulary}: is this its tokenizer?"
    )]
    Token { id: u32, place: usize, vocabulary: usize },
    #[error(
        "the text has {tokens} tokens, the network's context holds {capacity}: shorten it to at most {capacity}"
    )]
    TooLong { tokens: usize, capacity: usize },
    /// The network is behind something else, and that failed.
    #[error("{message}")]
    Elsewhere { message: String },
    #[error(transparent)]
    Sampling(#[from] SamplingError),
}
