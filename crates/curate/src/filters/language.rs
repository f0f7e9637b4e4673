//! The language of a text by a fastText model: lid.176, GlotLID, or one's own.

use std::path::PathBuf;
use std::sync::Arc;

use fasttext::FastText;
use serde::{Deserialize, Serialize};

use super::FilterError;
use crate::document::Document;
use crate::step::{Filter, Scratch, Verdict};

/// Which languages stay. The metadata gets `language` and `language_score`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LanguageConfig {
    /// fastText model, `.bin` or quantised `.ftz`.
    pub model: PathBuf,
    /// Labels without "__label__": "en", "zh", "cmn_Hani". Empty keeps any language.
    pub languages: Vec<String>,
    /// Smallest probability: FineWeb 0.65, cc_net 0.5; FineWeb-2 has its own for each language.
    pub min_score: f64,
    /// Only the first so many bytes of a text are looked at; 0 for all.
    pub max_bytes: usize,
}

impl Default for LanguageConfig {
    fn default() -> Self {
        Self { model: PathBuf::new(), languages: Vec::new(), min_score: 0.65, max_bytes: 0 }
    }
}

impl LanguageConfig {
    /// # Errors
    /// If the model cannot be read.
    pub fn build(self) -> Result<LanguageId, FilterError> {
        Ok(LanguageId { model: open_model(&self.model)?, config: self })
    }
}

/// A fastText model from a file.
pub(crate) fn open_model(path: &std::path::Path) -> Result<Arc<FastText>, FilterError> {
    FastText::load_model(path)
        .map(Arc::new)
        .map_err(|error| FilterError::Model { path: path.display().to_string(), problem: error.to_string() })
}

/// The filter `language`.
pub struct LanguageId {
    config: LanguageConfig,
    model: Arc<FastText>,
}

impl LanguageId {
    /// The most probable language and its probability.
    pub fn identify(&self, text: &str, buffer: &mut String) -> Option<(String, f64)> {
        let end = match self.config.max_bytes {
            0 => text.len(),
            limit => text.floor_char_boundary(limit),
        };
        buffer.clear();
        // A newline would end the text for fastText.
        buffer.extend(text[..end].chars().map(|c| if c == '\n' { ' ' } else { c }));
        let best = self.model.predict(buffer, 1, 0.0).into_iter().next()?;
        let language = best.label.trim_start_matches("__label__").to_owned();
        Some((language, f64::from(best.prob).min(1.0)))
    }
}

impl Filter for LanguageId {
    fn name(&self) -> &'static str {
        "language"
    }

    fn apply(&self, document: &mut Document, scratch: &mut Scratch) -> Verdict {
        let Some((language, score)) = self.identify(&document.text, &mut scratch.edited) else {
            return Verdict::remove("language_unknown");
        };
        document.metadata.insert("language".to_owned(), language.clone().into());
        document.metadata.insert("language_score".to_owned(), score.into());
        if !self.config.languages.is_empty() && !self.config.languages.contains(&language) {
            return Verdict::remove_measured("language", format_args!("{language} {score:.4}"));
        }
        if score < self.config.min_score {
            return Verdict::remove_measured("language_score", format_args!("{language} {score:.4}"));
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filters::tests::{document, label};

    /// lid.176.ftz itself is not kept here; the test runs where TRIAX_LID_MODEL names it.
    #[test]
    fn languages_are_those_of_lid_176() {
        let Some(model) = std::env::var_os("TRIAX_LID_MODEL") else {
            println!("skipped: TRIAX_LID_MODEL does not name a file such as lid.176.ftz");
            return;
        };
        let config =
            LanguageConfig { model: model.into(), languages: vec!["en".to_owned()], ..Default::default() };
        let filter = config.build().expect("a readable model");
        for (text, language, expected) in [
            ("The boats came in with the tide,\nand the men mended their nets.", "en", "keep"),
            ("Die Boote kamen mit der Flut, und die Männer flickten ihre Netze.", "de", "language"),
            ("渔民们在旧海关楼旁修补渔网，孩子们在木桶之间奔跑。", "zh", "language"),
        ] {
            let mut document = document(text);
            assert_eq!(label(&filter.apply(&mut document, &mut Scratch::default())), expected, "{text}");
            assert_eq!(document.metadata["language"], language);
            assert!(document.metadata["language_score"].as_f64().expect("a number") > 0.5);
        }
    }

    #[test]
    fn a_missing_model_is_an_error_with_its_path() {
        let config = LanguageConfig { model: "no/such.ftz".into(), ..Default::default() };
        let error = config.build().map(|_| ()).expect_err("no file");
        assert!(error.to_string().contains("no/such.ftz"), "{error}");
    }
}
