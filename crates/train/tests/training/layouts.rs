//! Every layout gives the bits of one rank: losses, gradient norms, weights and moments.

use crate::setup;
use std::path::Path;
use triax_plan::Layout;
use triax_spec::Run;
use triax_spec::model::{Activation, Dropout, NormKind, Positions};
use triax_spec::run::{Amount, GlobalBatch, Precision, Recompute, ScheduleKind};
use triax_train::verify::{Evidence, Witness, difference};
use triax_train::{Resume, Start, train_in_threads};

/// Four layers and eight heads, so that every axis has something to split.
pub(crate) fn run(data: &Path, llama: bool) -> Run {
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

/// The same with a micro-batch a group, which is what ZeRO-2 and 3 need for the bits of one rank.
pub(crate) fn run_in_small_groups(data: &Path, llama: bool) -> Run {
    let mut run = run(data, llama);
    run.train.global_batch = GlobalBatch::constant(8);
    run.numerics.data_groups = 8;
    run
}

/// A place in the grid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub tensor: usize,
    pub sequence: bool,
    pub pipeline: usize,
    pub data: usize,
    pub zero: usize,
    pub schedule: ScheduleKind,
    pub chunks: usize,
    pub recompute: Recompute,
}

pub(crate) const ONE: Place = Place {
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
    pub(crate) fn apply(self, run: &Run) -> Run {
        let mut run = run.clone();
        let layout = &mut run.layout;
        (layout.tensor, layout.sequence_parallel, layout.pipeline) =
            (self.tensor, self.sequence, self.pipeline);
        (layout.data, layout.zero, layout.recompute) = (self.data, self.zero, self.recompute);
        (layout.schedule, layout.chunks) = (self.schedule, self.chunks);
        run
    }
}

pub(crate) fn train(run: &Run, directory: &Path, resume: Resume) -> Evidence {
    let layout = Layout::new(run, 0).unwrap();
    let mut witness = Witness::default();
    let start = Start::new(resume);
    let device = || setup::device(run);
    train_in_threads(run, &layout, Default::default(), &device, directory, &start, &mut witness).unwrap();
    witness.evidence(directory).unwrap()
}

fn compare(make: impl Fn(&Path) -> Run, places: &[Place]) {
    let data = tempfile::tempdir().unwrap();
    let run = make(data.path());
    let expected = train(&ONE.apply(&run), &data.path().join("one"), Resume::Never);
    for (index, place) in places.iter().enumerate() {
        let directory = data.path().join(format!("other-{index}"));
        assert_eq!(Layout::new(&place.apply(&run), 0).unwrap().own_bits, None, "{place:?}");
        let found = train(&place.apply(&run), &directory, Resume::Never);
        if let Some(difference) = difference(&found, &expected).unwrap() {
            panic!("{place:?}: {difference}");
        }
    }
}

pub(crate) const AXES: [Place; 10] = [
    Place { tensor: 2, ..ONE },
    Place { tensor: 4, sequence: true, ..ONE },
    Place { data: 2, ..ONE },
    Place { data: 4, zero: 1, ..ONE },
    Place { pipeline: 2, ..ONE },
    Place { pipeline: 4, schedule: ScheduleKind::GPipe, ..ONE },
    Place { pipeline: 2, data: 4, schedule: ScheduleKind::Interleaved, chunks: 2, ..ONE },
    Place { pipeline: 2, tensor: 2, sequence: true, schedule: ScheduleKind::ZeroBubbleH1, ..ONE },
    Place { tensor: 2, pipeline: 2, data: 2, zero: 1, recompute: Recompute::Full, ..ONE },
    Place { pipeline: 4, schedule: ScheduleKind::ZeroBubbleH1, ..ONE },
];

#[test]
fn every_axis_gives_the_bits_of_one_rank_for_gpt() {
    compare(|data| run(data, false), &AXES);
}

#[test]
fn every_axis_gives_the_bits_of_one_rank_for_llama() {
    compare(|data| run(data, true), &AXES);
}

/// What is kept in part: gradients, then weights too.
pub(crate) const SHARED_OUT: [Place; 8] = [
    Place { data: 2, zero: 2, ..ONE },
    Place { data: 4, zero: 3, ..ONE },
    Place { data: 8, zero: 2, recompute: Recompute::Selective, ..ONE },
    Place { tensor: 2, sequence: true, data: 2, zero: 3, recompute: Recompute::Full, ..ONE },
    Place { pipeline: 2, data: 2, zero: 2, ..ONE },
    Place { pipeline: 4, data: 4, zero: 3, recompute: Recompute::Selective, ..ONE },
    Place { tensor: 2, pipeline: 2, data: 2, zero: 3, recompute: Recompute::Full, ..ONE },
    Place { pipeline: 2, data: 2, zero: 3, schedule: ScheduleKind::GPipe, ..ONE },
];

#[test]
fn gradients_and_weights_that_are_shared_out_give_the_bits_of_one_rank_for_gpt() {
    compare(|data| run_in_small_groups(data, false), &SHARED_OUT);
}

#[test]
fn gradients_and_weights_that_are_shared_out_give_the_bits_of_one_rank_for_llama() {
    compare(|data| run_in_small_groups(data, true), &SHARED_OUT);
}

/// Each pair saves under the one and goes on under the other, against the run that never stopped.
fn resume(make: impl Fn(&Path) -> Run, pairs: impl Iterator<Item = (Place, Place)>) {
    let data = tempfile::tempdir().unwrap();
    let run = make(data.path());
    let expected = train(&ONE.apply(&run), &data.path().join("one"), Resume::Never);
    for (index, (first, second)) in pairs.enumerate() {
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

#[test]
fn a_checkpoint_of_any_layout_goes_on_in_any_other() {
    let places = [ONE, AXES[1], AXES[6], AXES[7], AXES[8]];
    let others = places.into_iter().cycle().skip(2);
    resume(|data| run(data, false), places.into_iter().zip(others));
}

#[test]
fn a_checkpoint_of_what_is_shared_out_goes_on_where_it_is_whole_and_back() {
    let pairs = [
        (SHARED_OUT[1], AXES[3]),
        (AXES[3], SHARED_OUT[6]),
        (SHARED_OUT[5], SHARED_OUT[0]),
        (ONE, SHARED_OUT[3]),
        (SHARED_OUT[4], ONE),
    ];
    resume(|data| run_in_small_groups(data, false), pairs.into_iter());
}

/// Shards of products end at even elements, so odd parts are other sums; the plan says so beforehand.
#[test]
fn odd_parts_of_a_product_have_bits_of_their_own_and_the_plan_says_so() {
    let data = tempfile::tempdir().unwrap();
    let mut run = run(data.path(), false);
    (run.model.ffn, run.train.precision) = (54, Precision::F32);
    let one = train(&ONE.apply(&run), &data.path().join("one"), Resume::Never);
    let split = Place { tensor: 2, ..ONE }.apply(&run);
    let own_bits = Layout::new(&split, 0).unwrap().own_bits;
    assert_eq!(own_bits.as_deref(), Some("ffn = 54 is cut by tensor 2 into odd parts of 27"));
    let two = train(&split, &data.path().join("two"), Resume::Never);
    assert!(difference(&two, &one).unwrap().is_some(), "the bits are equal: the plan need not warn");
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
