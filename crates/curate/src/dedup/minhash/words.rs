//! Words of normalised texts, as the tokenizers that datatrove uses cut them.

use crate::filters::text::Word;
use crate::filters::words::{Language, segment};
use jieba_rs::Jieba;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// Words of one text, joined by single spaces: `count` neighbours are one slice.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) joined: String,
    /// Ends of the words in `joined`; the next begins one byte later.
    pub(super) ends: Vec<u32>,
    /// Memory that is used again.
    spans: Vec<Word>,
}

impl Words {
    fn clear(&mut self) {
        self.joined.clear();
        self.ends.clear();
    }

    fn push(&mut self, word: &str) {
        if !self.ends.is_empty() {
            self.joined.push(' ');
        }
        self.joined.push_str(word);
        self.ends.push(self.joined.len() as u32);
    }

    /// Every run of `count` words.
    pub(super) fn windows(&self, count: usize) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|&end| end as usize + 1));
        let ends = self.ends.iter().skip(count - 1).map(|&end| end as usize);
        starts.zip(ends).map(|(start, end)| &self.joined[start..end])
    }
}

/// How a normalised text is cut into words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segmenter {
    /// White space; contractions in two ("dont": do nt), symbols, currency and units apart, as spaCy's English rules do.
    #[default]
    English,
    /// jieba with its dictionary and its model for unknown words.
    Chinese,
    /// White space alone.
    Whitespace,
}

impl Segmenter {
    /// Replaces what is in `words` by the words of a normalised text.
    pub(super) fn segment(self, text: &str, words: &mut Words) {
        words.clear();
        match self {
            Self::English => {
                let mut spans = std::mem::take(&mut words.spans);
                spans.clear();
                segment(text, Language::English, &mut spans);
                spans.iter().for_each(|word| words.push(&text[word.start as usize..word.end as usize]));
                words.spans = spans;
            }
            Self::Chinese => {
                for token in JIEBA.cut(text, true) {
                    let word = token.word.trim();
                    if !word.is_empty() {
                        words.push(word);
                    }
                }
            }
            Self::Whitespace => text.split_whitespace().for_each(|word| words.push(word)),
        }
    }
}

static JIEBA: LazyLock<Jieba> = LazyLock::new(Jieba::new);

#[cfg(test)]
mod tests {
    use super::*;

    fn segmented(segmenter: Segmenter, text: &str) -> Vec<String> {
        let mut words = Words::default();
        segmenter.segment(text, &mut words);
        assert_eq!(words.joined.len(), words.ends.last().map_or(0, |&end| end as usize));
        words.windows(1).map(str::to_owned).collect()
    }

    #[test]
    fn english_words_are_those_of_spacy() {
        for (text, expected) in [
            ("we re here", vec!["we", "re", "here"]),
            ("i cannot say i dont know", vec!["i", "can", "not", "say", "i", "do", "nt", "know"]),
            ("0gb of 0km", vec!["0", "gb", "of", "0", "km"]),
            ("0hwxt0m", vec!["0hwxt0", "m"]),
            ("£0million 0₩", vec!["£", "0million", "0", "₩"]),
            ("‘t ‘0 victor®", vec!["‘", "t", "‘", "0", "victor", "®"]),
            ("⬇⬇x 🏳\u{200d}🌈", vec!["⬇", "⬇", "x", "🏳", "\u{200d}", "🌈"]),
            ("", vec![]),
        ] {
            assert_eq!(segmented(Segmenter::English, text), expected, "{text}");
        }
    }

    #[test]
    fn chinese_words_are_those_of_jieba() {
        assert_eq!(
            segmented(Segmenter::Chinese, "我来到北京清华大学 他来到了网易杭研大厦"),
            ["我", "来到", "北京", "清华大学", "他", "来到", "了", "网易", "杭研", "大厦"]
        );
    }

    #[test]
    fn windows_are_slices_of_neighbours() {
        let mut words = Words::default();
        Segmenter::Whitespace.segment("a bc d e", &mut words);
        assert_eq!(words.windows(3).collect::<Vec<_>>(), ["a bc d", "bc d e"]);
        assert_eq!(words.windows(5).count(), 0);
    }
}
