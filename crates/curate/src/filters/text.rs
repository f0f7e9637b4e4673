//! One text, looked at once: its words, characters and lines, kept while the text stays the same, so that a chain of
//! filters segments a text once and not once a filter. Words are ranges into the text, never strings of their own.

use xxhash_rust::xxh3::xxh3_64;

use super::characters;
use super::repeats::Repeats;
use super::words::{self, Language};

/// One word of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// Byte range in the text.
    pub(crate) start: u32,
    pub(crate) end: u32,
    /// xxh3 of the word's bytes: equal words have equal hashes, and the other way round but for one pair in 2⁶⁴.
    pub(crate) hash: u64,
    /// Code points.
    pub(crate) characters: u32,
    /// Some character is a letter.
    pub(crate) has_letter: bool,
    /// Some character is no punctuation mark.
    pub(crate) has_content: bool,
}

impl Word {
    pub(crate) fn new(text: &str, start: usize, end: usize) -> Self {
        let word = &text[start..end];
        let hash = xxh3_64(word.as_bytes());
        let (start, end) = (start as u32, end as u32);
        let characters = characters::count(word) as u32;
        let has_letter = word.chars().any(characters::is_letter);
        let has_content = word.chars().any(|c| !characters::PUNCTUATION.contains(c));
        Self { start, end, hash, characters, has_letter, has_content }
    }

    pub(crate) fn of<'a>(&self, text: &'a str) -> &'a str {
        &text[self.start as usize..self.end as usize]
    }
}

/// Texts are cut to this many bytes where words are counted, so that ranges fit in 32 bits. No reader lets one through.
const LONGEST: usize = u32::MAX as usize;

/// What is known of the current text.
#[derive(Debug, Default)]
pub(crate) struct Analysis {
    /// xxh3 and length of the text that `words` and `characters` belong to.
    words_of: Option<(u64, usize, Language)>,
    pub(crate) words: Vec<Word>,
    /// Code points of the whole text.
    pub(crate) characters: usize,
}

impl Analysis {
    /// Fills `words` and `characters` for this text, unless they are this text's already.
    pub(crate) fn segment(&mut self, text: &str, language: Language) {
        let key = Some((xxh3_64(text.as_bytes()), text.len(), language));
        if self.words_of == key {
            return;
        }
        self.words.clear();
        words::segment(text, language, &mut self.words);
        self.characters = characters::count(text);
        self.words_of = key;
    }
}

/// Buffers of one thread, reused for every document, so that filters share one segmentation of a text.
/// What is in it never changes a verdict.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) analysis: Analysis,
    pub(crate) repeats: Repeats,
    /// An edited text before it takes the document's place.
    pub(crate) edited: String,
}

impl Scratch {
    /// The words of a text; its buffers for counting repetitions beside them.
    ///
    /// # Panics
    /// If the text is longer than 4 GiB.
    pub(crate) fn words(&mut self, text: &str, language: Language) -> (&[Word], usize, &mut Repeats) {
        assert!(text.len() <= LONGEST, "a text of {} bytes", text.len());
        self.analysis.segment(text, language);
        (&self.analysis.words, self.analysis.characters, &mut self.repeats)
    }
}

/// Python's `str.splitlines`: a break at the end opens no line.
pub(crate) fn python_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let bytes = rest.as_bytes();
        // Breaks begin with one of these bytes; the others need no decoding.
        let mut at = 0;
        while let Some(offset) =
            bytes[at..].iter().position(|&byte| matches!(byte, 10..=13 | 28..=30 | 0xC2 | 0xE2))
        {
            at += offset;
            let length = match bytes[at] {
                b'\r' if bytes.get(at + 1) == Some(&b'\n') => 2,
                0xC2 if bytes.get(at + 1) == Some(&0x85) => 2,
                0xE2 if bytes.get(at + 1) == Some(&0x80)
                    && matches!(bytes.get(at + 2), Some(0xA8 | 0xA9)) =>
                {
                    3
                }
                0xC2 | 0xE2 => 0,
                _ => 1,
            };
            if length > 0 {
                let line = &rest[..at];
                rest = &rest[at + length..];
                return Some(line);
            }
            at += 1;
        }
        Some(std::mem::take(&mut rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_those_of_python() {
        let lines = |text| python_lines(text).collect::<Vec<_>>();
        assert_eq!(lines("a\nb\r\nc\rd\u{2028}e\u{85}f\x0b\n"), ["a", "b", "c", "d", "e", "f", ""]);
        assert_eq!(lines(""), [""; 0]);
        assert_eq!(lines("\n"), [""]);
        assert_eq!(lines("©–é"), ["©–é"]);
    }

    #[test]
    fn an_analysis_follows_the_text() {
        let mut scratch = Scratch::default();
        assert_eq!(scratch.words("one two", Language::English).0.len(), 2);
        assert_eq!(scratch.words("one two", Language::English).0.len(), 2);
        assert_eq!(scratch.words("one two three", Language::English).0.len(), 3);
        assert_eq!(scratch.words("中国人民", Language::English).0.len(), 1);
        assert_eq!(scratch.words("中国人民", Language::Chinese).0.len(), 2);
    }

    proptest! {
        /// Words are in order, do not overlap, hold no white space at their ends, and leave only white space out.
        #[test]
        fn words_cover_the_text(text in "[a-zA-Z0-9 .,'\"()\\-–…:/@#\n中国人民的。，é😀]{0,80}|\\PC{0,60}") {
            for language in Language::ALL {
                let mut words = Vec::new();
                words::segment(&text, language, &mut words);
                let mut end = 0;
                for word in &words {
                    let (start, stop) = (word.start as usize, word.end as usize);
                    prop_assert!(end <= start && start < stop, "{language:?} {words:?}");
                    prop_assert!(text[end..start].chars().all(characters::is_space), "{language:?} {words:?}");
                    prop_assert_eq!(*word, Word::new(&text, start, stop));
                    prop_assert_eq!(characters::strip(word.of(&text)), word.of(&text));
                    end = stop;
                }
                prop_assert!(text[end..].chars().all(characters::is_space), "{language:?} {words:?}");
            }
        }
    }
}
