//! Wrong use ends with code 2, one message, and nothing started.

use super::{errors, run};
use std::fs;

const RUN_FILE: &str = "[model]\nlayers = 1\nhidden = 32\nheads = 2\nvocab = 300\nsequence = 16\n\
                        [data]\nblend = [{ path = \"tokens/text\" }]\n[train]\nstop = \"3 steps\"\n";

#[test]
fn wrong_use_ends_with_code_two_and_says_what_would_work() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("run.toml"), RUN_FILE).unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["trian"], &["trian", "train"]),
        (&["train"], &["<RUN>"]),
        (&["train", "missing.toml"], &["missing.toml"]),
        (&["train", "run.toml", "--resume", "maybe"], &["must", "if-present", "never"]),
        (&["train", "run.toml", "--set", "train.sequense=8"], &["train.sequense", "train.sequence"]),
        (&["train", "run.toml", "--set", "model.layers=0"], &["model.layers", "from 1"]),
        (&["train", "run.toml", "--device", "gpu"], &["cpu", "reference"]),
        (&["generate", "nowhere", "--prompt", "a"], &["nowhere"]),
        (&["generate", ".", "--prompt", "a"], &["checkpoints/", "config.json"]),
        (&["generate", ".", "--prompt", "a", "--top-p", "1.5"], &["top-p 1.5"]),
        (&["tokenize", "nothing.txt", "--tokenizer", "t.json", "--output", "out"], &["nothing.txt"]),
        (&["tokenize", "run.toml", "--output", "out"], &["--tokenizer"]),
        (&["tokenize", "run.toml", "--train-tokenizer", "bpe", "--output", "out"], &["--vocab"]),
        (&["bench", "train", "--model", "gpt5"], &["gpt5", "gpt2-124m"]),
        (&["bench", "train", "--seq", "4096"], &["1024"]),
        (
            &["plan", "run.toml", "--set", "layout.tensor=3"],
            &["heads 2 cannot be split by tensor 3", "1 or 2"],
        ),
        (&["train", "run.toml", "--set", "layout.zero=4"], &["layout.zero", "3"]),
        (&["verify", "layouts", "--layout", "ep=2"], &["`ep`", "tp, pp, dp"]),
        (&["bench", "train", "--layout", "dp=3"], &["--batch 6"]),
        (&["demo", "--input", "nothing"], &["nothing", "--input"]),
        (&["demo", "--minutes", "-1"], &["--minutes"]),
        (&["demo", "--out", "."], &["not empty", "--out"]),
    ];
    for (arguments, expected) in cases {
        let output = run(folder.path(), arguments);
        let said = errors(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?} wrote to standard output");
        for part in *expected {
            assert!(said.contains(part), "{arguments:?} should say `{part}`: {said}");
        }
    }
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["run.toml"], "something was left behind");
}

#[test]
fn a_missing_checkpoint_never_means_a_silent_new_start() {
    let folder = tempfile::tempdir().unwrap();
    super::road::tokens(folder.path());
    fs::write(folder.path().join("run.toml"), RUN_FILE).unwrap();
    let output = run(folder.path(), &["train", "run.toml", "--resume", "must"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("--resume if-present"), "{}", errors(&output));
}

#[test]
fn help_names_every_command() {
    let output = run(std::env::temp_dir().as_path(), &["--help"]);
    assert!(output.status.success());
    let help = String::from_utf8_lossy(&output.stdout);
    for command in ["demo", "tokenize", "plan", "train", "verify", "generate", "import", "export", "bench"] {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is missing:\n{help}");
    }
}
