//! Using a trained network: continue texts, or ask how likely given texts are. One core does both for the
//! evaluator, the server and `triax generate`.
//!
//! ```text
//!  jobs ──▶ waiting ──▶ running sequences ──one pass──▶ Network ──rows of logits──▶ scores, next tokens
//!              ▲             │      ▲                     ▲                              │
//!              └─ preempted ─┘      └─────────────────────┼──────────────────────────────┘
//!                                        Blocks: paged memory of keys and values, shared by content
//! ```
//!
//! * A pass holds one new token of every running sequence and pieces of prompts, as many as fit.
//! * A prompt's full blocks are found again by their content, so common beginnings are computed once.
//! * Logits are looked at some rows at a time and never kept: a prompt's scores cost no memory worth naming.
//! * Random choices are addressed by (seed, position). Neither batch size nor order, cache or preemption
//!   changes a bit of any result, as long as the network's rows do not depend on their company.
#![forbid(unsafe_code)]

mod blocks;
mod decoder;
mod distribution;
mod engine;
mod logits;
mod network;
mod ranks;
mod sampling;
mod scheduler;
mod sequence;
mod text_memory;

pub use decoder::{Loading, load};
pub use engine::{
    Finish, GenerateRequest, Generated, InferError, ScoreReply, ScoreRequest, Scorer, TokenScore,
};
pub use network::{Network, Part, Shape};
pub use ranks::load_in_ranks;
pub use sampling::{Candidate, Sampler, Sampling, SamplingError};
pub use scheduler::{Counters, Engine, Event};
pub use sequence::{Filter, Job, JobId};
pub use text_memory::TextMemory;
