//! Quality by a trained fastText classifier: the filter here, the training in [`train()`].
//!
//! A document stays by a threshold on the probability of the wanted label, or by GPT-3's draw, which lets some of the
//! doubtful ones through: if a Pareto number (shape α) exceeds 1 - score,
//!
//! ```text
//! (1 - u)^(-1/α) - 1 > 1 - score        u in [0, 1) from (seed, document id)
//! ```

pub mod train;

use std::path::PathBuf;
use std::sync::Arc;

use fasttext::FastText;
use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::filters::bad_words::uniform;
use crate::filters::language::open_model;
use crate::filters::{FilterError, Language, nearest};
use crate::step::{Filter, Reason, Scratch, Verdict};

pub use train::{Class, Quality, TrainConfig, TrainError, train};

/// Which label is wanted, and how it decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassifierConfig {
    /// fastText model, `.bin` or quantised `.ftz`.
    pub model: PathBuf,
    /// Label of good documents, without "__label__".
    pub wanted: String,
    /// How texts were cut into words when the model was trained.
    pub language: Language,
    pub keep: Keep,
    /// Labels that remove a document if they are the most probable one, whatever `keep` says; the reason is
    /// "classifier_" and the label. Yuan's fine stage removes low quality and advertisement so.
    pub remove_labels: Vec<String>,
    /// Name of the score in the document's metadata.
    pub record: String,
}

/// The rule that keeps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Keep {
    /// At least this probability of the wanted label.
    Threshold(f64),
    /// GPT-3's draw: α (GPT-3: 9, NeMo Curator: 3), and the seed of the draws.
    Pareto { alpha: f64, seed: u64 },
    /// Everything; the score is only written down.
    All,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            wanted: "high".to_owned(),
            language: Language::English,
            keep: Keep::Threshold(0.5),
            remove_labels: Vec::new(),
            record: "quality".to_owned(),
        }
    }
}

impl ClassifierConfig {
    /// # Errors
    /// If the model cannot be read or lacks a label that is named.
    pub fn build(self) -> Result<Classifier, FilterError> {
        let model = open_model(&self.model)?;
        let (labels, _) = model.get_labels();
        let labels: Vec<_> =
            labels.iter().map(|label| label.trim_start_matches("__label__").to_owned()).collect();
        for label in self.remove_labels.iter().chain([&self.wanted]) {
            if !labels.contains(label) {
                let known = labels.iter().map(String::as_str);
                return Err(FilterError::UnknownLabel {
                    near: nearest(label, known).to_owned(),
                    label: label.clone(),
                });
            }
        }
        Ok(Classifier { labels: labels.len(), model, config: self })
    }
}

/// The filter `classifier`.
pub struct Classifier {
    config: ClassifierConfig,
    model: Arc<FastText>,
    labels: usize,
}

/// A text as the classifier reads it: lower case, words with single spaces between, on one line.
pub(crate) fn prepare(text: &str, language: Language, scratch: &mut Scratch, line: &mut String) {
    line.clear();
    let (words, ..) = scratch.words(text, language);
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.of(text).chars().flat_map(char::to_lowercase).filter(|c| !c.is_whitespace()));
    }
}

impl Classifier {
    /// The most probable label and the probability of the wanted one.
    pub fn judge(&self, text: &str, scratch: &mut Scratch) -> (String, f64) {
        let mut line = std::mem::take(&mut scratch.edited);
        prepare(text, self.config.language, scratch, &mut line);
        let predictions = self.model.predict(&line, self.labels, 0.0);
        scratch.edited = line;
        let name = |label: &str| label.trim_start_matches("__label__").to_owned();
        let best = predictions.first().map(|best| name(&best.label)).unwrap_or_default();
        let wanted = predictions.iter().find(|prediction| name(&prediction.label) == self.config.wanted);
        (best, wanted.map_or(0.0, |prediction| f64::from(prediction.prob).clamp(0.0, 1.0)))
    }
}

impl Filter for Classifier {
    fn name(&self) -> &'static str {
        "classifier"
    }

    fn apply(&self, document: &mut Document, scratch: &mut Scratch) -> Verdict {
        let (best, score) = self.judge(&document.text, scratch);
        document.metadata.insert(self.config.record.clone(), score.into());
        if self.config.remove_labels.contains(&best) {
            let label = format!("classifier_{best}").into();
            return Verdict::Remove(Reason { label, detail: Some(format!("{score:.4}")) });
        }
        let keeps = match self.config.keep {
            Keep::All => true,
            Keep::Threshold(least) => score >= least,
            Keep::Pareto { alpha, seed } => pareto_keeps(score, alpha, uniform(seed, &document.id)),
        };
        match keeps {
            true => Verdict::Keep,
            false => Verdict::remove_measured("classifier_score", format_args!("{score:.4}")),
        }
    }
}

/// GPT-3's rule for a score and a uniform number.
fn pareto_keeps(score: f64, alpha: f64, uniform: f64) -> bool {
    (1.0 - uniform).powf(-1.0 / alpha) - 1.0 > 1.0 - score
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P(X > x) = (1 + x)^-α for NumPy's Pareto.
    #[test]
    fn the_draw_keeps_the_share_that_gpt3_kept() {
        for (score, alpha) in [(0.9, 9.0), (0.5, 9.0), (0.1, 3.0)] {
            let kept =
                (0..20_000).filter(|n| pareto_keeps(score, alpha, uniform(3, &format!("a#{n}")))).count();
            let expected = (2.0_f64 - score).powf(-alpha);
            let share = kept as f64 / 20_000.0;
            assert!((share - expected).abs() < 0.01, "score {score}: {share}, expected {expected}");
        }
        assert!(!pareto_keeps(0.0, 9.0, 0.0));
    }
}
