//! Inference: a network over a paged key/value cache, for any mix of sequences in one step.
//!
//! ```text
//! spans ─▶ embedding ─▶ ┌ norm ▶ qkv ▶ turn ▶ paged attention ▶ output ┐ ─▶ … ─▶ rows ─▶ chosen rows: norm, logits
//! ```
//!
//! Whoever calls owns the blocks: which of them a sequence has, which are shared, which are free. A row's
//! result depends on its own tokens alone, to the bit: neither on the other rows of its step nor on the
//! pieces its sequence came in, for every operation treats rows one by one or in a fixed order of its own.
//!
//! A decoder is the whole network or the [`Portion`] of one rank. Tensor ranks sum what row-split products give by
//! the tree of the virtual shards, as in training (`rank.rs`), so that the bits are those of one rank; between the
//! stages of a pipeline the caller carries [`Decoder::border`].

mod buffers;
mod matrix;

use crate::init::TensorSource;
use crate::pass::Pass;
use crate::plan::check_model;
use crate::rank::{Exchange, Rank};
use crate::{ModelError, Split, Stage, TensorSplit, declare};
use buffers::Buffers;
use matrix::{Loader, Matrix};
use std::ops::Range;
use triax_comm::CommError;
use triax_spec::model::{self, Activation as Curve, Model};
use triax_tensor::{
    Activation, Class, DType, Device, DeviceExt, Embed, Epilogue, Mask, Need, Norm, NormKind, PagedAttention,
    ResidualAdd, RotaryRows, Table, View,
};

/// How large a decoder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecoderOptions {
    /// Of activations and of weights that are not quantised.
    pub dtype: DType,
    /// Of keys and values.
    pub cache: DType,
    /// Most tokens of a sequence, at most the model's sequence length.
    pub capacity: usize,
    /// Tokens of a cache block, a multiple of 16.
    pub block: usize,
    /// Blocks of the cache.
    pub blocks: usize,
    /// Most tokens in one step.
    pub max_rows: usize,
    /// Most rows whose logits are asked for at once.
    pub max_logits: usize,
}

/// What one rank holds of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portion {
    /// One run of layers.
    pub stage: Stage,
    pub tensor: TensorSplit,
}

impl Portion {
    pub fn whole(model: &Model) -> Self {
        Self { stage: Stage::whole(model), tensor: TensorSplit::WHOLE }
    }
}

/// New tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    pub tokens: &'a [u32],
    /// Of the first of them; all before it are in the cache.
    pub position: usize,
    /// The sequence's blocks: the token at position p lies in block `blocks[p / block]`. Must cover the new
    /// tokens; those beyond are ignored.
    pub blocks: &'a [u32],
}

/// A network for generation and scoring, or a rank's portion of it, on the device it was opened on.
pub struct Decoder {
    model: Model,
    options: DecoderOptions,
    portion: Portion,
    /// Of a first stage: f32 `[this rank's ids, h]`.
    embedding: Option<View>,
    positions: Option<View>,
    layers: Vec<Layer>,
    /// Of a last stage.
    head: Option<Head>,
    /// Where tensor ranks share the layers.
    exchange: Option<Exchange>,
    buffers: Buffers,
    /// Host memory of a step.
    rows: Vec<[u32; 3]>,
    ids: Vec<u32>,
    tables: Vec<u32>,
}

struct Head {
    norm: LayerNorm,
    output: Matrix,
}

struct Layer {
    attention_norm: LayerNorm,
    qkv: Matrix,
    output: Matrix,
    /// act `[blocks, kv_heads · head_dim · block]` each.
    keys: View,
    values: View,
    feed_forward_norm: LayerNorm,
    up: Matrix,
    down: Matrix,
}

#[derive(Clone, Copy)]
struct LayerNorm {
    weight: View,
    bias: Option<View>,
}

impl Decoder {
    /// Plans a decoder of the whole network, allocates it on `device` and loads `source`.
    ///
    /// # Errors
    /// When the model or the options are impossible, the memory is not there, or a tensor is missing or of
    /// the wrong size.
    pub fn open(
        model: &Model,
        options: &DecoderOptions,
        source: &dyn TensorSource,
        device: &mut dyn Device,
    ) -> Result<Self, ModelError> {
        Self::open_portion(model, options, Portion::whole(model), source, device)
    }

