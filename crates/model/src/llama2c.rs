//! Reader of llama2.c's first `.bin` format: seven i32 (dim, ffn, layers, heads, kv heads, vocabulary, sequence;
//! a negative vocabulary means an output layer of its own), then f32 matrices, each kind for all layers in a row.
//!
//! Its rotary positions turn neighbouring pairs (2i, 2i + 1); ours turn (i, i + d/2), so the rows of q and k
//! heads are reordered.

use crate::hf::qkv_order;
use crate::{ModelError, TensorSource};
use std::collections::HashMap;
use std::path::Path;
use triax_spec::model::{Activation, Dropout, Init, Mask, Model, NormKind, Positions};

/// A model with all its tensors in memory.
pub struct Llama2c {
    pub model: Model,
    tensors: HashMap<String, Vec<f32>>,
}

impl TensorSource for Llama2c {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        self.tensors.get(name).cloned().ok_or_else(|| ModelError::NoTensor {
            name: name.into(),
            available: format!("{} tensors", self.tensors.len()),
        })
    }
}

/// Reads a file; its length must be exactly what its header says.
pub fn read(path: &Path) -> Result<Llama2c, ModelError> {
    let bytes = std::fs::read(path).map_err(|e| ModelError::io(path, e))?;
    let (model, weights) = header(path, &bytes)?;
    let values: Vec<f32> =
        weights.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let mut rest = values.as_slice();
    let mut take = |count: usize| {
        let (part, tail) = rest.split_at(count);
        rest = tail;
        part
    };
    let (layers, h, f) = (model.layers, model.hidden, model.ffn);
    let (q, kv) = (model.heads * model.head_dim, model.kv_heads * model.head_dim);
    let tokens = take(model.vocab * h);
    let attention_norm = take(layers * h);
    let [wq, wk, wv, wo] = [q * h, kv * h, kv * h, h * q].map(|count| take(layers * count));
    let feed_forward_norm = take(layers * h);
    let [gate, down, up] = [f * h, h * f, f * h].map(|count| take(layers * count));
    let norm = take(h);
    // Tables of cosines and sines, which are computed here.
    take(model.sequence * model.head_dim);

    let mut tensors = HashMap::new();
    let mut put = |name: String, values: Vec<f32>| drop(tensors.insert(name, values));
    put("embedding.tokens.weight".into(), tokens.to_vec());
    for layer in 0..layers {
        let of = |all: &[f32]| {
            let count = all.len() / layers;
            all[layer * count..(layer + 1) * count].to_vec()
        };
        let name = |name: &str| format!("layer.{layer}.{name}");
        put(name("attention.norm.weight"), of(attention_norm));
        let heads = [half_turned(&of(wq), &model), half_turned(&of(wk), &model), of(wv)].concat();
        put(name("attention.qkv.weight"), rows(&heads, h, qkv_order(&model)));
        put(name("attention.output.weight"), transpose(&of(wo), h));
        put(name("feed_forward.norm.weight"), of(feed_forward_norm));
        let gate_up = [of(gate), of(up)].concat();
        put(name("feed_forward.up.weight"), rows(&gate_up, h, (0..f).flat_map(|j| [j, f + j])));
        put(name("feed_forward.down.weight"), transpose(&of(down), h));
    }
    put("norm.weight".into(), norm.to_vec());
    if !model.tied {
        put("head.weight".into(), take(model.vocab * h).to_vec());
    }
    Ok(Llama2c { model, tensors })
}

const HEADER: usize = 7 * 4;

/// The model and the bytes behind the header.
fn header<'a>(path: &Path, bytes: &'a [u8]) -> Result<(Model, &'a [u8]), ModelError> {
    let refuse = |what: String| Err(ModelError::file(path, what));
    if bytes.len() < HEADER {
        return refuse(format!("is {} bytes long, too short for llama2.c's header", bytes.len()));
    }
    let mut numbers = [0i32; 7];
    for (number, b) in numbers.iter_mut().zip(bytes.chunks_exact(4)) {
        *number = i32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    }
    let tied = numbers[5] > 0;
    numbers[5] = numbers[5].saturating_abs();
    if numbers.iter().any(|&n| n <= 0) {
        return refuse(format!("has the header {numbers:?}; all sizes must be positive"));
    }
    let [hidden, ffn, layers, heads, kv_heads, vocab, sequence] = numbers.map(|n| n as usize);
    if !hidden.is_multiple_of(heads) || !heads.is_multiple_of(kv_heads) || !(hidden / heads).is_multiple_of(2)
    {
        return refuse(format!(
            "has {hidden} columns, {heads} heads and {kv_heads} kv heads, which do not divide"
        ));
    }
    let head_dim = hidden / heads;
    let layer = [2 * hidden, 2 * hidden * hidden, 2 * kv_heads * head_dim * hidden, 3 * ffn * hidden];
    let table = vocab as u128 * hidden as u128 * if tied { 1 } else { 2 };
    let elements = layer.iter().map(|&n| n as u128).sum::<u128>() * layers as u128
        + table
        + (hidden + sequence * head_dim) as u128;
    let weights = &bytes[HEADER..];
    if weights.len() as u128 != elements * 4 {
        let found = weights.len();
        return refuse(format!("has {found} bytes of weights, its header describes {}", elements * 4));
    }
    let model = Model {
        layers,
        hidden,
        heads,
        kv_heads,
        head_dim,
        ffn,
        vocab,
        sequence,
        norm: NormKind::Rms,
        norm_eps: 1e-5,
        activation: Activation::Swiglu,
        positions: Positions::Rotary { base: 10_000.0 },
        bias: false,
        tied,
        mask: Mask::Causal,
        dropout: Dropout::default(),
        init: Init { std: 0.02, scale_outputs: true },
    };
    Ok((model, weights))
}

/// Rows of every head in the order 0, 2, 4, … 1, 3, 5, …
fn half_turned(values: &[f32], model: &Model) -> Vec<f32> {
    let (d, h) = (model.head_dim, model.hidden);
    let heads = values.len() / (d * h);
    let row = |head: usize| (0..d).map(move |i| head * d + if i < d / 2 { 2 * i } else { 2 * i - d + 1 });
    rows(values, h, (0..heads).flat_map(row))
}

fn rows(values: &[f32], cols: usize, order: impl IntoIterator<Item = usize>) -> Vec<f32> {
    order.into_iter().flat_map(|row| &values[row * cols..][..cols]).copied().collect()
}

/// `[rows, cols]` as `[cols, rows]`.
fn transpose(values: &[f32], rows: usize) -> Vec<f32> {
    let cols = values.len() / rows;
    (0..cols).flat_map(|c| (0..rows).map(move |r| values[r * cols + c])).collect()
}
