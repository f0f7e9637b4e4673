//! A file that appears whole or not at all: written under a temporary name, synced, renamed.

use crate::DataError;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Dropped without [`AtomicFile::commit`], it leaves nothing behind.
pub struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    file: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Creates missing parent directories.
    ///
    /// # Errors
    /// When the temporary file cannot be created beside `target`.
    pub fn create(target: &Path) -> Result<Self, DataError> {
        if let Some(parent) = target.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(|error| DataError::io("create", parent, error))?;
        }
        let mut temporary = target.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(|error| DataError::io("create", &temporary, error))?;
        Ok(Self { target: target.to_owned(), temporary, file: Some(BufWriter::with_capacity(1 << 18, file)) })
    }

    /// Appends all of `bytes`.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        let file = self.file.as_mut().expect("the file is open until commit takes it");
        file.write_all(bytes).map_err(|error| DataError::io("write", &self.temporary, error))
    }

    /// Makes the content durable, still under the temporary name.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&mut self) -> Result<(), DataError> {
        let file = self.file.as_mut().expect("the file is open until commit takes it");
        let synced = file.flush().and_then(|()| file.get_ref().sync_all());
        synced.map_err(|error| DataError::io("write", &self.temporary, error))
    }

    /// Gives the file its name. Durable once the directory is synced too.
    ///
    /// # Errors
    /// When the disk fails; then the file does not have the name.
    pub fn commit(mut self) -> Result<(), DataError> {
        self.sync()?;
        fs::rename(&self.temporary, &self.target)
            .map_err(|error| DataError::io("rename to", &self.target, error))?;
        self.file = None;
        sync_directory(&self.target)
    }
}

/// For encoders that write into it.
impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.as_mut().expect("the file is open until commit takes it").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.as_mut().expect("the file is open until commit takes it").flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // The write has failed already and its error is on its way; a failed removal adds nothing.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

pub(crate) fn write_file(target: &Path, bytes: &[u8]) -> Result<(), DataError> {
    let mut file = AtomicFile::create(target)?;
    file.write(bytes)?;
    file.commit()
}

fn sync_directory(target: &Path) -> Result<(), DataError> {
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| DataError::io("sync", parent, error))
}
