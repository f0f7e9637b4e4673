//! GGUF files (versions 2 and 3) of the `llama` architecture: read as a [`crate::TensorSource`] whose linear
//! layers keep their blocks, written in F16, BF16 or Q8_0.
//!
//! ```text
//! "GGUF" version  tensors  entries │ key type value … │ name dims type offset … │ padding │ data, aligned │
//! ```
//!
//! Dimensions are listed innermost first. The rows of q and k are ordered for rotary positions that turn
//! neighbours (2i, 2i + 1); ours turn (i, i + d/2). Metadata and tensors that would change the model in a way
//! that is not computed here are refused by name.

mod config;
mod export;
mod import;
mod metadata;
mod names;
mod parse;

pub use export::{Stored, export};
pub use import::{Imported, import};
pub use metadata::{Metadata, Value};
pub use parse::fuzz_gguf;
