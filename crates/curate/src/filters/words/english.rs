//! English words by the rules of spaCy's blank English tokenizer: cut at white space; known contractions and
//! abbreviations whole; punctuation cut off the ends, one piece at a time, as long as anything can be; what is left is
//! split inside at hyphens, slashes, ellipses and the like, unless it is an address on the web.
//!
//! ```text
//! "(don't-ask...)"  ──▶  (  don't-ask  ...  )  ──▶  (  do  n't  -  ask  ...  )      only whole pieces are contractions:
//!                                                   (  don't  -  ask  ...  )
//! ```

use std::sync::LazyLock;

use regex::Regex;
use xxhash_rust::xxh3::xxh3_64;

use super::contractions::{CONTRACTIONS, Contractions, LONGEST};
use super::english_characters::{
    CURRENCY, PUNCTUATION, QUOTES, UNITS, is_alpha, is_icon, is_lower, is_upper,
};
use crate::filters::characters;
use crate::filters::text::Word;

/// Appends the words of a text.
pub(super) fn segment(text: &str, words: &mut Vec<Word>) {
    let rules = Tokenizer { text, contractions: &CONTRACTIONS };
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        // A run of ASCII letters and digits up to a space is most words of most texts.
        let (mut letters, mut digits) = (0, 0);
        let mut end = at;
        while let Some(&byte) = bytes.get(end) {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' => letters += 1,
                b'0'..=b'9' => digits += 1,
                _ => break,
            }
            end += 1;
        }
        let next = bytes.get(end).copied().unwrap_or(b' ');
        if matches!(next, 9..=13 | 28..=32) {
            if end > at {
                if digits == 0 {
                    rules.plain(at, end, words);
                } else if letters == 0 {
                    words.push(plain_word(text, at, end, false));
                } else {
                    rules.chunk(at, end, words);
                }
            }
            at = end + 1;
            continue;
        }
        let rest = &text[at..];
        let stop = rest[end - at..].find(characters::is_space).map_or(bytes.len(), |offset| end + offset);
        if stop > at {
            rules.chunk(at, stop, words);
        }
        at = stop + text[stop..].chars().next().map_or(0, char::len_utf8);
    }
}

/// A word of ASCII letters and digits.
fn plain_word(text: &str, start: usize, end: usize, has_letter: bool) -> Word {
    Word {
        start: start as u32,
        end: end as u32,
        hash: xxh3_64(&text.as_bytes()[start..end]),
        characters: (end - start) as u32,
        has_letter,
        has_content: true,
    }
}

struct Tokenizer<'a> {
    text: &'a str,
    contractions: &'a Contractions,
}

impl Tokenizer<'_> {
    /// ASCII letters alone: one word, or a contraction without its apostrophe ("dont", "cannot").
    fn plain(&self, start: usize, end: usize, words: &mut Vec<Word>) {
        let word = plain_word(self.text, start, end, true);
        match self.contractions.parts(word.hash, end - start) {
            None => words.push(word),
            Some(parts) => self.push_parts(start, parts, words),
        }
    }

    fn special(&self, start: usize, end: usize) -> Option<&[u8]> {
        (end - start <= LONGEST && start < end)
            .then(|| self.contractions.parts(xxh3_64(&self.text.as_bytes()[start..end]), end - start))
            .flatten()
    }

    /// The parts of a contraction, given by their lengths in bytes.
    fn push_parts(&self, mut start: usize, parts: &[u8], words: &mut Vec<Word>) {
        for &length in parts {
            words.push(Word::new(self.text, start, start + length as usize));
            start += length as usize;
        }
    }

    /// A piece of text between white space.
    fn chunk(&self, from: usize, to: usize, words: &mut Vec<Word>) {
        let first_word = words.len();
        let (mut start, mut end) = (from, to);
        // Ends of suffixes, in the order they were cut: each begins where the next one ends.
        let mut suffixes = [0_usize; 32];
        let mut cut = 0;
        let mut spilled = Vec::new();
        while start < end && self.special(start, end).is_none() {
            let prefix = prefix_length(&self.text[start..end]);
            if prefix > 0 && self.special(start + prefix, end).is_some() {
                words.push(Word::new(self.text, start, start + prefix));
                start += prefix;
                break;
            }
            let suffix = suffix_length(&self.text[start + prefix..end]);
            if prefix + suffix == 0 {
                break;
            }
            let keep_suffix = suffix > 0 && self.special(start, end - suffix).is_some();
            if prefix > 0 && !keep_suffix {
                words.push(Word::new(self.text, start, start + prefix));
                start += prefix;
            }
            if suffix > 0 {
                match suffixes.get_mut(cut) {
                    Some(slot) => *slot = end,
                    None => spilled.push(end),
                }
                cut += 1;
                end -= suffix;
            }
            if keep_suffix {
                break;
            }
        }
        self.middle(start, end, words);
        let mut begin = end;
        let stored = cut.min(suffixes.len());
        for &stop in spilled.iter().rev().chain(suffixes[..stored].iter().rev()) {
            words.push(Word::new(self.text, begin, stop));
            begin = stop;
        }
        if words.len() >= first_word + 3 {
            self.join_specials(first_word, words);
        }
    }

    /// What is left when the ends are off.
    fn middle(&self, start: usize, end: usize, words: &mut Vec<Word>) {
        if start == end {
            return;
        }
        if let Some(parts) = self.special(start, end) {
            return self.push_parts(start, parts, words);
        }
        let piece = &self.text[start..end];
        let mut infix = next_infix(piece, 0);
        if infix.is_some() && is_address(piece) {
            infix = None;
        }
        let mut begin = 0;
        while let Some((at, stop)) = infix {
            // An infix at the very start of a piece belongs to what follows.
            if at > 0 {
                if at > begin {
                    words.push(Word::new(self.text, start + begin, start + at));
                }
                words.push(Word::new(self.text, start + at, start + stop));
                begin = stop;
            }
            infix = next_infix(piece, stop);
        }
        if begin < piece.len() {
            words.push(Word::new(self.text, start + begin, end));
        }
    }

    /// Pieces that touch and make up a known abbreviation or emoticon are that: "Mr" "." "Smith", "well" ":" ")".
    fn join_specials(&self, first_word: usize, words: &mut Vec<Word>) {
        let Some(first) = (first_word..words.len()).find(|&at| self.joined(&words[at..]).is_some()) else {
            return;
        };
        let pieces = words.split_off(first);
        let mut at = 0;
        while at < pieces.len() {
            match self.joined(&pieces[at..]) {
                Some((count, parts)) => {
                    self.push_parts(pieces[at].start as usize, parts, words);
                    at += count;
                }
                None => {
                    words.push(pieces[at]);
                    at += 1;
                }
            }
        }
    }

    /// How many of the pieces from the first on make up an entry of fewer parts, the longest such.
    fn joined(&self, pieces: &[Word]) -> Option<(usize, &[u8])> {
        let start = pieces[0].start as usize;
        let longest =
            pieces.iter().take(LONGEST).take_while(|piece| piece.end as usize - start <= LONGEST).count();
        (2..=longest).rev().find_map(|count| {
            let end = pieces[count - 1].end as usize;
            self.special(start, end).filter(|parts| parts.len() < count).map(|parts| (count, parts))
        })
    }
}

