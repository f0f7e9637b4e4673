//! The C4 rules (Raffel et al. 2020) in datatrove's variant: lines that are no sentences go, a document with too few
//! sentences left goes. And mC4's rule of three long lines.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use serde::{Deserialize, Serialize};

use super::characters::{self, TERMINAL, is_mark, is_space, strip};
use super::text::{Word, python_lines};
use super::words::{self, Language};
use crate::document::Document;
use crate::step::{Filter, Scratch, Verdict};

/// Which of the C4 rules hold. Lines that fall are cut out of the text; the others stay, joined by newlines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct C4Config {
    pub language: Language,
    /// Cut `[1]`, `[edit]` and `[citation needed]` out of lines.
    pub remove_citations: bool,
    /// A line must end in . ? ! " or ' and not in "...". FineWeb switches this off.
    pub terminal_punctuation: bool,
    /// Fewest sentences in the lines that stay; 0 for any.
    pub min_sentences: usize,
    /// Fewest words (pieces between white space) of a line; 0 for any.
    pub min_words_per_line: usize,
    /// Most characters of a word in a line; 0 for any.
    pub max_word_length: usize,
    /// Remove a document with "lorem ipsum" in a line.
    pub lorem_ipsum: bool,
    /// Cut lines with "javascript".
    pub javascript: bool,
    /// Remove a document with "{" in a line.
    pub curly_bracket: bool,
    /// Cut lines with phrases of cookie and privacy notices.
    pub policy: bool,
}

impl Default for C4Config {
    fn default() -> Self {
        Self {
            language: Language::English,
            remove_citations: true,
            terminal_punctuation: true,
            min_sentences: 5,
            min_words_per_line: 3,
            max_word_length: 1000,
            lorem_ipsum: true,
            javascript: true,
            curly_bracket: true,
            policy: true,
        }
    }
}

impl C4Config {
    pub const fn build(self) -> C4 {
        C4 { config: self }
    }
}

/// The filter `c4`.
#[derive(Debug)]
pub struct C4 {
    config: C4Config,
}

const LOREM_IPSUM: usize = 0;
const JAVASCRIPT: usize = 1;
const PHRASES: [&str; 8] = [
    "lorem ipsum",
    "javascript",
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
];

impl Filter for C4 {
    fn name(&self) -> &'static str {
        "c4"
    }

    fn apply(&self, document: &mut Document, scratch: &mut Scratch) -> Verdict {
        let config = &self.config;
        let mut edited = std::mem::take(&mut scratch.edited);
        edited.clear();
        let (words, ..) = scratch.words(&document.text, config.language);
        let verdict = self.lines(&document.text, words, &mut edited);
        if verdict == Verdict::Keep && edited != document.text {
            document.text.clear();
            document.text.push_str(strip(&edited));
        }
        scratch.edited = edited;
        verdict
    }
}

impl C4 {
    /// Writes the lines that stay; `words` are those of the whole text.
    fn lines(&self, text: &str, words: &[Word], edited: &mut String) -> Verdict {
        let config = &self.config;
        let (mut sentences, mut kept, mut next) = (0, 0, 0);
        let mut own_words = Vec::new();
        for line in python_lines(text) {
            let line = strip(line);
            let Some((pieces, longest)) = pieces(line, config.max_word_length) else { continue };
            debug_assert!(longest <= config.max_word_length || config.max_word_length == 0);
            let cleaned = match config.remove_citations {
                true => without_citations(line),
                false => None,
            };
            let shown = cleaned.as_deref().unwrap_or(line);
            if config.terminal_punctuation
                && (!shown.ends_with(['.', '?', '!', '"', '\'']) || shown.ends_with("..."))
            {
                continue;
            }
            if pieces < config.min_words_per_line {
                continue;
            }
            let found = Phrases::in_line(shown);
            if config.lorem_ipsum && found.lorem_ipsum {
                return Verdict::remove("lorem_ipsum");
            }
            if config.javascript && found.javascript {
                continue;
            }
            if config.curly_bracket && shown.as_bytes().contains(&b'{') {
                return Verdict::remove("curly_bracket");
            }
            if config.policy && found.policy {
                continue;
            }
            if config.min_sentences > 0 {
                sentences += match &cleaned {
                    None => {
                        // Words are in order and lie within one line each.
                        let start = line.as_ptr() as usize - text.as_ptr() as usize;
                        next += words[next..].partition_point(|word| (word.start as usize) < start);
                        let end = start + line.len();
                        let count = words[next..].partition_point(|word| (word.start as usize) < end);
                        let line_words = &words[next..next + count];
                        next += count;
                        count_sentences(text, line_words)
                    }
                    Some(cleaned) => {
                        own_words.clear();
                        words::segment(cleaned, config.language, &mut own_words);
                        count_sentences(cleaned, &own_words)
                    }
                };
            }
            if kept > 0 {
                edited.push('\n');
            }
            edited.push_str(shown);
            kept += 1;
        }
        if sentences < config.min_sentences {
            return Verdict::remove_measured("too_few_sentences", format_args!("{sentences} sentences"));
        }
        Verdict::Keep
    }
}

