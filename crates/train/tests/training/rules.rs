//! Spikes and overflows do what the run file says.
//!
//! The spike is real: a model that has learnt that one token follows another meets a source of other tokens.

use crate::setup::{Steps, VOCAB, open, run, state_bits, tokens, train};
use std::path::Path;
use triax_spec::run::*;
use triax_train::checkpoint::{Skipped, folder, verify};
use triax_train::{Observer, Resume, Start, StepReport, TrainError};

/// 1 of 30 samples is of a source that does not count upwards.
fn spiky(data: &Path, action: SpikeAction, limit: u32) -> Run {
    let mut run = run(data);
    let upwards = |first: u32| (first..first + 900).map(|id| id % 20).collect::<Vec<u32>>();
    let other: Vec<u32> = (0..200).map(|i| 20 + i * i % (VOCAB as u32 - 20)).collect();
    run.data.blend = vec![
        Source { path: tokens(data, "upwards", [upwards(0)]), weight: 99.0 },
        Source { path: tokens(data, "other", [other]), weight: 1.0 },
    ];
    run.model.dropout = triax_spec::model::Dropout::default();
    run.train.global_batch = GlobalBatch::constant(1);
    run.layout.micro_batch = 1;
    run.train.stop = Amount::Steps(120);
    run.train.evaluate_every = 0;
    run.train.learning_rate.over = Amount::Samples(1000);
    run.checkpoint = Checkpoint { every: Amount::Steps(40), keep: 0 };
    run.train.on_spike = Some(OnSpike { loss_sigma: 6.0, norm_sigma: 0.0, window: 20, action, limit });
    run
}

fn skipped_steps(steps: &[StepReport]) -> Vec<u64> {
    steps.iter().filter(|step| step.skipped.is_some()).map(|step| step.step).collect()
}

fn ranges(skipped: &[Skipped]) -> Vec<(u64, u64, u64)> {
    skipped.iter().map(|skipped| (skipped.step, skipped.start, skipped.end)).collect()
}

