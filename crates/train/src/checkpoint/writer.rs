//! Writes one checkpoint: all of it or nothing.
//!
//! ```text
//! rank 0   prepare ─┬─ shard-00000-….safetensors ─ rank-00000.json ─ wait for all ─ manifest ─ rename
//! rank 1            └─ shard-00001-….safetensors ─ rank-00001.json
//! ```
//! A rank that writes alone does the same without the middle. What the others have to say goes through the folder
//! they all write to, so that training's own exchange is not held up.

use super::background::Writer;
use super::disk::{Disk, DiskFile};
use super::manifest::{FORMAT, FileEntry, Manifest, Slice, State, TensorEntry, VERSION};
use super::shards::{Shard, TensorShape};
use super::stream::Taker;
use super::{CHECKSUM, CheckpointError, FOLDER, MANIFEST, UNFINISHED, folder, list};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use triax_spec::Model;

/// Between two looks for what other ranks have written.
const LOOK: Duration = Duration::from_millis(2);

/// What to write beside the values of the shards' parts, which come one after the other.
pub(super) struct Contents<'a> {
    pub model: &'a Model,
    pub state: &'a State,
    pub tensors: &'a [TensorShape],
    pub shards: &'a [Shard],
}

/// Where to, and with whom.
pub(super) struct Target<'a> {
    pub disk: &'a dyn Disk,
    pub run_directory: &'a Path,
    /// Newest checkpoints that stay, 0 for all.
    pub keep: usize,
    pub writer: Writer,
    pub abandoned: &'a AtomicBool,
}

/// What one rank has written.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    files: Vec<FileEntry>,
    /// By number of the tensor.
    slices: Vec<(usize, Slice)>,
    /// Why it could not.
    failed: Option<String>,
}

/// Makes the unfinished folder of `step`, anew.
pub(super) fn prepare(disk: &dyn Disk, run_directory: &Path, step: u64) -> Result<(), CheckpointError> {
    let target = folder(run_directory, step);
    make_folder(disk, run_directory, &target).map_err(|source| write_error(run_directory, &target, 0, source))
}

fn make_folder(disk: &dyn Disk, run_directory: &Path, target: &Path) -> io::Result<()> {
    let unfinished = with_suffix(target, UNFINISHED);
    let parent = run_directory.join(FOLDER);
    disk.create_folder(&parent)?;
    disk.sync_folder(run_directory)?;
    if target.exists() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the folder exists already"));
    }
    if unfinished.exists() {
        disk.remove_folder(&unfinished)?;
    }
    disk.create_folder(&unfinished)
}

/// Writes this rank's part; the first rank waits for the others', publishes the checkpoint and removes all but the
/// newest `keep`. Returns the folder and the bytes this rank wrote. After an error nothing of the checkpoint is left
/// and the older ones are as they were; but for [`CheckpointError::Unconfirmed`], after which it is there.
pub(super) fn write(
    target: &Target<'_>,
    contents: &Contents<'_>,
    values: &mut Taker,
) -> Result<(PathBuf, u64), CheckpointError> {
    let Target { disk, run_directory, keep, writer, .. } = *target;
    let folder = folder(run_directory, contents.state.progress.step);
    let unfinished = with_suffix(&folder, UNFINISHED);
    let needed = contents.shards.iter().map(Shard::bytes).sum();
    let error = |source| {
        // Best effort: what cannot be removed now is removed at the next start. The others may be writing there.
        if writer.rank == 0 {
            let _ = disk.remove_folder(&unfinished);
        }
        write_error(run_directory, &folder, needed, source)
    };
    if writer.ranks == 1 {
        let made = make_folder(disk, run_directory, &folder);
        let written = made.and_then(|()| write_files(disk, &unfinished, contents, values)).map_err(error)?;
        publish(target, contents, vec![written], &unfinished, &folder).map_err(error)?;
        confirm(target, &folder)?;
        prune(disk, run_directory, keep)?;
        return Ok((folder, needed));
    }
    let mut failure = None;
    let written = write_files(disk, &unfinished, contents, values).unwrap_or_else(|source| {
        let failed = Some(source.to_string());
        failure = Some(source);
        Written { failed, ..Written::default() }
    });
    tell(disk, &unfinished, writer.rank, &written).map_err(error)?;
    if writer.rank > 0 {
        return match failure {
            None => Ok((folder, needed)),
            // The first rank removes the folder.
            Some(source) => Err(write_error(run_directory, &folder, needed, source)),
        };
    }
    let all = collect(target, &unfinished, written).map_err(error)?;
    publish(target, contents, all, &unfinished, &folder).map_err(error)?;
    confirm(target, &folder)?;
    prune(disk, run_directory, keep)?;
    Ok((folder, needed))
}

fn write_error(run_directory: &Path, folder: &Path, needed: u64, source: io::Error) -> CheckpointError {
    let available = rustix::fs::statvfs(run_directory).ok().map(|fs| fs.f_bavail * fs.f_frsize);
    CheckpointError::Write { folder: folder.to_owned(), needed, available, source }
}

/// Where rank `rank` says what it has written.
fn told(unfinished: &Path, rank: usize) -> PathBuf {
    unfinished.join(format!("rank-{rank:05}.json"))
}

