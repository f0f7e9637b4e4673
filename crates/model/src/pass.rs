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
    /// Ranks that the tokens between split layers are shared out to (sequence parallelism), and which one this is.
    pub parts: usize,
    pub part: usize,
}

impl Pass {
    /// Whole sequences of new tokens, without dropout.
    pub(crate) const fn plain(batch: usize, seq: usize, mask: Mask) -> Self {
        Self { batch, seq, first_row: 0, dropout: false, mask, parts: 1, part: 0 }
    }

    pub(crate) const fn tokens(&self) -> usize {
        self.batch * self.seq
    }

    pub(crate) const fn is_split(&self) -> bool {
        self.parts > 1
    }

    /// Tokens that this rank holds between split layers.
    pub(crate) const fn local_tokens(&self) -> usize {
        self.tokens() / self.parts
    }

    /// The first of them.
    pub(crate) const fn first_local(&self) -> usize {
        self.local_tokens() * self.part
    }
}

/// A place where dropout happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DropoutSite {
    rate: f32,
    stream: Stream,
    first_col: u64,
    cols: u64,
}

impl DropoutSite {
    /// `cols`: columns of the matrix, or heads for attention probabilities, of all ranks together; this rank's
    /// begin at `first_col`.
    pub(crate) fn new(rate: f32, seed: u64, name: &str, first_col: usize, cols: usize) -> Self {
        Self { rate, stream: Stream::named(seed, name), first_col: first_col as u64, cols: cols as u64 }
    }

    /// The mask of all tokens of a micro-batch; `None` where nothing is dropped.
    pub(crate) fn of(&self, pass: &Pass) -> Option<Dropout> {
        (pass.dropout && self.rate > 0.0).then_some(Dropout {
            rate: self.rate,
            stream: self.stream,
            first_row: pass.first_row,
            first_col: self.first_col,
            cols_total: self.cols,
        })
    }

    /// The mask of the tokens that this rank holds between split layers.
    pub(crate) fn of_local(&self, pass: &Pass) -> Option<Dropout> {
        let first = pass.first_local() as u64;
        self.of(pass).map(|dropout| Dropout { first_row: dropout.first_row + first, ..dropout })
    }
}
