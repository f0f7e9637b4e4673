//! Classes of pages by lists of words: sensitive, adult, gambling, advertisement. One file a class; a class that a text
//! has too much of removes it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aho_corasick::{AhoCorasick, MatchKind};
use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::filters::characters::count;
use crate::filters::{FilterError, read_list};
use crate::step::{Filter, Reason, Scratch, Verdict};

/// Lists by class, and how much of a class a text may have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WordListsConfig {
    /// Files of one word a line, by the name of their class; the label is "zh_" and that name.
    pub classes: BTreeMap<String, PathBuf>,
    /// Most hits a line (ChineseWebText: 0.5).
    pub max_hits_per_line: f64,
    /// Largest share of characters in hits (c4-dataset-script: 0.05).
    pub max_hit_characters: f64,
}

impl Default for WordListsConfig {
    fn default() -> Self {
        Self { classes: BTreeMap::new(), max_hits_per_line: 0.5, max_hit_characters: 0.05 }
    }
}

impl WordListsConfig {
    /// # Errors
    /// If a list cannot be read.
    pub fn build(self) -> Result<WordLists, FilterError> {
        let mut finders = Vec::new();
        for (class, path) in &self.classes {
            let finder = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .ascii_case_insensitive(true)
                .build(read_list(path)?)
                .map_err(|error| FilterError::List {
                    path: path.display().to_string(),
                    problem: error.to_string(),
                })?;
            finders.push((format!("zh_{class}"), finder));
        }
        Ok(WordLists { config: self, finders })
    }
}

/// The filter `word_lists`.
#[derive(Debug)]
pub struct WordLists {
    config: WordListsConfig,
    finders: Vec<(String, AhoCorasick)>,
}

impl Filter for WordLists {
    fn name(&self) -> &'static str {
        "word_lists"
    }

    fn apply(&self, document: &mut Document, _: &mut Scratch) -> Verdict {
        let text = document.text.as_str();
        let lines = text.lines().filter(|line| !line.trim().is_empty()).count().max(1);
        let all = count(text).max(1);
        for (label, finder) in &self.finders {
            let (mut hits, mut characters) = (0_usize, 0_usize);
            for found in finder.find_iter(text) {
                hits += 1;
                characters += count(&text[found.range()]);
            }
            let (per_line, share) = (hits as f64 / lines as f64, characters as f64 / all as f64);
            if per_line > self.config.max_hits_per_line || share > self.config.max_hit_characters {
                let detail = Some(format!("{per_line:.3} a line, {share:.4} of the characters"));
                return Verdict::Remove(Reason { label: label.clone().into(), detail });
            }
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::{label, verdict};

    #[test]
    fn a_class_removes_by_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let list = |name: &str, lines: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, lines).expect("written");
            (name.to_owned(), path)
        };
        let classes =
            BTreeMap::from([list("advertisement", "点击购买\n加微信\n"), list("gambling", "百家乐\n")]);
        let filter =
            WordListsConfig { classes, ..WordListsConfig::default() }.build().expect("readable lists");
        let prose = "天慢慢黑了下来，船上的灯一盏一盏亮起来，孩子们都回家了。\n".repeat(4);
        assert_eq!(label(&verdict(&filter, &prose)), "keep");
        assert_eq!(label(&verdict(&filter, &format!("{prose}他说不要点击购买。"))), "keep");
        assert_eq!(label(&verdict(&filter, "特价！点击购买，加微信\n")), "zh_advertisement");
        assert_eq!(label(&verdict(&filter, "线上百家乐")), "zh_gambling");
    }
}
