//! JSON lines to documents. Lines end at line feeds only; a JSON text may hold any other line separator of Unicode.
//!
//! A document's place is the byte at which its line starts (decompressed), so it does not depend on how a file was
//! cut into shards.

use super::bounded::{Line, is_bomb, open, read_line};
use super::{Limits, Part, Record, Sink, blank};
use crate::CurateError;
use crate::document::{Document, Metadata};
use crate::recipe::Source;
use crate::step::Reason;
use serde_json::Value;
use std::io::BufRead;

/// Most bytes of another field that becomes metadata.
const FIELD: usize = 4096;

pub(super) fn read(part: &Part, source: &Source, limits: &Limits, sink: Sink<'_>) -> Result<(), CurateError> {
    let (mut start, end) = part.range.unwrap_or((0, u64::MAX));
    let mut opened = open(&part.path, start.saturating_sub(1), limits)?;
    if start > 0 {
        // A line that starts before the range belongs to the one before; one that starts exactly here follows a
        // line feed.
        let skipped =
            opened.content.skip_until(b'\n').map_err(|error| CurateError::io("read", &part.path, error))?;
        start = start - 1 + skipped as u64;
    }
    let passed = opened.passed.clone();
    lines(&mut *opened.content, start, end, part, source, limits, &mut |record| sink(record, passed.get()))
}

fn lines(
    content: &mut dyn BufRead,
    mut start: u64,
    end: u64,
    part: &Part,
    source: &Source,
    limits: &Limits,
    sink: &mut dyn FnMut(Record) -> Result<(), CurateError>,
) -> Result<(), CurateError> {
    let mut line = Vec::new();
    while start < end {
        let found = read_line(content, &mut line, limits.record_bytes);
        let document = blank(part, source, start);
        let bad = |document, reason| Record::Bad { document, reason };
        match found {
            Ok(Line::End) => break,
            Ok(Line::Whole(length)) => {
                start += length;
                if !line.trim_ascii().is_empty() {
                    sink(match parse(&line, document.clone(), source) {
                        Ok(document) => Record::Text(document),
                        Err(reason) => bad(document, reason),
                    })?;
                }
            }
            Ok(Line::TooLong(length)) => {
                start += length;
                sink(bad(document, Reason::measured("record_too_large", format_args!("{length} bytes"))))?;
            }
            Err(error) if is_bomb(&error) => {
                return sink(bad(document, Reason::measured("decompression_bomb", error)));
            }
            // What follows damage in a compressed stream is lost with it.
            Err(error) => return sink(bad(document, Reason::measured("damaged_file", error))),
        }
    }
    Ok(())
}

/// The document of one line.
fn parse(line: &[u8], mut document: Document, source: &Source) -> Result<Document, Reason> {
    let text = std::str::from_utf8(line).map_err(|error| {
        Reason::measured("invalid_utf8", format_args!("at byte {} of the line", error.valid_up_to()))
    })?;
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Reason::measured("bad_json", format_args!("column {}", error.column())))?;
    let Value::Object(mut fields) = value else { return Err(Reason::new("not_an_object")) };
    document.text = match take(&mut fields, &source.text_field) {
        Some(Value::String(text)) => text,
        Some(Value::Null) | None => return Err(Reason::measured("no_text_field", &source.text_field)),
        Some(_) => return Err(Reason::measured("text_is_no_string", &source.text_field)),
    };
    document.url = match take(&mut fields, &source.url_field) {
        Some(Value::String(url)) => Some(url),
        _ => None,
    };
    document.metadata =
        fields.into_iter().filter(|(key, value)| key.len() <= FIELD && is_small(value)).collect();
    Ok(document)
}

/// A field, or a field of a field by dots; a name that itself has dots goes first.
fn take(fields: &mut Metadata, path: &str) -> Option<Value> {
    if let Some(value) = fields.remove(path) {
        return Some(value);
    }
    let (first, rest) = path.split_once('.')?;
    take(fields.get_mut(first)?.as_object_mut()?, rest)
}

fn is_small(value: &Value) -> bool {
    match value {
        Value::String(text) => text.len() <= FIELD,
        Value::Array(_) | Value::Object(_) => value.to_string().len() <= FIELD,
        _ => true,
    }
}

