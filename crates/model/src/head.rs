//! Final norm, output layer and cross-entropy. Logits exist for `loss_chunk` tokens at a time; in training
//! each chunk's gradients are made right behind its loss, in the forward pass:
//!
//! ```text
//! hidden chunk ─▶ logits, statistics ─▶ lse, losses ─▶ d_logits (in place) ─┬▶ d_weight += d_logitsᵀ · hidden
//!       ▲                                                                  └▶ d_hidden = d_logits · W
//!       └───────────────────────── written over the hidden chunk ──────────────────────────┘
//! ```

use crate::linear::{Linear, Split, WeightJobs};
use crate::norm::NormLayer;
use crate::plan::Builder;
use triax_tensor::{
    Activation, Class, CrossEntropy, CrossEntropyGradient, CrossEntropyJoin, DType, Device, Need, View,
};

pub(crate) struct Head {
    norm: NormLayer,
    output: Linear,
    chunk: usize,
    /// act `[chunk, vocab]`.
    logits: View,
    /// f32 `[chunk, 2 · shards]`.
    statistics: View,
    /// f32 `[chunk, 1]` each.
    target_logits: View,
    lse: View,
    /// f32 `[T, 1]`.
    pub losses: View,
}

/// What the head keeps for one micro-batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadBuffers {
    /// The last layer's output, act `[T, h]`.
    pub x: View,
    pub stats: View,
    /// Output of the final norm; in training its gradient after the forward pass.
    pub hidden: View,
}

impl HeadBuffers {
    pub(crate) fn plan(builder: &mut Builder<'_>, slot: usize, x: View) -> Self {
        let act = builder.options.dtype;
        let hidden = builder.model.hidden;
        Self {
            x,
            stats: builder.rows(format!("slot.{slot}.norm.statistics"), Class::Activations, DType::F32, 2),
            hidden: builder.rows(format!("slot.{slot}.norm"), Class::Activations, act, hidden),
        }
    }

    pub(crate) fn rows(&self, tokens: usize) -> Self {
        let cut = |view: View| view.row_range(0, tokens);
        Self { x: cut(self.x), stats: cut(self.stats), hidden: cut(self.hidden) }
    }
}

/// How the gradient of the loss is made, in training.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LossGradient {
    /// Loss scale / tokens that count in the global batch.
    pub scale: f32,
    /// Whether an earlier micro-batch of the step has written the weight gradient.
    pub accumulate: bool,
}

impl Head {
    pub(crate) fn plan(builder: &mut Builder<'_>) -> Self {
        let (model, options) = (builder.model, builder.options);
        let chunk = options.loss_chunk.min(options.tokens());
        let norm = NormLayer::plan(builder, "norm");
        let weight = if model.tied { "embedding.tokens" } else { "head" };
        let output = Linear::plan_in(builder, weight, Split::Column, chunk, options.tensor_shards);
        builder.needs.push(Need::CrossEntropy {
            tokens: chunk,
            vocab: model.vocab,
            shards: options.tensor_shards,
            hidden: model.hidden,
            dtype: options.dtype,
        });
        let tokens = options.tokens();
        let mut add =
            |name: &str, dtype, rows, cols| builder.table.add(name, Class::Workspace, dtype, rows, cols);
        Self {
            norm,
            output,
            chunk,
            logits: add("logits of a chunk", options.dtype, chunk, model.vocab),
            statistics: add("logit statistics", DType::F32, chunk, 2 * options.tensor_shards),
            target_logits: add("target logits", DType::F32, chunk, 1),
            lse: add("logit log-sum-exp", DType::F32, chunk, 1),
            losses: add("losses", DType::F32, tokens, 1),
        }
    }

    /// Fills `losses`; with `gradient` also the gradients of the output layer and of `buffers.hidden`.
    pub(crate) fn forward(
        &self,
        device: &mut dyn Device,
        jobs: &mut WeightJobs,
        buffers: &HeadBuffers,
        targets: View,
        gradient: Option<LossGradient>,
    ) {
        self.norm.forward(device, buffers.x, buffers.hidden, buffers.stats);
        if gradient.is_some() {
            self.output.ready_backward(device);
        }
        let tokens = targets.len();
        for start in (0..tokens).step_by(self.chunk) {
            let rows = self.chunk.min(tokens - start);
            let hidden = buffers.hidden.row_range(start, rows);
            let logits = self.logits.row_range(0, rows);
            let statistics = self.statistics.row_range(0, rows);
            let target_logits = self.target_logits.row_range(0, rows);
            let lse = self.lse.row_range(0, rows);
            let targets = targets.flat_range(start, rows);
            device.cross_entropy(&CrossEntropy {
                hidden,
                weight: self.output.forward_operand(),
                logits,
                targets,
                vocab_start: 0,
                statistics,
                target_logits,
            });
            let losses = self.losses.row_range(start, rows);
            device.cross_entropy_join(&CrossEntropyJoin { statistics, target_logits, targets, lse, losses });
            let Some(LossGradient { scale, accumulate }) = gradient else { continue };
            device.cross_entropy_gradient(&CrossEntropyGradient {
                logits,
                lse,
                targets,
                vocab_start: 0,
                scale,
            });
            self.output.weight_gradient(device, jobs, hidden, logits, accumulate || start > 0);
            jobs.run(device);
            self.output.input_gradient(device, logits, hidden, Activation::None);
        }
    }

    /// From the gradient in `buffers.hidden` to the gradient `d_x` of the last layer's output.
    pub(crate) fn backward(&self, device: &mut dyn Device, buffers: &HeadBuffers, d_x: View) {
        self.norm.backward(device, buffers.hidden, buffers.x, buffers.stats, None, d_x);
    }

    pub(crate) fn pack(&self, device: &mut dyn Device) {
        self.output.pack(device);
    }

    pub(crate) fn begin_step(&self, device: &mut dyn Device) {
        self.norm.begin_step(device);
    }

    pub(crate) fn finish_step(&self, device: &mut dyn Device) {
        self.norm.finish_step(device);
    }
}
