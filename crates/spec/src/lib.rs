//! Model shapes, presets and run files: plain data with validation. Nothing here computes a model.
//!
//! ```text
//! run.toml ─┐
//! --set a=b ┴─▶ document ──keys──▶ settings ──resolve + preset──▶ Run ──rules──▶ Run | Errors (all of them)
//! ```
#![forbid(unsafe_code)]

pub mod amount;
pub mod count;
mod document;
pub mod error;
mod keys;
pub mod model;
#[cfg(test)]
mod mutation;
mod names;
pub mod presets;
mod reference;
mod resolve;
mod rules;
pub mod run;
pub mod schedule;
mod settings;
pub mod split;
mod write;

pub use amount::Progress;
pub use count::{flops_per_token, parameters};
pub use error::{Errors, Fault, Place, Problem};
pub use model::Model;
pub use presets::{Preset, Recipe};
pub use reference::reference;
pub use run::Run;

/// Reads arbitrary bytes as a run file, for fuzzing: it is a run or a list of problems, never a panic, and a run
/// survives being written and read again.
pub fn fuzz_run_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Run::parse("fuzz.toml", text, &[]) {
        Ok(run) => {
            let again = Run::parse("again.toml", &run.to_toml(), &[]);
            assert_eq!(again.ok().as_ref(), Some(&run), "a resolved run reads back");
        }
        Err(errors) => assert!(!errors.to_string().is_empty(), "problems have words"),
    }
}
