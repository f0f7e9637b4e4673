//! Takes out of a page what no algorithm reads, before a tree is built and copied: scripts, styles, comments, drawings.
//! On real pages that is most of the bytes. JSON-LD stays: the article may be in it.

use std::borrow::Cow;

/// Elements that go with all that is in them.
const GONE: [&str; 3] = ["script", "style", "svg"];

/// No element's name.
const COMMENT: &str = "!--";

pub(super) fn strip(html: &str) -> Cow<'_, str> {
    let bytes = html.as_bytes();
    let mut out = String::new();
    // `html[kept..]` is still to be copied; `place` looks ahead.
    let (mut kept, mut place) = (0, 0);
    // What no end was found for has none further on: looking again each time would take the square of the page.
    let mut endless: Vec<&str> = Vec::new();
    while let Some(next) = html[place..].find('<') {
        let start = place + next;
        let kind = if bytes[start..].starts_with(b"<!--") {
            Some(COMMENT)
        } else {
            GONE.into_iter().find(|name| is_tag(&bytes[start + 1..], name))
        };
        if kind.is_some_and(|kind| endless.contains(&kind)) {
            place = start + 1;
            continue;
        }
        let end = match kind {
            Some(COMMENT) => html[start + 4..].find("-->").map(|length| start + 4 + length + 3),
            Some(name) => {
                let open = tag_end(bytes, start);
                let is_data = name == "script" && contains(&bytes[start..open], b"ld+json");
                let close = element_end(bytes, open, name);
                if is_data {
                    endless.extend(kind.filter(|_| close.is_none()));
                    place = close.unwrap_or(open);
                    continue;
                }
                close
            }
            None => {
                // Past the tag's attributes, in which `<` may stand.
                let is_tag = bytes.get(start + 1).is_some_and(|byte| byte.is_ascii_alphabetic());
                place = if is_tag { tag_end(bytes, start) } else { start + 1 };
                continue;
            }
        };
        // What is never closed is left to the parser.
        let Some(end) = end else {
            endless.extend(kind);
            place = start + 1;
            continue;
        };
        out.push_str(&html[kept..start]);
        (kept, place) = (end, end);
    }
    if kept == 0 {
        return Cow::Borrowed(html);
    }
    out.push_str(&html[kept..]);
    Cow::Owned(out)
}

/// Whether a tag of this name begins here, behind its `<` or `</`.
fn is_tag(rest: &[u8], name: &str) -> bool {
    rest.len() > name.len()
        && rest[..name.len()].eq_ignore_ascii_case(name.as_bytes())
        && (rest[name.len()].is_ascii_whitespace() || matches!(rest[name.len()], b'>' | b'/'))
}

/// Behind the `>` of the tag that begins at `start`, quotes respected; the end of the text where there is none.
fn tag_end(bytes: &[u8], start: usize) -> usize {
    let mut quote = None;
    for (place, &byte) in bytes.iter().enumerate().skip(start + 1) {
        match quote {
            Some(open) if byte == open => quote = None,
            Some(_) => {}
            None if byte == b'>' => return place + 1,
            // A quote opens behind `=` only; elsewhere it is a character of a broken name.
            None if matches!(byte, b'"' | b'\'') && bytes[place - 1] == b'=' => quote = Some(byte),
            None => {}
        }
    }
    bytes.len()
}

/// Behind the end tag of the element whose content begins at `from`.
fn element_end(bytes: &[u8], from: usize, name: &str) -> Option<usize> {
    let mut place = from;
    while let Some(next) = bytes[place..].iter().position(|&byte| byte == b'<') {
        place += next + 1;
        if bytes.get(place) == Some(&b'/') && is_tag(&bytes[place + 1..], name) {
            return Some(tag_end(bytes, place));
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
    fn scripts_styles_comments_and_drawings_go() {
        for (html, expected) in [
            ("<p>a</p><script>if (a < b) '<p>'</script><p>b", "<p>a</p><p>b"),
            ("<STYLE type='x'>p {}</Style >a", "a"),
            ("a<!-- <p> -- > -->b<!--[if IE]>c<![endif]-->d", "abd"),
            ("a<svg viewBox='0'><title>x</title><path d=''/></svg>b", "ab"),
            (
                "a<script type=\"application/ld+json\">{\"<p>\":1}</script>b<style></style>",
                "a<script type=\"application/ld+json\">{\"<p>\":1}</script>b",
            ),
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
            "1 < 2 <",
            "<p title=a'b>it's</p>",
        ] {
            assert_eq!(strip(html), html);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_stripped_without_a_panic_and_grows_never(
            text in "(<!--|-->|<script|</script>|<style>|</style>|<svg/>|</svg>|['\"=> <é]|[a-z]){0,40}"
        ) {
            prop_assert!(strip(&text).len() <= text.len());
        }
    }
}
