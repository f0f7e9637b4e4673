//! Which encoding a page is in: byte order mark, then HTTP header, then `<meta>`, then its bytes (chardetng).
//!
//! A declaration that the bytes contradict is passed over: real UTF-8 is UTF-8 whatever the header says, and an
//! encoding under which many bytes mean nothing is not the one. `gb2312` and `gbk` are read as GB18030, as the WHATWG
//! standard has it, and so on for every label.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8};

/// A text and the encoding it was in, by its WHATWG name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    pub text: String,
    pub encoding: &'static str,
}

/// Multi-byte sequences that make accidental UTF-8 unlikely enough to overrule a declaration.
const SURE: usize = 4;
/// Bytes at the start that are searched for a `<meta>`; the standard says 1024, pages say it later.
const META: usize = 4096;
/// One replacement character in so many is damage; more is the wrong encoding.
const DAMAGE: usize = 50;

/// `charset` is what the HTTP header says; the last part of the host in `url` helps to guess.
pub fn decode(bytes: &[u8], charset: Option<&str>, url: Option<&str>) -> Decoded {
    if let Some((encoding, mark)) = Encoding::for_bom(bytes) {
        return with(encoding, &bytes[mark..]);
    }
    let declared = [charset.map(str::to_owned), meta(&bytes[..bytes.len().min(META)])];
    let declared =
        declared.iter().flatten().filter_map(|label| Encoding::for_label_no_replacement(label.as_bytes()));
    let declared: Vec<&'static Encoding> = declared.collect();
    if let Ok(text) = std::str::from_utf8(bytes)
        && declared.first().is_none_or(|first| first.is_ascii_compatible())
        && (declared.is_empty() || declared[0] == UTF_8 || sequences(bytes) >= SURE || bytes.is_ascii())
    {
        return Decoded { text: text.to_owned(), encoding: UTF_8.name() };
    }
    for encoding in declared {
        // No declaration inside the page can be in UTF-16, or it could not have been read.
        let decoded = with(encoding, bytes);
        let damage = decoded.text.matches('\u{fffd}').count();
        if damage * DAMAGE <= bytes.len() && encoding.is_ascii_compatible() {
            return decoded;
        }
    }
    with(guess(bytes, url), bytes)
}

fn with(encoding: &'static Encoding, bytes: &[u8]) -> Decoded {
    let (text, _) = encoding.decode_without_bom_handling(bytes);
    Decoded { text: text.into_owned(), encoding: encoding.name() }
}

fn guess(bytes: &[u8], url: Option<&str>) -> &'static Encoding {
    // More text changes the guess no more.
    let window = &bytes[..bytes.len().min(1 << 16)];
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(window, true);
    detector.guess(url.and_then(top_level).as_deref(), Utf8Detection::Allow)
}

/// `http://www.example.com.cn:80/x` → `cn`.
fn top_level(url: &str) -> Option<Vec<u8>> {
    let host = url.split_once("://")?.1.split(['/', '?', '#']).next()?;
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let last = host.split(':').next()?.rsplit('.').next()?.to_ascii_lowercase();
    (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_lowercase())).then(|| last.into_bytes())
}

/// Multi-byte sequences of a UTF-8 text.
fn sequences(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte >= 0xc0).take(SURE).count()
}

/// The label of `<meta charset=…>` or `<meta http-equiv=… content="…; charset=…">`.
fn meta(start: &[u8]) -> Option<String> {
    let lower = start.to_ascii_lowercase();
    let mut place = 0;
    while let Some(found) = find(&lower[place..], b"<meta") {
        let tag = place + found;
        let end = lower[tag..].iter().position(|&byte| byte == b'>').map_or(lower.len(), |end| tag + end);
        if let Some(at) = find(&lower[tag..end], b"charset") {
            let after = &lower[tag + at + b"charset".len()..end];
            let after = after.trim_ascii_start();
            if let Some(value) = after.strip_prefix(b"=") {
                let value = value.trim_ascii_start();
                let value = value.strip_prefix(b"\"").or(value.strip_prefix(b"'")).unwrap_or(value);
                let stop = |byte: &u8| byte.is_ascii_whitespace() || b"\"';/>".contains(byte);
                let label = &value[..value.iter().position(stop).unwrap_or(value.len())];
                if !label.is_empty() {
                    return String::from_utf8(label.to_vec()).ok();
                }
            }
        }
        place = end.max(tag + 1);
    }
    None
}

fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len()).position(|window| window == pattern)
}

#[cfg(test)]
mod tests {
    use super::*;
    use encoding_rs::{BIG5, GB18030, SHIFT_JIS, WINDOWS_1251, WINDOWS_1252};
    use proptest::prelude::*;

    const CHINESE: &str = "中文网页的编码常常和它自己声明的不一样，所以要先看字节。";
    const TRADITIONAL: &str = "中文網頁的編碼常常和它自己聲明的不一樣，所以要先看位元組。";

    fn page(encoding: &'static Encoding, text: &str, head: &str) -> Vec<u8> {
        encoding.encode(&format!("<html><head>{head}</head><p>{text}</p></html>")).0.into_owned()
    }

    #[test]
    fn gb2312_is_read_as_gb18030() {
        // The euro sign and 镕 are not in GB2312.
        let text = format!("{CHINESE}朱镕基 €");
        let bytes = page(GB18030, &text, "<meta charset=gb2312>");
        assert!(decode(&bytes, None, None).text.contains(&text));
        assert!(decode(&bytes, Some("GB2312"), None).text.contains(&text));
    }

    #[test]
    fn undeclared_chinese_is_told_apart() {
        assert!(decode(&page(GB18030, CHINESE, ""), None, None).text.contains(CHINESE));
        assert!(decode(&page(BIG5, TRADITIONAL, ""), None, None).text.contains(TRADITIONAL));
        let japanese = "これは日本語のページです。文字コードは宣言されていません。";
        assert!(decode(&page(SHIFT_JIS, japanese, ""), None, Some("http://a.jp/")).text.contains(japanese));
        let russian = "Это страница на русском языке без объявления кодировки.";
        assert!(decode(&page(WINDOWS_1251, russian, ""), None, None).text.contains(russian));
    }

    #[test]
    fn the_order_is_mark_header_meta_bytes() {
        let utf16: Vec<u8> = "\u{feff}wide é".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(decode(&utf16, Some("iso-8859-1"), None).text, "wide é");
        let bytes = page(WINDOWS_1252, "caf\u{e9}", "<meta charset='big5'>");
        assert!(decode(&bytes, Some("iso-8859-1"), None).text.contains("café"));
        let bytes =
            page(BIG5, TRADITIONAL, "<META http-equiv=Content-Type content='text/html; charset=Big5'>");
        assert_eq!(decode(&bytes, None, None).encoding, "Big5");
    }

    #[test]
    fn a_declaration_that_the_bytes_contradict_is_passed_over() {
        let bytes = page(UTF_8, CHINESE, "<meta charset=iso-8859-1>");
        assert!(decode(&bytes, Some("iso-8859-1"), None).text.contains(CHINESE));
        let bytes = page(GB18030, &CHINESE.repeat(9), "<meta charset=utf-8>");
        assert!(decode(&bytes, Some("utf-8"), None).text.contains(CHINESE));
        // Damage here and there is no other encoding.
        let mut bytes = page(UTF_8, &CHINESE.repeat(20), "<meta charset=utf-8>");
        bytes[100] = 0xff;
        assert_eq!(decode(&bytes, None, None).encoding, "UTF-8");
    }

    #[test]
    fn top_level_domains_come_out_of_addresses() {
        assert_eq!(top_level("http://me@www.a.com.CN:80/x.jp").as_deref(), Some(&b"cn"[..]));
        assert_eq!(top_level("http://127.0.0.1/"), None);
        assert_eq!(top_level("no address"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_become_text(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            label in "[a-z0-9-]{0,12}",
        ) {
            decode(&bytes, Some(&label), Some("http://x.cn/"));
        }

        #[test]
        fn utf_8_without_any_declaration_is_itself(text in "\\PC{0,60}") {
            prop_assume!(!text.starts_with('\u{feff}') && !text.contains('<'));
            prop_assert_eq!(decode(text.as_bytes(), None, None).text, text);
        }
    }
}
