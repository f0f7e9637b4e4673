//! Where a run was stopped cannot be seen in what it computes.

use crate::setup::{device, open, run, state_bits, step_bits, text, tokens, train, train_until};
use std::collections::HashMap;
use std::fs;
use triax_data::Samples;
use triax_spec::run::{Amount, Precision, Run, Source};
use triax_train::checkpoint::{folder, list};
use triax_train::{Plan, Resume, Start, StepReport, TrainError, Trainer};

#[test]
fn a_run_stopped_and_resumed_has_the_bits_of_one_that_was_not() {
    for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
        let data = tempfile::tempdir().unwrap();
        let mut run = run(data.path());
        run.train.precision = precision;
        let (whole, steps) = train(&run, &data.path().join("whole"), Resume::Never);
        let parts = data.path().join("parts");
        let mut resumed_steps = Vec::new();
        for stop in [3, 4, 11, 26] {
            resumed_steps.extend(train_until(&run, &parts, stop));
        }
        let (resumed, last) = train(&run, &parts, Resume::Must);
        resumed_steps.extend(last);
        let bits = |steps: &[StepReport]| steps.iter().map(step_bits).collect::<Vec<_>>();
        assert_eq!(bits(&resumed_steps), bits(&steps), "{precision:?}");
        assert_eq!(state_bits(&resumed), state_bits(&whole), "{precision:?}");
        for log in ["metrics.jsonl", "evaluations.jsonl"] {
            let steps_of = |run: &str| -> Vec<u64> {
                let text = fs::read_to_string(data.path().join(run).join(log)).unwrap();
                let step =
                    |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64();
                text.lines().filter_map(step).collect()
            };
            assert_eq!(steps_of("parts"), steps_of("whole"), "{log}");
        }
    }
}

#[test]
fn the_loss_falls_and_the_held_out_loss_with_it() {
    let data = tempfile::tempdir().unwrap();
    let mut run = run(data.path());
    run.train.stop = Amount::Steps(200);
    run.train.learning_rate.over = Amount::Samples(1200);
    run.train.evaluate_every = 50;
    let (_, steps) = train(&run, &data.path().join("run"), Resume::Never);
    let first = (crate::setup::VOCAB as f64).ln();
    assert!((steps[0].loss - first).abs() < 0.3, "{} at the start, ln(vocab) = {first}", steps[0].loss);
    assert!(steps[199].loss < steps[0].loss - 0.5, "{}", steps[199].loss);
    let text = fs::read_to_string(data.path().join("run/evaluations.jsonl")).unwrap();
    let losses: Vec<f64> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].as_f64().unwrap())
        .collect();
    assert_eq!(losses.len(), 4);
    assert!(losses[3] < losses[0], "{losses:?}");
}

#[test]
fn batches_and_rates_follow_the_schedules() {
    let data = tempfile::tempdir().unwrap();
    let run = run(data.path());
    let (_, steps) = train(&run, &data.path().join("run"), Resume::Never);
    let mut at = triax_spec::Progress::default();
    for step in &steps {
        assert_eq!(step.batch, run.train.batch_at(at.samples));
        at = at.advanced(step.batch, run.train.sequence);
        assert_eq!((step.step, step.samples, step.tokens), (at.step, at.samples, at.tokens));
        assert_eq!(step.learning_rate, run.train.learning_rate.at(&at));
    }
    assert!(steps.iter().any(|step| step.batch == 2) && steps.iter().any(|step| step.batch == 6));
}

