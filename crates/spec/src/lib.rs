//! Model shapes, presets and run files: plain data with validation. Nothing here computes anything.
#![forbid(unsafe_code)]

pub mod model;
pub mod run;
