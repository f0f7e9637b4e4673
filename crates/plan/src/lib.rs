//! Plans as values: what each rank will do and when, made by pure functions and checked without a device.
//!
//! [`Layout`] places a run on a world, [`InferenceLayout`] a network that generates and scores, [`split_layers`] gives
//! each stage its layers, [`Schedule`] lists every stage's actions, [`simulate()`] runs the lists against a clock and
//! proves that they finish, in order, within the promised memory and bubble.
#![forbid(unsafe_code)]

mod inference;
mod layout;
mod schedule;
mod simulate;
mod stages;

pub use inference::{InferenceLayout, InferenceLayoutError};
pub use layout::{Layout, LayoutError};
pub use schedule::{Action, Schedule, ScheduleError, Work};
pub use simulate::{Costs, Span, Stuck, Timeline, simulate};
pub use stages::{StageCosts, split_layers};
