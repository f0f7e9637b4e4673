//! A [`Network`] out of a model, its weights and a device.

use crate::{Network, Part, Shape};
use triax_model::{Decoder, DecoderOptions, ModelError, Span, TensorSource};
use triax_spec::model::{Mask, Model};
use triax_tensor::{DType, Device};

/// Tokens of a block of keys and values.
const BLOCK: usize = 16;

/// Rows of logits made at a time: 32 rows of 150,000 logits are 19 MB.
const LOGIT_ROWS: usize = 32;

/// How large the network's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loading {
    /// Of activations.
    pub dtype: DType,
    /// Of keys and values.
    pub memory: DType,
    /// Texts under way at a time.
    pub sequences: usize,
    /// Most tokens of a text; at most the model's sequence length.
    pub context: usize,
    /// Tokens that memory holds, of all texts; at least `context`.
    pub cache: usize,
    /// Most tokens in one pass.
    pub rows: usize,
}

impl Loading {
    /// The memory of `model`, and what each decoder of it is planned with.
    pub(crate) fn plan(&self, model: &Model) -> (Shape, DecoderOptions) {
        let prefix_mask = model.mask == Mask::Prefix;
        let rows = if prefix_mask { self.context } else { self.rows.min(self.context) };
        let shape = Shape {
            vocab: model.vocab,
            context: self.context,
            block: BLOCK,
            blocks: self.cache.max(self.context).div_ceil(BLOCK),
            rows: rows.max(self.sequences),
            sequences: self.sequences,
            prefix_mask,
        };
        let options = DecoderOptions {
            dtype: self.dtype,
            cache: self.memory,
            capacity: shape.context,
            block: shape.block,
            blocks: shape.blocks,
            max_rows: shape.rows,
            max_logits: LOGIT_ROWS.min(shape.rows),
        };
        (shape, options)
    }
}

/// Opens the network on `device` with the weights of `source`.
///
/// # Errors
/// When the model or a size is impossible, the memory is not there, or a tensor is missing or of the wrong size.
pub fn load(
    model: &Model,
    loading: &Loading,
    mut device: Box<dyn Device>,
    source: &dyn TensorSource,
) -> Result<Box<dyn Network>, ModelError> {
    let (shape, options) = loading.plan(model);
    let decoder = Decoder::open(model, &options, source, &mut *device)?;
    let logits = vec![0.0; options.max_logits * model.vocab];
    Ok(Box::new(Loaded { decoder, device, shape, logits }))
}

/// The rows of a pass whose logits are wanted, ascending.
pub(crate) fn wanted_rows(parts: &[Part<'_>]) -> Vec<usize> {
    let mut rows = Vec::new();
    let mut end = 0;
    for part in parts {
        end += part.tokens.len();
        rows.extend(end - part.logits..end);
    }
    rows
}

struct Loaded {
    decoder: Decoder,
    device: Box<dyn Device>,
    shape: Shape,
    /// `[max_logits, vocab]`.
    logits: Vec<f32>,
}

impl Network for Loaded {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn step(&mut self, parts: &[Part<'_>], each: &mut dyn FnMut(usize, &[f32])) {
        let spans: Vec<Span<'_>> = parts
            .iter()
            .map(|part| Span { tokens: part.tokens, position: part.past, blocks: part.blocks })
            .collect();
        self.decoder.step(&mut *self.device, &spans);
        let vocab = self.shape.vocab;
        let mut row = 0;
        for rows in wanted_rows(parts).chunks(self.logits.len() / vocab) {
            let logits = &mut self.logits[..rows.len() * vocab];
            self.decoder.logits(&mut *self.device, rows, logits);
            for logits in logits.chunks_exact(vocab) {
                each(row, logits);
                row += 1;
            }
        }
    }
}
