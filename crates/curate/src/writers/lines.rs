//! JSON lines in zstd.

use super::{Hashed, Written};
use crate::CurateError;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use zstd::stream::write::Encoder;

/// Dropped without [`LinesFile::finish`], it leaves nothing behind.
pub struct LinesFile {
    path: PathBuf,
    encoder: Encoder<'static, Hashed>,
    line: Vec<u8>,
    lines: u64,
}

impl LinesFile {
    /// `level`: of zstd.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(path: &Path, level: i32) -> Result<Self, CurateError> {
        let encoder = Encoder::new(Hashed::create(path)?, level);
        let encoder = encoder.map_err(|error| CurateError::io("write", path, error))?;
        Ok(Self { path: path.to_owned(), encoder, line: Vec::new(), lines: 0 })
    }

    /// # Errors
    /// When the disk fails.
    pub fn write(&mut self, value: &impl Serialize) -> Result<(), CurateError> {
        self.line.clear();
        let fault = |error| CurateError::io("write", &self.path, error);
        serde_json::to_writer(&mut self.line, value).map_err(|error| fault(error.into()))?;
        self.line.push(b'\n');
        self.encoder.write_all(&self.line).map_err(fault)?;
        self.lines += 1;
        Ok(())
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// When the disk fails; then no file is left.
    pub fn finish(self) -> Result<Written, CurateError> {
        let file = self.encoder.finish().map_err(|error| CurateError::io("write", &self.path, error))?;
        file.commit(self.lines)
    }
}
