//! From crawls and files to clean, deduplicated, weighted documents.
//!
//! ```text
//! WARC, JSONL, Parquet, HTML, text ──read──▶ Document ──step──▶ … ──step──▶ documents/ ──▶ .bin/.idx
//!                                                └──reason──▶ removed/<step>/
//! ```
#![forbid(unsafe_code)]

mod dedup;
mod document;
mod global;
mod runs;
mod step;
#[cfg(test)]
mod testing;

pub use dedup::{
    ExactDedup, ExactKey, LineDedup, LineUnit, MinHashDedup, Normalizer, Segmenter, ShingleHash, ShingleUnit,
    Shingler, Signer,
};
pub use document::{Document, Metadata};
pub use global::{Collect, Decide, Decision, GlobalError, GlobalStep, Resolution, Standing};
pub use runs::{Merge, Record, RunError, RunFault, RunReader, RunWriter, Sorted, Sorter, merge};
pub use step::{Filter, Reason, Scratch, Verdict};
