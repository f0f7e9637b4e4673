//! Using a trained network: continue a text ([`generate()`]), or ask how likely a given text is ([`score()`]).
//!
//! ```text
//!  tokens ──▶ Decode ──logits──▶ Sampler ──▶ next token ──┐
//!               ▲                                         │
//!               └─────────────────────────────────────────┘
//! ```
//!
//! Random choices are addressed by (seed, position), so the same seed gives the same text, however the
//! caller batches or interrupts the work.
#![forbid(unsafe_code)]

mod decode;
mod generate;
mod sampling;
mod score;

pub use decode::Decode;
pub use generate::{Finish, Generated, InferError, Request, Token, generate};
pub use sampling::{Candidate, Sampler, Sampling, SamplingError};
pub use score::{Score, score};
