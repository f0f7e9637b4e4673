//! Token and position embeddings. The token table's gradient is collected in compact rows, one for each
//! token id seen in the step, and added to the main gradient when the step ends.

use crate::pass::{DropoutSite, Pass};
use crate::plan::Builder;
use triax_tensor::{Class, DType, Device, Embed, EmbedBackward, View};

pub(crate) struct Embedding {
    table: View,
    positions: Option<View>,
    gradients: Option<Gradients>,
    dropout: DropoutSite,
}

struct Gradients {
    table: View,
    /// Whether the output layer writes `table` first.
    tied: bool,
    positions: Option<View>,
    /// u32 `[1, vocab + 1]`.
    slots: View,
    /// f32 `[ids in a step at most, h]`.
    sums: View,
}

impl Embedding {
    pub(crate) fn plan(builder: &mut Builder<'_>, head_here: bool) -> Self {
        let (model, options) = (builder.model, builder.options);
        let tokens = builder.parameter("embedding.tokens.weight").clone();
        let positions = builder.find("embedding.positions.weight").cloned();
        let gradients = options.training.then(|| {
            let most = (options.tokens() * options.micro_batches).min(model.vocab);
            let class = Class::Workspace;
            Gradients {
                table: tokens.grad,
                tied: model.tied && head_here,
                positions: positions.as_ref().map(|p| p.grad),
                slots: builder.table.add("embedding.slots", class, DType::U32, 1, model.vocab + 1),
                sums: builder.table.add("embedding.sums", class, DType::F32, most, model.hidden),
            }
        });
        Self {
            table: tokens.weight,
            positions: positions.map(|p| p.weight),
            gradients,
            dropout: DropoutSite::new(
                model.dropout.embedding,
                options.seed,
                "embedding.dropout",
                model.hidden,
            ),
        }
    }

    /// `tokens`: u32 `[1, T]`; row t gets position `first_position + t % seq`.
    pub(crate) fn forward(
        &self,
        device: &mut dyn Device,
        pass: &Pass,
        tokens: View,
        first_position: usize,
        out: View,
    ) {
        device.embed(&Embed {
            tokens,
            table: self.table,
            vocab_start: 0,
            positions: self.positions,
            seq: pass.seq,
            first_position,
            dropout: self.dropout.of(pass),
            out,
        });
    }

    pub(crate) fn backward(&self, device: &mut dyn Device, pass: &Pass, tokens: View, d_out: View) {
        let gradients = self.gradients();
        device.embed_backward(&EmbedBackward {
            tokens,
            vocab_start: 0,
            d_out,
            dropout: self.dropout.of(pass),
            slots: gradients.slots,
            sums: gradients.sums,
            d_positions: gradients.positions,
            seq: pass.seq,
        });
    }

    fn gradients(&self) -> &Gradients {
        self.gradients.as_ref().expect("backward runs only in networks planned for training")
    }

    pub(crate) fn begin_step(&self, device: &mut dyn Device) {
        let gradients = self.gradients();
        if let Some(positions) = gradients.positions {
            device.clear(positions);
        }
        if !gradients.tied {
            device.clear(gradients.table);
        }
    }

    pub(crate) fn finish_step(&self, device: &mut dyn Device) {
        let gradients = self.gradients();
        device.embed_flush(gradients.slots, gradients.sums, gradients.table);
    }
}
