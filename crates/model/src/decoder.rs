//! Inference: a network with a key/value cache for several sequences.
//!
//! Each call takes new tokens of any of the sequences (a [`Part`] each). All products run over the rows of
//! all parts together; embedding positions, rotary turns and attention run part by part.

use crate::pass::Pass;
use crate::{MicroBatch, ModelError, Network, Options, Parameter, TensorSource};
use triax_spec::model::{self, Model};
use triax_spec::run::Recompute;
use triax_tensor::{CachedAttention, Class, DType, Device, DeviceExt, Mask, Need, Table, View};

/// How large a decoder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecoderOptions {
    /// Of activations, working weights and the cache.
    pub dtype: DType,
    /// Tokens of one sequence that the cache holds, at most the model's sequence length.
    pub capacity: usize,
    /// Tokens in one call; longer prompts are cut.
    pub max_new: usize,
    /// Sequences in the cache.
    pub sequences: usize,
}

/// New tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Which of the planned sequences.
    pub sequence: usize,
    /// Tokens of the sequence that are in the cache already and stay; 0 starts it anew.
    pub past: usize,
    pub tokens: &'a [u32],
}

/// Network for generation.
pub struct Decoder {
    network: Network,
    options: DecoderOptions,
    /// Keys and values of each layer, act `[sequences · capacity, kv_heads · head_dim]`.
    caches: Vec<(View, View)>,
    /// u32 `[1, 1]`, length of the prompt for prefix models.
    prefix: View,
    /// Last rows of the parts: act `[sequences, h]`, f32 `[sequences, 2]`, f32 `[sequences, vocab]`.
    hidden: View,
    stats: View,
    logits: View,
    vocab: usize,
}

impl Decoder {
    /// Plans every buffer into `table`; nothing is allocated.
    pub fn plan(
        model: &Model,
        options: &DecoderOptions,
        device: &dyn Device,
        table: &mut Table,
    ) -> Result<Self, ModelError> {
        if options.capacity == 0 || options.capacity > model.sequence {
            return Err(ModelError::invalid(
                "capacity",
                options.capacity,
                format!("must be 1 to the model's sequence length {}", model.sequence),
            ));
        }
        if options.sequences == 0 {
            return Err(ModelError::invalid("sequences", 0, "must be at least 1"));
        }
        let max_new = options.max_new.min(options.capacity);
        let network = Network::plan(
            model,
            &Options {
                dtype: options.dtype,
                sequence: max_new,
                micro_batch: 1,
                micro_batches: 1,
                recompute: Recompute::None,
                tensor_shards: 8,
                loss_chunk: options.sequences.min(max_new),
                seed: 0,
                training: false,
            },
            device,
            table,
        )?;
        let rows = options.sequences * options.capacity;
        let cols = model.kv_heads * model.head_dim;
        let mut add = |name: String, class, dtype, rows, cols| table.add(name, class, dtype, rows, cols);
        let caches = (0..model.layers)
            .map(|layer| {
                let mut cache = |what| {
                    add(format!("layer.{layer}.{what}"), Class::Activations, options.dtype, rows, cols)
                };
                (cache("keys"), cache("values"))
            })
            .collect();
        let (class, sequences) = (Class::Workspace, options.sequences);
        Ok(Self {
            network,
            caches,
            prefix: add("prompt length".into(), class, DType::U32, 1, 1),
            hidden: add("last rows".into(), class, options.dtype, sequences, model.hidden),
            stats: add("statistics of last rows".into(), class, DType::F32, sequences, 2),
            logits: add("logits of last rows".into(), class, DType::F32, sequences, model.vocab),
            vocab: model.vocab,
            options: DecoderOptions { max_new, ..options.clone() },
        })
    }

