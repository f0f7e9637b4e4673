//! Takes out of a page what no algorithm reads, before a tree is built and copied: scripts, styles, comments, drawings,
//! films, forms' lists, tags without text, and attributes that no rule asks for. On real pages that is most of the
//! bytes. JSON-LD stays: the article may be in it. White space, which all algorithms make one space in the end, becomes
//! one character where it is not preformatted: they copy and measure texts again and again.

use std::borrow::Cow;

/// Elements that go with all that is in them.
const GONE: [&str; 15] = [
    "script", "style", "svg", "iframe", "noscript", "template", "canvas", "audio", "video", "object", "map",
    "picture", "select", "datalist", "textarea",
];

/// Of them, those in which a tag of the same name is no element but text: the first end tag ends them.
const RAW: [&str; 5] = ["script", "style", "iframe", "noscript", "textarea"];

/// Tags without content that go; of `meta`, all but those that name a title.
const EMPTY: [&str; 8] = ["link", "meta", "img", "source", "track", "input", "embed", "param"];

/// Attributes that some rule of an algorithm asks for.
const ATTRIBUTES: [&str; 16] = [
    "class",
    "id",
    "style",
    "role",
    "itemprop",
    "hidden",
    "aria-hidden",
    "aria-modal",
    "data-component",
    "data-lp-replacement-content",
    "data-testid",
    "type",
    "property",
    "name",
    "content",
    "rel",
];

/// The element whose white space stands as it is.
const PREFORMATTED: &str = "pre";

/// No element's name.
const COMMENT: &str = "!--";

/// Elements that are no part of an article, which trafilatura's rules take out of the tree first of all. Other algorithms
/// judge by what is in them, too. Forms are not among them: some pages are one form.
const ASIDE: [&str; 9] =
    ["nav", "footer", "aside", "figure", "button", "label", "dialog", "fieldset", "menu"];

pub(super) fn strip(html: &str) -> Cow<'_, str> {
    without(html, &[])
}

/// As [`strip`], and without what stands beside an article.
pub(super) fn strip_aside(html: &str) -> Cow<'_, str> {
    without(html, &ASIDE)
}

