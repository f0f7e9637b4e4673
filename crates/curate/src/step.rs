//! What a step says of a document, and the trait of steps that look at one document at a time.

use crate::CurateError;
use crate::document::Document;
pub use crate::filters::text::Scratch;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A step may edit the document (text, metadata) and keep it, or remove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    Remove(Reason),
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

/// The settings of a filter as a recipe writes them.
pub trait FilterConfig {
    /// # Errors
    /// When settings contradict each other, or a file they name cannot be used.
    fn filter(self) -> Result<Box<dyn Filter>, CurateError>;
}