/// Pieces between white space and the characters of the longest; nothing if one is longer than `limit` (0: any).
fn pieces(line: &str, limit: usize) -> Option<(usize, usize)> {
    let (mut count, mut longest) = (0, 0);
    for piece in line.split(is_space).filter(|piece| !piece.is_empty()) {
        count += 1;
        if piece.len() > longest {
            longest = longest.max(characters::count(piece));
        }
        if limit > 0 && longest > limit {
            return None;
        }
    }
    Some((count, longest))
}

/// The line without `[12]`, `[]`, `[edit]` and `[citation needed]`, if it has any.
fn without_citations(line: &str) -> Option<String> {
    let length = |rest: &str| {
        if let Some(fixed) =
            ["[edit]", "[citation needed]"].into_iter().find(|&fixed| rest.starts_with(fixed))
        {
            return Some(fixed.len());
        }
        let digits = rest[1..].find(|c: char| !c.is_ascii_digit())?;
        rest[1 + digits..].starts_with(']').then_some(digits + 2)
    };
    let mut cleaned: Option<String> = None;
    let (mut copied, mut from) = (0, 0);
    while let Some(at) = line[from..].find('[').map(|at| from + at) {
        from = at + 1;
        if let Some(length) = length(&line[at..]) {
            cleaned.get_or_insert_default().push_str(&line[copied..at]);
            copied = at + length;
            from = copied;
        }
    }
    cleaned.map(|start| start + &line[copied..])
}

#[derive(Clone, Copy, Debug, Default)]
struct Phrases {
    lorem_ipsum: bool,
    javascript: bool,
    policy: bool,
}

impl Phrases {
    /// Which phrases a line has, in any case.
    fn in_line(line: &str) -> Self {
        static FINDER: LazyLock<AhoCorasick> = LazyLock::new(|| {
            AhoCorasick::builder()
                .ascii_case_insensitive(true)
                .kind(Some(aho_corasick::AhoCorasickKind::DFA))
                .build(PHRASES)
                .expect("a few short phrases")
        });
        let mut found = Self::default();
        for phrase in FINDER.find_overlapping_iter(line) {
            match phrase.pattern().as_usize() {
                LOREM_IPSUM => found.lorem_ipsum = true,
                JAVASCRIPT => found.javascript = true,
                _ => found.policy = true,
            }
        }
        found
    }
}

/// Sentences among these words, as spaCy's sentencizer counts: one begins at the first word after an end mark that is
/// no punctuation itself. No words are one sentence.
pub(crate) fn count_sentences(text: &str, words: &[Word]) -> usize {
    let (mut sentences, mut ended) = (1, false);
    for word in words {
        if word.has_letter {
            sentences += usize::from(std::mem::take(&mut ended));
            continue;
        }
        let word = word.of(text);
        let mut chars = word.chars();
        let end_mark = chars.next().is_some_and(|c| TERMINAL.contains(c)) && chars.next().is_none();
        if end_mark {
            ended = true;
        } else if ended && !word.chars().all(is_mark) {
            sentences += 1;
            ended = false;
        }
    }
    sentences
}