fn without<'a>(html: &'a str, more: &[&'static str]) -> Cow<'a, str> {
    let bytes = html.as_bytes();
    let mut out = Output::default();
    // `html[kept..]` is still to be copied; `place` looks ahead.
    let (mut kept, mut place) = (0, 0);
    // What no end was found for has none further on: looking again each time would take the square of the page.
    let mut endless: Vec<&str> = Vec::new();
    while let Some(next) = html[place..].find('<') {
        let start = place + next;
        let kind = if bytes[start..].starts_with(b"<!--") {
            COMMENT
        } else if bytes.get(start + 1).is_some_and(u8::is_ascii_alphabetic) {
            let length = bytes[start + 1..].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
            let mut alike = GONE.iter().chain(more).filter(|name| name.len() == length);
            alike.find(|name| is_tag(&bytes[start + 1..], name)).copied().unwrap_or_default()
        } else {
            if bytes.get(start + 1) == Some(&b'/') && is_tag(&bytes[start + 2..], PREFORMATTED) {
                out.push(&html[kept..start]);
                (kept, out.is_preformatted) = (start, false);
            }
            place = start + 1;
            continue;
        };
        if !kind.is_empty() && endless.contains(&kind) {
            place = start + 1;
            continue;
        }
        let end = if kind == COMMENT {
            html[start + 4..].find("-->").map(|length| start + 4 + length + 3)
        } else {
            // A tag that is never closed is left to the parser, with all behind it.
            let Some(tag) = Tag::read(html, start) else { break };
            if kind.is_empty() {
                place = tag.end;
                if EMPTY.iter().any(|name| tag.name.eq_ignore_ascii_case(name))
                    && !(tag.name.eq_ignore_ascii_case("meta") && contains(&bytes[start..tag.end], b"title"))
                {
                    out.push(&html[kept..start]);
                    kept = tag.end;
                } else if tag.attributes.iter().any(|attribute| !attribute.stays) {
                    out.push(&html[kept..start + 1 + tag.name.len()]);
                    for attribute in tag.attributes.iter().filter(|attribute| attribute.stays) {
                        out.push(" ");
                        out.push(attribute.text);
                    }
                    kept = tag.close;
                }
                if tag.name.eq_ignore_ascii_case(PREFORMATTED) {
                    out.push(&html[kept..tag.end]);
                    (kept, out.is_preformatted) = (tag.end, true);
                }
                continue;
            }
            let is_empty = kind == "svg" && tag.close + 2 == tag.end;
            let close = if is_empty { Some(tag.end) } else { element_end(html, tag.end, kind) };
            if kind == "script" && contains(&bytes[start..tag.end], b"ld+json") {
                if close.is_none() {
                    endless.push(kind);
                }
                place = close.unwrap_or(tag.end);
                continue;
            }
            close
        };
        // What is never closed is left to the parser.
        let Some(end) = end else {
            endless.push(kind);
            place = start + 1;
            continue;
        };
        out.push(&html[kept..start]);
        (kept, place) = (end, end);
    }
    if kept == 0 {
        return Cow::Borrowed(html);
    }
    out.push(&html[kept..]);
    Cow::Owned(out.text)
}

/// What stays of a page.
#[derive(Default)]
struct Output {
    text: String,
    is_preformatted: bool,
}

impl Output {
    /// Runs of white space become one character, a line feed where one is among them.
    fn push(&mut self, part: &str) {
        if self.is_preformatted {
            self.text.push_str(part);
            return;
        }
        let bytes = part.as_bytes();
        let (mut kept, mut place) = (0, 0);
        while place < bytes.len() {
            let length = bytes[place..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            if length > 1 {
                self.text.push_str(&part[kept..place]);
                let run = &bytes[place..place + length];
                self.text.push(if run.contains(&b'\n') { '\n' } else { ' ' });
                kept = place + length;
            }
            place += length.max(1);
        }
        self.text.push_str(&part[kept..]);
    }
}

/// A start tag, read as a browser reads it.
struct Tag<'a> {
    name: &'a str,
    attributes: Vec<Attribute<'a>>,
    /// Where its `>` or `/>` begins.
    close: usize,
    /// Behind its `>`.
    end: usize,
}

struct Attribute<'a> {
    /// Name and value as they stand.
    text: &'a str,
    stays: bool,
}

