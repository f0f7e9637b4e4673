//! Words of normalised texts, as the tokenizers that datatrove uses cut them.

use super::class::Classes;
use jieba_rs::Jieba;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::LazyLock;

/// Words of one text, joined by single spaces: `count` neighbours are one slice.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) joined: String,
    /// Ends of the words in `joined`; the next begins one byte later.
    pub(super) ends: Vec<u32>,
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
                let classes = Classes::get();
                text.split_ascii_whitespace().for_each(|token| english(token, classes, words));
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

/// spaCy's exceptions of letters alone, cut where it cuts them; their apostrophes are gone after normalising.
const CONTRACTIONS: &str = "ai nt|are nt|can not|ca nt|ca nt ve|could nt|could nt ve|could ve|dare nt|did nt|did nt ve|\
    does nt|does nt ve|do nt|do nt ve|gon na|got ta|had nt|had nt ve|has nt|have nt|he d|he d ve|he ll ve|he s|how d|\
    how d ve|how ll|how ll ve|how re|how s|how ve|i d|i d ve|i ll ve|i m|i m a|is nt|it d|it d ve|it ll|it ll ve|i ve|\
    may nt|may nt ve|might nt|might nt ve|might ve|must nt|must nt ve|must ve|need nt|need nt ve|not ve|ought nt|\
    ought nt ve|sha nt|sha nt ve|she d ve|she ll ve|she s|should nt|should nt ve|should ve|that d|that d ve|that ll|\
    that ll ve|that s|there d|there d ve|there ll|there ll ve|there re|there s|there ve|these d|these d ve|these ll|\
    these ll ve|these re|these ve|they d|they d ve|they ll|they ll ve|they re|they ve|this d|this d ve|this ll|\
    this ll ve|this s|those d|those d ve|those ll|those ll ve|those re|those ve|was nt|we d|we d ve|we ll ve|were nt|\
    we ve|what d|what d ve|what ll|what ll ve|what re|what s|what ve|when d|when d ve|when ll|when ll ve|when re|when s|\
    when ve|where d|where d ve|where ll|where ll ve|where re|where s|where ve|who d|who d ve|who ll|who ll ve|who s|\
    who ve|why d|why d ve|why ll|why ll ve|why re|why s|why ve|wo nt|wo nt ve|would nt|would nt ve|would ve|y all|you d|\
    you d ve|you ll|you ll ve|you re|you ve";

/// After a number these are words of their own.
const UNITS: [&str; 23] = [
    "km", "m", "dm", "cm", "mm", "ha", "nm", "yd", "in", "ft", "kg", "g", "mg", "t", "lb", "oz", "mph", "mb",
    "kb", "gb", "tb", "µm", "µg",
];

/// Marks that the normal form keeps and that spaCy takes off the ends of a word.
const AT_ENDS: &str = "‘‚『』〔〕⟦⟧¿¡؟،۔؛٪·।";
const CURRENCY: &str = "£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿";

struct Contractions {
    parts: HashMap<String, &'static str>,
    /// By first letter, last letter and length: most words are no contraction, and this says so at once.
    possible: Vec<bool>,
}

static CONTRACTED: LazyLock<Contractions> = LazyLock::new(|| {
    let mut possible = vec![false; 1 << 14];
    let parts: HashMap<_, _> = CONTRACTIONS.split('|').map(|parts| (parts.replace(' ', ""), parts)).collect();
    for whole in parts.keys() {
        possible[Contractions::slot(whole.as_bytes())] = true;
    }
    Contractions { parts, possible }
});

impl Contractions {
    fn slot(word: &[u8]) -> usize {
        let bits = |byte: u8| usize::from(byte & 31);
        bits(word[0]) << 9 | bits(word[word.len() - 1]) << 4 | word.len() & 15
    }

    fn find(&self, word: &str) -> Option<&'static str> {
        self.possible[Self::slot(word.as_bytes())].then(|| self.parts.get(word).copied()).flatten()
    }
}

/// The words of what stands between two spaces.
fn english(token: &str, classes: Classes, words: &mut Words) {
    if token.bytes().all(|byte| byte.is_ascii_lowercase()) {
        match CONTRACTED.find(token) {
            Some(parts) => parts.split(' ').for_each(|part| words.push(part)),
            None => words.push(token),
        }
        return;
    }
    // Symbols stand alone wherever they are.
    let is_symbol = |c: char| !c.is_ascii() && classes.is_symbol(c) && c != '°';
    let mut rest = token;
    while let Some(place) = rest.find(is_symbol) {
        let (before, after) = rest.split_at(place);
        ends(before, words);
        let length = after.chars().next().map_or(0, char::len_utf8);
        let (symbol, after) = after.split_at(length);
        words.push(symbol);
        rest = after;
    }
    ends(rest, words);
}

/// Takes marks off the front, and marks and units off the back.
fn ends(token: &str, words: &mut Words) {
    let mut word = token;
    while let Some(first) = word.chars().next().filter(|c| !c.is_ascii()) {
        if !AT_ENDS.contains(first) && !CURRENCY.contains(first) && first != '§' {
            break;
        }
        words.push(&word[..first.len_utf8()]);
        word = &word[first.len_utf8()..];
    }
    let mut behind = Vec::new();
    while let Some(cut) = ending(word) {
        behind.push(&word[cut..]);
        word = &word[..cut];
    }
    if !word.is_empty() {
        match CONTRACTED.find(word) {
            Some(parts) => parts.split(' ').for_each(|part| words.push(part)),
            None => words.push(word),
        }
    }
    behind.iter().rev().for_each(|part| words.push(part));
}

/// Where a mark, a currency or a unit begins that ends the word and is not all of it.
fn ending(word: &str) -> Option<usize> {
    let last = word.chars().next_back()?;
    let cut = word.len() - last.len_utf8();
    if !last.is_ascii() && AT_ENDS.contains(last) {
        return Some(cut);
    }
    let follows_digit = |cut: usize| word[..cut].ends_with(|c: char| c.is_ascii_digit());
    if !last.is_ascii() && CURRENCY.contains(last) && follows_digit(cut) {
        return Some(cut);
    }
    let digits = word.rfind(|c: char| c.is_ascii_digit())? + 1;
    UNITS.contains(&&word[digits..]).then_some(digits)
}

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
