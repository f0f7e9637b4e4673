//! Bounds on a page's tree, read off its tags before a tree is built.
//!
//! Elements that HTML closes by itself (`<p>` in `<p>`, `<li>`, table cells) do not deepen the tree by being left open.

use super::Extract;
use crate::step::Reason;

/// Elements without content, or that a following sibling closes.
const FLAT: [&[u8]; 32] = [
    b"area",
    b"base",
    b"br",
    b"col",
    b"embed",
    b"hr",
    b"img",
    b"input",
    b"link",
    b"meta",
    b"param",
    b"source",
    b"track",
    b"wbr",
    b"p",
    b"li",
    b"dd",
    b"dt",
    b"tr",
    b"td",
    b"th",
    b"thead",
    b"tbody",
    b"tfoot",
    b"option",
    b"optgroup",
    b"html",
    b"head",
    b"body",
    b"colgroup",
    b"rp",
    b"rt",
];

pub(super) fn check(html: &str, settings: &Extract) -> Result<(), Reason> {
    let bytes = html.as_bytes();
    let (mut nodes, mut depth, mut place) = (0, 0usize, 0);
    while let Some(next) = html[place..].find('<') {
        place += next + 1;
        let is_end = bytes.get(place) == Some(&b'/');
        let start = place + usize::from(is_end);
        let length = bytes[start..].iter().take(16).take_while(|byte| byte.is_ascii_alphanumeric()).count();
        if length == 0 {
            continue;
        }
        let mut name = [0; 16];
        name[..length].copy_from_slice(&bytes[start..start + length]);
        name.make_ascii_lowercase();
        let name = &name[..length];
        nodes += 1;
        if nodes > settings.max_nodes {
            return Err(Reason::measured("too_many_nodes", format_args!("above {}", settings.max_nodes)));
        }
        if is_end {
            if !FLAT.contains(&name) {
                depth = depth.saturating_sub(1);
            }
        } else if !FLAT.contains(&name) {
            depth += 1;
            if depth > settings.max_depth {
                return Err(Reason::measured(
                    "too_deep",
                    format_args!("above {} elements", settings.max_depth),
                ));
            }
            // What looks like tags in a script or style is none.
            if matches!(name, b"script" | b"style") {
                let text = &html[start..];
                let is_end = |place: usize| {
                    let tag = text.as_bytes().get(place + 1..).unwrap_or_default();
                    tag.len() > length && tag[0] == b'/' && tag[1..=length].eq_ignore_ascii_case(name)
                };
                let skipped = text.match_indices('<').map(|(place, _)| place).find(|&place| is_end(place));
                place = start + skipped.unwrap_or(text.len());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(html: &str) -> Option<String> {
        let settings = Extract { max_nodes: 1000, max_depth: 50, ..Extract::default() };
        check(html, &settings).err().map(|reason| reason.label.into_owned())
    }

    #[test]
    fn deep_and_large_trees_are_refused() {
        assert_eq!(label(&"<div>".repeat(51)).as_deref(), Some("too_deep"));
        assert_eq!(label(&"<div></div>".repeat(501)).as_deref(), Some("too_many_nodes"));
        assert_eq!(label(&"<DIV>x</DIV>".repeat(400)), None);
    }

    #[test]
    fn what_html_closes_by_itself_is_not_deep() {
        assert_eq!(label(&format!("<ul>{}</ul>", "<li>item<p>text<br>".repeat(200))), None);
        assert_eq!(label(&format!("<script>{}</script><p>", "'<div>' + ".repeat(200))), None);
        assert_eq!(label(&format!("<style>é{}", "<i>".repeat(200))), None);
    }
}
