//! From text to the token windows a training step reads.
//!
//! ```text
//! .txt .md .jsonl .parquet ──tokenize──▶ prefix.bin / prefix.idx / prefix.tokenizer.json
//!                                                   │
//!   sample number n ──blend──▶ (source, k) ──keyed permutation──▶ window ──read──▶ tokens
//! ```
//!
//! The position in a run is one number, the count of samples drawn so far. Which tokens sample `n` holds is a
//! pure function of `n`, the seed and the stages of the blend: nothing is built, stored or replayed.
#![forbid(unsafe_code)]

mod atomic;
mod blend;
mod byte_level;
mod documents;
mod error;
mod identity;
mod index;
mod inputs;
mod jsonl;
mod parquet_text;
mod permutation;
mod pieces;
mod prefix;
mod reader;
mod samples;
mod sequential;
mod token_type;
mod tokenize;
mod tokenizer;
mod vocabulary;
mod words;
mod writer;

pub use atomic::AtomicFile;
pub use blend::{Blend, Stage, Stages};
pub use documents::{BadDocuments, Reading, Split, sample_texts};
pub use error::{DataError, IndexFault};
pub use identity::Identity;
pub use index::fuzz_idx;
pub use permutation::Permutation;
pub use pieces::Pieces;
pub use prefix::prefix_length;
pub use reader::Reader;
pub use samples::{SampleOrigin, Samples, SourceSummary};
pub use sequential::{IGNORE, Sequential};
pub use token_type::TokenType;
pub use tokenize::{Progress, Tokenized, tokenize};
pub use tokenizer::{END_OF_TEXT, Tokenizer, TokenizerKind};
pub use vocabulary::{Pattern, TokenKind, Vocabulary};
pub use writer::{Writer, Written};
