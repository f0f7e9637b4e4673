//! Plans as values: what each rank will do and when, made by pure functions and checked without a device.
//!
//! So far the pipeline schedules: [`Schedule`] lists every stage's actions, [`simulate()`] runs the lists
//! against a clock and proves that they finish, in order, within the promised memory and bubble.
#![forbid(unsafe_code)]

mod schedule;
mod simulate;

pub use schedule::{Action, Kind, Schedule, ScheduleError, Work};
pub use simulate::{Costs, Span, Stuck, Timeline, simulate};
