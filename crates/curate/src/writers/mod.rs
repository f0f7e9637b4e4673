//! Files of documents: JSON lines in zstd, and Parquet. Written whole or not at all, with a hash of their bytes.

mod lines;
mod parquet;

pub use lines::LinesFile;
pub use parquet::ParquetFile;

use crate::CurateError;
use crate::document::Document;
use crate::recipe::{Output, OutputFormat};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::path::Path;
use triax_data::AtomicFile;

/// A finished file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Below the output folder, with `/`.
    pub path: String,
    pub documents: u64,
    /// On disk.
    pub bytes: u64,
    /// BLAKE3, the first 32 hexadecimal digits.
    pub hash: String,
}

/// A file of kept documents, in the format of the recipe.
pub enum DocumentFile {
    Lines(Box<LinesFile>),
    Parquet(Box<ParquetFile>),
}

impl DocumentFile {
    /// The ending of its name.
    pub const fn ending(format: OutputFormat) -> &'static str {
        match format {
            OutputFormat::Jsonl => "jsonl.zst",
            OutputFormat::Parquet => "parquet",
        }
    }

    /// # Errors
    /// When the file cannot be created.
    pub fn create(path: &Path, output: &Output) -> Result<Self, CurateError> {
        Ok(match output.format {
            OutputFormat::Jsonl => Self::Lines(Box::new(LinesFile::create(path, output.level)?)),
            OutputFormat::Parquet => Self::Parquet(Box::new(ParquetFile::create(path, output.level)?)),
        })
    }

    /// # Errors
    /// When the disk fails.
    pub fn write(&mut self, document: &Document) -> Result<(), CurateError> {
        match self {
            Self::Lines(file) => file.write(document),
            Self::Parquet(file) => file.write(document),
        }
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// When the disk fails; then no file is left.
    pub fn finish(self) -> Result<Written, CurateError> {
        match self {
            Self::Lines(file) => file.finish(),
            Self::Parquet(file) => file.finish(),
        }
    }
}

/// Hashes and counts what goes into a file.
struct Hashed {
    file: AtomicFile,
    hasher: Box<blake3::Hasher>,
    bytes: u64,
}

impl Hashed {
    fn create(path: &Path) -> Result<Self, CurateError> {
        Ok(Self { file: AtomicFile::create(path)?, hasher: Box::default(), bytes: 0 })
    }

    fn commit(self, documents: u64) -> Result<Written, CurateError> {
        self.file.commit()?;
        let hash = self.hasher.finalize().to_hex()[..32].to_owned();
        Ok(Written { path: String::new(), documents, bytes: self.bytes, hash })
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = Write::write(&mut self.file, bytes)?;
        self.hasher.update(&bytes[..length]);
        self.bytes += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The hash of a file as [`Written`] has it.
///
/// # Errors
/// When it cannot be read.
pub fn hash_of(path: &Path) -> Result<String, CurateError> {
    let mut hasher = blake3::Hasher::new();
    let mut file = std::fs::File::open(path).map_err(|error| CurateError::io("open", path, error))?;
    io::copy(&mut file, &mut hasher).map_err(|error| CurateError::io("read", path, error))?;
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}