    /// As [`Decoder::open`], one rank's portion; of the source it reads no more than that.
    ///
    /// # Errors
    /// As [`Decoder::open`], and when the portion is none of this model or its weights are quantised in blocks that
    /// cannot be split.
    pub fn open_portion(
        model: &Model,
        options: &DecoderOptions,
        portion: Portion,
        source: &dyn TensorSource,
        device: &mut dyn Device,
    ) -> Result<Self, ModelError> {
        check_model(model)?;
        buffers::check(model, options)?;
        portion.check(model, source)?;
        let mut table = Table::new();
        let (decoder, loader) = Self::plan(model, options, portion, source, device, &mut table);
        device.allocate(table.bytes(), decoder.scratch_bytes(device))?;
        loader.load(device)?;
        decoder.buffers.fill(model, device);
        Ok(decoder)
    }

    fn plan<'s>(
        model: &Model,
        options: &DecoderOptions,
        portion: Portion,
        source: &'s dyn TensorSource,
        device: &dyn Device,
        table: &mut Table,
    ) -> (Self, Loader<'s>) {
        let (stage, tensor) = (&portion.stage, portion.tensor);
        let mut loader = Loader::new(source, declare(model, stage), tensor, options.dtype);
        let mut plain = |name: &str| if stage.first { loader.plain(table, name) } else { None };
        let embedding = plain("embedding.tokens.weight");
        let positions = plain("embedding.positions.weight");
        let cache_cols = model.kv_heads / tensor.size * model.head_dim * options.block;
        let layers = stage
            .layers()
            .map(|layer| {
                let attention = format!("layer.{layer}.attention");
                let feed_forward = format!("layer.{layer}.feed_forward");
                let mut cache = |what| {
                    let name = format!("layer.{layer}.{what}");
                    table.add(name, Class::Activations, options.cache, options.blocks, cache_cols)
                };
                let (keys, values) = (cache("keys"), cache("values"));
                Layer {
                    attention_norm: LayerNorm::plan(&mut loader, table, &format!("{attention}.norm")),
                    qkv: loader.columns(device, table, &format!("{attention}.qkv")),
                    output: loader.rows(device, table, &format!("{attention}.output")),
                    keys,
                    values,
                    feed_forward_norm: LayerNorm::plan(&mut loader, table, &format!("{feed_forward}.norm")),
                    up: loader.columns(device, table, &format!("{feed_forward}.up")),
                    down: loader.rows(device, table, &format!("{feed_forward}.down")),
                }
            })
            .collect();
        let head = stage.last.then(|| Head {
            norm: LayerNorm::plan(&mut loader, table, "norm"),
            output: match embedding {
                Some(embedding) if model.tied => loader.tied(device, table, "embedding.tokens", embedding),
                None if model.tied => loader.columns(device, table, "embedding.tokens"),
                _ => loader.columns(device, table, "head"),
            },
        });
        loader.stage(table);
        let exchange = (tensor.size > 1).then(|| Exchange::of_decoder(table, options.max_rows, model.hidden));
        let buffers = Buffers::plan(model, options, &portion, table);
        let decoder = Self {
            model: model.clone(),
            options: options.clone(),
            portion,
            embedding,
            positions,
            layers,
            head,
            exchange,
            buffers,
            rows: Vec::with_capacity(options.max_rows),
            ids: Vec::with_capacity(options.max_rows),
            tables: Vec::new(),
        };
        (decoder, loader)
    }

    fn scratch_bytes(&self, device: &dyn Device) -> usize {
        let (model, options) = (&self.model, &self.options);
        let layer = &self.layers[0];
        let products = [&layer.qkv, &layer.output, &layer.up, &layer.down].map(|m| (m, options.max_rows));
        let head = self.head.iter().map(|head| (&head.output, options.max_logits));
        let products = products.into_iter().chain(head);
        products
            .map(|(matrix, rows)| matrix.need(rows, options.dtype))
            .chain([
                Need::PagedAttention { capacity: options.capacity, head_dim: model.head_dim },
                Need::Rows { tokens: options.max_rows, cols: model.hidden },
            ])
            .map(|need| device.scratch_bytes(need))
            .max()
            .unwrap_or(0)
    }

    pub const fn options(&self) -> &DecoderOptions {
        &self.options
    }

    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// The ids whose logits this decoder gives.
    pub fn ids(&self) -> Range<usize> {
        self.portion.tensor.part(Split::Vocabulary, self.model.vocab)
    }

    /// What enters the first layer of the next step, which has `rows` tokens, and what the last layer has left of the
    /// last one: act `[rows, h]`, on all tensor ranks alike. Between two steps a caller that has several stages gives
    /// it from each to the next.
    pub fn border(&self, rows: usize) -> View {
        self.buffers.x.row_range(0, rows)
    }

    /// Takes the tokens of all `spans` through the layers and into the cache. The step's rows are numbered
    /// span after span; [`Decoder::logits`] asks for what they predict.
    ///
    /// In a model with the prefix mask, a span at position 0 is the prompt: its tokens all see each other
    /// (those that come in a later span are seen by what follows them alone).
    ///
    /// # Panics
    /// When there are no tokens or more than `max_rows`, a span's blocks do not cover it or are not in the
    /// cache, a sequence is longer than the capacity, an id is beyond the vocabulary, or tensor ranks share the
    /// layers.
    pub fn step(&mut self, device: &mut dyn Device, spans: &[Span<'_>]) {
        let alone = self.step_of_rank(&mut Rank::alone(device), spans);
        alone.expect("a rank that holds whole layers speaks to nobody");
    }

    /// As [`Decoder::step`], on one of several ranks, which all take the same spans. A first stage begins with the
    /// tokens, the others with what lies at their [`Decoder::border`].
    ///
    /// # Errors
    /// When another tensor rank is gone or does something else.
    ///
    /// # Panics
    /// As [`Decoder::step`].
    pub fn step_of_rank(&mut self, rank: &mut Rank<'_>, spans: &[Span<'_>]) -> Result<(), CommError> {
        let rows = self.describe(spans);
        self.upload(rank.device, spans, rows);
        let buffers = self.buffers.rows(rows);
        self.embed(rank, spans, &buffers)?;
        for layer in &self.layers {
            self.attend(rank, layer, &buffers, spans.len())?;
            self.feed_forward(rank, layer, &buffers)?;
        }
        Ok(())
    }

    /// Logits `[rows, ids]` of the tokens that follow the chosen rows of the last step; of a last stage.
    ///
    /// # Panics
    /// When there are more than `max_logits` rows, `logits` has another length, or this is no last stage.
    pub fn logits(&mut self, device: &mut dyn Device, rows: &[usize], logits: &mut [f32]) {
        let count = rows.len();
        assert!(count <= self.options.max_logits, "{count} rows, planned {}", self.options.max_logits);
        assert_eq!(logits.len(), count * self.ids().len(), "logits of {count} rows");
        if count == 0 {
            return;
        }
        let head = self.head.as_ref().expect("logits are asked of a last stage");
        let mut done = 0;
        // Neighbours go through the norm together.
        for run in rows.chunk_by(|a, b| a + 1 == *b) {
            let x = self.buffers.x.row_range(run[0], run.len());
            let stats = self.buffers.stats.row_range(run[0], run.len());
            self.normalise(device, head.norm, x, self.buffers.hidden.row_range(done, run.len()), stats);
            done += run.len();
        }
        let out = self.buffers.logits.row_range(0, count);
        head.output.product(device, self.buffers.hidden.row_range(0, count), out, Epilogue::default());
        device.download(out, bytemuck::cast_slice_mut(logits));
    }

    /// Checks the spans and fills the host's description of the step; the number of rows.
    fn describe(&mut self, spans: &[Span<'_>]) -> usize {
        let DecoderOptions { capacity, block, blocks, max_rows, .. } = self.options;
        let vocab = self.model.vocab;
        self.rows.clear();
        self.ids.clear();
        self.tables.clear();
        for (table, span) in spans.iter().enumerate() {
            let end = span.position + span.tokens.len();
            assert!(!span.tokens.is_empty(), "a span without tokens");
            assert!(end <= capacity, "{} + {} tokens, capacity {capacity}", span.position, span.tokens.len());
            let used = end.div_ceil(block);
            assert!(used <= span.blocks.len(), "{end} tokens in {} blocks of {block}", span.blocks.len());
            if let Some(id) = span.blocks[..used].iter().find(|&&id| id as usize >= blocks) {
                panic!("block {id} in a cache of {blocks}");
            }
            if let Some(id) = span.tokens.iter().find(|&&id| id as usize >= vocab) {
                panic!("token id {id} in a model with a vocabulary of {vocab}");
            }
            self.ids.extend_from_slice(span.tokens);
            let prompt = self.model.mask == model::Mask::Prefix && span.position == 0;
            for position in span.position..end {
                let seen = if prompt { end } else { position + 1 };
                self.rows.push([table as u32, position as u32, seen as u32]);
            }
            self.tables.extend_from_slice(&span.blocks[..used]);
            self.tables.resize((table + 1) * self.buffers.tables.cols, 0);
        }
        assert!((1..=max_rows).contains(&self.rows.len()), "{} tokens, planned {max_rows}", self.rows.len());
        self.rows.len()
    }

    fn upload(&self, device: &mut dyn Device, spans: &[Span<'_>], rows: usize) {
        device.upload_slice(self.buffers.tokens.flat_range(0, rows), &self.ids);
        device.upload(self.buffers.rows.row_range(0, rows), bytemuck::cast_slice(&self.rows));
        device.upload_slice(self.buffers.tables.row_range(0, spans.len()), &self.tables);
        let positions: Vec<u32> = self.rows.iter().map(|row| row[1]).collect();
        device.upload_slice(self.buffers.positions.flat_range(0, rows), &positions);
    }

    /// Of a first stage: `x`, of the tokens of all spans.
    fn embed(&self, rank: &mut Rank<'_>, spans: &[Span<'_>], buffers: &Buffers) -> Result<(), CommError> {
        let Some(embedding) = self.embedding else { return Ok(()) };
        let (mut tokens, mut table, mut vocab_start) = (buffers.tokens, embedding, self.ids().start);
        let embed = |tokens: View, table: View, vocab_start, positions, first_position, out: View| Embed {
            tokens,
            table,
            vocab_start,
            positions,
            seq: out.rows,
            first_position,
            dropout: None,
            out,
        };
        if let (Some(exchange), Some(numbers)) = (self.exchange, buffers.numbers) {
            // Each rank has the rows of its ids and zeros; their sum is read as a table of one row a token.
            let pass = whole_rows(buffers.x);
            rank.device.embed(&embed(tokens, table, vocab_start, None, 0, exchange.partial(&pass)));
            (tokens, table, vocab_start) = (numbers, exchange.join(rank, &pass, "embedding")?, 0);
        }
        if self.positions.is_none() {
            rank.device.embed(&embed(tokens, table, vocab_start, None, 0, buffers.x));
            return Ok(());
        }
        let mut start = 0;
        for span in spans {
            let count = span.tokens.len();
            let (tokens, out) = (tokens.flat_range(start, count), buffers.x.row_range(start, count));
            rank.device.embed(&embed(tokens, table, vocab_start, self.positions, span.position, out));
            start += count;
        }
        Ok(())
    }

    /// `middle = x + attention(norm(x) · Wqkv) · Wo + bo`.
    fn attend(
        &self,
        rank: &mut Rank<'_>,
        layer: &Layer,
        buffers: &Buffers,
        spans: usize,
    ) -> Result<(), CommError> {
        let Model { heads, kv_heads, head_dim, .. } = self.model;
        let (heads, kv_heads) = (heads / self.portion.tensor.size, kv_heads / self.portion.tensor.size);
        let Buffers { x, norm, qkv, attention, middle, .. } = *buffers;
        let device = &mut *rank.device;
        self.normalise(device, layer.attention_norm, x, norm, buffers.stats);
        layer.qkv.product(device, norm, qkv, Epilogue::default());
        if let Some(turns) = buffers.turns {
            let positions = buffers.positions;
            device.rotary_rows(&RotaryRows { qkv, heads, kv_heads, head_dim, turns, positions });
        }
        let op = PagedAttention {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            block: self.options.block,
            keys: layer.keys,
            values: layer.values,
            rows: buffers.rows,
            tables: buffers.tables.row_range(0, spans),
        };
        device.paged_attention(&op, qkv, attention);
        self.leave(rank, &layer.output, attention, x, middle)
    }

    /// `x = middle + act(norm(middle) · Wup + bup) · Wdown + bdown`.
    fn feed_forward(&self, rank: &mut Rank<'_>, layer: &Layer, buffers: &Buffers) -> Result<(), CommError> {
        let Buffers { x, norm, middle, pre, activated, .. } = *buffers;
        let device = &mut *rank.device;
        self.normalise(device, layer.feed_forward_norm, middle, norm, buffers.stats);
        match self.model.activation {
            Curve::Gelu => {
                let activation = Activation::Gelu { pre };
                layer.up.product(device, norm, activated, Epilogue { activation, ..Epilogue::default() });
            }
            Curve::Swiglu => {
                layer.up.product(device, norm, pre, Epilogue::default());
                device.silu_mul(pre, activated);
            }
        }
        self.leave(rank, &layer.down, activated, middle, x)
    }

    /// A row-split product with what follows it: `out = x + values · W + bias`.
    fn leave(
        &self,
        rank: &mut Rank<'_>,
        product: &Matrix,
        values: View,
        x: View,
        out: View,
    ) -> Result<(), CommError> {
        let Some(exchange) = self.exchange else {
            let epilogue = Epilogue { residual: Some(x), ..Epilogue::default() };
            product.product(rank.device, values, out, epilogue);
            return Ok(());
        };
        let pass = whole_rows(x);
        product.partial(rank.device, values, exchange.partial(&pass));
        let value = exchange.join(rank, &pass, "residual branch")?;
        rank.device.add_residual(&ResidualAdd { x, value, bias: product.bias(), dropout: None, out });
        Ok(())
    }

    fn normalise(&self, device: &mut dyn Device, norm: LayerNorm, x: View, out: View, stats: View) {
        let kind = match self.model.norm {
            model::NormKind::Layer => NormKind::Layer,
            model::NormKind::Rms => NormKind::Rms,
        };
        let LayerNorm { weight, bias } = norm;
        device.norm(&Norm { kind, x, weight, bias, out, stats, eps: self.model.norm_eps });
    }
}

