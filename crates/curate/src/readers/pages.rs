//! Files that are one document each: plain text, programs, HTML pages.

use super::bounded::{is_bomb, open};
use super::{Limits, Part, Record, Sink, blank};
use crate::CurateError;
use crate::document::Document;
use crate::extract::decode;
use crate::recipe::Source;
use crate::step::Reason;
use std::io::{self, Read};

pub(super) fn read_text(
    part: &Part,
    source: &Source,
    limits: &Limits,
    sink: Sink<'_>,
) -> Result<(), CurateError> {
    let (mut document, bytes) = match whole(part, source, limits)? {
        Ok(whole) => whole,
        Err(bad) => return sink(bad, part.bytes),
    };
    if is_binary(&bytes) {
        return sink(Record::Bad { document, reason: Reason::new("binary") }, part.bytes);
    }
    let decoded = decode(&bytes, None, None);
    if decoded.encoding != "UTF-8" {
        document.metadata.insert("encoding".into(), decoded.encoding.into());
    }
    document.text = decoded.text;
    sink(Record::Text(document), part.bytes)
}

pub(super) fn read_html(
    part: &Part,
    source: &Source,
    limits: &Limits,
    sink: Sink<'_>,
) -> Result<(), CurateError> {
    match whole(part, source, limits)? {
        Ok((document, html)) => sink(Record::Page { document, html, charset: None }, part.bytes),
        Err(bad) => sink(bad, part.bytes),
    }
}

/// The file's bytes, or a record that says why there are none.
fn whole(
    part: &Part,
    source: &Source,
    limits: &Limits,
) -> Result<Result<(Document, Vec<u8>), Record>, CurateError> {
    let document = Document { id: format!("{}/{}", source.name, part.name), ..blank(part, source, "") };
    let mut opened = open(&part.path, 0, limits)?;
    let mut bytes = Vec::new();
    let read = (&mut opened.content).take(limits.record_bytes as u64 + 1).read_to_end(&mut bytes);
    let reason = match read {
        Ok(length) if length <= limits.record_bytes => return Ok(Ok((document, bytes))),
        Ok(_) => Reason::measured("record_too_large", format_args!("above {} bytes", limits.record_bytes)),
        Err(error) => unreadable(&error),
    };
    Ok(Err(Record::Bad { document, reason }))
}

fn unreadable(error: &io::Error) -> Reason {
    Reason::measured(if is_bomb(error) { "decompression_bomb" } else { "damaged_file" }, error)
}

/// Zero bytes in the first 8 KiB that are not those of UTF-16.
fn is_binary(bytes: &[u8]) -> bool {
    let is_utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    !is_utf16 && bytes[..bytes.len().min(8192)].contains(&0)
}

#[cfg(test)]
mod tests {
    use super::super::sources::example;
    use super::*;

    fn one(name: &str, bytes: &[u8]) -> Record {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let part = Part { path, ..Part::example(name) };
        let mut records = Vec::new();
        let limits = Limits { record_bytes: 1000, ..Limits::default() };
        read_text(&part, &example("files"), &limits, &mut |record, _| {
            records.push(record);
            Ok(())
        })
        .unwrap();
        assert_eq!(records.len(), 1);
        records.remove(0)
    }

    #[test]
    fn a_file_is_a_document_whatever_its_encoding() {
        let Record::Text(document) = one("b.md", "naïve".as_bytes()) else { panic!() };
        assert_eq!((document.id.as_str(), document.text.as_str()), ("files/b.md", "naïve"));
        let chinese = "这是一个用国标编码写成的中文文件，里面有足够多的字可以辨认。";
        let (bytes, ..) = encoding_rs::GB18030.encode(chinese);
        let Record::Text(document) = one("b.txt", &bytes) else { panic!() };
        assert_eq!(document.text, chinese);
        assert_eq!(document.metadata["encoding"], "GBK");
        let utf16: Vec<u8> = "\u{feff}wide".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let Record::Text(document) = one("c.txt", &utf16) else { panic!() };
        assert_eq!(document.text, "wide");
    }

    #[test]
    fn binary_files_and_files_above_the_limit_are_removed() {
        let label = |record| match record {
            Record::Bad { reason, .. } => reason.label.into_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(label(one("a.txt", b"\x7fELF\0\0")), "binary");
        assert_eq!(label(one("a.txt", &[b'x'; 1001])), "record_too_large");
        assert_eq!(label(one("a.txt.gz", b"not gzip")), "damaged_file");
    }
}
