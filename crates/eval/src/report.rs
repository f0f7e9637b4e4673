//! `results.json`: all tasks of an evaluation, in our own form and under the keys of lm-evaluation-harness.
//!
//! It holds no time and no date: the same network, data and settings give the same bytes, interrupted or not.

use crate::error::EvalError;
use crate::metric::Metric;
use crate::summary::TaskResult;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// What was judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelName {
    /// As it was given.
    pub name: String,
    /// Tells its weights from others: a hash where there is one.
    pub identity: String,
    pub tokenizer: String,
    pub context_length: usize,
}

/// The content of `results.json`.
pub fn results(model: &ModelName, tasks: &[TaskResult]) -> Value {
    let each = |value: &dyn Fn(&TaskResult) -> Value| -> Value {
        Value::Object(tasks.iter().map(|task| (task.task.clone(), value(task))).collect())
    };
    json!({
        "schema": "triax-eval/1",
        "model": model,
        "tasks": tasks,
        "results": each(&|task| Value::Object(measures(task))),
        "versions": each(&|task| json!(task.version)),
        "n-shot": each(&|task| json!(task.shots)),
        "n-samples": each(&|task| json!({ "original": task.data.items, "effective": task.items })),
        "higher_is_better": each(&|task| {
            let names = task.measures.keys().map(|name| (foreign(name).to_owned(), json!(is_better(name))));
            Value::Object(names.collect())
        }),
        "configs": each(&|task| json!({ "prompt": task.prompt, "task_hash": task.task_hash })),
        "model_name": model.name,
        "max_length": model.context_length,
    })
}

fn measures(task: &TaskResult) -> Map<String, Value> {
    let mut entries = Map::new();
    entries.insert("alias".to_owned(), json!(task.task));
    for (name, Metric { value, standard_error, .. }) in &task.measures {
        let name = foreign(name);
        entries.insert(format!("{name},none"), json!(value));
        let error = standard_error.map_or_else(|| json!("N/A"), |error| json!(error));
        entries.insert(format!("{name}_stderr,none"), error);
    }
    entries
}

/// The name that lm-evaluation-harness gives a measure; ours where it has none.
fn foreign(name: &str) -> &str {
    match name {
        "sum" | "greedy" => "acc",
        "character" => "acc_norm",
        "byte" => "acc_bytes",
        "unconditional" => "acc_mutual_info",
        "token" => "acc_token",
        "calibrated" => "acc_calibrated",
        other => other,
    }
}

fn is_better(name: &str) -> bool {
    !name.contains("perplexity") && name != "bits_per_byte"
}

/// A file that gets its name when it is whole.
pub struct Output {
    path: PathBuf,
    temporary: PathBuf,
    file: Option<BufWriter<File>>,
}

impl Output {
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path) -> Result<Self, EvalError> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(|error| EvalError::io("write", &temporary, error))?;
        Ok(Self { path: path.to_owned(), temporary, file: Some(BufWriter::with_capacity(1 << 16, file)) })
    }

    /// # Errors
    /// When it cannot be written or named.
    pub fn commit(mut self) -> Result<(), EvalError> {
        let fault = |error| EvalError::io("write", &self.path, error);
        let file = self.file.take().expect("only commit takes it");
        let file = file.into_inner().map_err(|error| fault(error.into_error()))?;
        file.sync_all().map_err(fault)?;
        std::fs::rename(&self.temporary, &self.path).map_err(fault)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.as_mut().expect("only commit takes it").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.as_mut().expect("only commit takes it").flush()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // What failed before is on its way as an error; the half-written file is of no use.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}
