//! From crawls and files to clean, deduplicated, weighted documents.
//!
//! ```text
//! WARC, JSONL, Parquet, HTML, text ──read──▶ Document ──step──▶ … ──step──▶ documents/ ──▶ .bin/.idx
//!                                                └──reason──▶ removed/<step>/
//! ```
#![forbid(unsafe_code)]

mod document;
mod step;

pub use document::{Document, Metadata};
pub use step::{Filter, Reason, Scratch, Verdict};
