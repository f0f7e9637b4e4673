//! A save by four ranks in which the process is killed at any one file operation (before it, or in the middle of a
//! write), or in which that operation fails: a good checkpoint is always found, nothing hangs, and the run, resumed on
//! one rank, ends with the bits of one that nothing happened to. A sample of the operations; all of them with
//! `TRIAX_ALL=1` (`cargo xtask test --all`), or the second of eight parts of them with `TRIAX_ALL=2/8`.
//!
//! The test starts itself as the process that is killed.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod setup;

use setup::{device, run};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use triax_comm::Options;
use triax_plan::Layout;
use triax_spec::Run;
use triax_spec::run::Amount;
use triax_train::checkpoint::{Disk, DiskFile, LocalDisk, list, verify};
use triax_train::verify::{Evidence, Witness, difference};
use triax_train::{Resume, Start, TrainError, train_in_threads};

const NAME: &str = "a_save_of_four_ranks_may_be_cut_off_at_any_operation";
const SIGKILL: i32 = 9;
/// Operations tried in the ordinary tests.
const SAMPLE: u64 = 30;
/// Of each process.
const LONGEST: Duration = Duration::from_secs(30);

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Counts only.
    Nothing,
    Killed,
    /// A write is half done; before any other operation.
    KilledInside,
    Fails,
}

const FATES: [(&str, Fate); 4] = [
    ("nothing", Fate::Nothing),
    ("killed", Fate::Killed),
    ("inside", Fate::KilledInside),
    ("fails", Fate::Fails),
];

/// Tensor 2 × data 2, the optimizer's state shared out: every rank has something of its own to write.
fn the_run(data: &Path, ranks: usize, steps: u64) -> Run {
    let mut run = run(data);
    run.train.global_batch = triax_spec::run::GlobalBatch::constant(4);
    run.train.stop = Amount::Steps(steps);
    run.train.evaluate_every = 0;
    run.checkpoint.every = Amount::Steps(2);
    run.checkpoint.keep = 2;
    run.layout.micro_batch = 1;
    run.numerics.data_groups = 2;
    if ranks == 4 {
        (run.layout.tensor, run.layout.data, run.layout.zero) = (2, 2, 1);
    }
    run
}

fn train(run: &Run, folder: &Path, disk: Arc<dyn Disk>) -> Result<Witness, TrainError> {
    let layout = Layout::new(run, 0)?;
    let mut start = Start::new(Resume::IfPresent);
    start.disk = disk;
    let mut witness = Witness::default();
    let options = Options { timeout: Duration::from_secs(20) };
    train_in_threads(run, &layout, options, &|| device(run), folder, &start, &mut witness)?;
    Ok(witness)
}

/// Counts the operations of all ranks; the process, or the operation, ends at the chosen one.
struct Doomed {
    count: AtomicU64,
    at: u64,
    fate: Fate,
}

impl Doomed {
    /// Whether this operation is the one.
    fn is_chosen(&self) -> bool {
        self.count.fetch_add(1, Ordering::SeqCst) == self.at
    }

    fn operate(&self, what: &str) -> io::Result<()> {
        if self.is_chosen() { self.end(what) } else { Ok(()) }
    }

