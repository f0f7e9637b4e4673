//! Documents out of input files, in order, as pieces that worker threads turn into text.

use crate::inputs::{Format, Input, find};
use crate::words::safe_cut;
use crate::{DataError, Permutation, jsonl, parquet_text};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// How files become documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Field of JSON lines and column of Parquet files that holds the text.
    pub field: String,
    pub split: Split,
    pub bad: BadDocuments,
}

impl Default for Reading {
    fn default() -> Self {
        Self { field: "text".into(), split: Split::File, bad: BadDocuments::Refuse }
    }
}

/// What one document is in a text file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The whole file.
    File,
    /// What stands between blank lines.
    BlankLines,
}

/// What to do about a document that cannot be read: bad JSON, no such field, null, invalid UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadDocuments {
    /// Stop with an error that names file and place.
    Refuse,
    /// Leave it out and count it.
    Skip,
}

/// A document, or a part of a long one that may be encoded alone.
#[derive(Debug)]
pub(crate) struct Piece {
    content: Content,
    unit: &'static str,
    number: u64,
    /// Whether the document ends here.
    pub(crate) is_last: bool,
}

#[derive(Debug)]
enum Content {
    Text(String),
    Bytes(Vec<u8>),
    JsonLine(Vec<u8>),
    Bad(String),
}

impl Piece {
    /// In bytes, for batches of even work.
    pub(crate) fn size(&self) -> usize {
        match &self.content {
            Content::Text(text) | Content::Bad(text) => text.len(),
            Content::Bytes(bytes) | Content::JsonLine(bytes) => bytes.len(),
        }
    }

    fn is_blank(&self) -> bool {
        matches!(&self.content, Content::JsonLine(line) if line.trim_ascii().is_empty())
    }

    /// The text, decoded and checked.
    pub(crate) fn text(self, path: &Path, reading: &Reading) -> Result<String, DataError> {
        let text = match self.content {
            Content::Text(text) => Ok(text),
            Content::JsonLine(line) => jsonl::text_field(&line, &reading.field),
            Content::Bytes(bytes) => String::from_utf8(bytes)
                .map_err(|error| format!("not UTF-8 at byte {} of it", error.utf8_error().valid_up_to())),
            Content::Bad(message) => Err(message),
        };
        let (unit, number) = (self.unit, self.number);
        text.map_err(|message| DataError::Document { path: path.to_owned(), unit, number, message })
    }
}

/// Whether to go on.
pub(crate) type Flow = Result<ControlFlow<()>, DataError>;

/// Longest piece of a text whose tokenizer allows cutting.
const PIECE: usize = 1 << 18;

/// Gives the pieces of a file to `each`, with the bytes on disk read so far, until it breaks off.
pub(crate) fn read(
    input: &Input,
    reading: &Reading,
    is_cuttable: bool,
    each: &mut dyn FnMut(Piece, u64) -> Flow,
) -> Flow {
    match input.format {
        Format::Text => read_text(input, reading, is_cuttable, each),
        Format::JsonLines => read_lines(input, each),
        Format::Parquet => parquet_text::read(&input.path, &reading.field, |row, text, passed| {
            let content = text.map_or_else(|| Content::Bad("the text is null".into()), Content::Bytes);
            each(Piece { content, unit: "row", number: row, is_last: true }, passed)
        }),
    }
}

