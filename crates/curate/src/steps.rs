//! Two steps that need nothing but the text: bounds on its length, and no text at all.

use crate::CurateError;
use crate::document::Document;
use crate::step::{Filter, FilterConfig, Scratch, Verdict};
use serde::{Deserialize, Serialize};

/// `kind = "length"`: bounds on the text.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Length {
    /// Fewest bytes of UTF-8.
    pub min_bytes: usize,
    /// Most bytes of UTF-8.
    pub max_bytes: usize,
}

impl Default for Length {
    fn default() -> Self {
        Self { min_bytes: 1, max_bytes: 1 << 24 }
    }
}

impl FilterConfig for Length {
    fn filter(self) -> Result<Box<dyn Filter>, CurateError> {
        if self.min_bytes > self.max_bytes {
            let message = format!("min_bytes {} is above max_bytes {}", self.min_bytes, self.max_bytes);
            return Err(CurateError::step("length", message));
        }
        Ok(Box::new(self))
    }
}

impl Filter for Length {
    fn name(&self) -> &'static str {
        "length"
    }

    fn apply(&self, document: &mut Document, _: &mut Scratch) -> Verdict {
        let bytes = document.text.len();
        if bytes < self.min_bytes {
            Verdict::remove_measured("too_short", format_args!("{bytes} bytes"))
        } else if bytes > self.max_bytes {
            Verdict::remove_measured("too_long", format_args!("{bytes} bytes"))
        } else {
            Verdict::Keep
        }
    }
}

/// `kind = "empty_text"`: removes texts of white space only.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EmptyText {}

impl FilterConfig for EmptyText {
    fn filter(self) -> Result<Box<dyn Filter>, CurateError> {
        Ok(Box::new(self))
    }
}

impl Filter for EmptyText {
    fn name(&self) -> &'static str {
        "empty_text"
    }

    fn apply(&self, document: &mut Document, _: &mut Scratch) -> Verdict {
        if document.text.trim().is_empty() { Verdict::remove("empty") } else { Verdict::Keep }
    }
}
