//! Checkpoint files: what is written is read back bit for bit, every kind of damage is refused by name, and a save
//! that fails at any one file operation leaves the older checkpoint as it was.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use triax_spec::{Model, Progress, presets};
use triax_train::checkpoint::{
    Bits, Checkpoint, CheckpointError, DataOrder, Disk, DiskFile, Fault, LocalDisk, Resume, Saver, Skipped,
    Stage, State, TensorShape, choose, clean, folder, list, verify,
};
use triax_train::loss_scale::LossScaler;
use triax_train::watch::WatchState;

fn model() -> Model {
    presets::find("gpt2-124m").unwrap().model.clone()
}

fn tensors() -> Vec<TensorShape> {
    [("weight/a", vec![7, 5]), ("weight/b", vec![3]), ("adam.m/a", vec![7, 5]), ("adam.v/a", vec![40])]
        .into_iter()
        .map(|(name, dims)| TensorShape { name: name.into(), dims })
        .collect()
}

fn state(step: u64) -> State {
    State {
        progress: Progress { step, samples: 3 * step, tokens: u64::MAX - step },
        updates: step - 1,
        data: DataOrder {
            seed: u64::MAX,
            sequence: 16,
            sources: vec!["books".into(), "web".into()],
            stages: vec![Stage { start: 0, weights: vec![Bits(0.1), Bits(1.0 / 3.0)] }],
        },
        loss_scale: Some(LossScaler::new(&triax_spec::run::LossScale {
            initial: 65536.0,
            minimum: 1.0,
            window: 10,
            hysteresis: 2,
        })),
        watch: WatchState { losses: vec![Bits(f64::MIN_POSITIVE)], norms: vec![Bits(-0.0)], in_a_row: 1 },
        skipped: vec![Skipped { step: 2, start: 6, end: 9, reason: "a \"spike\"".into() }],
        tokenizer: None,
    }
}

fn value(step: u64, tensor: usize, element: usize) -> f32 {
    f32::from_bits((step as u32) << 20 | (tensor as u32) << 16 | element as u32)
}

fn saver(run: &Path, disk: Arc<dyn Disk>, keep: usize) -> Saver {
    Saver::with_shard_bytes(run.to_owned(), keep, model(), tensors(), disk, 200)
}

fn save(saver: &mut Saver, step: u64) -> Result<(), CheckpointError> {
    saver.save(state(step), |tensor, first, values| {
        values.iter_mut().enumerate().for_each(|(i, v)| *v = value(step, tensor, first + i));
    })?;
    saver.wait()?;
    Ok(())
}

fn saved(step: u64) -> (tempfile::TempDir, PathBuf) {
    let run = tempfile::tempdir().unwrap();
    save(&mut saver(run.path(), Arc::new(LocalDisk), 0), step).unwrap();
    let folder = folder(run.path(), step);
    (run, folder)
}

fn assert_holds(folder: &Path, step: u64) {
    let checkpoint = Checkpoint::open(folder).unwrap();
    checkpoint.verify().unwrap();
    assert_eq!(checkpoint.manifest().state, state(step));
    for (tensor, shape) in tensors().iter().enumerate() {
        let mut read = Vec::new();
        checkpoint
            .read(&shape.name, |at, piece| {
                assert_eq!(at, read.len());
                read.extend(piece.iter().map(|v| v.to_bits()));
            })
            .unwrap();
        let written: Vec<u32> = (0..shape.elements()).map(|i| value(step, tensor, i).to_bits()).collect();
        assert_eq!(read, written, "{}", shape.name);
    }
}

