//! Whole runs of a tiny model: resume, stop, spikes, precision, data order, and PyTorch's loss curve.

#[path = "../setup/mod.rs"]
mod setup;

mod curve;
mod recovery;
mod resume;
mod rules;
