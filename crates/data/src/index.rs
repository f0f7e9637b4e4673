//! The `.idx` half of Megatron's indexed dataset: where each sequence and document lies in the `.bin`.
//!
//! ```text
//! 0   "MMIDIDX\0\0"      34            i32 × S  length of each sequence in tokens
//! 9   u64 version = 1    34 +  4·S     i64 × S  its byte offset in the .bin
//! 17  u8  type code      34 + 12·S     i64 × E  document borders as sequence numbers, 0 … S
//! 18  u64 S              34 + 12·S+8·E  i8 × S  modes, only in multimodal files
//! 26  u64 E                            little-endian throughout, nothing aligned
//! ```
//!
//! Every rule is checked while the arrays stream by; sizes are checked against the file's length before anything is
//! allocated. All known writers lay sequences one after another without gaps, and that is required, so that any run
//! of tokens is one contiguous read and only the running sum of the lengths is kept.

use crate::{IndexFault, TokenType};
use std::io::{self, Read};

pub(crate) const MAGIC: [u8; 9] = *b"MMIDIDX\0\0";
pub(crate) const VERSION: u64 = 1;
const HEADER: u64 = 34;

#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) kind: TokenType,
    /// First token of each sequence, and the total as last entry.
    pub(crate) starts: Vec<u64>,
    /// First sequence of each document and the number of sequences as last entry; `None` when each sequence is one
    /// document, as in nearly all text.
    borders: Option<Vec<u64>>,
    pub(crate) modes: Option<Vec<i8>>,
}

#[derive(Debug)]
pub(crate) enum ParseError {
    Io(io::Error),
    Fault(IndexFault),
}

impl From<io::Error> for ParseError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<IndexFault> for ParseError {
    fn from(fault: IndexFault) -> Self {
        Self::Fault(fault)
    }
}

impl Index {
    /// `length`: bytes in the whole file behind `input`.
    pub(crate) fn parse(input: &mut impl Read, length: u64) -> Result<Self, ParseError> {
        if length < HEADER {
            return Err(IndexFault::NoHeader { length }.into());
        }
        let found = bytes(input)?;
        if found != MAGIC {
            return Err(IndexFault::Magic { found }.into());
        }
        let version = u64::from_le_bytes(bytes(input)?);
        if version != VERSION {
            return Err(IndexFault::Version { found: version }.into());
        }
        let [code] = bytes(input)?;
        let kind = TokenType::from_code(code).ok_or(IndexFault::TypeCode { found: code })?;
        let sequences = u64::from_le_bytes(bytes(input)?);
        let entries = u64::from_le_bytes(bytes(input)?);
        let expected = u128::from(HEADER) + 12 * u128::from(sequences) + 8 * u128::from(entries);
        let has_modes = match u128::from(length) {
            found if found == expected => false,
            found if found == expected + u128::from(sequences) => true,
            _ => {
                return Err(
                    IndexFault::Length { sequences, borders: entries, expected, found: length }.into()
                );
            }
        };

        let starts = starts(input, sequences)?;
        check_pointers(input, &starts, kind)?;
        let borders = borders(input, sequences, entries)?;
        let modes = has_modes.then(|| (0..sequences).map(|_| bytes(input).map(i8::from_le_bytes)).collect());
        Ok(Self { kind, starts, borders, modes: modes.transpose()? })
    }

    pub(crate) fn sequences(&self) -> u64 {
        self.starts.len() as u64 - 1
    }

    pub(crate) fn tokens(&self) -> u64 {
        self.starts[self.starts.len() - 1]
    }

    pub(crate) fn documents(&self) -> u64 {
        self.borders.as_ref().map_or(self.sequences(), |borders| borders.len() as u64 - 1)
    }

    /// First sequence of a document; `document` may be the number of documents.
    pub(crate) fn border(&self, document: u64) -> u64 {
        self.borders.as_ref().map_or(document, |borders| borders[document as usize])
    }

    /// The document that holds a token, and the token's place in it.
    pub(crate) fn locate(&self, token: u64) -> (u64, u64) {
        let sequence = self.starts.partition_point(|&start| start <= token).saturating_sub(1) as u64;
        let document = match &self.borders {
            None => sequence,
            Some(borders) => borders.partition_point(|&border| border <= sequence).saturating_sub(1) as u64,
        };
        (document, token - self.starts[self.border(document) as usize])
    }
}

fn bytes<const SIZE: usize>(input: &mut impl Read) -> io::Result<[u8; SIZE]> {
    let mut buffer = [0; SIZE];
    input.read_exact(&mut buffer)?;
    Ok(buffer)
}

fn starts(input: &mut impl Read, sequences: u64) -> Result<Vec<u64>, ParseError> {
    let mut starts = Vec::with_capacity(sequences as usize + 1);
    let mut total = 0u64;
    starts.push(total);
    for sequence in 0..sequences {
        let length = i32::from_le_bytes(bytes(input)?);
        // A sum that saturates cannot equal any pointer, so it is refused there.
        total = total.saturating_add(
            u64::try_from(length).map_err(|_| IndexFault::NegativeLength { sequence, length })?,
        );
        starts.push(total);
    }
    Ok(starts)
}

fn check_pointers(input: &mut impl Read, starts: &[u64], kind: TokenType) -> Result<(), ParseError> {
    for (sequence, start) in starts[..starts.len() - 1].iter().enumerate() {
        let found = i64::from_le_bytes(bytes(input)?);
        let expected = start.saturating_mul(kind.size() as u64);
        if u64::try_from(found) != Ok(expected) {
            return Err(IndexFault::Pointer { sequence: sequence as u64, found, expected }.into());
        }
    }
    Ok(())
}

fn borders(input: &mut impl Read, sequences: u64, entries: u64) -> Result<Option<Vec<u64>>, ParseError> {
    if entries == 0 {
        return Err(IndexFault::NoBorders.into());
    }
    // Kept only from the first document that is not exactly one sequence.
    let mut irregular: Option<Vec<u64>> = None;
    let mut previous = 0;
    for entry in 0..entries {
        let found = i64::from_le_bytes(bytes(input)?);
        let fault = || IndexFault::Border { entry, found, sequences };
        let border = u64::try_from(found).map_err(|_| fault())?;
        let is_last = entry + 1 == entries;
        if border < previous
            || border > sequences
            || (entry == 0 && border != 0)
            || (is_last && border != sequences)
        {
            return Err(fault().into());
        }
        if border != entry && irregular.is_none() {
            irregular = Some((0..entry).collect());
        }
        if let Some(borders) = &mut irregular {
            borders.push(border);
        }
        previous = border;
    }
    Ok(irregular)
}

/// Entry point of the fuzz target: any bytes are either an index or a fault, never a panic.
pub fn fuzz_idx(mut bytes: &[u8]) {
    let length = bytes.len() as u64;
    if let Ok(index) = Index::parse(&mut bytes, length) {
        for document in 0..index.documents() {
            let (first, last) = (index.border(document), index.border(document + 1));
            assert!(index.starts[first as usize] <= index.starts[last as usize]);
        }
        if index.tokens() > 0 {
            let (document, _) = index.locate(index.tokens() - 1);
            assert!(document < index.documents());
        }
    }
}
