//! Every kind of step that a recipe may name, one line each.

use super::keys;
use crate::CurateError;
use crate::global::GlobalStep;
use crate::step::{Filter, FilterConfig};
use crate::{chinese, filters};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Table;

/// The whole table: `kind` of a step, and the type of its settings.
static KINDS: &[Kind] = &[
    // Steps over one document at a time.
    local::<crate::steps::Size>("size"),
    local::<filters::length::LengthConfig>("length"),
    local::<filters::url::UrlConfig>("url"),
    local::<filters::language::LanguageConfig>("language"),
    local::<filters::gopher_repetition::GopherRepetitionConfig>("gopher_repetition"),
    local::<filters::gopher_quality::GopherQualityConfig>("gopher_quality"),
    local::<filters::c4::C4Config>("c4"),
    local::<filters::c4::C4ParagraphsConfig>("c4_paragraphs"),
    local::<filters::bad_words::BadWordsConfig>("bad_words"),
    local::<filters::fineweb::FineWebConfig>("fineweb"),
    local::<filters::fineweb2::FineWeb2Config>("fineweb2"),
    local::<filters::lines::LinesConfig>("lines"),
    local::<filters::pii::PiiConfig>("pii"),
    local::<chinese::normalize::ChineseNormalizeConfig>("chinese_normalize"),
    local::<chinese::garbled::GarbledConfig>("garbled"),
    local::<chinese::script::ChineseScriptConfig>("chinese_script"),
    local::<chinese::lines::ChineseLinesConfig>("chinese_lines"),
    local::<chinese::repetition::ChineseRepetitionConfig>("chinese_repetition"),
    local::<chinese::word_lists::WordListsConfig>("word_lists"),
    local::<crate::kenlm::PerplexityConfig>("perplexity"),
    local::<crate::classifier::ClassifierConfig>("classifier"),
    // Steps over all documents.
    global::<crate::ExactDedup>("exact_dedup"),
    global::<crate::LineDedup>("line_dedup"),
    global::<crate::MinHashDedup>("minhash_dedup"),
    global::<crate::SubstringDedup>("substring_dedup"),
    global::<crate::Decontaminate>("decontaminate"),
];

/// A step that can be run.
pub enum Built {
    Local(Box<dyn Filter>),
    Global(Box<dyn GlobalStep>),
}

pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) is_global: bool,
    /// Checks settings and writes out their defaults.
    pub(crate) complete: fn(Table) -> Result<Table, toml::de::Error>,
    build: fn(Table) -> Result<Built, CurateError>,
}

const fn local<C: FilterConfig + Serialize + DeserializeOwned>(name: &'static str) -> Kind {
    let build = |settings| Ok(Built::Local(read::<C>(settings)?.filter()?));
    Kind { name, is_global: false, complete: complete::<C>, build }
}

const fn global<C: GlobalStep + Serialize + DeserializeOwned + 'static>(name: &'static str) -> Kind {
    let build = |settings| Ok(Built::Global(Box::new(read::<C>(settings)?)));
    Kind { name, is_global: true, complete: complete::<C>, build }
}

fn complete<C: Serialize + DeserializeOwned>(settings: Table) -> Result<Table, toml::de::Error> {
    let config: C = settings.try_into()?;
    Table::try_from(&config).map_err(serde::de::Error::custom)
}

fn read<C: DeserializeOwned>(settings: Table) -> Result<C, CurateError> {
    settings.try_into().map_err(|error| CurateError::step("settings", error))
}

impl Kind {
    pub(crate) fn find(name: &str) -> Result<&'static Self, String> {
        KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| {
            let nearest = keys::nearest(name, KINDS.iter().map(|kind| kind.name)).unwrap_or("size");
            format!("there is no step of kind {name:?}; did you mean {nearest:?}?")
        })
    }

    pub(crate) fn build(&self, settings: Table) -> Result<Built, CurateError> {
        (self.build)(settings)
    }
}

/// Every kind of step, in the order of the table.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_has_one_name_and_its_defaults_are_written_out_whole() {
        let mut names = BTreeSet::new();
        for kind in KINDS {
            assert!(names.insert(kind.name), "{} is there twice", kind.name);
            // A kind with a required setting refuses the empty table and says which one.
            match (kind.complete)(Table::new()) {
                Ok(settings) => {
                    assert_eq!((kind.complete)(settings.clone()).unwrap(), settings, "{}", kind.name)
                }
                Err(error) => assert!(error.to_string().contains("missing field"), "{}: {error}", kind.name),
            }
        }
    }

    #[test]
    fn an_unknown_kind_names_the_nearest() {
        assert!(Kind::find("sise").err().unwrap().contains("\"size\""));
    }
}
