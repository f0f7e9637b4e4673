//! Windows of one source in order, for evaluation: every token but the first is a target exactly once.
//!
//! ```text
//! window w:  inputs  t[w·s] … t[w·s + s − 1]      targets  t[w·s + 1] … t[w·s + s]
//! ```
//!
//! The last window may be partial; its missing targets are [`IGNORE`] and its missing inputs token 0.

use crate::{DataError, Identity, Reader};
use std::path::Path;

/// A target that takes no part in the loss.
pub const IGNORE: u32 = u32::MAX;

#[derive(Debug)]
pub struct Sequential {
    reader: Reader,
    sequence: usize,
}

impl Sequential {
    /// # Errors
    /// When a file is damaged or holds fewer than two tokens.
    pub fn open(path: &Path, sequence: usize) -> Result<Self, DataError> {
        if sequence == 0 {
            return Err(DataError::EmptySequence);
        }
        let reader = Reader::open(path)?;
        if reader.tokens() < 2 {
            return Err(DataError::TooFewTokens {
                path: path.to_owned(),
                tokens: reader.tokens(),
                sequence,
                most: 0,
            });
        }
        Ok(Self { reader, sequence })
    }

    /// Refuses token ids at and above `vocab`, the size of the model's embedding.
    pub fn limit_vocab(&mut self, vocab: u32) {
        self.reader.limit_vocab(vocab);
    }

    /// How many windows there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.targets().div_ceil(self.sequence as u64)
    }

    /// How many tokens are targets: all but the first.
    #[must_use]
    pub fn targets(&self) -> u64 {
        self.reader.tokens() - 1
    }

    #[must_use]
    pub fn tokenizer(&self) -> Option<&Identity> {
        self.reader.identity()
    }

    /// Fills one window, both buffers `sequence` long, and returns how many of its targets are real.
    ///
    /// # Errors
    /// Past the last window; when the file cannot be read or holds an id that is not in the vocabulary.
    pub fn fill(&self, window: u64, inputs: &mut [u32], targets: &mut [u32]) -> Result<usize, DataError> {
        for buffer in [&*inputs, &*targets] {
            if buffer.len() != self.sequence {
                return Err(DataError::BufferLength { expected: self.sequence, found: buffer.len() });
            }
        }
        if window >= self.count() {
            return Err(DataError::WindowRange { window, count: self.count() });
        }
        let start = window * self.sequence as u64;
        let real = (self.targets() - start).min(self.sequence as u64) as usize;
        self.reader.read(start, &mut inputs[..real])?;
        self.reader.read(start + 1, &mut targets[..real])?;
        inputs[real..].fill(0);
        targets[real..].fill(IGNORE);
        Ok(real)
    }
}
