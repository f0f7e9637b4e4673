//! Classes of characters as Python and datatrove define them, because published thresholds were measured with those.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// Python's `str.isspace`: the Unicode property White_Space and the four separators U+001C..U+001F.
pub(crate) fn is_space(c: char) -> bool {
    match c {
        '\t'..='\r' | '\x1c'..=' ' => true,
        _ if c.is_ascii() => false,
        _ => c.is_whitespace(),
    }
}

/// Python's `str.isalpha` of one character: categories Ll, Lu, Lt, Lm, Lo. Rust's property Alphabetic holds more:
/// number letters, which are taken out here, and combining vowels, which never stand alone.
pub(crate) fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || (!c.is_ascii() && c.is_alphabetic() && !c.is_numeric())
}

/// Python's `str.strip`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Characters of a text, counted as its code points: UTF-8 bytes that continue nothing.
pub(crate) fn count(text: &str) -> usize {
    text.as_bytes().iter().filter(|&&byte| byte & 0xC0 != 0x80).count()
}

/// Sorted characters with a table for the first 128.
pub(crate) struct CharacterSet {
    ascii: [bool; 128],
    others: Vec<char>,
}

impl CharacterSet {
    pub(crate) fn new(characters: impl IntoIterator<Item = char>) -> Self {
        let mut set = Self { ascii: [false; 128], others: Vec::new() };
        for c in characters {
            match c.is_ascii() {
                true => set.ascii[c as usize] = true,
                false => set.others.push(c),
            }
        }
        set.others.sort_unstable();
        set.others.dedup();
        set
    }

    pub(crate) fn contains(&self, c: char) -> bool {
        match self.ascii.get(c as usize) {
            Some(&found) => found,
            None => self.others.binary_search(&c).is_ok(),
        }
    }
}

/// Han ideographs: unified, extensions A to H, compatibility, and the number zero 〇.
pub(crate) const fn is_han(c: char) -> bool {
    matches!(c,
        '\u{4E00}'..='\u{9FFF}' | '\u{3400}'..='\u{4DBF}' | '\u{F900}'..='\u{FAFF}' | '\u{3007}'
        | '\u{20000}'..='\u{2A6DF}' | '\u{2A700}'..='\u{2EBEF}' | '\u{2F800}'..='\u{2FA1F}'
        | '\u{30000}'..='\u{323AF}')
}

/// A class of characters as sorted ranges, taken from the tables of the regular expression library.
pub(crate) struct Ranges(Vec<(char, char)>);

impl Ranges {
    /// # Panics
    /// If the pattern is not one class of characters.
    pub(crate) fn of(class: &str) -> Self {
        match regex_syntax::parse(class).map(|parsed| parsed.into_kind()) {
            Ok(HirKind::Class(Class::Unicode(class))) => {
                Self(class.iter().map(|range| (range.start(), range.end())).collect())
            }
            other => unreachable!("{class} is no class of characters: {other:?}"),
        }
    }

    pub(crate) fn contains(&self, c: char) -> bool {
        let after = self.0.partition_point(|&(start, _)| start <= c);
        after > 0 && c <= self.0[after - 1].1
    }
}

/// Unicode's category P, which leaves symbols such as "$" and "+" out.
pub(crate) fn is_mark(c: char) -> bool {
    static MARKS: LazyLock<Ranges> = LazyLock::new(|| Ranges::of(r"\p{P}"));
    match c.is_ascii() {
        true => c.is_ascii_punctuation() && !matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '`' | '|' | '~'),
        false => MARKS.contains(c),
    }
}

/// Marks that end a sentence, in all scripts: what FineWeb accepts at the end of a line.
pub(crate) static TERMINAL: LazyLock<CharacterSet> =
    LazyLock::new(|| CharacterSet::new(TERMINAL_MARKS.chars()));

/// What Gopher's rules call a symbol: a word made of nothing else is not counted.
pub(crate) static PUNCTUATION: LazyLock<CharacterSet> = LazyLock::new(|| {
    let controls = (0..9).chain(11..32).chain(127..160).filter_map(char::from_u32);
    CharacterSet::new(PUNCTUATION_MARKS.chars().chain(TERMINAL_MARKS.chars()).chain(controls))
});

/// ASCII punctuation, quotes and dashes of the Latin, Greek and Chinese typography.
const PUNCTUATION_MARKS: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\
    «´»–—’“”„…∶━►、。〈〉《》「」【】！％（），．１：；？～";

/// The marks are 159 characters of Unicode's Sentence_Terminal kind.
const TERMINAL_MARKS: &str = ".!?։؝؞؟۔܀܁܂߹࠷࠹࠽࠾।॥၊။።፧፨᙮᜵᜶។៕៖៙៚᠃᠉᥄᥅᪨᪩᪪᪫᭚᭛᭞᭟᭽᭾᰻᰼᱾᱿\
    ‼‽⁇⁈⁉⸮⸼⹓⹔。꓿꘎꘏꛳꛷꡶꡷꣎꣏꤯꧈꧉꩝꩞꩟꫰꫱꯫﹒﹖﹗！．？｡𐩖𐩗𐽕𐽖𐽗𐽘𐽙𐾆𐾇𐾈𐾉𑁇𑁈𑂾𑂿𑃀𑃁𑅁𑅂𑅃𑇅𑇆𑇍𑇞𑇟𑈸𑈹𑈻𑈼𑊩𑑋𑑌\
    𑗂𑗃𑗉𑗊𑗋𑗌𑗍𑗎𑗏𑗐𑗑𑗒𑗓𑗔𑗕𑗖𑗗𑙁𑙂𑜼𑜽𑜾𑥄𑥆𑩂𑩃𑪛𑪜𑱁𑱂𑻷𑻸𑽃𑽄𖩮𖩯𖫵𖬷𖬸𖭄𖺘𛲟𝪈";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_python() {
        assert!("\t\n\x0b\x0c\r\x1c\x1f \u{85}\u{a0}\u{2028}\u{3000}".chars().all(is_space));
        assert!(!"\u{200b}a\0\x1b".chars().any(is_space));
        assert!("aé中ªʰǅ".chars().all(is_letter));
        assert!(!"1_-Ⅳ〇½".chars().any(is_letter));
        assert_eq!(count("a中😀"), 3);
        assert_eq!(TERMINAL.others.len() + TERMINAL.ascii.iter().filter(|&&set| set).count(), 159);
        assert!(PUNCTUATION.contains('…') && PUNCTUATION.contains('\0') && !PUNCTUATION.contains('•'));
    }
}
