//! What a layer keeps from forward to backward, by the recompute mode, and the buffers that layers share.
//!
//! ```text
//!                 x  stats  norm  qkv  attention,lse  middle  stats  norm  pre  activated
//! none            ■    ■     ■     ■        ■           ■       ■     ■     ■      ■
//! selective       ■    ■     ○     ■        ○           ■       ■     ○     ■      ○      ○ made again from what is kept
//! full            ■    ○     ○     ○        ○           ○       ○     ○     ○      ○      (by running the layer again)
//! evaluation      ○    ○     ○     ○        ○           ○       ○     ○     ○      ○      never needed again
//! rows            l    l     l     T        T           l       l     l     T      T      T tokens, l this rank's of them
//! ```
//! A buffer that is not kept (○) is one buffer for all layers, so the forward pass is the same in all modes,
//! and so are the bits.

use crate::pass::Pass;
use crate::plan::Builder;
use triax_spec::model::Activation;
use triax_spec::run::Recompute;
use triax_tensor::{Class, DType, View};

/// Buffers of one layer for one micro-batch. `l`: the tokens that this rank holds between split layers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerBuffers {
    /// The layer's input, act `[l, h]`.
    pub x: View,
    pub attention_stats: View,
    pub attention_norm: View,
    /// act `[T, qkv]` of this rank's heads, turned by rotary positions.
    pub qkv: View,
    pub attention: View,
    pub lse: View,
    /// Residual stream between attention and feed-forward, act `[l, h]`.
    pub middle: View,
    pub feed_forward_stats: View,
    pub feed_forward_norm: View,
    /// Before the activation: act `[T, f]`, or `[T, 2f]` gate and up; this rank's columns.
    pub pre: View,
    pub activated: View,
}

