//! Values that are no numbers: all ranks decide alike, and the log says where they came from.

use crate::layouts::{ONE, Place, run, run_in_small_groups};
use crate::setup;
use crate::spy::{Orders, Spy};
use std::sync::Arc;
use triax_plan::Layout;
use triax_spec::Run;
use triax_spec::run::{OnNonfinite, SpikeAction};
use triax_tensor::Device;
use triax_train::{Resume, Start, train_in_threads};

/// The first weights with one element that is no number.
struct Poisoned(Run);

impl triax_model::TensorSource for Poisoned {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, triax_model::ModelError> {
        let stage = triax_model::Stage::whole(&self.0.model);
        let declared = triax_model::declare(&self.0.model, &stage);
        let tensor = declared.iter().find(|d| d.name == name).unwrap();
        let mut values = vec![0.01; tensor.elements()];
        if name == "layer.2.feed_forward.down.weight" {
            *values.last_mut().unwrap() = f32::NAN;
        }
        Ok(values)
    }
}

#[test]
fn a_value_that_is_no_number_on_one_rank_makes_all_ranks_skip_the_same_samples_and_is_named() {
    let data = tempfile::tempdir().unwrap();
    let mut run = run(data.path(), false);
    run.train.on_nonfinite = OnNonfinite { action: SpikeAction::Skip, limit: 10 };
    run.train.evaluate_every = 0;
    let run = Place { tensor: 2, pipeline: 2, data: 2, ..ONE }.apply(&run);
    let start = Start { initial: Some(Arc::new(Poisoned(run.clone()))), ..Start::new(Resume::Never) };
    let directory = data.path().join("run");
    let device = || setup::device(&run);
    let layout = Layout::new(&run, 0).unwrap();
    train_in_threads(&run, &layout, Default::default(), &device, &directory, &start, &mut ()).unwrap();
    let skipped = std::fs::read_to_string(directory.join("skipped.jsonl")).unwrap();
    let lines: Vec<&str> = skipped.lines().collect();
    assert_eq!(lines.len(), 3, "{skipped}");
    assert!(lines[0].contains("\"start\":0,\"end\":8"), "{skipped}");
    // Both halves of the tensor group of every replica hold a part of it, the last element is on the second.
    let weight = "the weight `layer.2.feed_forward.down.weight` on rank ";
    for rank in [5, 7] {
        assert!(lines[0].contains(&format!("{weight}{rank}")), "{skipped}");
    }
    assert_eq!(lines[0].matches(weight).count(), 2, "{skipped}");
}

/// Of one weight gradient of one rank, in its first step; what the run says of it.
fn poisoned_once(run: &Run, rank: usize, weight_gradient: usize) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut run = run.clone();
    run.train.on_nonfinite = OnNonfinite { action: SpikeAction::Skip, limit: 10 };
    run.train.evaluate_every = 0;
    let name = format!("rank {rank}");
    let device = || -> Box<dyn Device> {
        let here = std::thread::current().name() == Some(&name);
        let orders = Orders { poison_after: here.then_some(weight_gradient), ..Orders::default() };
        Box::new(Spy::new(setup::device(&run), &orders))
    };
    let layout = Layout::new(&run, 0).unwrap();
    let start = Start::new(Resume::Never);
    train_in_threads(&run, &layout, Default::default(), &device, folder.path(), &start, &mut ()).unwrap();
    let skipped = std::fs::read_to_string(folder.path().join("skipped.jsonl")).unwrap();
    assert_eq!(skipped.lines().count(), 1, "{skipped}");
    skipped
}

/// The sum over the replicas puts it on all of them; named is the one that it came from.
#[test]
fn a_gradient_that_is_no_number_is_traced_to_the_replica_the_layer_and_the_samples() {
    let data = tempfile::tempdir().unwrap();
    let whole = run(data.path(), false);
    // Ranks 2 and 3 are the second stage. Of a micro-batch: the output layer, then down, up, output, qkv.
    for zero in [0, 1] {
        let run = Place { pipeline: 2, data: 2, zero, ..ONE }.apply(&whole);
        let line = poisoned_once(&run, 3, 2);
        let expected = "the gradient of `layer.3.feed_forward.up.weight` on rank 3, of samples 4..8";
        assert!(line.contains(expected) && line.matches("on rank").count() == 1, "zero {zero}: {line}");
    }
}

/// Where every micro-batch is summed over the replicas, the sample itself is known.
#[test]
fn with_shared_out_gradients_the_very_micro_batch_is_named() {
    let data = tempfile::tempdir().unwrap();
    let small = run_in_small_groups(data.path(), false);
    let run = Place { data: 2, zero: 3, ..ONE }.apply(&small);
    // 17 weight gradients a micro-batch: the output layer's and four of each layer. The second micro-batch of
    // replica 1 is sample 3.
    let line = poisoned_once(&run, 1, 17 + 1 + 4 + 3);
    let expected = "the gradient of `layer.2.attention.qkv.weight` on rank 1, of samples 3..4";
    assert!(line.contains(expected) && line.matches("on rank").count() == 1, "{line}");
}
