//! Executes a run file: the training loop, precision, checkpoints, metrics and recovery.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod loss_scale;
pub mod watch;
