//! What share of a text Han characters make up, and whether they are simplified or traditional.

use std::sync::LazyLock;

use ferrous_opencc::OpenCC;
use ferrous_opencc::config::BuiltinConfig;
use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::filters::characters::{is_han, is_space};
use crate::step::{Filter, Scratch, Verdict};

/// Bounds on the characters of a Chinese text. Shares are of all characters but white space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChineseScriptConfig {
    /// Smallest share of Han characters: ChineseWebText 0.3, WuDao 0.7.
    pub min_han: f64,
    /// Largest share of characters that are neither Chinese nor ASCII (CC-zh has 0.02); marks and digits of the CJK
    /// blocks are Chinese.
    pub max_foreign: f64,
    /// Largest share of digits and capitals (CC-zh has 0.3).
    pub max_digits_and_capitals: f64,
    /// Remove texts in traditional characters (ChineseWebText does, others convert them).
    pub reject_traditional: bool,
}

impl Default for ChineseScriptConfig {
    fn default() -> Self {
        Self { min_han: 0.3, max_foreign: 0.02, max_digits_and_capitals: 0.3, reject_traditional: false }
    }
}

impl ChineseScriptConfig {
    pub const fn build(self) -> ChineseScript {
        ChineseScript { config: self }
    }
}

/// The filter `chinese_script`: also writes `script` ("Hans", "Hant") into the metadata.
#[derive(Debug)]
pub struct ChineseScript {
    config: ChineseScriptConfig,
}

/// How many characters of a text are what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScriptCounts {
    /// All but white space.
    pub(crate) all: usize,
    pub(crate) han: usize,
    /// Han characters that only one of the scripts has.
    pub(crate) simplified: usize,
    pub(crate) traditional: usize,
    pub(crate) foreign: usize,
    pub(crate) digits_and_capitals: usize,
}

impl ScriptCounts {
    pub(crate) fn of(text: &str) -> Self {
        let mut counts = Self::default();
        for c in text.chars().filter(|&c| !is_space(c)) {
            counts.all += 1;
            if is_han(c) {
                counts.han += 1;
                match script_of(c) {
                    Some(Script::Simplified) => counts.simplified += 1,
                    Some(Script::Traditional) => counts.traditional += 1,
                    None => {}
                }
            } else if c.is_ascii() {
                counts.digits_and_capitals += usize::from(c.is_ascii_digit() || c.is_ascii_uppercase());
            } else if !is_chinese_mark(c) {
                counts.foreign += 1;
            }
        }
        counts
    }
}

/// Marks of the CJK and full-width blocks, dashes, quotes, ellipses.
const fn is_chinese_mark(c: char) -> bool {
    matches!(c, '\u{3000}'..='\u{303F}' | '\u{FF00}'..='\u{FFEF}' | '\u{2010}'..='\u{2027}' | '·' | '×' | '°' | '℃'
        | '\u{2460}'..='\u{24FF}' | '\u{2160}'..='\u{217F}' | '\u{FE30}'..='\u{FE4F}' | '→' | '★' | '■' | '●')
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    Simplified,
    Traditional,
}

/// The script that a character of the main block belongs to alone: OpenCC changes it on the way to the other.
fn script_of(c: char) -> Option<Script> {
    const FIRST: u32 = 0x4E00;
    static TABLE: LazyLock<Vec<Option<Script>>> = LazyLock::new(|| {
        let open = |config| OpenCC::from_config(config).expect("a dictionary that is built in");
        let (to_simplified, to_traditional) = (open(BuiltinConfig::T2s), open(BuiltinConfig::S2t));
        (FIRST..0xA000)
            .map(|code| {
                let character = char::from_u32(code).map(String::from).unwrap_or_default();
                let simplifies = to_simplified.convert(&character) != character;
                let complicates = to_traditional.convert(&character) != character;
                match (simplifies, complicates) {
                    (true, false) => Some(Script::Traditional),
                    (false, true) => Some(Script::Simplified),
                    _ => None,
                }
            })
            .collect()
    });
    TABLE.get((c as u32).checked_sub(FIRST)? as usize).copied().flatten()
}

impl Filter for ChineseScript {
    fn name(&self) -> &'static str {
        "chinese_script"
    }

    fn apply(&self, document: &mut Document, _: &mut Scratch) -> Verdict {
        let counts = ScriptCounts::of(&document.text);
        if counts.all == 0 {
            return Verdict::remove("empty");
        }
        let share = |part: usize| part as f64 / counts.all as f64;
        let measured = |label, part| Verdict::remove_measured(label, format_args!("{:.4}", share(part)));
        if share(counts.han) < self.config.min_han {
            return measured("zh_few_han", counts.han);
        }
        if share(counts.foreign) > self.config.max_foreign {
            return measured("zh_foreign_characters", counts.foreign);
        }
        if share(counts.digits_and_capitals) > self.config.max_digits_and_capitals {
            return measured("zh_digits_and_capitals", counts.digits_and_capitals);
        }
        let traditional = counts.traditional > counts.simplified;
        if traditional && self.config.reject_traditional {
            return measured("zh_traditional", counts.traditional);
        }
        document.metadata.insert("script".to_owned(), if traditional { "Hant" } else { "Hans" }.into());
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::{document, label, verdict};

    #[test]
    fn scripts_are_told_apart() {
        let counts = ScriptCounts::of("漢語與汉语 ABC 12，é");
        let expected = ScriptCounts {
            all: 12,
            han: 5,
            simplified: 2,
            traditional: 3,
            foreign: 1,
            digits_and_capitals: 5,
        };
        assert_eq!(counts, expected);
    }

    #[test]
    fn each_rule_has_its_label() {
        let judged = |text: &str, config: ChineseScriptConfig| label(&verdict(&config.build(), text));
        let default = ChineseScriptConfig::default;
        assert_eq!(judged("今天的天气很好，我们出去走走吧。", default()), "keep");
        assert_eq!(judged(" \n", default()), "empty");
        assert_eq!(judged("mostly English 中文", default()), "zh_few_han");
        assert_eq!(judged("中文中文中文привет", default()), "zh_foreign_characters");
        assert_eq!(judged("价格表：12345678 ABC 中文中文中文", default()), "zh_digits_and_capitals");
        let strict = || ChineseScriptConfig { reject_traditional: true, ..default() };
        assert_eq!(judged("今天天氣很好，我們出去走走吧。", strict()), "zh_traditional");
        let mut document = document("今天天氣很好，我們出去走走吧。");
        assert_eq!(default().build().apply(&mut document, &mut Scratch::default()), Verdict::Keep);
        assert_eq!(document.metadata["script"], "Hant");
    }
}