    fn end(&self, what: &str) -> io::Result<()> {
        match self.fate {
            Fate::Nothing => Ok(()),
            Fate::Killed | Fate::KilledInside => die(what),
            Fate::Fails => {
                println!("{what}");
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
        }
    }
}

/// The other ranks go on until the signal comes, as they would.
fn die(what: &str) -> ! {
    println!("{what}");
    let id = std::process::id();
    let _ = Command::new("sh").args(["-c", &format!("kill -9 {id}")]).status();
    loop {
        std::thread::sleep(LONGEST);
    }
}

struct DoomedDisk(Arc<Doomed>);

impl Disk for DoomedDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.0.operate("create folder")?;
        LocalDisk.create_folder(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.operate("create")?;
        Ok(Box::new(DoomedFile(LocalDisk.create(path)?, Arc::clone(&self.0))))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.0.operate("sync folder")?;
        LocalDisk.sync_folder(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.operate("rename")?;
        LocalDisk.rename(from, to)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.0.operate("remove folder")?;
        LocalDisk.remove_folder(path)
    }
}

struct DoomedFile(Box<dyn DiskFile>, Arc<Doomed>);

impl Write for DoomedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.1.is_chosen() {
            if self.1.fate == Fate::KilledInside {
                self.0.write_all(&bytes[..bytes.len() / 2])?;
            }
            self.1.end("write")?;
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl DiskFile for DoomedFile {
    fn sync(&mut self) -> io::Result<()> {
        self.1.operate("sync")?;
        self.0.sync()
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, data, folder, at, fate] = &arguments[..]
        && word == "train-in"
    {
        let (_, fate) = FATES.into_iter().find(|(name, _)| name == fate).unwrap();
        let doomed = Arc::new(Doomed { count: AtomicU64::new(0), at: at.parse().unwrap(), fate });
        let disk = Arc::new(DoomedDisk(Arc::clone(&doomed)));
        match train(&the_run(Path::new(data), 4, 6), &Path::new(data).join(folder), disk) {
            Ok(_) => println!("operations {}", doomed.count.load(Ordering::SeqCst)),
            Err(error) => {
                println!("error: {error}");
                std::process::exit(3);
            }
        }
        return;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        println!("{NAME}: test");
        return;
    }
    the_grid();
    println!("test {NAME} ... ok");
}

/// Trains in a process of its own, for so long at most.
fn child(data: &Path, folder: &str, at: u64, fate: &str) -> (ExitStatus, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["train-in", data.to_str().unwrap(), folder, &at.to_string(), fate])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + LONGEST;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("{fate} at operation {at}: the process hangs");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    (status, said)
}

fn evidence(witness: Witness, folder: &Path) -> Evidence {
    witness.evidence(folder).unwrap()
}

/// What `TRIAX_ALL` says of the grid: nothing, or the number of a part and of how many.
fn part() -> Option<(u64, u64)> {
    let said = std::env::var("TRIAX_ALL").ok()?;
    let Some((part, parts)) = said.split_once('/') else { return Some((1, 1)) };
    let (part, parts) = (part.parse().unwrap(), parts.parse().unwrap());
    assert!(1 <= part && part <= parts, "TRIAX_ALL={said}: part of parts, from 1");
    Some((part, parts))
}

fn the_grid() {
    let part = part();
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    // Longer than the others, so that there is something left to do after each of them.
    let one = the_run(data, 1, 8);
    let whole = evidence(train(&one, &data.join("whole"), Arc::new(LocalDisk)).unwrap(), &data.join("whole"));
    let (status, said) = child(data, "counted", u64::MAX, "nothing");
    assert!(status.success(), "{said}");
    let operations: u64 = said.trim().strip_prefix("operations ").unwrap().parse().unwrap();
    assert!(operations > 100, "three saves of four ranks are {operations} operations");

    let mut met: BTreeMap<String, usize> = BTreeMap::new();
    let (mut cut, mut random, mut tried) = (0u64, 99u64, 0u64);
    let numbers = match part {
        None => 0..SAMPLE,
        Some((part, parts)) => 3 * operations * (part - 1) / parts..3 * operations * part / parts,
    };
    for number in numbers {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = if part.is_some() { number / 3 } else { (random >> 33) % operations };
        let (name, fate) = FATES[1 + number as usize % 3];
        let (status, said) = child(data, "cut", at, name);
        let folder = data.join("cut");
        let place = format!("{name} at operation {at} of {operations}: {said}");
        // Ranks finish in any order, so that a run may have a few operations more or less than the counted one.
        if status.success() {
            assert!(at + 20 > operations, "{place}");
        } else if fate == Fate::Fails {
            assert_eq!(status.code(), Some(3), "{place}");
            assert!(said.contains("no storage space"), "the reason is told: {place}");
            cut += 1;
        } else {
            assert_eq!(status.signal(), Some(SIGKILL), "{place}");
            cut += 1;
        }
        if let Some(what) = said.lines().next().filter(|_| !status.success()) {
            *met.entry(what.to_owned()).or_default() += 1;
        }
        for (_, complete) in list(&folder).unwrap() {
            verify(&complete).unwrap_or_else(|error| panic!("{place}: {error}"));
        }
        let resumed =
            train(&one, &folder, Arc::new(LocalDisk)).unwrap_or_else(|error| panic!("{place}: {error}"));
        let found = difference(&evidence(resumed, &folder), &whole).unwrap();
        assert_eq!(found, None, "{place}");
        std::fs::remove_dir_all(&folder).unwrap();
        tried += 1;
    }
    assert!(cut + 5 > tried, "{cut} of {tried} were cut off");
    if part == Some((1, 1)) {
        for what in ["create folder", "create", "write", "sync", "rename", "sync folder", "remove folder"] {
            assert!(met.contains_key(what), "never met `{what}`: {met:?}");
        }
    }
    println!("{cut} of {tried} runs were cut off, at {met:?}");
}
