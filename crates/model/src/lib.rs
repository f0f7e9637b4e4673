//! Decoder transformers (GPT-2/3 style, Llama style) with explicit forward and backward on a
//! [`triax_tensor::Device`].
//!
//! ```text
//! tokens ─▶ embedding ─▶ ┌ norm ▶ qkv ▶ attention ▶ output ┐ ─▶ ┌ norm ▶ up ▶ activation ▶ down ┐ ─▶ … ─▶ norm ─▶ head ─▶ loss
//!                        └────────── residual ─────────────┘    └─────────── residual ──────────┘
//! ```
//!
//! # Conventions
//! They make a layout split over tensor-parallel ranks give the same bits as one rank.
//!
//! * Every parameter is stored with the dimension that tensor parallelism splits **first**, so that a rank's
//!   slice is one contiguous range:
//!   token embedding and untied head `[vocab, h]`; qkv `[kv_heads · (r + 2) · head_dim, h]`, rows grouped by
//!   kv head (its r query heads, its key, its value); attention output `[heads · head_dim, h]` (inner, out);
//!   feed-forward up `[f, h]`, SwiGLU `[2f, h]` with gate and up rows alternating; down `[f, h]` (inner, out);
//!   biases of qkv and up `[n]`. Norms, biases of output and down, and learned positions are replicated.
//! * Sums that a layout may split are made in `tensor_shards` virtual shards: the inner dimension of the
//!   output and down products, the input gradients of qkv, up and head, the vocabulary in the loss. Norm
//!   gradients are kept as `[shards, h]` over the whole step and joined at its end. Weight gradients are
//!   summed over tokens in one piece.
//! * Master weights and gradients are f32; products read copies packed in the activation dtype after each
//!   optimizer step; embeddings and norms read the masters.
//! * The first micro-batch of a group writes weight gradients, the others add.
//! * Random numbers are addressed by the parameter's or the dropout site's name and a global index
//!   (sample number · sequence length + position), never by rank or order.
#![forbid(unsafe_code)]

mod activations;
mod attention;
mod decoder;
mod embedding;
mod error;
mod feed_forward;
mod file;
pub mod gguf;
mod head;
pub mod hf;
mod init;
mod linear;
pub mod llama2c;
mod network;
mod norm;
mod parameters;
mod pass;
mod plan;
mod rank;
mod requantised;
mod session;

pub use decoder::{Decoder, DecoderOptions, Portion, Span};
pub use error::ModelError;
pub use init::{DeviceTensors, TensorSource};
pub use linear::WeightJob;
pub use network::{LayerHooks, MicroBatch, Network};
pub use parameters::{Declaration, Init, Parameter, Split, declare};
pub use plan::{Options, Shared, Stage, TensorSplit};
pub use rank::Rank;
pub use requantised::Requantised;
pub use session::Session;
