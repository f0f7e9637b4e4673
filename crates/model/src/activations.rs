//! What a layer keeps from forward to backward, by the recompute mode, and the buffers that layers share.
//!
//! ```text
//!                 x  stats  norm  qkv  attention,lse  middle  stats  norm  pre  activated
//! none            ■    ■     ■     ■        ■           ■       ■     ■     ■      ■
//! selective       ■    ■     ○     ■        ○           ■       ■     ○     ■      ○      ○ made again from what is kept
//! full            ■    ○     ○     ○        ○           ○       ○     ○     ○      ○      (by running the layer again)
//! evaluation      ○    ○     ○     ○        ○           ○       ○     ○     ○      ○      never needed again
//! ```
//! A buffer that is not kept (○) is one buffer for all layers, so the forward pass is the same in all modes,
//! and so are the bits.

use crate::plan::Builder;
use triax_spec::model::Activation;
use triax_spec::run::Recompute;
use triax_tensor::{Class, DType, View};

/// Buffers of one layer for one micro-batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerBuffers {
    /// The layer's input, act `[T, h]`.
    pub x: View,
    pub attention_stats: View,
    pub attention_norm: View,
    /// act `[T, qkv]`, turned by rotary positions.
    pub qkv: View,
    pub attention: View,
    pub lse: View,
    /// Residual stream between attention and feed-forward, act `[T, h]`.
    pub middle: View,
    pub feed_forward_stats: View,
    pub feed_forward_norm: View,
    /// Before the activation: act `[T, f]`, or `[T, 2f]` gate and up.
    pub pre: View,
    pub activated: View,
}

impl LayerBuffers {
    /// The first `tokens` rows of every buffer.
    pub(crate) fn rows(&self, tokens: usize) -> Self {
        let cut = |view: View| view.row_range(0, tokens);
        Self {
            x: cut(self.x),
            attention_stats: cut(self.attention_stats),
            attention_norm: cut(self.attention_norm),
            qkv: cut(self.qkv),
            attention: cut(self.attention),
            lse: cut(self.lse),
            middle: cut(self.middle),
            feed_forward_stats: cut(self.feed_forward_stats),
            feed_forward_norm: cut(self.feed_forward_norm),
            pre: cut(self.pre),
            activated: cut(self.activated),
        }
    }
}

/// Which buffers each layer owns.
#[derive(Clone, Copy)]
struct Kept {
    x: bool,
    /// Statistics, qkv, middle and pre.
    inputs: bool,
    /// What selective recompute makes again.
    cheap: bool,
}

impl Kept {
    fn by(builder: &Builder<'_>) -> Self {
        let (x, inputs, cheap) = match (builder.options.training, builder.options.recompute) {
            (false, _) => (false, false, false),
            (true, Recompute::Full) => (true, false, false),
            (true, Recompute::Selective) => (true, true, false),
            (true, Recompute::None) => (true, true, true),
        };
        Self { x, inputs, cheap }
    }
}

/// Columns before the activation.
pub(crate) fn pre_cols(builder: &Builder<'_>) -> usize {
    match builder.model.activation {
        Activation::Gelu => builder.model.ffn,
        Activation::Swiglu => 2 * builder.model.ffn,
    }
}

pub(crate) fn qkv_cols(builder: &Builder<'_>) -> usize {
    (builder.model.heads + 2 * builder.model.kv_heads) * builder.model.head_dim
}

