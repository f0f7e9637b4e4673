//! Whole runs of a tiny model: resume, stop, spikes, precision, data order, and PyTorch's loss curve.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

#[path = "../setup/mod.rs"]
mod setup;

mod accounting;
mod curve;
mod giant;
mod grid;
mod layouts;
mod memory;
mod poison;
mod recovery;
mod resume;
mod rules;
mod spy;
mod variants;
