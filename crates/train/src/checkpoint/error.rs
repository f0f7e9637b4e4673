//! What can go wrong with a checkpoint: which folder, which file or tensor, which rule, what would work.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("checkpoint {}: {fault}", folder.display())]
    Damaged { folder: PathBuf, fault: Fault },

    #[error(
        "the newest checkpoint is damaged: {}: {fault}; {}",
        folder.display(),
        match intact {
            Some(older) => format!(
                "{} is intact: move the damaged folder away to go on from there",
                older.display()
            ),
            None => "no older one is intact: start anew in another run directory".into(),
        }
    )]
    NewestDamaged { folder: PathBuf, fault: Fault, intact: Option<PathBuf> },

    #[error(
        "nothing to resume: no checkpoint in {}; `--resume if-present` starts anew when there is none",
        folder.display()
    )]
    NoneFound { folder: PathBuf },

    #[error(
        "{} already exists; `--resume must` goes on from it, or give another run directory to start anew",
        newest.display()
    )]
    AlreadyThere { newest: PathBuf },

    #[error("checkpoint {} is of another run: {what}", folder.display())]
    Mismatch { folder: PathBuf, what: String },

    #[error(
        "cannot write checkpoint {}: {source}; it needs {needed} bytes{}; nothing was left behind and older \
         checkpoints are as they were",
        folder.display(),
        available.map_or_else(String::new, |bytes| format!(", {bytes} are free there"))
    )]
    Write { folder: PathBuf, needed: u64, available: Option<u64>, source: io::Error },

    #[error(
        "checkpoint {} is written and whole, but the disk did not confirm its name: {source}; a power failure now \
         may take it, older checkpoints are as they were",
        folder.display()
    )]
    Unconfirmed { folder: PathBuf, source: io::Error },

    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },

    #[error("cannot hold a copy of {bytes} bytes for the checkpoint writer in memory")]
    Staging { bytes: usize },
}

impl CheckpointError {
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }
}

/// What is wrong inside a checkpoint's folder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{file} is missing")]
    Missing { file: String },
    #[error("{file} cannot be read: {reason}")]
    Unreadable { file: String, reason: String },
    #[error("{file} has {found} bytes instead of {expected}: it was cut off or overwritten")]
    Size { file: String, expected: u64, found: u64 },
    #[error("{what} does not have the checksum that was recorded when it was written: some byte has changed")]
    Hash { what: String },
    #[error("manifest.json is not a manifest: {reason}")]
    Manifest { reason: String },
    #[error("manifest.json: {what}")]
    Contradiction { what: String },
    #[error("{file} is not listed in manifest.json")]
    Unlisted { file: String },
    #[error("{file}: {what}")]
    Shard { file: String, what: String },
}
