//! A run whose disk fills up ends with a clear error and can go on when there is room.

use crate::setup::{open, run, state_bits, train};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use triax_train::checkpoint::{Disk, DiskFile, LocalDisk, folder, list, verify};
use triax_train::{Observer, Resume, Start, StepReport};

/// No new file once it is full.
struct FillingDisk(Arc<AtomicBool>);

impl Disk for FillingDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        LocalDisk.create_folder(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(io::Error::from_raw_os_error(28)),
            false => LocalDisk.create(path),
        }
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        LocalDisk.sync_folder(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        LocalDisk.rename(from, to)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        LocalDisk.remove_folder(path)
    }
}

/// Fills the disk in step 11, when the checkpoint of step 8 is there.
struct Fill(PathBuf, Arc<AtomicBool>);

impl Observer for Fill {
    fn step(&mut self, step: &StepReport) {
        if step.step == 11 {
            while !folder(&self.0, 8).exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_full_disk_ends_the_run_and_the_older_checkpoint_goes_on_later_to_the_same_bits() {
    let data = tempfile::tempdir().unwrap();
    let run = run(data.path());
    let (whole, _) = train(&run, &data.path().join("whole"), Resume::Never);
    let directory = data.path().join("run");
    let full = Arc::new(AtomicBool::new(false));
    let start = Start { disk: Arc::new(FillingDisk(Arc::clone(&full))), ..Start::new(Resume::Never) };
    let mut fill = Fill(directory.clone(), full);
    let error = open(&run, &directory, start).unwrap().train(&mut fill).unwrap_err().to_string();
    for part in ["step-00000012", "No space left on device", "it needs "] {
        assert!(error.contains(part), "{error}");
    }
    let left = list(&directory).unwrap();
    assert_eq!(left.last().unwrap().0, 8);
    verify(&left.last().unwrap().1).unwrap();
    let (resumed, _) = train(&run, &directory, Resume::IfPresent);
    assert_eq!(state_bits(&resumed), state_bits(&whole));
}
