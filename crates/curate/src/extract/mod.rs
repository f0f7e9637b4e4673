//! A page's main text: a pure function of its bytes, its address and the settings.
//!
//! ```text
//! bytes ──decode──▶ HTML ──bounds──▶ strip, without link blocks ──▶ main text ──repair──▶ text, title
//!                            └──▶ reason: too many bytes or nodes, too deep, too slow, no text
//! ```

mod bounds;
mod encoding;
mod lines;
mod link_blocks;
mod main_text;
mod mojibake;
mod running_text;
mod strip;
mod worker;

pub use encoding::{Decoded, decode};
pub use main_text::{Extractor, JusText, MainText, Trafilatura};
pub use mojibake::repair;
pub use worker::{STACK, Worker};

use crate::step::Reason;
use serde::{Deserialize, Serialize};

/// How pages become text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Extract {
    pub with: Algorithm,
    /// Of trafilatura: whether doubtful parts are taken.
    pub focus: Focus,
    /// Of trafilatura: when its other algorithms are tried, which take as long again.
    pub fallback: Fallback,
    /// Of trafilatura: whether tables are text.
    pub tables: bool,
    /// Of trafilatura: whether readers' comments are text.
    pub comments: bool,
    /// Of jusText: the language of its list of stop words, as "English". Chinese and Japanese have none and want
    /// `stop_words = false`.
    pub language: String,
    /// Of jusText: whether density of stop words counts.
    pub stop_words: bool,
    /// Undo UTF-8 that was read as Windows-1252 ("Ã©" for "é").
    pub repair_mojibake: bool,
    /// Bytes of a page.
    pub max_bytes: usize,
    /// Tags of a page.
    pub max_nodes: usize,
    /// Elements in one another.
    pub max_depth: usize,
    /// Seconds for one page, of the clock. Bytes and nodes bound the time of every page met so far; this is for the
    /// one that is not.
    pub max_seconds: f64,
}

impl Default for Extract {
    fn default() -> Self {
        Self {
            with: Algorithm::Trafilatura,
            focus: Focus::Balanced,
            fallback: Fallback::Doubtful,
            tables: true,
            comments: false,
            language: "English".into(),
            stop_words: true,
            repair_mojibake: true,
            max_bytes: 8 << 20,
            max_nodes: 150_000,
            max_depth: 512,
            max_seconds: 60.0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// Barbaresi's trafilatura: rules over the tree, and two other algorithms where they find little.
    Trafilatura,
    /// Pomikálek's jusText: paragraphs by length, links and stop words (MT-NLG, Pile-CC).
    Justext,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Focus {
    Precision,
    Balanced,
    Recall,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fallback {
    Never,
    /// Where the rules find little text, take it all in one piece, or leave most of the page's running text aside.
    Doubtful,
    /// On every page, as Python's trafilatura does unless it is told to be fast.
    Always,
}

impl Extract {
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.with == Algorithm::Justext
            && self.stop_words
            && justext::get_stoplist(&self.language).is_err()
        {
            let mut languages = justext::available_languages();
            languages.sort_unstable();
            return Err(format!(
                "`extract.language` {:?} has no list of stop words; there are {}, or set stop_words = false",
                self.language,
                languages.join(", ")
            ));
        }
        if !(self.max_seconds > 0.0 && self.max_seconds <= 1e6) {
            return Err(format!("`extract.max_seconds` is {}; it must be above 0", self.max_seconds));
        }
        if self.max_bytes == 0 || self.max_nodes == 0 || !(1..=2000).contains(&self.max_depth) {
            return Err(
                "`extract.max_bytes` and `max_nodes` must be at least 1, `max_depth` 1 to 2000".into()
            );
        }
        Ok(())
    }
}

/// The algorithm that the settings choose.
pub fn extractor(settings: &Extract) -> Box<dyn Extractor> {
    match settings.with {
        Algorithm::Trafilatura => Box::new(Trafilatura::new(settings)),
        Algorithm::Justext => Box::new(JusText::new(settings)),
    }
}

/// What a page gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extracted {
    pub text: String,
    pub title: String,
    pub encoding: &'static str,
}

/// The whole road of one page. `charset` is the one of its HTTP header.
///
/// # Errors
/// The reason why there is no text.
pub fn extract(
    html: &[u8],
    charset: Option<&str>,
    url: Option<&str>,
    settings: &Extract,
    extractor: &dyn Extractor,
) -> Result<Extracted, Reason> {
    if html.len() > settings.max_bytes {
        return Err(Reason::measured("page_too_large", format_args!("{} bytes", html.len())));
    }
    let decoded = decode(html, charset, url);
    bounds::check(&decoded.text, settings)?;
    let MainText { mut text, mut title } = extractor.main_text(&decoded.text, url)?;
    if settings.repair_mojibake {
        for part in [&mut text, &mut title] {
            if let Some(repaired) = repair(part) {
                *part = repaired;
            }
        }
    }
    if text.trim().is_empty() {
        Err(Reason::new("no_main_text"))
    } else {
        Ok(Extracted { text, title, encoding: decoded.encoding })
    }
}

/// Extracts from arbitrary bytes, for fuzzing: a text or a reason, never a panic, and the same both times.
pub fn fuzz_html(bytes: &[u8]) {
    let settings = Extract { max_nodes: 2000, ..Extract::default() };
    let extractors: [Box<dyn Extractor>; 2] =
        [Box::new(Trafilatura::new(&settings)), Box::new(JusText::new(&settings))];
    for extractor in extractors {
        let once = extract(bytes, None, Some("http://example.org/page"), &settings, &*extractor);
        let again = extract(bytes, None, Some("http://example.org/page"), &settings, &*extractor);
        assert_eq!(once, again, "extraction is a pure function of one page");
    }
}
