//! Saving while training goes on: values are copied to a bounded pool, a thread writes them.
//!
//! ```text
//! training  ──step──step──│copy·····│──step──step──step──step──│wait│copy·····│──step──
//! writer                  └──write, fsync, rename──────────────────┘└──write …
//! ```
//! Training stops for the copy, the last third of which fits into memory while the rest is being written (see
//! `stream.rs`), and for an earlier save that is still under way. Where several ranks save, each writes its own
//! pieces and the first publishes when all have.

use super::disk::Disk;
use super::manifest::State;
use super::shards::{Shard, TensorShape, arrange, whole};
use super::stream::{Giver, pool, stream};
use super::{CheckpointError, writer};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    running: Option<Running>,
}

struct Running {
    writer: JoinHandle<Result<Saved, CheckpointError>>,
    /// How long training stood still.
    stopped: Duration,
}

/// What all saves have in common.
struct Job {
    disk: Arc<dyn Disk>,
    run_directory: PathBuf,
    keep: usize,
    model: Model,
    tensors: Vec<TensorShape>,
    pieces: Vec<(usize, Range<usize>)>,
    shards: Vec<Shard>,
    elements: usize,
    writer: Writer,
    /// The run is over: nobody waits for the other ranks any more.
    abandoned: AtomicBool,
}

/// Which of the ranks that write a checkpoint together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer {
    pub rank: usize,
    pub ranks: usize,
}

impl Writer {
    pub const ALONE: Self = Self { rank: 0, ranks: 1 };
}

impl Saver {
    /// `keep`: newest checkpoints that stay, 0 for all.
    pub fn new(
        run_directory: PathBuf,
        keep: usize,
        model: Model,
        tensors: Vec<TensorShape>,
        disk: Arc<dyn Disk>,
    ) -> Self {
        Self::with_shard_bytes(run_directory, keep, model, tensors, disk, SHARD_BYTES)
    }

    /// The saver of one rank, which writes `pieces` (tensor, its elements) of the tensors. Before each save
    /// [`Saver::prepare`] is called on the first rank, and no rank calls [`Saver::save`] before that has returned.
    pub fn of_rank(
        run_directory: PathBuf,
        keep: usize,
        model: Model,
        (tensors, pieces): (Vec<TensorShape>, Vec<(usize, Range<usize>)>),
        disk: Arc<dyn Disk>,
        writer: Writer,
    ) -> Self {
        Self::build(run_directory, keep, model, (tensors, pieces), disk, SHARD_BYTES, writer)
    }

    /// As [`Saver::new`] with at most `shard_bytes` of data a file.
    pub fn with_shard_bytes(
        run_directory: PathBuf,
        keep: usize,
        model: Model,
        tensors: Vec<TensorShape>,
        disk: Arc<dyn Disk>,
        shard_bytes: usize,
    ) -> Self {
        let pieces = whole(&tensors);
        Self::build(run_directory, keep, model, (tensors, pieces), disk, shard_bytes, Writer::ALONE)
    }

    fn build(
        run_directory: PathBuf,
        keep: usize,
        model: Model,
        (tensors, pieces): (Vec<TensorShape>, Vec<(usize, Range<usize>)>),
        disk: Arc<dyn Disk>,
        shard_bytes: usize,
        writer: Writer,
    ) -> Self {
        let shards = arrange(&tensors, &pieces, shard_bytes, (writer.ranks > 1).then_some(writer.rank));
        let elements = pieces.iter().map(|(_, elements)| elements.len()).sum();
        let abandoned = AtomicBool::new(false);
        let job =
            Job { disk, run_directory, keep, model, tensors, pieces, shards, elements, writer, abandoned };
        Self { job: Arc::new(job), running: None }
    }

    /// Makes the place that all ranks write the checkpoint of `step` to; on the first rank alone.
    pub fn prepare(&self, step: u64) -> Result<(), CheckpointError> {
        writer::prepare(&*self.job.disk, &self.job.run_directory, step)
    }

    /// Memory that a save of `elements` values takes while it runs.
    pub const fn staging_bytes(elements: usize) -> usize {
        let (pieces, size) = pool(elements);
        4 * pieces * size
    }

