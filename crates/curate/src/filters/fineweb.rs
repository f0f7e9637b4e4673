//! FineWeb's own rules (Penedo et al. 2024): lines that end in nothing, short lines, repeated lines, lists.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::characters::{TERMINAL, count, is_space};
use super::words::Language;
use crate::document::Document;
use crate::step::{Filter, Scratch, Verdict};

/// Limits of FineWeb's rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FineWebConfig {
    pub language: Language,
    /// Smallest share of lines that end in a mark that ends sentences.
    pub min_punctuated_lines: f64,
    /// Whether a document without any such line passes.
    pub allow_no_punctuated_lines: bool,
    /// Largest share of lines of at most `short_line` characters; above 1 for any.
    pub max_short_lines: f64,
    pub short_line: usize,
    /// Largest share of characters in lines that are copies.
    pub max_duplicate_line_characters: f64,
    /// Most newlines a word.
    pub max_newlines_per_word: f64,
}

impl Default for FineWebConfig {
    fn default() -> Self {
        Self {
            language: Language::English,
            min_punctuated_lines: 0.12,
            allow_no_punctuated_lines: false,
            max_short_lines: 0.67,
            short_line: 30,
            max_duplicate_line_characters: 0.01,
            max_newlines_per_word: 0.3,
        }
    }
}

impl FineWebConfig {
    pub const fn build(self) -> FineWeb {
        FineWeb { config: self }
    }
}

/// The filter `fineweb`.
#[derive(Debug)]
pub struct FineWeb {
    config: FineWebConfig,
}

impl Filter for FineWeb {
    fn name(&self) -> &'static str {
        "fineweb"
    }

    fn apply(&self, document: &mut Document, scratch: &mut Scratch) -> Verdict {
        let (config, text) = (&self.config, document.text.as_str());
        let filled = || text.split('\n').filter(|line| !line.trim_start_matches(is_space).is_empty());
        let (mut lines, mut punctuated, mut short) = (0_usize, 0_usize, 0_usize);
        for line in filled() {
            lines += 1;
            punctuated += usize::from(line.chars().next_back().is_some_and(|c| TERMINAL.contains(c)));
            // A character has at most four bytes: most lines need no counting.
            short += usize::from(line.len() <= 4 * config.short_line && count(line) <= config.short_line);
        }
        if lines == 0 {
            return Verdict::remove("empty");
        }
        let share = punctuated as f64 / lines as f64;
        if share < config.min_punctuated_lines && !(punctuated == 0 && config.allow_no_punctuated_lines) {
            return measured("line_punct_ratio", share);
        }
        let share = short as f64 / lines as f64;
        if share > config.max_short_lines {
            return measured("short_line_ratio", share);
        }
        let newlines = text.bytes().filter(|&byte| byte == b'\n').count();
        let repeated =
            scratch.repeats.duplicates(filled().map(|line| (xxh3_64(line.as_bytes()), count(line))));
        let share = repeated.characters as f64 / (count(text) - newlines) as f64;
        if share > config.max_duplicate_line_characters {
            return measured("char_dup_ratio", share);
        }
        let (words, ..) = scratch.words(text, config.language);
        let share = newlines as f64 / words.len() as f64;
        if share > config.max_newlines_per_word {
            return measured("list_ratio", share);
        }
        Verdict::Keep
    }
}

fn measured(label: &'static str, share: f64) -> Verdict {
    Verdict::remove_measured(label, format_args!("{share:.4}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::{label, verdict};

    fn judged(text: &str) -> String {
        label(&verdict(&FineWebConfig::default().build(), text))
    }

    #[test]
    fn each_rule_has_its_label() {
        let line = "A line that is long enough to be more than thirty characters";
        assert_eq!(judged(&format!("{line}.\n{line} too.")), "keep");
        assert_eq!(judged(" \n\t\n"), "empty");
        assert_eq!(judged(&format!("{line}\n{line} too")), "line_punct_ratio");
        assert_eq!(judged("One.\nTwo.\nThree.\nFour."), "short_line_ratio");
        assert_eq!(judged(&format!("{line}.\n{line}.")), "char_dup_ratio");
        let long = "a".repeat(40);
        assert_eq!(judged(&format!("{long}b。\n{long}c。\n{long}d。")), "list_ratio");
    }
}
