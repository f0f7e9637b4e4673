//! The settings of every filter as a recipe writes them: which filter they build, and what an error names.

use super::{
    bad_words, c4, fineweb, fineweb2, gopher_quality, gopher_repetition, language, length, lines, pii, url,
};
use crate::CurateError;
use crate::chinese::{self, garbled, normalize, repetition, script, word_lists};
use crate::classifier::ClassifierConfig;
use crate::kenlm::PerplexityConfig;
use crate::step::{Filter, FilterConfig};

/// Settings that any values make a filter of.
macro_rules! always {
    ($($config:ty),+ $(,)?) => {$(
        impl FilterConfig for $config {
            fn filter(self) -> Result<Box<dyn Filter>, CurateError> {
                Ok(Box::new(self.build()))
            }
        }
    )+};
}

/// Settings that name files or tables, with the kind of their step.
macro_rules! checked {
    ($($kind:literal: $config:ty),+ $(,)?) => {$(
        impl FilterConfig for $config {
            fn filter(self) -> Result<Box<dyn Filter>, CurateError> {
                match self.build() {
                    Ok(filter) => Ok(Box::new(filter)),
                    Err(error) => Err(CurateError::step($kind, error)),
                }
            }
        }
    )+};
}

always![
    c4::C4Config,
    c4::C4ParagraphsConfig,
    chinese::lines::ChineseLinesConfig,
    fineweb::FineWebConfig,
    garbled::GarbledConfig,
    gopher_quality::GopherQualityConfig,
    gopher_repetition::GopherRepetitionConfig,
    length::LengthConfig,
    lines::LinesConfig,
    normalize::ChineseNormalizeConfig,
    pii::PiiConfig,
    repetition::ChineseRepetitionConfig,
    script::ChineseScriptConfig,
];

checked![
    "bad_words": bad_words::BadWordsConfig,
    "classifier": ClassifierConfig,
    "fineweb2": fineweb2::FineWeb2Config,
    "language": language::LanguageConfig,
    "perplexity": PerplexityConfig,
    "url": url::UrlConfig,
    "word_lists": word_lists::WordListsConfig,
];
