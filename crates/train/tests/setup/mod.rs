//! A tiny model, tiny token files and a run over them.
#![allow(clippy::unwrap_used, reason = "only tests use this module; a failed set-up fails the test")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use triax_data::{TokenType, Writer};
use triax_spec::model::*;
use triax_spec::run::{self, *};
use triax_tensor::Device;
use triax_tensor::cpu::{Cpu, Kernel as CpuKernel};
use triax_train::{Observer, Outcome, Plan, Resume, Start, StepReport, TrainError, Trainer};

pub(crate) const SEQUENCE: usize = 8;
pub(crate) const VOCAB: usize = 29;

pub(crate) fn model() -> Model {
    Model {
        layers: 2,
        hidden: 16,
        heads: 2,
        kv_heads: 2,
        head_dim: 8,
        ffn: 32,
        vocab: VOCAB,
        sequence: SEQUENCE,
        norm: NormKind::Layer,
        norm_eps: 1e-5,
        activation: Activation::Gelu,
        positions: Positions::Learned,
        bias: true,
        tied: true,
        mask: triax_spec::model::Mask::Causal,
        dropout: Dropout { embedding: 0.1, attention: 0.1, hidden: 0.1 },
        init: Init { std: 0.05, scale_outputs: true },
    }
}

/// Writes `documents` as a `.bin/.idx` pair.
pub(crate) fn tokens(folder: &Path, name: &str, documents: impl IntoIterator<Item = Vec<u32>>) -> PathBuf {
    let prefix = folder.join(name);
    let mut writer = Writer::create(&prefix, TokenType::U16, None).unwrap();
    for document in documents {
        writer.push_document(&document).unwrap();
    }
    writer.finish().unwrap();
    prefix
}

/// Pseudo-random ids that a model can learn something of: each depends on the one before.
pub(crate) fn text(seed: u64, length: usize) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut last = 0u32;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            last = (last * 3 + 1 + ((state >> 60) as u32 & 3)) % VOCAB as u32;
            last
        })
        .collect()
}

/// Two sources in a blend, one held out.
pub(crate) fn run(data: &Path) -> Run {
    let blend = vec![
        Source { path: tokens(data, "first", [text(1, 300), text(2, 500)]), weight: 2.0 },
        Source { path: tokens(data, "second", [text(3, 400)]), weight: 1.0 },
    ];
    let validation = vec![Source { path: tokens(data, "held-out", [text(4, 100)]), weight: 1.0 }];
    Run {
        model: model(),
        data: Data { blend, validation, seed: 7 },
        train: Train {
            precision: Precision::F32,
            seed: 11,
            sequence: SEQUENCE,
            global_batch: GlobalBatch { start: 2, step: 2, end: 6, over: Amount::Samples(40) },
            learning_rate: LearningRate {
                peak: 1e-2,
                warmup: Amount::Samples(10),
                decay: Decay::Cosine,
                over: Amount::Samples(100),
                floor: 1e-3,
            },
            optimizer: Optimizer {
                kind: OptimizerKind::Adamw,
                betas: [0.9, 0.95],
                eps: 1e-8,
                weight_decay: 0.1,
                clip: 1.0,
            },
            stop: Amount::Steps(30),
            loss_scale: LossScale::default(),
            on_spike: None,
            on_nonfinite: OnNonfinite { action: SpikeAction::Stop, limit: 1 },
            evaluate_every: 10,
            evaluate_samples: 100,
        },
        layout: Layout::single(2),
        checkpoint: Checkpoint { every: Amount::Steps(4), keep: 2 },
        numerics: Numerics::default(),
        device: run::Device { kind: DeviceKind::Cpu, threads: 1, kernel: Kernel::Auto },
    }
}

pub(crate) fn device(run: &Run) -> Box<dyn Device> {
    Box::new(Cpu::new(run.device.threads, CpuKernel::Auto).unwrap())
}

pub(crate) fn open(run: &Run, directory: &Path, start: Start) -> Result<Trainer, TrainError> {
    let device = device(run);
    let plan = Plan::new(run, &*device)?;
    Trainer::open(plan, device, triax_train::alone(), directory, start)
}

/// Every step of a run.
#[derive(Default)]
pub(crate) struct Steps(pub Vec<StepReport>);

impl Observer for Steps {
    fn step(&mut self, step: &StepReport) {
        self.0.push(*step);
    }
}

/// Runs to the end; the trainer and what it told.
pub(crate) fn train(run: &Run, directory: &Path, resume: Resume) -> (Trainer, Vec<StepReport>) {
    let mut trainer = open(run, directory, Start::new(resume)).unwrap();
    let mut steps = Steps::default();
    let outcome = trainer.train(&mut steps).unwrap();
    assert!(matches!(outcome, Outcome::Finished(_)));
    (trainer, steps.0)
}

/// Sets the stop flag in a given step, as a signal would.
struct StopAt(u64, Arc<AtomicBool>, Steps);

impl Observer for StopAt {
    fn step(&mut self, step: &StepReport) {
        self.2.step(step);
        if step.step == self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

/// Runs to `step` and is stopped there.
pub(crate) fn train_until(run: &Run, directory: &Path, step: u64) -> Vec<StepReport> {
    let start = Start::new(Resume::IfPresent);
    let mut observer = StopAt(step, Arc::clone(&start.stop), Steps::default());
    let mut trainer = open(run, directory, start).unwrap();
    let outcome = trainer.train(&mut observer).unwrap();
    assert!(matches!(outcome, Outcome::Stopped(progress) if progress.step == step));
    observer.2.0
}

/// The bits of all weights and moments.
pub(crate) fn state_bits(trainer: &Trainer) -> Vec<(String, Vec<u32>)> {
    let engine = trainer.engine();
    let read = |(index, shape): (usize, triax_train::checkpoint::TensorShape)| {
        let mut values = vec![0f32; shape.elements()];
        engine.read_tensor(index, &mut values);
        (shape.name, values.into_iter().map(f32::to_bits).collect())
    };
    engine.tensors().into_iter().enumerate().map(read).collect()
}

/// Step, position and the bits of what was computed; not the times.
pub(crate) fn step_bits(step: &StepReport) -> (u64, u64, u64, u64, u32) {
    (step.step, step.samples, step.loss.to_bits(), step.grad_norm.to_bits(), step.learning_rate.to_bits())
}