#[test]
fn ramp_and_a_change_of_blend_across_resumes_lose_and_repeat_nothing() {
    let data = tempfile::tempdir().unwrap();
    let mut run = run(data.path());
    let directory = data.path().join("run");
    train_until(&run, &directory, 5);
    train_until(&run, &directory, 9);
    let third = tokens(data.path(), "third", [text(9, 600)]);
    run.data.blend.push(Source { path: third, weight: 3.0 });
    train_until(&run, &directory, 14);
    let (trainer, _) = train(&run, &directory, Resume::Must);

    let saved = triax_train::checkpoint::verify(&folder(&directory, 30)).unwrap();
    let order = saved.state.data;
    assert_eq!(order.stages.len(), 2);
    let stages: Vec<_> = order
        .stages
        .iter()
        .map(|stage| triax_data::Stage {
            start: stage.start,
            weights: stage.weights.iter().map(|weight| weight.0).collect(),
        })
        .collect();
    let samples = Samples::open_staged(&order.sources, &stages, order.sequence, order.seed).unwrap();
    let mut seen: HashMap<_, u32> = HashMap::new();
    for sample in 0..trainer.progress().samples {
        *seen.entry(samples.at(sample)).or_default() += 1;
    }
    assert!(seen.values().all(|&times| times == 1), "a sample of an epoch came twice");
    // Of each source all samples of its earlier epochs came before the first of a later one.
    for (source, summary) in samples.describe().iter().enumerate() {
        let count = seen.keys().filter(|origin| origin.source == source).count() as u64;
        let last = seen.keys().filter(|o| o.source == source).map(|o| o.epoch).max().unwrap();
        assert_eq!(last, (count - 1) / summary.samples_per_epoch);
    }
}

#[test]
fn a_run_directory_serves_one_process_and_never_is_never() {
    let data = tempfile::tempdir().unwrap();
    let run = run(data.path());
    let directory = data.path().join("run");
    let first = open(&run, &directory, Start::new(Resume::Never)).unwrap();
    let refused = open(&run, &directory, Start::new(Resume::Never)).err().unwrap();
    assert!(matches!(refused, TrainError::Locked { .. }), "{refused}");
    drop(first);
    train(&run, &directory, Resume::Never);
    let refused = open(&run, &directory, Start::new(Resume::Never)).err().unwrap().to_string();
    assert!(refused.contains("step-00000030"), "{refused}");
    assert_eq!(list(&directory).unwrap().len(), 2, "keep = 2");
}

#[test]
fn other_data_orders_and_models_are_refused_before_anything_is_changed() {
    let data = tempfile::tempdir().unwrap();
    let run = run(data.path());
    let directory = data.path().join("run");
    train(&run, &directory, Resume::Never);
    let metrics = fs::read(directory.join("metrics.jsonl")).unwrap();
    let refused = |change: fn(&mut Run)| {
        let mut other = run.clone();
        change(&mut other);
        open(&other, &directory, Start::new(Resume::Must)).err().unwrap().to_string()
    };
    assert!(refused(|run| run.data.seed = 8).contains("data.seed is 7 there and 8 in the run file"));
    assert!(refused(|run| run.train.sequence = 4).contains("train.sequence is 8 there and 4"));
    assert!(refused(|run| run.model.ffn = 64).contains("ffn is 32 there and 64 in the run file"));
    assert_eq!(fs::read(directory.join("metrics.jsonl")).unwrap(), metrics);
}

#[test]
fn the_plan_is_a_table_and_too_large_a_one_is_refused_with_numbers() {
    let data = tempfile::tempdir().unwrap();
    let run = run(data.path());
    let device = device(&run);
    let plan = Plan::new(&run, &*device).unwrap();
    let table = plan.to_string();
    for class in ["weights", "gradients", "optimizer", "activations", "checkpoint copy", "total"] {
        assert!(table.contains(class), "{table}");
    }
    assert!(plan.detail().contains("layer.1.m"));
    plan.check_memory(plan.total_bytes()).unwrap();
    let refused = plan.check_memory(plan.total_bytes() - 1).unwrap_err().to_string();
    assert!(refused.contains(&plan.total_bytes().to_string()), "{refused}");
    let directory = data.path().join("run");
    drop(Trainer::open(plan, device, triax_train::alone(), &directory, Start::new(Resume::Never)).unwrap());
    let text = fs::read_to_string(directory.join("run.toml")).unwrap();
    assert_eq!(Run::parse("run.toml", &text, &[]).unwrap(), run, "{text}");
    let plan: serde_json::Value =
        serde_json::from_slice(&fs::read(directory.join("plan.json")).unwrap()).unwrap();
    assert!(plan["buffers"].as_array().unwrap().len() > 100);
}
