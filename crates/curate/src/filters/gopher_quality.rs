//! Gopher's quality rules (Rae et al. 2021, A1.1) in datatrove's variant: spaCy's words, *distinct* stop words.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::characters::is_space;
use super::text::python_lines;
use super::words::Language;
use crate::document::Document;
use crate::step::{Filter, Scratch, Verdict};

/// Limits of Gopher's quality rules. A limit of 0 switches its rule off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GopherQualityConfig {
    pub language: Language,
    /// Fewest and most words that are no symbols.
    pub min_words: usize,
    pub max_words: usize,
    /// Mean length of those words, in characters.
    pub min_mean_word_length: f64,
    pub max_mean_word_length: f64,
    /// Most hashes, and most ellipses, a word.
    pub max_symbols_per_word: f64,
    /// Largest share of lines that begin with a bullet ("•", "-").
    pub max_bullet_lines: f64,
    /// Largest share of lines that end with an ellipsis.
    pub max_ellipsis_lines: f64,
    /// Smallest share of words with a letter.
    pub min_alphabetic_words: f64,
    /// Fewest different stop words, and the words themselves.
    pub min_stop_words: usize,
    pub stop_words: Vec<String>,
}

/// Gopher's eight.
const STOP_WORDS: [&str; 8] = ["the", "be", "to", "of", "and", "that", "have", "with"];

impl Default for GopherQualityConfig {
    fn default() -> Self {
        Self {
            language: Language::English,
            min_words: 50,
            max_words: 100_000,
            min_mean_word_length: 3.0,
            max_mean_word_length: 10.0,
            max_symbols_per_word: 0.1,
            max_bullet_lines: 0.9,
            max_ellipsis_lines: 0.3,
            min_alphabetic_words: 0.8,
            min_stop_words: 2,
            stop_words: STOP_WORDS.map(str::to_owned).to_vec(),
        }
    }
}

impl GopherQualityConfig {
    pub fn build(self) -> GopherQuality {
        let mut stop_words: Vec<_> = self.stop_words.iter().map(|word| xxh3_64(word.as_bytes())).collect();
        stop_words.sort_unstable();
        stop_words.dedup();
        GopherQuality { config: self, stop_words }
    }
}

/// The filter `gopher_quality`.
#[derive(Debug)]
pub struct GopherQuality {
    config: GopherQualityConfig,
    /// Hashes of the stop words, sorted.
    stop_words: Vec<u64>,
}

impl Filter for GopherQuality {
    fn name(&self) -> &'static str {
        "gopher_quality"
    }

    fn apply(&self, document: &mut Document, scratch: &mut Scratch) -> Verdict {
        let (config, text) = (&self.config, document.text.as_str());
        let (words, ..) = scratch.words(text, config.language);
        let (mut content, mut content_characters, mut alphabetic) = (0_usize, 0_usize, 0_usize);
        for word in words {
            content += usize::from(word.has_content);
            content_characters += if word.has_content { word.characters as usize } else { 0 };
            alphabetic += usize::from(word.has_letter);
        }
        if config.min_words > 0 && content < config.min_words {
            return Verdict::remove_measured("gopher_short_doc", format_args!("{content} words"));
        }
        if config.max_words > 0 && content > config.max_words {
            return Verdict::remove_measured("gopher_long_doc", format_args!("{content} words"));
        }
        // Comparisons with the mean of no words (0/0) and shares of no words are false, as in NumPy.
        let mean = content_characters as f64 / content as f64;
        if config.min_mean_word_length > 0.0 && mean < config.min_mean_word_length {
            return measured("gopher_below_avg_threshold", mean);
        }
        if config.max_mean_word_length > 0.0 && mean > config.max_mean_word_length {
            return measured("gopher_above_avg_threshold", mean);
        }
        let all = words.len() as f64;
        if config.max_symbols_per_word > 0.0 {
            let symbols = Symbols::of(text);
            let (hashes, ellipses) = (symbols.hashes as f64 / all, symbols.ellipses as f64 / all);
            if hashes > config.max_symbols_per_word {
                return measured("gopher_too_many_hashes", hashes);
            }
            if ellipses > config.max_symbols_per_word {
                return measured("gopher_too_many_ellipsis", ellipses);
            }
        }
        let (mut lines, mut bullets, mut ends) = (0_usize, 0_usize, 0_usize);
        for line in python_lines(text) {
            lines += 1;
            bullets += usize::from(line.trim_start_matches(is_space).starts_with(['•', '-']));
            let tail = line.trim_end_matches(is_space);
            ends += usize::from(tail.ends_with('…') || tail.ends_with("..."));
        }
        let (bullets, ends) = (bullets as f64 / lines as f64, ends as f64 / lines as f64);
        if config.max_bullet_lines > 0.0 && bullets > config.max_bullet_lines {
            return measured("gopher_too_many_bullets", bullets);
        }
        if config.max_ellipsis_lines > 0.0 && ends > config.max_ellipsis_lines {
            return measured("gopher_too_many_end_ellipsis", ends);
        }
        let alphabetic = alphabetic as f64 / all;
        if config.min_alphabetic_words > 0.0 && alphabetic < config.min_alphabetic_words {
            return measured("gopher_below_alpha_threshold", alphabetic);
        }
        if config.min_stop_words > 0 {
            let mut seen = vec![false; self.stop_words.len()];
            let mut missing = config.min_stop_words;
            for word in words {
                if let Ok(place) = self.stop_words.binary_search(&word.hash)
                    && !std::mem::replace(&mut seen[place], true)
                {
                    missing -= 1;
                    if missing == 0 {
                        return Verdict::Keep;
                    }
                }
            }
            let found = config.min_stop_words - missing;
            return Verdict::remove_measured("gopher_enough_stop_words", format_args!("{found} stop words"));
        }
        Verdict::Keep
    }
}

