//! A decoder with its device and the state of one sequence: feed tokens, get logits.

use crate::{Decoder, DecoderOptions, ModelError, Span, TensorSource};
use triax_spec::model::Model;
use triax_tensor::{DType, Device};

/// Longest piece of a prompt that goes through the network at once.
const PIECE: usize = 512;
/// Tokens of a cache block.
const BLOCK: usize = 16;

/// One sequence on its way.
pub struct Session {
    decoder: Decoder,
    device: Box<dyn Device>,
    /// All of the cache.
    blocks: Vec<u32>,
    past: usize,
    /// `[1, vocab]`, behind the last token fed.
    logits: Vec<f32>,
}

impl Session {
    /// Opens a decoder for sequences of up to `capacity` tokens on `device`.
    ///
    /// # Errors
    /// When the model or the capacity is impossible, the memory is not there, or a tensor is missing or of the
    /// wrong size.
    pub fn new(
        model: &Model,
        dtype: DType,
        capacity: usize,
        mut device: Box<dyn Device>,
        source: &dyn TensorSource,
    ) -> Result<Self, ModelError> {
        let blocks = capacity.div_ceil(BLOCK);
        let options = DecoderOptions {
            dtype,
            cache: dtype,
            capacity,
            block: BLOCK,
            blocks,
            max_rows: capacity.min(PIECE),
            max_logits: 1,
        };
        let decoder = Decoder::open(model, &options, source, &mut *device)?;
        let blocks = (0..blocks as u32).collect();
        Ok(Self { decoder, device, blocks, past: 0, logits: vec![0.0; model.vocab] })
    }

    pub const fn model(&self) -> &Model {
        self.decoder.model()
    }

    /// Most tokens that the sequence can hold.
    pub const fn capacity(&self) -> usize {
        self.decoder.options().capacity
    }

    /// Tokens in the sequence.
    pub const fn len(&self) -> usize {
        self.past
    }

    pub const fn is_empty(&self) -> bool {
        self.past == 0
    }

    /// Forgets everything behind the first `tokens` tokens.
    pub fn truncate(&mut self, tokens: usize) {
        self.past = self.past.min(tokens);
    }

    /// Appends `tokens`; the logits (`[vocab]`) of the token that follows the last of them.
    ///
    /// # Panics
    /// Without tokens, beyond the capacity, or for an id beyond the vocabulary.
    pub fn feed(&mut self, tokens: &[u32]) -> &[f32] {
        assert!(!tokens.is_empty(), "feeding no tokens");
        let mut rows = 0;
        for piece in tokens.chunks(self.decoder.options().max_rows) {
            let span = Span { tokens: piece, position: self.past, blocks: &self.blocks };
            self.decoder.step(&mut *self.device, &[span]);
            self.past += piece.len();
            rows = piece.len();
        }
        self.decoder.logits(&mut *self.device, &[rows - 1], &mut self.logits);
        &self.logits
    }
}
