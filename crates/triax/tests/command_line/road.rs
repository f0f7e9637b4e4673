//! Text to tokens to a run that is interrupted and resumed, to text again; out to Hugging Face and back.

use super::{errors, lines, run, succeed, text, triax};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

const RUN_FILE: &str = r#"
[model]
layers = 2
hidden = 32
heads = 2
vocab = 300
sequence = 32
[data]
blend = [{ path = "tokens/text" }]
[train]
global_batch = 4
learning_rate = { peak = 3e-3, warmup = "5 steps", decay = "constant" }
stop = "1000000 steps"
[layout]
micro_batch = 4
[checkpoint]
every = "1000000 steps"
"#;

/// `tokens/text.bin` and its tokenizer.
pub(super) fn tokens(folder: &Path) -> serde_json::Value {
    fs::write(folder.join("text.txt"), text(800)).unwrap();
    let arguments = [
        "tokenize",
        "text.txt",
        "--train-tokenizer",
        "bpe",
        "--vocab",
        "300",
        "--output",
        "tokens/text",
        "--json",
    ];
    lines(&succeed(folder, &arguments)).remove(0)
}

/// `runs/run`, hardly trained.
pub(super) fn trained(folder: &Path) {
    tokens(folder);
    fs::write(folder.join("run.toml"), RUN_FILE).unwrap();
    succeed(folder, &["train", "run.toml", "--set", "train.stop=\"30 steps\""]);
}

#[test]
fn the_whole_road_with_an_interrupt_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let made = tokens(folder);
    assert!(made["tokens"].as_u64().unwrap() > 1000);
    assert!(folder.join("tokens/tokenizer.json").is_file());
    fs::write(folder.join("run.toml"), RUN_FILE).unwrap();

    let stopped = interrupted_run(folder);
    assert!(stopped >= 3);

    let stop = format!("train.stop=\"{} steps\"", stopped + 200);
    let resumed =
        lines(&succeed(folder, &["train", "run.toml", "--resume", "must", "--set", &stop, "--json"]));
    assert_eq!(resumed[0]["step"].as_u64(), Some(stopped), "{:?}", resumed[0]);
    let steps: Vec<u64> = resumed
        .iter()
        .filter(|line| line["loss"].is_f64())
        .filter_map(|line| line["step"].as_u64())
        .collect();
    assert_eq!(steps, (stopped + 1..=stopped + 200).collect::<Vec<_>>());
    let last = resumed.iter().rev().find_map(|line| line["loss"].as_f64()).unwrap();
    assert!(last < 3.0, "text this regular is learned: loss {last}");

    let greedy = |model: &str| {
        let arguments =
            ["generate", model, "--prompt", "let value_", "--temperature", "0", "--max-tokens", "12"];
        lines(&succeed(folder, &[&arguments[..], &["--json"]].concat())).remove(0)
    };
    let trained = greedy("runs/run");
    assert_eq!(trained["tokens"].as_array().unwrap().len(), 12);

    succeed(folder, &["export", "hf", "runs/run", "--out", "exported"]);
    assert_eq!(greedy("exported")["text"], trained["text"]);
    succeed(folder, &["import", "hf", "exported", "--out", "imported"]);
    assert_eq!(greedy("imported")["text"], trained["text"]);

    let again = run(folder, &["import", "hf", "exported", "--out", "imported"]);
    assert_eq!(again.status.code(), Some(2), "{}", errors(&again));
}

