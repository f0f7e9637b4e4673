//! One form for Chinese text: simplified characters, half-width letters and digits, no spaces between Han characters,
//! Chinese marks after Han characters kept as they are.

use std::sync::LazyLock;

use ferrous_opencc::OpenCC;
use ferrous_opencc::config::BuiltinConfig;
use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::filters::characters::is_han;
use crate::step::{Filter, Scratch, Verdict};

/// Which forms are changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChineseNormalizeConfig {
    /// Traditional characters to simplified ones (OpenCC's t2s, phrases included).
    pub simplify: bool,
    /// Full-width letters, digits and signs to ASCII (their NFKC form), but for the marks of Chinese typography
    /// ，．！？：；（）～; ideographic spaces to spaces.
    pub full_width: bool,
    /// Delete spaces between two Han characters or Chinese marks.
    pub spaces: bool,
}

impl Default for ChineseNormalizeConfig {
    fn default() -> Self {
        Self { simplify: true, full_width: true, spaces: true }
    }
}

impl ChineseNormalizeConfig {
    pub const fn build(self) -> ChineseNormalize {
        ChineseNormalize { config: self }
    }
}

/// The step `chinese_normalize`: edits, never removes.
#[derive(Debug)]
pub struct ChineseNormalize {
    config: ChineseNormalizeConfig,
}

/// A text in simplified characters.
pub(crate) fn simplified(text: &str) -> String {
    static CONVERTER: LazyLock<OpenCC> =
        LazyLock::new(|| OpenCC::from_config(BuiltinConfig::T2s).expect("a dictionary that is built in"));
    CONVERTER.convert(text)
}

/// The half-width form of a full-width character that is no Chinese mark.
fn half_width(c: char) -> char {
    match c {
        '，' | '．' | '！' | '？' | '：' | '；' | '（' | '）' | '～' => c,
        '\u{FF01}'..='\u{FF5E}' => char::from_u32(c as u32 - 0xFEE0).unwrap_or(c),
        '\u{3000}' => ' ',
        '￥' => '¥',
        _ => c,
    }
}

/// Characters that no space belongs between.
const fn is_close_set(c: char) -> bool {
    is_han(c)
        || matches!(
            c,
            '\u{3001}'..='\u{3011}' | '，' | '．' | '！' | '？' | '：' | '；' | '（' | '）' | '“' | '”'
        )
}

impl Filter for ChineseNormalize {
    fn name(&self) -> &'static str {
        "chinese_normalize"
    }

    fn apply(&self, document: &mut Document, scratch: &mut Scratch) -> Verdict {
        let config = &self.config;
        // Texts without Han characters are not touched by the converter.
        if config.simplify && document.text.chars().any(is_han) {
            document.text = simplified(&document.text);
        }
        if config.full_width || config.spaces {
            let edited = &mut scratch.edited;
            edited.clear();
            // Spaces after a character of a closed set wait for what comes next.
            let (mut last, mut waiting) = (' ', 0);
            for c in document.text.chars() {
                let c = if config.full_width { half_width(c) } else { c };
                if config.spaces && c == ' ' && (waiting > 0 || is_close_set(last)) {
                    waiting += 1;
                    continue;
                }
                if waiting > 0 {
                    if !is_close_set(c) {
                        edited.extend(std::iter::repeat_n(' ', waiting));
                    }
                    waiting = 0;
                }
                edited.push(c);
                last = c;
            }
            edited.extend(std::iter::repeat_n(' ', waiting));
            if *edited != document.text {
                std::mem::swap(&mut document.text, edited);
            }
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::edited;
    use proptest::prelude::*;

    #[test]
    fn forms_are_made_one() {
        let normal = |text: &str| edited(&ChineseNormalizeConfig::default().build(), text);
        assert_eq!(normal("漢語與頭髮，理髮師"), "汉语与头发，理发师");
        assert_eq!(normal("Ｒｕｓｔ　１９８４年（上）＋５％"), "Rust 1984年（上）+5%");
        assert_eq!(normal("我 们  去 ， 好 吗 ？"), "我们去，好吗？");
        assert_eq!(normal("用 Rust 写 2 个程序 "), "用 Rust 写 2 个程序 ");
        assert_eq!(normal("plain English text"), "plain English text");
    }

    proptest! {
        #[test]
        fn normalizing_twice_changes_nothing(text in "[我們 们漢的。，Ａ１a1　 （\n]{0,40}|\\PC{0,30}") {
            let filter = ChineseNormalizeConfig::default().build();
            let once = edited(&filter, &text);
            prop_assert_eq!(edited(&filter, &once), once);
        }
    }
}
