//! Removing texts that a language model finds too strange, or too plain: 10^(-log10 p / words) over a document's lines,
//! cc_net's measure.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{KenlmError, Model};
use crate::document::Document;
use crate::filters::Language;
use crate::filters::characters::is_han;
use crate::step::{Filter, Scratch, Verdict};

/// Bounds of the perplexity. cc_net cut Chinese at 1460 and 1950, English at 340 and 520 (its 30th and 60th
/// percentiles); BigScience kept Chinese up to 2095. 0 for no bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PerplexityConfig {
    /// KenLM binary.
    pub model: PathBuf,
    /// What the model's words are.
    pub pieces: Pieces,
    pub min_perplexity: f64,
    pub max_perplexity: f64,
    /// Write the measured value into the document's metadata as `perplexity`.
    pub record: bool,
}

/// What the words of a model are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pieces {
    /// Words as the filters count them.
    #[default]
    Words,
    /// Words of jieba.
    ChineseWords,
    /// Single Han characters; other letters in runs.
    Characters,
    /// Whatever stands between white space.
    Whitespace,
}

impl Default for PerplexityConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            pieces: Pieces::default(),
            min_perplexity: 0.0,
            max_perplexity: 2000.0,
            record: true,
        }
    }
}

impl PerplexityConfig {
    /// # Errors
    /// If the model cannot be read.
    pub fn build(self) -> Result<Perplexity, KenlmError> {
        Ok(Perplexity { model: Model::open(&self.model)?, config: self })
    }
}

/// The filter `perplexity`.
#[derive(Debug)]
pub struct Perplexity {
    config: PerplexityConfig,
    model: Model,
}

impl Perplexity {
    /// 10^(-log10 p / words) over the lines of a text, each a sentence with its end; infinite for a text without words.
    pub fn of(&self, text: &str, scratch: &mut Scratch) -> f64 {
        let (mut total, mut scored) = (0.0, 0);
        let mut line_of = |pieces: &mut dyn Iterator<Item = &str>| {
            let mut pieces = pieces.peekable();
            if pieces.peek().is_none() {
                return;
            }
            let mut state = self.model.begin_sentence();
            for word in pieces.map(|piece| self.model.index(piece)).chain([self.model.end]) {
                let (score, next) = self.model.score(&state, word);
                (state, total, scored) = (next, total + f64::from(score), scored + 1);
            }
        };
        match self.config.pieces {
            Pieces::Whitespace => text.lines().for_each(|line| line_of(&mut line.split_whitespace())),
            Pieces::Characters => text.lines().for_each(|line| line_of(&mut characters(line))),
            Pieces::Words | Pieces::ChineseWords => {
                let language = match self.config.pieces {
                    Pieces::ChineseWords => Language::Chinese,
                    _ => Language::English,
                };
                let (words, ..) = scratch.words(text, language);
                let mut rest = words;
                for line in text.lines() {
                    let end = line.as_ptr() as usize - text.as_ptr() as usize + line.len();
                    let (this, after) =
                        rest.split_at(rest.partition_point(|word| (word.start as usize) < end));
                    line_of(&mut this.iter().map(|word| word.of(text)));
                    rest = after;
                }
            }
        }
        if scored == 0 { f64::INFINITY } else { 10_f64.powf(-total / scored as f64) }
    }
}

/// Han characters one by one, runs of anything else between white space.
fn characters(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace().flat_map(|piece| {
        let mut rest = piece;
        std::iter::from_fn(move || {
            let first = rest.chars().next()?;
            let length = match is_han(first) {
                true => first.len_utf8(),
                false => rest.find(is_han).unwrap_or(rest.len()),
            };
            let (head, tail) = rest.split_at(length);
            rest = tail;
            Some(head)
        })
    })
}

impl Filter for Perplexity {
    fn name(&self) -> &'static str {
        "perplexity"
    }

    fn apply(&self, document: &mut Document, scratch: &mut Scratch) -> Verdict {
        let perplexity = self.of(&document.text, scratch);
        if self.config.record && perplexity.is_finite() {
            document.metadata.insert("perplexity".to_owned(), perplexity.into());
        }
        if self.config.max_perplexity > 0.0 && perplexity > self.config.max_perplexity {
            return Verdict::remove_measured("perplexity_too_high", format_args!("{perplexity:.1}"));
        }
        if perplexity < self.config.min_perplexity {
            return Verdict::remove_measured("perplexity_too_low", format_args!("{perplexity:.1}"));
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::document;
    use std::path::Path;

    #[test]
    fn strange_texts_are_removed() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/kenlm/probing.bin");
        let config = PerplexityConfig {
            model,
            pieces: Pieces::Whitespace,
            max_perplexity: 60.0,
            ..Default::default()
        };
        let filter = config.build().expect("a golden model");
        let mut plain = document("the sea saw the boat\nthe man left");
        assert_eq!(filter.apply(&mut plain, &mut Scratch::default()), Verdict::Keep);
        assert!(plain.metadata["perplexity"].as_f64().expect("recorded") < 60.0);
        let strange = filter.apply(&mut document("unknown words here"), &mut Scratch::default());
        assert!(matches!(strange, Verdict::Remove(reason) if reason.label == "perplexity_too_high"));
        assert_eq!(filter.of(" \n", &mut Scratch::default()), f64::INFINITY);
    }

    #[test]
    fn characters_are_pieces() {
        assert_eq!(characters("我用 Rust写程序").collect::<Vec<_>>(), ["我", "用", "Rust", "写", "程", "序"]);
    }
}
