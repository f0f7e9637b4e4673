//! Which checkpoint a start goes on from. A missing or damaged checkpoint never means silently starting anew.
//!
//! | there is …          | `must`           | `if-present`     | `never`        |
//! |---------------------|------------------|------------------|----------------|
//! | none                | error            | start anew       | start anew     |
//! | an intact newest    | go on from it    | go on from it    | error          |
//! | a damaged newest    | error, naming it and an intact older one | | error          |

use super::reader::Checkpoint;
use super::{CheckpointError, FOLDER, UNFINISHED};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    Must,
    IfPresent,
    Never,
}

impl FromStr for Resume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "must" => Ok(Self::Must),
            "if-present" => Ok(Self::IfPresent),
            "never" => Ok(Self::Never),
            _ => Err(format!("`{text}` is not one of must, if-present, never")),
        }
    }
}

/// The complete checkpoints of a run directory by step, oldest first.
pub fn list(run_directory: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let mut found: Vec<_> = entries(run_directory)?
        .into_iter()
        .filter_map(|path| {
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, path))
        })
        .collect();
    found.sort();
    Ok(found)
}

/// Removes what unfinished saves and removals have left behind. Only the process that holds the run directory's
/// lock may call it.
pub fn clean(run_directory: &Path) -> Result<(), CheckpointError> {
    for path in entries(run_directory)? {
        if path.to_string_lossy().ends_with(UNFINISHED) {
            fs::remove_dir_all(&path)
                .map_err(|source| CheckpointError::io("remove the unfinished save", &path, source))?;
        }
    }
    Ok(())
}

/// The checkpoint to go on from, with every byte verified; none to start anew.
pub fn choose(run_directory: &Path, resume: Resume) -> Result<Option<Checkpoint>, CheckpointError> {
    let all = list(run_directory)?;
    let Some(((_, newest), older)) = all.split_last() else {
        return match resume {
            Resume::Must => Err(CheckpointError::NoneFound { folder: run_directory.join(FOLDER) }),
            Resume::IfPresent | Resume::Never => Ok(None),
        };
    };
    if resume == Resume::Never {
        return Err(CheckpointError::AlreadyThere { newest: newest.clone() });
    }
    match open_verified(newest) {
        Ok(checkpoint) => Ok(Some(checkpoint)),
        Err(CheckpointError::Damaged { folder, fault }) => {
            let intact = older.iter().rev().find(|(_, folder)| open_verified(folder).is_ok());
            let intact = intact.map(|(_, folder)| folder.clone());
            Err(CheckpointError::NewestDamaged { folder, fault, intact })
        }
        Err(other) => Err(other),
    }
}

fn open_verified(folder: &Path) -> Result<Checkpoint, CheckpointError> {
    let checkpoint = Checkpoint::open(folder)?;
    checkpoint.verify()?;
    Ok(checkpoint)
}

fn entries(run_directory: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let folder = run_directory.join(FOLDER);
    let unreadable = |source| CheckpointError::io("list", &folder, source);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(unreadable)).collect()
}
