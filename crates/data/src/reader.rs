//! Reads token windows out of a `.bin/.idx` pair, every access checked.
//!
//! The `.bin` is read by position into the caller's buffer, one system call for a window of up to 16 KiB. A memory
//! map would answer from the same page cache, but a file cut short under a map kills the process with SIGBUS, where a
//! read returns an error that names the file; and no map is sound without `unsafe`.

use crate::index::{Index, ParseError};
use crate::{DataError, Identity, TokenType};
use std::ffi::OsString;
use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct Reader {
    prefix: PathBuf,
    bin_path: PathBuf,
    bin: File,
    index: Index,
    identity: Option<Identity>,
    /// Ids at and above it are refused.
    limit: u32,
}

impl Reader {
    /// `prefix`: the path without `.bin` and `.idx`.
    ///
    /// # Errors
    /// When a file is missing or any rule of the format is broken; the message names file and rule.
    pub fn open(prefix: &Path) -> Result<Self, DataError> {
        let (bin_path, idx_path) = (beside(prefix, ".bin"), beside(prefix, ".idx"));
        let idx = File::open(&idx_path).map_err(|error| DataError::io("open", &idx_path, error))?;
        let length = file_length(&idx, &idx_path)?;
        let index =
            Index::parse(&mut BufReader::with_capacity(1 << 16, idx), length).map_err(
                |error| match error {
                    ParseError::Io(error) => DataError::io("read", &idx_path, error),
                    ParseError::Fault(fault) => DataError::Index { path: idx_path.clone(), fault },
                },
            )?;
        let bin = File::open(&bin_path).map_err(|error| DataError::io("open", &bin_path, error))?;
        let found = file_length(&bin, &bin_path)?;
        let expected = u128::from(index.tokens()) * index.kind.size() as u128;
        if u128::from(found) != expected {
            return Err(DataError::BinLength { path: bin_path, expected, found });
        }
        let identity = Identity::read(&beside(prefix, ".tokenizer.json"))?;
        let limit = identity.as_ref().map_or(u32::MAX, |identity| identity.vocab);
        Ok(Self { prefix: prefix.to_owned(), bin_path, bin, index, identity, limit })
    }

    /// Refuses ids at and above `vocab` from now on, besides those the identity refuses.
    pub fn limit_vocab(&mut self, vocab: u32) {
        self.limit = self.limit.min(vocab);
    }

    #[must_use]
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    #[must_use]
    pub fn token_type(&self) -> TokenType {
        self.index.kind
    }

    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.index.tokens()
    }

    #[must_use]
    pub fn sequences(&self) -> u64 {
        self.index.sequences()
    }

    #[must_use]
    pub fn documents(&self) -> u64 {
        self.index.documents()
    }

    /// One mode a sequence, only in multimodal files.
    #[must_use]
    pub fn modes(&self) -> Option<&[i8]> {
        self.index.modes.as_deref()
    }

    /// The tokens of a sequence, as places in the stream of all tokens; `None` past the last.
    #[must_use]
    pub fn sequence(&self, sequence: u64) -> Option<Range<u64>> {
        let start = usize::try_from(sequence).ok()?;
        Some(self.index.starts[start]..*self.index.starts.get(start.checked_add(1)?)?)
            .filter(|_| sequence < self.sequences())
    }

    /// The tokens of a document, as places in the stream of all tokens; `None` past the last.
    #[must_use]
    pub fn document(&self, document: u64) -> Option<Range<u64>> {
        (document < self.documents()).then(|| {
            let start = |document| self.index.starts[self.index.border(document) as usize];
            start(document)..start(document + 1)
        })
    }

    /// Fills `out` with the tokens from place `start` of the stream on.
    ///
    /// # Errors
    /// Past the end; when the file cannot be read; when an id is negative, broken or not in the vocabulary.
    pub fn read(&self, start: u64, out: &mut [u32]) -> Result<(), DataError> {
        let end = start.saturating_add(out.len() as u64);
        if end > self.tokens() {
            return Err(DataError::TokenRange {
                path: self.bin_path.clone(),
                start,
                end,
                tokens: self.tokens(),
            });
        }
        let size = self.index.kind.size();
        let mut block = [0u8; 1 << 14];
        let mut place = start;
        for ids in out.chunks_mut(block.len() / size) {
            let bytes = &mut block[..ids.len() * size];
            self.bin
                .read_exact_at(bytes, place * size as u64)
                .map_err(|error| DataError::io("read", &self.bin_path, error))?;
            let decoded = self.index.kind.decode(bytes, ids, self.limit);
            decoded.map_err(|(offset, id)| self.bad_token(place + offset as u64, id))?;
            place += ids.len() as u64;
        }
        Ok(())
    }

    /// All tokens of a document.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn read_document(&self, document: u64) -> Result<Vec<u32>, DataError> {
        let place = self.document(document).ok_or_else(|| DataError::TokenRange {
            path: self.bin_path.clone(),
            start: document,
            end: document,
            tokens: self.tokens(),
        })?;
        let mut tokens = vec![0; (place.end - place.start) as usize];
        self.read(place.start, &mut tokens)?;
        Ok(tokens)
    }

    fn bad_token(&self, place: u64, id: String) -> DataError {
        let (document, position) = self.index.locate(place);
        DataError::TokenId { path: self.bin_path.clone(), document, position, id, vocab: self.limit.into() }
    }
}

/// `prefix` with an ending; not `with_extension`, for prefixes may hold dots.
pub(crate) fn beside(prefix: &Path, ending: &str) -> PathBuf {
    let mut path = OsString::from(prefix);
    path.push(ending);
    path.into()
}

fn file_length(file: &File, path: &Path) -> Result<u64, DataError> {
    file.metadata().map(|metadata| metadata.len()).map_err(|error| DataError::io("read", path, error))
}