impl LayerBuffers {
    /// The rows of a micro-batch.
    pub(crate) fn rows(&self, pass: &Pass) -> Self {
        let all = |view: View| view.row_range(0, pass.tokens());
        let local = |view: View| view.row_range(0, pass.local_tokens());
        Self {
            x: local(self.x),
            attention_stats: local(self.attention_stats),
            attention_norm: local(self.attention_norm),
            qkv: all(self.qkv),
            attention: all(self.attention),
            lse: all(self.lse),
            middle: local(self.middle),
            feed_forward_stats: local(self.feed_forward_stats),
            feed_forward_norm: local(self.feed_forward_norm),
            pre: all(self.pre),
            activated: all(self.activated),
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

/// Columns of this rank before the activation.
fn pre_cols(builder: &Builder<'_>) -> usize {
    let ffn = builder.own(builder.model.ffn);
    match builder.model.activation {
        Activation::Gelu => ffn,
        Activation::Swiglu => 2 * ffn,
    }
}

fn qkv_cols(builder: &Builder<'_>) -> usize {
    builder.own(builder.model.heads + 2 * builder.model.kv_heads) * builder.model.head_dim
}

/// Plans `layers` layers' buffers for each of the `slots` micro-batches in flight.
pub(crate) fn plan(builder: &mut Builder<'_>, layers: usize, slots: usize) -> Vec<Vec<LayerBuffers>> {
    let kept = Kept::by(builder);
    let act = builder.options.dtype;
    let (h, heads) = (builder.model.hidden, builder.own(builder.model.heads));
    let inner = heads * builder.model.head_dim;
    let (qkv, pre, ffn) = (qkv_cols(builder), pre_cols(builder), builder.own(builder.model.ffn));
    // (name, kept, whether all tokens are here, dtype, columns), in the order of LayerBuffers.
    let kinds = [
        ("input", kept.x, false, act, h),
        ("attention.norm.statistics", kept.inputs, false, DType::F32, 2),
        ("attention.norm", kept.cheap, false, act, h),
        ("qkv", kept.inputs, true, act, qkv),
        ("attention", kept.cheap, true, act, inner),
        ("attention.lse", kept.cheap, true, DType::F32, heads),
        ("middle", kept.inputs, false, act, h),
        ("feed_forward.norm.statistics", kept.inputs, false, DType::F32, 2),
        ("feed_forward.norm", kept.cheap, false, act, h),
        ("feed_forward.pre", kept.inputs, true, act, pre),
        ("feed_forward.activated", kept.cheap, true, act, ffn),
    ];
    let mut add = |name: String, class, all, dtype, cols| {
        if all {
            builder.rows(name, class, dtype, cols)
        } else {
            builder.local_rows(name, class, dtype, cols)
        }
    };
    let shared = kinds.map(|(name, own, all, dtype, cols)| {
        (!own).then(|| add(format!("{name} of one layer"), Class::Workspace, all, dtype, cols))
    });
    let mut layer = |slot: usize, layer: usize| {
        let mut views = kinds.iter().zip(shared).map(|(&(name, _, all, dtype, cols), shared)| {
            shared.unwrap_or_else(|| {
                add(format!("slot.{slot}.layer.{layer}.{name}"), Class::Activations, all, dtype, cols)
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
    };
    (0..slots).map(|slot| (0..layers).map(|index| layer(slot, index)).collect()).collect()
}

/// Gradients on their way back through one layer, shared by all layers and micro-batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GradientBuffers {
    /// Gradient of a norm's output, act `[l, h]`.
    pub norm: View,
    /// Of attention's output, act `[T, heads · head_dim]`.
    pub attention: View,
    /// Of the activated value, act `[T, f]`; SwiGLU only.
    pub activated: Option<View>,
}

impl GradientBuffers {
    pub(crate) fn plan(builder: &mut Builder<'_>) -> Self {
        let act = builder.options.dtype;
        let (h, inner) = (builder.model.hidden, builder.own(builder.model.heads) * builder.model.head_dim);
        let ffn = builder.own(builder.model.ffn);
        let class = Class::Workspace;
        Self {
            norm: builder.local_rows("gradient of a norm".into(), class, act, h),
            attention: builder.rows("gradient of attention".into(), class, act, inner),
            activated: (builder.model.activation == Activation::Swiglu)
                .then(|| builder.rows("gradient of activated".into(), class, act, ffn)),
        }
    }

    /// The rows of a micro-batch.
    pub(crate) fn rows(&self, pass: &Pass) -> Self {
        let all = |view: View| view.row_range(0, pass.tokens());
        Self {
            norm: self.norm.row_range(0, pass.local_tokens()),
            attention: all(self.attention),
            activated: self.activated.map(all),
        }
    }
}

/// What the weight gradients of half a layer (attention or feed-forward) are made of beside kept activations:
/// shared by all halves when they run at once, one for each half of each layer and slot when they are deferred.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HalfBuffers {
    /// Gradient of the residual branch, behind its dropout: act `[l, h]`; absent where it is the residual
    /// gradient itself.
    pub branch: Option<View>,
    /// The same for all tokens, act `[T, h]`; sequence parallelism only.
    pub all_branch: Option<View>,
    /// The norm's output for all tokens, act `[T, h]`, where it must outlast the shared buffer.
    pub all_norm: Option<View>,
    /// Of qkv, act `[T, qkv]`, or of the value before the activation, act `[T, pre]`.
    pub wide: View,
}

/// The halves of one layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerHalves {
    pub attention: HalfBuffers,
    pub feed_forward: HalfBuffers,
}

impl LayerHalves {
    /// One for all layers and slots.
    pub(crate) fn plan_shared(builder: &mut Builder<'_>) -> Self {
        let (qkv, pre) = (qkv_cols(builder), pre_cols(builder));
        let both = HalfBuffers::plan(builder, "", Class::Workspace, qkv.max(pre));
        let tokens = both.wide.rows;
        let part = |cols| both.wide.flat_range(0, tokens * cols).reshape(tokens, cols);
        Self {
            attention: HalfBuffers { wide: part(qkv), ..both },
            feed_forward: HalfBuffers { wide: part(pre), ..both },
        }
    }

    /// One for layer `layer` of slot `slot`.
    pub(crate) fn plan_own(builder: &mut Builder<'_>, slot: usize, layer: usize) -> Self {
        let name = format!("slot.{slot}.layer.{layer}.");
        let (qkv, pre) = (qkv_cols(builder), pre_cols(builder));
        Self {
            attention: HalfBuffers::plan(builder, &format!("{name}attention."), Class::Activations, qkv),
            feed_forward: HalfBuffers::plan(
                builder,
                &format!("{name}feed_forward."),
                Class::Activations,
                pre,
            ),
        }
    }
}

impl HalfBuffers {
    fn plan(builder: &mut Builder<'_>, name: &str, class: Class, wide: usize) -> Self {
        let (act, h) = (builder.options.dtype, builder.model.hidden);
        let sequence = builder.options.tensor.sequence;
        let own_branch = builder.model.dropout.hidden > 0.0 || (builder.options.deferred && !sequence);
        Self {
            branch: own_branch
                .then(|| builder.local_rows(format!("{name}gradient of a branch"), class, act, h)),
            all_branch: sequence
                .then(|| builder.rows(format!("{name}gradient of a branch, all tokens"), class, act, h)),
            all_norm: (sequence && builder.options.deferred)
                .then(|| builder.rows(format!("{name}norm, all tokens"), class, act, h)),
            wide: builder.rows(format!("{name}gradient of qkv or pre"), class, act, wide),
        }
    }

    /// The rows of a micro-batch.
    pub(crate) fn rows(&self, pass: &Pass) -> Self {
        let all = |view: View| view.row_range(0, pass.tokens());
        Self {
            branch: self.branch.map(|view| view.row_range(0, pass.local_tokens())),
            all_branch: self.all_branch.map(all),
            all_norm: self.all_norm.map(all),
            wide: all(self.wide),
        }
    }
}
