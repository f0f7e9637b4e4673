//! What can go wrong in an evaluation, with what would work.

use crate::template::TemplateError;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error("cannot {action} {}: {error}", path.display())]
    Io { action: &'static str, path: PathBuf, error: std::io::Error },
    #[error("{file}{}: {message}", place(*line))]
    Task { file: String, line: usize, message: String },
    #[error("there is no task `{name}`; did you mean `{nearest}`? `triax eval list` shows all")]
    NoTask { name: String, nearest: String },
    #[error("the task {task} has no prompt set `{prompt}`; it has {known}")]
    NoPrompt { task: String, prompt: String, known: String },
    #[error("{task}: none of its data files is there: {tried}; give the folder that holds one of them")]
    NoData { task: String, tried: String },
    #[error("{}{}: {message}", path.display(), place(*line))]
    Data { path: PathBuf, line: usize, message: String },
    #[error("{task}: {message}")]
    Item { task: String, message: String },
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Text(#[from] triax_data::DataError),
    #[error(transparent)]
    Network(#[from] triax_infer::InferError),
    #[error("{url}: {message}")]
    Server { url: String, message: String },
}

impl EvalError {
    pub(crate) fn io(action: &'static str, path: &Path, error: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), error }
    }

    pub(crate) fn data(path: &Path, line: usize, message: impl Into<String>) -> Self {
        Self::Data { path: path.to_owned(), line, message: message.into() }
    }
}

/// `:12`, or nothing for a file as a whole.
fn place(line: usize) -> String {
    if line == 0 { String::new() } else { format!(":{line}") }
}
