//! Text that was decoded wrongly: replacement characters, boxes, private-use characters, and what GBK makes of UTF-8's
//! replacement characters and of uninitialised memory (锟斤拷, 烫烫烫, 屯屯屯), Latin letters that are bytes of UTF-8.

use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::filters::characters::count;
use crate::step::{Filter, Scratch, Verdict};

/// Garbled lines are cut; a document with too many garbled characters is removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GarbledConfig {
    /// Cut lines with any garbled character (as c4-dataset-script does).
    pub cut_lines: bool,
    /// Largest share of a document's characters in garbled lines.
    pub max_garbled: f64,
}

impl Default for GarbledConfig {
    fn default() -> Self {
        Self { cut_lines: true, max_garbled: 0.3 }
    }
}

impl GarbledConfig {
    pub const fn build(self) -> Garbled {
        Garbled { config: self }
    }
}

/// The filter `garbled`.
#[derive(Debug)]
pub struct Garbled {
    config: GarbledConfig,
}

/// Strings that only wrong decoding writes.
const TRACES: &[&str] =
    &["锟斤拷", "烫烫烫", "屯屯屯", "锘锘", "ï»¿", "â€™", "â€œ", "Ã©", "Ã¨", "Ã¤", "Ã¶", "Ã¼"];

fn is_garbled(line: &str) -> bool {
    line.chars().any(|c| {
        matches!(c, '\u{FFFD}' | '□' | '■' | '\u{E000}'..='\u{F8FF}' | '\u{F0000}'..='\u{10FFFD}')
            || (c.is_control() && !matches!(c, '\t' | '\r' | '\u{85}'))
    }) || TRACES.iter().any(|trace| line.contains(trace))
        || is_bytes_of_utf8(line)
}

/// Three Han characters are nine bytes; read as Latin-1 they are letters "åäæç…" with signs of the upper half between.
fn is_bytes_of_utf8(line: &str) -> bool {
    let (mut run, mut leads) = (0, 0);
    for c in line.chars() {
        match c {
            '\u{E4}'..='\u{E9}' => (run, leads) = (run + 1, leads + 1),
            '\u{80}'..='\u{BF}' => run += 1,
            _ => (run, leads) = (0, 0),
        }
        if leads >= 3 && run >= 8 {
            return true;
        }
    }
    false
}

impl Filter for Garbled {
    fn name(&self) -> &'static str {
        "garbled"
    }

    fn apply(&self, document: &mut Document, scratch: &mut Scratch) -> Verdict {
        let edited = &mut scratch.edited;
        edited.clear();
        let (mut garbled, mut any) = (0, false);
        for line in document.text.split_inclusive('\n') {
            if is_garbled(line.trim_end_matches('\n')) {
                garbled += count(line);
                any = true;
            } else {
                edited.push_str(line);
            }
        }
        if !any {
            return Verdict::Keep;
        }
        let share = garbled as f64 / count(&document.text) as f64;
        if share > self.config.max_garbled {
            return Verdict::remove_measured("garbled", format_args!("{share:.4}"));
        }
        if self.config.cut_lines {
            std::mem::swap(&mut document.text, edited);
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::{edited, label, verdict};

    const LINE: &str = "这是一行正常的文字，后面还有很多内容，足够长，不会有问题。\n";

    #[test]
    fn garbled_lines_are_cut() {
        let filter = GarbledConfig::default().build();
        for garbled in
            ["坏\u{FFFD}字", "口□口", "锟斤拷锟斤拷", "私\u{E123}用", "ä¸\u{AD}å\u{9B}½ä¿¡æ\u{81}¯"]
        {
            let text = format!("{LINE}{garbled}\n{LINE}");
            assert_eq!(edited(&filter, &text), format!("{LINE}{LINE}"), "{garbled}");
            assert_eq!(label(&verdict(&filter, garbled)), "garbled", "{garbled}");
        }
        for kept in ["naïve café, Käse, æther", "a\tb\r", "äöü", "价格：100元★"] {
            assert_eq!(label(&verdict(&filter, kept)), "keep", "{kept}");
        }
    }
}
