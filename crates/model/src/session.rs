//! A decoder with its device and the state of one sequence: feed tokens, get logits.

use crate::{Decoder, DecoderOptions, ModelError, TensorSource};
use triax_spec::model::Model;
use triax_tensor::{DType, Device, Table};

/// Longest piece of a prompt that goes through the network at once.
const PIECE: usize = 256;

/// One sequence on its way.
pub struct Session {
    decoder: Decoder,
    device: Box<dyn Device>,
    past: usize,
    /// `[1, vocab]`, behind the last token fed.
    logits: Vec<f32>,
}

impl Session {
    /// Plans a decoder for sequences of up to `capacity` tokens, allocates it on `device` and loads `source`.
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
        let mut table = Table::new();
        let options = DecoderOptions { dtype, capacity, max_new: capacity.min(PIECE), sequences: 1 };
        let decoder = Decoder::plan(model, &options, &*device, &mut table)?;
        device.allocate(table.bytes(), decoder.scratch_bytes(&*device))?;
        decoder.load(&mut *device, source)?;
        Ok(Self { decoder, device, past: 0, logits: vec![0.0; model.vocab] })
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
        self.decoder.decode_into(&mut *self.device, tokens, self.past, &mut self.logits);
        self.past += tokens.len();
        &self.logits
    }
}
