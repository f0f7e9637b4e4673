//! The feed-forward half of a layer: `out = middle + dropout(act(norm(middle) · Wup + bup) · Wdown + bdown)`,
//! with `act` GELU or SwiGLU (`silu(gate) · up`, gate and up in alternating columns).

use crate::activations::{GradientBuffers, HalfBuffers, LayerBuffers};
use crate::attention::{branch_gradient, enter, enter_gradient, leave};
use crate::linear::{Linear, Parallel, WeightJobs};
use crate::norm::NormLayer;
use crate::pass::{DropoutSite, Pass};
use crate::plan::Builder;
use crate::rank::{Exchange, Rank};
use triax_comm::CommError;
use triax_spec::model;
use triax_tensor::{Activation, Device, Epilogue, View};

pub(crate) struct FeedForward {
    norm: NormLayer,
    up: Linear,
    down: Linear,
    exchange: Option<Exchange>,
    activation: model::Activation,
    dropout: DropoutSite,
}

impl FeedForward {
    pub(crate) fn plan(builder: &mut Builder<'_>, layer: usize, exchange: Option<Exchange>) -> Self {
        let name = format!("layer.{layer}.feed_forward");
        let (model, options) = (builder.model, builder.options);
        let rows = options.tokens();
        Self {
            norm: NormLayer::plan(builder, &format!("{name}.norm")),
            up: Linear::plan(builder, &format!("{name}.up"), Parallel::Column, rows),
            down: Linear::plan(builder, &format!("{name}.down"), Parallel::Row, rows),
            exchange,
            activation: model.activation,
            dropout: DropoutSite::new(
                model.dropout.hidden,
                options.seed,
                &format!("{name}.dropout"),
                0,
                model.hidden,
            ),
        }
    }

    /// Everything before the down projection.
    pub(crate) fn activate(
        &self,
        rank: &mut Rank<'_>,
        pass: &Pass,
        buffers: &LayerBuffers,
    ) -> Result<(), CommError> {
        let (norm, stats) = (buffers.feed_forward_norm, buffers.feed_forward_stats);
        self.norm.forward(rank.device, buffers.middle, norm, stats);
        let norm = enter(self.exchange, rank, pass, norm, None)?;
        match self.activation {
            model::Activation::Gelu => {
                let activation = Activation::Gelu { pre: buffers.pre };
                let epilogue = Epilogue { activation, ..Epilogue::default() };
                self.up.forward(rank.device, norm, buffers.activated, epilogue);
            }
            model::Activation::Swiglu => {
                self.up.forward(rank.device, norm, buffers.pre, Epilogue::default());
                rank.device.silu_mul(buffers.pre, buffers.activated);
            }
        }
        Ok(())
    }

    /// `middle` to `out`, which may be the layer's own input buffer.
    pub(crate) fn forward(
        &self,
        rank: &mut Rank<'_>,
        pass: &Pass,
        buffers: &LayerBuffers,
        out: View,
    ) -> Result<(), CommError> {
        self.activate(rank, pass, buffers)?;
        let dropout = self.dropout.of_local(pass);
        leave(self.exchange, rank, pass, &self.down, buffers.activated, buffers.middle, dropout, out)
    }

    /// What selective recompute drops, from what it keeps.
    pub(crate) fn recompute(&self, device: &mut dyn Device, buffers: &LayerBuffers) {
        self.norm.forward(device, buffers.middle, buffers.feed_forward_norm, buffers.feed_forward_stats);
        match self.activation {
            model::Activation::Gelu => device.gelu(buffers.pre, buffers.activated),
            model::Activation::Swiglu => device.silu_mul(buffers.pre, buffers.activated),
        }
    }

    /// `d_x`: gradient of `out` on entry, of `middle` on return.
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
        let d_branch = branch_gradient(self.exchange, rank, self.dropout, pass, half, d_x)?;
        let device = &mut *rank.device;
        self.down.weight_gradient(device, jobs, buffers.activated, d_branch, accumulate);
        self.down.ready_backward(device);
        match gradients.activated {
            None => {
                let activation = Activation::GeluGradient { pre: buffers.pre };
                self.down.input_gradient(device, d_branch, half.wide, activation);
            }
            Some(d_activated) => {
                self.down.input_gradient(device, d_branch, d_activated, Activation::None);
                device.silu_mul_backward(d_activated, buffers.pre, half.wide);
            }
        }
        let norm = enter(self.exchange, rank, pass, buffers.feed_forward_norm, half.all_norm)?;
        self.up.weight_gradient(rank.device, jobs, norm, half.wide, accumulate);
        enter_gradient(self.exchange, rank, pass, &self.up, half.wide, gradients.norm)?;
        jobs.settle(rank.device);
        let stats = buffers.feed_forward_stats;
        self.norm.backward(rank.device, gradients.norm, buffers.middle, stats, Some(d_x), d_x);
        Ok(())
    }

    pub(crate) fn pack(&self, device: &mut dyn Device) {
        self.up.pack(device);
        self.down.pack(device);
    }

    pub(crate) fn begin_group(&self, device: &mut dyn Device) {
        self.norm.begin_group(device);
        self.up.begin_group(device);
        self.down.begin_group(device);
    }

    pub(crate) fn finish_group(&self, rank: &mut Rank<'_>) -> Result<(), CommError> {
        self.norm.finish_group(rank)
    }
}
