//! Wall time of an evaluation: `triax eval` against lm-evaluation-harness with its model `hf` on the same tasks, items and
//! weights, which it gets as numbers out of the same GGUF file. Ours is the whole process; of theirs, importing PyTorch
//! and loading the weights are not counted.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::measure::{median, number, objects, triax, typed};
use super::table::Workload;
use super::{Found, Measured, Options, prepare};
use crate::command::{self, program};
use crate::python;

const REQUIREMENTS: &str = "bench/peers/requirements-eval-torch.txt";
const ITEMS: &str = "bench/peers/lm_eval_items.py";
const TASKS: &str = "lambada,piqa,boolq,wic";
/// Items of each task.
const LIMIT: &str = "50";
/// Ways to run lm-eval: the type of the numbers and how many texts go through the network together. The fastest counts.
const VARIANTS: [(&str, &str); 4] =
    [("bfloat16", "4"), ("bfloat16", "16"), ("float32", "4"), ("float32", "16")];

pub(super) fn run(workload: &Workload, options: &Options) -> Result<Measured> {
    let python = python::interpreter(&options.python, "lm-eval-torch-venv", REQUIREMENTS)?;
    let data = match (&options.input, std::env::var_os("TRIAX_TEST_DATA")) {
        (Some(data), _) => std::path::absolute(data)?,
        (None, Some(data)) => PathBuf::from(data).join("eval"),
        (None, None) => bail!("say where the tasks' files are: --input FOLDER"),
    };
    let limit = if options.smoke { "2" } else { LIMIT };
    let out = prepare::folder()?.join("evaluate");
    let mut ours = triax()?;
    ours.args(["eval", "--model", &python::smollm2(&python)?, "--tasks", TASKS, "--limit", limit]);
    ours.args(["--threads", "2", "--data"]).arg(&data).arg("--out").arg(&out);
    let peer = |(dtype, batch): (&str, &str)| {
        let mut command = program(&python, &[ITEMS, "--tasks", TASKS, "--limit", limit, "--gguf", "smollm2"]);
        command.args(["--dtype", dtype, "--batch", batch, "--data"]).arg(&data).arg("--ours").arg(&out);
        command.env("OMP_NUM_THREADS", "2").env("HF_HUB_OFFLINE", "1");
        command
    };
    let mut our_turns = Vec::new();
    let mut peer_turns: Vec<Vec<Value>> = VARIANTS.map(|_| Vec::new()).into();
    for _ in 0..options.rounds {
        our_turns.push(timed(&mut ours, &out)?);
        for (variant, turns) in VARIANTS.into_iter().zip(&mut peer_turns) {
            turns.push(together(&objects(&mut peer(variant))?, variant)?);
        }
    }
    let speeds = peer_turns.iter().map(|turns| median(turns, "items_per_s")).collect::<Result<Vec<_>>>()?;
    let best =
        (0..speeds.len()).max_by(|&a, &b| speeds[a].total_cmp(&speeds[b])).context("no variant ran")?;
    let figures = workload
        .figures
        .iter()
        .map(|figure| {
            Ok(Found {
                name: figure.name.clone(),
                value: median(&our_turns, figure.field)?,
                opponent: opponent(&peer_turns[best][0]),
                opponent_value: Some(median(&peer_turns[best], figure.field)?),
            })
        })
        .collect::<Result<_>>()?;
    let versions = peer_turns[best][0]["versions"].clone();
    let raw = json!({ "triax": our_turns, "peer": peer_turns });
    Ok(Measured { figures, command: typed(&ours), versions, raw })
}

/// One evaluation from nothing: scores of an earlier one would be found.
fn timed(command: &mut Command, out: &std::path::Path) -> Result<Value> {
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| out.display().to_string())?;
    }
    let begin = Instant::now();
    command::run(command)?;
    let seconds = begin.elapsed().as_secs_f64();
    let file = out.join("results.json");
    let results = fs::read(&file).with_context(|| file.display().to_string())?;
    let results: Value = serde_json::from_slice(&results).with_context(|| file.display().to_string())?;
    let tasks = results["results"].as_object().context("results.json has no `results`")?;
    let mut items = 0.0;
    for task in tasks.keys() {
        items += number(&results["n-samples"][task], "effective")?;
    }
    let accuracies: serde_json::Map<_, _> =
        tasks.iter().map(|(task, measures)| (task.clone(), measures["acc,none"].clone())).collect();
    Ok(json!({ "seconds": seconds, "items": items, "items_per_s": items / seconds, "accuracy": accuracies }))
}

/// Who a turn of lm-eval was: two versions count, its own and that of what computes.
fn opponent(turn: &Value) -> String {
    let version = |of: &str| turn["versions"][of].as_str().unwrap_or("?").to_owned();
    let variant = turn["variant"].as_str().unwrap_or("?");
    format!("lm-eval {} hf, PyTorch {}, {variant}", version("lm_eval"), version("torch"))
}

/// All tasks of one turn of lm-eval.
fn together(tasks: &[Value], (dtype, batch): (&str, &str)) -> Result<Value> {
    let sum = |field: &str| tasks.iter().map(|task| number(task, field)).sum::<Result<f64>>();
    let (items, seconds) = (sum("items")?, sum("torch_seconds")?);
    let versions = tasks.first().context("lm-eval judged nothing")?["versions"].clone();
    Ok(json!({ "variant": format!("{dtype}, batch {batch}"), "items": items, "seconds": seconds,
               "items_per_s": items / seconds, "tasks": tasks, "versions": versions }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_of_lm_eval_is_all_its_tasks() {
        let task = |items: u32, seconds: f64| json!({ "items": items, "torch_seconds": seconds, "versions": { "torch": "2", "lm_eval": "0.4" } });
        let turn = together(&[task(50, 4.0), task(30, 6.0)], ("bfloat16", "4")).unwrap();
        assert_eq!((&turn["items_per_s"], &turn["items"]), (&json!(8.0), &json!(80.0)));
        assert_eq!(opponent(&turn), "lm-eval 0.4 hf, PyTorch 2, bfloat16, batch 4");
        assert!(together(&[], ("bfloat16", "4")).is_err(), "nothing was judged");
        assert!(together(&[json!({ "items": 3 })], ("float32", "16")).is_err(), "no seconds");
    }
}
