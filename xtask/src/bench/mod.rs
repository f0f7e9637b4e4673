//! `cargo xtask bench <topic>`: our side and its opponents run in turn in one sitting; medians are kept. Each
//! figure of [`table`] adds one line to `bench/results/<topic>.jsonl`, everything measured goes to
//! bench/results/raw/. `--summary` prints the newest line of each figure and what falls short.

mod evaluate;
mod measure;
mod prepare;
mod record;
mod save;
mod summary;
mod table;

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::command::{root, target};
use crate::python;
use record::Record;
use table::{Topic, Workload};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to measure.
    #[arg(value_enum, required_unless_present = "summary")]
    topic: Option<Topic>,
    /// Only print the table of kept results.
    #[arg(long, conflicts_with = "topic")]
    summary: bool,
    /// Only the workloads whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Turns of each side; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Text for `tokenize` and `demo`; by default the sources and Markdown of the crates in cargo's registry.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Tiny sizes, to see that everything runs; results go to target/bench/smoke.
    #[arg(long)]
    smoke: bool,
    #[command(flatten)]
    python: python::Options,
}

impl Options {
    fn results(&self) -> PathBuf {
        if self.smoke { target().join("bench/smoke") } else { root().join("bench/results") }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Some(topic) = options.topic else {
        return summary::print(&options.results());
    };
    if options.rounds == 0 {
        bail!("--rounds must be at least 1");
    }
    let selected: Vec<_> = table::workloads()
        .into_iter()
        .filter(|workload| workload.concerns(topic) && workload.name.contains(&options.only))
        .collect();
    if selected.is_empty() {
        bail!("no workload of this topic has `{}` in its name", options.only);
    }
    for workload in selected {
        println!("== {}", workload.name);
        keep(&workload, measure::run(&workload, options)?, options)?;
    }
    summary::print(&options.results())
}

/// What one workload gave: the values of its figures and everything behind them.
struct Measured {
    figures: Vec<Found>,
    command: String,
    /// Versions the opponents reported.
    versions: Value,
    raw: Value,
}

/// One figure of ours beside its opponent's.
struct Found {
    name: String,
    value: f64,
    opponent: String,
    opponent_value: Option<f64>,
}

fn keep(workload: &Workload, measured: Measured, options: &Options) -> Result<()> {
    let (date, machine) = (record::date()?, record::machine());
    let versions = record::versions(measured.versions)?;
    for figure in &workload.figures {
        let Some(found) = measured.figures.iter().find(|found| found.name == figure.name) else {
            bail!("{} was not measured by {}", figure.name, workload.name);
        };
        let record = Record {
            name: figure.name.clone(),
            value: found.value,
            unit: figure.unit.to_owned(),
            opponent: found.opponent.clone(),
            opponent_value: found.opponent_value,
            ratio: found.opponent_value.map(|opponent| found.value / opponent),
            at_least: figure.at_least,
            aim: figure.aim,
            machine: machine.clone(),
            versions: versions.clone(),
            date: date.clone(),
            command: measured.command.clone(),
        };
        record.append(&options.results(), figure.topic)?;
    }
    let raw = json!({ "workload": workload.name, "date": date, "machine": machine, "versions": versions,
                      "command": measured.command, "measured": measured.raw });
    record::write_raw(&options.results(), workload.name, &date, &raw)
}