    /// Scratch memory to allocate beside the table, in bytes.
    pub fn scratch_bytes(&self, device: &dyn Device) -> usize {
        let model = self.network.model();
        let needs = [
            Need::CachedAttention {
                capacity: self.options.capacity,
                heads: model.heads,
                head_dim: model.head_dim,
            },
            Need::Gemm {
                m: self.options.sequences,
                n: model.vocab,
                k: model.hidden,
                dtype: self.options.dtype,
            },
            Need::Rows { tokens: self.options.sequences, cols: model.hidden },
        ];
        let own = needs.iter().map(|&need| device.scratch_bytes(need)).max().unwrap_or(0);
        own.max(self.network.scratch_bytes(device))
    }

    pub const fn options(&self) -> &DecoderOptions {
        &self.options
    }

    pub const fn model(&self) -> &Model {
        self.network.model()
    }

    pub fn parameters(&self) -> &[Parameter] {
        self.network.parameters()
    }

    /// Sets all parameters and makes the working copies.
    pub fn load(&self, device: &mut dyn Device, source: &dyn TensorSource) -> Result<(), ModelError> {
        self.network.load(device, source)?;
        self.network.pack_weights(device);
        Ok(())
    }

    /// Makes the working copies; after every change of the parameters.
    pub fn pack_weights(&self, device: &mut dyn Device) {
        self.network.pack_weights(device);
    }

    /// Losses of a text of at most `max_new` tokens, see [`Network::forward_loss`]; leaves the cache alone.
    pub fn forward_loss(&mut self, device: &mut dyn Device, batch: &MicroBatch<'_>, losses: &mut [f32]) {
        self.network.forward_loss(device, batch, losses);
    }

    /// Appends `tokens` (at least one) to sequence 0, whose first `past` tokens are cached; the logits of the
    /// token after the last one. Prompts longer than `max_new` are taken in pieces.
    pub fn decode(&mut self, device: &mut dyn Device, tokens: &[u32], past: usize) -> Vec<f32> {
        let mut logits = vec![0.0; self.vocab];
        self.decode_into(device, tokens, past, &mut logits);
        logits
    }

    /// [`Decoder::decode`] into a buffer `[vocab]`.
    pub fn decode_into(&mut self, device: &mut dyn Device, tokens: &[u32], past: usize, logits: &mut [f32]) {
        assert!(!tokens.is_empty(), "decoding no tokens");
        let mut past = past;
        for piece in tokens.chunks(self.options.max_new) {
            self.decode_parts(device, &[Part { sequence: 0, past, tokens: piece }], logits);
            past += piece.len();
        }
    }

