//! Gopher's repetition rules (Rae et al. 2021, table A1) in datatrove's variant: the first copy is no duplicate,
//! every share is one of the whole text's characters.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::characters::{count, strip};
use super::words::Language;
use crate::document::Document;
use crate::step::{Filter, Reason, Scratch, Verdict};

/// Limits of Gopher's repetition rules. A limit of 0 switches its rule off; n-grams that are not listed are not
/// looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GopherRepetitionConfig {
    pub language: Language,
    /// Largest share of paragraphs that are copies, and of the characters in them.
    pub max_duplicate_paragraphs: f64,
    pub max_duplicate_paragraph_characters: f64,
    /// Largest share of lines that are copies, and of the characters in them.
    pub max_duplicate_lines: f64,
    pub max_duplicate_line_characters: f64,
    /// Largest share of characters in the most frequent n-gram of words: pairs of n and share, n rising.
    pub top_grams: Vec<(usize, f64)>,
    /// Largest share of characters in n-grams that are copies: pairs of n and share, n rising.
    pub duplicate_grams: Vec<(usize, f64)>,
}

impl Default for GopherRepetitionConfig {
    fn default() -> Self {
        Self {
            language: Language::English,
            max_duplicate_paragraphs: 0.3,
            max_duplicate_paragraph_characters: 0.2,
            max_duplicate_lines: 0.3,
            max_duplicate_line_characters: 0.2,
            top_grams: vec![(2, 0.2), (3, 0.18), (4, 0.16)],
            duplicate_grams: vec![(5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1)],
        }
    }
}

impl GopherRepetitionConfig {
    pub fn build(mut self) -> GopherRepetition {
        self.top_grams.sort_by_key(|&(n, _)| n);
        self.duplicate_grams.sort_by_key(|&(n, _)| n);
        GopherRepetition { config: self }
    }
}

/// The filter `gopher_repetition`.
#[derive(Debug)]
pub struct GopherRepetition {
    config: GopherRepetitionConfig,
}

impl Filter for GopherRepetition {
    fn name(&self) -> &'static str {
        "gopher_repetition"
    }

    fn apply(&self, document: &mut Document, scratch: &mut Scratch) -> Verdict {
        let (config, text) = (&self.config, document.text.as_str());
        if text.is_empty() {
            return Verdict::remove("empty");
        }
        let characters = count(text) as f64;
        let exceeds = |value: f64, limit: f64| limit > 0.0 && value > limit;
        let hashed = |piece: &str| (xxh3_64(piece.as_bytes()), count(piece));

        let paragraphs = scratch.repeats.duplicates(split_at_breaks(strip(text), 2).map(hashed));
        let share = paragraphs.duplicated as f64 / paragraphs.items as f64;
        if exceeds(share, config.max_duplicate_paragraphs) {
            return measured("dup_para_frac", share);
        }
        let share = paragraphs.characters as f64 / characters;
        if exceeds(share, config.max_duplicate_paragraph_characters) {
            return measured("dup_para_char_frac", share);
        }
        let lines = scratch.repeats.duplicates(split_at_breaks(text, 1).map(hashed));
        let share = lines.duplicated as f64 / lines.items as f64;
        if exceeds(share, config.max_duplicate_lines) {
            return measured("dup_line_frac", share);
        }
        let share = lines.characters as f64 / characters;
        if exceeds(share, config.max_duplicate_line_characters) {
            return measured("dup_line_char_frac", share);
        }

        let (words, _, repeats) = scratch.words(text, config.language);
        let top = repeats.over_grams(words, &config.top_grams, |repeats, n, limit| {
            let share = repeats.top_gram(words, n) as f64 / characters;
            (share > limit).then(|| Reason::measured(TOP[n.min(10)], format_args!("{share:.4}")))
        });
        let reason = top.or_else(|| {
            repeats.over_grams(words, &config.duplicate_grams, |repeats, n, limit| {
                let share = repeats.repeated_grams(words, n) as f64 / characters;
                (share > limit).then(|| Reason::measured(DUPLICATED[n.min(10)], format_args!("{share:.4}")))
            })
        });
        reason.map_or(Verdict::Keep, Verdict::Remove)
    }
}

/// The field's labels by n.
const TOP: [&str; 11] = [
    "top_0_gram",
    "top_1_gram",
    "top_2_gram",
    "top_3_gram",
    "top_4_gram",
    "top_5_gram",
    "top_6_gram",
    "top_7_gram",
    "top_8_gram",
    "top_9_gram",
    "top_10_gram",
];
const DUPLICATED: [&str; 11] = [
    "duplicated_0_n_grams",
    "duplicated_1_n_grams",
    "duplicated_2_n_grams",
    "duplicated_3_n_grams",
    "duplicated_4_n_grams",
    "duplicated_5_n_grams",
    "duplicated_6_n_grams",
    "duplicated_7_n_grams",
    "duplicated_8_n_grams",
    "duplicated_9_n_grams",
    "duplicated_10_n_grams",
];

fn measured(label: &'static str, share: f64) -> Verdict {
    Verdict::remove_measured(label, format_args!("{share:.4}"))
}

/// The pieces between runs of at least so many newlines; a run at an end has an empty piece beyond it.
fn split_at_breaks(text: &str, fewest: usize) -> impl Iterator<Item = &str> + Clone {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let current = rest?;
        let bytes = current.as_bytes();
        let mut from = 0;
        while let Some(at) = bytes[from..].iter().position(|&byte| byte == b'\n') {
            let start = from + at;
            let run = bytes[start..].iter().take_while(|&&byte| byte == b'\n').count();
            if run >= fewest {
                rest = Some(&current[start + run..]);
                return Some(&current[..start]);
            }
            from = start + run;
        }
        rest = None;
        Some(current)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::{label, verdict};

    fn judged(text: &str) -> String {
        label(&verdict(&GopherRepetitionConfig::default().build(), text))
    }

    #[test]
    fn pieces_lie_between_breaks() {
        let pieces = |text, fewest| split_at_breaks(text, fewest).collect::<Vec<_>>();
        assert_eq!(pieces("\na\n\nb\nc\n", 1), ["", "a", "b", "c", ""]);
        assert_eq!(pieces("a\n\n\nb\nc", 2), ["a", "b\nc"]);
        assert_eq!(pieces("", 1), [""]);
    }

    #[test]
    fn each_rule_has_its_label() {
        assert_eq!(judged(""), "empty");
        assert_eq!(judged("one\n\ntwo\n\none\n\none"), "dup_para_frac");
        let long = "a rather long paragraph that comes twice in one and the same short text";
        assert_eq!(judged(&format!("{long}\n\nb\n\n{long}\n\nc\n\nd")), "dup_para_char_frac");
        assert_eq!(judged("one\ntwo\none\none"), "dup_line_frac");
        assert_eq!(judged(&format!("{long}\nb\n{long}\nc\nd")), "dup_line_char_frac");
        assert_eq!(judged("big cat sat big cat ran big cat"), "top_2_gram");
        // One long passage comes twice: each of its short n-grams is rare, all its words are repeated.
        let filler = (100..150).map(|number| format!("word{number} ")).collect::<String>();
        assert_eq!(judged(&format!("{filler} a b c. {filler}")), "duplicated_5_n_grams");
        assert_eq!(judged(&filler), "keep");
    }
}
