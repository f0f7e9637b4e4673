//! Web archives: WARC and WET, in gzip, zstd or plain, record by record.
//!
//! ```text
//! response    HTTP 200 of type HTML ──▶ page        conversion (WET) ──▶ text
//! resource    of type HTML or text  ──▶ page, text  request, metadata, warcinfo, revisit: no documents
//! ```
//!
//! Behind damage the reader looks for the next record: the next gzip member or zstd frame, or the next line that
//! begins with `WARC/1.`; what lies between is one damaged record.

mod members;

use self::members::{MAGIC, Members};
use super::bounded::INNOCENT;
use super::{Limits, Part, Record, Sink, blank};
use crate::CurateError;
use crate::document::Document;
use crate::extract::decode;
use crate::recipe::Source;
use crate::step::Reason;
use fastwarc::stream_io::brotli::BrotliReader;
use fastwarc::stream_io::chunked::ChunkedReader;
use fastwarc::stream_io::traits::{IntoWarcReader, WarcRead};
use fastwarc::warc::iter::{ArchiveIterator, ArchiveIteratorOptions};
use fastwarc::warc::record::{WarcRecord, WarcRecordType};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom};

/// The bytes of an archive.
trait Bytes: Read + Seek + Send + 'static {
    fn again(&self) -> io::Result<Self>
    where
        Self: Sized;
}

impl Bytes for File {
    fn again(&self) -> io::Result<Self> {
        self.try_clone()
    }
}

impl Bytes for Cursor<Vec<u8>> {
    fn again(&self) -> io::Result<Self> {
        Ok(self.clone())
    }
}

pub(super) fn read(part: &Part, source: &Source, limits: &Limits, sink: Sink<'_>) -> Result<(), CurateError> {
    let file = File::open(&part.path).map_err(|error| CurateError::io("open", &part.path, error))?;
    records(&file, part, source, limits, sink)
}

fn records<B: Bytes>(
    bytes: &B,
    part: &Part,
    source: &Source,
    limits: &Limits,
    sink: Sink<'_>,
) -> Result<(), CurateError> {
    let fault = |error| CurateError::io("read", &part.path, error);
    let mut reader = Archive { part, source, limits, number: 0, given: 0, good: 0, is_in_damage: false };
    // A clone shares its place with the original; only one of them is read at a time.
    let (mut start, mut tries) = (0, 0);
    loop {
        let mut at = bytes.again().map_err(fault)?;
        at.seek(SeekFrom::Start(start)).map_err(fault)?;
        let error = match reader.run(at, sink)? {
            Stopped::End => return Ok(()),
            Stopped::Damage(error) => error,
        };
        tries += 1;
        if !reader.is_in_damage {
            reader.is_in_damage = true;
            tries = 0;
            let document = blank(part, source, reader.number);
            reader.number += 1;
            sink(Record::Bad { document, reason: Reason::measured("damaged_record", error) }, reader.good)?;
        }
        match next_start(bytes.again().map_err(fault)?, reader.good.max(start) + 1).map_err(fault)? {
            Some(next) if tries < TRIES => start = next,
            _ => return Ok(()),
        }
    }
}

/// Places tried behind one damage; a file of nothing but beginnings would cost a decompressor each.
const TRIES: usize = 10_000;

enum Stopped {
    End,
    Damage(io::Error),
}

struct Archive<'a> {
    part: &'a Part,
    source: &'a Source,
    limits: &'a Limits,
    /// Of the next record that counts as a document.
    number: u64,
    /// Decompressed bytes of records so far.
    given: u64,
    /// Where the last record that could be read begins on disk.
    good: u64,
    /// Nothing could be read since the last damage.
    is_in_damage: bool,
}

/// By the bytes at its beginning, gzip is decompressed here; the rest is left to `fastwarc`.
fn decoder<B: Bytes>(mut bytes: B) -> io::Result<Box<dyn WarcRead>> {
    let start = bytes.stream_position()?;
    let mut magic = Vec::new();
    bytes.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic)?;
    bytes.seek(SeekFrom::Start(start))?;
    Ok(if magic == MAGIC {
        Members::new(bytes)?.into_warc_reader()
    } else {
        BufReader::with_capacity(1 << 17, bytes).into_warc_reader()
    })
}

