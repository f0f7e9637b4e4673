//! Line edits of RefinedWeb as DCLM runs them: cut lines in capitals, numbers, counters ("3 likes"), single words and
//! buttons; remove a document that loses too much.

use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::step::{Filter, Scratch, Verdict};

/// Which lines are cut. Lines are between newlines; words between white space. Blank lines stay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinesConfig {
    /// Largest share of capitals among a line's characters; above 1 for any.
    pub max_uppercase: f64,
    /// Cut lines of digits alone.
    pub numeric: bool,
    /// Cut lines such as "3 likes" and "1.2K followers".
    pub counters: bool,
    /// Fewest words of a line.
    pub min_words: usize,
    /// Cut lines of at most `max_button_words` words with the text of a button: "items in cart", "Read more…", "Sign-in".
    pub buttons: bool,
    pub max_button_words: usize,
    /// Largest share of words that may be cut out of a document that stays.
    pub max_removed_words: f64,
}

impl Default for LinesConfig {
    fn default() -> Self {
        Self {
            max_uppercase: 0.5,
            numeric: true,
            counters: true,
            min_words: 2,
            buttons: true,
            max_button_words: 10,
            max_removed_words: 0.05,
        }
    }
}

impl LinesConfig {
    pub const fn build(self) -> Lines {
        Lines { config: self }
    }
}

/// The filter `lines`.
#[derive(Debug)]
pub struct Lines {
    config: LinesConfig,
}

/// What sites count.
const COUNTED: &[&str] = &[
    "likes",
    "shares",
    "comments",
    "retweets",
    "reposts",
    "quotes",
    "bookmarks",
    "upvotes",
    "downvotes",
    "downloads",
    "views",
    "followers",
];

impl Lines {
    fn is_cut(&self, line: &str) -> bool {
        let config = &self.config;
        let words = line.split_whitespace().count();
        if words < config.min_words {
            return true;
        }
        let (mut characters, mut capitals) = (0_usize, 0_usize);
        for c in line.chars() {
            characters += 1;
            capitals += usize::from(c.is_uppercase());
        }
        if capitals as f64 > config.max_uppercase * characters as f64 {
            return true;
        }
        if config.numeric && line.chars().all(|c| c.is_numeric() || c.is_whitespace()) {
            return true;
        }
        if config.counters && is_counter(line) {
            return true;
        }
        config.buttons && words <= config.max_button_words && is_button(line)
    }
}

/// A number, perhaps in thousands, and what is counted.
fn is_counter(line: &str) -> bool {
    let mut words = line.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()));
    let mut words = words.by_ref().filter(|word| !word.is_empty());
    let (Some(number), Some(counted), None) = (words.next(), words.next(), words.next()) else {
        return false;
    };
    let digits = number.trim_end_matches(['K', 'k', 'M', 'm', 'B', 'b']);
    digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || c == ',' || c == '.')
        && COUNTED.iter().any(|name| counted.eq_ignore_ascii_case(name))
}

fn is_button(line: &str) -> bool {
    let lower = line.trim().to_lowercase();
    lower.contains("items in cart")
        || lower.ends_with("read more...")
        || lower.ends_with("read more…")
        || lower.starts_with("sign-in")
}

impl Filter for Lines {
    fn name(&self) -> &'static str {
        "lines"
    }

    fn apply(&self, document: &mut Document, scratch: &mut Scratch) -> Verdict {
        let edited = &mut scratch.edited;
        edited.clear();
        let (mut words, mut cut, mut any) = (0, 0, false);
        for (number, line) in document.text.split('\n').enumerate() {
            let of_line = line.split_whitespace().count();
            words += of_line;
            if of_line > 0 && self.is_cut(line) {
                (cut, any) = (cut + of_line, true);
                continue;
            }
            if number > 0 && !edited.is_empty() {
                edited.push('\n');
            }
            edited.push_str(line);
        }
        if cut as f64 > self.config.max_removed_words * words as f64 {
            return Verdict::remove_measured("too_many_lines_cut", format_args!("{cut} of {words} words"));
        }
        if any {
            std::mem::swap(&mut document.text, edited);
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::{edited, label, verdict};

    #[test]
    fn lines_that_say_nothing_are_cut() {
        let filter = LinesConfig { max_removed_words: 0.5, ..LinesConfig::default() }.build();
        let prose = "A first line of ordinary prose that stays as it is.";
        for cut in [
            "BREAKING NEWS TODAY",
            "2021 04 12",
            "1.2K followers",
            "3 likes!",
            "Home",
            "2 items in cart",
            "The whole story: Read more...",
            "Sign-in to comment",
        ] {
            assert_eq!(
                edited(&filter, &format!("{prose}\n{cut}\n{prose}")),
                format!("{prose}\n{prose}"),
                "{cut}"
            );
        }
        for kept in
            ["We like 3 likes a day", "NATO said it would", "", "He read more of the sign-in form that day"]
        {
            let text = format!("{prose}\n{kept}\n{prose}");
            assert_eq!(edited(&filter, &text), text, "{kept}");
        }
    }

    #[test]
    fn a_document_that_loses_too_much_is_removed() {
        let filter = LinesConfig::default().build();
        assert_eq!(label(&verdict(&filter, "SIGN UP NOW\nand a few words")), "too_many_lines_cut");
        assert_eq!(label(&verdict(&filter, "just a few words\nand a few more")), "keep");
    }
}
