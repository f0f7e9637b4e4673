//! The k-way merge of runs, in several rounds where there are more runs than buffers.

use super::{Record, RunError, RunReader, RunWriter};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::{Path, PathBuf};

/// Bytes read from a run at a time.
const BUFFER: usize = 1 << 18;
/// Runs open at once, well below the usual limit of 1024 files.
const MOST_OPEN: usize = 256;

/// Ascending records of several runs.
pub struct Merge<R> {
    heads: BinaryHeap<Reverse<(R, usize)>>,
    sources: Vec<Source<R>>,
    /// Deleted at the end.
    _spills: Spills,
    failure: Option<RunError>,
}

pub(super) enum Source<R> {
    Memory(std::vec::IntoIter<R>),
    Run(Box<RunReader<R>>),
}

/// Runs that nobody needs after the merge.
#[derive(Default)]
pub(super) struct Spills(pub(super) Vec<PathBuf>);

impl Drop for Spills {
    fn drop(&mut self) {
        for path in &self.0 {
            // What remains is deleted with the step's scratch folder.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// One ascending stream out of the runs at `paths`, with read buffers of at most `memory` bytes together. Rounds in
/// between, where they are needed, write to `scratch`.
///
/// # Errors
/// When a run cannot be read, is partial, or holds other records.
pub fn merge<R: Record>(paths: &[PathBuf], memory: usize, scratch: &Path) -> Result<Merge<R>, RunError> {
    merge_spills(paths, Vec::new(), Spills::default(), memory, scratch)
}

/// As [`merge`], with records that are still in memory and runs to be deleted afterwards.
pub(super) fn merge_spills<R: Record>(
    paths: &[PathBuf],
    in_memory: Vec<R>,
    mut spills: Spills,
    memory: usize,
    scratch: &Path,
) -> Result<Merge<R>, RunError> {
    let most = (memory / BUFFER).clamp(2, MOST_OPEN);
    let mut paths = paths.to_vec();
    let mut round = 0;
    while paths.len() > most {
        let mut merged = Vec::new();
        for (number, group) in paths.chunks(most).enumerate() {
            let path = scratch.join(format!("{}.round-{round}-{number:05}.spill", std::process::id()));
            let mut writer = RunWriter::<R>::spill(&path)?;
            for record in Merge::<R>::new(open(group)?, Spills::default())? {
                writer.push(record?)?;
            }
            writer.finish()?;
            spills.0.push(path.clone());
            merged.push(path);
        }
        paths = merged;
        round += 1;
    }
    let mut sources = open(&paths)?;
    sources.push(Source::Memory(in_memory.into_iter()));
    Merge::new(sources, spills)
}

fn open<R: Record>(paths: &[PathBuf]) -> Result<Vec<Source<R>>, RunError> {
    paths.iter().map(|path| Ok(Source::Run(Box::new(RunReader::open(path, BUFFER)?)))).collect()
}

impl<R: Record> Merge<R> {
    fn new(sources: Vec<Source<R>>, spills: Spills) -> Result<Self, RunError> {
        let mut merge = Self { heads: BinaryHeap::new(), sources, _spills: spills, failure: None };
        for number in 0..merge.sources.len() {
            if let Some(record) = merge.advance(number)? {
                merge.heads.push(Reverse((record, number)));
            }
        }
        Ok(merge)
    }

    fn advance(&mut self, source: usize) -> Result<Option<R>, RunError> {
        match &mut self.sources[source] {
            Source::Memory(records) => Ok(records.next()),
            Source::Run(reader) => reader.next().transpose(),
        }
    }
}

impl<R: Record> Iterator for Merge<R> {
    type Item = Result<R, RunError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failure.take() {
            self.heads.clear();
            return Some(Err(error));
        }
        let Reverse((record, source)) = *self.heads.peek()?;
        match self.advance(source) {
            // Replacing the head costs one descent instead of a removal and an insertion.
            Ok(Some(next)) => {
                if let Some(mut head) = self.heads.peek_mut() {
                    *head = Reverse((next, source));
                }
            }
            Ok(None) => {
                self.heads.pop();
            }
            Err(error) => self.failure = Some(error),
        }
        Some(Ok(record))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Pair, pairs};
    use super::*;

    #[test]
    fn many_runs_become_one_ascending_stream_in_rounds() {
        let folder = tempfile::tempdir().unwrap();
        let mut all = Vec::new();
        let paths: Vec<_> = (0..9)
            .map(|number| {
                let mut records = pairs(number * 13, number);
                records.sort_unstable();
                all.extend_from_slice(&records);
                let path = folder.path().join(format!("{number}.run"));
                let mut writer = RunWriter::create(&path).unwrap();
                records.iter().for_each(|&record| writer.push(record).unwrap());
                writer.finish().unwrap();
                path
            })
            .collect();
        all.sort_unstable();
        // Two buffers' worth of memory: nine runs need four rounds.
        for memory in [0, 3 * BUFFER, 100 * BUFFER] {
            let merged: Vec<Pair> =
                merge(&paths, memory, folder.path()).unwrap().collect::<Result<_, _>>().unwrap();
            assert_eq!(merged, all);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 9, "rounds in between are deleted");
    }

    #[test]
    fn a_damaged_run_ends_the_stream_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.run");
        let mut writer = RunWriter::create(&path).unwrap();
        (0..10).for_each(|key| writer.push(Pair { key, value: 1 }).unwrap());
        writer.finish().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[16 + 8] = 7;
        std::fs::write(&path, bytes).unwrap();
        let results: Vec<_> = merge::<Pair>(&[path], 0, folder.path()).unwrap().collect();
        assert_eq!(results.len(), 11);
        assert!(results[10].as_ref().unwrap_err().to_string().contains("x.run"));
    }
}
