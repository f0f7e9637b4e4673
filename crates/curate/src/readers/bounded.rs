//! Opening a file that may be compressed, with bounds: on how far it expands, and on the length of a line.

use super::Limits;
use crate::CurateError;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;

/// Output below this is never called a bomb.
pub(super) const INNOCENT: u64 = 16_000_000;

/// A decompressed file.
pub(super) struct Opened {
    pub(super) content: Box<dyn BufRead>,
    /// Bytes read from disk so far.
    pub(super) passed: Rc<Cell<u64>>,
}

/// By the name's ending: `.gz`, `.zst`, anything else plain. `start` is a byte of a plain file.
pub(super) fn open(path: &Path, start: u64, limits: &Limits) -> Result<Opened, CurateError> {
    let fault = |error| CurateError::io("open", path, error);
    let mut file = File::open(path).map_err(fault)?;
    if start > 0 {
        file.seek(SeekFrom::Start(start)).map_err(fault)?;
    }
    let passed = Rc::new(Cell::new(0));
    let file = Counted { inner: BufReader::with_capacity(1 << 16, file), passed: passed.clone() };
    let bounded = |inner: Box<dyn Read>| {
        Box::new(Bounded { inner, passed: passed.clone(), given: 0, expansion: limits.expansion })
    };
    let ending = path.extension().map(|ending| ending.to_ascii_lowercase());
    let content: Box<dyn Read> = match ending.as_ref().and_then(|ending| ending.to_str()) {
        Some("gz") => bounded(Box::new(flate2::read::MultiGzDecoder::new(file))),
        Some("zst") => bounded(Box::new(zstd::stream::read::Decoder::new(file).map_err(fault)?)),
        _ => Box::new(file),
    };
    Ok(Opened { content: Box::new(BufReader::with_capacity(1 << 17, content)), passed })
}

/// Whether an error of [`open`]'s content is the bound on expansion.
pub(super) fn is_bomb(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Bomb>())
}

#[derive(Debug, thiserror::Error)]
#[error("expands more than {0} times")]
struct Bomb(u64);

struct Counted<R> {
    inner: R,
    passed: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.passed.set(self.passed.get() + length as u64);
        Ok(length)
    }
}

struct Bounded {
    inner: Box<dyn Read>,
    passed: Rc<Cell<u64>>,
    given: u64,
    expansion: u64,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.given += length as u64;
        if self.given > INNOCENT && self.given / self.expansion > self.passed.get() {
            return Err(io::Error::other(Bomb(self.expansion)));
        }
        Ok(length)
    }
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Bytes it took, its line feed included.
    Whole(u64),
    TooLong(u64),
    End,
}

/// Reads up to the next line feed into `line`, of a longer line than `limit` only the start.
pub(super) fn read_line(content: &mut dyn BufRead, line: &mut Vec<u8>, limit: usize) -> io::Result<Line> {
    line.clear();
    let length = content.take(limit as u64 + 1).read_until(b'\n', line)? as u64;
    if length == 0 {
        return Ok(Line::End);
    }
    if length <= limit as u64 || line.ends_with(b"\n") {
        return Ok(Line::Whole(length));
    }
    Ok(Line::TooLong(length + content.skip_until(b'\n')? as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn long_lines_are_passed_over_within_the_limit() {
        let text = [b"ab\n".as_slice(), &[b'x'; 900], b"\ncd"].concat();
        let mut content = BufReader::with_capacity(16, text.as_slice());
        let mut line = Vec::new();
        assert_eq!(read_line(&mut content, &mut line, 8).unwrap(), Line::Whole(3));
        assert_eq!(read_line(&mut content, &mut line, 8).unwrap(), Line::TooLong(901));
        assert!(line.len() <= 9);
        assert_eq!(read_line(&mut content, &mut line, 8).unwrap(), Line::Whole(2));
        assert_eq!(line, b"cd");
        assert_eq!(read_line(&mut content, &mut line, 8).unwrap(), Line::End);
    }

    #[test]
    fn a_bomb_ends_in_an_error_that_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.jsonl.gz");
        let mut writer =
            flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::best());
        let zeros = vec![0; 1 << 20];
        (0..40).for_each(|_| writer.write_all(&zeros).unwrap());
        writer.finish().unwrap();
        let mut opened = open(&path, 0, &Limits::default()).unwrap();
        let error = io::copy(&mut opened.content, &mut io::sink()).unwrap_err();
        assert!(is_bomb(&error), "{error}");
    }
}
