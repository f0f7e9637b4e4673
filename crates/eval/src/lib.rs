//! Judges a network by tasks.
//!
//! ```text
//! task.toml ─▶ items ─▶ prompts ─▶ tokens ─▶ Scorer ─▶ ln p ─▶ calibration ─▶ choices ─▶ results
//!  (task)     (rows)   (prompt)   (border)            (calibration)          (metric)
//! ```
//!
//! A task is data: everything from the file to the rendered prompt is a pure function of it and can be shown
//! without a network. How log-probabilities are made is the business of `infer`.
#![forbid(unsafe_code)]

mod border;
pub mod builtin;
pub mod calibration;
mod error;
mod metric;
mod names;
mod prompt;
mod race;
mod rows;
mod shots;
mod task;
mod template;

pub use border::{Codec, FileCodec, Split, Window, split, windows};
pub use error::EvalError;
pub use metric::{Document, Estimate, Metric, deviation, perplexities};
pub use prompt::{Choice, Renderer};
pub use rows::{DataFile, Rows, read};
pub use shots::{Draw, Pool};
pub use task::{Evidence, Format, Kind, Label, Prompt, Score, Source, Task};
pub use template::{Row, Template, TemplateError};
