//! Token and position embeddings. The token table's gradient is collected in compact rows, one for each
//! token id seen in the group of micro-batches, and added to the main gradient when the group ends.
//!
//! Where the vocabulary is split, a rank looks up the ids it holds and the group sums the rows (all but one of
//! them zero); positions and dropout follow the sum.

use crate::pass::{DropoutSite, Pass};
use crate::plan::Builder;
use crate::rank::{Exchange, Rank};
use triax_comm::CommError;
use triax_tensor::{Class, DType, Device, DeviceExt, Embed, EmbedBackward, View};

pub(crate) struct Embedding {
    table: View,
    /// First id of this rank.
    vocab_start: usize,
    positions: Option<View>,
    gradients: Option<Gradients>,
    dropout: DropoutSite,
    split: Option<Split>,
}

/// What a split vocabulary needs beside.
#[derive(Clone, Copy)]
struct Split {
    exchange: Exchange,
    /// u32 `[1, T]`: 0, 1, 2 …, the rows of a sum read as a table.
    rows: View,
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
    pub(crate) fn plan(builder: &mut Builder<'_>, head_here: bool, exchange: Option<Exchange>) -> Self {
        let (model, options) = (builder.model, builder.options);
        let tokens = builder.parameter("embedding.tokens.weight").clone();
        let positions = builder.find("embedding.positions.weight").cloned();
        let gradients = options.training.then(|| {
            let ids = tokens.rows.len();
            let most = (options.tokens() * options.micro_batches).min(ids);
            let class = Class::Workspace;
            Gradients {
                table: tokens.grad,
                tied: model.tied && head_here,
                positions: positions.as_ref().map(|p| p.grad),
                slots: builder.table.add("embedding.slots", class, DType::U32, 1, ids + 1),
                sums: builder.table.add("embedding.sums", class, DType::F32, most, model.hidden),
            }
        });
        let split = exchange.map(|exchange| Split {
            exchange,
            rows: builder.table.add("row numbers", Class::Workspace, DType::U32, 1, options.tokens()),
        });
        Self {
            table: tokens.weight,
            vocab_start: tokens.rows.start,
            split,
            positions: positions.map(|p| p.weight),
            gradients,
            dropout: DropoutSite::new(
                model.dropout.embedding,
                options.seed,
                "embedding.dropout",
                0,
                model.hidden,
            ),
        }
    }

    /// What the passes read beside the weights; once after allocation.
    pub(crate) fn prepare(&self, device: &mut dyn Device) {
        if let Some(split) = &self.split {
            let rows: Vec<u32> = (0..split.rows.len() as u32).collect();
            device.upload_slice(split.rows, &rows);
        }
    }

    /// `tokens`: u32 `[1, T]`; token t has position `first_position + t % seq`. `out` is for this rank's tokens.
    pub(crate) fn forward(
        &self,
        rank: &mut Rank<'_>,
        pass: &Pass,
        tokens: View,
        first_position: usize,
        out: View,
    ) -> Result<(), CommError> {
        let whole = Embed {
            tokens,
            table: self.table,
            vocab_start: self.vocab_start,
            positions: self.positions,
            seq: pass.seq,
            first_position,
            dropout: self.dropout.of(pass),
            out,
        };
        let Some(split) = &self.split else {
            rank.device.embed(&whole);
            return Ok(());
        };
        let partial = split.exchange.partial(pass);
        rank.device.embed(&Embed { positions: None, dropout: None, out: partial, ..whole });
        let sum = split.exchange.join(rank, pass, "embedding")?;
        rank.device.embed(&Embed {
            tokens: split.rows.flat_range(0, sum.rows),
            table: sum,
            vocab_start: 0,
            // A rank's tokens are whole sequences or lie within one.
            first_position: first_position + pass.first_local() % pass.seq,
            dropout: self.dropout.of_local(pass),
            ..whole
        });
        Ok(())
    }

    /// `d_out`: for this rank's tokens.
    pub(crate) fn backward(
        &self,
        rank: &mut Rank<'_>,
        pass: &Pass,
        tokens: View,
        d_out: View,
    ) -> Result<(), CommError> {
        let gradients = self.gradients();
        let d_out = match &self.split {
            None => d_out,
            Some(split) => split.exchange.spread(rank, pass, d_out, None, "gradient of the embedding")?,
        };
        rank.device.embed_backward(&EmbedBackward {
            tokens,
            vocab_start: self.vocab_start,
            d_out,
            dropout: self.dropout.of(pass),
            slots: gradients.slots,
            sums: gradients.sums,
            d_positions: gradients.positions,
            seq: pass.seq,
        });
        Ok(())
    }

    fn gradients(&self) -> &Gradients {
        self.gradients.as_ref().expect("backward runs only in networks planned for training")
    }

    pub(crate) fn begin_group(&self, device: &mut dyn Device) {
        let gradients = self.gradients();
        if let Some(positions) = gradients.positions {
            device.clear(positions);
        }
        if !gradients.tied {
            device.clear(gradients.table);
        }
    }

    pub(crate) fn finish_group(&self, device: &mut dyn Device) {
        let gradients = self.gradients();
        device.embed_flush(gradients.slots, gradients.sums, gradients.table);
    }
}
