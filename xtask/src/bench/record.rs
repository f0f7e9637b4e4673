//! Kept results: one JSON line a figure, and the raw numbers of each sitting beside them.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::table::Topic;
use crate::command::{output, program};

/// A line of `bench/results/<topic>.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) unit: String,
    /// Empty when the bounds are on our value itself.
    pub(super) opponent: String,
    pub(super) opponent_value: Option<f64>,
    /// value / opponent_value.
    pub(super) ratio: Option<f64>,
    pub(super) at_least: f64,
    pub(super) aim: f64,
    pub(super) machine: String,
    pub(super) versions: Value,
    /// UTC, RFC 3339.
    pub(super) date: String,
    pub(super) command: String,
}

impl Record {
    pub(super) fn append(&self, results: &Path, topic: Topic) -> Result<()> {
        let path = results.join(topic.file()).with_extension("jsonl");
        fs::create_dir_all(results).with_context(|| results.display().to_string())?;
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        let line = format!("{}\n", serde_json::to_string(self)?);
        file.write_all(line.as_bytes()).with_context(|| path.display().to_string())
    }

    /// Every line of a topic in the order it was kept; none if the topic has no file yet.
    pub(super) fn read(results: &Path, topic: Topic) -> Result<Vec<Self>> {
        let path = results.join(topic.file()).with_extension("jsonl");
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        text.lines()
            .enumerate()
            .map(|(index, line)| {
                serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), index + 1))
            })
            .collect()
    }
}

/// Writes `raw/<date>-<workload>.json`, the date without the characters some file systems refuse.
pub(super) fn write_raw(results: &Path, workload: &str, date: &str, raw: &Value) -> Result<()> {
    let folder = results.join("raw");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let path = folder.join(format!("{}-{workload}.json", date.replace(':', "")));
    fs::write(&path, format!("{}\n", serde_json::to_string_pretty(raw)?))
        .with_context(|| path.display().to_string())
}

pub(super) fn date() -> Result<String> {
    Ok(output(&mut program("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]))?.trim().to_owned())
}

/// Ours, the compiler's, and what the opponents reported of themselves.
pub(super) fn versions(opponents: Value) -> Result<Value> {
    let mut versions = match opponents {
        Value::Object(versions) => versions,
        _ => serde_json::Map::new(),
    };
    let commit = output(&mut program("git", &["describe", "--always", "--dirty"]))?;
    versions.insert("triax".to_owned(), commit.trim().into());
    let rustc = output(&mut program("rustc", &["--version"]))?;
    versions.insert("rustc".to_owned(), rustc.split_whitespace().nth(1).unwrap_or_default().into());
    Ok(Value::Object(versions))
}

/// Processor, usable cores and memory, as far as this system tells.
pub(super) fn machine() -> String {
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processor = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok())
        .map_or(String::new(), |kib| format!(", {:.0} GB", kib as f64 * 1024.0 / 1e9));
    format!("{processor}, {cores} cores{memory}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_every_field_in_order_and_reads_back() {
        let record = Record {
            name: "a".to_owned(),
            value: 2.0,
            unit: "s".to_owned(),
            opponent: String::new(),
            opponent_value: None,
            ratio: None,
            at_least: 3.0,
            aim: 1.0,
            machine: String::new(),
            versions: serde_json::json!({}),
            date: String::new(),
            command: String::new(),
        };
        let line = serde_json::to_string(&record).unwrap();
        assert!(line.starts_with(
            r#"{"name":"a","value":2.0,"unit":"s","opponent":"","opponent_value":null,"ratio":null"#
        ));
        let again: Record = serde_json::from_str(&line).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), line);
    }
}
