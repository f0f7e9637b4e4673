//! Executes a run file: the training loop, precision, checkpoints, metrics and recovery.
//!
//! ```text
//! Run ──Plan::new──▶ Plan (memory table) ──Trainer::open──▶ Trainer ──train──▶ Outcome
//!                                              │               └─▶ Observer: steps, checkpoints, alarms
//!                                        run directory: checkpoints/, metrics.jsonl, tensorboard/ …
//! ```
//! Knows no terminal and no network: what it has to tell goes to an [`Observer`].
#![forbid(unsafe_code)]

mod buckets;
pub mod checkpoint;
mod directory;
mod engine;
mod error;
pub mod events;
mod exact_sum;
mod feed;
pub mod loss_scale;
mod metrics;
mod observer;
mod pipeline;
mod plan;
mod poison;
mod ranks;
mod replicas;
#[cfg(test)]
mod testing;
mod timeline;
mod trainer;
pub mod verify;
pub mod watch;

pub use checkpoint::Resume;
pub use directory::ended;
pub use engine::{Batches, Engine, StepSums};
pub use error::TrainError;
pub use exact_sum::ExactSum;
pub use observer::{Evaluation, Observer, Outcome, Started, StepReport};
pub use plan::{Plan, available_memory};
pub use ranks::{MakeDevice, alone, in_threads, options_of, train_as_process, train_in_threads};
pub use trainer::{Start, Trainer};
