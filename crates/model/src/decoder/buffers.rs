//! The memory of a decoder beside its weights and its cache, and what its options must be.

use super::{DecoderOptions, Portion, Split};
use crate::ModelError;
use triax_spec::model::{Activation as Curve, Model, Positions};
use triax_tensor::{Class, DType, Device, DeviceExt, Table, View};

/// What all layers share; act `[rows, …]` unless said otherwise.
pub(super) struct Buffers {
    /// u32 `[1, rows]`.
    pub(super) tokens: View,
    /// u32 `[1, rows]`.
    pub(super) positions: View,
    /// u32 `[1, rows]`: 0, 1, 2 …; where tensor ranks sum what they embed.
    pub(super) numbers: Option<View>,
    /// u32 `[rows, 3]` and `[rows, blocks of a sequence]`, see [`triax_tensor::PagedAttention`].
    pub(super) rows: View,
    pub(super) tables: View,
    /// f32 `[capacity, head_dim]`, see [`triax_tensor::RotaryRows`]; with rotary positions only.
    pub(super) turns: Option<View>,
    pub(super) x: View,
    pub(super) middle: View,
    pub(super) norm: View,
    /// f32 `[rows, 2]`.
    pub(super) stats: View,
    pub(super) qkv: View,
    pub(super) attention: View,
    pub(super) pre: View,
    pub(super) activated: View,
    /// `[logits, h]`.
    pub(super) hidden: View,
    /// f32 `[logits, vocab]`.
    pub(super) logits: View,
}

impl Buffers {
    pub(super) fn plan(
        model: &Model,
        options: &DecoderOptions,
        portion: &Portion,
        table: &mut Table,
    ) -> Self {
        let DecoderOptions { dtype, max_rows, capacity, .. } = *options;
        let Portion { stage, tensor } = portion;
        let max_logits = if stage.last { options.max_logits } else { 0 };
        let (h, f) = (model.hidden, model.ffn / tensor.size);
        let (heads, kv_heads) = (model.heads / tensor.size, model.kv_heads / tensor.size);
        let ids = tensor.part(Split::Vocabulary, model.vocab).len();
        let mut add = |name: &str, dtype, rows, cols| table.add(name, Class::Workspace, dtype, rows, cols);
        let rotary = matches!(model.positions, Positions::Rotary { .. });
        let pre = if model.activation == Curve::Swiglu { 2 * f } else { f };
        Self {
            tokens: add("tokens", DType::U32, 1, max_rows),
            positions: add("positions", DType::U32, 1, max_rows),
            numbers: (tensor.size > 1).then(|| add("row numbers", DType::U32, 1, max_rows)),
            rows: add("rows", DType::U32, max_rows, 3),
            tables: add("block tables", DType::U32, max_rows, capacity.div_ceil(options.block)),
            turns: rotary.then(|| add("rotary turns", DType::F32, capacity, model.head_dim)),
            x: add("x", dtype, max_rows, h),
            middle: add("middle", dtype, max_rows, h),
            norm: add("norm", dtype, max_rows, h),
            stats: add("norm statistics", DType::F32, max_rows, 2),
            qkv: add("qkv", dtype, max_rows, (heads + 2 * kv_heads) * model.head_dim),
            attention: add("attention", dtype, max_rows, heads * model.head_dim),
            pre: add("pre", dtype, max_rows, pre),
            activated: add("activated", dtype, max_rows, f),
            hidden: add("hidden", dtype, max_logits, h),
            logits: add("logits", DType::F32, max_logits, ids),
        }
    }

    /// What never changes; once after allocation.
    pub(super) fn fill(&self, model: &Model, device: &mut dyn Device) {
        if let (Some(view), Positions::Rotary { base }) = (self.turns, model.positions) {
            device.upload_slice(view, &turns(view.rows, view.cols, base));
        }
        if let Some(numbers) = self.numbers {
            let rows: Vec<u32> = (0..numbers.cols as u32).collect();
            device.upload_slice(numbers, &rows);
        }
    }

    /// For a step of `count` rows.
    pub(super) fn rows(&self, count: usize) -> Self {
        let cut = |view: View| view.row_range(0, count);
        Self {
            tokens: self.tokens.flat_range(0, count),
            positions: self.positions.flat_range(0, count),
            numbers: self.numbers.map(|numbers| numbers.flat_range(0, count)),
            rows: cut(self.rows),
            x: cut(self.x),
            middle: cut(self.middle),
            norm: cut(self.norm),
            stats: cut(self.stats),
            qkv: cut(self.qkv),
            attention: cut(self.attention),
            pre: cut(self.pre),
            activated: cut(self.activated),
            ..*self
        }
    }
}

pub(super) fn check(model: &Model, options: &DecoderOptions) -> Result<(), ModelError> {
    let DecoderOptions { dtype, cache, capacity, block, blocks, max_rows, max_logits } = *options;
    if capacity == 0 || capacity > model.sequence {
        let rule = format!("must be 1 to the model's sequence length {}", model.sequence);
        return Err(ModelError::invalid("capacity", capacity, rule));
    }
    if block == 0 || !block.is_multiple_of(16) {
        return Err(ModelError::invalid("tokens of a cache block", block, "must be a multiple of 16"));
    }
    for (what, value) in [("blocks", blocks), ("max_rows", max_rows), ("max_logits", max_logits)] {
        if value == 0 {
            return Err(ModelError::invalid(what, value, "must be at least 1"));
        }
    }
    for (what, dtype) in [("dtype", dtype), ("dtype of the cache", cache)] {
        if !dtype.is_activation() {
            return Err(ModelError::invalid(what, dtype, "activations are bf16, f16 or f32"));
        }
    }
    Ok(())
}

/// Cosines, then sines, of position p's turns `p · base^(-2i/d)`.
fn turns(positions: usize, head_dim: usize, base: f32) -> Vec<f32> {
    let pairs = head_dim / 2;
    let frequency = |i: usize| f64::from(base).powf(-2.0 * i as f64 / head_dim as f64);
    let frequencies: Vec<f64> = (0..pairs).map(frequency).collect();
    let mut values = Vec::with_capacity(positions * head_dim);
    for position in 0..positions {
        let angles = || frequencies.iter().map(|frequency| position as f64 * frequency);
        values.extend(angles().map(|angle| angle.cos() as f32));
        values.extend(angles().map(|angle| angle.sin() as f32));
    }
    values
}
