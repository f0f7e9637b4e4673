//! A trained network behind an HTTP API that existing clients speak, and a page to try it in a browser.
//!
//! ```text
//!  connections ──▶ listen ──▶ router: key, body, fields ──jobs──▶ Core (one thread: triax_infer::Engine)
//!                                        ▲                           │
//!                     JSON or event stream ◀── assembly: bytes to text, stop strings ◀── events
//! ```
//! A request whose client has gone drops its `Run`, which cancels its jobs: their memory is free before
//! the next pass.
#![forbid(unsafe_code)]

mod assembly;
mod chat;
mod completions;
mod constrain;
mod core;
mod error;
mod fields;
mod keys;
mod limits;
mod listen;
mod metrics;
mod openapi;
mod router;
mod run;
mod sampling;
mod stream;
mod template;
mod tokens;
mod vocabulary;

pub use keys::{Keys, KeysError};
pub use limits::Limits;
pub use listen::{ServeError, serve};
pub use openapi::document as openapi;
pub use template::ChatTemplate;

use triax_data::Tokenizer;
use triax_infer::Engine;

/// What is served.
pub struct Served {
    /// Requests name the model by it.
    pub name: String,
    pub engine: Engine,
    pub tokenizer: Tokenizer,
    /// Makes one text of a chat's messages.
    pub chat_template: Option<ChatTemplate>,
}