/// mC4's page rule: enough long lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct C4ParagraphsConfig {
    /// Fewest lines of this many characters.
    pub min_paragraphs: usize,
    pub min_paragraph_length: usize,
}

impl Default for C4ParagraphsConfig {
    fn default() -> Self {
        Self { min_paragraphs: 3, min_paragraph_length: 200 }
    }
}

impl C4ParagraphsConfig {
    pub const fn build(self) -> C4Paragraphs {
        C4Paragraphs { config: self }
    }
}

/// The filter `c4_paragraphs`.
#[derive(Debug)]
pub struct C4Paragraphs {
    config: C4ParagraphsConfig,
}

impl Filter for C4Paragraphs {
    fn name(&self) -> &'static str {
        "c4_paragraphs"
    }

    fn apply(&self, document: &mut Document, _: &mut Scratch) -> Verdict {
        let C4ParagraphsConfig { min_paragraphs, min_paragraph_length } = self.config;
        let long = document
            .text
            .split('\n')
            .filter(|line| {
                line.len() >= min_paragraph_length && characters::count(line) >= min_paragraph_length
            })
            .count();
        match long < min_paragraphs {
            true => Verdict::remove_measured("too_few_paragraphs", format_args!("{long} paragraphs")),
            false => Verdict::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::{edited, label, verdict};

    fn judged(text: &str) -> String {
        label(&verdict(&C4Config::default().build(), text))
    }

    const FIVE: &str = "It rained. The road was empty. Nobody came by. We waited a while. Then we left.";

    #[test]
    fn each_rule_has_its_label() {
        assert_eq!(judged(FIVE), "keep");
        assert_eq!(judged("It rained. The road was empty. Nobody came."), "too_few_sentences");
        assert_eq!(judged(&format!("{FIVE}\nThen Lorem  ipsum. And lorem IPSUM it was.")), "lorem_ipsum");
        assert_eq!(judged(&format!("{FIVE}\nfn main() {{ so it ends here.")), "curly_bracket");
        assert_eq!(judged(&format!("{FIVE}\nlorem ipsum")), "keep", "a line that falls anyway");
    }

    #[test]
    fn lines_that_are_no_sentences_are_cut() {
        let after = |line: &str| {
            let text = edited(&C4Config::default().build(), &format!("{FIVE}\n{line}\nThe end is here."));
            text.strip_prefix(FIVE)
                .and_then(|text| text.strip_suffix("\nThe end is here."))
                .map(str::to_owned)
        };
        assert_eq!(after("A line that stays!").as_deref(), Some("\nA line that stays!"));
        assert_eq!(
            after("  Known since long[1][23][edit].[citation needed]"),
            Some("\nKnown since long.".to_owned())
        );
        for cut in [
            "no end mark here",
            "an ellipsis here...",
            "Two words.",
            "Please enable JavaScript in your browser.",
            "We and our partners use cookies on this site.",
            &format!("A word of {} letters.", "a".repeat(1001)),
        ] {
            assert_eq!(after(cut).as_deref(), Some(""), "{cut}");
        }
    }

    #[test]
    fn sentences_are_counted_as_spacy_does() {
        for (text, expected) in [
            ("", 1),
            ("One.", 1),
            ("One. Two", 2),
            ("He said \"Go!\" and went.", 2),
            ("What?! No... Yes.", 2),
            ("Mr. Smith paid $5. Then he left.", 2),
            ("One. + Two.", 2),
        ] {
            let mut words = Vec::new();
            words::segment(text, Language::English, &mut words);
            assert_eq!(count_sentences(text, &words), expected, "{text}");
        }
    }

    #[test]
    fn three_long_lines_make_a_page() {
        let line = "a".repeat(200);
        let filter = C4ParagraphsConfig::default().build();
        assert_eq!(label(&verdict(&filter, &format!("{line}\nb\n{line}\n{line}"))), "keep");
        assert_eq!(
            label(&verdict(&filter, &format!("{line}\n{line}\n{}", "é".repeat(199)))),
            "too_few_paragraphs"
        );
    }
}