/// Plans the buffers of the layers `names`, for each of the `slots` micro-batches in flight.
pub(crate) fn plan(
    builder: &mut Builder<'_>,
    layers: std::ops::Range<usize>,
    slots: usize,
) -> Vec<Vec<LayerBuffers>> {
    let kept = Kept::by(builder);
    let act = builder.options.dtype;
    let (h, heads) = (builder.model.hidden, builder.model.heads);
    let inner = heads * builder.model.head_dim;
    let (qkv, pre, ffn) = (qkv_cols(builder), pre_cols(builder), builder.model.ffn);
    // (name, kept, dtype, columns), in the order of LayerBuffers.
    let kinds = [
        ("input", kept.x, act, h),
        ("attention.norm.statistics", kept.inputs, DType::F32, 2),
        ("attention.norm", kept.cheap, act, h),
        ("qkv", kept.inputs, act, qkv),
        ("attention", kept.cheap, act, inner),
        ("attention.lse", kept.cheap, DType::F32, heads),
        ("middle", kept.inputs, act, h),
        ("feed_forward.norm.statistics", kept.inputs, DType::F32, 2),
        ("feed_forward.norm", kept.cheap, act, h),
        ("feed_forward.pre", kept.inputs, act, pre),
        ("feed_forward.activated", kept.cheap, act, ffn),
    ];
    let shared = kinds.map(|(name, own, dtype, cols)| {
        (!own).then(|| builder.rows(format!("{name} of one layer"), Class::Workspace, dtype, cols))
    });
    (0..slots)
        .map(|slot| {
            layers
                .clone()
                .map(|layer| {
                    let mut views = kinds.iter().zip(shared).map(|(&(name, _, dtype, cols), shared)| {
                        shared.unwrap_or_else(|| {
                            let name = format!("slot.{slot}.layer.{layer}.{name}");
                            builder.rows(name, Class::Activations, dtype, cols)
                        })
                    });
                    let mut next = || views.next().expect("one view for each field");
                    LayerBuffers {
                        x: next(),
                        attention_stats: next(),
                        attention_norm: next(),
                        qkv: next(),
                        attention: next(),
                        lse: next(),
                        middle: next(),
                        feed_forward_stats: next(),
                        feed_forward_norm: next(),
                        pre: next(),
                        activated: next(),
                    }
                })
                .collect()
        })
        .collect()
}

/// Gradients on their way back through one layer, shared by all layers and micro-batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GradientBuffers {
    /// act `[T, h]`, behind the dropout of a residual branch; absent when nothing is dropped there.
    pub branch: Option<View>,
    /// Gradient of a norm's output, act `[T, h]`.
    pub norm: View,
    /// Of attention's output, act `[T, heads · head_dim]`.
    pub attention: View,
    /// Of qkv, act `[T, qkv]`.
    pub qkv: View,
    /// Of the value before the activation, act `[T, pre]`; shares memory with `qkv`.
    pub pre: View,
    /// Of the activated value, act `[T, f]`; SwiGLU only.
    pub activated: Option<View>,
}

impl GradientBuffers {
    pub(crate) fn plan(builder: &mut Builder<'_>) -> Self {
        let act = builder.options.dtype;
        let model = builder.model;
        let (h, inner) = (model.hidden, model.heads * model.head_dim);
        let (qkv, pre) = (qkv_cols(builder), pre_cols(builder));
        let mut add = |name: &str, cols| builder.rows(name.into(), Class::Workspace, act, cols);
        let wide = add("gradient of qkv or pre", qkv.max(pre));
        let tokens = wide.rows;
        let part = |cols: usize| wide.flat_range(0, tokens * cols).reshape(tokens, cols);
        Self {
            branch: (model.dropout.hidden > 0.0).then(|| add("gradient of a branch", h)),
            norm: add("gradient of a norm", h),
            attention: add("gradient of attention", inner),
            qkv: part(qkv),
            pre: part(pre),
            activated: (model.activation == Activation::Swiglu)
                .then(|| add("gradient of activated", model.ffn)),
        }
    }

    /// The first `tokens` rows of every buffer.
    pub(crate) fn rows(&self, tokens: usize) -> Self {
        let cut = |view: View| view.row_range(0, tokens);
        Self {
            branch: self.branch.map(cut),
            norm: cut(self.norm),
            attention: cut(self.attention),
            qkv: cut(self.qkv),
            pre: cut(self.pre),
            activated: self.activated.map(cut),
        }
    }
}