fn fault(folder: &Path) -> Fault {
    match verify(folder) {
        Err(CheckpointError::Damaged { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn what_is_written_is_read_back_bit_for_bit_over_several_shards() {
    let (_run, folder) = saved(7);
    assert!(files(&folder).len() >= 4, "two or more shards, manifest and checksum");
    assert_holds(&folder, 7);
}

#[test]
fn a_second_save_waits_for_the_first_and_only_the_newest_are_kept() {
    let run = tempfile::tempdir().unwrap();
    let mut saver = saver(run.path(), Arc::new(LocalDisk), 2);
    for step in 1..=5 {
        let earlier = saver
            .save(state(step), |tensor, first, values| {
                values.iter_mut().enumerate().for_each(|(i, v)| *v = value(step, tensor, first + i));
            })
            .unwrap();
        assert_eq!(earlier.map(|saved| saved.step), (step > 1).then(|| step - 1));
    }
    drop(saver);
    let steps: Vec<u64> = list(run.path()).unwrap().into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [4, 5]);
    assert_holds(&folder(run.path(), 4), 4);
    assert_holds(&folder(run.path(), 5), 5);
}

#[test]
fn every_flipped_bit_is_refused_and_the_file_named() {
    let (_run, folder) = saved(3);
    for file in files(&folder) {
        let intact = fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        for at in (0..intact.len()).step_by(11) {
            let mut bytes = intact.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&file, &bytes).unwrap();
            let message = fault(&folder).to_string();
            let named = if name.ends_with(".blake3") { "manifest.json" } else { &name };
            assert!(message.contains(named), "{name} byte {at}: {message}");
        }
        fs::write(&file, &intact).unwrap();
    }
    assert_holds(&folder, 3);
}

#[test]
fn truncated_missing_and_unlisted_files_are_refused_by_name() {
    let (_run, folder) = saved(3);
    for file in files(&folder) {
        let intact = fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        fs::write(&file, &intact[..intact.len() - 1]).unwrap();
        assert!(
            fault(&folder).to_string().contains("manifest.json")
                || fault(&folder).to_string().contains(&name)
        );
        fs::remove_file(&file).unwrap();
        assert_eq!(fault(&folder), Fault::Missing { file: name });
        fs::write(&file, &intact).unwrap();
    }
    let stray = folder.join("shard-00099.safetensors");
    fs::write(&stray, b"x").unwrap();
    assert_eq!(fault(&folder), Fault::Unlisted { file: "shard-00099.safetensors".into() });
    fs::remove_file(stray).unwrap();
    assert_holds(&folder, 3);
}

#[test]
fn other_models_and_other_tensors_are_refused_by_name() {
    let (_run, folder) = saved(3);
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let refused = |model: &Model, tensors: &[TensorShape]| {
        checkpoint.check_model(model, tensors).unwrap_err().to_string()
    };
    checkpoint.check_model(&model(), &tensors()).unwrap();
    let wider = Model { hidden: 1024, ..model() };
    assert!(refused(&wider, &tensors()).contains("hidden is 768 there and 1024 in the run file"));
    assert!(refused(&model(), &tensors()[1..]).contains("no tensor `weight/a`"));
    let mut more = tensors();
    more.push(TensorShape { name: "weight/new".into(), dims: vec![1] });
    assert!(refused(&model(), &more).contains("`weight/new` is missing"));
    let mut other = tensors();
    other[0].dims = vec![5, 7];
    assert!(refused(&model(), &other).contains("`weight/a` is [7, 5], the model needs [5, 7]"));
}

#[test]
fn resume_never_starts_anew_silently() {
    let run = tempfile::tempdir().unwrap();
    let none = choose(run.path(), Resume::Must).unwrap_err();
    assert!(matches!(none, CheckpointError::NoneFound { .. }), "{none}");
    assert!(choose(run.path(), Resume::IfPresent).unwrap().is_none());
    assert!(choose(run.path(), Resume::Never).unwrap().is_none());

    let mut saver = saver(run.path(), Arc::new(LocalDisk), 0);
    save(&mut saver, 10).unwrap();
    save(&mut saver, 20).unwrap();
    for resume in [Resume::Must, Resume::IfPresent] {
        let found = choose(run.path(), resume).unwrap().unwrap();
        assert_eq!(found.manifest().state.progress.step, 20);
    }
    let there = choose(run.path(), Resume::Never).unwrap_err().to_string();
    assert!(there.contains("step-00000020") && there.contains("--resume must"), "{there}");

    fs::remove_file(folder(run.path(), 20).join("shard-00001.safetensors")).unwrap();
    for resume in [Resume::Must, Resume::IfPresent] {
        let message = choose(run.path(), resume).unwrap_err().to_string();
        for part in ["step-00000020", "shard-00001.safetensors is missing", "step-00000010 is intact"] {
            assert!(message.contains(part), "{message}");
        }
    }
    fs::remove_file(folder(run.path(), 10).join("manifest.json")).unwrap();
    let message = choose(run.path(), Resume::Must).unwrap_err().to_string();
    assert!(message.contains("no older one is intact"), "{message}");
}

#[test]
fn unfinished_saves_are_ignored_and_cleaned() {
    let (run, folder) = saved(3);
    let unfinished = run.path().join("checkpoints/step-00000009.tmp");
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join("shard-00000.safetensors"), b"half").unwrap();
    assert_eq!(list(run.path()).unwrap(), [(3, folder)]);
    clean(run.path()).unwrap();
    assert!(!unfinished.exists());
    assert_eq!(list(run.path()).unwrap().len(), 1);
}

/// Lets the operation fail that brings `left` to zero, and all after it.
struct FailingDisk(Arc<AtomicI64>);

impl FailingDisk {
    fn operate(left: &AtomicI64) -> io::Result<()> {
        if left.fetch_sub(1, Ordering::SeqCst) > 0 {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }
    }
}

impl Disk for FailingDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        Self::operate(&self.0)?;
        LocalDisk.create_folder(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Self::operate(&self.0)?;
        Ok(Box::new(FailingFile(LocalDisk.create(path)?, Arc::clone(&self.0))))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        Self::operate(&self.0)?;
        LocalDisk.sync_folder(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Self::operate(&self.0)?;
        LocalDisk.rename(from, to)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        LocalDisk.remove_folder(path)
    }
}

struct FailingFile(Box<dyn DiskFile>, Arc<AtomicI64>);

impl Write for FailingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        FailingDisk::operate(&self.1)?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl DiskFile for FailingFile {
    fn sync(&mut self) -> io::Result<()> {
        FailingDisk::operate(&self.1)?;
        self.0.sync()
    }
}

#[test]
fn a_disk_that_fails_at_any_operation_leaves_the_older_checkpoint_and_nothing_half_written() {
    let (mut failures, mut unconfirmed) = (0, 0);
    for operations in 0.. {
        let (run, older) = saved(1);
        let left = Arc::new(AtomicI64::new(operations));
        let outcome = save(&mut saver(run.path(), Arc::new(FailingDisk(left)), 0), 2);
        assert_holds(&older, 1);
        match outcome {
            Ok(()) => {
                assert_holds(&folder(run.path(), 2), 2);
                break;
            }
            Err(CheckpointError::Write { needed, source, .. }) => {
                assert_eq!(source.kind(), io::ErrorKind::StorageFull);
                assert!(needed > 400);
                failures += 1;
            }
            Err(CheckpointError::Unconfirmed { folder, source }) => {
                assert_eq!(source.kind(), io::ErrorKind::StorageFull);
                assert_holds(&folder, 2);
                assert_eq!(list(run.path()).unwrap().len(), 2);
                unconfirmed += 1;
                continue;
            }
            Err(other) => panic!("{other}"),
        }
        // Only when all but the last sync went well is there a new one.
        assert_eq!(list(run.path()).unwrap(), [(1, older)]);
        let leftovers = fs::read_dir(run.path().join("checkpoints"))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "tmp"));
        assert_eq!(leftovers.count(), 0);
    }
    assert!(failures > 20, "a save has {failures} operations that can fail");
    assert_eq!(unconfirmed, 1, "the last sync alone fails after the rename");
}

