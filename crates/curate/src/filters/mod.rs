//! Steps that judge or edit one document, with the field's labels and thresholds.
//!
//! Every filter is built from a configuration whose defaults are the published numbers, and looks at the text through
//! the shared analysis in [`Scratch`](crate::Scratch).

pub mod bad_words;
pub mod c4;
pub mod fineweb;
pub mod fineweb2;
pub mod gopher_quality;
pub mod gopher_repetition;
pub mod language;
pub mod length;
pub mod lines;
pub mod pii;
pub mod url;

pub(crate) mod characters;
mod repeats;
mod settings;
pub(crate) mod text;
pub(crate) mod words;

use std::path::Path;

use crate::step::Filter;
pub use words::Language;

/// Named chains for measuring: `crawl-en` is Gopher repetition, Gopher quality, C4 without the rule on end marks, and
/// FineWeb, in FineWeb's order; `crawl-zh` is FineWeb-2's chain for Chinese.
///
/// # Errors
/// If there is no such chain.
pub fn chain(name: &str) -> Result<Vec<Box<dyn Filter>>, FilterError> {
    match name {
        "crawl-en" => Ok(vec![
            Box::new(gopher_repetition::GopherRepetitionConfig::default().build()),
            Box::new(gopher_quality::GopherQualityConfig::default().build()),
            Box::new(c4::C4Config { terminal_punctuation: false, ..Default::default() }.build()),
            Box::new(fineweb::FineWebConfig::default().build()),
        ]),
        "crawl-zh" => Ok(vec![Box::new(fineweb2::FineWeb2Config::default().build()?)]),
        _ => {
            Err(FilterError::UnknownChain { near: nearest(name, CHAINS.into_iter()), name: name.to_owned() })
        }
    }
}

/// The names [`chain`] knows.
pub const CHAINS: [&str; 2] = ["crawl-en", "crawl-zh"];

/// Why a filter cannot be built from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("no limits are known for the language `{language}`; the nearest name is `{near}`")]
    UnknownLanguage { language: String, near: &'static str },
    #[error("there is no chain of filters `{name}`; the nearest name is `{near}`")]
    UnknownChain { name: String, near: &'static str },
    #[error("the model has no label `{label}`; the nearest is `{near}`")]
    UnknownLabel { label: String, near: String },
    #[error("model {path}: {problem}")]
    Model { path: String, problem: String },
    #[error("list {path}: {problem}")]
    List { path: String, problem: String },
}

/// The entries of a list, one a line; empty lines and lines that begin with "#" are none.
pub(crate) fn read_list(path: &Path) -> Result<Vec<String>, FilterError> {
    let list = std::fs::read_to_string(path).map_err(|error| FilterError::List {
        path: path.display().to_string(),
        problem: error.to_string(),
    })?;
    let entries = list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(entries.map(str::to_owned).collect())
}

/// The name most like the one that was written.
pub(crate) fn nearest<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> &'a str {
    names
        .map(|name| (strsim::jaro_winkler(written, name), name))
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map_or("", |(_, name)| name)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Document, Scratch, Verdict};
    use proptest::prelude::*;

    pub(crate) fn document(text: &str) -> Document {
        Document { id: "test#0".to_owned(), text: text.to_owned(), ..Document::default() }
    }

    pub(crate) fn verdict(filter: &dyn Filter, text: &str) -> Verdict {
        filter.apply(&mut document(text), &mut Scratch::default())
    }

    /// What the filter leaves of a text that it keeps.
    pub(crate) fn edited(filter: &dyn Filter, text: &str) -> String {
        let mut document = document(text);
        assert_eq!(filter.apply(&mut document, &mut Scratch::default()), Verdict::Keep, "{text}");
        document.text
    }

    pub(crate) fn label(verdict: &Verdict) -> String {
        match verdict {
            Verdict::Keep => "keep".to_owned(),
            Verdict::Remove(reason) => reason.label.to_string(),
        }
    }

    fn chain() -> Vec<Box<dyn Filter>> {
        let fineweb2 = fineweb2::FineWeb2Config::default().build().expect("a known language");
        vec![
            Box::new(gopher_repetition::GopherRepetitionConfig::default().build()),
            Box::new(gopher_quality::GopherQualityConfig { min_words: 5, ..Default::default() }.build()),
            Box::new(c4::C4Config { min_sentences: 1, ..Default::default() }.build()),
            Box::new(fineweb::FineWebConfig::default().build()),
            Box::new(fineweb2),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// A filter's verdict and edits do not depend on what its scratch saw before, so neither on order nor thread.
        #[test]
        fn verdicts_do_not_depend_on_what_came_before(
            texts in prop::collection::vec("([a-z]{1,4}[ .\n,#-]){0,40}|[的是在人。，\n]{0,30}", 1..5)
        ) {
            for filter in chain() {
                let mut shared = Scratch::default();
                for text in &texts {
                    let (mut one, mut other) = (document(text), document(text));
                    let fresh = filter.apply(&mut one, &mut Scratch::default());
                    prop_assert_eq!(fresh, filter.apply(&mut other, &mut shared));
                    prop_assert_eq!(one, other);
                }
            }
        }
    }
}
