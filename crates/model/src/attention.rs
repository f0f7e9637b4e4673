//! The attention half of a layer: `middle = x + dropout(attention(norm(x) · Wqkv) · Wo + bo)`.

use crate::activations::{GradientBuffers, HalfBuffers, LayerBuffers};
use crate::linear::{Linear, Parallel, WeightJobs};
use crate::norm::NormLayer;
use crate::pass::{DropoutSite, Pass};
use crate::plan::Builder;
use crate::rank::{Exchange, Rank};
use triax_comm::CommError;
use triax_spec::model::Positions;
use triax_tensor::{
    Activation, AttentionShape, Device, Dropout, Epilogue, Mask, Need, ResidualAdd, Rotary, View,
};

pub(crate) struct Attention {
    norm: NormLayer,
    qkv: Linear,
    output: Linear,
    exchange: Option<Exchange>,
    /// Of this rank.
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    /// Base of rotary positions.
    rotary: Option<f32>,
    probabilities_dropout: DropoutSite,
    output_dropout: DropoutSite,
}

impl Attention {
    pub(crate) fn plan(builder: &mut Builder<'_>, layer: usize, exchange: Option<Exchange>) -> Self {
        let name = format!("layer.{layer}.attention");
        let (model, options) = (builder.model, builder.options);
        let rows = options.tokens();
        let attention = Self {
            norm: NormLayer::plan(builder, &format!("{name}.norm")),
            qkv: Linear::plan(builder, &format!("{name}.qkv"), Parallel::Column, rows),
            output: Linear::plan(builder, &format!("{name}.output"), Parallel::Row, rows),
            exchange,
            heads: builder.own(model.heads),
            kv_heads: builder.own(model.kv_heads),
            head_dim: model.head_dim,
            scale: 1.0 / (model.head_dim as f32).sqrt(),
            rotary: match model.positions {
                Positions::Rotary { base } => Some(base),
                Positions::Learned => None,
            },
            probabilities_dropout: DropoutSite::new(
                model.dropout.attention,
                options.seed,
                &format!("{name}.probabilities.dropout"),
                builder.own(model.heads) * options.tensor.index,
                model.heads,
            ),
            output_dropout: DropoutSite::new(
                model.dropout.hidden,
                options.seed,
                &format!("{name}.dropout"),
                0,
                model.hidden,
            ),
        };
        let largest = Pass::plain(options.micro_batch, options.sequence, Mask::Causal);
        builder.needs.push(Need::Attention(attention.shape(&largest)));
        attention
    }

    fn shape(&self, pass: &Pass) -> AttentionShape {
        AttentionShape {
            batch: pass.batch,
            seq: pass.seq,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: self.scale,
            mask: pass.mask,
            dropout: self.probabilities_dropout.of(pass),
        }
    }

    pub(crate) fn turn(
        &self,
        device: &mut dyn Device,
        qkv: View,
        seq: usize,
        first_position: usize,
        inverse: bool,
    ) {
        if let Some(base) = self.rotary {
            let (heads, kv_heads, head_dim) = (self.heads, self.kv_heads, self.head_dim);
            device.rotary(&Rotary { qkv, heads, kv_heads, head_dim, base, seq, first_position, inverse });
        }
    }

    /// Norm and projection: fills `attention_norm`, its statistics and `qkv` (not yet turned).
    pub(crate) fn project(
        &self,
        rank: &mut Rank<'_>,
        pass: &Pass,
        buffers: &LayerBuffers,
    ) -> Result<(), CommError> {
        self.norm.forward(rank.device, buffers.x, buffers.attention_norm, buffers.attention_stats);
        let norm = enter(self.exchange, rank, pass, buffers.attention_norm, None)?;
        self.qkv.forward(rank.device, norm, buffers.qkv, Epilogue::default());
        Ok(())
    }

    /// Attention itself, without rotary positions.
    pub(crate) fn attend(&self, device: &mut dyn Device, pass: &Pass, buffers: &LayerBuffers) {
        self.attend_rows(device, pass, buffers.qkv, buffers.attention, buffers.lse);
    }

    pub(crate) fn attend_rows(&self, device: &mut dyn Device, pass: &Pass, qkv: View, out: View, lse: View) {
        device.attention(&self.shape(pass), qkv, out, lse);
    }

    /// Output projection and residual: `attention`, `x` to `middle`.
    pub(crate) fn finish(
        &self,
        rank: &mut Rank<'_>,
        pass: &Pass,
        buffers: &LayerBuffers,
    ) -> Result<(), CommError> {
        let dropout = self.output_dropout.of_local(pass);
        let (exchange, out) = (self.exchange, buffers.middle);
        leave(exchange, rank, pass, &self.output, buffers.attention, buffers.x, dropout, out)
    }

    pub(crate) fn forward(
        &self,
        rank: &mut Rank<'_>,
        pass: &Pass,
        buffers: &LayerBuffers,
    ) -> Result<(), CommError> {
        self.project(rank, pass, buffers)?;
        self.turn(rank.device, buffers.qkv, pass.seq, 0, false);
        self.attend(rank.device, pass, buffers);
        self.finish(rank, pass, buffers)
    }