impl Archive<'_> {
    /// Reads records from here on.
    fn run<B: Bytes>(&mut self, bytes: B, sink: Sink<'_>) -> Result<Stopped, CurateError> {
        let options =
            ArchiveIteratorOptions { parse_http: false, inplace: true, ..ArchiveIteratorOptions::default() };
        let reader = decoder(bytes).map_err(|error| CurateError::io("read", &self.part.path, error))?;
        for record in ArchiveIterator::with_options(reader, options) {
            let record = match record {
                Ok(record) => record,
                Err(error) => return Ok(Stopped::Damage(error)),
            };
            let mut record = record.borrow_mut();
            self.good = self.good.max(record.stream_pos());
            self.given += record.content_length().min(self.limits.record_bytes as u64);
            if self.given > INNOCENT && self.given / self.limits.expansion > self.good.max(1) {
                let document = blank(self.part, self.source, self.number);
                let reason = Reason::measured("decompression_bomb", format_args!("{} bytes", self.given));
                sink(Record::Bad { document, reason }, self.good)?;
                return Ok(Stopped::End);
            }
            match self.record(&mut record) {
                Ok(Some(found)) => {
                    self.number += 1;
                    self.is_in_damage = false;
                    sink(found, self.good)?;
                }
                Ok(None) => self.is_in_damage = false,
                Err(error) => return Ok(Stopped::Damage(error)),
            }
        }
        Ok(Stopped::End)
    }

    /// The document of a record, if its type has one; an error is damage.
    fn record(&self, record: &mut WarcRecord) -> io::Result<Option<Record>> {
        let kind = record.record_type();
        let has_document =
            matches!(kind, WarcRecordType::Response | WarcRecordType::Resource | WarcRecordType::Conversion);
        if !has_document {
            skip(record)?;
            return Ok(None);
        }
        let mut document = blank(self.part, self.source, self.number);
        let header = |name: &str| record.headers().get(name).map(std::borrow::Cow::into_owned);
        document.url = header("WARC-Target-URI").map(|url| url.trim_matches(['<', '>', ' ']).to_owned());
        if let Some(date) = header("WARC-Date") {
            document.metadata.insert("date".into(), date.into());
        }
        let own_type = header("Content-Type").unwrap_or_default();
        if record.content_length() > self.limits.record_bytes as u64 {
            let reason =
                Reason::measured("record_too_large", format_args!("{} bytes", record.content_length()));
            skip(record)?;
            return Ok(Some(Record::Bad { document, reason }));
        }
        if kind == WarcRecordType::Response && record.is_http() {
            let head = http_head(record)?;
            let body = rest(record, head.len())?;
            return Ok(Some(response(document, &head, body, self.limits)));
        }
        let block = rest(record, 0)?;
        if kind == WarcRecordType::Conversion {
            document.text = decode(&block, Some("utf-8"), None).text;
            return Ok(Some(Record::Text(document)));
        }
        Ok(Some(by_type(document, &own_type, block)))
    }
}

/// Status line, headers and the empty line behind them, where a record's block begins so; else some of the block.
fn http_head(record: &mut WarcRecord) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(1024);
    let Some(reader) = record.reader_mut() else { return Ok(head) };
    loop {
        let start = head.len();
        let length = reader.by_ref().take((HEAD - start) as u64).read_until(b'\n', &mut head)?;
        if length == 0 || head[start..].trim_ascii().is_empty() {
            return Ok(head);
        }
    }
}

/// What follows the `taken` bytes of a record's block. Shorter than its header promises, it was cut.
fn rest(record: &mut WarcRecord, taken: usize) -> io::Result<Vec<u8>> {
    let promised = record.content_length();
    let length = (promised as usize).saturating_sub(taken);
    let mut block = Vec::with_capacity(length);
    if let Some(reader) = record.reader_mut() {
        // Straight out of the decompressor's buffer: `read_to_end` would fill the block with zeros first.
        while block.len() < length {
            let chunk = reader.fill_buf()?;
            let taken = chunk.len().min(length - block.len());
            if taken == 0 {
                break;
            }
            block.extend_from_slice(&chunk[..taken]);
            reader.consume(taken);
        }
    }
    whole((taken + block.len()) as u64, promised)?;
    Ok(block)
}

