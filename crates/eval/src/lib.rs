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
mod cache;
pub mod calibration;
mod contamination;
mod error;
mod evaluate;
mod hans_like;
mod item;
mod metric;
mod names;
mod prompt;
mod race;
mod remote;
mod report;
mod rows;
mod scoring;
mod shots;
mod summary;
mod task;
mod template;

pub use border::{Codec, FileCodec};
pub use cache::Cache;
pub use contamination::{Contamination, contamination};
pub use error::EvalError;
pub use evaluate::{Progress, Rendered, Settings, evaluate, show};
pub use hans_like::hans_like;
pub use item::{Calibration, ChoiceRecord, Record};
pub use metric::{Estimate, Metric};
pub use prompt::{Choice, Renderer};
pub use remote::{RemoteCodec, RemoteScorer, Server};
pub use report::{ModelName, Output, results};
pub use rows::{DataFile, Rows, read};
pub use scoring::{Collision, Network};
pub use shots::{Draw, Pool, UnknownDraw};
pub use summary::{Clean, LabelResult, TaskResult};
pub use task::{Evidence, Format, Kind, Label, Prompt, Score, Source, Task};
pub use template::{Row, Template, TemplateError};
