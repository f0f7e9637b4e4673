//! Training steps of a run on random tokens: the trainer's own engine, without its files. What the bench
//! times and what the demo calibrates itself by.

use crate::failure::{Failure, with_causes};
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use triax_comm::Collective;
use triax_model::MicroBatch;
use triax_plan::Layout;
use triax_spec::Run;
use triax_tensor::Device;
use triax_tensor::philox::Stream;
use triax_train::{Engine, Plan, TrainError};

pub(crate) struct RandomSteps {
    engine: Engine,
    layout: Layout,
    run: Run,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    done: u64,
}

/// One step: the mean loss before it, in nats, and how long it took.
pub(crate) struct Step {
    pub(crate) loss: f64,
    pub(crate) seconds: f64,
}

impl RandomSteps {
    /// Allocates and initialises. Every micro-batch of a step is the same random text.
    pub(crate) fn new(
        run: &Run,
        plan: Plan,
        device: Box<dyn Device>,
        collective: Box<dyn Collective>,
    ) -> Result<Self, TrainError> {
        let layout = plan.layout().clone();
        let mut engine = Engine::allocate(plan, device, collective)?;
        engine.initialise(run.train.seed);
        let stream = Stream::named(run.train.seed, "random tokens");
        let token =
            |index: usize| ((u64::from(stream.word(index as u64)) * run.model.vocab as u64) >> 32) as u32;
        let count = run.layout.micro_batch * run.train.sequence;
        let tokens = (0..count).map(token).collect();
        let targets = (1..=count).map(token).collect();
        Ok(Self { engine, layout, run: run.clone(), tokens, targets, done: 0 })
    }

    /// Plans the run on one rank.
    pub(crate) fn plan(run: &Run, device: &dyn Device) -> Result<Plan, Failure> {
        Plan::new(run, device).map_err(|error| Failure::usage(with_causes(&error)))
    }

    /// The orderly end of this rank.
    pub(crate) fn leave(mut self) -> Result<(), TrainError> {
        self.engine.leave()
    }

    /// Forward, backward, clipping and the optimizer, at the peak learning rate.
    pub(crate) fn step(&mut self) -> Result<Step, TrainError> {
        let begin = Instant::now();
        let optimizer = &self.run.train.optimizer;
        let mut batch =
            MicroBatch { tokens: &self.tokens, targets: &self.targets, prefix: None, first_sample: 0 };
        let samples = self.run.train.global_batch.end;
        let tokens = (samples * self.run.train.sequence as u64) as f64;
        let micro_batches = self.layout.micro_batches(samples);
        let grad_scale = (1.0 / tokens) as f32;
        let sums = self.engine.step(&mut batch, micro_batches, grad_scale, &AtomicBool::new(false))?;
        let norm = sums.gradient_squares.sqrt() as f32;
        let clip = if optimizer.clip > 0.0 && norm > optimizer.clip { optimizer.clip / norm } else { 1.0 };
        self.done += 1;
        self.engine.update(optimizer, self.run.train.learning_rate.peak, clip, self.done)?;
        Ok(Step { loss: sums.loss / tokens, seconds: begin.elapsed().as_secs_f64() })
    }
}

/// The middle one; the upper of the two middle ones of an even number.
///
/// # Panics
/// Without values.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
