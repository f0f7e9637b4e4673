//! Writes a `.bin/.idx` pair that Megatron reads, whole or not at all.
//!
//! The `.idx` is named last: a reader never sees an index whose tokens are not all there.

use crate::atomic::AtomicFile;
use crate::index::{MAGIC, VERSION};
use crate::reader::beside;
use crate::{DataError, Identity, TokenType};
use std::path::{Path, PathBuf};

/// Dropped without [`Writer::finish`], it leaves nothing behind.
pub struct Writer {
    prefix: PathBuf,
    kind: TokenType,
    identity: Option<Identity>,
    bin: AtomicFile,
    lengths: Vec<i32>,
    borders: Vec<u64>,
    modes: Vec<i8>,
    tokens: u64,
    buffer: Vec<u8>,
}

/// What a finished pair holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub documents: u64,
    pub sequences: u64,
    pub tokens: u64,
}

impl Writer {
    /// Replaces an older pair of the same prefix when finished.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(prefix: &Path, kind: TokenType, identity: Option<Identity>) -> Result<Self, DataError> {
        Ok(Self {
            prefix: prefix.to_owned(),
            kind,
            identity,
            bin: AtomicFile::create(&beside(prefix, ".bin"))?,
            lengths: Vec::new(),
            borders: vec![0],
            modes: Vec::new(),
            tokens: 0,
            buffer: Vec::new(),
        })
    }

    /// One sequence that is a whole document.
    ///
    /// # Errors
    /// As [`Writer::push_sequence`].
    pub fn push_document(&mut self, tokens: &[u32]) -> Result<(), DataError> {
        self.push_sequence(tokens)?;
        self.end_document();
        Ok(())
    }

    /// A sequence of the document under way.
    ///
    /// # Errors
    /// When an id does not fit the type, the sequence passes 2³¹ − 1 tokens, or the disk is full.
    pub fn push_sequence(&mut self, tokens: &[u32]) -> Result<(), DataError> {
        if let Some(&id) = tokens.iter().find(|&&id| id > self.kind.largest()) {
            return Err(DataError::TokenTooWide { path: self.prefix.clone(), id, kind: self.kind });
        }
        let length = i32::try_from(tokens.len()).map_err(|_| DataError::SequenceTooLong {
            path: self.prefix.clone(),
            length: tokens.len() as u64,
        })?;
        for part in tokens.chunks(1 << 16) {
            self.buffer.clear();
            self.kind.encode(part, &mut self.buffer);
            self.bin.write(&self.buffer)?;
        }
        self.lengths.push(length);
        self.tokens += tokens.len() as u64;
        Ok(())
    }

    /// As [`Writer::push_sequence`] for multimodal files; then every sequence has a mode.
    ///
    /// # Errors
    /// As [`Writer::push_sequence`].
    pub fn push_sequence_with_mode(&mut self, tokens: &[u32], mode: i8) -> Result<(), DataError> {
        self.push_sequence(tokens)?;
        self.modes.resize(self.lengths.len() - 1, 0);
        self.modes.push(mode);
        Ok(())
    }

    pub fn end_document(&mut self) {
        self.borders.push(self.lengths.len() as u64);
    }

    /// Ends a document that was left open, syncs, and gives the files their names.
    ///
    /// # Errors
    /// When the disk fails; then no new file is left.
    pub fn finish(mut self) -> Result<Written, DataError> {
        if self.borders.last() != Some(&(self.lengths.len() as u64)) {
            self.end_document();
        }
        let idx_path = beside(&self.prefix, ".idx");
        let identity_path = beside(&self.prefix, ".tokenizer.json");
        let mut idx = AtomicFile::create(&idx_path)?;
        self.write_index(&mut idx)?;
        idx.sync()?;
        self.bin.sync()?;
        // From here on the older pair is gone: an old index must not meet new tokens.
        remove_if_present(&idx_path)?;
        match &self.identity {
            Some(identity) => identity.write(&identity_path)?,
            None => remove_if_present(&identity_path)?,
        }
        let written = Written {
            documents: self.borders.len() as u64 - 1,
            sequences: self.lengths.len() as u64,
            tokens: self.tokens,
        };
        self.bin.commit()?;
        idx.commit()?;
        Ok(written)
    }

    fn write_index(&self, idx: &mut AtomicFile) -> Result<(), DataError> {
        idx.write(&MAGIC)?;
        idx.write(&VERSION.to_le_bytes())?;
        idx.write(&[self.kind.code()])?;
        idx.write(&(self.lengths.len() as u64).to_le_bytes())?;
        idx.write(&(self.borders.len() as u64).to_le_bytes())?;
        for length in &self.lengths {
            idx.write(&length.to_le_bytes())?;
        }
        let mut pointer = 0u64;
        for &length in &self.lengths {
            idx.write(&pointer.to_le_bytes())?;
            pointer += length as u64 * self.kind.size() as u64;
        }
        for border in &self.borders {
            idx.write(&border.to_le_bytes())?;
        }
        if !self.modes.is_empty() {
            let missing = self.lengths.len() - self.modes.len();
            for mode in self.modes.iter().copied().chain(std::iter::repeat_n(0, missing)) {
                idx.write(&mode.to_le_bytes())?;
            }
        }
        Ok(())
    }
}

fn remove_if_present(path: &Path) -> Result<(), DataError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(DataError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}
