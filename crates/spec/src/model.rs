//! The shape of a decoder transformer.

use serde::{Deserialize, Serialize};

/// A decoder-only transformer, GPT-2/3 style or Llama style or anything between.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    /// Key/value heads (grouped-query attention); equal to `heads` without grouping.
    pub kv_heads: usize,
    /// Usually `hidden / heads`; the projections are `heads · head_dim` wide.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    pub vocab: usize,
    /// Longest sequence, and the number of learned positions.
    pub sequence: usize,
    pub norm: NormKind,
    pub norm_eps: f32,
    pub activation: Activation,
    pub positions: Positions,
    /// Whether linear layers have biases.
    pub bias: bool,
    /// Whether the output layer shares the token embedding.
    pub tied: bool,
    pub mask: Mask,
    pub dropout: Dropout,
    pub init: Init,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormKind {
    Layer,
    Rms,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// tanh form.
    Gelu,
    Swiglu,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    Learned,
    Rotary { base: f32 },
}

/// Which tokens see which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mask {
    Causal,
    /// Yuan 1.0's PLM: a random prefix of each sample is seen in both directions, the loss is taken on the rest.
    Prefix,
}

/// Rates, 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Dropout {
    pub embedding: f32,
    pub attention: f32,
    /// After the attention's and the feed-forward's output projections.
    pub hidden: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Init {
    /// Standard deviation of weights and embeddings.
    pub std: f32,
    /// Divide the std of the two output projections of each layer by √(2 · layers).
    pub scale_outputs: bool,
}
