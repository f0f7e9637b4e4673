//! Lists of words that a clean text does not have (C4's rule; the field's lists are LDNOOBW's, a file a language).

use std::collections::BTreeMap;
use std::path::PathBuf;

use aho_corasick::{AhoCorasick, MatchKind};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{FilterError, read_list};
use crate::document::Document;
use crate::step::{Filter, Scratch, Verdict};

/// One list a language; the document's language is its metadata's `language`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BadWordsConfig {
    /// Files of one word or phrase a line, by language ("en", "zh").
    pub lists: BTreeMap<String, PathBuf>,
    /// The language of documents that name none.
    pub default_language: String,
    /// Words that are not looked for although a list has them: parts of innocent words in scripts without spaces.
    pub allowed: Vec<String>,
    /// Share of documents with such words that is kept all the same.
    pub keep_fraction: f64,
    /// Of the draw for that share, which depends on the document's id and on nothing else.
    pub seed: u64,
}

impl Default for BadWordsConfig {
    fn default() -> Self {
        Self {
            lists: BTreeMap::new(),
            default_language: "en".to_owned(),
            allowed: ["sm", "グロ", "女の子", "性"].map(str::to_owned).to_vec(),
            keep_fraction: 0.0,
            seed: 1,
        }
    }
}

impl BadWordsConfig {
    /// # Errors
    /// If a list cannot be read.
    pub fn build(self) -> Result<BadWords, FilterError> {
        let mut finders = BTreeMap::new();
        for (language, path) in &self.lists {
            let mut words = read_list(path)?;
            words.retain(|word| !self.allowed.contains(word));
            for word in &mut words {
                *word = word.to_lowercase();
            }
            let finder =
                AhoCorasick::builder().match_kind(MatchKind::Standard).build(&words).map_err(|error| {
                    FilterError::List { path: path.display().to_string(), problem: error.to_string() }
                })?;
            finders.insert(language.clone(), finder);
        }
        Ok(BadWords { config: self, finders })
    }
}

/// The filter `bad_words`.
#[derive(Debug)]
pub struct BadWords {
    config: BadWordsConfig,
    finders: BTreeMap<String, AhoCorasick>,
}

impl Filter for BadWords {
    fn name(&self) -> &'static str {
        "bad_words"
    }

    fn apply(&self, document: &mut Document, _: &mut Scratch) -> Verdict {
        let language = document.metadata.get("language").and_then(|value| value.as_str());
        let language = language.unwrap_or(&self.config.default_language);
        let Some(finder) = self.finders.get(language) else { return Verdict::Keep };
        let lower = document.text.to_lowercase();
        // Scripts without spaces have no ends of words to ask for.
        let anywhere = matches!(language, "ja" | "th" | "zh");
        let found = finder.find_overlapping_iter(&lower).find(|found| {
            anywhere
                || !(is_word(lower[..found.start()].chars().next_back())
                    || is_word(lower[found.end()..].chars().next()))
        });
        let Some(found) = found else { return Verdict::Keep };
        let draw = uniform(self.config.seed, &document.id);
        if draw < self.config.keep_fraction {
            return Verdict::Keep;
        }
        Verdict::remove_measured("document_removed_with_badwords", &lower[found.range()])
    }
}

fn is_word(neighbour: Option<char>) -> bool {
    neighbour.is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// A number in [0, 1) that belongs to a document: the same in every run, on every thread, in any order.
pub(crate) fn uniform(seed: u64, id: &str) -> f64 {
    (xxh3_64_with_seed(id.as_bytes(), seed) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::{document, label};

    #[test]
    fn words_are_found_as_their_script_asks() {
        let folder = tempfile::tempdir().expect("a folder");
        let list = |name: &str, lines: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, lines).expect("written");
            (name.to_owned(), path)
        };
        let lists = BTreeMap::from([list("en", "darn\nheck no\n"), list("zh", "坏词\n性\n")]);
        let filter = BadWordsConfig { lists, ..BadWordsConfig::default() }.build().expect("readable lists");
        for (language, text, expected) in [
            ("en", "What the DARN!", "document_removed_with_badwords"),
            ("en", "Oh heck no, not that", "document_removed_with_badwords"),
            ("en", "darning socks, undarned", "keep"),
            ("zh", "这里有个坏词吗", "document_removed_with_badwords"),
            ("zh", "可能性", "keep"),
            ("de", "darn", "keep"),
        ] {
            let mut document = document(text);
            document.metadata.insert("language".to_owned(), language.into());
            assert_eq!(label(&filter.apply(&mut document, &mut Scratch::default())), expected, "{text}");
        }
    }

    #[test]
    fn draws_are_uniform_and_belong_to_the_document() {
        let draws: Vec<_> = (0..4000).map(|number| uniform(7, &format!("web/a#{number}"))).collect();
        let mean = draws.iter().sum::<f64>() / 4000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        assert!(draws.iter().all(|draw| (0.0..1.0).contains(draw)));
        assert_eq!(uniform(7, "web/a#1"), draws[1]);
        assert_ne!(uniform(8, "web/a#1"), draws[1]);
    }
}
