//! One run on disk.
//!
//! ```text
//! "TRIXRUN1"  kind (4 letters)  u32 bytes a record │ records, ascending │ "RUNS-END"  u64 count  u128 XXH3 of the records
//! ```
//!
//! Little-endian. The tail makes a file that was cut short recognisable by its last bytes and its length alone.

use super::{Record, RunError, RunFault};
use std::fs::{self, File};
use std::io::Write;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const HEAD: &[u8; 8] = b"TRIXRUN1";
const TAIL: &[u8; 8] = b"RUNS-END";
const HEAD_BYTES: u64 = 16;
const TAIL_BYTES: u64 = 32;
const WRITE_BLOCK: usize = 1 << 18;

/// Writes a run. Dropped without [`RunWriter::finish`], it leaves nothing behind.
pub struct RunWriter<R> {
    target: PathBuf,
    temporary: PathBuf,
    file: Option<File>,
    is_durable: bool,
    count: u64,
    last: Option<R>,
    checksum: Xxh3,
    /// Records not yet in the checksum and the file.
    block: Vec<u8>,
}

impl<R: Record> RunWriter<R> {
    /// A run that stays: synced to disk before it gets its name.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(target: &Path) -> Result<Self, RunError> {
        Self::open(target, true)
    }

    /// A run that this process deletes again; a crash makes it worthless anyway.
    pub(super) fn spill(target: &Path) -> Result<Self, RunError> {
        Self::open(target, false)
    }

    fn open(target: &Path, is_durable: bool) -> Result<Self, RunError> {
        if let Some(parent) = target.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(|error| RunError::io("create", parent, error))?;
        }
        let mut temporary = target.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let file = File::create(&temporary).map_err(|error| RunError::io("create", &temporary, error))?;
        let mut writer = Self {
            target: target.to_owned(),
            temporary,
            file: Some(file),
            is_durable,
            count: 0,
            last: None,
            checksum: Xxh3::new(),
            block: Vec::with_capacity(WRITE_BLOCK),
        };
        writer.write(&[&HEAD[..], &R::KIND, &(R::SIZE as u32).to_le_bytes()].concat())?;
        Ok(writer)
    }

    /// # Errors
    /// When the record is smaller than the one before it, or the disk is full.
    pub fn push(&mut self, record: R) -> Result<(), RunError> {
        if self.last.is_some_and(|last| last > record) {
            return Err(RunError::Damaged {
                path: self.target.clone(),
                fault: RunFault::Order { record: self.count },
            });
        }
        if self.block.len() + R::SIZE > WRITE_BLOCK {
            self.write_block()?;
        }
        let start = self.block.len();
        self.block.resize(start + R::SIZE, 0);
        record.encode(&mut self.block[start..]);
        self.last = Some(record);
        self.count += 1;
        Ok(())
    }

    /// Gives the run its name and returns how many records it holds.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn finish(mut self) -> Result<u64, RunError> {
        self.write_block()?;
        let checksum = self.checksum.digest128().to_le_bytes();
        self.write(&[&TAIL[..], &self.count.to_le_bytes(), &checksum].concat())?;
        let fault = |error| RunError::io("write", &self.temporary, error);
        let file = self.file.as_mut().expect("the file is open until it has its name");
        if self.is_durable {
            file.sync_all().map_err(fault)?;
        }
        fs::rename(&self.temporary, &self.target)
            .map_err(|error| RunError::io("rename to", &self.target, error))?;
        self.file = None;
        Ok(self.count)
    }

    fn write_block(&mut self) -> Result<(), RunError> {
        let mut block = std::mem::take(&mut self.block);
        self.checksum.update(&block);
        let written = self.write(&block);
        block.clear();
        self.block = block;
        written
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), RunError> {
        let file = self.file.as_mut().expect("the file is open until it has its name");
        file.write_all(bytes).map_err(|error| RunError::io("write", &self.temporary, error))
    }
}

impl<R> Drop for RunWriter<R> {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // The run has failed already and its error is on its way; a failed removal adds nothing.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Reads a run in order, or from a place found by binary search.
pub struct RunReader<R> {
    path: PathBuf,
    file: File,
    count: u64,
    /// The next record to read from the file.
    next: u64,
    block: Vec<u8>,
    /// Bytes of `block` already handed out.
    used: usize,
    filled: usize,
    last: Option<R>,
    /// Of what has been read so far; `None` after a jump, which leaves nothing to compare with.
    checksum: Option<(Xxh3, u128)>,
    has_failed: bool,
    record: PhantomData<R>,
}

impl<R: Record> RunReader<R> {
    /// `buffer`: bytes to read at a time.
    ///
    /// # Errors
    /// When the file cannot be read, is partial, or holds other records.
    pub fn open(path: &Path, buffer: usize) -> Result<Self, RunError> {
        let fault = |fault| RunError::Damaged { path: path.to_owned(), fault };
        let io = |error| RunError::io("read", path, error);
        let file = File::open(path).map_err(|error| RunError::io("open", path, error))?;
        let length = file.metadata().map_err(io)?.len();
        let partial = |expected: String| fault(RunFault::Partial { found: length, expected });
        if length < HEAD_BYTES + TAIL_BYTES {
            return Err(partial(format!("no run has fewer than {}", HEAD_BYTES + TAIL_BYTES)));
        }
        let mut head = [0; HEAD_BYTES as usize];
        file.read_exact_at(&mut head, 0).map_err(io)?;
        if head[..8] != *HEAD {
            return Err(fault(RunFault::Magic));
        }
        let size = u32::from_le_bytes([head[12], head[13], head[14], head[15]]);
        if head[8..12] != R::KIND || size as usize != R::SIZE {
            let text = |kind: &[u8]| String::from_utf8_lossy(kind).into_owned();
            return Err(fault(RunFault::Kind {
                found: text(&head[8..12]),
                found_size: size,
                expected: text(&R::KIND),
                expected_size: R::SIZE,
            }));
        }
        let mut tail = [0; TAIL_BYTES as usize];
        file.read_exact_at(&mut tail, length - TAIL_BYTES).map_err(io)?;
        let (count, checksum) = (&tail[8..16], &tail[16..]);
        let count = u64::from_le_bytes(count.try_into().expect("eight bytes"));
        let checksum = u128::from_le_bytes(checksum.try_into().expect("sixteen bytes"));
        let expected = u128::from(HEAD_BYTES + TAIL_BYTES) + u128::from(count) * R::SIZE as u128;
        if tail[..8] != *TAIL {
            return Err(partial("its end is missing".into()));
        }
        if u128::from(length) != expected {
            return Err(partial(format!("its {count} records take {expected}")));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            count,
            next: 0,
            block: vec![0; (buffer / R::SIZE).max(1) * R::SIZE],
            used: 0,
            filled: 0,
            last: None,
            checksum: Some((Xxh3::new(), checksum)),
            has_failed: false,
            record: PhantomData,
        })
    }

