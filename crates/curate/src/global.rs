//! Steps over the whole corpus: what they remember of every document, what they make of it, and what they then say.
//!
//! ```text
//! shard ──Collect──▶ rows of the shard ─┐
//! shard ──Collect──▶ rows of the shard ─┼─ resolve ─▶ decisions, by document number ──Decide──▶ each shard again
//! ```
//!
//! Rows are narrow (hashes, numbers); text stays in the shards. Document numbers rise through the corpus in the order
//! of its sources, files and records. Only their order counts, so that the result does not depend on how the corpus was
//! cut into shards.

use crate::cluster::{Cluster, Joins};
use crate::document::Document;
use crate::runs::{RunError, record};
use crate::step::Reason;
use std::path::{Path, PathBuf};

/// A step over the whole corpus.
pub trait GlobalStep: Send + Sync {
    /// The step's kind in a recipe.
    fn name(&self) -> &'static str;

    /// What looks at the documents of one shard, in order, and leaves rows in `folder`, which exists and is empty.
    /// `memory`: bytes it may hold.
    ///
    /// # Errors
    /// When files cannot be written.
    fn collect(&self, folder: &Path, memory: usize) -> Result<Box<dyn Collect>, GlobalError>;

    /// Puts the rows of a finished shard, in its `folder`, where a cluster reads them. Nothing to do for steps that always
    /// join in this process.
    ///
    /// # Errors
    /// When files cannot be written.
    fn share(&self, _folder: &Path, _cluster: &Cluster) -> Result<(), GlobalError> {
        Ok(())
    }

    /// Joins the rows of all shards, in the order of the corpus, and leaves decisions in `out`, which exists and is empty.
    /// They are the same wherever `joins` says to join.
    ///
    /// # Errors
    /// When rows are damaged, files cannot be written, or a cluster loses rows.
    fn resolve(
        &self,
        shards: &[PathBuf],
        out: &Path,
        memory: usize,
        joins: &Joins,
    ) -> Result<Resolution, GlobalError>;

    /// What says of the documents from number `first` on, in order, what becomes of them.
    ///
    /// # Errors
    /// When the decisions in `out` are damaged.
    fn decide(&self, out: &Path, first: u64) -> Result<Box<dyn Decide>, GlobalError>;
}

/// The first pass over a shard.
pub trait Collect: Send {
    /// Documents come with rising numbers.
    ///
    /// # Errors
    /// When the disk is full.
    fn see(&mut self, number: u64, standing: Standing, document: &Document) -> Result<(), GlobalError>;

    /// Writes what is left.
    ///
    /// # Errors
    /// When the disk is full.
    fn finish(self: Box<Self>) -> Result<(), GlobalError>;
}

/// The second pass over a shard.
pub trait Decide: Send {
    /// Documents come with the numbers of the first pass, rising.
    ///
    /// # Errors
    /// When decisions cannot be read.
    fn decide(&mut self, number: u64, document: &mut Document) -> Result<Decision, GlobalError>;
}

/// What becomes of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Perhaps edited.
    Keep,
    Remove(Reason),
    /// These texts take the document's place, at least two of them.
    Split(Vec<String>),
}

/// Counts of a resolved step, for the manifest and the report.
pub type Resolution = serde_json::Map<String, serde_json::Value>;

#[derive(Debug, thiserror::Error)]
pub enum GlobalError {
    #[error(transparent)]
    Run(#[from] RunError),

    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("{path}: {message}")]
    Input { path: PathBuf, message: String },

    #[error("{step}: {message}")]
    Configuration { step: &'static str, message: String },

    #[error("relation {relation} on the cluster at {address}: {message}")]
    Cluster { relation: &'static str, address: String, message: String },

    #[error(
        "relation {relation} on the cluster has {found} rows, but {expected} {rule}: its counts cannot be trusted and \
         nothing was decided; the same command joins anew, without --cluster in this process"
    )]
    Unbalanced { relation: &'static str, found: u64, expected: u64, rule: &'static str },
}

impl GlobalError {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// Which of several copies stays: the one of the smallest standing, then of the smallest document number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// Of the source: 0 is the best.
    rank: u16,
    /// Falls where the quality rises.
    worse: u32,
}

impl Standing {
    /// `rank`: place of the document's source in the order of priority, 0 first. `quality`: any scale, more is better; NaN is
    /// worse than every number.
    #[must_use]
    pub fn new(rank: u16, quality: f32) -> Self {
        let quality = if quality.is_nan() { f32::NEG_INFINITY } else { quality };
        // −0.0 and 0.0 are one quality. The bits of floats rise with their values once negative ones are turned around.
        let bits = (quality + 0.0).to_bits();
        let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        Self { rank, worse: !rising }
    }

    pub(crate) const fn parts(self) -> (u16, u32) {
        (self.rank, self.worse)
    }

    pub(crate) const fn from_parts(rank: u16, worse: u32) -> Self {
        Self { rank, worse }
    }
}

/// A document that has copies: one row for each member of a cluster, in the order of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    pub(crate) document: u64,
    /// The member that stays; its own row says itself.
    pub(crate) survivor: u64,
    /// Members of the cluster; only the survivor's row says so.
    pub(crate) size: u32,
}

record!(Member, b"memb", document: u64, survivor: u64, size: u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_comes_before_quality_and_nan_is_last() {
        let qualities = [f32::INFINITY, 2.0, 0.5, 0.0, -1.0, -3.0e9];
        for pair in qualities.windows(2) {
            assert!(Standing::new(1, pair[0]) < Standing::new(1, pair[1]), "{pair:?}");
        }
        assert!(Standing::new(0, -5.0) < Standing::new(1, 5.0));
        assert_eq!(Standing::new(0, 0.0), Standing::new(0, -0.0));
        assert!(Standing::new(0, -1e30) < Standing::new(0, f32::NAN));
    }
}
