//! The true Jaccard similarity of two documents, out of the sets of their shingles on disk.
//!
//! A shard's sets lie in `sets.bin`, one after another as sorted u32; `sets.run` says where. Hashes are cut to 32 bits: two
//! documents of a thousand shingles then share one by chance in four thousand pairs.

use crate::global::GlobalError;
use crate::runs::{RunReader, RunWriter, record};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where the set of a document lies in its shard's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    document: u64,
    /// In shingles.
    start: u64,
    count: u32,
}

record!(Place, b"sets", document: u64, start: u64, count: u32);

fn set_path(folder: &Path) -> PathBuf {
    folder.join("sets.bin")
}

fn place_path(folder: &Path) -> PathBuf {
    folder.join("sets.run")
}

/// Writes the sets of a shard.
pub(super) struct SetWriter {
    path: PathBuf,
    sets: BufWriter<File>,
    places: RunWriter<Place>,
    start: u64,
    set: Vec<u32>,
}

impl SetWriter {
    pub(super) fn create(folder: &Path) -> Result<Self, GlobalError> {
        let path = set_path(folder);
        let file = File::create(&path).map_err(|error| GlobalError::io("create", &path, error))?;
        let places = RunWriter::create(&place_path(folder))?;
        Ok(Self { path, sets: BufWriter::with_capacity(1 << 18, file), places, start: 0, set: Vec::new() })
    }

    pub(super) fn push(&mut self, document: u64, shingles: &[u64]) -> Result<(), GlobalError> {
        self.set.clear();
        self.set.extend(shingles.iter().map(|&shingle| (shingle ^ shingle >> 32) as u32));
        self.set.sort_unstable();
        self.set.dedup();
        for shingle in &self.set {
            self.sets
                .write_all(&shingle.to_le_bytes())
                .map_err(|error| GlobalError::io("write", &self.path, error))?;
        }
        let count = self.set.len() as u32;
        self.places.push(Place { document, start: self.start, count })?;
        self.start += u64::from(count);
        Ok(())
    }

    /// The run with the places is named last, so that no set of theirs is missing.
    pub(super) fn finish(mut self) -> Result<(), GlobalError> {
        let synced = self.sets.flush().and_then(|()| self.sets.get_ref().sync_all());
        synced.map_err(|error| GlobalError::io("write", &self.path, error))?;
        self.places.finish()?;
        Ok(())
    }
}

/// Reads the sets of all shards.
pub(super) struct Sets {
    files: Vec<(PathBuf, File)>,
    /// Ascending, of documents that are asked for.
    places: Vec<(Place, u32)>,
    /// The set that most pairs in a row have in common.
    first: (u64, Vec<u32>),
    second: Vec<u32>,
    bytes: Vec<u8>,
}

impl Sets {
    /// `documents`: ascending, those that will be asked for. 32 bytes of memory for each.
    pub(super) fn open(shards: &[PathBuf], documents: &[u64]) -> Result<Self, GlobalError> {
        let (mut files, mut places) = (Vec::new(), Vec::new());
        for folder in shards {
            for place in RunReader::<Place>::open(&place_path(folder), 1 << 16)? {
                let place = place?;
                if documents.binary_search(&place.document).is_ok() {
                    places.push((place, files.len() as u32));
                }
            }
            let path = set_path(folder);
            let file = File::open(&path).map_err(|error| GlobalError::io("open", &path, error))?;
            files.push((path, file));
        }
        Ok(Self { files, places, first: (u64::MAX, Vec::new()), second: Vec::new(), bytes: Vec::new() })
    }

    /// Shingles in both over shingles in either.
    pub(super) fn jaccard(&mut self, first: u64, second: u64) -> Result<f64, GlobalError> {
        if self.first.0 != first {
            let mut set = std::mem::take(&mut self.first.1);
            self.read(first, &mut set)?;
            self.first = (first, set);
        }
        let mut set = std::mem::take(&mut self.second);
        self.read(second, &mut set)?;
        self.second = set;
        Ok(jaccard(&self.first.1, &self.second))
    }

    fn read(&mut self, document: u64, set: &mut Vec<u32>) -> Result<(), GlobalError> {
        let place = self.places.binary_search_by_key(&document, |(place, _)| place.document);
        let (place, file) = self.places[place.expect("all documents of pairs were asked for")];
        let (path, file) = &self.files[file as usize];
        self.bytes.resize(place.count as usize * 4, 0);
        file.read_exact_at(&mut self.bytes, place.start * 4)
            .map_err(|error| GlobalError::io("read", path, error))?;
        set.clear();
        set.extend(self.bytes.as_chunks::<4>().0.iter().map(|&bytes| u32::from_le_bytes(bytes)));
        Ok(())
    }
}

/// Of two ascending sets.
fn jaccard(one: &[u32], other: &[u32]) -> f64 {
    let (mut left, mut right, mut both) = (0, 0, 0usize);
    while left < one.len() && right < other.len() {
        let (a, b) = (one[left], other[right]);
        both += usize::from(a == b);
        left += usize::from(a <= b);
        right += usize::from(b <= a);
    }
    both as f64 / (one.len() + other.len() - both).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarity_counts_shared_shingles() {
        assert_eq!(jaccard(&[1, 2, 3], &[2, 3, 4]), 0.5);
        assert_eq!(jaccard(&[1, 2], &[1, 2]), 1.0);
        assert_eq!(jaccard(&[1], &[2]), 0.0);
    }

    #[test]
    fn sets_are_found_in_their_shards() {
        let folder = tempfile::tempdir().unwrap();
        let shards: Vec<PathBuf> = (0..2).map(|shard| folder.path().join(shard.to_string())).collect();
        for (shard, path) in shards.iter().enumerate() {
            std::fs::create_dir(path).unwrap();
            let mut writer = SetWriter::create(path).unwrap();
            for document in 0..3 {
                writer.push(10 * shard as u64 + document, &[5, 5, document, 7 + shard as u64]).unwrap();
            }
            writer.finish().unwrap();
        }
        let mut sets = Sets::open(&shards, &[1, 2, 12]).unwrap();
        assert_eq!(sets.jaccard(1, 2).unwrap(), 0.5);
        assert_eq!(sets.jaccard(2, 12).unwrap(), 0.5);
        assert_eq!(sets.jaccard(1, 12).unwrap(), 0.2);
    }
}
