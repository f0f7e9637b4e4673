//! What can be wrong with a model, its files or the options it is planned with.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A value that no network can be built from.
    #[error("{what} is {value}: {rule}")]
    Invalid { what: &'static str, value: String, rule: String },
    #[error("no tensor `{name}`; there are {available}")]
    NoTensor { name: String, available: String },
    #[error("tensor `{name}` has {found} elements, the model needs {expected} ({dims:?})")]
    TensorLength { name: String, found: usize, expected: usize, dims: Vec<usize> },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: not the JSON that was expected: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    /// A field of `config.json` that changes the model in a way this program does not compute.
    #[error("{}: `{field}` is {value}: {rule}", path.display())]
    Config { path: PathBuf, field: String, value: String, rule: String },
    #[error("the machine has not enough memory: {0}")]
    Memory(#[from] triax_tensor::OutOfMemory),
    /// A weight file that contradicts its own header, its index or the model.
    #[error("{}: {what}", path.display())]
    File { path: PathBuf, what: String },
    #[error("this model cannot be written as a {architecture}: {reason}")]
    NotExportable { architecture: &'static str, reason: String },
}

impl ModelError {
    pub(crate) fn invalid(what: &'static str, value: impl ToString, rule: impl Into<String>) -> Self {
        Self::Invalid { what, value: value.to_string(), rule: rule.into() }
    }

    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    pub(crate) fn file(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::File { path: path.into(), what: what.into() }
    }
}
