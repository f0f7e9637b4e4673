//! What a step says of a document, and the two kinds of steps.
//!
//! ```text
//! Filter       document ──apply──▶ verdict
//! GlobalStep   documents ──rows──▶ rows of all shards ──decide──▶ decisions, sorted by document
//!              document + its decisions ──apply──▶ verdict                    (a second pass)
//! ```

use crate::CurateError;
use crate::document::Document;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// A step may edit the document (text, metadata) and keep it, remove it, or cut it into several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    Remove(Reason),
    /// The document's place is taken by documents of these texts, at least two.
    Split(Vec<String>),
}

/// Why a document was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Stable and machine-readable, the field's own where it has one: "gopher_short_doc".
    pub label: Cow<'static, str>,
    /// The value that was measured, for tuning: "12 words".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Reason {
    pub const fn new(label: &'static str) -> Self {
        Self { label: Cow::Borrowed(label), detail: None }
    }

    pub fn measured(label: &'static str, detail: impl std::fmt::Display) -> Self {
        Self { label: Cow::Borrowed(label), detail: Some(detail.to_string()) }
    }
}

impl Verdict {
    pub const fn remove(label: &'static str) -> Self {
        Self::Remove(Reason::new(label))
    }

    pub fn remove_measured(label: &'static str, detail: impl std::fmt::Display) -> Self {
        Self::Remove(Reason::measured(label, detail))
    }
}

/// A step over one document at a time. Pure: the same document gets the same verdict on any thread, in any order.
pub trait Filter: Send + Sync {
    /// The step's kind in a recipe.
    fn name(&self) -> &'static str;

    fn apply(&self, document: &mut Document, scratch: &mut Scratch) -> Verdict;
}

/// A step that compares documents with each other. Only its narrow rows are compared, never texts.
pub trait GlobalStep: Send + Sync {
    /// The step's kind in a recipe.
    fn name(&self) -> &'static str;

    /// Appends what is to be compared of one document. Which rows a shard gives, and their size, is the step's own
    /// business. `number` is unique in the run and grows in the order of sources, files and places in them; it
    /// depends on how files were cut into shards, so it may break a tie but never tell two documents apart by value.
    fn rows(&self, number: u64, document: &Document, scratch: &mut Scratch, rows: &mut Vec<u8>);

    /// Compares the rows of all shards. The result depends on the rows only, never on threads or memory.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    fn decide(&self, comparison: &Comparison<'_>) -> Result<Decided, CurateError>;

    /// `decisions`: those of this document, in the order of the file, [`Decided::payload`] bytes each. Called only
    /// where there are any.
    fn apply(&self, decisions: &[u8], document: &mut Document, scratch: &mut Scratch) -> Verdict;
}

/// What [`GlobalStep::decide`] works with.
#[derive(Debug)]
pub struct Comparison<'a> {
    /// One file of rows a shard, in the order of shards; never a partial one.
    pub rows: &'a [PathBuf],
    /// An empty folder for temporary files, removed afterwards.
    pub workspace: &'a Path,
    /// The file of decisions to write: records of a document number (u64, little-endian) and a payload of fixed
    /// size, sorted by document number.
    pub decisions: &'a Path,
    /// Bytes the comparison may hold in memory.
    pub memory: usize,
    /// At least 1.
    pub threads: usize,
}

/// What came out of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// Bytes of a decision after the document number.
    pub payload: usize,
    /// For manifest and report: "candidate_pairs", "clusters", "largest_cluster".
    pub figures: std::collections::BTreeMap<String, u64>,
    /// For the report's plot: how many clusters (or n-grams, …) of each size.
    #[serde(default)]
    pub sizes: std::collections::BTreeMap<u64, u64>,
}

/// What a step may know of the run when it is built.
#[derive(Debug)]
pub struct StepContext<'a> {
    /// Names of the recipe's sources with their priorities: of duplicates, the one of the highest priority stays.
    pub sources: &'a [(String, u16)],
}

/// The settings of a local step as a recipe writes them.
pub trait FilterConfig {
    /// # Errors
    /// When settings contradict each other, or a file they name cannot be used.
    fn build(self, context: &StepContext<'_>) -> Result<Box<dyn Filter>, CurateError>;
}

/// The settings of a global step as a recipe writes them.
pub trait GlobalConfig {
    /// # Errors
    /// When settings contradict each other, or a file they name cannot be used.
    fn build(self, context: &StepContext<'_>) -> Result<Box<dyn GlobalStep>, CurateError>;
}

/// Buffers of one thread, reused for every document, so that filters share one segmentation of a text.
/// What is in it never changes a verdict.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Scratch {}
