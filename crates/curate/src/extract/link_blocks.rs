//! Takes out blocks that are nothing but links, as menus and lists of other articles are, and blocks without any text.
//! Every algorithm leaves them aside in the end, by the same measure, but first parses, copies and weighs them: on real
//! pages they are a third of what [`super::strip`] leaves.
//!
//! ```text
//! <div> … </div>   goes   if it has no text,
//!                         or ≥ 3 links with ≥ 0.8 of its characters in them     (and no heading, script or <pre>)
//! ```

/// Elements that may go.
const BLOCKS: [&str; 8] = ["div", "ul", "ol", "dl", "li", "section", "header", "span"];

/// Elements whose block stays: titles, preformatted text, and JSON-LD.
const KEPT: [&str; 8] = ["h1", "h2", "h3", "h4", "h5", "h6", "pre", "script"];

/// The share of a block's characters from which on trafilatura, too, takes it for a list of links.
const SHARE: f64 = 0.8;

/// With fewer links, a block may be a sentence's part.
const LINKS: usize = 3;

/// Open blocks among which an end tag's start is sought; what is never closed must not cost the square of the page.
const OPEN: usize = 64;

/// What was met so far, and stands in the output. White space is no character.
#[derive(Clone, Copy, Default)]
struct Met {
    characters: usize,
    linked: usize,
    links: usize,
    spaces: usize,
    kept: usize,
}

struct Block<'a> {
    name: &'a str,
    /// Where it begins in the output.
    start: usize,
    before: Met,
}

/// `html` is what [`super::strip`] gives.
pub(super) fn without_link_blocks(html: &str) -> String {
    let mut out = String::with_capacity(html.len());
    let mut open: Vec<Block<'_>> = Vec::new();
    let (mut met, mut is_in_link) = (Met::default(), false);
    let mut rest = html;
    loop {
        let text = &rest[..rest.find('<').unwrap_or(rest.len())];
        let spaces = text.bytes().filter(u8::is_ascii_whitespace).count();
        met.spaces += spaces;
        met.characters += text.len() - spaces;
        met.linked += if is_in_link { text.len() - spaces } else { 0 };
        out.push_str(text);
        rest = &rest[text.len()..];
        if rest.is_empty() {
            return out;
        }
        let is_end = rest.as_bytes().get(1) == Some(&b'/');
        let name = &rest[1 + usize::from(is_end)..];
        let name = &name[..name.bytes().take_while(u8::is_ascii_alphanumeric).count()];
        let is_in = |names: &[&str]| names.iter().any(|other| name.eq_ignore_ascii_case(other));
        let is_tag = !name.is_empty() || matches!(rest.as_bytes().get(1), Some(b'/' | b'!' | b'?'));
        let mut length = if is_tag { rest.find('>').map_or(rest.len(), |place| place + 1) } else { 1 };
        if !is_end && is_in(&KEPT) {
            met.kept += 1;
            if name.eq_ignore_ascii_case("script") {
                let content = &rest[length..];
                length +=
                    content.find("</script").or_else(|| content.find("</SCRIPT")).unwrap_or(content.len());
            }
        }
        if name.eq_ignore_ascii_case("a") {
            is_in_link = !is_end;
            met.links += usize::from(!is_end);
        }
        let is_block = is_in(&BLOCKS);
        if is_block && !is_end {
            open.push(Block { name, start: out.len(), before: met });
        }
        out.push_str(&rest[..length]);
        rest = &rest[length..];
        if is_block && is_end {
            let last = open.iter().rev().take(OPEN).position(|block| block.name.eq_ignore_ascii_case(name));
            if let Some(last) = last {
                open.truncate(open.len() - last);
                let block = open.pop().expect("it was found there");
                if goes(&block.before, &met) {
                    out.truncate(block.start);
                    // Words on its two sides stay two.
                    if met.spaces > block.before.spaces || met.links > block.before.links {
                        out.push(' ');
                    }
                    met = block.before;
                }
            }
        }
    }
}

fn goes(before: &Met, after: &Met) -> bool {
    let characters = after.characters - before.characters;
    let (linked, links) = (after.linked - before.linked, after.links - before.links);
    after.kept == before.kept
        && (characters == 0 || links >= LINKS && linked as f64 >= SHARE * characters as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_of_links_and_empty_blocks_go() {
        for (html, expected) in [
            ("<ul><li><a>one</a><li><a>two</a><li><a>three</a></ul>text", " text"),
            ("<DIV class=x><a>one</a> | <a>two</a>\n<a>three</a></DIV ><p>text</p>", " <p>text</p>"),
            ("<div><span></span><div class=y></div></div>a<span> </span>b<span></span>c", "a bc"),
            ("<div>text<div><a>one</a><a>two</a><a>three</a></div></div>", "<div>text </div>"),
        ] {
            assert_eq!(without_link_blocks(html), expected);
        }
    }

    #[test]
    fn text_with_links_titles_and_what_is_never_closed_stay() {
        let list = "<a>one</a><a>two</a><a>three</a>";
        for html in [
            "<div>See <a>one</a> and <a>two</a> or <a>three</a> about it.</div>".to_owned(),
            "<div><a>one</a><a>two</a></div>".to_owned(),
            format!("<div><h1>{list}</h1></div>"),
            "<div><script type=ld+json>{\"</div>\":\"<a>\"}</script></div>".to_owned(),
            format!("<div>{list}</section>"),
            format!("<p>{list}</p>"),
            "<div><pre> </pre></div><div".to_owned(),
        ] {
            assert_eq!(without_link_blocks(&html), html);
        }
    }

    proptest! {
        #[test]
        fn any_text_passes_without_a_panic_and_keeps_its_titles(
            text in "(<div>|</div>|<li>|</ul>|<ul>|<a>|</a>|<h2>é</h2>|<span id=x>|</span>|< |>|[ a-z]){0,60}"
        ) {
            let out = without_link_blocks(&text);
            prop_assert!(out.len() <= text.len());
            prop_assert_eq!(out.matches("<h2>é").count(), text.matches("<h2>é").count());
        }
    }
}
