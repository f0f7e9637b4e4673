//! Members of a gzip archive, each decompressed whole by libdeflate: twice as fast as by a decompressor of streams.
//!
//! ```text
//! file ──▶ window of compressed bytes:  … │1f 8b 08 … size│1f 8b 08 …        a member ends where the next begins, if its
//!                                         └──▶ one member's output           checksum and the size at its end are right
//! ```
//!
//! What is no such member (too large for the buffers, damaged, followed by something else) is read as a stream, which also says
//! what is wrong with it. So memory is bounded by [`WINDOW`] and [`OUTPUT`], whatever a file says of itself.

use fastwarc::stream_io::gzip::GzipReader;
use fastwarc::stream_io::traits::WarcRead;
use libdeflater::Decompressor;
use memchr::memmem::Finder;
use std::any::Any;
use std::io::{self, BufRead, Read, Seek, SeekFrom};

use super::Bytes;

/// How a member begins.
pub(super) const MAGIC: &[u8] = b"\x1f\x8b\x08";

/// Most bytes of a member on disk, and of what is in it.
const WINDOW: usize = 2 << 20;
const OUTPUT: usize = 8 << 20;

/// Bytes read at once.
const STEP: usize = 256 << 10;

/// Bytes of a member's head, at the least, and of checksum and size behind it.
const HEAD: usize = 10;
const TAIL: usize = 8;

/// Places looked at as a member's end: [`MAGIC`] stands in every sixteenth million bytes by chance.
const ENDS: usize = 4;

pub(super) struct Members<B: Bytes> {
    bytes: B,
    /// The file from `start` on, of which `used` bytes are done with.
    window: Vec<u8>,
    start: u64,
    used: usize,
    is_at_end: bool,
    inflate: Decompressor,
    magic: Finder<'static>,
    /// `output[given..length]` is still to be given of the member that begins at `member`.
    output: Vec<u8>,
    given: usize,
    length: usize,
    member: u64,
    /// Decompressed bytes given so far.
    position: u64,
    /// Reads the member that could not be taken whole.
    stream: Option<GzipReader<B>>,
}

impl<B: Bytes> Members<B> {
    /// From the place on where `bytes` stands.
    pub(super) fn new(mut bytes: B) -> io::Result<Self> {
        let start = bytes.stream_position()?;
        Ok(Self {
            bytes,
            window: Vec::new(),
            start,
            used: 0,
            is_at_end: false,
            inflate: Decompressor::new(),
            magic: Finder::new(MAGIC),
            output: Vec::new(),
            given: 0,
            length: 0,
            member: start,
            position: 0,
            stream: None,
        })
    }

    /// Reads on, up to [`WINDOW`] bytes that are not done with.
    fn read_on(&mut self) -> io::Result<()> {
        self.window.drain(..self.used);
        self.start += self.used as u64;
        self.used = 0;
        let length = self.window.len();
        self.window.resize(WINDOW.min(length + STEP), 0);
        let mut filled = length;
        while filled < self.window.len() {
            match self.bytes.read(&mut self.window[filled..]) {
                Ok(0) => {
                    self.is_at_end = true;
                    break;
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.window.truncate(filled);
        Ok(())
    }

    /// Decompresses the next member that is not empty, or begins to read it as a stream; false at the end of the file.
    fn next(&mut self) -> io::Result<bool> {
        (self.given, self.length) = (0, 0);
        while self.length == 0 {
            if self.used == self.window.len() && !self.is_at_end {
                self.read_on()?;
            }
            self.member = self.start + self.used as u64;
            if self.used == self.window.len() {
                return Ok(false);
            }
            if !self.whole()? {
                let mut bytes = self.bytes.again()?;
                bytes.seek(SeekFrom::Start(self.member))?;
                self.stream = Some(GzipReader::new(bytes));
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// Whether the next member could be decompressed whole.
    fn whole(&mut self) -> io::Result<bool> {
        let (mut tried, mut from) = (0, HEAD + TAIL);
        while tried < ENDS {
            let rest = &self.window[self.used..];
            let found = rest.get(from..).and_then(|rest| self.magic.find(rest)).map(|place| from + place);
            let end = match found {
                Some(end) => end,
                None if self.is_at_end => rest.len(),
                None if rest.len() == WINDOW => return Ok(false),
                None => {
                    // The magic may stand across the border.
                    from = (HEAD + TAIL).max((rest.len() + 1).saturating_sub(MAGIC.len()));
                    self.read_on()?;
                    continue;
                }
            };
            let Some(head) = head_length(&rest[..end]).filter(|head| head + TAIL <= end) else {
                return Ok(false);
            };
            let number =
                |at: usize| rest[at..at + 4].iter().rev().fold(0, |sum, &byte| (sum << 8) | u32::from(byte));
            let (checksum, size) = (number(end - 8), number(end - 4) as usize);
            if size <= OUTPUT {
                self.output.resize(self.output.len().max(size), 0);
                let output = &mut self.output[..size];
                let found = self.inflate.deflate_decompress(&rest[head..end - TAIL], output);
                if found == Ok(size) && libdeflater::crc32(output) == checksum {
                    self.length = size;
                    self.used += end;
                    return Ok(true);
                }
            }
            if found.is_none() {
                return Ok(false);
            }
            tried += 1;
            from = end + 1;
        }
        Ok(false)
    }

    /// What the stream has of its member; none behind it.
    fn stream_length(&mut self) -> io::Result<Option<usize>> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let mut length = stream.fill_buf()?.len();
        if length == 0 {
            // The checksum alone was left to read, or nothing.
            length = stream.fill_buf()?.len();
        }
        let member = stream.frame_start_position()?.unwrap_or(self.member);
        if length == 0 || member == self.member {
            return Ok(Some(length));
        }
        // The next one is tried whole again.
        self.stream = None;
        self.window.clear();
        (self.start, self.used, self.is_at_end) = (member, 0, false);
        self.bytes.seek(SeekFrom::Start(member))?;
        Ok(None)
    }
}

/// Where a member's data begins (RFC 1952): behind ten bytes, of which the fourth says what else there is.
fn head_length(member: &[u8]) -> Option<usize> {
    const CHECKSUM: u8 = 2;
    const EXTRA: u8 = 4;
    const TEXTS: [u8; 2] = [8, 16];
    if !member.starts_with(MAGIC) {
        return None;
    }
    let (flags, mut length) = (*member.get(3)?, HEAD);
    if flags & EXTRA != 0 {
        let extra = member.get(length..length + 2)?;
        length += 2 + usize::from(u16::from_le_bytes([extra[0], extra[1]]));
    }
    for text in TEXTS {
        if flags & text != 0 {
            length += member.get(length..)?.iter().position(|&byte| byte == 0)? + 1;
        }
    }
    if flags & CHECKSUM != 0 {
        length += 2;
    }
    (flags < 32).then_some(length)
}

impl<B: Bytes> BufRead for Members<B> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.given == self.length {
            if self.stream_length()?.is_some() {
                break;
            }
            if !self.next()? {
                return Ok(&[]);
            }
        }
        match &mut self.stream {
            Some(stream) => stream.fill_buf(),
            None => Ok(&self.output[self.given..self.length]),
        }
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount as u64;
        match &mut self.stream {
            Some(stream) => stream.consume(amount),
            None => self.given += amount,
        }
    }
}

impl<B: Bytes> Read for Members<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

impl<B: Bytes> Seek for Members<B> {
    /// Of the decompressed bytes; only says where it is.
    fn seek(&mut self, place: SeekFrom) -> io::Result<u64> {
        match place {
            SeekFrom::Current(0) => Ok(self.position),
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, "members of an archive are read in order")),
        }
    }
}

impl<B: Bytes> WarcRead for Members<B> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    fn inner_seek(&mut self, place: SeekFrom) -> io::Result<u64> {
        self.seek(place)
    }

