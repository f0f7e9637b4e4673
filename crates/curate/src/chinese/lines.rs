//! Lines and sentences of Chinese text: a paragraph ends with its last whole sentence; lines that are none are cut; a
//! document needs enough of them.

use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::filters::characters::{count, is_han, strip};
use crate::step::{Filter, Scratch, Verdict};

/// Rules of lines, with the data set each is from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChineseLinesConfig {
    /// Cut what follows a paragraph's last mark that ends a sentence (MNBVC).
    pub cut_after_last_sentence: bool,
    /// Cut lines that do not end in 。！？……”：, or their ASCII forms (c4-dataset-script, which lost 94 % of its pages).
    pub terminal_punctuation: bool,
    /// Fewest characters of a line that stays (c4-dataset-script: 5).
    pub min_line_characters: usize,
    /// Fewest Han characters of a line that stays (WuDao: 10).
    pub min_line_han: usize,
    /// Fewest lines left (c4-dataset-script: 6).
    pub min_lines: usize,
    /// Fewest characters left, and least mean of characters a line (ChineseWebText: 200 and 10).
    pub min_characters: usize,
    pub min_mean_line_characters: f64,
}

impl Default for ChineseLinesConfig {
    fn default() -> Self {
        Self {
            cut_after_last_sentence: false,
            terminal_punctuation: false,
            min_line_characters: 5,
            min_line_han: 0,
            min_lines: 0,
            min_characters: 200,
            min_mean_line_characters: 10.0,
        }
    }
}

impl ChineseLinesConfig {
    /// c4-dataset-script's way, which keeps whole sentences only.
    pub fn sentences() -> Self {
        Self { terminal_punctuation: true, cut_after_last_sentence: true, min_lines: 6, ..Self::default() }
    }

    pub const fn build(self) -> ChineseLines {
        ChineseLines { config: self }
    }
}

/// The filter `chinese_lines`.
#[derive(Debug)]
pub struct ChineseLines {
    config: ChineseLinesConfig,
}

/// Marks that end a sentence, and closing marks that may follow them.
const fn ends_sentence(c: char) -> bool {
    matches!(c, '。' | '！' | '？' | '…' | '!' | '?' | '；')
}

const fn closes(c: char) -> bool {
    matches!(c, '”' | '』' | '」' | '）' | '》' | '’' | '"' | ')')
}

/// Whether a line is a sentence by its end.
fn is_ended(line: &str) -> bool {
    let mut back = line.chars().rev().skip_while(|&c| closes(c));
    back.next().is_some_and(|c| ends_sentence(c) || matches!(c, '：' | ':' | '.')) || line.ends_with('”')
}

/// The line up to its last whole sentence, or all of it if it has none.
fn whole_sentences(line: &str) -> &str {
    let Some((at, mark)) = line.char_indices().rev().find(|&(_, c)| ends_sentence(c)) else { return line };
    let end = at + mark.len_utf8();
    let closing: usize = line[end..].chars().take_while(|&c| closes(c)).map(char::len_utf8).sum();
    &line[..end + closing]
}

impl Filter for ChineseLines {
    fn name(&self) -> &'static str {
        "chinese_lines"
    }

    fn apply(&self, document: &mut Document, scratch: &mut Scratch) -> Verdict {
        let config = &self.config;
        let edited = &mut scratch.edited;
        edited.clear();
        let (mut lines, mut characters) = (0_usize, 0_usize);
        for line in document.text.split('\n') {
            let mut line = strip(line);
            if config.cut_after_last_sentence {
                line = whole_sentences(line);
            }
            let length = count(line);
            if length < config.min_line_characters.max(1)
                || (config.min_line_han > 0
                    && line.chars().filter(|&c| is_han(c)).count() < config.min_line_han)
                || (config.terminal_punctuation && !is_ended(line))
            {
                continue;
            }
            if lines > 0 {
                edited.push('\n');
            }
            edited.push_str(line);
            (lines, characters) = (lines + 1, characters + length);
        }
        if lines < config.min_lines.max(1) {
            return Verdict::remove_measured("zh_few_lines", format_args!("{lines} lines"));
        }
        if characters < config.min_characters {
            return Verdict::remove_measured("zh_short", format_args!("{characters} characters"));
        }
        let mean = characters as f64 / lines as f64;
        if mean < config.min_mean_line_characters {
            return Verdict::remove_measured("zh_short_lines", format_args!("{mean:.1} characters a line"));
        }
        if *edited != document.text {
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
    fn lines_that_are_no_sentences_are_cut() {
        let config = ChineseLinesConfig {
            min_mean_line_characters: 0.0,
            min_characters: 0,
            min_lines: 1,
            ..ChineseLinesConfig::sentences()
        };
        let filter = config.build();
        let text = "首页\n他说：“我们走吧。”然后 点击查看更多\n联系我们 版权所有\n天慢慢黑了下来……\n好。\n";
        assert_eq!(edited(&filter, text), "他说：“我们走吧。”\n天慢慢黑了下来……");
    }

    #[test]
    fn each_rule_has_its_label() {
        let judged = |config: ChineseLinesConfig, text: &str| label(&verdict(&config.build(), text));
        let default = ChineseLinesConfig::default;
        let line = "天慢慢黑了下来，船上的灯一盏一盏亮起来。\n";
        assert_eq!(judged(default(), &line.repeat(12)), "keep");
        assert_eq!(judged(default(), &line.repeat(3)), "zh_short");
        assert_eq!(judged(default(), "首页\n"), "zh_few_lines");
        assert_eq!(judged(default(), &"短短的一行\n".repeat(50)), "zh_short_lines");
        assert_eq!(
            judged(ChineseLinesConfig::sentences(), &"没有标点的一行文字\n".repeat(50)),
            "zh_few_lines"
        );
    }
}
