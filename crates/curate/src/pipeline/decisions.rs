//! A global step's decisions, read in the order of documents: records of a document number (u64, little-endian) and
//! a payload of fixed size, sorted by number.

use crate::CurateError;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Reads the decisions of one shard.
pub(super) struct Decisions {
    path: PathBuf,
    reader: BufReader<File>,
    payload: usize,
    /// The record read ahead.
    next: Option<(u64, Vec<u8>)>,
    found: Vec<u8>,
}

/// Bits of a document number that count within a shard.
const PLACE: u32 = 40;

/// The number of a shard's document.
pub(super) const fn number(shard: u32, place: u64) -> u64 {
    (shard as u64) << PLACE | place
}

impl Decisions {
    /// From the first decision of `shard` on.
    pub(super) fn open(path: &Path, payload: usize, shard: u32) -> Result<Self, CurateError> {
        let fault = |error| CurateError::io("read", path, error);
        let mut file = File::open(path).map_err(fault)?;
        let (length, record) = (file.metadata().map_err(fault)?.len(), 8 + payload as u64);
        if length % record != 0 {
            return Err(CurateError::damaged(
                path,
                format_args!("{length} bytes are no whole records of {record}"),
            ));
        }
        // The first record that is not below the shard's first number.
        let (mut low, mut high) = (0, length / record);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut bytes = [0; 8];
            file.seek(SeekFrom::Start(middle * record)).map_err(fault)?;
            file.read_exact(&mut bytes).map_err(fault)?;
            if u64::from_le_bytes(bytes) < number(shard, 0) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        file.seek(SeekFrom::Start(low * record)).map_err(fault)?;
        let mut decisions = Self {
            path: path.to_owned(),
            reader: BufReader::with_capacity(1 << 16, file),
            payload,
            next: None,
            found: Vec::new(),
        };
        decisions.advance()?;
        Ok(decisions)
    }

    fn advance(&mut self) -> Result<(), CurateError> {
        let mut record = vec![0; 8 + self.payload];
        self.next = match self.reader.read_exact(&mut record) {
            Ok(()) => {
                let payload = record.split_off(8);
                let number = u64::from_le_bytes(record.try_into().expect("eight bytes are left"));
                Some((number, payload))
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(CurateError::io("read", &self.path, error)),
        };
        Ok(())
    }

    /// The payloads of a document, one after the other; none where it has no decision. Documents come in order.
    pub(super) fn of(&mut self, document: u64) -> Result<Option<&[u8]>, CurateError> {
        self.found.clear();
        let mut any = false;
        while let Some((number, payload)) = &self.next {
            if *number > document {
                break;
            }
            if *number < document {
                let message = format!(
                    "a decision for document {number:#x} comes after those of {document:#x}, or twice"
                );
                return Err(CurateError::damaged(&self.path, message));
            }
            self.found.extend_from_slice(payload);
            any = true;
            self.advance()?;
        }
        Ok(any.then_some(self.found.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_finds_its_own_decisions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions");
        let records = [(0, 3, 1u8), (0, 3, 2), (0, 9, 3), (2, 0, 4), (2, 7, 5)];
        let bytes: Vec<u8> = records
            .iter()
            .flat_map(|&(shard, place, payload)| {
                [&number(shard, place).to_le_bytes()[..], &[payload]].concat()
            })
            .collect();
        std::fs::write(&path, &bytes).unwrap();
        for shard in 0..4 {
            let mut decisions = Decisions::open(&path, 1, shard).unwrap();
            for place in 0..10 {
                let expected: Vec<u8> = records
                    .iter()
                    .filter(|record| (record.0, record.1) == (shard, place))
                    .map(|record| record.2)
                    .collect();
                let found = decisions.of(number(shard, place)).unwrap();
                assert_eq!(found.unwrap_or_default(), expected);
            }
        }
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(Decisions::open(&path, 1, 0).is_err());
    }

    #[test]
    fn decisions_out_of_order_are_an_error_and_not_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("decisions");
        let bytes = [number(0, 5).to_le_bytes(), number(0, 2).to_le_bytes()].concat();
        std::fs::write(&path, bytes).unwrap();
        let mut decisions = Decisions::open(&path, 0, 0).unwrap();
        assert!(decisions.of(number(0, 5)).is_err());
    }
}
