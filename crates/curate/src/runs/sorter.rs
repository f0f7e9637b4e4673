//! Sorts more records than fit in memory.

use super::merge::{Merge, Spills, merge_spills};
use super::{Record, RunError, RunWriter};
use std::path::{Path, PathBuf};

/// Takes records in any order and gives them back ascending.
pub struct Sorter<R> {
    folder: PathBuf,
    name: String,
    memory: usize,
    buffer: Vec<R>,
    spills: Spills,
}

/// The records of a [`Sorter`], ascending.
pub type Sorted<R> = Merge<R>;

impl<R: Record> Sorter<R> {
    /// Keeps up to `memory` bytes of records; what is more goes to files in `folder` that begin with `name`.
    #[must_use]
    pub fn new(folder: &Path, name: &str, memory: usize) -> Self {
        Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            memory,
            buffer: Vec::new(),
            spills: Spills::default(),
        }
    }

    /// # Errors
    /// When a spill cannot be written.
    pub fn push(&mut self, record: R) -> Result<(), RunError> {
        if self.buffer.len() >= (self.memory / size_of::<R>()).max(1) {
            self.spill()?;
        }
        self.buffer.push(record);
        Ok(())
    }

    fn spill(&mut self) -> Result<(), RunError> {
        self.buffer.sort_unstable();
        let name = format!("{}.{}-{:05}.spill", self.name, std::process::id(), self.spills.0.len());
        let path = self.folder.join(name);
        let mut writer = RunWriter::spill(&path)?;
        for record in self.buffer.drain(..) {
            writer.push(record)?;
        }
        writer.finish()?;
        self.spills.0.push(path);
        Ok(())
    }

    /// # Errors
    /// When a spill cannot be read.
    pub fn sorted(mut self) -> Result<Sorted<R>, RunError> {
        self.buffer.sort_unstable();
        let paths = self.spills.0.clone();
        // The records in memory and the buffers of the merge share the limit.
        let memory = self.memory.saturating_sub(self.buffer.len() * size_of::<R>());
        merge_spills(&paths, self.buffer, self.spills, memory, &self.folder)
    }

    /// Writes the records to a run that stays, and says how many there are.
    ///
    /// # Errors
    /// When a spill cannot be read or the run not be written.
    pub fn write(self, path: &Path) -> Result<u64, RunError> {
        let mut writer = RunWriter::create(path)?;
        for record in self.sorted()? {
            writer.push(record?)?;
        }
        writer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::RunReader;
    use super::super::testing::{Pair, pairs};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn records_come_back_ascending_whatever_fits_in_memory(
            count in 0u64..400, seed in any::<u64>(), memory in 0usize..4000,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut records = pairs(count, seed);
            let mut sorter = Sorter::new(folder.path(), "rows", memory);
            for &record in &records {
                sorter.push(record).unwrap();
            }
            records.sort_unstable();
            let path = folder.path().join("rows.run");
            prop_assert_eq!(sorter.write(&path).unwrap(), count);
            let read: Vec<Pair> = RunReader::open(&path, 1000).unwrap().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(read, records);
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }
}