    /// What selective recompute drops, from what it keeps.
    pub(crate) fn recompute(&self, device: &mut dyn Device, pass: &Pass, buffers: &LayerBuffers) {
        self.norm.forward(device, buffers.x, buffers.attention_norm, buffers.attention_stats);
        self.attend(device, pass, buffers);
    }

    /// `d_x`: gradient of `middle` on entry, of `x` on return.
    pub(crate) fn backward(
        &self,
        rank: &mut Rank<'_>,
        jobs: &mut WeightJobs,
        pass: &Pass,
        buffers: &LayerBuffers,
        (gradients, half): (&GradientBuffers, &HalfBuffers),
        d_x: View,
        accumulate: bool,
    ) -> Result<(), CommError> {
        let d_branch = branch_gradient(self.exchange, rank, self.output_dropout, pass, half, d_x)?;
        let device = &mut *rank.device;
        self.output.weight_gradient(device, jobs, buffers.attention, d_branch, accumulate);
        self.output.ready_backward(device);
        self.output.input_gradient(device, d_branch, gradients.attention, Activation::None);
        device.attention_backward(
            &self.shape(pass),
            gradients.attention,
            buffers.qkv,
            buffers.attention,
            buffers.lse,
            half.wide,
        );
        self.turn(device, half.wide, pass.seq, 0, true);
        let norm = enter(self.exchange, rank, pass, buffers.attention_norm, half.all_norm)?;
        self.qkv.weight_gradient(rank.device, jobs, norm, half.wide, accumulate);
        enter_gradient(self.exchange, rank, pass, &self.qkv, half.wide, gradients.norm)?;
        jobs.settle(rank.device);
        self.norm.backward(rank.device, gradients.norm, buffers.x, buffers.attention_stats, Some(d_x), d_x);
        Ok(())
    }

    pub(crate) fn pack(&self, device: &mut dyn Device) {
        self.qkv.pack(device);
        self.output.pack(device);
    }

    pub(crate) fn begin_group(&self, device: &mut dyn Device) {
        self.norm.begin_group(device);
        self.qkv.begin_group(device);
        self.output.begin_group(device);
    }

    pub(crate) fn finish_group(&self, rank: &mut Rank<'_>) -> Result<(), CommError> {
        self.norm.finish_group(rank)
    }
}

/// In front of a column-split product: all tokens of a norm's output.
pub(crate) fn enter(
    exchange: Option<Exchange>,
    rank: &mut Rank<'_>,
    pass: &Pass,
    norm: View,
    into: Option<View>,
) -> Result<View, CommError> {
    exchange.map_or(Ok(norm), |exchange| exchange.spread(rank, pass, norm, into, "norm output"))
}

/// Its backward: `d_norm` (this rank's tokens) from the product's gradient `d_out`.
pub(crate) fn enter_gradient(
    exchange: Option<Exchange>,
    rank: &mut Rank<'_>,
    pass: &Pass,
    product: &Linear,
    d_out: View,
    d_norm: View,
) -> Result<(), CommError> {
    product.ready_backward(rank.device);
    match exchange {
        None => product.input_gradient(rank.device, d_out, d_norm, Activation::None),
        Some(exchange) => {
            product.input_gradient(rank.device, d_out, exchange.partial(pass), Activation::None);
            let sum = exchange.join(rank, pass, "gradient of a norm output")?;
            rank.device.cast(sum, d_norm);
        }
    }
    Ok(())
}

/// A row-split product with what follows it: `out = x + dropout(values · W + bias)`, this rank's tokens.
pub(crate) fn leave(
    exchange: Option<Exchange>,
    rank: &mut Rank<'_>,
    pass: &Pass,
    product: &Linear,
    values: View,
    x: View,
    dropout: Option<Dropout>,
    out: View,
) -> Result<(), CommError> {
    match exchange {
        None => {
            let epilogue = Epilogue { dropout, residual: Some(x), ..Epilogue::default() };
            product.forward(rank.device, values, out, epilogue);
        }
        Some(exchange) => {
            product.forward_partial(rank.device, values, exchange.partial(pass));
            let value = exchange.join(rank, pass, "residual branch")?;
            rank.device.add_residual(&ResidualAdd { x, value, bias: product.bias(), dropout, out });
        }
    }
    Ok(())
}

/// Its backward: the gradient of the product, for all tokens, from the gradient `d` of `out`.
pub(crate) fn branch_gradient(
    exchange: Option<Exchange>,
    rank: &mut Rank<'_>,
    site: DropoutSite,
    pass: &Pass,
    half: &HalfBuffers,
    d: View,
) -> Result<View, CommError> {
    let local = match (site.of_local(pass), half.branch) {
        (Some(dropout), Some(branch)) => {
            rank.device.dropout(d, &dropout, branch);
            branch
        }
        (None, Some(branch)) => {
            rank.device.cast(d, branch);
            branch
        }
        (_, None) => d,
    };
    let Some(exchange) = exchange else { return Ok(local) };
    exchange.spread(rank, pass, local, half.all_branch, "gradient of a branch")
}
