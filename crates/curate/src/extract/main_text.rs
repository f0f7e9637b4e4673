//! The algorithms that find a page's main text, behind one trait.

use super::lines::lines;
use super::link_blocks::without_link_blocks;
use super::running_text::running_text;
use super::strip::{strip, strip_aside};
use super::{Extract, Fallback, Focus};
use crate::step::Reason;
use std::collections::HashSet;

/// What an algorithm finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MainText {
    pub text: String,
    /// Empty where the page has none.
    pub title: String,
}

/// Finds the main text. Pure: nothing is remembered from page to page.
pub trait Extractor: Send + Sync {
    /// # Errors
    /// The reason why there is no text.
    fn main_text(&self, html: &str, url: Option<&str>) -> Result<MainText, Reason>;
}

/// The crate `trafilatura`, a port of the Python program of that name, without its memory of earlier pages.
pub struct Trafilatura {
    fallback: Fallback,
    /// The rules over the tree alone, and with the other algorithms behind them.
    rules: trafilatura::Options,
    all: trafilatura::Options,
}

/// Fewer characters are little for a page's main text: below it, trafilatura itself looks further.
const LITTLE: usize = 250;

/// A page with so many times as much running text as was found may have it elsewhere.
const ELSEWHERE: f64 = 1.8;

/// So many times as long, trafilatura takes the text of Mozilla's Readability for that of its rules.
const LONGER: usize = 2;

/// Nobody here asks for a page's author and tags, and trafilatura seeks them in the whole tree unless the head names some.
const NAMES: &str = "<meta name=author content='not sought'><meta property=article:tag content='not sought'>";

/// The page with [`NAMES`] in its head, where it has one.
fn with_names(html: &str) -> String {
    let head = html.find("<head>").map_or(0, |place| place + "<head>".len());
    if head == 0 { html.to_owned() } else { [&html[..head], NAMES, &html[head..]].concat() }
}

/// Whether other algorithms may find a better text than the rules.
enum Doubt {
    None,
    /// There is little, or it is one paragraph alone: that is what the last resort makes, which takes all there is.
    Text,
    /// Most of the page's running text was left aside. On most such pages for good: they hold many articles' beginnings.
    Aside,
}

impl Doubt {
    /// `html` is where it was found.
    fn about(found: &trafilatura::ExtractResult, html: &str) -> Self {
        let length = found.content_text.chars().count();
        if length < LITTLE || found.content_html.matches("<p>").nth(1).is_none() {
            Self::Text
        } else if running_text(html) as f64 > ELSEWHERE * length as f64 {
            Self::Aside
        } else {
            Self::None
        }
    }
}

/// Whether Readability finds so much more that trafilatura would take its text. It costs a third of asking trafilatura,
/// which goes over the tree with its rules once more first.
fn is_longer_elsewhere(found: &trafilatura::ExtractResult, page: &str) -> bool {
    let article = libreadability::Parser::new().with_disable_jsonld(true).parse(page, None);
    let length = article.map_or(0, |article| article.text_content.chars().count());
    length > LONGER * found.content_text.chars().count()
}

impl Trafilatura {
    pub fn new(settings: &Extract) -> Self {
        let mut options = trafilatura::Options::default()
            .with_exclude_comments(!settings.comments)
            .with_exclude_tables(!settings.tables)
            .with_deduplicate(false)
            .with_focus(match settings.focus {
                Focus::Precision => trafilatura::ExtractionFocus::FavorPrecision,
                Focus::Balanced => trafilatura::ExtractionFocus::Balanced,
                Focus::Recall => trafilatura::ExtractionFocus::FavorRecall,
            });
        options.html_date_mode = trafilatura::HtmlDateMode::Disabled;
        let all = options.clone().with_fallback(true);
        Self { fallback: settings.fallback, rules: options.with_fallback(false), all }
    }

    fn found(&self, html: &str) -> Result<trafilatura::ExtractResult, trafilatura::TrafilaturaError> {
        if self.fallback == Fallback::Always {
            return self.with_all(html, &without_link_blocks(&strip(html)));
        }
        let article = with_names(&without_link_blocks(&strip_aside(html)));
        let first = trafilatura::extract(&article, &self.rules);
        if self.fallback == Fallback::Never {
            return first;
        }
        let doubt = first.as_ref().map_or(Doubt::Text, |found| Doubt::about(found, &article));
        if matches!(doubt, Doubt::None) {
            return first;
        }
        let page = without_link_blocks(&strip(html));
        match (doubt, &first) {
            (Doubt::Aside, Ok(found)) if !is_longer_elsewhere(found, &page) => first,
            _ => self.with_all(html, &page).or(first),
        }
    }