impl Portion {
    fn check(&self, model: &Model, source: &dyn TensorSource) -> Result<(), ModelError> {
        self.tensor.check(model)?;
        let layers: Vec<usize> = self.stage.layers().collect();
        if self.stage.chunks.len() != 1 || layers.is_empty() || layers[layers.len() - 1] >= model.layers {
            let rule = format!("must be one run of the {} layers", model.layers);
            return Err(ModelError::invalid("layers of a stage", format!("{:?}", self.stage.chunks), rule));
        }
        if self.tensor.size > 1
            && let Some(name) = declare(model, &self.stage)
                .into_iter()
                .find_map(|d| source.coding(&d.name).is_some().then_some(d.name))
        {
            let rule = format!(
                "the blocks of quantised weights, such as `{name}`, are not split: use tensor 1, and pipeline stages \
                 for more ranks, or weights in bf16"
            );
            return Err(ModelError::invalid("tensor", self.tensor.size, rule));
        }
        Ok(())
    }
}

/// As many rows as `x` has, all of them on every rank.
const fn whole_rows(x: View) -> Pass {
    Pass::plain(1, x.rows, Mask::Causal)
}

impl LayerNorm {
    fn plan(loader: &mut Loader<'_>, table: &mut Table, name: &str) -> Self {
        let weight = loader.plain(table, &format!("{name}.weight")).expect("every norm has a weight");
        Self { weight, bias: loader.plain(table, &format!("{name}.bias")) }
    }
}