    /// Records in the run.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Jumps to the first record for which `is_before` no longer holds. The rest is read without the checksum, which is of
    /// the whole run.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn seek(&mut self, is_before: impl Fn(&R) -> bool) -> Result<(), RunError> {
        let (mut low, mut high) = (0, self.count);
        let mut bytes = vec![0; R::SIZE];
        while low < high {
            let middle = low + (high - low) / 2;
            self.file
                .read_exact_at(&mut bytes, HEAD_BYTES + middle * R::SIZE as u64)
                .map_err(|error| RunError::io("read", &self.path, error))?;
            if is_before(&R::decode(&bytes)) { low = middle + 1 } else { high = middle }
        }
        (self.next, self.used, self.filled) = (low, 0, 0);
        (self.last, self.checksum) = (None, None);
        Ok(())
    }

    fn read(&mut self) -> Result<Option<R>, RunError> {
        if self.used == self.filled {
            let records = (self.count - self.next).min((self.block.len() / R::SIZE) as u64);
            if records == 0 {
                return match self.checksum.take() {
                    Some((checksum, expected)) if checksum.digest128() != expected => {
                        Err(self.fault(RunFault::Checksum))
                    }
                    _ => Ok(None),
                };
            }
            let bytes = &mut self.block[..records as usize * R::SIZE];
            self.file
                .read_exact_at(bytes, HEAD_BYTES + self.next * R::SIZE as u64)
                .map_err(|error| RunError::io("read", &self.path, error))?;
            if let Some((checksum, _)) = &mut self.checksum {
                checksum.update(bytes);
            }
            self.next += records;
            (self.used, self.filled) = (0, bytes.len());
        }
        let record = R::decode(&self.block[self.used..self.used + R::SIZE]);
        self.used += R::SIZE;
        if self.last.is_some_and(|last| last > record) {
            let left = (self.filled - self.used) / R::SIZE;
            return Err(self.fault(RunFault::Order { record: self.next - left as u64 - 1 }));
        }
        self.last = Some(record);
        Ok(Some(record))
    }

    fn fault(&self, fault: RunFault) -> RunError {
        RunError::Damaged { path: self.path.clone(), fault }
    }
}

impl<R: Record> Iterator for RunReader<R> {
    type Item = Result<R, RunError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let record = self.read();
        self.has_failed = record.is_err();
        record.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Pair, pairs};
    use super::*;

    fn written(folder: &Path) -> (PathBuf, Vec<Pair>) {
        let path = folder.join("a.run");
        let mut records = pairs(1000, 1);
        records.sort_unstable();
        let mut writer = RunWriter::create(&path).unwrap();
        for &record in &records {
            writer.push(record).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), 1000);
        (path, records)
    }

    fn read(path: &Path) -> Result<Vec<Pair>, RunError> {
        RunReader::open(path, 64)?.collect()
    }

    #[test]
    fn what_was_written_is_read_back_from_any_place() {
        let folder = tempfile::tempdir().unwrap();
        let (path, records) = written(folder.path());
        assert_eq!(read(&path).unwrap(), records);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        for key in [0, 500, 2000] {
            let mut reader = RunReader::<Pair>::open(&path, 64).unwrap();
            reader.seek(|record| record.key < key).unwrap();
            let rest: Vec<_> = reader.map(Result::unwrap).collect();
            assert_eq!(rest, records[records.partition_point(|record| record.key < key)..]);
        }
    }

    #[test]
    fn every_partial_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = written(folder.path());
        let whole = fs::read(&path).unwrap();
        for length in (0..whole.len()).step_by(7) {
            fs::write(&path, &whole[..length]).unwrap();
            let message = read(&path).unwrap_err().to_string();
            assert!(message.contains("a.run: partial"), "{length}: {message}");
        }
    }

    #[test]
    fn a_changed_byte_and_another_kind_of_records_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = written(folder.path());
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        // The value of the last record: the order stays right.
        let place = whole.len() - TAIL_BYTES as usize - 1;
        changed[place] = 0xff;
        fs::write(&path, &changed).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("checksum"));
        changed[8] = b'x';
        fs::write(&path, &changed).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("xest"));
        changed[0] = b'x';
        fs::write(&path, &changed).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("not a run"));
    }

    #[test]
    fn records_out_of_order_are_refused_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = RunWriter::create(&folder.path().join("b.run")).unwrap();
        writer.push(Pair { key: 2, value: 0 }).unwrap();
        assert!(writer.push(Pair { key: 1, value: 0 }).is_err());
        drop(writer);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
