//! Model shapes, presets and run files: plain data with validation. Nothing here computes a model.
//!
//! ```text
//! run.toml ─┐
//! --set a=b ┴─▶ document ──keys──▶ settings ──resolve + preset──▶ Run ──rules──▶ Run | Errors (all of them)
//! ```
#![forbid(unsafe_code)]

pub mod amount;
pub mod count;
pub mod model;
mod names;
pub mod presets;
pub mod run;
pub mod schedule;

pub use amount::Progress;
pub use count::{flops_per_token, parameters};
pub use model::Model;
pub use presets::{Preset, Recipe};
pub use run::Run;
