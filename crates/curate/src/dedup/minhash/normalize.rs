//! The form in which texts are compared, as datatrove makes it: lower case, each number a 0, punctuation a space,
//! white space collapsed, diacritics removed.
//!
//! ```text
//! "Café №12.5,  7 Uhr!"  ──▶  "cafe №0 0 uhr"
//! ```
//!
//! One pass with a state of two flags instead of five passes; ASCII goes through a table of bytes.

use super::class::Classes;
use unicode_normalization::char::decompose_canonical;

/// Between digits, once a number, these belong to it.
const DECIMAL_MARKS: [char; 7] = ['.', ',', '،', '٫', '⎖', '⎗', '⎘'];

/// What an ASCII byte becomes: itself in lower case, or one of the classes.
const SPACE: u8 = 0;
const DIGIT: u8 = 1;
static ASCII: [u8; 128] = {
    let mut table = [SPACE; 128];
    let mut byte = 0;
    while byte < 128 {
        let c = byte as u8;
        table[byte] = match c {
            b'0'..=b'9' => DIGIT,
            b'A'..=b'Z' | b'a'..=b'z' => c.to_ascii_lowercase(),
            // All other visible ASCII characters are on the list of punctuation; controls are too.
            _ => SPACE,
        };
        byte += 1;
    }
    table
};

/// Normalises texts. Combining characters that are not of category Mn keep the order they have in the text, where NFD may
/// reorder two that follow each other; no living script has such a pair.
#[derive(Clone, Copy, Debug, Default)]
pub struct Normalizer;

impl Normalizer {
    /// Replaces what is in `out` by the normalised text.
    pub fn normalize(&self, text: &str, out: &mut String) {
        // A capital sigma becomes one of two small ones, by its place in the word.
        if text.contains('Σ') { self.lowered(&text.to_lowercase(), out) } else { self.lowered(text, out) }
    }

    fn lowered(self, text: &str, out: &mut String) {
        let classes = Classes::get();
        let mut made = std::mem::take(out).into_bytes();
        made.clear();
        made.reserve(text.len());
        let bytes = text.as_bytes();
        let (mut place, mut is_apart, mut has_begun) = (0, false, false);
        while place < bytes.len() {
            let byte = bytes[place];
            if byte.is_ascii() {
                match ASCII[usize::from(byte)] {
                    SPACE => {
                        is_apart = true;
                        place += 1;
                        continue;
                    }
                    DIGIT => {
                        separate(&mut made, &mut is_apart, &mut has_begun);
                        made.push(b'0');
                        place += number_length(&text[place..], classes);
                    }
                    letter => {
                        separate(&mut made, &mut is_apart, &mut has_begun);
                        made.push(letter);
                        place += 1;
                    }
                }
                continue;
            }
            let c =
                text[place..].chars().next().expect("a place within the text is a character's first byte");
            if classes.is_plain(c) {
                separate(&mut made, &mut is_apart, &mut has_begun);
                made.extend_from_slice(&bytes[place..place + c.len_utf8()]);
            } else if classes.is_digit(c) {
                separate(&mut made, &mut is_apart, &mut has_begun);
                made.push(b'0');
                place += number_length(&text[place..], classes);
                continue;
            } else {
                for lower in c.to_lowercase() {
                    if classes.is_compared_as_space(lower) || classes.is_space(lower) {
                        is_apart = true;
                        continue;
                    }
                    separate(&mut made, &mut is_apart, &mut has_begun);
                    decompose_canonical(lower, |part| {
                        if !classes.is_mark(part) {
                            made.extend_from_slice(part.encode_utf8(&mut [0; 4]).as_bytes());
                        }
                    });
                }
            }
            place += c.len_utf8();
        }
        *out = String::from_utf8(made).expect("whole characters were copied");
        // A lone mark between spaces leaves them behind.
        out.truncate(out.trim_end().len());
        let leading = out.len() - out.trim_start().len();
        out.drain(..leading);
    }
}

/// One space before the next character, where some were passed and something was written before.
fn separate(made: &mut Vec<u8>, is_apart: &mut bool, has_begun: &mut bool) {
    if *is_apart && *has_begun {
        made.push(b' ');
    }
    (*is_apart, *has_begun) = (false, true);
}

/// Bytes of the number at the start of `text`, 0 where there is none: digits, and once more digits after a decimal mark.
fn number_length(text: &str, classes: Classes) -> usize {
    let whole = digits_length(text, classes);
    let mut rest = text[whole..].chars();
    match rest.next() {
        Some(mark) if whole > 0 && DECIMAL_MARKS.contains(&mark) => {
            match digits_length(rest.as_str(), classes) {
                0 => whole,
                part => whole + mark.len_utf8() + part,
            }
        }
        _ => whole,
    }
}

fn digits_length(text: &str, classes: Classes) -> usize {
    let bytes = text.as_bytes();
    let mut length = 0;
    while length < bytes.len() {
        if bytes[length].is_ascii_digit() {
            length += 1;
            continue;
        }
        match text[length..].chars().next() {
            Some(c) if !c.is_ascii() && classes.is_digit(c) => length += c.len_utf8(),
            _ => break,
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use unicode_normalization::UnicodeNormalization;

    fn normalized(text: &str) -> String {
        let mut out = "left over".to_owned();
        Normalizer.normalize(text, &mut out);
        out
    }

    /// The definition, one pass a rule.
    fn by_definition(text: &str) -> String {
        let classes = Classes::get();
        let text = text.to_lowercase();
        let mut numbers = String::new();
        let mut rest = text.as_str();
        while let Some(c) = rest.chars().next() {
            let length = number_length(rest, classes);
            if length > 0 {
                numbers.push('0');
                rest = &rest[length..];
            } else {
                numbers.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        let spaced: String =
            numbers.chars().map(|c| if classes.is_compared_as_space(c) { ' ' } else { c }).collect();
        let collapsed = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
        collapsed.nfd().filter(|&c| !classes.is_mark(c)).collect::<String>().trim().to_owned()
    }

    #[test]
    fn the_rules_apply_in_their_order() {
        for (text, expected) in [
            ("Café №12.5,  7 Uhr!", "cafe №0 0 uhr"),
            ("1.2.3 1,000,000 ٣٫٥ x2y", "0 0 0 0 0 x0y"),
            ("don’t «stop» — now…", "don t stop now"),
            ("ΟΔΟΣ Σ", "οδος σ"),
            ("İstanbul 가", "istanbul 가"),
            ("  ", ""),
            ("中文，１２３。", "中文 0"),
        ] {
            assert_eq!(normalized(text), expected.nfd().collect::<String>(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn one_pass_does_what_the_rules_say(
            text in "([ \\n\\tA-Cx0-9.,'é中！１٣٫Σİ\u{301}\u{a0}\u{85}가№\u{1c}]|\\PC){0,60}"
        ) {
            prop_assert_eq!(normalized(&text), by_definition(&text));
        }
    }
}
