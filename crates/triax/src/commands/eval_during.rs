//! `triax eval --during`: judges the checkpoints of a run while it trains, in a process of its own, so that training
//! neither waits nor needs the memory.
//!
//! ```text
//! run/checkpoints/step-00000400 ─▶ out/step-00000400/results.json, items-….jsonl
//!                 step-00000800 ─▶ out/step-00000800/…             out/during.jsonl: one line for each step and task
//! ```
//! It ends with the run, at `train.stop` or where that was asked to stop, or on Ctrl-C; not with a crash, which a restart may
//! follow. Started again, it goes on with what is not judged yet.

use super::eval::judge;
use crate::arguments::Eval;
use crate::failure::{Context, Failure, with_causes};
use crate::{files, interrupt};
use serde_json::json;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;
use triax_eval::{Settings, Task, TaskResult};
use triax_spec::Run;
use triax_train::checkpoint::{self, Checkpoint};

/// How often it looks for a new checkpoint.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) fn follow(arguments: &Eval, tasks: &[Task], settings: &Settings) -> Result<(), Failure> {
    let folder = Path::new(arguments.model.as_deref().unwrap_or_default());
    let run = run_of(folder)?;
    let mut arguments = arguments.clone();
    if arguments.tokenizer.is_none() && !folder.join(files::TOKENIZER).is_file() {
        // A run gets its tokenizer when it ends; until then it lies beside the tokens.
        arguments.tokenizer = run.data.blend.iter().find_map(|source| files::tokenizer_beside(&source.path));
    }
    let every = arguments.every.unwrap_or(1);
    let out = arguments.out.clone();
    let stop = interrupt::flag()?;
    loop {
        // First, since all checkpoints are there when a run says that it has ended.
        let ended = triax_train::ended(folder).map_err(|error| Failure::run(with_causes(&error)))?;
        let found = checkpoint::list(folder).context(|| format!("cannot look into {}", folder.display()))?;
        let mut finished = ended.is_some();
        for (step, path) in &found {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let checkpoint = match Checkpoint::open(path) {
                Ok(checkpoint) => checkpoint,
                // Newer ones have taken its place.
                Err(_) if !path.exists() => continue,
                Err(error) => return Err(Failure::run(with_causes(&error))),
            };
            let at_stop = run.train.stop.reached(&checkpoint.manifest().state.progress);
            finished |= at_stop;
            let last = at_stop || ended == Some(*step);
            arguments.out = out.join(format!("step-{step:08}"));
            let due = last || step.is_multiple_of(every);
            if !due || arguments.out.join("results.json").is_file() {
                continue;
            }
            eprintln!("step {step}");
            let name = path.to_string_lossy();
            match judge(&name, &arguments, tasks, settings) {
                Ok(results) => note(&out, *step, &results)?,
                Err(_) if !path.exists() => {
                    eprintln!("  it was removed before it was judged: checkpoint.keep is too small for that");
                }
                Err(failure) => return Err(failure),
            }
        }
        if finished || stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}

/// The run file that a run folder was started with.
fn run_of(folder: &Path) -> Result<Run, Failure> {
    let file = folder.join("run.toml");
    if !file.is_file() {
        return Err(Failure::usage(format!(
            "{} is not the folder of a run: it has no run.toml",
            folder.display()
        ))
        .help("--during follows a run of `triax train`: --model RUN_FOLDER"));
    }
    Run::load(&file, &[]).map_err(|errors| Failure::usage(errors.to_string()))
}

/// Each task's score at a step, as a line for plots.
fn note(out: &Path, step: u64, results: &[TaskResult]) -> Result<(), Failure> {
    let path = out.join("during.jsonl");
    let failed = || format!("cannot write {}", path.display());
    let mut lines = String::new();
    for result in results {
        let metric = &result.measures[&result.measure];
        let line = json!({
            "step": step,
            "task": result.task,
            "measure": result.measure,
            "value": metric.value,
            "standard_error": metric.standard_error,
            "items": result.items,
        });
        lines.push_str(&format!("{line}\n"));
    }
    let mut file = OpenOptions::new().create(true).append(true).open(&path).context(failed)?;
    file.write_all(lines.as_bytes()).context(failed)
}
