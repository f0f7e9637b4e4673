//! The attention half of a layer: `middle = x + dropout(attention(norm(x) · Wqkv) · Wo + bo)`.

use crate::activations::{GradientBuffers, LayerBuffers};
use crate::linear::{Linear, Split, WeightJobs};
use crate::norm::NormLayer;
use crate::pass::{DropoutSite, Pass};
use crate::plan::Builder;
use triax_spec::model::Positions;
use triax_tensor::{Activation, AttentionShape, Device, Epilogue, Mask, Need, Rotary, View};

pub(crate) struct Attention {
    norm: NormLayer,
    qkv: Linear,
    output: Linear,
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
    pub(crate) fn plan(builder: &mut Builder<'_>, layer: usize) -> Self {
        let name = format!("layer.{layer}.attention");
        let (model, options) = (builder.model, builder.options);
        let rows = options.tokens();
        let attention = Self {
            norm: NormLayer::plan(builder, &format!("{name}.norm")),
            qkv: Linear::plan(builder, &format!("{name}.qkv"), Split::Column, rows),
            output: Linear::plan(builder, &format!("{name}.output"), Split::Row, rows),
            heads: model.heads,
            kv_heads: model.kv_heads,
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
                model.heads,
            ),
            output_dropout: DropoutSite::new(
                model.dropout.hidden,
                options.seed,
                &format!("{name}.dropout"),
                model.hidden,
            ),
        };
        let largest = Pass {
            batch: options.micro_batch,
            seq: options.sequence,
            first_row: 0,
            dropout: true,
            mask: Mask::Causal,
        };
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
    pub(crate) fn project(&self, device: &mut dyn Device, buffers: &LayerBuffers) {
        self.norm.forward(device, buffers.x, buffers.attention_norm, buffers.attention_stats);
        self.qkv.forward(device, buffers.attention_norm, buffers.qkv, Epilogue::default());
    }

    /// Attention itself, without rotary positions.
    pub(crate) fn attend(&self, device: &mut dyn Device, pass: &Pass, buffers: &LayerBuffers) {
        self.attend_rows(device, pass, buffers.qkv, buffers.attention, buffers.lse);
    }

    pub(crate) fn attend_rows(&self, device: &mut dyn Device, pass: &Pass, qkv: View, out: View, lse: View) {
        device.attention(&self.shape(pass), qkv, out, lse);
    }

    /// Output projection and residual: `attention`, `x` to `middle`.
    pub(crate) fn finish(&self, device: &mut dyn Device, pass: &Pass, buffers: &LayerBuffers) {
        let epilogue = Epilogue {
            dropout: self.output_dropout.of(pass),
            residual: Some(buffers.x),
            ..Epilogue::default()
        };
        self.output.forward(device, buffers.attention, buffers.middle, epilogue);
    }

    pub(crate) fn forward(&self, device: &mut dyn Device, pass: &Pass, buffers: &LayerBuffers) {
        self.project(device, buffers);
        self.turn(device, buffers.qkv, pass.seq, 0, false);
        self.attend(device, pass, buffers);
        self.finish(device, pass, buffers);
    }

    /// What selective recompute drops, from what it keeps.
    pub(crate) fn recompute(&self, device: &mut dyn Device, pass: &Pass, buffers: &LayerBuffers) {
        self.norm.forward(device, buffers.x, buffers.attention_norm, buffers.attention_stats);
        self.attend(device, pass, buffers);
    }

    /// `d_x`: gradient of `middle` on entry, of `x` on return.
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
        let d_branch = branch_gradient(device, self.output_dropout, pass, gradients, d_x);
        self.output.weight_gradient(device, jobs, buffers.attention, d_branch, accumulate);
        self.output.ready_backward(device);
        self.output.input_gradient(device, d_branch, gradients.attention, Activation::None);
        device.attention_backward(
            &self.shape(pass),
            gradients.attention,
            buffers.qkv,
            buffers.attention,
            buffers.lse,
            gradients.qkv,
        );
        self.turn(device, gradients.qkv, pass.seq, 0, true);
        self.qkv.weight_gradient(device, jobs, buffers.attention_norm, gradients.qkv, accumulate);
        self.qkv.ready_backward(device);
        self.qkv.input_gradient(device, gradients.qkv, gradients.norm, Activation::None);
        // The buffers of this half's gradients are used again by the next one.
        jobs.run(device);
        self.norm.backward(device, gradients.norm, buffers.x, buffers.attention_stats, Some(d_x), d_x);
    }

    pub(crate) fn pack(&self, device: &mut dyn Device) {
        self.qkv.pack(device);
        self.output.pack(device);
    }

    pub(crate) fn begin_step(&self, device: &mut dyn Device) {
        self.norm.begin_step(device);
        self.qkv.begin_step(device);
        self.output.begin_step(device);
    }

    pub(crate) fn finish_step(&self, device: &mut dyn Device) {
        self.norm.finish_step(device);
    }
}

/// Gradient of a residual branch's last product: `d` behind the branch's dropout.
pub(crate) fn branch_gradient(
    device: &mut dyn Device,
    site: DropoutSite,
    pass: &Pass,
    gradients: &GradientBuffers,
    d: View,
) -> View {
    match (site.of(pass), gradients.branch) {
        (Some(dropout), Some(branch)) => {
            device.dropout(d, &dropout, branch);
            branch
        }
        _ => d,
    }
}