/// Bytes that are cut off the front of a piece, 0 for none.
fn prefix_length(piece: &str) -> usize {
    let bytes = piece.as_bytes();
    let first = bytes[0];
    if first.is_ascii_alphanumeric() {
        let dollar = match first {
            b'U' => piece.starts_with("US$").then_some(3),
            b'A' | b'C' => (bytes.get(1) == Some(&b'$')).then_some(2),
            _ => None,
        };
        return dollar.unwrap_or(0);
    }
    match first {
        b'.' => {
            let dots = run(bytes.iter(), b'.');
            if dots > 1 { dots } else { 0 }
        }
        b'+' => usize::from(!bytes.get(1).is_some_and(u8::is_ascii_digit)),
        b'%' | b'=' => 1,
        _ => {
            let c = piece.chars().next().unwrap_or('a');
            let cut = PUNCTUATION.contains(c)
                || QUOTES.contains(c)
                || CURRENCY.contains(c)
                || matches!(c, '§' | '—' | '–')
                || is_icon(c);
            if cut { c.len_utf8() } else { 0 }
        }
    }
}

fn run<'a>(bytes: impl Iterator<Item = &'a u8>, byte: u8) -> usize {
    bytes.take_while(|&&other| other == byte).count()
}

/// No unit has more bytes.
const LONGEST_UNIT: usize = 10;

/// Bytes that are cut off the end of a piece, the longest of all rules, 0 for none.
fn suffix_length(piece: &str) -> usize {
    let bytes = piece.as_bytes();
    let Some(&last) = bytes.last() else { return 0 };
    // 's and ’s
    if last == b's' || last == b'S' {
        let rest = &piece[..piece.len() - 1];
        let apostrophe = rest.chars().next_back().filter(|&c| c == '\'' || c == '’');
        if let Some(apostrophe) = apostrophe {
            return 1 + apostrophe.len_utf8();
        }
    }
    let c = piece.chars().next_back().unwrap_or('a');
    // The longest tail of these is the one after the last digit.
    let window = bytes.len().saturating_sub(LONGEST_UNIT + 1);
    if let Some(digit) = bytes[window..].iter().rposition(u8::is_ascii_digit) {
        let tail = &piece[window + digit + 1..];
        let mut tail_chars = tail.chars();
        let currency = tail_chars.next().is_some_and(|c| CURRENCY.contains(c)) && tail_chars.next().is_none();
        if currency || UNITS.contains(&tail) {
            return tail.len();
        }
    }
    if last == b'.' {
        let dots = run(bytes.iter().rev(), b'.');
        if dots > 1 {
            return dots;
        }
        return usize::from(full_stop_is_cut(&piece[..piece.len() - 1]));
    }
    if last.is_ascii_alphanumeric() {
        return 0;
    }
    if c == '…' && piece.ends_with("……") {
        return "……".len();
    }
    let cut = PUNCTUATION.contains(c) || QUOTES.contains(c) || matches!(c, '—' | '–') || is_icon(c);
    if cut { c.len_utf8() } else { 0 }
}

