//! The feed-forward half of a layer: `out = middle + dropout(act(norm(middle) · Wup + bup) · Wdown + bdown)`,
//! with `act` GELU or SwiGLU (`silu(gate) · up`, gate and up in alternating columns).

use crate::activations::{GradientBuffers, LayerBuffers};
use crate::attention::branch_gradient;
use crate::linear::{Linear, Split, WeightJobs};
use crate::norm::NormLayer;
use crate::pass::{DropoutSite, Pass};
use crate::plan::Builder;
use triax_spec::model;
use triax_tensor::{Activation, Device, Epilogue, View};

pub(crate) struct FeedForward {
    norm: NormLayer,
    up: Linear,
    down: Linear,
    activation: model::Activation,
    dropout: DropoutSite,
}

impl FeedForward {
    pub(crate) fn plan(builder: &mut Builder<'_>, layer: usize) -> Self {
        let name = format!("layer.{layer}.feed_forward");
        let (model, options) = (builder.model, builder.options);
        let rows = options.tokens();
        Self {
            norm: NormLayer::plan(builder, &format!("{name}.norm")),
            up: Linear::plan(builder, &format!("{name}.up"), Split::Column, rows),
            down: Linear::plan(builder, &format!("{name}.down"), Split::Row, rows),
            activation: model.activation,
            dropout: DropoutSite::new(
                model.dropout.hidden,
                options.seed,
                &format!("{name}.dropout"),
                model.hidden,
            ),
        }
    }

    /// Everything before the down projection.
    pub(crate) fn activate(&self, device: &mut dyn Device, buffers: &LayerBuffers) {
        self.norm.forward(device, buffers.middle, buffers.feed_forward_norm, buffers.feed_forward_stats);
        match self.activation {
            model::Activation::Gelu => {
                let activation = Activation::Gelu { pre: buffers.pre };
                let epilogue = Epilogue { activation, ..Epilogue::default() };
                self.up.forward(device, buffers.feed_forward_norm, buffers.activated, epilogue);
            }
            model::Activation::Swiglu => {
                self.up.forward(device, buffers.feed_forward_norm, buffers.pre, Epilogue::default());
                device.silu_mul(buffers.pre, buffers.activated);
            }
        }
    }

    /// `middle` to `out`, which may be the layer's own input buffer.
    pub(crate) fn forward(&self, device: &mut dyn Device, pass: &Pass, buffers: &LayerBuffers, out: View) {
        self.activate(device, buffers);
        let epilogue = Epilogue {
            dropout: self.dropout.of(pass),
            residual: Some(buffers.middle),
            ..Epilogue::default()
        };
        self.down.forward(device, buffers.activated, out, epilogue);
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
        device: &mut dyn Device,
        jobs: &mut WeightJobs,
        pass: &Pass,
        buffers: &LayerBuffers,
        gradients: &GradientBuffers,
        d_x: View,
        accumulate: bool,
    ) {
        let d_branch = branch_gradient(device, self.dropout, pass, gradients, d_x);
        self.down.weight_gradient(device, jobs, buffers.activated, d_branch, accumulate);
        self.down.ready_backward(device);
        match gradients.activated {
            None => {
                let activation = Activation::GeluGradient { pre: buffers.pre };
                self.down.input_gradient(device, d_branch, gradients.pre, activation);
            }
            Some(d_activated) => {
                self.down.input_gradient(device, d_branch, d_activated, Activation::None);
                device.silu_mul_backward(d_activated, buffers.pre, gradients.pre);
            }
        }
        self.up.weight_gradient(device, jobs, buffers.feed_forward_norm, gradients.pre, accumulate);
        self.up.ready_backward(device);
        self.up.input_gradient(device, gradients.pre, gradients.norm, Activation::None);
        // The buffers of this half's gradients are used again by the next one.
        jobs.run(device);
        let stats = buffers.feed_forward_stats;
        self.norm.backward(device, gradients.norm, buffers.middle, stats, Some(d_x), d_x);
    }

    pub(crate) fn pack(&self, device: &mut dyn Device) {
        self.up.pack(device);
        self.down.pack(device);
    }

    pub(crate) fn begin_step(&self, device: &mut dyn Device) {
        self.norm.begin_step(device);
        self.up.begin_step(device);
        self.down.begin_step(device);
    }

    pub(crate) fn finish_step(&self, device: &mut dyn Device) {
        self.norm.finish_step(device);
    }
}