fn tell(disk: &dyn Disk, unfinished: &Path, rank: usize, written: &Written) -> io::Result<()> {
    let path = told(unfinished, rank);
    let begun = with_suffix(&path, UNFINISHED);
    let mut file = disk.create(&begun)?;
    file.write_all(&serde_json::to_vec(written).expect("names and numbers always serialize"))?;
    file.sync()?;
    disk.rename(&begun, &path)
}

/// What all ranks have written, in their order, once all have.
fn collect(target: &Target<'_>, unfinished: &Path, first: Written) -> io::Result<Vec<Written>> {
    let mut all = vec![first];
    for rank in 1..target.writer.ranks {
        let path = told(unfinished, rank);
        while !path.exists() {
            if target.abandoned.load(Ordering::Relaxed) {
                return Err(io::Error::other(format!(
                    "the run ended before rank {rank} had written its part"
                )));
            }
            std::thread::sleep(LOOK);
        }
        let text = std::fs::read(&path)?;
        all.push(serde_json::from_slice(&text).map_err(io::Error::other)?);
        std::fs::remove_file(&path)?;
    }
    std::fs::remove_file(told(unfinished, 0))?;
    match all.iter().enumerate().find_map(|(rank, w)| Some((rank, w.failed.as_ref()?))) {
        Some((rank, failed)) => Err(io::Error::other(format!("rank {rank}: {failed}"))),
        None => Ok(all),
    }
}

fn write_files(
    disk: &dyn Disk,
    into: &Path,
    contents: &Contents<'_>,
    values: &mut Taker,
) -> io::Result<Written> {
    let mut written = Written::default();
    for shard in contents.shards {
        let mut file = disk.create(&into.join(&shard.name))?;
        let mut whole = blake3::Hasher::new();
        let mut put = |file: &mut dyn DiskFile, bytes: &[u8]| {
            whole.update(bytes);
            file.write_all(bytes)
        };
        put(&mut *file, &shard.header)?;
        for part in &shard.parts {
            let mut hash = blake3::Hasher::new();
            // Parts cut the pieces in order, so their values follow each other.
            let mut left = part.end - part.start;
            while left > 0 {
                let values = values.next(left)?;
                left -= values.len();
                let bytes: &[u8] = bytemuck::cast_slice(values);
                hash.update(bytes);
                put(&mut *file, bytes)?;
            }
            let slice = Slice {
                file: shard.name.clone(),
                start: part.start as u64,
                end: part.end as u64,
                dtype: "f32".into(),
                blake3: hash.finalize().to_string(),
            };
            written.slices.push((part.tensor, slice));
        }
        file.sync()?;
        written.files.push(FileEntry {
            name: shard.name.clone(),
            bytes: shard.bytes(),
            blake3: whole.finalize().to_string(),
        });
    }
    Ok(written)
}

/// Writes the manifest of what all ranks have written and gives the folder its name.
fn publish(
    target: &Target<'_>,
    contents: &Contents<'_>,
    all: Vec<Written>,
    unfinished: &Path,
    folder: &Path,
) -> io::Result<()> {
    let disk = target.disk;
    let entry = |shape: &TensorShape| TensorEntry {
        name: shape.name.clone(),
        dims: shape.dims.clone(),
        slices: Vec::new(),
    };
    let mut tensors: Vec<TensorEntry> = contents.tensors.iter().map(entry).collect();
    let mut files = Vec::new();
    for written in all {
        files.extend(written.files);
        for (tensor, slice) in written.slices {
            tensors[tensor].slices.push(slice);
        }
    }
    for tensor in &mut tensors {
        tensor.slices.sort_by_key(|slice| slice.start);
    }
    let manifest = Manifest {
        format: FORMAT.into(),
        version: VERSION,
        model: contents.model.clone(),
        state: contents.state.clone(),
        files,
        tensors,
    };
    let text = manifest.to_json();
    let checksum = format!("{}  {MANIFEST}\n", blake3::hash(&text));
    for (name, bytes) in [(CHECKSUM, checksum.as_bytes()), (MANIFEST, &text)] {
        let mut file = disk.create(&unfinished.join(name))?;
        file.write_all(bytes)?;
        file.sync()?;
    }
    disk.sync_folder(unfinished)?;
    disk.rename(unfinished, folder)
}

/// Makes the new name durable.
fn confirm(target: &Target<'_>, folder: &Path) -> Result<(), CheckpointError> {
    let synced = target.disk.sync_folder(&target.run_directory.join(FOLDER));
    synced.map_err(|source| CheckpointError::Unconfirmed { folder: folder.to_owned(), source })
}

/// Removes all but the newest `keep`; a folder loses its name first, so that half of one is never seen.
fn prune(disk: &dyn Disk, run_directory: &Path, keep: usize) -> Result<(), CheckpointError> {
    if keep == 0 {
        return Ok(());
    }
    let all = list(run_directory)?;
    for (_, old) in &all[..all.len().saturating_sub(keep)] {
        let dying = with_suffix(old, &format!(".old{UNFINISHED}"));
        disk.rename(old, &dying)
            .and_then(|()| disk.remove_folder(&dying))
            .map_err(|source| CheckpointError::io("remove the old checkpoint", old, source))?;
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