#[test]
fn a_full_file_system_ends_the_save_with_path_and_bytes() {
    let (run, older) = saved(1);
    let disk = FailingDisk(Arc::new(AtomicI64::new(6)));
    let message = save(&mut saver(run.path(), Arc::new(disk), 0), 2).unwrap_err().to_string();
    for part in ["step-00000002", "it needs ", "are free there", "older checkpoints are as they were"] {
        assert!(message.contains(part), "{message}");
    }
    assert_holds(&older, 1);
}

/// A file system of a few pages, gone with the guard.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// None, and why, where this process may not mount one.
    fn mount(kilobytes: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={kilobytes}k");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            Ok(output) => {
                println!("skipped: no tmpfs of our own: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("skipped: no tmpfs of our own: mount: {error}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[test]
fn a_disk_that_is_really_full_ends_the_save_and_has_room_again_for_the_next() {
    let Some(disk) = SmallDisk::mount(256) else { return };
    let run = disk.0.path();
    save(&mut saver(run, Arc::new(LocalDisk), 0), 1).unwrap();
    let older = folder(run, 1);
    // What else lies there leaves room for some of a checkpoint's files only.
    let ballast = run.join("ballast");
    let room = rustix::fs::statvfs(run).map(|fs| fs.f_bavail * fs.f_frsize).unwrap();
    for free in [0, 4096, 8192, 12_288] {
        fs::write(&ballast, vec![1; (room - free) as usize]).unwrap();
        let error = save(&mut saver(run, Arc::new(LocalDisk), 0), 2).unwrap_err();
        let message = error.to_string();
        let CheckpointError::Write { source, available, .. } = error else { panic!("{message}") };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull, "{message}");
        assert!(available.unwrap() <= free, "{message}");
        assert!(
            message.contains("step-00000002") && message.contains("nothing was left behind"),
            "{message}"
        );
        assert_holds(&older, 1);
        assert_eq!(files(&run.join("checkpoints")), std::slice::from_ref(&older));
        fs::remove_file(&ballast).unwrap();
    }
    save(&mut saver(run, Arc::new(LocalDisk), 0), 2).unwrap();
    assert_holds(&folder(run, 2), 2);
}