fn measured(label: &'static str, value: f64) -> Verdict {
    Verdict::remove_measured(label, format_args!("{value:.4}"))
}

/// Occurrences of "#", and of "..." and "…" that do not overlap.
struct Symbols {
    hashes: usize,
    ellipses: usize,
}

impl Symbols {
    fn of(text: &str) -> Self {
        let (mut hashes, mut ellipses, mut dots) = (0, 0, 0);
        let mut before = [0_u8; 2];
        for &byte in text.as_bytes() {
            hashes += usize::from(byte == b'#');
            dots = if byte == b'.' { dots + 1 } else { 0 };
            if dots == 3 {
                ellipses += 1;
                dots = 0;
            }
            ellipses += usize::from(byte == 0xA6 && before == [0xE2, 0x80]);
            before = [before[1], byte];
        }
        Self { hashes, ellipses }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::{label, verdict};

    fn judged(text: &str) -> String {
        label(&verdict(&GopherQualityConfig::default().build(), text))
    }

    /// 60 words of prose that pass every rule.
    const PROSE: &str = "The harbour lay quiet below the town and the boats that had come in with the morning tide \
        were tied along the wall. Fishermen mended nets beside the old customs house, and children who should have \
        been in school ran between the barrels to see the strange ship. Nobody knew where it had come from, or what \
        it carried under the grey cloth on its deck.";

    #[test]
    fn each_rule_has_its_label() {
        assert_eq!(judged(PROSE), "keep");
        assert_eq!(judged("Too little to say."), "gopher_short_doc");
        assert_eq!(judged(&"word , ".repeat(40)), "gopher_short_doc", "symbols are no words");
        assert_eq!(judged(&"sea ".repeat(100_001)), "gopher_long_doc");
        assert_eq!(judged(&"of an it ".repeat(30)), "gopher_below_avg_threshold");
        assert_eq!(judged(&"incomprehensibilities ".repeat(60)), "gopher_above_avg_threshold");
        assert_eq!(judged(&PROSE.replace("the", "#the")), "gopher_too_many_hashes");
        assert_eq!(judged(&PROSE.replace("the ", "the... ")), "gopher_too_many_ellipsis");
        assert_eq!(
            judged(&PROSE.replace(" the", "\n - the").replace("The", "•The")),
            "gopher_too_many_bullets"
        );
        let trailing = format!("{PROSE}…\n{PROSE}\n{PROSE}...");
        assert_eq!(judged(&trailing), "gopher_too_many_end_ellipsis");
        assert_eq!(judged(&PROSE.replace(' ', " 1234 ")), "gopher_below_alpha_threshold");
        let bare = PROSE.replace("the ", "ye ").replace("The ", "Ye ").replace("that", "which");
        let bare =
            bare.replace("with", "by").replace("have", "hold").replace("and", "plus").replace("to ", "till ");
        assert_eq!(judged(&bare), "gopher_enough_stop_words");
    }

    #[test]
    fn symbols_are_counted_without_overlap() {
        let symbols = Symbols::of("# ...... …… .. # ....");
        assert_eq!((symbols.hashes, symbols.ellipses), (2, 5));
    }
}
