//! Scores already made, in a file that only grows: an interrupted evaluation goes on where it was.
//!
//! ```text
//! "triax scores 1\n"  then records:  key 32 │ n u32 │ n × f32 ln p │ n × u8 greedy │ check 4     little-endian
//! ```
//!
//! The key is the BLAKE3 hash of network and tokens, the check the first bytes of that of the record. A record cut
//! short by a kill, and all behind it, is dropped.

use crate::error::EvalError;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const HEADER: &[u8] = b"triax scores 1\n";

/// BLAKE3 of a network's identity and a request.
pub(crate) type Key = [u8; 32];

/// The score of each token of one request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scored {
    pub(crate) log_probs: Vec<f32>,
    pub(crate) greedy: Vec<bool>,
}

#[derive(Debug)]
pub struct Cache {
    scores: HashMap<Key, Scored>,
    file: Option<(PathBuf, File)>,
}

impl Cache {
    /// Forgets everything at the end.
    pub fn in_memory() -> Self {
        Self { scores: HashMap::new(), file: None }
    }

    /// Reads what the file holds, or makes it.
    ///
    /// # Errors
    /// When it cannot be read or written, or is a file of something else.
    pub fn open(path: &Path) -> Result<Self, EvalError> {
        let fault = |action| move |error| EvalError::io(action, path, error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(fault("open"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(fault("read"))?;
        let mut scores = HashMap::new();
        let whole = if HEADER.starts_with(&bytes) {
            // New, or killed while the header was written.
            file.set_len(0).map_err(fault("write"))?;
            file.seek(SeekFrom::Start(0)).map_err(fault("write"))?;
            file.write_all(HEADER).map_err(fault("write"))?;
            HEADER.len()
        } else if let Some(mut rest) = bytes.strip_prefix(HEADER) {
            while let Some((key, scored, after)) = record(rest) {
                scores.insert(key, scored);
                rest = after;
            }
            bytes.len() - rest.len()
        } else {
            let message = "not a file of scores; name another folder for the results, or remove it";
            return Err(EvalError::data(path, 0, message));
        };
        file.set_len(whole as u64).map_err(fault("write"))?;
        file.seek(SeekFrom::Start(whole as u64)).map_err(fault("write"))?;
        Ok(Self { scores, file: Some((path.to_owned(), file)) })
    }

    /// Requests whose scores are known.
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Scored> {
        self.scores.get(key)
    }

    /// All are in the file when this returns, though perhaps not yet on the disk.
    pub(crate) fn add(&mut self, scored: impl Iterator<Item = (Key, Scored)>) -> Result<(), EvalError> {
        let mut bytes = Vec::new();
        for (key, scored) in scored {
            let begin = bytes.len();
            bytes.extend_from_slice(&key);
            bytes.extend_from_slice(&(scored.log_probs.len() as u32).to_le_bytes());
            scored.log_probs.iter().for_each(|log_prob| bytes.extend_from_slice(&log_prob.to_le_bytes()));
            bytes.extend(scored.greedy.iter().map(|&greedy| u8::from(greedy)));
            let check = check(&bytes[begin..]);
            bytes.extend_from_slice(&check);
            self.scores.insert(key, scored);
        }
        if let Some((path, file)) = &mut self.file {
            file.write_all(&bytes).map_err(|error| EvalError::io("write", path, error))?;
        }
        Ok(())
    }
}

fn check(record: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = *blake3::hash(record).as_bytes();
    [a, b, c, d]
}

/// The first record and what follows it; `None` where it is not whole.
fn record(bytes: &[u8]) -> Option<(Key, Scored, &[u8])> {
    let (key, rest) = bytes.split_first_chunk::<32>()?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let count = u32::from_le_bytes(*count) as usize;
    let (log_probs, rest) = rest.split_at_checked(count.checked_mul(4)?)?;
    let (greedy, rest) = rest.split_at_checked(count)?;
    let (found, rest) = rest.split_first_chunk::<4>()?;
    let length = bytes.len() - rest.len() - found.len();
    let scored = Scored {
        log_probs: log_probs.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        greedy: greedy.iter().map(|&greedy| greedy != 0).collect(),
    };
    (check(&bytes[..length]) == *found).then_some((*key, scored, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u8) -> (Key, Scored) {
        let log_probs = vec![-f32::from(number) / 3.0; number as usize];
        ([number; 32], Scored { greedy: log_probs.iter().map(|_| number > 1).collect(), log_probs })
    }

    #[test]
    fn what_was_added_is_there_again_and_a_torn_record_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.bin");
        Cache::open(&path).unwrap().add((1..4).map(entry)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let mut cache = Cache::open(&path).unwrap();
            let kept = cache.len();
            assert!(kept < 3);
            for number in 1..=kept as u8 {
                assert_eq!(cache.get(&entry(number).0), Some(&entry(number).1));
            }
            cache.add((kept as u8 + 1..4).map(entry)).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), whole, "cut at {length}");
        }
    }

    #[test]
    fn a_changed_byte_drops_the_record_and_another_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.bin");
        Cache::open(&path).unwrap().add((1..3).map(entry)).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 6;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Cache::open(&path).unwrap().len(), 1);
        std::fs::write(&path, "{}").unwrap();
        assert!(Cache::open(&path).unwrap_err().to_string().contains("not a file of scores"));
        assert_eq!(std::fs::read(&path).unwrap(), b"{}");
    }
}
