//! Repetition within a Chinese text, counted in characters: the share of character n-grams that were there before.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::document::Document;
use crate::filters::characters::is_space;
use crate::step::{Filter, Scratch, Verdict};

/// ChineseWebText's rule: more than half of the 13-grams repeated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChineseRepetitionConfig {
    /// Characters of an n-gram; white space is left out.
    pub characters: usize,
    /// Largest share of n-grams that are copies.
    pub max_repeated: f64,
}

impl Default for ChineseRepetitionConfig {
    fn default() -> Self {
        Self { characters: 13, max_repeated: 0.5 }
    }
}

impl ChineseRepetitionConfig {
    pub const fn build(self) -> ChineseRepetition {
        ChineseRepetition { config: self }
    }
}

/// The filter `chinese_repetition`.
#[derive(Debug)]
pub struct ChineseRepetition {
    config: ChineseRepetitionConfig,
}

impl Filter for ChineseRepetition {
    fn name(&self) -> &'static str {
        "chinese_repetition"
    }

    fn apply(&self, document: &mut Document, scratch: &mut Scratch) -> Verdict {
        let n = self.config.characters.max(1);
        let text = &mut scratch.edited;
        text.clear();
        text.extend(document.text.chars().filter(|&c| !is_space(c)));
        // Starts of characters; an n-gram is the bytes from one to the n-th after it.
        let starts: Vec<_> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let grams = starts.windows(n + 1).map(|window| (xxh3_64(&text.as_bytes()[window[0]..window[n]]), 0));
        let found = scratch.repeats.duplicates(grams);
        let share = found.duplicated as f64 / found.items.max(1) as f64;
        match share > self.config.max_repeated {
            true => Verdict::remove_measured("zh_repetition", format_args!("{share:.4}")),
            false => Verdict::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::{label, verdict};

    #[test]
    fn repeated_text_is_removed() {
        let filter = ChineseRepetitionConfig::default().build();
        let line = "天慢慢黑了下来，船上的灯一盏一盏亮起来，孩子们都回家了。\n";
        assert_eq!(label(&verdict(&filter, line)), "keep");
        assert_eq!(label(&verdict(&filter, "短")), "keep");
        assert_eq!(label(&verdict(&filter, &line.repeat(2))), "keep");
        assert_eq!(label(&verdict(&filter, &line.repeat(4))), "zh_repetition");
    }
}
