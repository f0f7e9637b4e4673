//! Fifty f32 steps on PyTorch's weights and data give PyTorch's losses.
//!
//! The golden file says how far PyTorch's own f32 curve lies from f64 (`deviation.curve`, about 3e-6); ours may be as
//! far off on the other side and sums in another order, so four times that is allowed.

use crate::setup::{device, run};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use triax_spec::run::{Amount, GlobalBatch, OptimizerKind};
use triax_train::{Engine, Plan, alone};

const BATCH: usize = 2;

fn curve(name: &str) {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/golden").join(name);
    let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let numbers = header.metadata().clone().unwrap();
    let number = |key: &str| -> f32 { numbers[key].parse().unwrap() };
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let ids = |key: &str| -> Vec<u32> {
        let data = golden.tensor(key).unwrap();
        data.data().as_chunks::<4>().0.iter().map(|&id| u32::from_le_bytes(id)).collect()
    };
    let (tokens, targets) = (ids("curve.tokens"), ids("curve.targets"));
    let losses: Vec<f32> = golden
        .tensor("curve.losses")
        .unwrap()
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&loss| f32::from_le_bytes(loss))
        .collect();

    let imported = triax_model::hf::import(&folder).unwrap();
    let data = tempfile::tempdir().unwrap();
    let mut run = run(data.path());
    run.model = imported.model.clone();
    run.train.sequence = imported.model.sequence;
    run.train.global_batch = GlobalBatch::constant(BATCH as u64);
    run.train.stop = Amount::Steps(50);
    run.train.optimizer = triax_spec::run::Optimizer {
        kind: OptimizerKind::Adamw,
        betas: [number("beta1"), number("beta2")],
        eps: number("eps"),
        weight_decay: number("weight_decay"),
        clip: 0.0,
    };
    let device = device(&run);
    let plan = Plan::new(&run, &*device).unwrap();
    let mut engine = Engine::allocate(plan, device, alone()).unwrap();
    engine.load_weights(&imported).unwrap();

    let each = tokens.len() / losses.len();
    let mut worst = 0f64;
    for (step, &golden) in losses.iter().enumerate() {
        let place = step * each..(step + 1) * each;
        let mut batch = triax_model::MicroBatch {
            tokens: &tokens[place.clone()],
            targets: &targets[place],
            prefix: None,
            first_sample: 0,
        };
        let sums = engine.step(&mut batch, 1, 1.0 / each as f32, &AtomicBool::new(false)).unwrap();
        engine.update(&run.train.optimizer, number("lr"), 1.0, step as u64 + 1).unwrap();
        worst = worst.max((sums.loss / each as f64 - f64::from(golden)).abs());
    }
    let allowed = 4.0 * f64::from(number("deviation.curve"));
    assert!(worst <= allowed, "{name}: {worst:e} off, {allowed:e} allowed");
}

#[test]
fn the_loss_curve_of_gpt2_is_pytorchs() {
    curve("gpt2");
}

#[test]
fn the_loss_curve_of_llama_is_pytorchs() {
    curve("llama");
}
