//! Files to records: texts that are ready, pages still to be extracted, and what cannot be read, with the reason.
//!
//! A record is bounded in memory by [`Limits`] whatever the file says of itself; a damaged record is counted and
//! passed over.

mod archive;
mod bounded;
mod jsonl;
mod names;
mod pages;
mod parquet;
mod sources;

pub use archive::fuzz_warc;
pub use jsonl::fuzz_jsonl;
pub use sources::{Part, Shard, shards};

use crate::CurateError;
use crate::document::Document;
use crate::recipe::{Format, Source};
use crate::step::Reason;
use serde::{Deserialize, Serialize};

/// Bounds on what one record, line or file may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of one record, line or file, decompressed. Larger ones are removed.
    pub record_bytes: usize,
    /// Bytes that may come out of one compressed byte, once a file has given 16 MB. Beyond it the rest of the file
    /// is left out as a decompression bomb.
    pub expansion: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { record_bytes: 32 << 20, expansion: 250 }
    }
}

impl Limits {
    pub(crate) fn check(&self) -> Result<(), String> {
        if !(1..=1 << 31).contains(&self.record_bytes) {
            return Err(format!(
                "`limits.record_bytes` is {}; it must be 1 to {}",
                self.record_bytes,
                1u64 << 31
            ));
        }
        if self.expansion == 0 {
            return Err("`limits.expansion` is 0; it must be at least 1".into());
        }
        Ok(())
    }
}

/// What a reader finds.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    Text(Document),
    /// HTML; the document has no text yet.
    Page {
        document: Document,
        html: Vec<u8>,
        charset: Option<String>,
    },
    /// Nothing to work with. The document has no text, but says which record it was.
    Bad {
        document: Document,
        reason: Reason,
    },
}

/// Gives each record and the bytes on disk passed so far. Its error ends reading.
pub type Sink<'a> = &'a mut dyn FnMut(Record, u64) -> Result<(), CurateError>;

/// Reads one part of a shard.
///
/// # Errors
/// When the file cannot be opened, or when `sink` fails.
pub fn read(part: &Part, source: &Source, limits: &Limits, sink: Sink<'_>) -> Result<(), CurateError> {
    match part.format {
        Format::Warc => archive::read(part, source, limits, sink),
        Format::Jsonl => jsonl::read(part, source, limits, sink),
        Format::Parquet => parquet::read(part, source, limits, sink),
        Format::Html => pages::read_html(part, source, limits, sink),
        Format::Text | Format::Code | Format::Auto => pages::read_text(part, source, limits, sink),
    }
}

/// A document without text, named by its place.
fn blank(part: &Part, source: &Source, place: impl std::fmt::Display) -> Document {
    Document {
        id: format!("{}/{}#{place}", source.name, part.name),
        source: source.name.clone(),
        ..Document::default()
    }
}
