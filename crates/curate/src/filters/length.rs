//! Shortest and longest texts, in characters.

use serde::{Deserialize, Serialize};

use super::characters::count;
use crate::document::Document;
use crate::step::{Filter, Scratch, Verdict};

/// Bounds of a text's length. 0 for none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LengthConfig {
    /// Characters (code points).
    pub min_characters: usize,
    pub max_characters: usize,
}

impl Default for LengthConfig {
    fn default() -> Self {
        Self { min_characters: 200, max_characters: 10_000_000 }
    }
}

impl LengthConfig {
    pub const fn build(self) -> Length {
        Length { config: self }
    }
}

/// The filter `length`.
#[derive(Debug)]
pub struct Length {
    config: LengthConfig,
}

impl Filter for Length {
    fn name(&self) -> &'static str {
        "length"
    }

    fn apply(&self, document: &mut Document, _: &mut Scratch) -> Verdict {
        let characters = count(&document.text);
        if characters < self.config.min_characters {
            return Verdict::remove_measured("too_short", format_args!("{characters} characters"));
        }
        if self.config.max_characters > 0 && characters > self.config.max_characters {
            return Verdict::remove_measured("too_long", format_args!("{characters} characters"));
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::{label, verdict};

    #[test]
    fn lengths_are_counted_in_characters() {
        let filter = LengthConfig { min_characters: 3, max_characters: 5 }.build();
        for (text, expected) in
            [("中国", "too_short"), ("中国人", "keep"), ("一二三四五", "keep"), ("abcdef", "too_long")]
        {
            assert_eq!(label(&verdict(&filter, text)), expected, "{text}");
        }
    }
}