    /// One pass over all `parts`; row p of `logits` (`[parts, vocab]`) is for the token after part p's last.
    ///
    /// In a model with the prefix mask, a part with `past == 0` is the prompt: its tokens all see each other
    /// (up to `max_new` of them: what comes in a later piece is seen by what follows it alone).
    ///
    /// # Panics
    /// When there are more tokens than `max_new`, more parts than sequences, or a part leaves the cache.
    pub fn decode_parts(&mut self, device: &mut dyn Device, parts: &[Part<'_>], logits: &mut [f32]) {
        self.check(parts, logits);
        self.embed(device, parts);
        let tokens = parts.iter().map(|p| p.tokens.len()).sum();
        let slot = &self.network.slots[0];
        for (index, layer) in self.network.layers.iter().enumerate() {
            let buffers = slot.layers[index].rows(tokens);
            layer.attention.project(device, &buffers);
            for_each(parts, |part, rows| {
                self.attend(device, index, part, &buffers.qkv.row_range(rows.0, rows.1), rows);
            });
            let pass = Pass { batch: 1, seq: tokens, first_row: 0, dropout: false, mask: Mask::Causal };
            layer.attention.finish(device, &pass, &buffers);
            let out = slot.output_of(index).row_range(0, tokens);
            layer.feed_forward.forward(device, &pass, &buffers, out);
        }
        self.last_rows(device, parts, logits);
    }

    fn check(&self, parts: &[Part<'_>], logits: &[f32]) {
        let DecoderOptions { capacity, max_new, sequences, .. } = self.options;
        assert!((1..=sequences).contains(&parts.len()), "{} parts in a decoder of {sequences}", parts.len());
        assert_eq!(logits.len(), parts.len() * self.vocab, "logits of {} parts", parts.len());
        let tokens: usize = parts.iter().map(|p| p.tokens.len()).sum();
        assert!(tokens <= max_new, "{tokens} tokens in one call of a decoder for {max_new}");
        for part in parts {
            let (past, new) = (part.past, part.tokens.len());
            assert!(part.sequence < sequences, "sequence {} of {sequences}", part.sequence);
            assert!(new > 0 && past + new <= capacity, "{past} + {new} tokens in a cache for {capacity}");
            if let Some(id) = part.tokens.iter().find(|&&id| id as usize >= self.vocab) {
                panic!("token id {id} in a model with a vocabulary of {}", self.vocab);
            }
        }
    }

    fn embed(&self, device: &mut dyn Device, parts: &[Part<'_>]) {
        let slot = &self.network.slots[0];
        let embedding = self.network.embedding.as_ref().expect("a decoder holds the whole model");
        for_each(parts, |part, (start, count)| {
            let ids = slot.tokens.flat_range(start, count);
            device.upload_slice(ids, part.tokens);
            let pass = Pass { batch: 1, seq: count, first_row: 0, dropout: false, mask: Mask::Causal };
            embedding.forward(device, &pass, ids, part.past, slot.layers[0].x.row_range(start, count));
        });
    }

    fn attend(
        &self,
        device: &mut dyn Device,
        layer: usize,
        part: &Part<'_>,
        qkv: &View,
        (start, new): (usize, usize),
    ) {
        let attention = &self.network.layers[layer].attention;
        let buffers = &self.network.slots[0].layers[layer];
        attention.turn(device, *qkv, new, part.past, false);
        let first = part.sequence * self.options.capacity;
        let (keys, values) = self.caches[layer];
        let out = buffers.attention.row_range(start, new);
        device.cached_attention(
            &CachedAttention {
                new,
                past: part.past,
                heads: attention.heads,
                kv_heads: attention.kv_heads,
                head_dim: attention.head_dim,
                scale: attention.scale,
                keys: keys.row_range(first, self.options.capacity),
                values: values.row_range(first, self.options.capacity),
            },
            *qkv,
            out,
        );
        if self.network.model().mask == model::Mask::Prefix && part.past == 0 && new > 1 {
            // The cache is filled; what the prompt's tokens see is both directions.
            device.upload_slice(self.prefix, &[new as u32]);
            let pass =
                Pass { batch: 1, seq: new, first_row: 0, dropout: false, mask: Mask::Prefix(self.prefix) };
            attention.attend_rows(device, &pass, *qkv, out, buffers.lse.row_range(start, new));
        }
    }

    fn last_rows(&self, device: &mut dyn Device, parts: &[Part<'_>], logits: &mut [f32]) {
        let head = self.network.head.as_ref().expect("a decoder holds the whole model");
        let x = self.network.slots[0].output_of(self.network.layers.len() - 1);
        let mut index = 0;
        for_each(parts, |_, (start, count)| {
            let (hidden, stats) = (self.hidden.row_range(index, 1), self.stats.row_range(index, 1));
            head.normalise(device, x.row_range(start + count - 1, 1), hidden, stats);
            index += 1;
        });
        let out = self.logits.row_range(0, parts.len());
        head.logits(device, self.hidden.row_range(0, parts.len()), out);
        device.download(out, bytemuck::cast_slice_mut(logits));
    }
}

/// Calls `each` with every part and its (first row, rows).
fn for_each<'p, 't>(parts: &'p [Part<'t>], mut each: impl FnMut(&'p Part<'t>, (usize, usize))) {
    let mut start = 0;
    for part in parts {
        each(part, (start, part.tokens.len()));
        start += part.tokens.len();
    }
}