impl<'a> Tag<'a> {
    /// The tag whose `<` is at `start`; none where the page ends within it.
    fn read(html: &'a str, start: usize) -> Option<Self> {
        let bytes = html.as_bytes();
        let until = |mut place: usize, stop: fn(u8) -> bool| {
            while !stop(*bytes.get(place)?) {
                place += 1;
            }
            Some(place)
        };
        let is_name_end = |byte: u8| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>');
        let name = start + 1..until(start + 1, is_name_end)?;
        let (mut place, mut attributes) = (name.end, Vec::new());
        loop {
            let from = until(place, |byte| !byte.is_ascii_whitespace() && byte != b'/')?;
            if bytes[from] == b'>' {
                let close = if from > place && bytes[from - 1] == b'/' { from - 1 } else { from };
                return Some(Self { name: &html[name], attributes, close, end: from + 1 });
            }
            place = from;
            // An `=` at its beginning is a part of the name.
            place =
                until(place + 1, |byte| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>' | b'='))?;
            let named = &html[from..place];
            let mut end = place;
            place = until(place, |byte| !byte.is_ascii_whitespace())?;
            if bytes[place] == b'=' {
                place = until(place + 1, |byte| !byte.is_ascii_whitespace())?;
                place = match bytes[place] {
                    b'"' => until(place + 1, |byte| byte == b'"')? + 1,
                    b'\'' => until(place + 1, |byte| byte == b'\'')? + 1,
                    _ => until(place, |byte| byte.is_ascii_whitespace() || byte == b'>')?,
                };
                end = place;
            }
            let stays = ATTRIBUTES.iter().any(|wanted| named.eq_ignore_ascii_case(wanted));
            attributes.push(Attribute { text: &html[from..end], stays });
        }
    }
}

/// Whether a tag of this name begins here, behind its `<` or `</`.
fn is_tag(rest: &[u8], name: &str) -> bool {
    rest.len() > name.len()
        && rest[..name.len()].eq_ignore_ascii_case(name.as_bytes())
        && (rest[name.len()].is_ascii_whitespace() || matches!(rest[name.len()], b'>' | b'/'))
}

/// Behind the end tag of the element whose content begins at `from`.
fn element_end(html: &str, from: usize, name: &str) -> Option<usize> {
    let bytes = html.as_bytes();
    let (mut place, mut depth) = (from, 1);
    let nests = !RAW.contains(&name);
    while let Some(next) = html[place..].find('<') {
        place += next + 1;
        if bytes.get(place) == Some(&b'/') && is_tag(&bytes[place + 1..], name) {
            depth -= 1;
            if depth == 0 {
                return html[place..].find('>').map(|length| place + length + 1);
            }
        } else if nests && is_tag(&bytes[place..], name) {
            depth += 1;
        }
    }
    None
}

fn contains(text: &[u8], pattern: &[u8]) -> bool {
    text.windows(pattern.len()).any(|window| window.eq_ignore_ascii_case(pattern))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_no_algorithm_reads_goes() {
        for (html, expected) in [
            ("<p>a</p><script>if (a < b) '<p>'</script><p>b", "<p>a</p><p>b"),
            ("<STYLE type='x'>p {}</Style >a", "a"),
            ("a<!-- <p> -- > -->b<!--[if IE]>c<![endif]-->d", "abd"),
            ("a<svg viewBox='0'><title>x</title><path d=''/></svg>b<svg/>c", "abc"),
            ("a<select><option>x<option>y</select>b<noscript><p>c</noscript>d", "abd"),
            ("a<template><template>b</template>c</template>d", "ad"),
            (
                "<link rel=x href='>'><meta charset=x><meta property='og:title' content=b>a<img src=c>d",
                "<meta property='og:title' content=b>ad",
            ),
            (
                "a<script type=\"application/ld+json\">{\"<p>\":1}</script>b<style></style>",
                "a<script type=\"application/ld+json\">{\"<p>\":1}</script>b",
            ),
        ] {
            assert_eq!(strip(html), expected);
        }
    }

    #[test]
    fn attributes_go_that_no_rule_asks_for() {
        for (html, expected) in [
            ("<p onclick=\"a > b\" CLASS='x y' data-a>b</p>", "<p CLASS='x y'>b</p>"),
            ("<a href=foo/>a</a>", "<a>a</a>"),
            ("<a href=foo/ id=b/>a</a>", "<a id=b/>a</a>"),
            ("<mspace width = \"1\" id = x />", "<mspace id = x/>"),
            ("<br\n/><p\n=a='>' id>b", "<br\n/><p id>b"),
        ] {
            assert_eq!(strip(html), expected);
        }
    }

    #[test]
    fn what_only_looks_so_stays() {
        for html in [
            "<a title='<script>'>a</a> <b>b</b> </script>",
            "<scripture>a</scripture>",
            "<!-- never closed <p>a",
            "<script>never closed",
            "<video>never closed <b>a</b>",
            "1 < 2 <",
            "<p id=a'b>it's</p>",
            "<p title='never closed>a</p><script>b</script>",
        ] {
            let expected = html.replace(" title='<script>'", "");
            assert_eq!(strip(html), expected);
        }
    }

    #[test]
    fn white_space_becomes_one_character_but_where_it_is_preformatted() {
        for (html, expected) in [
            ("<p>a \t b\r\n  c <br> d</p>\n\n<img>", "<p>a b\nc <br> d</p>\n"),
            ("<img><pre id=x>a\n\n  b<i>  c</i></pre>d  e", "<pre id=x>a\n\n  b<i>  c</i></pre>d e"),
            ("<PRE data-x='1'>  a<img>  b</PRE >  c", "<PRE>  a  b</PRE > c"),
            ("<img><pre>  a", "<pre>  a"),
            ("<img>é\u{a0}\u{a0}  中", "é\u{a0}\u{a0} 中"),
        ] {
            assert_eq!(strip(html), expected);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_stripped_without_a_panic_and_grows_never(
            text in "(<!--|-->|<script|</script>|<style>|</style>|<svg/>|</svg>|<p id=| href=|<img |/>|['\"=> <é/]|[a-z]){0,40}"
        ) {
            prop_assert!(strip(&text).len() <= text.len());
        }
    }
}
