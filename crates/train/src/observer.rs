//! What a run tells while it goes: plain values for a progress bar, a log or a test.

use crate::checkpoint::Saved;
use crate::watch::{Alarm, Response};
use serde::Serialize;
use std::path::PathBuf;
use triax_spec::Progress;

/// Gets told; every method may be left out.
pub trait Observer {
    fn started(&mut self, _started: &Started) {}
    /// After every step, skipped ones too.
    fn step(&mut self, _step: &StepReport) {}
    /// A loss or gradient norm that is not trusted, and what was done.
    fn alarm(&mut self, _step: u64, _alarm: &Alarm, _response: Response) {}
    /// A checkpoint is on disk.
    fn checkpoint(&mut self, _saved: &Saved) {}
    fn evaluation(&mut self, _evaluation: &Evaluation) {}
    fn stopped(&mut self, _outcome: &Outcome) {}
}

/// Tells nobody.
impl Observer for () {}

#[derive(Clone, Debug)]
pub struct Started {
    /// The checkpoint the run goes on from.
    pub resumed: Option<PathBuf>,
    pub progress: Progress,
    /// Where the run will stand when it is done.
    pub end: Progress,
    pub parameters: u64,
    /// What computes, for people.
    pub device: String,
    /// The checkpoint was made with another blend; the new one begins at the present sample.
    pub blend_changed: bool,
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// Steps done, this one included; so are samples and tokens.
    pub step: u64,
    pub samples: u64,
    pub tokens: u64,
    /// Sequences in this step.
    pub batch: u64,
    /// Mean over the tokens that count, in nats.
    pub loss: f64,
    /// Before clipping.
    pub grad_norm: f64,
    pub learning_rate: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f32>,
    /// Why the step did not change the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<&'static str>,
    pub step_s: f64,
    pub tokens_per_s: f64,
    /// Model FLOPs, see [`triax_spec::flops_per_token`].
    pub flops_per_s: f64,
    /// Of the machine's peak, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flops_share: Option<f64>,
}

/// One line of `evaluations.jsonl`: the loss on one held-out source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    pub step: u64,
    pub source: PathBuf,
    /// Mean over the tokens, in nats.
    pub loss: f64,
    pub tokens: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `train.stop` was reached.
    Finished(Progress),
    /// Asked to stop: the step was finished and saved.
    Stopped(Progress),
}

impl Outcome {
    pub const fn progress(&self) -> Progress {
        match self {
            Self::Finished(progress) | Self::Stopped(progress) => *progress,
        }
    }
}