fn skip(record: &mut WarcRecord) -> io::Result<()> {
    let length = record.content_length();
    let mut left = length;
    while left > 0 {
        let step = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 24);
        let skipped = record.consume_n(step)? as u64;
        left -= skipped.min(left);
        if skipped == 0 {
            break;
        }
    }
    whole(length - left, length)
}

fn whole(found: u64, promised: u64) -> io::Result<()> {
    if found == promised {
        return Ok(());
    }
    let message = format!("the record promises {promised} bytes but has {found}");
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, message))
}

/// The document of an HTTP response.
fn response(mut document: Document, head: &[u8], body: Vec<u8>, limits: &Limits) -> Record {
    let bad = |document, reason| Record::Bad { document, reason };
    let Some(head) = Head::parse(head) else {
        return bad(document, Reason::new("bad_http"));
    };
    if head.status != 200 {
        return bad(document, Reason::measured("http_status", head.status));
    }
    let Head { content_type, transfer_encoding, content_encoding, .. } = head;
    let encodings = [transfer_encoding, content_encoding].into_iter().flatten().collect::<Vec<_>>().join(",");
    match unpack(body, &encodings, limits.record_bytes) {
        Ok(body) => by_type(document, &content_type.unwrap_or_default(), body),
        Err(reason) => {
            document.metadata.insert("content_encoding".into(), encodings.into());
            bad(document, reason)
        }
    }
}

fn by_type(mut document: Document, content_type: &str, body: Vec<u8>) -> Record {
    let mut parameters = content_type.split(';').map(str::trim);
    let kind = parameters.next().unwrap_or_default().to_ascii_lowercase();
    let charset = parameters.find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case("charset").then(|| value.trim_matches(['"', '\'', ' ']).to_owned())
    });
    let looks_like_html = || {
        let start = String::from_utf8_lossy(&body[..body.len().min(1024)]).to_ascii_lowercase();
        start.contains("<html") || start.contains("<!doctype html")
    };
    match kind.as_str() {
        "text/html" | "application/xhtml+xml" => Record::Page { document, html: body, charset },
        "" | "application/octet-stream" if looks_like_html() => {
            Record::Page { document, html: body, charset }
        }
        "text/plain" => {
            document.text = decode(&body, charset.as_deref(), None).text;
            Record::Text(document)
        }
        _ => Record::Bad { document, reason: Reason::measured("not_html", kind) },
    }
}

/// Of a response's status and headers what is asked for; of equal headers the first.
#[derive(Default)]
struct Head {
    status: u16,
    content_type: Option<String>,
    transfer_encoding: Option<String>,
    content_encoding: Option<String>,
}

/// Most bytes of headers that are looked at.
const HEAD: usize = 64 << 10;

impl Head {
    /// None of a block that does not begin with a status line, headers and an empty line.
    fn parse(block: &[u8]) -> Option<Self> {
        let mut lines = block.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
        let first = std::str::from_utf8(lines.next()?).ok()?;
        let status = first.strip_prefix("HTTP/")?.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let mut head = Self { status, ..Self::default() };
        for line in lines {
            if line.is_empty() {
                return Some(head);
            }
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let is = |name: &str| line[..colon].trim_ascii().eq_ignore_ascii_case(name.as_bytes());
            let value = if is("content-type") {
                &mut head.content_type
            } else if is("content-encoding") {
                &mut head.content_encoding
            } else if is("transfer-encoding") {
                &mut head.transfer_encoding
            } else {
                continue;
            };
            if value.is_none() {
                *value = Some(String::from_utf8_lossy(line[colon + 1..].trim_ascii()).into_owned());
            }
        }
        None
    }
}

