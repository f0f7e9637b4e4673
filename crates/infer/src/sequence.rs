//! One text on its way through the core: what was asked, and how far it is.

use crate::blocks::{Name, name};
use crate::distribution::Distribution;
use crate::{
    Finish, GenerateRequest, InferError, Sampler, Sampling, SamplingError, ScoreRequest, TokenScore,
};

/// Forbids tokens, for texts that must have a form.
pub trait Filter: Send {
    /// Sets the logits of tokens that may not come next to −∞.
    fn forbid(&mut self, logits: &mut [f32]);

    /// `token` was chosen. Whether the text is complete and ends here.
    fn accept(&mut self, token: u32) -> bool;
}

/// Something for the core to do.
pub struct Job {
    /// At least one token.
    pub prompt: Vec<u32>,
    /// Tell the log-probabilities of the prompt's tokens from this place on (at least 1).
    pub score_from: Option<usize>,
    /// How many of the likeliest tokens to tell for each place.
    pub top: usize,
    /// Tokens to tell behind the likeliest ones for each place, whatever their rank.
    pub also: Vec<u32>,
    /// Most tokens to add.
    pub max_tokens: usize,
    pub sampling: Sampling,
    /// Each ends the text and is left out of it.
    pub stop_tokens: Vec<u32>,
    pub filter: Option<Box<dyn Filter>>,
}

impl Job {
    /// A score needs no token to be made. `start` stands before an empty context.
    #[must_use]
    pub fn score(request: &ScoreRequest, start: Option<u32>) -> Self {
        let context = begin(&request.context, start);
        Self {
            score_from: Some(context.len()),
            prompt: [context, request.continuation.clone()].concat(),
            top: request.top,
            also: request.also.clone(),
            max_tokens: 0,
            sampling: Sampling::GREEDY,
            stop_tokens: Vec::new(),
            filter: None,
        }
    }

    /// `start` stands before an empty prompt.
    #[must_use]
    pub fn generate(request: &GenerateRequest, start: Option<u32>) -> Self {
        Self {
            prompt: begin(&request.prompt, start),
            score_from: None,
            top: request.top,
            also: Vec::new(),
            max_tokens: request.max_tokens,
            sampling: request.sampling,
            stop_tokens: request.stop_tokens.clone(),
            filter: None,
        }
    }

    /// # Errors
    /// When the prompt is empty, too long or has ids beyond the vocabulary, or a number is outside its range.
    pub fn check(&self, vocabulary: usize, context: usize) -> Result<(), InferError> {
        let tokens = self.prompt.len();
        // Nothing follows the last token of a text that is only scored.
        let capacity = if self.max_tokens == 0 { context + 1 } else { context };
        if tokens == 0 {
            return Err(InferError::Empty);
        }
        if tokens > capacity {
            return Err(InferError::TooLong { tokens, capacity });
        }
        if let Some(place) = self.prompt.iter().position(|&id| id as usize >= vocabulary) {
            return Err(InferError::Token { id: self.prompt[place], place, vocabulary });
        }
        if let Some(&id) = self.also.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(InferError::Token { id, place: tokens, vocabulary });
        }
        Ok(self.sampling.validate()?)
    }
}

/// An empty text starts behind the end of another.
fn begin(tokens: &[u32], start: Option<u32>) -> Vec<u32> {
    if tokens.is_empty() { start.into_iter().collect() } else { tokens.to_vec() }
}

/// Names a job within its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub(crate) u64);

pub(crate) struct Sequence {
    pub(crate) id: JobId,
    job: Job,
    sampler: Sampler,
    /// The prompt and what was made.
    pub(crate) tokens: Vec<u32>,
    /// Tokens in the network's memory.
    pub(crate) fed: usize,
    pub(crate) blocks: Vec<u32>,
    /// Of the full blocks of `tokens`, as far as they were needed.
    names: Vec<Name>,
    /// Next place of the prompt whose score is to be told; the prompt's length when all are.
    next_score: usize,
    /// Tokens found in memory when it last began.
    pub(crate) found: usize,
}

