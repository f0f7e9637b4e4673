//! Compares two runs that must be the same: every step's loss and norm, and all weights and moments at the end.

use crate::checkpoint::{Checkpoint, list};
use crate::{Evaluation, Observer, StepReport, TrainError};
use std::path::{Path, PathBuf};

/// What a run computed, told by the run itself and by its last checkpoint.
#[derive(Debug)]
pub struct Evidence {
    steps: Vec<StepReport>,
    held_out: Vec<Evaluation>,
    checkpoint: Checkpoint,
}

/// Notes what [`Evidence`] needs while a run goes.
#[derive(Default)]
pub struct Witness {
    steps: Vec<StepReport>,
    held_out: Vec<Evaluation>,
}

impl Observer for Witness {
    fn step(&mut self, step: &StepReport) {
        self.steps.push(*step);
    }

    fn evaluation(&mut self, evaluation: &Evaluation) {
        self.held_out.push(evaluation.clone());
    }
}

impl Witness {
    /// With the newest checkpoint of the run directory, every byte of it verified.
    pub fn evidence(self, run_directory: &Path) -> Result<Evidence, TrainError> {
        let newest = list(run_directory)?.pop().map_or_else(PathBuf::new, |(_, folder)| folder);
        let checkpoint = Checkpoint::open(&newest)?;
        checkpoint.verify()?;
        Ok(Evidence { steps: self.steps, held_out: self.held_out, checkpoint })
    }
}

impl Evidence {
    /// Every step, in order.
    pub fn steps(&self) -> &[StepReport] {
        &self.steps
    }
}

/// The first place where two runs part.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Difference {
    #[error("{found} steps instead of {expected}")]
    Steps { found: usize, expected: usize },
    #[error("step {step}: {what} is {found:?} instead of {expected:?} (bits {:016x} and {:016x})", found.to_bits(), expected.to_bits())]
    Step { step: u64, what: &'static str, found: f64, expected: f64 },
    #[error("held-out loss after step {step}: {found:?} instead of {expected:?}")]
    HeldOut { step: u64, found: f64, expected: f64 },
    #[error("element {element} of `{tensor}` is {found:?} instead of {expected:?}; {more} more of it differ")]
    Tensor { tensor: String, element: usize, found: f32, expected: f32, more: usize },
}

/// None when all bits are equal; of a run that was resumed, from its first step here on.
pub fn difference(found: &Evidence, expected: &Evidence) -> Result<Option<Difference>, TrainError> {
    let first = found.steps.first().map_or(0, |step| step.step);
    let expected_steps: Vec<&StepReport> = expected.steps.iter().filter(|step| step.step >= first).collect();
    for (found, expected) in found.steps.iter().zip(&expected_steps) {
        let step = found.step;
        let values = [
            ("the position", found.samples as f64, expected.samples as f64),
            ("the loss", found.loss, expected.loss),
            ("the gradient norm", found.grad_norm, expected.grad_norm),
            ("the learning rate", f64::from(found.learning_rate), f64::from(expected.learning_rate)),
        ];
        for (what, found, expected) in values {
            if found.to_bits() != expected.to_bits() {
                return Ok(Some(Difference::Step { step, what, found, expected }));
            }
        }
    }
    let (steps, expected_steps) = (found.steps.len(), expected_steps.len());
    if steps != expected_steps {
        return Ok(Some(Difference::Steps { found: steps, expected: expected_steps }));
    }
    let later = expected.held_out.iter().filter(|evaluation| evaluation.step >= first);
    for (found, expected) in found.held_out.iter().zip(later) {
        if found.loss.to_bits() != expected.loss.to_bits() {
            let (step, found, expected) = (found.step, found.loss, expected.loss);
            return Ok(Some(Difference::HeldOut { step, found, expected }));
        }
    }
    for tensor in &expected.checkpoint.manifest().tensors {
        let read = |evidence: &Evidence| {
            let mut values = Vec::new();
            evidence.checkpoint.read(&tensor.name, |_, piece| values.extend_from_slice(piece))?;
            Ok::<Vec<f32>, TrainError>(values)
        };
        let (found, expected) = (read(found)?, read(expected)?);
        let differ = |index: &usize| found[*index].to_bits() != expected[*index].to_bits();
        let mut different = (0..expected.len()).filter(differ);
        if let Some(element) = different.next() {
            return Ok(Some(Difference::Tensor {
                tensor: tensor.name.clone(),
                element,
                found: found[element],
                expected: expected[element],
                more: different.count(),
            }));
        }
    }
    Ok(None)
}
