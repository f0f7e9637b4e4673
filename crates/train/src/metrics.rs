//! Everything a run writes about itself while it goes: JSON lines and TensorBoard events.

use crate::checkpoint::Skipped;
use crate::directory::{JsonLines, RunDirectory};
use crate::events::EventWriter;
use crate::{Evaluation, StepReport, TrainError};

pub(crate) struct Metrics {
    steps: JsonLines,
    evaluations: JsonLines,
    skipped: JsonLines,
    events: EventWriter,
}

impl Metrics {
    /// Goes on after `step`; what the logs say of later steps is dropped.
    pub(crate) fn open(directory: &RunDirectory, step: u64) -> Result<Self, TrainError> {
        let folder = directory.path().join("tensorboard");
        Ok(Self {
            steps: JsonLines::open(directory, "metrics.jsonl", step)?,
            evaluations: JsonLines::open(directory, "evaluations.jsonl", step)?,
            skipped: JsonLines::open(directory, "skipped.jsonl", step)?,
            events: EventWriter::create(&folder, step)
                .map_err(|error| TrainError::io("create an event file in", folder, error))?,
        })
    }

    /// Allocates nothing once the buffers have grown.
    pub(crate) fn step(&mut self, report: &StepReport) -> Result<(), TrainError> {
        self.steps.push(report)?;
        let scalars = [
            ("train/loss", report.loss as f32),
            ("train/gradient norm", report.grad_norm as f32),
            ("train/learning rate", report.learning_rate),
            ("train/batch", report.batch as f32),
            ("train/loss scale", report.loss_scale.unwrap_or(1.0)),
            ("speed/tokens per second", report.tokens_per_s as f32),
            ("speed/share of peak", report.flops_share.unwrap_or(0.0) as f32),
        ];
        self.scalars(report.step, &scalars)
    }

    pub(crate) fn evaluation(&mut self, evaluation: &Evaluation) -> Result<(), TrainError> {
        self.evaluations.push(evaluation)?;
        let tag = format!("held out/{}", evaluation.source.display());
        self.scalars(evaluation.step, &[(&tag, evaluation.loss as f32)])
    }

    pub(crate) fn skipped(&mut self, skipped: &Skipped) -> Result<(), TrainError> {
        self.skipped.push(skipped)
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&mut self) -> Result<(), TrainError> {
        for log in [&mut self.steps, &mut self.evaluations, &mut self.skipped] {
            log.sync()?;
        }
        self.events.sync().map_err(|error| TrainError::io("write", self.events.path(), error))
    }

    fn scalars(&mut self, step: u64, scalars: &[(&str, f32)]) -> Result<(), TrainError> {
        let written = self.events.scalars(step, scalars);
        written.map_err(|error| TrainError::io("write", self.events.path(), error))
    }
}
