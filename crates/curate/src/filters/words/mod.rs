//! Cutting a text into words, by language. Rules that count words were tuned on one tokenizer each: English on spaCy's,
//! Chinese on jieba; the others get Unicode's word boundaries with dictionaries for scripts without spaces.

mod chinese;
mod contractions;
mod english;
mod english_characters;
mod unicode;

use serde::{Deserialize, Serialize};

use super::text::Word;

/// The language whose words are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Language {
    #[default]
    #[serde(rename = "en")]
    English,
    #[serde(rename = "zh")]
    Chinese,
    #[serde(rename = "other")]
    Other,
}

impl Language {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 3] = [Self::English, Self::Chinese, Self::Other];
}

/// Appends the words of a text, in order, white space left out.
pub(crate) fn segment(text: &str, language: Language, words: &mut Vec<Word>) {
    match language {
        Language::English => english::segment(text, words),
        Language::Chinese => chinese::segment(text, words),
        Language::Other => unicode::segment(text, words),
    }
}

/// Appends a word with its white space stripped, unless nothing is left.
fn push_stripped(text: &str, start: usize, end: usize, words: &mut Vec<Word>) {
    let word = text[start..end].trim_start_matches(super::characters::is_space);
    let start = end - word.len();
    let word = word.trim_end_matches(super::characters::is_space);
    if !word.is_empty() {
        words.push(Word::new(text, start, start + word.len()));
    }
}
