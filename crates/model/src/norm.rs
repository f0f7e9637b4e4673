//! A layer norm or RMS norm with the sums of its gradients: f32 `[shards, h]` over all micro-batches of a group,
//! joined by the tree at its end. With sequence parallelism a rank fills the rows of its own tokens' shards.

use crate::plan::Builder;
use crate::rank::Rank;
use triax_comm::CommError;
use triax_spec::model;
use triax_tensor::{Class, DType, Device, Need, Norm, NormBackward, NormKind, View};

pub(crate) struct NormLayer {
    kind: NormKind,
    eps: f32,
    weight: Affine,
    /// Layer norm only.
    bias: Option<Affine>,
    /// Whether other ranks hold the rest of the sums.
    split: bool,
}

struct Affine {
    value: View,
    grad: View,
    sums: Option<Sums>,
}

#[derive(Clone, Copy)]
struct Sums {
    /// f32 `[shards, h]`.
    all: View,
    /// The rows of this rank's tokens.
    own: View,
}

impl NormLayer {
    pub(crate) fn plan(builder: &mut Builder<'_>, name: &str) -> Self {
        let kind = match builder.model.norm {
            model::NormKind::Layer => NormKind::Layer,
            model::NormKind::Rms => NormKind::Rms,
        };
        let hidden = builder.model.hidden;
        builder.needs.push(Need::Rows { tokens: builder.options.tokens(), cols: hidden });
        let (split, each) = (builder.options.tensor, builder.own_shards());
        let (shards, own) = if split.sequence {
            (each * split.size, each * split.index..each * (split.index + 1))
        } else {
            (builder.options.tensor_shards, 0..builder.options.tensor_shards)
        };
        let mut affine = |part: &str| {
            let name = format!("{name}.{part}");
            let parameter = builder.find(&name)?;
            let (value, grad) = (parameter.weight, parameter.grad);
            let sums = builder.options.training.then(|| {
                let all =
                    builder.table.add(format!("{name}.sums"), Class::Gradients, DType::F32, shards, hidden);
                Sums { all, own: all.row_range(own.start, own.len()) }
            });
            Some(Affine { value, grad, sums })
        };
        let weight = affine("weight").expect("every norm declares its weight");
        let bias = affine("bias");
        Self { kind, eps: builder.model.norm_eps, weight, bias, split: split.sequence }
    }

    pub(crate) fn forward(&self, device: &mut dyn Device, x: View, out: View, stats: View) {
        device.norm(&Norm {
            kind: self.kind,
            x,
            weight: self.weight.value,
            bias: self.bias.as_ref().map(|b| b.value),
            out,
            stats,
            eps: self.eps,
        });
    }

    /// `d_x = norm'(d_out) + d_residual`; `d_residual` may be `d_x` itself.
    pub(crate) fn backward(
        &self,
        device: &mut dyn Device,
        d_out: View,
        x: View,
        stats: View,
        d_residual: Option<View>,
        d_x: View,
    ) {
        let sums =
            |affine: &Affine| affine.sums.expect("backward runs only in networks planned for training").own;
        device.norm_backward(&NormBackward {
            kind: self.kind,
            d_out,
            x,
            stats,
            weight: self.weight.value,
            d_residual,
            d_x,
            d_weight: sums(&self.weight),
            d_bias: self.bias.as_ref().map(sums),
        });
    }

    fn affine(&self) -> impl Iterator<Item = &Affine> {
        std::iter::once(&self.weight).chain(&self.bias)
    }

    pub(crate) fn begin_group(&self, device: &mut dyn Device) {
        for sums in self.affine().filter_map(|a| a.sums) {
            device.clear(sums.own);
        }
    }

    pub(crate) fn finish_group(&self, rank: &mut Rank<'_>) -> Result<(), CommError> {
        for affine in self.affine() {
            let Some(sums) = affine.sums else { continue };
            if self.split {
                rank.gather(sums.all, "norm gradients")?;
            }
            rank.device.join_rows(sums.all, affine.grad);
        }
        Ok(())
    }
}
