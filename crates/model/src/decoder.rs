//! Inference: a network over a paged key/value cache, for any mix of sequences in one step.
//!
//! ```text
//! spans ─▶ embedding ─▶ ┌ norm ▶ qkv ▶ turn ▶ paged attention ▶ output ┐ ─▶ … ─▶ rows ─▶ chosen rows: norm, logits
//! ```
//!
//! Whoever calls owns the blocks: which of them a sequence has, which are shared, which are free. A row's
//! result depends on its own tokens alone, to the bit: neither on the other rows of its step nor on the
//! pieces its sequence came in, for every operation treats rows one by one or in a fixed order of its own.

mod matrix;

use crate::init::TensorSource;
use crate::plan::check_model;
use crate::{ModelError, Stage, declare};
use matrix::{Loader, Matrix};
use triax_spec::model::{self, Activation as Curve, Model, Positions};
use triax_tensor::{
    Activation, Class, DType, Device, DeviceExt, Embed, Epilogue, Need, Norm, NormKind, PagedAttention,
    RotaryRows, Table, View,
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

/// A network for generation and scoring, on the device it was opened on.
pub struct Decoder {
    model: Model,
    options: DecoderOptions,
    embedding: View,
    positions: Option<View>,
    layers: Vec<Layer>,
    norm: LayerNorm,
    head: Matrix,
    buffers: Buffers,
    /// Host memory of a step.
    rows: Vec<[u32; 3]>,
    ids: Vec<u32>,
    tables: Vec<u32>,
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

/// What all layers share; act `[rows, …]` unless said otherwise.
struct Buffers {
    /// u32 `[1, rows]`.
    tokens: View,
    /// u32 `[1, rows]`.
    positions: View,
    /// u32 `[rows, 3]` and `[rows, blocks of a sequence]`, see [`PagedAttention`].
    rows: View,
    tables: View,
    /// f32 `[capacity, head_dim]`, see [`RotaryRows`]; with rotary positions only.
    turns: Option<View>,
    x: View,
    middle: View,
    norm: View,
    /// f32 `[rows, 2]`.
    stats: View,
    qkv: View,
    attention: View,
    pre: View,
    activated: View,
    /// `[logits, h]`.
    hidden: View,
    /// f32 `[logits, vocab]`.
    logits: View,
}

impl Decoder {
    /// Plans a decoder, allocates it on `device` and loads `source`.
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
        check_model(model)?;
        check(model, options)?;
        let mut table = Table::new();
        let (decoder, loader) = Self::plan(model, options, source, device, &mut table);
        device.allocate(table.bytes(), decoder.scratch_bytes(device))?;
        loader.load(device)?;
        decoder.upload_turns(device);
        Ok(decoder)
    }

    fn plan<'s>(
        model: &Model,
        options: &DecoderOptions,
        source: &'s dyn TensorSource,
        device: &dyn Device,
        table: &mut Table,
    ) -> (Self, Loader<'s>) {
        let mut loader = Loader::new(source, declare(model, &Stage::whole(model)), options.dtype);
        let embedding = loader.plain(table, "embedding.tokens.weight").expect("every model embeds tokens");
        let positions = loader.plain(table, "embedding.positions.weight");
        let cache_cols = model.kv_heads * model.head_dim * options.block;
        let layers = (0..model.layers)
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
        let norm = LayerNorm::plan(&mut loader, table, "norm");
        let head = match model.tied {
            true => loader.tied(device, table, "embedding.tokens", embedding),
            false => loader.columns(device, table, "head"),
        };
        loader.stage(table);
        let decoder = Self {
            model: model.clone(),
            options: options.clone(),
            embedding,
            positions,
            layers,
            norm,
            head,
            buffers: Buffers::plan(model, options, table),
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
        let products = products.into_iter().chain([(&self.head, options.max_logits)]);
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

    fn upload_turns(&self, device: &mut dyn Device) {
        if let (Some(view), Positions::Rotary { base }) = (self.buffers.turns, self.model.positions) {
            device.upload_slice(view, &turns(view.rows, view.cols, base));
        }
    }

    pub const fn options(&self) -> &DecoderOptions {
        &self.options
    }

    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// Takes the tokens of all `spans` through the layers and into the cache. The step's rows are numbered
    /// span after span; [`Decoder::logits`] asks for what they predict.
    ///
    /// In a model with the prefix mask, a span at position 0 is the prompt: its tokens all see each other
    /// (those that come in a later span are seen by what follows them alone).
    ///
    /// # Panics
    /// When there are no tokens or more than `max_rows`, a span's blocks do not cover it or are not in the
    /// cache, a sequence is longer than the capacity, or an id is beyond the vocabulary.
    pub fn step(&mut self, device: &mut dyn Device, spans: &[Span<'_>]) {
        let rows = self.describe(spans);
        self.upload(device, spans, rows);
        let buffers = self.buffers.rows(rows);
        self.embed(device, spans, &buffers);
        for layer in &self.layers {
            self.attend(device, layer, &buffers, spans.len());
            self.feed_forward(device, layer, &buffers);
        }
    }

    /// Logits `[rows, vocab]` of the tokens that follow the chosen rows of the last step.
    ///
    /// # Panics
    /// When there are more than `max_logits` rows, or `logits` has another length.
    pub fn logits(&mut self, device: &mut dyn Device, rows: &[usize], logits: &mut [f32]) {
        let count = rows.len();
        assert!(count <= self.options.max_logits, "{count} rows, planned {}", self.options.max_logits);
        assert_eq!(logits.len(), count * self.model.vocab, "logits of {count} rows");
        if count == 0 {
            return;
        }
        let mut done = 0;
        // Neighbours go through the norm together.
        for run in rows.chunk_by(|a, b| a + 1 == *b) {
            let x = self.buffers.x.row_range(run[0], run.len());
            let stats = self.buffers.stats.row_range(run[0], run.len());
            self.normalise(device, self.norm, x, self.buffers.hidden.row_range(done, run.len()), stats);
            done += run.len();
        }
        let out = self.buffers.logits.row_range(0, count);
        self.head.product(device, self.buffers.hidden.row_range(0, count), out, Epilogue::default());
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

    fn embed(&self, device: &mut dyn Device, spans: &[Span<'_>], buffers: &Buffers) {
        let embed = |tokens: View, first_position, out: View| Embed {
            tokens,
            table: self.embedding,
            vocab_start: 0,
            positions: self.positions,
            seq: out.rows,
            first_position,
            dropout: None,
            out,
        };
        if self.positions.is_none() {
            device.embed(&embed(buffers.tokens, 0, buffers.x));
            return;
        }
        let mut start = 0;
        for span in spans {
            let count = span.tokens.len();
            let tokens = buffers.tokens.flat_range(start, count);
            device.embed(&embed(tokens, span.position, buffers.x.row_range(start, count)));
            start += count;
        }
    }

    /// `middle = x + attention(norm(x) · Wqkv) · Wo + bo`.
    fn attend(&self, device: &mut dyn Device, layer: &Layer, buffers: &Buffers, spans: usize) {
        let Model { heads, kv_heads, head_dim, .. } = self.model;
        let Buffers { x, norm, qkv, attention, middle, .. } = *buffers;
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
        let epilogue = Epilogue { residual: Some(x), ..Epilogue::default() };
        layer.output.product(device, attention, middle, epilogue);
    }

    /// `x = middle + act(norm(middle) · Wup + bup) · Wdown + bdown`.
    fn feed_forward(&self, device: &mut dyn Device, layer: &Layer, buffers: &Buffers) {
        let Buffers { x, norm, middle, pre, activated, .. } = *buffers;
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
        let epilogue = Epilogue { residual: Some(middle), ..Epilogue::default() };
        layer.down.product(device, activated, x, epilogue);
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

impl LayerNorm {
    fn plan(loader: &mut Loader<'_>, table: &mut Table, name: &str) -> Self {
        let weight = loader.plain(table, &format!("{name}.weight")).expect("every norm has a weight");
        Self { weight, bias: loader.plain(table, &format!("{name}.bias")) }
    }
}

impl Buffers {
    fn plan(model: &Model, options: &DecoderOptions, table: &mut Table) -> Self {
        let DecoderOptions { dtype, max_rows, max_logits, capacity, .. } = *options;
        let (h, f) = (model.hidden, model.ffn);
        let mut add = |name: &str, dtype, rows, cols| table.add(name, Class::Workspace, dtype, rows, cols);
        let rotary = matches!(model.positions, Positions::Rotary { .. });
        let pre = if model.activation == Curve::Swiglu { 2 * f } else { f };
        Self {
            tokens: add("tokens", DType::U32, 1, max_rows),
            positions: add("positions", DType::U32, 1, max_rows),
            rows: add("rows", DType::U32, max_rows, 3),
            tables: add("block tables", DType::U32, max_rows, capacity.div_ceil(options.block)),
            turns: rotary.then(|| add("rotary turns", DType::F32, capacity, model.head_dim)),
            x: add("x", dtype, max_rows, h),
            middle: add("middle", dtype, max_rows, h),
            norm: add("norm", dtype, max_rows, h),
            stats: add("norm statistics", DType::F32, max_rows, 2),
            qkv: add("qkv", dtype, max_rows, (model.heads + 2 * model.kv_heads) * model.head_dim),
            attention: add("attention", dtype, max_rows, model.heads * model.head_dim),
            pre: add("pre", dtype, max_rows, pre),
            activated: add("activated", dtype, max_rows, f),
            hidden: add("hidden", dtype, max_logits, h),
            logits: add("logits", DType::F32, max_logits, model.vocab),
        }
    }

    /// For a step of `count` rows.
    fn rows(&self, count: usize) -> Self {
        let cut = |view: View| view.row_range(0, count);
        Self {
            tokens: self.tokens.flat_range(0, count),
            positions: self.positions.flat_range(0, count),
            rows: cut(self.rows),
            x: cut(self.x),
            middle: cut(self.middle),
            norm: cut(self.norm),
            stats: cut(self.stats),
            qkv: cut(self.qkv),
            attention: cut(self.attention),
            pre: cut(self.pre),
            activated: cut(self.activated),
            ..*self
        }
    }
}

fn check(model: &Model, options: &DecoderOptions) -> Result<(), ModelError> {
    let DecoderOptions { dtype, cache, capacity, block, blocks, max_rows, max_logits } = *options;
    if capacity == 0 || capacity > model.sequence {
        let rule = format!("must be 1 to the model's sequence length {}", model.sequence);
        return Err(ModelError::invalid("capacity", capacity, rule));
    }
    if block == 0 || !block.is_multiple_of(16) {
        return Err(ModelError::invalid("tokens of a cache block", block, "must be a multiple of 16"));
    }
    for (what, value) in [("blocks", blocks), ("max_rows", max_rows), ("max_logits", max_logits)] {
        if value == 0 {
            return Err(ModelError::invalid(what, value, "must be at least 1"));
        }
    }
    for (what, dtype) in [("dtype", dtype), ("dtype of the cache", cache)] {
        if !dtype.is_activation() {
            return Err(ModelError::invalid(what, dtype, "activations are bf16, f16 or f32"));
        }
    }
    Ok(())
}

/// Cosines, then sines, of position p's turns `p · base^(-2i/d)`.
fn turns(positions: usize, head_dim: usize, base: f32) -> Vec<f32> {
    let pairs = head_dim / 2;
    let frequency = |i: usize| f64::from(base).powf(-2.0 * i as f64 / head_dim as f64);
    let frequencies: Vec<f64> = (0..pairs).map(frequency).collect();
    let mut values = Vec::with_capacity(positions * head_dim);
    for position in 0..positions {
        let angles = || frequencies.iter().map(|frequency| position as f64 * frequency);
        values.extend(angles().map(|angle| angle.cos() as f32));
        values.extend(angles().map(|angle| angle.sin() as f32));
    }
    values
}
