//! A step that needs nothing but the number of bytes.

use crate::CurateError;
use crate::document::Document;
use crate::step::{Filter, FilterConfig, Scratch, Verdict};
use serde::{Deserialize, Serialize};

/// `kind = "size"`: bounds on the text.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Size {
    /// Fewest bytes of UTF-8.
    pub min_bytes: usize,
    /// Most bytes of UTF-8.
    pub max_bytes: usize,
}

impl Default for Size {
    fn default() -> Self {
        Self { min_bytes: 1, max_bytes: 1 << 24 }
    }
}

impl FilterConfig for Size {
    fn filter(self) -> Result<Box<dyn Filter>, CurateError> {
        if self.min_bytes > self.max_bytes {
            let message = format!("min_bytes {} is above max_bytes {}", self.min_bytes, self.max_bytes);
            return Err(CurateError::step("size", message));
        }
        Ok(Box::new(self))
    }
}

impl Filter for Size {
    fn name(&self) -> &'static str {
        "size"
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
