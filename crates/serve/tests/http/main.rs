//! The server over real connections, with a network whose logits are a hash of all it has seen.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod completions;
mod robustness;
mod setup;