/// Undoes transfer and content encodings, the last first. Bodies that are not in the encoding they name are taken as
/// they are, as archives often keep them decoded.
fn unpack(mut bytes: Vec<u8>, encodings: &str, limit: usize) -> Result<Vec<u8>, Reason> {
    if encodings.is_empty() {
        return Ok(bytes);
    }
    let names: Vec<String> = encodings.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
    // Chunks are the outermost layer wherever they are named.
    let (chunked, packed): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| *name == "chunked");
    let layers = chunked.into_iter().chain(packed.into_iter().rev());
    for name in layers {
        let cursor = Cursor::new(bytes);
        let limited = limit as u64 + 1;
        let mut out = Vec::new();
        let done = match name.as_str() {
            "" | "identity" | "none" | "utf-8" => {
                bytes = cursor.into_inner();
                continue;
            }
            "chunked" => ChunkedReader::new(cursor.clone()).take(limited).read_to_end(&mut out),
            "gzip" | "x-gzip" => {
                flate2::read::MultiGzDecoder::new(cursor.clone()).take(limited).read_to_end(&mut out)
            }
            "deflate" => {
                let zlib = flate2::read::ZlibDecoder::new(cursor.clone()).take(limited).read_to_end(&mut out);
                zlib.or_else(|_| {
                    out.clear();
                    flate2::read::DeflateDecoder::new(cursor.clone()).take(limited).read_to_end(&mut out)
                })
            }
            "br" => BrotliReader::new(cursor.clone()).take(limited).read_to_end(&mut out),
            "zstd" => zstd::stream::read::Decoder::new(cursor.clone())
                .and_then(|decoder| decoder.take(limited).read_to_end(&mut out)),
            other => return Err(Reason::measured("content_encoding", other)),
        };
        if out.len() > limit {
            return Err(Reason::measured("record_too_large", format_args!("above {limit} bytes")));
        }
        bytes = match done {
            Ok(_) => out,
            // A stream cut at its end still gives a page; one that gives nothing was not packed.
            Err(_) if !out.is_empty() && name != "chunked" => out,
            Err(_) => cursor.into_inner(),
        };
    }
    Ok(bytes)
}

/// The first place from `from` on at which a record may begin.
fn next_start(mut bytes: impl Read + Seek, from: u64) -> io::Result<Option<u64>> {
    const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
    const PLAIN: &[u8] = b"\nWARC/1.";
    bytes.seek(SeekFrom::Start(0))?;
    let mut magic = [0; 4];
    let length = bytes.read(&mut magic)?;
    let pattern = match &magic[..length] {
        start if start.starts_with(MAGIC) => MAGIC,
        ZSTD => ZSTD,
        _ => PLAIN,
    };
    // A plain record begins behind its line feed.
    let offset = u64::from(pattern == PLAIN);
    bytes.seek(SeekFrom::Start(from.saturating_sub(offset)))?;
    let mut reader = BufReader::with_capacity(1 << 16, bytes);
    let (mut place, mut matched) = (from.saturating_sub(offset), 0);
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        for (index, &byte) in buffer.iter().enumerate() {
            // No pattern holds its own first byte again.
            matched = if byte == pattern[matched] { matched + 1 } else { usize::from(byte == pattern[0]) };
            if matched == pattern.len() {
                return Ok(Some(place + index as u64 + 1 - pattern.len() as u64 + offset));
            }
        }
        let length = buffer.len();
        place += length as u64;
        reader.consume(length);
    }
}

/// Reads arbitrary bytes as an archive, for fuzzing: records or reasons, never a panic, memory bounded by the limits.
pub fn fuzz_warc(bytes: &[u8]) {
    let (part, source) = (Part::example("fuzz.warc"), super::sources::example("fuzz"));
    let limits = Limits { record_bytes: 1 << 16, ..Limits::default() };
    let mut numbers = Vec::new();
    records(&Cursor::new(bytes.to_vec()), &part, &source, &limits, &mut |record, _| {
        let (document, size) = match &record {
            Record::Text(document) => (document, document.text.len()),
            Record::Page { document, html, .. } => (document, html.len()),
            Record::Bad { document, .. } => (document, document.text.len()),
        };
        assert!(size <= 4 * limits.record_bytes, "a record of {size} bytes");
        numbers.push(document.id.clone());
        Ok(())
    })
    .expect("memory is always readable");
    let found = numbers.len();
    numbers.dedup();
    assert_eq!(numbers.len(), found, "every record has its own id");
}

#[cfg(test)]
mod tests;
