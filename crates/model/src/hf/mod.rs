//! Hugging Face folders of GPT-2 and Llama models, both ways: `config.json`, safetensors weights (one file or
//! shards with an index, f32, f16 or bf16) and the place of `tokenizer.json`.
//!
//! What such a folder says and this program does not compute (scaled rotary positions, attention biases,
//! sliding windows, other activations, …) is an error that names the field; so are fields and tensors that
//! are not known.

mod config;
mod export;
mod fields;
mod files;
mod import;
mod names;

pub use export::export;
pub use import::{Imported, import};
pub(crate) use names::qkv_order;

/// The two architectures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    Gpt2,
    Llama,
}

impl Architecture {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "GPT-2",
            Self::Llama => "Llama",
        }
    }
}
