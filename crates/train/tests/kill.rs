//! A run that is killed again and again, resumed each time, ends with the bits of one that was not: weights,
//! moments and the loss of every step.
//!
//! The test starts itself as the process that is killed: with the run's folder as argument it trains there.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod setup;

use setup::{open, run, state_bits, step_bits, train};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use triax_spec::run::Amount;
use triax_train::checkpoint::{folder, list, verify};
use triax_train::{Observer, Resume, Start, StepReport};

const KILLS: usize = 24;
const SIGKILL: i32 = 9;

fn the_run(data: &Path) -> triax_spec::Run {
    let mut run = run(data);
    run.train.stop = Amount::Steps(150);
    run.train.evaluate_every = 25;
    run.checkpoint.every = Amount::Steps(3);
    run
}

/// Says each step, so that the parent knows the run is under way.
struct Tell;

impl Observer for Tell {
    fn step(&mut self, step: &StepReport) {
        println!("{}", step.step);
        // Slow enough that kills find the run at work.
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, data] = &arguments[..]
        && word == "train-in"
    {
        let run = the_run(Path::new(data));
        let start = Start::new(Resume::IfPresent);
        open(&run, &Path::new(data).join("killed"), start).unwrap().train(&mut Tell).unwrap();
        return;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        println!("a_run_killed_at_random_moments_ends_with_the_bits_of_one_that_was_not: test");
        return;
    }
    a_run_killed_at_random_moments_ends_with_the_bits_of_one_that_was_not();
    println!("test a_run_killed_at_random_moments_ends_with_the_bits_of_one_that_was_not ... ok");
}

fn a_run_killed_at_random_moments_ends_with_the_bits_of_one_that_was_not() {
    let data = tempfile::tempdir().unwrap();
    let run = the_run(data.path());
    let (whole, whole_steps) = train(&run, &data.path().join("whole"), Resume::Never);
    let directory = data.path().join("killed");

    let (mut kills, mut inside_a_save, mut random) = (0, 0, 12345u64);
    let deadline = Instant::now() + Duration::from_secs(100);
    while kills < KILLS {
        assert!(Instant::now() < deadline, "{kills} kills in the time given");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["train-in", data.path().to_str().unwrap()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let lines = (random >> 33) % 11;
        let pause = Duration::from_micros((random >> 40) % 9000);
        // The pipe stays open until the kill: a process that cannot print any more would end by itself, tidily.
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        for _ in 0..=lines {
            assert!(output.read_line(&mut line).unwrap() > 0, "the run ended by itself after {line:?}");
        }
        std::thread::sleep(pause);
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(SIGKILL), "the run ended by itself: {status}");
        drop(output);
        kills += 1;
        let unfinished = std::fs::read_dir(directory.join("checkpoints"))
            .into_iter()
            .flatten()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "tmp"));
        inside_a_save += unfinished.count();
        for (_, complete) in list(&directory).unwrap() {
            verify(&complete).unwrap();
        }
    }
    assert!(inside_a_save > 0, "no kill fell into a save");
    println!("{kills} kills, {inside_a_save} of them inside a save");

    let (resumed, _) = train(&run, &directory, Resume::Must);
    assert_eq!(resumed.progress(), whole.progress());
    for (resumed, whole) in state_bits(&resumed).into_iter().zip(state_bits(&whole)) {
        assert_eq!(resumed, whole, "{}", whole.0);
    }
    let text = std::fs::read_to_string(directory.join("metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), whole_steps.len(), "one line a step");
    for (line, step) in lines.iter().zip(&whole_steps) {
        let bits = |key: &str| line[key].as_f64().unwrap().to_bits();
        let (number, samples, loss, norm, _) = step_bits(step);
        assert_eq!(line["step"], number);
        assert_eq!(line["samples"], samples);
        assert_eq!((bits("loss"), bits("grad_norm")), (loss, norm), "step {number}");
    }
    assert!(folder(&directory, 150).exists());
}
