//! Why a run cannot start or go on.

use crate::checkpoint::CheckpointError;
use crate::watch::Alarm;
use std::io;
use std::path::PathBuf;
use triax_comm::CommError;
use triax_data::DataError;
use triax_model::ModelError;
use triax_plan::{LayoutError, ScheduleError};
use triax_tensor::OutOfMemory;

#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(
        "the run needs {needed} bytes of memory and {available} are available; smaller layout.micro_batch \
         (now {micro_batch}), recompute = \"full\" or a smaller model would need less"
    )]
    Memory { needed: usize, available: usize, micro_batch: usize },
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    #[error(transparent)]
    Comm(#[from] CommError),
    #[error("rank {rank}: {message}")]
    Elsewhere { rank: usize, message: String },
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is in use by another process; give this run another directory", path.display())]
    Locked { path: PathBuf },
    #[error("{}, line {line}: not a JSON object with a step: {reason}", path.display())]
    Log { path: PathBuf, line: usize, reason: String },
    #[error("stopped at step {step}, samples {start}..{end}: {alarm}{places}; {rule}")]
    Alarm {
        step: u64,
        start: u64,
        end: u64,
        alarm: Alarm,
        /// Where values were not finite first.
        places: String,
        rule: String,
    },
}

impl TrainError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }
}
