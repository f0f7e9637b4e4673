//! Every layout gives the bits of one rank: losses, gradient norms, weights and moments.

use crate::setup;
use std::path::Path;
use std::sync::Arc;
use triax_plan::Layout;
use triax_spec::Run;
use triax_spec::model::{Activation, Dropout, NormKind, Positions};
use triax_spec::run::{Amount, GlobalBatch, OnNonfinite, Precision, Recompute, ScheduleKind, SpikeAction};
use triax_train::verify::{Evidence, Witness, difference};
use triax_train::{Resume, Start, train_in_threads};

/// Four layers and eight heads, so that every axis has something to split.
fn run(data: &Path, llama: bool) -> Run {
    let mut run = setup::run(data);
    let model = &mut run.model;
    (model.layers, model.hidden, model.heads, model.kv_heads, model.head_dim, model.ffn) =
        (4, 32, 8, 8, 4, 48);
    if llama {
        (model.norm, model.activation, model.bias, model.tied) =
            (NormKind::Rms, Activation::Swiglu, false, false);
        (model.positions, model.kv_heads) = (Positions::Rotary { base: 10_000.0 }, 4);
        model.dropout = Dropout::default();
    }
    run.train.precision = Precision::Bf16;
    run.train.global_batch = GlobalBatch { start: 8, step: 8, end: 16, over: Amount::Samples(16) };
    run.train.stop = Amount::Steps(3);
    run.train.evaluate_every = 3;
    run.checkpoint.every = Amount::Steps(0);
    run.layout.micro_batch = 1;
    run.numerics.data_groups = 4;
    run
}

/// A place in the grid.
#[derive(Clone, Copy, Debug)]
struct Place {
    tensor: usize,
    sequence: bool,
    pipeline: usize,
    data: usize,
    zero: usize,
    schedule: ScheduleKind,
    chunks: usize,
    recompute: Recompute,
}

const ONE: Place = Place {
    tensor: 1,
    sequence: false,
    pipeline: 1,
    data: 1,
    zero: 0,
    schedule: ScheduleKind::OneForwardOneBackward,
    chunks: 1,
    recompute: Recompute::None,
};

impl Place {
    fn apply(self, run: &Run) -> Run {
        let mut run = run.clone();
        let layout = &mut run.layout;
        (layout.tensor, layout.sequence_parallel, layout.pipeline) =
            (self.tensor, self.sequence, self.pipeline);
        (layout.data, layout.zero, layout.recompute) = (self.data, self.zero, self.recompute);
        (layout.schedule, layout.chunks) = (self.schedule, self.chunks);
        run
    }
}

fn train(run: &Run, directory: &Path, resume: Resume) -> Evidence {
    let layout = Layout::new(run, 0).unwrap();
    let mut witness = Witness::default();
    let start = Start::new(resume);
    let device = || setup::device(run);
    train_in_threads(run, &layout, Default::default(), &device, directory, &start, &mut witness).unwrap();
    witness.evidence(directory).unwrap()
}

fn compare(llama: bool, places: &[Place]) {
    let data = tempfile::tempdir().unwrap();
    let run = run(data.path(), llama);
    let expected = train(&ONE.apply(&run), &data.path().join("one"), Resume::Never);
    for (index, place) in places.iter().enumerate() {
        let directory = data.path().join(format!("other-{index}"));
        let found = train(&place.apply(&run), &directory, Resume::Never);
        if let Some(difference) = difference(&found, &expected).unwrap() {
            panic!("{place:?}: {difference}");
        }
    }
}

const AXES: [Place; 9] = [
    Place { tensor: 2, ..ONE },
    Place { tensor: 4, sequence: true, ..ONE },
    Place { data: 2, ..ONE },
    Place { data: 4, zero: 1, ..ONE },
    Place { pipeline: 2, ..ONE },
    Place { pipeline: 4, schedule: ScheduleKind::GPipe, ..ONE },
    Place { pipeline: 2, data: 4, schedule: ScheduleKind::Interleaved, chunks: 2, ..ONE },
    Place { pipeline: 2, tensor: 2, sequence: true, schedule: ScheduleKind::ZeroBubbleH1, ..ONE },
    Place { tensor: 2, pipeline: 2, data: 2, zero: 1, recompute: Recompute::Full, ..ONE },
];

#[test]
fn every_axis_gives_the_bits_of_one_rank_for_gpt() {
    compare(false, &AXES);
}

#[test]
fn every_axis_gives_the_bits_of_one_rank_for_llama() {
    compare(true, &AXES);
}

/// Each pair saves under the one and goes on under the other, against the run that never stopped.
#[test]
fn a_checkpoint_of_any_layout_goes_on_in_any_other() {
    let data = tempfile::tempdir().unwrap();
    let run = run(data.path(), false);
    let expected = train(&ONE.apply(&run), &data.path().join("one"), Resume::Never);
    let places = [ONE, AXES[1], AXES[6], AXES[7], AXES[8]];
    for (index, (first, second)) in places.iter().zip(places.iter().cycle().skip(2)).enumerate() {
        let directory = data.path().join(format!("pair-{index}"));
        let mut begun = first.apply(&run);
        begun.train.stop = Amount::Steps(2);
        train(&begun, &directory, Resume::Never);
        let found = train(&second.apply(&run), &directory, Resume::Must);
        if let Some(difference) = difference(&found, &expected).unwrap() {
            panic!("{first:?}, then {second:?}: {difference}");
        }
    }
}

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
    assert!(lines[0].contains("`layer.") && lines[0].contains("on rank "), "{skipped}");
}

#[test]
fn a_rank_that_fails_ends_the_run_with_its_own_reason() {
    let data = tempfile::tempdir().unwrap();
    let run = Place { data: 2, ..ONE }.apply(&run(data.path(), false));
    let directory = data.path().join("run");
    std::fs::create_dir_all(&directory).unwrap();
    // What should be a log is a folder: the first rank cannot open it, the second waits for the first.
    std::fs::create_dir(directory.join("metrics.jsonl")).unwrap();
    let layout = Layout::new(&run, 0).unwrap();
    let device = || setup::device(&run);
    let start = Start::new(Resume::Never);
    let failed = train_in_threads(&run, &layout, Default::default(), &device, &directory, &start, &mut ());
    let message = failed.unwrap_err().to_string();
    assert!(message.contains("metrics.jsonl"), "{message}");
}
