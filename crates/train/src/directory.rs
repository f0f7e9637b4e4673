//! The run directory: one process at a time, and logs whose steps are unique across restarts.
//!
//! ```text
//! run/  run.toml  plan.json  metrics.jsonl  evaluations.jsonl  skipped.jsonl  tensorboard/  checkpoints/  run.lock
//!      ended.json, between the orderly end of one process and the start of the next
//! ```

use crate::TrainError;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

const ENDED: &str = "ended.json";

#[derive(Serialize, Deserialize)]
struct Ended {
    step: u64,
}

/// The step at which the run in this folder ended in good order (finished, or asked to stop); none while it goes on,
/// and after a crash.
pub fn ended(run_directory: &Path) -> Result<Option<u64>, TrainError> {
    let path = run_directory.join(ENDED);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(TrainError::io("read", path, error)),
    };
    let ended: Result<Ended, _> = serde_json::from_str(&text);
    let ended = ended.map_err(|error| TrainError::Log { path, line: 1, reason: error.to_string() })?;
    Ok(Some(ended.step))
}

/// A run directory that belongs to this process until it is dropped.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    path: PathBuf,
    _lock: File,
}

impl RunDirectory {
    pub(crate) fn open(path: &Path) -> Result<Self, TrainError> {
        fs::create_dir_all(path).map_err(|error| TrainError::io("create", path, error))?;
        let lock_path = path.join("run.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|error| TrainError::io("create", &lock_path, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(TrainError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(TrainError::io("lock", &lock_path, error)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on the run goes on, whatever it said of its end.
    pub(crate) fn begin(&self) -> Result<(), TrainError> {
        let path = self.path.join(ENDED);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(TrainError::io("remove", path, error))
            }
            _ => Ok(()),
        }
    }

    /// Says that everything up to this step, the last one for now, is on disk; see [`ended`].
    pub(crate) fn end(&self, step: u64) -> Result<(), TrainError> {
        self.write(ENDED, format!("{{\"step\":{step}}}\n").as_bytes())
    }

    /// Writes a file whole or not at all.
    pub(crate) fn write(&self, name: &str, contents: &[u8]) -> Result<(), TrainError> {
        let path = self.path.join(name);
        write_whole(&path, contents).map_err(|error| TrainError::io("write", path, error))
    }
}

fn write_whole(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let unfinished = PathBuf::from(name);
    let mut file = File::create(&unfinished)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

/// A log of one JSON object a line, each with its `step`.
#[derive(Debug)]
pub(crate) struct JsonLines {
    file: BufWriter<File>,
    path: PathBuf,
}

#[derive(Deserialize)]
struct Stepped {
    step: u64,
}

impl JsonLines {
    /// Opens the log to append to, without what it says of steps after `step`: those are done anew.
    pub(crate) fn open(directory: &RunDirectory, name: &str, step: u64) -> Result<Self, TrainError> {
        let path = directory.path().join(name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(TrainError::io("read", path, error)),
        };
        let kept = up_to(&text, step).map_err(|(line, reason)| TrainError::Log {
            path: path.clone(),
            line,
            reason,
        })?;
        if kept.len() < text.len() {
            write_whole(&path, kept.as_bytes()).map_err(|error| TrainError::io("write", &path, error))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(|error| TrainError::io("open", &path, error))?;
        Ok(Self { file: BufWriter::new(file), path })
    }

    /// Makes what was pushed durable.
    pub(crate) fn sync(&mut self) -> Result<(), TrainError> {
        // Every push is flushed.
        self.file.get_ref().sync_data().map_err(|error| TrainError::io("write", &self.path, error))
    }

    pub(crate) fn push(&mut self, line: &impl Serialize) -> Result<(), TrainError> {
        let mut write = || {
            serde_json::to_writer(&mut self.file, line)?;
            self.file.write_all(b"\n")?;
            self.file.flush()
        };
        write().map_err(|error| TrainError::io("write", &self.path, error))
    }
}

/// The lines of steps up to `step`. A last line cut short by a kill is dropped; any other that does not tell its
/// step is an error: its number, and why.
fn up_to(text: &str, step: u64) -> Result<&str, (usize, String)> {
    let mut end = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        match serde_json::from_str::<Stepped>(line) {
            Ok(stepped) if stepped.step > step => break,
            Ok(_) if line.ends_with('\n') => end += line.len(),
            Ok(_) => break,
            Err(_) if !line.ends_with('\n') => break,
            Err(error) => return Err((index + 1, error.to_string())),
        }
    }
    Ok(&text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_refused_while_the_first_holds_the_directory() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunDirectory::open(folder.path()).unwrap();
        let refused = RunDirectory::open(folder.path()).unwrap_err();
        assert!(refused.to_string().contains("in use by another process"), "{refused}");
        drop(first);
        RunDirectory::open(folder.path()).unwrap();
    }

    #[test]
    fn a_run_has_ended_from_its_orderly_end_to_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let directory = RunDirectory::open(folder.path()).unwrap();
        directory.begin().unwrap();
        assert_eq!(ended(folder.path()).unwrap(), None);
        directory.end(7).unwrap();
        assert_eq!(ended(folder.path()).unwrap(), Some(7));
        directory.begin().unwrap();
        assert_eq!(ended(folder.path()).unwrap(), None);
        fs::write(folder.path().join(ENDED), "{}").unwrap();
        assert!(ended(folder.path()).unwrap_err().to_string().contains("ended.json"));
    }

    #[test]
    fn lines_after_the_checkpoint_and_a_torn_last_line_are_dropped() {
        let text = "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"st";
        assert_eq!(up_to(text, 2).unwrap(), "{\"step\":1}\n{\"step\":2}\n");
        assert_eq!(up_to(text, 9).unwrap(), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
        assert_eq!(up_to(text, 0).unwrap(), "");
    }

    #[test]
    fn a_damaged_line_in_the_middle_is_named() {
        assert_eq!(up_to("{\"step\":1}\n{\"sep\":2}\n{\"step\":3}\n", 9).unwrap_err().0, 2);
    }
}
