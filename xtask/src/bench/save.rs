//! How long a save stops training: a run of `triax train` that saves twice, by the times it tells of itself.
//!
//! ```text
//! step … step 8 │stopped│ step 9 … step 16 │stopped│        share = stopped ÷ (50 × the median step)
//!                └── written beside the steps ──┘
//! ```

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::measure::{alone, median, number, objects, triax, typed};
use super::table::Workload;
use super::{Measured, Options, prepare};
use crate::command;

/// Steps from one save to the next that the share is told for.
const STEPS_BETWEEN: f64 = 50.0;

/// Of text, which is enough for every sample to be another.
const TEXT_BYTES: usize = 1 << 20;

pub(super) fn run(workload: &Workload, options: &Options) -> Result<Measured> {
    let folder = prepare::folder()?.join("save");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let text = fs::read(prepare::text(options)?)?;
    let text = String::from_utf8_lossy(&text[..text.len().min(TEXT_BYTES)]).into_owned();
    fs::write(folder.join("text.txt"), text)?;
    let in_folder = || -> Result<Command> {
        let mut command = triax()?;
        command.current_dir(&folder);
        Ok(command)
    };
    let mut tokenize = in_folder()?;
    tokenize.args(["tokenize", "text.txt", "--train-tokenizer", "bpe", "--vocab", "500"]);
    command::run(tokenize.args(["--output", "tokens/text"]))?;
    fs::write(folder.join("run.toml"), run_file(options.smoke))?;
    let mut train = in_folder()?;
    train.args(["train", "run.toml", "--json"]);
    let (mut turns, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let runs = folder.join("runs");
        if runs.exists() {
            fs::remove_dir_all(&runs).with_context(|| runs.display().to_string())?;
        }
        let events = objects(&mut train)?;
        turns.extend(shares(&events)?);
        raw.push(events);
    }
    let figures = workload
        .figures
        .iter()
        .map(|figure| Ok(alone(figure, median(&turns, figure.field)?)))
        .collect::<Result<_>>()?;
    Ok(Measured {
        figures,
        command: typed(&train),
        versions: json!({}),
        raw: json!({ "saves": turns, "runs": raw }),
    })
}

fn run_file(smoke: bool) -> String {
    let (preset, sequence, every) = if smoke { ("tiny-gpt", 32, 2) } else { ("gpt2-124m", 256, 8) };
    let stop = 2 * every;
    format!(
        "[model]\npreset = \"{preset}\"\nvocab = 50304\ndropout = 0.0\n\
         [data]\nblend = [{{ path = \"tokens/text\" }}]\n\
         [train]\nprecision = \"bf16\"\nsequence = {sequence}\nglobal_batch = 4\nevaluate_every = 0\n\
         stop = \"{stop} steps\"\n\
         [layout]\nmicro_batch = 4\n[checkpoint]\nevery = \"{every} steps\"\nkeep = 1\n"
    )
}

/// Of each save of a run: how long training stood still, and its share.
fn shares(events: &[Value]) -> Result<Vec<Value>> {
    // The first step touches every page for the first time.
    let steps: Vec<Value> =
        events.iter().filter(|event| event["step_s"].is_number()).skip(1).cloned().collect();
    let step_s = median(&steps, "step_s")?;
    let saves: Vec<&Value> = events.iter().filter(|event| event["event"] == "checkpoint").collect();
    let share = |save: &&Value| -> Result<Value> {
        let (stopped, written) = (number(save, "stopped_s")?, number(save, "written_s")?);
        let share = stopped / (STEPS_BETWEEN * step_s);
        Ok(json!({
            "share": share, "stopped_s": stopped, "written_s": written, "step_s": step_s, "bytes": save["bytes"],
        }))
    };
    saves.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_of_fifty_median_steps_without_the_first() {
        let step = |seconds: f64| json!({ "step": 1, "step_s": seconds });
        let save = json!({ "event": "checkpoint", "stopped_s": 1.0, "written_s": 4.0, "bytes": 7 });
        let events = [step(9.0), step(2.0), save.clone(), step(2.0), step(3.0), save];
        let shares = shares(&events).unwrap();
        assert_eq!(shares.len(), 2);
        assert_eq!(shares[0]["share"], json!(0.01));
        assert!(super::shares(&events[..1]).is_err(), "nothing was measured");
    }
}