    /// With every algorithm, over `html` without blocks of links; of a page that is nothing else, over all of it.
    fn with_all(
        &self,
        html: &str,
        page: &str,
    ) -> Result<trafilatura::ExtractResult, trafilatura::TrafilaturaError> {
        trafilatura::extract(page, &self.all).or_else(|_| trafilatura::extract(&strip(html), &self.all))
    }
}

impl Extractor for Trafilatura {
    fn main_text(&self, html: &str, _: Option<&str>) -> Result<MainText, Reason> {
        match self.found(html) {
            Ok(found) => {
                // Its own text is one line.
                let mut text = lines(&found.content_html);
                if !found.comments_html.is_empty() {
                    text.push('\n');
                    text.push_str(&lines(&found.comments_html));
                }
                Ok(MainText { text, title: found.metadata.title })
            }
            Err(trafilatura::TrafilaturaError::InsufficientContent { .. }) => {
                Err(Reason::new("no_main_text"))
            }
            Err(error) => Err(Reason::measured("extraction_failed", error)),
        }
    }
}

/// The crate `justext`, a port of Pomikálek's program.
pub struct JusText {
    stop_words: HashSet<String>,
    config: justext::Config,
}

impl JusText {
    pub fn new(settings: &Extract) -> Self {
        let mut config = justext::Config::default();
        let mut stop_words = HashSet::new();
        match justext::get_stoplist(&settings.language) {
            Ok(words) if settings.stop_words => stop_words = words,
            // Without a list every paragraph would fail; without thresholds, length and links decide.
            _ => config = config.with_stopwords_low(0.0).with_stopwords_high(0.0),
        }
        Self { stop_words, config }
    }
}

impl Extractor for JusText {
    fn main_text(&self, html: &str, _: Option<&str>) -> Result<MainText, Reason> {
        let text = justext::extract_text(&strip(html), &self.stop_words, &self.config);
        Ok(MainText { text, title: title(html) })
    }
}

/// The content of `<title>`, its white space collapsed.
fn title(html: &str) -> String {
    let find = |from: usize, pattern: &str| {
        let window = &html.as_bytes()[from..];
        window.windows(pattern.len()).position(|found| found.eq_ignore_ascii_case(pattern.as_bytes()))
    };
    let Some(start) = find(0, "<title") else { return String::new() };
    let Some(open) = html[start..].find('>') else { return String::new() };
    let from = start + open + 1;
    let Some(end) = find(from, "</title") else { return String::new() };
    html[from..from + end].split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::{Algorithm, extractor as chosen};
    use super::*;

    fn page() -> String {
        let paragraph = "The river had been rising for a week when the people of the town first spoke of it, and by \
                         then it was too late to move what they had stored in the houses near the water, so that most of it \
                         was lost in the night when the dam above the old mill gave way. ";
        format!(
            "<html><head><title>A  river\n rises</title></head><body><nav><a href=/>Home</a> <a href=/x>About us</a></nav>\
             <article><h1>A river rises</h1>{}</article><footer>Copyright, all rights reserved</footer></body></html>",
            format!("<p>{paragraph}</p>").repeat(6)
        )
    }

    #[test]
    fn the_article_is_taken_and_what_surrounds_it_is_not() {
        for with in [Algorithm::Trafilatura, Algorithm::Justext] {
            let settings = Extract { with, ..Extract::default() };
            let found = chosen(&settings).main_text(&page(), None).unwrap();
            assert!(found.text.contains("rising for a week"), "{with:?}: {}", found.text);
            assert!(!found.text.contains("About us") && !found.text.contains("Copyright"), "{with:?}");
            assert_eq!(found.title, "A river rises", "{with:?}");
            assert!(
                found.text.lines().filter(|line| line.ends_with("gave way.")).count() == 6,
                "{with:?}: {}",
                found.text
            );
        }
    }

    #[test]
    fn justext_without_stop_words_goes_by_length_and_links() {
        let text =
            "河水已经涨了一个星期，镇上的人才开始谈论它，可是那时候再搬走河边房子里的东西已经来不及了。"
                .repeat(5);
        let html = format!("<html><body><p>{text}</p><p><a href=/>首页</a></p></body></html>");
        let settings = Extract { with: Algorithm::Justext, stop_words: false, ..Extract::default() };
        let found = chosen(&settings).main_text(&html, None).unwrap();
        assert!(found.text.contains("河水") && !found.text.contains("首页"), "{}", found.text);
    }

    #[test]
    fn a_page_does_not_depend_on_the_pages_before_it() {
        let extractor = chosen(&Extract::default());
        let first = extractor.main_text(&page(), None).unwrap();
        for _ in 0..5 {
            assert_eq!(extractor.main_text(&page(), None).unwrap(), first);
        }
    }
}
