//! Where a document is cut around an n-gram.

use super::ContaminationRule;
use std::ops::Range;

impl ContaminationRule {
    const fn ends_sentence(self, c: char) -> bool {
        match self {
            Self::English => matches!(c, '.' | '!' | '?'),
            Self::Chinese => matches!(c, '。' | '！' | '？' | '；' | '…' | '!' | '?' | '\n'),
        }
    }
}

/// What stays before and after the n-gram at `span` (bytes of `text`): `sides` characters on each side of it go, and the rest
/// of the sentences that these lie in. Empty where no sentence ends before, or begins after.
pub(super) fn cut(text: &str, span: Range<usize>, sides: usize, rule: ContaminationRule) -> (&str, &str) {
    let mut before = text[..span.start].char_indices().rev().skip(sides.saturating_sub(1)).peekable();
    let first = match before.peek() {
        None => "",
        Some(_) => before
            .find(|&(_, c)| rule.ends_sentence(c))
            .filter(|&(place, _)| place > 0)
            .map_or("", |(place, c)| &text[..place + c.len_utf8()]),
    };
    let mut after = text[span.end..].char_indices().skip(sides);
    let second = after
        .find(|&(_, c)| rule.ends_sentence(c))
        .map_or("", |(place, c)| &text[span.end + place + c.len_utf8()..]);
    (first, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_go_on_to_the_ends_of_sentences() {
        let text = "One. Two is here. x NGRAM y. Three? Four.";
        let start = text.find("NGRAM").unwrap();
        let span = start..start + 5;
        let english = ContaminationRule::English;
        assert_eq!(cut(text, span.clone(), 0, english), ("One. Two is here.", " Three? Four."));
        // Four characters back is the end of a sentence itself, and stays.
        assert_eq!(cut(text, span.clone(), 4, english), ("One. Two is here.", " Four."));
        assert_eq!(cut(text, span.clone(), 5, english), ("One.", " Four."));
        assert_eq!(cut(text, span, 100, english), ("", ""));
    }

    #[test]
    fn chinese_sentences_end_in_full_width_marks() {
        let text = "第一句。第二句，3.5元考题在此，好！第三句。";
        let start = text.find("考题").unwrap();
        let span = start..start + "考题".len();
        assert_eq!(cut(text, span, 1, ContaminationRule::Chinese), ("第一句。", "第三句。"));
    }
}
