//! The text of an article's HTML, a line for each paragraph, heading, item and row, as filters and deduplication by lines
//! want it: `<p>a <b>b</b></p><ul><li>c</li></ul>` becomes "a b", "c". The HTML is a serializer's, so that tags are whole.

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Tags within a line. trafilatura trims the texts on their two sides, so that words may have lost the space between them.
const INLINE: [&str; 24] = [
    "a", "abbr", "b", "cite", "code", "del", "em", "font", "hi", "i", "img", "ins", "kbd", "mark", "q",
    "ref", "s", "samp", "small", "span", "strong", "time", "tt", "u",
];

/// Tags within a word.
const WITHIN: [&str; 2] = ["sub", "sup"];

/// Cells, between which a row has tabs.
const CELLS: [&str; 2] = ["td", "th"];

const ENTITIES: [(&str, &str); 5] =
    [("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&nbsp;", "\u{a0}")];

/// Lines without the white space around them, none of them empty; runs of it within a line are one space, except in `<pre>`.
pub(super) fn lines(html: &str) -> String {
    let mut out = Lines { text: String::with_capacity(html.len()), ..Lines::default() };
    let mut rest = html;
    while let Some(place) = rest.find('<') {
        out.push(&rest[..place]);
        let length = rest[place..].find('>').map_or(rest.len() - place, |end| end + 1);
        let tag = rest[place..place + length].trim_matches(['<', '>']);
        rest = &rest[place + length..];
        let is_end = tag.starts_with('/');
        let name = tag.trim_start_matches('/');
        let name = &name[..name.bytes().take_while(u8::is_ascii_alphanumeric).count()];
        if CELLS.contains(&name) {
            out.cell(is_end);
        } else if INLINE.contains(&name) {
            out.is_behind_tag = true;
        } else if !WITHIN.contains(&name) {
            out.end();
        }
        if name == "pre" {
            out.is_preformatted = !is_end;
        }
    }
    out.push(rest);
    out.end();
    out.text
}

#[derive(Default)]
struct Lines {
    text: String,
    line: String,
    is_preformatted: bool,
    /// Between the line and what comes next is a tag.
    is_behind_tag: bool,
}

/// Characters of scripts that have spaces between words.
fn is_of_word(character: char) -> bool {
    character.is_alphanumeric() && character < '\u{2e80}'
}

impl Lines {
    fn push(&mut self, escaped: &str) {
        let mut rest = escaped;
        while let Some(place) = rest.find('&') {
            self.plain(&rest[..place]);
            rest = &rest[place..];
            let entity = ENTITIES.iter().find(|(entity, _)| rest.starts_with(entity));
            let (entity, text) = entity.copied().unwrap_or(("&", "&"));
            self.plain(text);
            rest = &rest[entity.len()..];
        }
        self.plain(rest);
    }

    fn plain(&mut self, text: &str) {
        if self.is_preformatted {
            for (number, line) in text.split('\n').enumerate() {
                if number > 0 {
                    self.end();
                }
                self.line.push_str(line);
            }
            return;
        }
        let Some(first) = text.chars().next() else { return };
        let parts =
            |last: char| is_of_word(last) || matches!(last, '.' | ',' | ':' | ';' | '!' | '?' | ')' | '”');
        if std::mem::take(&mut self.is_behind_tag) && is_of_word(first) && self.line.ends_with(parts) {
            self.line.push(' ');
        }
        let ends_in_space = |line: &str| line.ends_with([' ', '\t']) || line.is_empty();
        if text.starts_with(char::is_whitespace) && !ends_in_space(&self.line) {
            self.line.push(' ');
        }
        for word in text.split_whitespace() {
            self.line.push_str(word);
            self.line.push(' ');
        }
        if !text.ends_with(char::is_whitespace) && self.line.ends_with(' ') {
            self.line.pop();
        }
    }

    /// A cell of a row begins or ends.
    fn cell(&mut self, is_end: bool) {
        self.line.truncate(self.line.trim_end_matches(' ').len());
        if is_end {
            self.line.push('\t');
        }
    }

    fn end(&mut self) {
        let line = if self.is_preformatted { self.line.trim_end() } else { self.line.trim() };
        if !line.trim().is_empty() {
            if !self.text.is_empty() {
                self.text.push('\n');
            }
            // What is invisible within words goes, and letters are composed, as everywhere in trafilatura.
            let is_plain = !line.contains('\u{ad}') && is_nfc_quick(line.chars()) == IsNormalized::Yes;
            if line.is_ascii() || is_plain {
                self.text.push_str(line);
            } else {
                self.text.extend(line.chars().filter(|&character| character != '\u{ad}').nfc());
            }
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_paragraph_heading_item_and_row_is_a_line() {
        for (html, expected) in [
            ("<h1>A</h1><p>one <b>two</b> three (<i>four</i>).</p>five", "A\none two three (four).\nfive"),
            (
                "<p>one<b>two</b>three.<a>Four</a>, H<sub>2</sub>O 中<b>文</b>字</p>",
                "one two three. Four, H2O 中文字",
            ),
            ("<ul><li>one</li><li> <p>two</p> </li></ul><p> </p>", "one\ntwo"),
            (
                "<table><tr><td>a</td><td> b </td></tr>\n<tr><th>c</th><td></td><td>d</td></tr></table>",
                "a\tb\nc\t\td",
            ),
            ("<p>a\n  b<br>c&amp;&lt;d&gt;&nbsp;e &x</p>", "a b\nc&<d> e &x"),
            ("<p>a\u{ad}b u\u{308}</p>", "ab ü"),
            ("<pre>if x:\n    y &lt; 1\n\n<code>z</code></pre><p>  t", "if x:\n    y < 1\nz\nt"),
            ("", ""),
        ] {
            assert_eq!(lines(html), expected, "{html}");
        }
    }
}