/// Reads arbitrary bytes as JSON lines, for fuzzing: every line that is not blank is one record, never a panic, and
/// cutting the bytes into two ranges gives the same records.
pub fn fuzz_jsonl(bytes: &[u8]) {
    let (source, limits) =
        (super::sources::example("jsonl"), Limits { record_bytes: 256, ..Limits::default() });
    let part = Part::example("fuzz.jsonl");
    let mut whole = Vec::new();
    let mut content = bytes;
    lines(&mut content, 0, u64::MAX, &part, &source, &limits, &mut |record| {
        whole.push(record);
        Ok(())
    })
    .expect("the sink never fails");
    let expected = bytes.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
    assert_eq!(whole.len(), expected, "a record for every line that is not blank");
}

#[cfg(test)]
mod tests {
    use super::super::sources::example;
    use super::*;
    use proptest::prelude::*;

    fn records(bytes: &[u8], name: &str, range: Option<(u64, u64)>) -> Vec<Record> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let part = Part { path, range, ..Part::example(name) };
        let mut records = Vec::new();
        let limits = Limits { record_bytes: 1000, ..Limits::default() };
        read(&part, &example("jsonl"), &limits, &mut |record, _| {
            records.push(record);
            Ok(())
        })
        .unwrap();
        records
    }

    fn label(record: &Record) -> &str {
        match record {
            Record::Bad { reason, .. } => &reason.label,
            _ => "",
        }
    }

    #[test]
    fn fields_become_text_address_and_metadata() {
        let line = "{\"text\":\"a\\u2028b\u{2028}c\",\"url\":\"http://x\",\"n\":1,\"deep\":{\"x\":[1]}}\n";
        let records = records(line.as_bytes(), "a.jsonl", None);
        let [Record::Text(document)] = &records[..] else { panic!("{records:?}") };
        assert_eq!(document.text, "a\u{2028}b\u{2028}c");
        assert_eq!(document.url.as_deref(), Some("http://x"));
        assert_eq!(document.id, "jsonl/a.jsonl#0");
        assert_eq!(document.metadata["n"], 1);
        assert_eq!(document.metadata["deep"]["x"][0], 1);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_its_reason_and_the_next_line_is_read() {
        let lines: &[(&[u8], &str)] = &[
            (b"{\"text\":\"fine\"}", ""),
            (b"\xff\xfe", "invalid_utf8"),
            (b"{\"text\":\"cut", "bad_json"),
            (b"[1]", "not_an_object"),
            (b"{\"txt\":\"a\"}", "no_text_field"),
            (b"{\"text\":7}", "text_is_no_string"),
            (&[b'['; 900], "bad_json"),
            (&[b'x'; 5000], "record_too_large"),
            (b"{\"text\":\"last\"}", ""),
        ];
        let bytes = lines.iter().map(|(line, _)| *line).collect::<Vec<_>>().join(&b'\n');
        let records = records(&bytes, "a.jsonl", None);
        let found: Vec<&str> = records.iter().map(label).collect();
        let expected: Vec<&str> = lines.iter().map(|(_, label)| *label).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn damage_in_a_compressed_file_costs_what_follows_and_is_counted() {
        let text =
            (0..5000).map(|i| format!("{{\"text\":\"document {i} {}\"}}\n", i * 7919)).collect::<String>();
        let mut packed = zstd::bulk::compress(text.as_bytes(), 3).unwrap();
        packed.truncate(packed.len() / 2);
        let records = records(&packed, "a.jsonl.zst", None);
        assert_eq!(label(records.last().unwrap()), "damaged_file");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn ranges_together_are_the_file(
            lines in proptest::collection::vec("[a-z]{0,12}", 0..12),
            cut in 0u64..200,
        ) {
            let text: String = lines.iter().map(|line| format!("{{\"text\":\"{line}\"}}\n")).collect();
            let whole = records(text.as_bytes(), "a.jsonl", None);
            let cut = cut.min(text.len() as u64);
            let mut parts = records(text.as_bytes(), "a.jsonl", Some((0, cut)));
            parts.extend(records(text.as_bytes(), "a.jsonl", Some((cut, text.len() as u64))));
            prop_assert_eq!(parts, whole);
        }
    }
}
