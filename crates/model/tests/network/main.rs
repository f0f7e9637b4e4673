//! Whole networks, on the reference device and on the fast one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod decoder;
mod finite_differences;
mod gguf;
mod golden;
mod import_export;
mod layouts;
mod setup;
