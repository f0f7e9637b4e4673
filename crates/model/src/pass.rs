//! One micro-batch on its way through the network, and the dropout sites that need to know which one it is.

use triax_tensor::philox::Stream;
use triax_tensor::{Dropout, Mask};

/// What every layer must know of a micro-batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    pub batch: usize,
    pub seq: usize,
    /// Global index of the first token: sample number · sequence length.
    pub first_row: u64,
    pub dropout: bool,
    pub mask: Mask,
}

impl Pass {
    pub(crate) const fn tokens(&self) -> usize {
        self.batch * self.seq
    }
}

/// A place where dropout happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DropoutSite {
    rate: f32,
    stream: Stream,
    cols: u64,
}

impl DropoutSite {
    /// `cols`: columns of the matrix, or heads for attention probabilities.
    pub(crate) fn new(rate: f32, seed: u64, name: &str, cols: usize) -> Self {
        Self { rate, stream: Stream::named(seed, name), cols: cols as u64 }
    }

    /// The mask of a micro-batch; `None` where nothing is dropped.
    pub(crate) fn of(&self, pass: &Pass) -> Option<Dropout> {
        (pass.dropout && self.rate > 0.0).then_some(Dropout {
            rate: self.rate,
            stream: self.stream,
            first_row: pass.first_row,
            first_col: 0,
            cols_total: self.cols,
        })
    }
}
