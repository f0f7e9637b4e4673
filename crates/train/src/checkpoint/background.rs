//! Saving while training goes on: values are copied to a staging buffer, a thread writes them.
//!
//! ```text
//! training  ──step──step──│copy│──step──step──step──step──│wait│copy│──step──
//! writer                       └──write, fsync, rename────────┘     └──write …
//! ```
//! Training stops for the copy alone, unless the earlier save is still being written.

use super::disk::Disk;
use super::manifest::State;
use super::shards::{Shard, TensorShape, arrange};
use super::{CheckpointError, writer};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use triax_spec::Model;

/// Data bytes of a shard: large models are split over several files.
const SHARD_BYTES: usize = 1 << 30;

/// A committed checkpoint.
#[derive(Clone, Debug)]
pub struct Saved {
    pub folder: PathBuf,
    pub step: u64,
    pub bytes: u64,
    /// How long training stood still.
    pub stopped: Duration,
    /// How long the writer took.
    pub written: Duration,
}

/// Saves checkpoints of one run in the background.
pub struct Saver {
    job: Arc<Job>,
    /// Holds a copy of all values; empty before the first save and during a save.
    staging: Vec<f32>,
    running: Option<JoinHandle<Written>>,
}

/// What the writer gives back: the staging memory, and how it went.
type Written = (Vec<f32>, Result<Saved, CheckpointError>);

/// What all saves have in common.
struct Job {
    disk: Box<dyn Disk>,
    run_directory: PathBuf,
    keep: usize,
    model: Model,
    tensors: Vec<TensorShape>,
    shards: Vec<Shard>,
    elements: usize,
}

impl Saver {
    /// `keep`: newest checkpoints that stay, 0 for all.
    pub fn new(
        run_directory: PathBuf,
        keep: usize,
        model: Model,
        tensors: Vec<TensorShape>,
        disk: Box<dyn Disk>,
    ) -> Self {
        Self::with_shard_bytes(run_directory, keep, model, tensors, disk, SHARD_BYTES)
    }

    /// As [`Saver::new`] with at most `shard_bytes` of data a file.
    pub fn with_shard_bytes(
        run_directory: PathBuf,
        keep: usize,
        model: Model,
        tensors: Vec<TensorShape>,
        disk: Box<dyn Disk>,
        shard_bytes: usize,
    ) -> Self {
        let shards = arrange(&tensors, shard_bytes);
        let elements = tensors.iter().map(TensorShape::elements).sum();
        let job = Job { disk, run_directory, keep, model, tensors, shards, elements };
        Self { job: Arc::new(job), staging: Vec::new(), running: None }
    }

    /// Starts a save of `state` and of the values that `copy` writes: it is called once for each tensor, in
    /// order, with its place in the staging buffer. Waits for an earlier save first and returns its outcome.
    pub fn save(
        &mut self,
        state: State,
        mut copy: impl FnMut(usize, &mut [f32]),
    ) -> Result<Option<Saved>, CheckpointError> {
        let begin = Instant::now();
        let earlier = self.wait()?;
        let job = Arc::clone(&self.job);
        let mut staging = std::mem::take(&mut self.staging);
        staging
            .try_reserve_exact(job.elements - staging.len())
            .map_err(|_| CheckpointError::Staging { bytes: 4 * job.elements })?;
        staging.resize(job.elements, 0.0);
        let mut rest = staging.as_mut_slice();
        for (index, shape) in job.tensors.iter().enumerate() {
            let (values, after) = rest.split_at_mut(shape.elements());
            copy(index, values);
            rest = after;
        }
        let stopped = begin.elapsed();
        let work = move || {
            let begin = Instant::now();
            let contents = writer::Contents {
                model: &job.model,
                state: &state,
                tensors: &job.tensors,
                shards: &job.shards,
                values: &staging,
            };
            let outcome = writer::write(&*job.disk, &job.run_directory, job.keep, &contents);
            let saved = outcome.map(|(folder, bytes)| Saved {
                folder,
                step: state.progress.step,
                bytes,
                stopped,
                written: begin.elapsed(),
            });
            (staging, saved)
        };
        let thread = Builder::new().name("checkpoint".into()).spawn(work);
        self.running = Some(thread.map_err(|source| {
            CheckpointError::io("start the checkpoint writer for", &self.job.run_directory, source)
        })?);
        Ok(earlier)
    }

    /// The outcome of the save that runs, if it has ended by now.
    pub fn poll(&mut self) -> Result<Option<Saved>, CheckpointError> {
        if self.running.as_ref().is_some_and(JoinHandle::is_finished) { self.wait() } else { Ok(None) }
    }

    /// Waits for the save that runs, if there is one.
    pub fn wait(&mut self) -> Result<Option<Saved>, CheckpointError> {
        let Some(running) = self.running.take() else { return Ok(None) };
        match running.join() {
            Ok((staging, outcome)) => {
                self.staging = staging;
                outcome.map(Some)
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Saver {
    /// A save that was begun is finished, so that leaving early loses nothing. Its own failure is not told here:
    /// who leaves early has an error to tell already, and an unfinished save leaves nothing behind.
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.join();
        }
    }
}