/// Starts the run, sends SIGINT after its third step, and returns the step it stopped and saved at.
fn interrupted_run(folder: &Path) -> u64 {
    let mut child = triax(folder)
        .args(["train", "run.toml", "--resume", "never", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut last = serde_json::Value::Null;
    let mut is_asked = false;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        last = serde_json::from_str(&line.unwrap()).unwrap();
        if !is_asked && last["step"].as_u64() == Some(3) && last["loss"].is_f64() {
            is_asked = true;
            let kill = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
            assert!(kill.success());
        }
    }
    assert!(child.wait().unwrap().success(), "an interrupt ends a run cleanly");
    assert_eq!(last["event"], "stopped");
    let step = last["step"].as_u64().unwrap();
    assert!(folder.join(format!("runs/run/checkpoints/step-{step:08}/manifest.json")).is_file());
    step
}

#[test]
fn generation_streams_the_prompt_and_its_continuation_and_repeats_by_seed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    trained(folder);
    let sample = |seed: &str| {
        let arguments = ["generate", "runs/run", "--prompt", "let ", "--seed", seed, "--max-tokens", "20"];
        String::from_utf8(succeed(folder, &arguments).stdout).unwrap()
    };
    assert!(sample("1").starts_with("let "));
    assert_eq!(sample("1"), sample("1"));
    assert_ne!(sample("1"), sample("2"));

    // Another tokenizer gives other ids: refused, not garbled.
    fs::write(folder.join("other.txt"), "quite other words here ".repeat(300)).unwrap();
    let other =
        ["tokenize", "other.txt", "--train-tokenizer", "bpe", "--vocab", "280", "--output", "other/text"];
    succeed(folder, &other);
    let refused =
        run(folder, &["generate", "runs/run", "--prompt", "a", "--tokenizer", "other/tokenizer.json"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(errors(&refused).contains("was trained with"), "{}", errors(&refused));
}

#[test]
fn ranks_that_share_a_checkpoint_say_the_same_and_impossible_layouts_say_what_would_work() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    trained(folder);
    let arguments = ["generate", "runs/run", "--prompt", "let value_", "--max-tokens", "12", "--json"];
    let sample = |layout: &str| {
        let mut said = lines(&succeed(folder, &[&arguments[..], &["--layout", layout]].concat())).remove(0);
        said["tokens_per_s"].take();
        said
    };
    let one = sample("tp=1");
    assert_eq!(one["tokens"].as_array().unwrap().len(), 12);
    for layout in ["tp=2", "pp=2", "tp=2,pp=2"] {
        assert_eq!(sample(layout), one, "{layout}");
    }
    for (layout, says) in
        [("tp=3", "cannot be split by tensor 3: use 1"), ("pp=9", "use at most 2"), ("dp=2", "tp and pp")]
    {
        let refused = run(folder, &[&arguments[..], &["--layout", layout]].concat());
        assert_eq!(refused.status.code(), Some(2));
        assert!(errors(&refused).contains(says), "{}", errors(&refused));
    }
    let refused = run(folder, &[&arguments[..], &["--layout", "tp=2", "--quantise", "int8"]].concat());
    assert!(errors(&refused).contains("use tensor 1"), "{}", errors(&refused));
    let refused = run(folder, &[&arguments[..], &["--layout", "tp=2", "--device", "reference"]].concat());
    assert!(errors(&refused).contains("--device cpu"), "{}", errors(&refused));
}

#[test]
fn bad_lines_are_refused_by_place_or_counted_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    tokens(folder);
    fs::write(folder.join("bad.jsonl"), "{\"text\": \"fine\"}\n{\"text\": 3}\n{\"text\": \"also fine\"}\n")
        .unwrap();
    let arguments =
        ["tokenize", "bad.jsonl", "--tokenizer", "tokens/tokenizer.json", "--output", "tokens/bad", "--json"];
    let refused = run(folder, &arguments);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        errors(&refused).contains("bad.jsonl") && errors(&refused).contains("line 2"),
        "{}",
        errors(&refused)
    );
    assert!(!folder.join("tokens/bad.bin").exists());

    let counted = lines(&succeed(folder, &[&arguments[..], &["--skip-bad-lines"]].concat())).remove(0);
    assert_eq!((counted["documents"].as_u64(), counted["skipped"].as_u64()), (Some(2), Some(1)));
}