/// What a row of logits gave.
pub(crate) enum Outcome {
    Prompt(usize, TokenScore),
    Token(TokenScore),
}

impl Sequence {
    pub(crate) fn new(id: JobId, job: Job) -> Result<Self, SamplingError> {
        Ok(Self {
            id,
            sampler: Sampler::new(job.sampling)?,
            tokens: job.prompt.clone(),
            fed: 0,
            blocks: Vec::new(),
            names: Vec::new(),
            next_score: job.score_from.unwrap_or(job.prompt.len()).max(1),
            found: 0,
            job,
        })
    }

    pub(crate) fn prompt_len(&self) -> usize {
        self.job.prompt.len()
    }

    /// Nothing to compute: no token to make and no place to score.
    pub(crate) fn is_done(&self) -> bool {
        self.job.max_tokens == 0 && self.next_score >= self.prompt_len()
    }

    /// Tokens that must be in memory before the next token can be made, or the last score told.
    pub(crate) fn goal(&self) -> usize {
        if self.job.max_tokens == 0 { self.tokens.len() - 1 } else { self.tokens.len() }
    }

    /// Only the last token is new.
    pub(crate) fn is_decoding(&self) -> bool {
        self.fed + 1 == self.goal() && self.tokens.len() > self.prompt_len()
    }

    /// The first row whose logits are wanted: what lies before it may come from memory.
    pub(crate) fn first_wanted_row(&self) -> usize {
        if self.next_score < self.prompt_len() { self.next_score - 1 } else { self.goal() - 1 }
    }

    /// Tokens that must come in one piece where a prompt is seen in both directions.
    pub(crate) fn whole_prompt(&self) -> usize {
        self.job.score_from.unwrap_or(self.prompt_len()).clamp(1, self.goal())
    }

    /// How many of the last rows before `end` want logits.
    pub(crate) fn wanted_rows(&self, end: usize) -> usize {
        if self.next_score >= self.prompt_len() && end < self.goal() {
            return 0;
        }
        end.saturating_sub(self.first_wanted_row().max(self.fed))
    }

    /// The name of full block `index` of the tokens.
    pub(crate) fn name(&mut self, index: usize, block: usize) -> Name {
        while self.names.len() <= index {
            let start = self.names.len() * block;
            self.names.push(name(self.names.last(), &self.tokens[start..start + block]));
        }
        self.names[index]
    }

    /// Takes the logits behind token `row`.
    pub(crate) fn take(&mut self, row: usize, logits: &[f32]) -> Result<Outcome, SamplingError> {
        let distribution = Distribution::new(logits)?;
        if row + 1 < self.prompt_len() {
            let place = row + 1;
            debug_assert_eq!(place, self.next_score);
            self.next_score = place + 1;
            return Ok(Outcome::Prompt(
                place,
                distribution.score(self.tokens[place], self.job.top, &self.job.also),
            ));
        }
        let made = &self.tokens[self.prompt_len()..];
        let filter = self.job.filter.as_deref_mut();
        let token = self.sampler.choose(logits, made, filter, (row + 1) as u64)?;
        self.tokens.push(token);
        Ok(Outcome::Token(distribution.score(token, self.job.top, &self.job.also)))
    }

    /// Whether the token just made ends the text, and whether it belongs to it.
    pub(crate) fn ending(&mut self, context: usize) -> (Option<Finish>, bool) {
        let token = self.tokens[self.tokens.len() - 1];
        if self.job.stop_tokens.contains(&token) {
            return (Some(Finish::Stop), false);
        }
        let complete = self.job.filter.as_mut().is_some_and(|filter| filter.accept(token));
        let made = self.tokens.len() - self.prompt_len();
        let finish = if complete {
            Some(Finish::Stop)
        } else if made >= self.job.max_tokens {
            Some(Finish::Length)
        } else {
            (self.tokens.len() > context).then_some(Finish::Context)
        };
        (finish, true)
    }
}
