//! Everything that can end a curation run: what, where, which rule, what would work.
//!
//! A bad page, line or record never ends a run: it is a removed document with a reason.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum CurateError {
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    /// `place`: the file, or file and key.
    #[error("{place}: {message}")]
    Recipe { place: String, message: String },

    #[error("source {name:?}: {message}")]
    Source { name: String, message: String },

    /// A step cannot be built or cannot decide.
    #[error("step {step}: {message}")]
    Step { step: String, message: String },

    /// A file of the run is not what its marker says.
    #[error("{path}: {message}")]
    Damaged { path: PathBuf, message: String },

    /// The output folder holds something else.
    #[error("{path}: {message}")]
    Output { path: PathBuf, message: String },

    #[error(
        "{place}: {documents} documents came in, but {kept} kept, {made} made by splitting and {removed} removed \
         do not account for them: the counts of this run cannot be trusted"
    )]
    Unbalanced { place: String, documents: u64, kept: u64, made: u64, removed: u64 },

    #[error(transparent)]
    Global(#[from] crate::GlobalError),

    #[error(transparent)]
    Data(#[from] triax_data::DataError),

    #[error(transparent)]
    Object(#[from] crate::objects::ObjectError),

    #[error(transparent)]
    Blend(#[from] crate::tokens::BlendError),

    #[error("interrupted; the same command goes on from here")]
    Interrupted,
}

impl CurateError {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn step(step: &str, message: impl std::fmt::Display) -> Self {
        Self::Step { step: step.to_owned(), message: message.to_string() }
    }

    pub(crate) fn damaged(path: &Path, message: impl std::fmt::Display) -> Self {
        Self::Damaged { path: path.to_owned(), message: message.to_string() }
    }
}