    fn inner_stream_position(&mut self) -> io::Result<u64> {
        Ok(self.member)
    }

    fn frame_start_position(&mut self) -> io::Result<Option<u64>> {
        Ok(Some(self.member))
    }

    fn is_stream_decoder(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Cursor, Write};

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level(content));
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// Noise is stored as it stands.
    fn level(content: &[u8]) -> flate2::Compression {
        if content.starts_with(&noise(3)) { flate2::Compression::none() } else { flate2::Compression::fast() }
    }

    /// Numbers that do not compress.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    #[test]
    fn members_give_their_bytes_and_places() {
        // Small, empty, larger on disk than the window, larger than the output, one with the beginning of a member in it
        // that is stored as it stands, and one that is read whole again behind them.
        let mut stored = noise(70_000);
        stored[100..103].copy_from_slice(MAGIC);
        let contents =
            [b"one".to_vec(), Vec::new(), noise(WINDOW + 9), vec![0; OUTPUT + 1], stored, b"six".to_vec()];
        let members: Vec<Vec<u8>> = contents.iter().map(|content| gzip(content)).collect();
        assert!(members[4][18..].windows(3).any(|window| window == MAGIC));
        let mut reader = Members::new(Cursor::new(members.concat())).unwrap();
        let mut place = 0;
        for (content, member) in contents.iter().zip(&members) {
            let mut found = vec![0; content.len()];
            reader.read_exact(&mut found).unwrap();
            assert!(found == *content);
            if !content.is_empty() {
                assert_eq!(reader.frame_start_position().unwrap(), Some(place));
            }
            place += member.len() as u64;
        }
        assert!(reader.stream.is_none(), "the last member was read whole");
        assert!(reader.fill_buf().unwrap().is_empty());
    }

    #[test]
    fn heads_with_names_and_more_are_passed_over() {
        let builder = flate2::GzBuilder::new().filename("a").comment("b").extra([1, 2, 3]);
        let mut encoder = builder.write(Vec::new(), flate2::Compression::fast());
        encoder.write_all(b"text").unwrap();
        let member = encoder.finish().unwrap();
        assert_eq!(head_length(&member), Some(HEAD + 5 + 2 + 2));
        let mut reader = Members::new(Cursor::new(member)).unwrap();
        assert_eq!(reader.fill_buf().unwrap(), b"text");
        assert!(reader.stream.is_none());
    }

    #[test]
    fn damage_is_an_error_or_an_early_end_and_never_other_bytes() {
        let whole = [gzip(&noise(5000)), gzip(&noise(3000))].concat();
        let expected = [noise(5000), noise(3000)].concat();
        for place in (0..whole.len()).step_by(97) {
            let (mut changed, cut) = (whole.clone(), &whole[..place]);
            changed[place] ^= 0x10;
            for bytes in [cut, &changed[..]] {
                let mut found = Vec::new();
                let result = Members::new(Cursor::new(bytes.to_vec())).unwrap().read_to_end(&mut found);
                assert!(result.is_err() || expected.starts_with(&found), "{place}");
            }
        }
    }
}