/// Whether a full stop after this is one: not after a single capital (initials) or a symbol.
fn full_stop_is_cut(before: &str) -> bool {
    let mut back = before.chars().rev();
    let Some(last) = back.next() else { return false };
    last.is_ascii_digit()
        || is_lower(last)
        || matches!(last, '%' | '²' | '-' | '+' | '|')
        || PUNCTUATION.contains(last)
        || QUOTES.contains(last)
        || (is_upper(last) && back.next().is_some_and(is_upper))
        || (matches!(last, 'F' | 'C' | 'K') && before[..before.len() - 1].ends_with('°'))
}

/// The next place where a piece is split inside: its byte range.
fn next_infix(piece: &str, from: usize) -> Option<(usize, usize)> {
    let bytes = piece.as_bytes();
    let mut at = from;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte.is_ascii_alphanumeric() {
            at += 1;
            continue;
        }
        let before = piece[..at].chars().next_back();
        let after = |stop: usize| piece[stop..].chars().next();
        let is_word = |c: Option<char>| c.is_some_and(|c| is_alpha(c) || c.is_ascii_digit());
        let alpha = |c: Option<char>| c.is_some_and(is_alpha);
        match byte {
            b'.' => {
                let dots = run(bytes[at..].iter(), b'.');
                let sentence_end = before.is_some_and(|c| is_lower(c) || QUOTES.contains(c))
                    && after(at + 1).is_some_and(|c| is_upper(c) || QUOTES.contains(c));
                if dots > 1 || sentence_end {
                    return Some((at, at + dots));
                }
            }
            b',' if alpha(before) && alpha(after(at + 1)) => return Some((at, at + 1)),
            b':' | b'<' | b'>' | b'=' | b'/' if is_word(before) && alpha(after(at + 1)) => {
                return Some((at, at + 1));
            }
            b'+' | b'*' | b'^' | b'-' | b'~' => {
                if byte != b'~'
                    && before.is_some_and(|c| c.is_ascii_digit())
                    && after(at + 1).is_some_and(|c| c.is_ascii_digit() || c == '-')
                {
                    return Some((at, at + 1));
                }
                if is_word(before) && matches!(byte, b'-' | b'~') {
                    // One hyphen, two or three, if a letter follows.
                    let longest = if byte == b'-' { run(bytes[at..].iter(), b'-') } else { 1 };
                    if longest <= 3 && alpha(after(at + longest)) {
                        return Some((at, at + longest));
                    }
                }
            }
            _ if byte >= 0x80 => {
                let c = after(at).unwrap_or('a');
                let stop = at + c.len_utf8();
                if c == '…' || is_icon(c) {
                    return Some((at, stop));
                }
                if matches!(c, '–' | '—') && is_word(before) {
                    let pair =
                        if c == '—' && after(stop) == Some('—') { stop + c.len_utf8() } else { stop };
                    if alpha(after(pair)) {
                        return Some((at, pair));
                    }
                }
                at = stop;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Whether a piece is an address that is not split: scheme, host with a top-level domain in lower case or a public
/// IPv4 address, port, path.
fn is_address(piece: &str) -> bool {
    static ADDRESS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(concat!(
            r"^(?:[\w+\-.]{2,}://)?(?:\S+(?::\S*)?@)?(?:",
            r"(?<ip>(?:[1-9]\d?|1\d\d|2[01]\d|22[0-3])(?:\.(?:1?\d{1,2}|2[0-4]\d|25[0-5])){2}",
            r"\.(?:[1-9]\d?|1\d\d|2[0-4]\d|25[0-4]))|",
            r"(?:(?:[A-Za-z0-9\u{a1}-\u{ffff}][A-Za-z0-9\u{a1}-\u{ffff}_-]{0,62})?[A-Za-z0-9\u{a1}-\u{ffff}]\.)+",
            r"[[:lower:]\u{df}-\u{ffff}&&[^\p{Lu}]]{2,63})(?::\d{2,5})?(?:[/?#]\S*)?$",
        ))
        .expect("a constant pattern")
    });
    if !piece.as_bytes().contains(&b'.') {
        return false;
    }
    let Some(found) = ADDRESS.captures(piece) else { return false };
    found.name("ip").is_none_or(|ip| {
        let octets: Vec<_> = ip.as_str().split('.').filter_map(|octet| octet.parse::<u8>().ok()).collect();
        !matches!(octets[..], [10 | 127, ..] | [169, 254, ..] | [192, 168, ..] | [172, 16..=31, ..])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<&str> {
        let mut words = Vec::new();
        segment(text, &mut words);
        words.iter().map(|word| word.of(text)).collect()
    }

    /// What spaCy 3.8 makes of these (`spacy.blank("en")`).
    #[test]
    fn pieces_are_those_of_spacy() {
        for (text, expected) in
            include_str!("../../../tests/golden/english_words.txt").lines().filter_map(|line| {
                let (text, words) = line.split_once('\t')?;
                Some((text, words))
            })
        {
            assert_eq!(cut(text).join(" "), expected, "{text}");
        }
    }
}
