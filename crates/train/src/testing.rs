//! A small run for the tests of this crate.

use triax_spec::Model;
use triax_spec::run::*;

pub(crate) fn run(model: Model) -> Run {
    let sequence = model.sequence;
    Run {
        model,
        data: Data { blend: Vec::new(), validation: Vec::new(), seed: 1 },
        train: Train {
            precision: Precision::F32,
            seed: 1,
            sequence,
            global_batch: GlobalBatch::constant(4),
            learning_rate: LearningRate {
                peak: 1e-3,
                warmup: Amount::Steps(0),
                decay: Decay::Constant,
                over: Amount::Steps(10),
                floor: 0.0,
            },
            optimizer: Optimizer {
                kind: OptimizerKind::Adamw,
                betas: [0.9, 0.95],
                eps: 1e-8,
                weight_decay: 0.1,
                clip: 1.0,
            },
            stop: Amount::Steps(10),
            loss_scale: LossScale { initial: 65536.0, minimum: 1.0, window: 1000, hysteresis: 2 },
            on_spike: None,
            on_nonfinite: OnNonfinite { action: SpikeAction::Stop, limit: 0 },
            evaluate_every: 0,
            evaluate_samples: 0,
        },
        layout: Layout::single(2),
        checkpoint: Checkpoint { every: Amount::Steps(0), keep: 0 },
        numerics: Numerics::default(),
        device: Device { kind: DeviceKind::Cpu, threads: 1, kernel: Kernel::Auto },
    }
}
