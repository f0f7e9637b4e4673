//! Cuts text into the words of GPT-2's byte-level tokenizers, as this pattern does, tried left to right:
//!
//! ```text
//! 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! ```
//!
//! A scanner with a class for every character takes the place of a backtracking pattern engine.

use regex_syntax::hir::{Class, HirKind};
use std::sync::LazyLock;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Other,
    Letter,
    Number,
    Space,
}

/// The kind of every code point, from the same Unicode tables the pattern engine uses.
static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let mut kinds = vec![Kind::Other; char::MAX as usize + 1];
    for (pattern, kind) in [(r"\p{L}", Kind::Letter), (r"\p{N}", Kind::Number), (r"\s", Kind::Space)] {
        let parsed = regex_syntax::parse(pattern).expect("the three classes are known to the parser");
        if let HirKind::Class(Class::Unicode(class)) = parsed.kind() {
            for range in class.ranges() {
                kinds[range.start() as usize..=range.end() as usize].fill(kind);
            }
        }
    }
    kinds
});

/// The words of `text` in order; together they are the text.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    let kinds = &KINDS[..];
    let mut rest = text;
    std::iter::from_fn(move || {
        let (word, after) = rest.split_at(word_length(rest, kinds)?);
        rest = after;
        Some(word)
    })
}

/// Bytes in the first word, `None` at the end of the text.
fn word_length(text: &str, kinds: &[Kind]) -> Option<usize> {
    let first = text.chars().next()?;
    if first == '\'' {
        let endings = ["s", "t", "re", "ve", "m", "ll", "d"];
        if let Some(ending) = endings.iter().find(|ending| text[1..].starts_with(**ending)) {
            return Some(1 + ending.len());
        }
    }
    let kind = kinds[first as usize];
    if kind != Kind::Space {
        return Some(run(text, kind, kinds));
    }
    if first == ' '
        && let Some(kind) = text[1..].chars().next().map(|second| kinds[second as usize])
        && kind != Kind::Space
    {
        return Some(1 + run(&text[1..], kind, kinds));
    }
    let spaces = run(text, Kind::Space, kinds);
    let last = text[..spaces].chars().next_back().map_or(0, char::len_utf8);
    // Before a word the last space is left to it, unless it is the only one.
    Some(if spaces == text.len() || spaces == last { spaces } else { spaces - last })
}

fn run(text: &str, kind: Kind, kinds: &[Kind]) -> usize {
    text.char_indices().find(|&(_, c)| kinds[c as usize] != kind).map_or(text.len(), |(end, _)| end)
}

/// The largest place up to `limit` where the text can be cut in two without changing its words: after a line break
/// between two visible ASCII characters. 0 when there is none.
pub(crate) fn safe_cut(text: &str, limit: usize) -> usize {
    let bytes = text.as_bytes();
    let is_cut = |&end: &usize| {
        bytes[end - 1] == b'\n' && bytes[end - 2].is_ascii_graphic() && bytes[end].is_ascii_graphic()
    };
    (2..limit.min(bytes.len())).rev().find(is_cut).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    fn by_pattern(text: &str) -> Vec<String> {
        let mut string = PreTokenizedString::from(text);
        ByteLevel::new(false, false, true).pre_tokenize(&mut string).unwrap();
        let splits = string.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(_, (start, end), _)| text[start..end].to_owned()).collect()
    }

    proptest! {
        #[test]
        fn words_are_those_of_the_pattern(text in "([ \\n\\ta'sle.1é中٣\u{a0}\u{2028}x]|\\PC){0,60}") {
            prop_assert_eq!(words(&text).collect::<Vec<_>>(), by_pattern(&text));
        }

        #[test]
        fn a_safe_cut_changes_no_word(text in "[ \\na'sb.1é]{0,60}", limit in 0usize..70) {
            let cut = safe_cut(&text, limit);
            let parts: Vec<&str> = words(&text[..cut]).chain(words(&text[cut..])).collect();
            prop_assert_eq!(parts, words(&text).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_character_has_the_kind_the_pattern_gives_it() {
        for c in (0..=char::MAX as u32).step_by(7).filter_map(char::from_u32) {
            let text = format!("a{c}1{c} ");
            assert_eq!(words(&text).collect::<Vec<_>>(), by_pattern(&text), "{c:?}");
        }
    }
}