fn logged(directory: &Path) -> Vec<Skipped> {
    let text = std::fs::read_to_string(directory.join("skipped.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_spike_is_logged_and_trained_on_when_the_rule_says_log() {
    let data = tempfile::tempdir().unwrap();
    let run = spiky(data.path(), SpikeAction::Log, 5);
    #[derive(Default)]
    struct Alarms(Vec<u64>);
    impl Observer for Alarms {
        fn alarm(
            &mut self,
            step: u64,
            _: &triax_train::watch::Alarm,
            response: triax_train::watch::Response,
        ) {
            assert_eq!(response, triax_train::watch::Response::Log);
            self.0.push(step);
        }
    }
    let mut alarms = Alarms::default();
    let mut trainer = open(&run, &data.path().join("run"), Start::new(Resume::Never)).unwrap();
    trainer.train(&mut alarms).unwrap();
    assert!(!alarms.0.is_empty());
    assert!(trainer.skipped().is_empty());
}

#[test]
fn a_skipped_spike_leaves_the_weights_as_they_were_and_is_written_down() {
    let data = tempfile::tempdir().unwrap();
    let run = spiky(data.path(), SpikeAction::Skip, 5);
    let directory = data.path().join("run");
    let (trainer, steps) = train(&run, &directory, Resume::Never);
    let spikes = skipped_steps(&steps);
    assert!(!spikes.is_empty());
    let expected: Vec<_> = spikes.iter().map(|&step| (step, step - 1, step)).collect();
    assert_eq!(ranges(trainer.skipped()), expected);
    assert_eq!(ranges(&logged(&directory)), expected);
    let state = verify(&folder(&directory, 120)).unwrap().state;
    assert_eq!(ranges(&state.skipped), expected);
    assert_eq!(state.updates, 120 - spikes.len() as u64);

    let before = data.path().join("before");
    let mut short = run;
    short.train.stop = Amount::Steps(spikes[0] - 1);
    let (until, _) = train(&short, &before, Resume::Never);
    short.train.stop = Amount::Steps(spikes[0]);
    let untouched = state_bits(&until);
    drop(until);
    let (after, _) = train(&short, &before, Resume::Must);
    assert_eq!(state_bits(&after), untouched);
}

#[test]
fn a_rollback_returns_to_the_checkpoint_and_leaves_out_all_samples_since() {
    let data = tempfile::tempdir().unwrap();
    let run = spiky(data.path(), SpikeAction::Rollback, 5);
    let directory = data.path().join("run");
    let mut short = run.clone();
    let spike = {
        let (_, steps) = train(&run, &data.path().join("whole"), Resume::Never);
        let steps = skipped_steps(&steps);
        *steps.iter().find(|&&step| step > 41 && step % 40 != 0).expect("a spike after the first checkpoint")
    };
    short.train.stop = Amount::Steps(spike);
    let (trainer, _) = train(&short, &directory, Resume::Never);
    let saved = (spike - 1) / 40 * 40;
    let last = ranges(trainer.skipped()).pop().unwrap();
    assert_eq!(last, (spike, saved, spike));
    assert_eq!(trainer.progress().samples, spike, "step and samples go on");

    // The state at the end is that of the checkpoint, apart from position and skipped samples.
    let (then, now) = (folder(&directory, saved), folder(&directory, spike));
    let (then, now) = (verify(&then).unwrap(), verify(&now).unwrap());
    assert_eq!(then.state.updates, now.state.updates);
    for (then, now) in then.tensors.iter().zip(&now.tensors) {
        assert_eq!(then.slices[0].blake3, now.slices[0].blake3, "{}", then.name);
    }
}

#[test]
fn stop_and_the_limit_end_the_run_with_step_samples_and_rule() {
    let data = tempfile::tempdir().unwrap();
    for (action, limit, rule) in [
        (SpikeAction::Stop, 0, "train.on_spike.action = \"stop\""),
        (SpikeAction::Skip, 0, "more than train.on_spike.limit = 0 in a row"),
    ] {
        let run = spiky(data.path(), action, limit);
        let directory = data.path().join(format!("{action:?}"));
        let mut trainer = open(&run, &directory, Start::new(Resume::Never)).unwrap();
        let mut steps = Steps::default();
        let error = trainer.train(&mut steps).unwrap_err();
        let TrainError::Alarm { step, start, end, .. } = error else { panic!("{error}") };
        assert_eq!((start, end), (step - 1, step));
        assert!(error.to_string().contains(rule), "{error}");
    }
}

/// A learning rate that no weights survive.
fn exploding(data: &Path, action: SpikeAction, limit: u32) -> Run {
    let mut run = run(data);
    run.train.learning_rate = LearningRate {
        peak: 1e30,
        warmup: Amount::Samples(0),
        decay: Decay::Constant,
        over: Amount::Samples(1000),
        floor: 0.0,
    };
    run.train.on_nonfinite = OnNonfinite { action, limit };
    run
}

#[test]
fn non_finite_steps_are_skipped_up_to_the_limit() {
    let data = tempfile::tempdir().unwrap();
    let run = exploding(data.path(), SpikeAction::Skip, 3);
    let mut trainer = open(&run, &data.path().join("run"), Start::new(Resume::Never)).unwrap();
    let mut steps = Steps::default();
    let error = trainer.train(&mut steps).unwrap_err();
    assert!(error.to_string().contains("more than train.on_nonfinite.limit = 3 in a row"), "{error}");
    assert_eq!(steps.0.iter().filter(|step| step.skipped == Some("nonfinite")).count(), 3);
    assert_eq!(trainer.skipped().len(), 3);
}

#[test]
fn a_rollback_without_a_checkpoint_returns_to_the_first_weights() {
    let data = tempfile::tempdir().unwrap();
    let mut run = exploding(data.path(), SpikeAction::Rollback, 1);
    run.checkpoint.every = Amount::Steps(0);
    let fresh = open(&run, &data.path().join("fresh"), Start::new(Resume::Never)).unwrap();
    struct StopAfterRollback(std::sync::Arc<std::sync::atomic::AtomicBool>);
    impl Observer for StopAfterRollback {
        fn step(&mut self, step: &StepReport) {
            self.0.store(step.skipped == Some("rollback"), std::sync::atomic::Ordering::Relaxed);
        }
    }
    let start = Start::new(Resume::Never);
    let mut observer = StopAfterRollback(std::sync::Arc::clone(&start.stop));
    let mut trainer = open(&run, &data.path().join("run"), start).unwrap();
    trainer.train(&mut observer).unwrap();
    assert_eq!(state_bits(&trainer), state_bits(&fresh));
    assert_eq!(ranges(trainer.skipped()).pop().unwrap().1, 0, "all samples so far are left out");
}

#[test]
fn f16_finds_a_loss_scale_that_does_not_overflow_and_trains_with_it() {
    let data = tempfile::tempdir().unwrap();
    let mut run = run(data.path());
    run.train.precision = Precision::F16;
    run.train.loss_scale = LossScale { initial: 4294967296.0, minimum: 1.0, window: 1000, hysteresis: 1 };
    run.train.stop = Amount::Steps(200);
    run.train.learning_rate.over = Amount::Samples(1200);
    let (trainer, steps) = train(&run, &data.path().join("run"), Resume::Never);
    let overflows = steps.iter().filter(|step| step.skipped == Some("overflow")).count();
    assert!(overflows > 2, "{overflows} overflows on the way down from 2³²");
    let last = steps.last().unwrap();
    assert_eq!(last.skipped, None);
    assert_eq!(last.loss_scale, Some((4294967296.0 / f64::from(1u32 << overflows)) as f32));
    assert!(last.loss < steps[0].loss - 0.5, "{} to {}", steps[0].loss, last.loss);
    assert_eq!(trainer.skipped().len(), overflows);
}
