//! Checkpoints: the whole state of a run as named tensors that belong to no layout.
//!
//! ```text
//! checkpoints/
//!   step-00000400/
//!     shard-00000.safetensors    "weight/<name>", "adam.m/<name>", "adam.v/<name>", f32, at most ~1 GB a file
//!     shard-00001.safetensors    (shard-<rank>-<number> where several ranks write)
//!     manifest.json              position, data order, loss scale, statistics, and where each tensor's slices are
//!     manifest.json.blake3       checksum of the manifest, as `b3sum -c` reads it
//!   step-00000500.tmp/           being written, or left behind by a kill: never read, removed at the next start
//! ```
//!
//! A save is written to `….tmp`: every shard with fsync, the manifest last, then the directory, then one rename
//! and the parent's fsync. So a folder without `.tmp` is complete, and the reader still checks every size and hash.

mod background;
mod disk;
mod error;
mod manifest;
mod reader;
mod resume;
mod shards;
mod stream;
mod writer;

pub use background::{Saved, Saver, Writer};
pub use disk::{Disk, DiskFile, LocalDisk};
pub use error::{CheckpointError, Fault};
pub use manifest::{
    Bits, DataOrder, FileEntry, Manifest, Skipped, Slice, Stage, State, TensorEntry, fuzz_manifest,
};
pub use reader::{Checkpoint, verify};
pub use resume::{Resume, choose, clean, list};
pub use shards::{Moment, TensorShape};

use std::path::{Path, PathBuf};

/// Name of the folder of checkpoints in a run directory.
pub const FOLDER: &str = "checkpoints";
/// Folder names that end so are no checkpoints (yet, or any more).
const UNFINISHED: &str = ".tmp";
const MANIFEST: &str = "manifest.json";
const CHECKSUM: &str = "manifest.json.blake3";

/// Where the checkpoint of `step` lies.
pub fn folder(run_directory: &Path, step: u64) -> PathBuf {
    run_directory.join(FOLDER).join(format!("step-{step:08}"))
}
