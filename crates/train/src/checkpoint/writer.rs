//! Writes one checkpoint: all of it or nothing.

use super::disk::{Disk, DiskFile};
use super::manifest::{FORMAT, FileEntry, Manifest, Slice, State, TensorEntry, VERSION};
use super::shards::{Shard, TensorShape};
use super::{CHECKSUM, CheckpointError, FOLDER, MANIFEST, UNFINISHED, folder, list};
use std::io;
use std::path::{Path, PathBuf};
use triax_spec::Model;

/// Bytes written at a time.
const CHUNK: usize = 4 << 20;

/// What to write: the values of `tensors` lie one after the other in `values`.
pub(super) struct Contents<'a> {
    pub model: &'a Model,
    pub state: &'a State,
    pub tensors: &'a [TensorShape],
    pub shards: &'a [Shard],
    pub values: &'a [f32],
}

/// Writes and publishes the checkpoint, then removes all but the newest `keep` (0 keeps all). Returns the folder
/// and the bytes written. After an error nothing of it is left and the older ones are as they were.
pub(super) fn write(
    disk: &dyn Disk,
    run_directory: &Path,
    keep: usize,
    contents: &Contents<'_>,
) -> Result<(PathBuf, u64), CheckpointError> {
    let target = folder(run_directory, contents.state.progress.step);
    let unfinished = with_suffix(&target, UNFINISHED);
    let parent = run_directory.join(FOLDER);
    let needed = contents.shards.iter().map(Shard::bytes).sum();
    let publish = || {
        disk.create_folder(&parent)?;
        disk.sync_folder(run_directory)?;
        if target.exists() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the folder exists already"));
        }
        if unfinished.exists() {
            disk.remove_folder(&unfinished)?;
        }
        disk.create_folder(&unfinished)?;
        write_files(disk, &unfinished, contents)?;
        disk.sync_folder(&unfinished)?;
        disk.rename(&unfinished, &target)?;
        disk.sync_folder(&parent)
    };
    publish().map_err(|source| {
        let available = rustix::fs::statvfs(run_directory).ok().map(|fs| fs.f_bavail * fs.f_frsize);
        // Best effort: what cannot be removed now is removed at the next start.
        let _ = disk.remove_folder(&unfinished);
        CheckpointError::Write { folder: target.clone(), needed, available, source }
    })?;
    prune(disk, run_directory, keep)?;
    Ok((target, needed))
}

fn write_files(disk: &dyn Disk, into: &Path, contents: &Contents<'_>) -> io::Result<()> {
    let mut first = Vec::with_capacity(contents.tensors.len());
    let mut end = 0;
    for shape in contents.tensors {
        first.push(end);
        end += shape.elements();
    }
    let mut tensors: Vec<TensorEntry> = contents
        .tensors
        .iter()
        .map(|shape| TensorEntry { name: shape.name.clone(), dims: shape.dims.clone(), slices: Vec::new() })
        .collect();
    let mut files = Vec::with_capacity(contents.shards.len());
    for shard in contents.shards {
        let mut file = disk.create(&into.join(&shard.name))?;
        let mut whole = blake3::Hasher::new();
        let mut put = |file: &mut dyn DiskFile, bytes: &[u8]| {
            whole.update(bytes);
            file.write_all(bytes)
        };
        put(&mut *file, &shard.header)?;
        for part in &shard.parts {
            let from = first[part.tensor];
            let bytes: &[u8] = bytemuck::cast_slice(&contents.values[from + part.start..from + part.end]);
            let mut hash = blake3::Hasher::new();
            for chunk in bytes.chunks(CHUNK) {
                hash.update(chunk);
                put(&mut *file, chunk)?;
            }
            tensors[part.tensor].slices.push(Slice {
                file: shard.name.clone(),
                start: part.start as u64,
                end: part.end as u64,
                dtype: "f32".into(),
                blake3: hash.finalize().to_string(),
            });
        }
        file.sync()?;
        files.push(FileEntry {
            name: shard.name.clone(),
            bytes: shard.bytes(),
            blake3: whole.finalize().to_string(),
        });
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
        let mut file = disk.create(&into.join(name))?;
        file.write_all(bytes)?;
        file.sync()?;
    }
    Ok(())
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
