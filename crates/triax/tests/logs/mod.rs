//! The log of a run as tests compare it, for all test programs of the binary.

use serde_json::Value;
use std::fs;
use std::path::Path;

/// What every step computed, without the times.
pub(crate) fn log(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let step = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        serde_json::json!([line["step"], line["samples"], line["loss"], line["grad_norm"]])
    };
    text.lines().map(step).collect()
}
