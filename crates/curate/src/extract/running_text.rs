//! How much running text a page has, by its tags alone: text in pieces of some length, as articles have it and menus do
//! not. Tags within a line do not end a piece.

/// Characters of a piece that counts.
const PIECE: usize = 100;

/// Tags within lines.
const INLINE: [&str; 20] = [
    "a", "abbr", "b", "br", "cite", "code", "em", "font", "i", "mark", "q", "s", "small", "span", "strong",
    "sub", "sup", "time", "u", "wbr",
];

/// Characters in pieces of at least [`PIECE`], white space counted as one each time.
pub(super) fn running_text(html: &str) -> usize {
    let (mut total, mut piece, mut behind_space) = (0, 0, true);
    let mut rest = html;
    loop {
        let (text, tag) = rest.split_once('<').unwrap_or((rest, ""));
        for character in text.chars() {
            let is_space = character.is_whitespace();
            piece += usize::from(!(is_space && behind_space));
            behind_space = is_space;
        }
        let name = tag.strip_prefix('/').unwrap_or(tag);
        let name = &name[..name.bytes().take_while(u8::is_ascii_alphanumeric).count()];
        if !INLINE.iter().any(|inline| inline.eq_ignore_ascii_case(name)) {
            total += if piece >= PIECE { piece } else { 0 };
            (piece, behind_space) = (0, true);
        }
        // What is in a script is no text.
        let end = if name.eq_ignore_ascii_case("script") && !tag.starts_with('/') {
            tag.find("</script").or_else(|| tag.find("</SCRIPT")).unwrap_or(tag.len())
        } else {
            tag.find('>').map_or(tag.len(), |place| place + 1)
        };
        rest = &tag[end..];
        if rest.is_empty() {
            return total + if piece >= PIECE { piece } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_some_length_count_whole() {
        let sentence = "It rained. ".repeat(11);
        assert_eq!(running_text(&format!("<p>{sentence}</p><p>short</p>")), 121);
        assert_eq!(running_text(&format!("{sentence}<br>\n   {sentence}")), 242);
        assert_eq!(running_text(&"<li><a href='>'>menu</a></li>".repeat(99)), 0);
        assert_eq!(running_text(&format!("<script type=ld+json>{sentence}</script>")), 0);
        assert_eq!(running_text(&format!("a<script>{sentence}")), 0);
        assert_eq!(running_text(&format!("<p>{}", "é".repeat(100))), 100);
        assert_eq!(running_text(""), 0);
    }

    #[test]
    fn tags_within_a_line_do_not_end_a_piece() {
        assert_eq!(running_text(&format!("<p>{}</p>", "nine char<b>s</b> ".repeat(10))), 110);
        assert_eq!(running_text(&format!("<p>{}</p>", "nine chars<div></div> ".repeat(10))), 0);
    }
}
