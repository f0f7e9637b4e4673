//! Final norm, output layer and cross-entropy. Logits exist for `loss_chunk` tokens at a time; in training
//! each chunk's gradients are made right behind its loss, in the forward pass:
//!
//! ```text
//! hidden chunk ─▶ logits, statistics ─▶ lse, losses ─▶ d_logits (in place) ─┬▶ d_weight += d_logitsᵀ · hidden
//!       ▲                                                                  └▶ d_hidden = d_logits · W
//!       └───────────────────────── written over the hidden chunk ──────────────────────────┘
//! ```
//! Where the vocabulary is split, the statistics of all ranks are gathered and the target's logit summed before
//! the join, and the parts of `d_hidden` are summed behind the last chunk.

use crate::linear::{Linear, Parallel, WeightJobs};
use crate::norm::NormLayer;
use crate::pass::Pass;
use crate::plan::Builder;
use crate::rank::{Exchange, Rank};
use triax_comm::CommError;
use triax_tensor::{
    Activation, Class, CrossEntropy, CrossEntropyGradient, CrossEntropyJoin, DType, Device, Need, View,
};

pub(crate) struct Head {
    norm: NormLayer,
    output: Linear,
    chunk: usize,
    /// Where the vocabulary is split, and into how many parts.
    split: Option<(Exchange, usize, usize)>,
    /// First id of this rank.
    vocab_start: usize,
    /// act `[chunk, this rank's part of the vocabulary]`.
    logits: View,
    /// f32 `[parts · chunk, 2 · shards / parts]`.
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
    /// The last layer's output, act `[l, h]`, `l` this rank's tokens.
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
            stats: builder.local_rows(
                format!("slot.{slot}.norm.statistics"),
                Class::Activations,
                DType::F32,
                2,
            ),
            hidden: builder.local_rows(format!("slot.{slot}.norm"), Class::Activations, act, hidden),
        }
    }

    pub(crate) fn rows(&self, pass: &Pass) -> Self {
        let cut = |view: View| view.row_range(0, pass.local_tokens());
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
    pub(crate) fn plan(builder: &mut Builder<'_>, exchange: Option<Exchange>) -> Self {
        let (model, options) = (builder.model, builder.options);
        let chunk = options.loss_chunk.min(options.tokens());
        let norm = NormLayer::plan(builder, "norm");
        let weight = if model.tied { "embedding.tokens" } else { "head" };
        let output = Linear::plan_in(builder, weight, Parallel::Column, chunk, builder.own_shards());
        let ids = builder.parameter(&format!("{weight}.weight")).rows.clone();
        builder.needs.push(Need::CrossEntropy {
            tokens: chunk,
            vocab: ids.len(),
            shards: builder.own_shards(),
            hidden: model.hidden,
            dtype: options.dtype,
        });
        let (tokens, shards, parts) = (options.tokens(), builder.own_shards(), options.tensor.size);
        let mut add =
            |name: &str, dtype, rows, cols| builder.table.add(name, Class::Workspace, dtype, rows, cols);
        Self {
            norm,
            output,
            chunk,
            split: exchange.map(|exchange| (exchange, options.tensor.index, parts)),
            vocab_start: ids.start,
            logits: add("logits of a chunk", options.dtype, chunk, ids.len()),
            statistics: add("logit statistics", DType::F32, parts * chunk, 2 * shards),
            target_logits: add("target logits", DType::F32, chunk, 1),
            lse: add("logit log-sum-exp", DType::F32, chunk, 1),
            losses: add("losses", DType::F32, tokens, 1),
        }
    }

    /// Fills `losses`; with `gradient` also the gradients of the output layer and of `buffers.hidden`.
    pub(crate) fn forward(
        &self,
        rank: &mut Rank<'_>,
        jobs: &mut WeightJobs,
        pass: &Pass,
        buffers: &HeadBuffers,
        targets: View,
        gradient: Option<LossGradient>,
    ) -> Result<(), CommError> {
        self.norm.forward(rank.device, buffers.x, buffers.hidden, buffers.stats);
        let all = match &self.split {
            None => buffers.hidden,
            Some((exchange, ..)) => exchange.spread(rank, pass, buffers.hidden, None, "last norm output")?,
        };
        if gradient.is_some() {
            self.output.ready_backward(rank.device);
        }
        let tokens = targets.len();
        for start in (0..tokens).step_by(self.chunk) {
            let rows = self.chunk.min(tokens - start);
            let hidden = all.row_range(start, rows);
            let logits = self.logits.row_range(0, rows);
            let lse = self.lse.row_range(0, rows);
            let targets = targets.flat_range(start, rows);
            self.losses_of(rank, hidden, targets, self.losses.row_range(start, rows))?;
            let Some(LossGradient { scale, accumulate }) = gradient else { continue };
            let vocab_start = self.vocab_start;
            let op = CrossEntropyGradient { logits, lse, targets, vocab_start, scale };
            rank.device.cross_entropy_gradient(&op);
            self.output.weight_gradient(rank.device, jobs, hidden, logits, accumulate || start > 0);
            jobs.run(rank.device);
            let d_hidden = match &self.split {
                None => hidden,
                Some((exchange, ..)) => exchange.partial(pass).row_range(start, rows),
            };
            self.output.input_gradient(rank.device, logits, d_hidden, Activation::None);
        }
        if let (Some((exchange, ..)), Some(_)) = (&self.split, gradient) {
            let sum = exchange.join(rank, pass, "gradient of the last norm output")?;
            rank.device.cast(sum, buffers.hidden);
        }
        Ok(())
    }

    /// Logits, log-sum-exp and losses of a chunk.
    fn losses_of(
        &self,
        rank: &mut Rank<'_>,
        hidden: View,
        targets: View,
        losses: View,
    ) -> Result<(), CommError> {
        let rows = hidden.rows;
        let (index, parts) = self.split.map_or((0, 1), |(_, index, parts)| (index, parts));
        let statistics = self.statistics.row_range(0, parts * rows);
        let target_logits = self.target_logits.row_range(0, rows);
        rank.device.cross_entropy(&CrossEntropy {
            hidden,
            weight: self.output.forward_operand(),
            logits: self.logits.row_range(0, rows),
            targets,
            vocab_start: self.vocab_start,
            statistics: statistics.row_range(index * rows, rows),
            target_logits,
        });
        if self.split.is_some() {
            rank.gather(statistics, "logit statistics")?;
            rank.sum(target_logits, "target logits")?;
        }
        let lse = self.lse.row_range(0, rows);
        rank.device.cross_entropy_join(&CrossEntropyJoin { statistics, target_logits, targets, lse, losses });
        Ok(())
    }

    /// From the gradient in `buffers.hidden` to the gradient `d_x` of the last layer's output.
    pub(crate) fn backward(&self, device: &mut dyn Device, buffers: &HeadBuffers, d_x: View) {
        self.norm.backward(device, buffers.hidden, buffers.x, buffers.stats, None, d_x);
    }

    pub(crate) fn pack(&self, device: &mut dyn Device) {
        self.output.pack(device);
    }

    pub(crate) fn begin_group(&self, device: &mut dyn Device) {
        self.norm.begin_group(device);
    }

    pub(crate) fn finish_group(&self, rank: &mut Rank<'_>) -> Result<(), CommError> {
        self.norm.finish_group(rank)
    }
}
