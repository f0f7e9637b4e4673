//! Everything that can be wrong with data: which file, where in it, which rule, what would work.

use crate::TokenType;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("{path}: {fault}")]
    Index { path: PathBuf, fault: IndexFault },

    #[error(
        "{path} has {found} bytes, but its .idx describes {expected}: one of the two is damaged or stale"
    )]
    BinLength { path: PathBuf, expected: u128, found: u64 },

    #[error("{path} has {tokens} tokens; {start}..{end} was asked for")]
    TokenRange { path: PathBuf, start: u64, end: u64, tokens: u64 },

    #[error(
        "{path}: document {document}, position {position}: token id {id} is not below the vocabulary size {vocab}"
    )]
    TokenId { path: PathBuf, document: u64, position: u64, id: String, vocab: u64 },

    #[error("{path}: token id {id} does not fit {kind:?}; write with a wider type")]
    TokenTooWide { path: PathBuf, id: u32, kind: TokenType },

    #[error("{path}: a sequence of {length} tokens; the format ends at 2147483647, split the document")]
    SequenceTooLong { path: PathBuf, length: u64 },

    #[error("{path}: {message}")]
    Identity { path: PathBuf, message: String },

    #[error(
        "{first} was written with tokenizer {first_tokenizer} but {second} with {second_tokenizer}: \
         sources of one blend must share a tokenizer; tokenize one of them again"
    )]
    TokenizerMismatch { first: PathBuf, first_tokenizer: String, second: PathBuf, second_tokenizer: String },

    #[error(
        "{path} has {tokens} tokens, too few for one sample of {sequence} tokens and a target; \
         at most sequence = {most} would work"
    )]
    TooFewTokens { path: PathBuf, tokens: u64, sequence: usize, most: u64 },

    #[error("tokenizer {name}: {message}")]
    Tokenizer { name: String, message: String },

    /// `unit`: line, row or byte, counted from 1 (bytes from 0).
    #[error("{path}, {unit} {number}: {message}")]
    Document { path: PathBuf, unit: &'static str, number: u64, message: String },

    #[error("{path} has no text column {column:?}; its columns are {existing}")]
    Column { path: PathBuf, column: String, existing: String },

    #[error("{path}: {message}")]
    Input { path: PathBuf, message: String },

    #[error("blend: {0}")]
    Blend(String),

    #[error("sequence is 0; a sample needs at least one token")]
    EmptySequence,

    #[error("the buffer holds {found} tokens; {expected} are needed")]
    BufferLength { expected: usize, found: usize },

    #[error("window {window} was asked for; there are {count}")]
    WindowRange { window: u64, count: u64 },
}

/// What is wrong inside an `.idx` file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexFault {
    #[error("{length} bytes are too few for the 34-byte header of an .idx file")]
    NoHeader { length: u64 },
    #[error("not an indexed dataset: begins with {found:02x?} instead of MMIDIDX and two zero bytes")]
    Magic { found: [u8; 9] },
    #[error("version {found}; only version 1 exists")]
    Version { found: u64 },
    #[error("token type code {found}; known are 1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 6 f64, 7 f32, 8 u16")]
    TypeCode { found: u8 },
    #[error(
        "the header promises {sequences} sequences and {borders} document borders, which take {expected} bytes \
         (or one more a sequence, with modes), but the file has {found}"
    )]
    Length { sequences: u64, borders: u64, expected: u128, found: u64 },
    #[error("sequence {sequence} has the negative length {length}")]
    NegativeLength { sequence: u64, length: i32 },
    #[error("sequence {sequence} is said to start at byte {found}; its predecessors end at byte {expected}")]
    Pointer { sequence: u64, found: i64, expected: u64 },
    #[error("document border {entry} is {found}; borders must rise from 0 to the {sequences} sequences")]
    Border { entry: u64, found: i64, sequences: u64 },
    #[error("no document borders; the array holds at least the border 0")]
    NoBorders,
}

impl DataError {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}
