//! A request under way: its jobs in the engine, and the texts that come back.

use crate::assembly::{Assembly, Piece};
use crate::core::{Core, Message};
use crate::error::ApiError;
use crate::vocabulary::Vocabulary;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Instant;
use triax_infer::{Event, Job, TokenScore};

/// How the texts of a request are told.
pub(crate) struct Telling {
    pub(crate) echo: bool,
    /// Strings that end a text.
    pub(crate) stops: Vec<String>,
    /// Whether a stop token is among the tokens of the text that it ends.
    pub(crate) stop_tokens: bool,
    /// The field that holds the prompts, for errors.
    pub(crate) param: &'static str,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) prompt: usize,
    pub(crate) completion: usize,
    pub(crate) cached: usize,
}

struct Choice {
    key: u64,
    assembly: Assembly,
    prompt: Vec<u32>,
    /// Scores of the prompt's tokens from the second on, while they come.
    scores: Vec<TokenScore>,
    awaited_scores: usize,
    over: bool,
}

/// Dropping it cancels what is not over.
pub(crate) struct Run {
    core: Arc<Core>,
    events: UnboundedReceiver<Message>,
    choices: Vec<Choice>,
    ready: VecDeque<(usize, Piece)>,
    deadline: Instant,
    param: &'static str,
    stop_tokens: bool,
    pub(crate) usage: Usage,
}

impl Run {
    /// Starts all jobs, or none. `per_prompt` neighbours have the same prompt.
    ///
    /// # Errors
    /// When a job is impossible, there is no room, or the server is stopping.
    pub(crate) fn start(
        core: &Arc<Core>,
        vocabulary: &Arc<Vocabulary>,
        jobs: Vec<Job>,
        per_prompt: usize,
        telling: &Telling,
        time: Duration,
    ) -> Result<Self, ApiError> {
        let shape = core.shape;
        for job in &jobs {
            job.check(shape.vocab, shape.context).map_err(|error| ApiError::infer(telling.param, &error))?;
        }
        let usage = Usage {
            prompt: jobs.iter().step_by(per_prompt).map(|job| job.prompt.len()).sum(),
            ..Usage::default()
        };
        let mut choices: Vec<Choice> = jobs
            .iter()
            .map(|job| Choice {
                key: 0,
                assembly: Assembly::new(Arc::clone(vocabulary), telling.stops.clone()),
                prompt: if telling.echo { job.prompt.clone() } else { Vec::new() },
                scores: Vec::new(),
                awaited_scores: job.score_from.map_or(0, |from| job.prompt.len().saturating_sub(from)),
                over: false,
            })
            .collect();
        let (sender, events) = unbounded_channel();
        let keys = core.submit(jobs, &sender)?;
        choices.iter_mut().zip(keys).for_each(|(choice, key)| choice.key = key);
        let mut run = Self {
            core: Arc::clone(core),
            events,
            choices,
            ready: VecDeque::new(),
            deadline: Instant::now() + time,
            param: telling.param,
            stop_tokens: telling.stop_tokens,
            usage,
        };
        for index in 0..run.choices.len() {
            if run.choices[index].awaited_scores == 0 {
                run.echo(index);
            }
        }
        Ok(run)
    }

    pub(crate) fn choices(&self) -> usize {
        self.choices.len()
    }

    /// The next piece of one of the texts; none when all are over.
    ///
    /// # Errors
    /// When a text fails, or time is up.
    pub(crate) async fn next(&mut self) -> Result<Option<(usize, Piece)>, ApiError> {
        loop {
            if let Some((index, piece)) = self.ready.pop_front() {
                return Ok(Some((index, piece)));
            }
            if self.choices.iter().all(|choice| choice.over) {
                return Ok(None);
            }
            match tokio::time::timeout_at(self.deadline, self.events.recv()).await {
                Err(_) => return Err(ApiError::time()),
                Ok(None) => return Err(ApiError::internal("the engine has stopped; see the server's log")),
                Ok(Some((index, event))) => self.take(index, event)?,
            }
        }
    }

    /// All texts whole.
    ///
    /// # Errors
    /// As [`Run::next`].
    pub(crate) async fn all(&mut self) -> Result<Vec<Piece>, ApiError> {
        let mut texts = vec![Piece::default(); self.choices.len()];
        while let Some((index, piece)) = self.next().await? {
            texts[index].append(piece);
        }
        Ok(texts)
    }

    fn take(&mut self, index: usize, event: Event) -> Result<(), ApiError> {
        let choice = &mut self.choices[index];
        if choice.over {
            return Ok(());
        }
        match event {
            Event::Prompt { score, .. } => {
                choice.scores.push(score);
                if choice.scores.len() == choice.awaited_scores {
                    self.echo(index);
                }
            }
            Event::Token(score) => {
                self.usage.completion += 1;
                let piece = choice.assembly.push(score);
                self.tell(index, piece);
            }
            Event::Stop(score) => {
                self.usage.completion += 1;
                if self.stop_tokens {
                    choice.assembly.stop(score);
                }
            }
            Event::End { finish, found } => {
                self.usage.cached += found;
                if choice.prompt.len() > 1 && choice.scores.len() < choice.awaited_scores {
                    return Err(ApiError::internal("a prompt's scores are not complete"));
                }
                let piece = choice.assembly.finish(finish);
                self.tell(index, piece);
            }
            Event::Failed(error) => return Err(ApiError::infer(self.param, &error)),
        }
        Ok(())
    }

    fn echo(&mut self, index: usize) {
        let choice = &mut self.choices[index];
        let mut piece = Piece::default();
        // Without scores, all tokens go without; with them, only the first.
        let without = choice.prompt.len() - choice.scores.len().min(choice.prompt.len());
        for (place, &token) in choice.prompt.iter().enumerate() {
            let score = place.checked_sub(without).map(|behind| &choice.scores[behind]);
            piece.append(choice.assembly.echo(token, score));
        }
        self.tell(index, piece);
    }

    fn tell(&mut self, index: usize, piece: Piece) {
        let choice = &mut self.choices[index];
        if piece.finish.is_some() {
            choice.over = true;
            // A stop string ends a text that the engine would go on with.
            self.core.cancel(choice.key);
        }
        if !piece.is_empty() {
            self.ready.push_back((index, piece));
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for choice in self.choices.iter().filter(|choice| !choice.over) {
            self.core.cancel(choice.key);
        }
    }
}
