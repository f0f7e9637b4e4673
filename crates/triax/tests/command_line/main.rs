//! The program as a user runs it.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod curate;
mod demo;
mod eval;
mod gguf;
mod launching;
mod layouts;
#[path = "../logs/mod.rs"]
mod logs;
mod misuse;
mod restarts;
mod road;
mod serve;

use std::path::Path;
use std::process::{Command, Output};

/// The built program, in a folder of its own so that relative paths stay there.
fn triax(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_triax"));
    command.current_dir(folder);
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    triax(folder).args(arguments).output().expect("the built program starts")
}

/// Runs, and shows what the program said when it failed.
fn succeed(folder: &Path, arguments: &[&str]) -> Output {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}\n{}", output.status, errors(&output));
    output
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The JSON objects on standard output.
fn lines(output: &Output) -> Vec<serde_json::Value> {
    let text = String::from_utf8(output.stdout.clone()).expect("JSON is UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("every line is one JSON value")).collect()
}

/// Text with structure that a small network and tokenizer can learn.
fn text(lines: usize) -> String {
    (0..lines)
        .map(|i| format!("let value_{} = compute({}, {});\n", i % 17, i * 7 % 101, i * i % 89))
        .collect()
}