    /// Starts a save of `state` and of the values that `copy` writes: it is called with a piece (tensor), a first
    /// element and room for the values from there on, piece after piece and each in order. Waits for an earlier
    /// save first and returns its outcome.
    pub fn save(
        &mut self,
        state: State,
        mut copy: impl FnMut(usize, usize, &mut [f32]),
    ) -> Result<Option<Saved>, CheckpointError> {
        let begin = Instant::now();
        let earlier = self.wait()?;
        let job = Arc::clone(&self.job);
        let (giver, mut values) = stream();
        let work = move || {
            let begin = Instant::now();
            let contents = writer::Contents {
                model: &job.model,
                state: &state,
                tensors: &job.tensors,
                shards: &job.shards,
            };
            let target = writer::Target {
                disk: &*job.disk,
                run_directory: &job.run_directory,
                keep: job.keep,
                writer: job.writer,
                abandoned: &job.abandoned,
            };
            let outcome = writer::write(&target, &contents, &mut values);
            outcome.map(|(folder, bytes)| Saved {
                folder,
                step: state.progress.step,
                bytes,
                stopped: Duration::ZERO,
                written: begin.elapsed(),
            })
        };
        let thread = Builder::new().name("checkpoint".into()).spawn(work);
        let writer = thread.map_err(|source| {
            CheckpointError::io("start the checkpoint writer for", &self.job.run_directory, source)
        })?;
        let copied = self.job.give(&giver, &mut copy);
        drop(giver);
        self.running = Some(Running { writer, stopped: begin.elapsed() });
        if let Err(error) = copied {
            // The writer notices that values are missing, removes what it has begun and says so: this is why.
            let _ = self.wait();
            return Err(error);
        }
        Ok(earlier)
    }

    /// The outcome of the save that runs, if it has ended by now.
    pub fn poll(&mut self) -> Result<Option<Saved>, CheckpointError> {
        let ended = self.running.as_ref().is_some_and(|running| running.writer.is_finished());
        if ended { self.wait() } else { Ok(None) }
    }

    /// Whether a save is under way.
    pub fn is_writing(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.writer.is_finished())
    }

    /// The other ranks' parts will not come: a save that waits for them fails.
    pub fn abandon(&self) {
        self.job.abandoned.store(true, Ordering::Relaxed);
    }

    /// Waits for the save that runs, if there is one; on the first of several ranks until all have written.
    pub fn wait(&mut self) -> Result<Option<Saved>, CheckpointError> {
        let Some(Running { writer, stopped }) = self.running.take() else { return Ok(None) };
        match writer.join() {
            Ok(outcome) => outcome.map(|saved| Some(Saved { stopped, ..saved })),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Job {
    /// Hands all values to the writer; ends early when the writer has failed.
    fn give(
        &self,
        giver: &Giver,
        copy: &mut impl FnMut(usize, usize, &mut [f32]),
    ) -> Result<(), CheckpointError> {
        let (pieces, size) = pool(self.elements);
        let mut new = pieces;
        let mut next = || match new.checked_sub(1) {
            Some(fewer) => {
                new = fewer;
                let mut piece = Vec::new();
                let reserved = piece.try_reserve_exact(size);
                reserved
                    .map(|()| Some(piece))
                    .map_err(|_| CheckpointError::Staging { bytes: 4 * pieces * size })
            }
            None => Ok(giver.empty()),
        };
        let Some(mut piece) = next()? else { return Ok(()) };
        for (index, (_, elements)) in self.pieces.iter().enumerate() {
            let mut first = 0;
            while first < elements.len() {
                if piece.len() == size {
                    let is_written = giver.give(std::mem::take(&mut piece));
                    let (true, Some(empty)) = (is_written, next()?) else { return Ok(()) };
                    piece = empty;
                }
                let (start, count) = (piece.len(), (elements.len() - first).min(size - piece.len()));
                piece.resize(start + count, 0.0);
                copy(index, first, &mut piece[start..]);
                first += count;
            }
        }
        giver.give(piece);
        Ok(())
    }
}

impl Drop for Saver {
    /// A save that was begun is finished, so that leaving early loses nothing. Its own failure is not told here:
    /// who leaves early has an error to tell already, and an unfinished save leaves nothing behind.
    fn drop(&mut self) {
        self.abandon();
        if let Some(running) = self.running.take() {
            let _ = running.writer.join();
        }
    }
}
