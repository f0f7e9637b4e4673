//! Every layout gives the bits of one rank: losses, gradient norms, weights and moments.

use crate::setup::{self, step_bits};
use std::path::Path;
use triax_plan::Layout;
use triax_spec::Run;
use triax_spec::model::{Activation, Dropout, NormKind, Positions};
use triax_spec::run::{Amount, GlobalBatch, Precision, Recompute, ScheduleKind};
use triax_train::checkpoint::{Checkpoint, Moment, list};
use triax_train::{Resume, Start, StepReport, train_in_threads};

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

#[derive(Default)]
struct Told {
    steps: Vec<StepReport>,
    held_out: Vec<u64>,
}

impl triax_train::Observer for Told {
    fn step(&mut self, step: &StepReport) {
        self.steps.push(*step);
    }
    fn evaluation(&mut self, evaluation: &triax_train::Evaluation) {
        self.held_out.push(evaluation.loss.to_bits());
    }
}

/// Everything that must not depend on the layout.
#[derive(PartialEq)]
struct Outcome {
    steps: Vec<(u64, u64, u64, u64, u32)>,
    held_out: Vec<u64>,
    state: Vec<(String, Vec<u32>)>,
}

fn train(run: &Run, directory: &Path, resume: Resume) -> Outcome {
    let layout = Layout::new(run, 0).unwrap();
    let mut told = Told::default();
    let start = Start::new(resume);
    let device = || setup::device(run);
    train_in_threads(run, &layout, Default::default(), &device, directory, &start, &mut told).unwrap();
    let (_, folder) = list(directory).unwrap().pop().unwrap();
    let checkpoint = Checkpoint::open(&folder).unwrap();
    checkpoint.verify().unwrap();
    let bits = |name: &String| {
        let mut values = Vec::new();
        checkpoint.read(name, |_, piece| values.extend(piece.iter().map(|v| v.to_bits()))).unwrap();
        (name.clone(), values)
    };
    let names: Vec<String> = checkpoint.manifest().tensors.iter().map(|t| t.name.clone()).collect();
    assert!(names.contains(&Moment::Second.of("norm.weight")));
    Outcome {
        steps: told.steps.iter().map(step_bits).collect(),
        held_out: told.held_out,
        state: names.iter().map(bits).collect(),
    }
}

/// Says where two outcomes part.
fn assert_same(found: &Outcome, expected: &Outcome, what: &str) {
    for (found, expected) in found.steps.iter().zip(&expected.steps) {
        assert_eq!(found, expected, "{what}: (step, samples, loss, norm, rate)");
    }
    assert_eq!(found.steps.len(), expected.steps.len(), "{what}");
    for ((name, found), (_, expected)) in found.state.iter().zip(&expected.state) {
        let first = found.iter().zip(expected).position(|(a, b)| a != b);
        assert_eq!(first, None, "{what}: first element of `{name}` that differs");
    }
    assert_eq!(found.held_out, expected.held_out, "{what}: held-out losses");
    assert!(found == expected, "{what}");
}

fn compare(llama: bool, places: &[Place]) {
    let data = tempfile::tempdir().unwrap();
    let run = run(data.path(), llama);
    let expected = train(&ONE.apply(&run), &data.path().join("one"), Resume::Never);
    for (index, place) in places.iter().enumerate() {
        let directory = data.path().join(format!("other-{index}"));
        let found = train(&place.apply(&run), &directory, Resume::Never);
        assert_same(&found, &expected, &format!("{place:?}"));
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
