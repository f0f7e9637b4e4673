//! `cargo xtask golden`: runs the scripts under golden/ in a Python environment of their own and says which
//! golden files changed. Ordinary tests read the kept files and need no Python.

use anyhow::Result;

use crate::command::{output, program, run as run_program};
use crate::python;

/// Each script with the name of its environment and what is installed there.
const SCRIPTS: &[(&str, &str, &str)] = &[
    ("golden/make_golden.py", "golden-venv", "golden/requirements.txt"),
    ("golden/curation/make_cases.py", "golden-curation-venv", "golden/curation/requirements.txt"),
];

pub(crate) fn run(options: &python::Options) -> Result<()> {
    for (script, environment, requirements) in SCRIPTS {
        let interpreter = python::interpreter(options, environment, requirements)?;
        run_program(&mut program(&interpreter, &[script]))?;
    }
    let changed = output(&mut program("git", &["status", "--porcelain", "--", "crates/*/tests/golden"]))?;
    match changed.is_empty() {
        true => println!("golden files: the same bytes as before"),
        false => print!("golden files that changed:\n{changed}"),
    }
    Ok(())
}
