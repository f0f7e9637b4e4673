//! From crawls and files to clean, deduplicated, weighted documents.
//!
//! ```text
//! WARC, JSONL, Parquet, HTML, text ──read──▶ Document ──step──▶ … ──step──▶ documents/ ──▶ .bin/.idx
//!                                                └──reason──▶ removed/<step>/
//! ```
#![forbid(unsafe_code)]

pub mod chinese;
pub mod classifier;
pub mod cluster;
mod decontaminate;
mod dedup;
mod document;
mod error;
pub mod extract;
pub mod filters;
mod global;
pub mod kenlm;
pub mod objects;
pub mod pipeline;
pub mod readers;
pub mod recipe;
pub mod report;
mod runs;
mod step;
mod steps;
#[cfg(test)]
mod testing;
pub mod tokens;
pub mod writers;

pub use decontaminate::{ContaminationRule, Decontaminate, EvaluationSet};
pub use dedup::{
    ExactDedup, ExactKey, LineDedup, LineUnit, MinHashDedup, Normalizer, Segmenter, ShingleHash, ShingleUnit,
    Shingler, Signer, SubstringDedup,
};
pub use document::{Document, Metadata};
pub use error::CurateError;
pub use global::{Collect, Decide, Decision, GlobalError, GlobalStep, Resolution, Standing};
pub use recipe::Recipe;
pub use runs::{Merge, Record, RunError, RunFault, RunReader, RunWriter, Sorted, Sorter, merge};
pub use step::{Filter, FilterConfig, Reason, Scratch, Verdict};
