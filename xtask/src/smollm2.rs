//! `cargo xtask smollm2`: what llama.cpp says of ten texts, then our own test on them (`crates/infer/tests/smollm2.rs`).

use anyhow::Result;

use crate::command::{cargo, program, run as start, target};
use crate::python;

pub(crate) fn run(options: &python::Options) -> Result<()> {
    let python = python::interpreter(options, "llama-venv", "bench/peers/llama-requirements.txt")?;
    let folder = target().join("smollm2");
    start(&mut program(&python, &["golden/smollm2.py", "--logits", &folder.to_string_lossy()]))?;
    let mut command = cargo(&["test", "--release", "--workspace", "--test", "smollm2", "--"]);
    command.args(["--ignored", "--nocapture"]).env("TRIAX_SMOLLM2", folder);
    start(&mut command)
}
