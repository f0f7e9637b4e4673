//! Whole runs of a tiny model: resume, stop, spikes, precision, data order, and PyTorch's loss curve.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

#[path = "../setup/mod.rs"]
mod setup;

mod curve;
mod layouts;
mod recovery;
mod resume;
mod rules;
mod variants;
