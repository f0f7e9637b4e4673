//! What a character is to the comparison of documents: a table over all code points, looked up once a character.

use regex_syntax::hir::{Class, HirKind};
use std::sync::LazyLock;
use unicode_normalization::char::decompose_canonical;

/// datatrove's list (controls are added below): these become spaces before documents are compared.
const PUNCTUATION: &str =
    "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»";

const SPACE: u8 = 1;
const DIGIT: u8 = 2;
const COMPARED_AS_SPACE: u8 = 4;
const MARK: u8 = 8;
/// Lower case, decomposed, and none of the above: is compared as it stands.
const PLAIN: u8 = 16;
const ANY_PUNCTUATION: u8 = 32;

static CLASSES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut classes = vec![0u8; char::MAX as usize + 1];
    let tables = [(r"\s", SPACE), (r"\p{Nd}", DIGIT), (r"\p{Mn}", MARK), (r"\p{P}", ANY_PUNCTUATION)];
    for (pattern, class) in tables {
        let parsed = regex_syntax::parse(pattern).expect("the classes are known to the parser");
        if let HirKind::Class(Class::Unicode(ranges)) = parsed.kind() {
            for range in ranges.ranges() {
                for flags in &mut classes[range.start() as usize..=range.end() as usize] {
                    *flags |= class;
                }
            }
        }
    }
    let controls = (0..9).chain(11..13).chain(13..32).chain(127..160);
    for code in controls.chain(PUNCTUATION.chars().map(u32::from)) {
        classes[code as usize] |= COMPARED_AS_SPACE;
    }
    for c in '\0'..=char::MAX {
        if classes[c as usize] & (SPACE | DIGIT | COMPARED_AS_SPACE | MARK) != 0 {
            continue;
        }
        let mut decomposed = None;
        decompose_canonical(c, |part| decomposed = Some(part));
        let mut lower = c.to_lowercase();
        if decomposed == Some(c) && lower.next() == Some(c) && lower.next().is_none() {
            classes[c as usize] |= PLAIN;
        }
    }
    classes
});

/// The table, fetched once for many lookups.
#[derive(Clone, Copy)]
pub(super) struct Classes(&'static [u8]);

impl Classes {
    pub(super) fn get() -> Self {
        Self(&CLASSES)
    }

    fn has(self, c: char, class: u8) -> bool {
        self.0[c as usize] & class != 0
    }

    pub(super) fn is_space(self, c: char) -> bool {
        self.has(c, SPACE)
    }

    /// Of any script: category Nd.
    pub(super) fn is_digit(self, c: char) -> bool {
        self.has(c, DIGIT)
    }

    pub(super) fn is_compared_as_space(self, c: char) -> bool {
        self.has(c, COMPARED_AS_SPACE)
    }

    /// Category Mn.
    pub(super) fn is_mark(self, c: char) -> bool {
        self.has(c, MARK)
    }

    pub(super) fn is_plain(self, c: char) -> bool {
        self.has(c, PLAIN)
    }
}

/// A digit of any script.
pub(crate) fn is_digit(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_digit() } else { Classes::get().is_digit(c) }
}

/// Punctuation of any script: the Unicode categories P.
pub(crate) fn is_any_punctuation(c: char) -> bool {
    Classes::get().has(c, ANY_PUNCTUATION)
}