fn read_text(
    input: &Input,
    reading: &Reading,
    is_cuttable: bool,
    each: &mut dyn FnMut(Piece, u64) -> Flow,
) -> Flow {
    let mut file = open(&input.path)?.content;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|error| DataError::io("read", &input.path, error))?;
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let place = error.utf8_error().valid_up_to() as u64;
            let content = Content::Bad("not UTF-8; convert the file, or skip bad documents".into());
            return each(Piece { content, unit: "byte", number: place, is_last: true }, input.bytes);
        }
    };
    let documents = match reading.split {
        Split::File => vec![(1, text.as_str())],
        Split::BlankLines => between_blank_lines(&text),
    };
    for (line, mut document) in documents {
        while is_cuttable && document.len() > PIECE {
            let cut = safe_cut(document, PIECE);
            if cut == 0 {
                break;
            }
            let content = Content::Text(document[..cut].to_owned());
            if each(Piece { content, unit: "line", number: line, is_last: false }, 0)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            document = &document[cut..];
        }
        let content = Content::Text(document.to_owned());
        if each(Piece { content, unit: "line", number: line, is_last: true }, 0)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Each document with the number of its first line, without the line break at its end.
fn between_blank_lines(text: &str) -> Vec<(u64, &str)> {
    let (mut documents, mut place, mut open) = (Vec::new(), 0, None);
    let mut close = |open: &mut Option<(u64, usize)>, end: usize| {
        if let Some((line, start)) = open.take() {
            documents.push((line, text[start..end].trim_end_matches(['\n', '\r'])));
        }
    };
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if line.trim().is_empty() {
            close(&mut open, place);
        } else {
            open.get_or_insert((number as u64 + 1, place));
        }
        place += line.len();
    }
    close(&mut open, place);
    documents
}

/// Lines end at line feeds only; a JSON text may hold any other line separator of Unicode. Blank lines are no documents.
fn read_lines(input: &Input, each: &mut dyn FnMut(Piece, u64) -> Flow) -> Flow {
    let Opened { content: mut file, passed } = open(&input.path)?;
    for number in 1.. {
        let mut line = Vec::new();
        let length = file.read_until(b'\n', &mut line).map_err(|error| DataError::Document {
            path: input.path.clone(),
            unit: "line",
            number,
            message: error.to_string(),
        })?;
        if length == 0 {
            break;
        }
        let piece = Piece { content: Content::JsonLine(line), unit: "line", number, is_last: true };
        if !piece.is_blank() && each(piece, passed.get())?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

struct Opened {
    /// Decompressed by the file's ending.
    content: Box<dyn BufRead>,
    /// Bytes read from disk so far.
    passed: Rc<Cell<u64>>,
}

fn open(path: &Path) -> Result<Opened, DataError> {
    let fault = |error| DataError::io("open", path, error);
    let passed = Rc::new(Cell::new(0));
    let file = Counted { inner: File::open(path).map_err(fault)?, passed: passed.clone() };
    let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
    let content: Box<dyn Read> = match ending.as_ref().and_then(|ending| ending.to_str()) {
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(file)),
        Some("zst") => Box::new(zstd::stream::read::Decoder::new(file).map_err(fault)?),
        _ => Box::new(file),
    };
    Ok(Opened { content: Box::new(BufReader::with_capacity(1 << 18, content)), passed })
}

struct Counted {
    inner: File,
    passed: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.passed.set(self.passed.get() + length as u64);
        Ok(length)
    }
}

/// Texts to train a tokenizer on, long ones in parts: out of files in a fixed mixed order, until `limit` bytes are reached.
///
/// # Errors
/// When a file cannot be read, or a document cannot and `reading` refuses that.
pub fn sample_texts(paths: &[PathBuf], reading: &Reading, limit: u64) -> Result<Vec<String>, DataError> {
    let (inputs, _) = find(paths)?;
    let mut texts = Vec::new();
    let mut total = 0;
    let order = Permutation::new((inputs.len() as u64).max(1), &[0]);
    for place in 0..inputs.len() as u64 {
        let input = &inputs[order.apply(place) as usize];
        let flow = read(input, reading, true, &mut |piece, _| {
            match piece.text(&input.path, reading) {
                Ok(text) => {
                    total += text.len() as u64;
                    texts.push(text);
                }
                Err(error) if reading.bad == BadDocuments::Refuse => return Err(error),
                Err(_) => {}
            }
            Ok(if total >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if flow.is_break() {
            break;
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_part_documents() {
        let text = "\n\na\nb\n \t\n\nc\r\n\r\nd";
        assert_eq!(between_blank_lines(text), [(3, "a\nb"), (7, "c"), (9, "d")]);
        assert_eq!(between_blank_lines("\n \n"), []);
    }
}
