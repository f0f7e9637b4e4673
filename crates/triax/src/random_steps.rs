//! Training steps of a run on random tokens: the trainer's own engine, without its files. What the bench
//! times and what the demo calibrates itself by.

use crate::failure::{Context, Failure, with_causes};
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use triax_model::MicroBatch;
use triax_spec::Run;
use triax_tensor::Device;
use triax_tensor::philox::Stream;
use triax_train::{Engine, Plan};

pub(crate) struct RandomSteps {
    engine: Engine,
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
    /// Allocates and initialises; every step is one micro-batch of the run.
    pub(crate) fn new(run: &Run, plan: Plan, device: Box<dyn Device>) -> Result<Self, Failure> {
        let mut engine = Engine::allocate(plan, device, triax_train::alone())
            .context(|| "cannot time a training step".to_owned())?;
        engine.initialise(run.train.seed);
        let stream = Stream::named(run.train.seed, "random tokens");
        let token =
            |index: usize| ((u64::from(stream.word(index as u64)) * run.model.vocab as u64) >> 32) as u32;
        let count = run.layout.micro_batch * run.train.sequence;
        let tokens = (0..count).map(token).collect();
        let targets = (1..=count).map(token).collect();
        Ok(Self { engine, run: run.clone(), tokens, targets, done: 0 })
    }

    /// Plans the run on a device.
    pub(crate) fn plan(run: &Run, device: &dyn Device) -> Result<Plan, Failure> {
        Plan::new(run, device).map_err(|error| Failure::usage(with_causes(&error)))
    }

    /// Forward, backward, clipping and the optimizer, at the peak learning rate.
    pub(crate) fn step(&mut self) -> Result<Step, Failure> {
        let begin = Instant::now();
        let optimizer = &self.run.train.optimizer;
        let mut batch =
            MicroBatch { tokens: &self.tokens, targets: &self.targets, prefix: None, first_sample: 0 };
        let failed = || "cannot time a training step".to_owned();
        let grad_scale = 1.0 / self.tokens.len() as f32;
        let sums = self.engine.step(&mut batch, 1, grad_scale, &AtomicBool::new(false)).context(failed)?;
        let norm = sums.gradient_squares.sqrt() as f32;
        let clip = if optimizer.clip > 0.0 && norm > optimizer.clip { optimizer.clip / norm } else { 1.0 };
        self.done += 1;
        let rate = self.run.train.learning_rate.peak;
        self.engine.update(optimizer, rate, clip, self.done).context(failed)?;
        Ok(Step { loss: sums.loss / self.tokens.len() as f64, seconds: begin.elapsed().as_secs_f64() })
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
