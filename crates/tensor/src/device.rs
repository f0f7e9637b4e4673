//! The [`Device`] trait: the fused operations of a transformer's training step.
//!
//! Operations *enqueue* and take handles ([`View`], [`Packed`]); nothing reads device memory from the host
//! except [`Device::download`]. A call whose shapes, dtypes or ranges do not fit is a bug of the caller and
//! panics with the operands; outputs must not overlap inputs unless an operation says "in place".
//!
//! Shapes: `T` tokens of a micro-batch (sequence after sequence), `h` hidden size, `V` vocabulary.
//! Activations are bf16, f16 or f32 ("act"); all arithmetic is f32 (the `reference` device: f64), rounded
//! once when an act buffer is written. Sums that a parallel layout may split are made in virtual shards,
//! see [`crate::shard_range`].
//!
//! A slice computes the slice: columns of a product, heads, rows of a table or ids of the vocabulary have the
//! bits that they have in the whole, whatever else is computed beside them.

use crate::{Coding, DType, HostMemory, Packed, Quantised, View, philox::Stream};

/// The target value of tokens that take no part in the loss.
pub const IGNORE: u32 = u32::MAX;

/// An operand of a matrix product. `inner` is the dimension that is summed over.
#[derive(Clone, Copy, Debug)]
pub enum Operand {
    /// Stored `[outer, inner]`.
    InnerCols(View),
    /// Stored `[inner, outer]`.
    InnerRows(View),
    /// Packed earlier by [`Device::pack`]; as the right operand only.
    Packed(Packed),
    /// Made earlier by [`Device::upload_quantised`]; as the right operand only. The left operand may have any
    /// act dtype; a device may round each of its rows to int8 in groups of 32 (scale `max |x| / 127`), and sums
    /// groups in order whatever `inner_shards` says. A row's result depends on the row alone.
    Quantised(Quantised),
}

impl Operand {
    pub const fn inner(&self) -> usize {
        match self {
            Self::InnerCols(v) => v.cols,
            Self::InnerRows(v) => v.rows,
            Self::Packed(p) => p.inner,
            Self::Quantised(q) => q.inner,
        }
    }

    pub const fn outer(&self) -> usize {
        match self {
            Self::InnerCols(v) => v.rows,
            Self::InnerRows(v) => v.cols,
            Self::Packed(p) => p.outer,
            Self::Quantised(q) => q.outer,
        }
    }

    /// Of the elements; f32 for a quantised operand, whose weights stand for such.
    pub const fn dtype(&self) -> DType {
        match self {
            Self::InnerCols(v) | Self::InnerRows(v) => v.dtype,
            Self::Packed(p) => p.dtype,
            Self::Quantised(_) => DType::F32,
        }
    }
}

/// `out[M, N] (+)= epilogue(left[M, K] · right[K, N])`, K summed in `inner_shards` virtual shards.
///
/// Both operands have the same act dtype (but see [`Operand::Quantised`]). `out` is the left one's dtype or f32. With `accumulate` (f32 only) the
/// finished value is added to what `out` holds.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    pub left: Operand,
    pub right: Operand,
    pub out: View,
    pub inner_shards: usize,
    pub accumulate: bool,
    pub epilogue: Epilogue,
}

/// What happens to a product before it is stored, in this order: `+ bias`, activation, dropout, `+ residual`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue {
    /// f32 `[1, N]`.
    pub bias: Option<View>,
    pub activation: Activation,
    pub dropout: Option<Dropout>,
    /// act `[M, N]`; may be `out` itself.
    pub residual: Option<View>,
}

/// GELU is the tanh form: `x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³)))`.
#[derive(Clone, Copy, Debug, Default)]
pub enum Activation {
    #[default]
    None,
    /// Writes the value before the activation to `pre` (act `[M, N]`) and goes on with GELU of the value
    /// *as stored*, so that a later recompute from `pre` gives the same bits.
    Gelu { pre: View },
    /// Multiplies by GELU's derivative at `pre`.
    GeluGradient { pre: View },
}

/// Inverted dropout: element (row, col) of a `[rows, cols]` matrix is dropped when word
/// `(first_row + row) * cols_total + first_col + col` of `stream` is below `rate · 2³²`; kept elements are
/// divided by `1 - rate`. Global indices make the mask independent of the layout.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    pub rate: f32,
    pub stream: Stream,
    pub first_row: u64,
    pub first_col: u64,
    pub cols_total: u64,
}

impl Dropout {
    /// Words below this are dropped.
    pub fn threshold(&self) -> u32 {
        (f64::from(self.rate) * 4_294_967_296.0) as u32
    }

    /// The factor of element (row, col): 0 or 1 / (1 - rate).
    pub fn factor(&self, row: usize, col: usize) -> f32 {
        let index = (self.first_row + row as u64) * self.cols_total + self.first_col + col as u64;
        if self.stream.word(index) < self.threshold() { 0.0 } else { 1.0 / (1.0 - self.rate) }
    }
}

/// Attention over packed projections. `qkv` is act `[T, kv_heads · (r + 2) · head_dim]` with
/// `r = heads / kv_heads`: for each kv head its r query heads, then its key, then its value.
/// Outputs are `[T, heads · head_dim]`, heads in the same order. `T = batch · seq`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Usually `1 / √head_dim`.
    pub scale: f32,
    pub mask: Mask,
    /// Of the probabilities; element (query row t of the whole micro-batch, key j) of head n is word
    /// `((first_row + t) · total_heads + first_head + n) · seq + j` of the stream: `first_row` counts
    /// query tokens, `first_col` is first_head, `cols_total` is total_heads.
    pub dropout: Option<Dropout>,
}

impl AttentionShape {
    pub const fn tokens(&self) -> usize {
        self.batch * self.seq
    }

    /// Columns of the `qkv` matrix.
    pub const fn qkv_cols(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Columns of the output matrix.
    pub const fn out_cols(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// Which keys a query at position i of its sequence may see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mask {
    /// Keys `0..=i`.
    Causal,
    /// Keys `0..max(prefix, i + 1)`, prefix = element of this u32 `[1, batch]` view (prefix-LM).
    Prefix(View),
}

/// Attention of new tokens over a paged key/value cache (inference).
///
/// The cache is cut into blocks of `block` tokens; the token at position p of a sequence lies in block
/// `tables[table][p / block]`. First the keys and values of all rows are written at the rows' own positions,
/// then every row attends to the positions `0..seen` of its table. Rows of one call may see one another, and
/// tables may share blocks. A row's result depends on nothing but its query and what it sees: neither on the
/// other rows of the call nor on how the cache was filled.
#[derive(Clone, Copy, Debug)]
pub struct PagedAttention {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Usually `1 / √head_dim`.
    pub scale: f32,
    /// Tokens of a block, a multiple of 16.
    pub block: usize,
    /// act (any) `[blocks, kv_heads · head_dim · block]` each; the layout inside a block is the device's own.
    pub keys: View,
    pub values: View,
    /// u32 `[T, 3]`: table, position, seen (more than 0).
    pub rows: View,
    /// u32 `[tables, most blocks of a sequence]`.
    pub tables: View,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `(x - mean) / √(variance + eps) · weight + bias`.
    Layer,
    /// `x / √(mean(x²) + eps) · weight`.
    Rms,
}

/// A norm over the rows of `x`.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    pub kind: NormKind,
    /// act `[T, h]`.
    pub x: View,
    /// f32 `[1, h]`.
    pub weight: View,
    /// f32 `[1, h]`, layer norm only.
    pub bias: Option<View>,
    /// act `[T, h]`.
    pub out: View,
    /// f32 `[T, 2]`: mean (0 for RMS) and reciprocal standard deviation.
    pub stats: View,
    pub eps: f32,
}

/// A residual connection behind a collective: `out = x + dropout(value + bias)`, in f32, rounded once, so that
/// it has the bits of the same epilogue on a product.
#[derive(Clone, Copy, Debug)]
pub struct ResidualAdd {
    /// act `[T, h]`.
    pub x: View,
    /// act or f32 `[T, h]` (f32: a row-parallel sum as the collective left it).
    pub value: View,
    /// f32 `[1, h]`.
    pub bias: Option<View>,
    pub dropout: Option<Dropout>,
    /// act `[T, h]`; may be `x` itself.
    pub out: View,
}

/// Backward of a norm, with the residual path's gradient added.
#[derive(Clone, Copy, Debug)]
pub struct NormBackward {
    pub kind: NormKind,
    /// act `[T, h]`, gradient of the norm's output.
    pub d_out: View,
    /// act `[T, h]`, what the norm read.
    pub x: View,
    pub stats: View,
    pub weight: View,
    /// act `[T, h]`: gradient that reaches x past the norm; added to the result. May be `d_x` itself.
    pub d_residual: Option<View>,
    /// act `[T, h]`.
    pub d_x: View,
    /// f32 `[S, h]`: tokens are cut into S virtual shards, shard s's sum is added to row s.
    pub d_weight: View,
    /// f32 `[S, h]`, layer norm only.
    pub d_bias: Option<View>,
}

/// Rotary position embedding of the q and k heads of a `qkv` matrix, in place: pair (i, i + d/2) of
/// position p turns by `p · base^(-2i/d)` (the "rotate half" form of Llama in Hugging Face).
#[derive(Clone, Copy, Debug)]
pub struct Rotary {
    /// act `[T, kv_heads · (r + 2) · head_dim]`.
    pub qkv: View,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub base: f32,
    /// Row t has position `first_position + t % seq`.
    pub seq: usize,
    pub first_position: usize,
    /// Turn back (the backward pass).
    pub inverse: bool,
}

/// Rotary position embedding like [`Rotary`], of rows at any positions, by a table of turns.
#[derive(Clone, Copy, Debug)]
pub struct RotaryRows {
    /// act `[T, kv_heads · (r + 2) · head_dim]`.
    pub qkv: View,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// f32 `[positions, head_dim]`: in each row the cosines of all pairs, then their sines.
    pub turns: View,
    /// u32 `[1, T]`.
    pub positions: View,
}

/// Token embedding, position embedding and dropout.
#[derive(Clone, Copy, Debug)]
pub struct Embed {
    /// u32 `[1, T]`, global ids.
    pub tokens: View,
    /// f32 `[rows, h]`: ids `vocab_start..vocab_start + rows`; other ids give zero.
    pub table: View,
    pub vocab_start: usize,
    /// f32 `[max positions, h]`; row t has position `first_position + t % seq`.
    pub positions: Option<View>,
    pub seq: usize,
    pub first_position: usize,
    pub dropout: Option<Dropout>,
    /// act or f32 `[T, h]`.
    pub out: View,
}

/// Backward of [`Embed`] for the token table: rows touched in this step, found through `slots`.
///
/// `slots` is u32 `[1, rows + 1]`: element w is 1 + the row of `sums` that collects id `vocab_start + w`
/// (0: none yet), the last element counts the rows in use. Tokens are added in order, so the sum of a row
/// does not depend on who else is in the batch.
#[derive(Clone, Copy, Debug)]
pub struct EmbedBackward {
    pub tokens: View,
    pub vocab_start: usize,
    /// act `[T, h]` (before the embedding's dropout backward, which `dropout` does).
    pub d_out: View,
    pub dropout: Option<Dropout>,
    pub slots: View,
    /// f32 `[at most T per micro-batch summed over the step, h]`.
    pub sums: View,
    /// f32 `[max positions, h]`, accumulated.
    pub d_positions: Option<View>,
    pub seq: usize,
}

/// First pass of the fused output layer and loss: logits and what the loss needs of them.
///
/// `logits = hidden · weight`, kept in act dtype; statistics are taken from the f32 values before rounding.
/// Shards are those of [`crate::even_shard_range`]; a rank that holds some of them has the bits of the whole's.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy {
    /// act `[T, h]`.
    pub hidden: View,
    /// inner = h, outer = the rank's part of the vocabulary; packed in `S` outer shards if packed.
    pub weight: Operand,
    /// act `[T, V]`.
    pub logits: View,
    /// u32 `[1, T]`, global ids, [`IGNORE`] to leave a token out.
    pub targets: View,
    pub vocab_start: usize,
    /// f32 `[T, 2 · S]`: for each of S virtual shards of the rank's vocabulary the maximum and the sum of
    /// `exp(logit - that maximum)`.
    pub statistics: View,
    /// f32 `[T, 1]`: the target's logit, 0 when the target is not in this part.
    pub target_logits: View,
}

/// Between the passes: joins the shards of the whole vocabulary by the tree.
/// `lse = ln Σ exp(logit)`, `losses = lse - target_logit` (0 for ignored targets).
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropyJoin {
    /// f32 `[P · T, 2 · S / P]`: the statistics of P parts of the vocabulary below each other, as ranks
    /// gather them; one part has the form of [`CrossEntropy::statistics`].
    pub statistics: View,
    pub target_logits: View,
    pub targets: View,
    /// f32 `[T, 1]`.
    pub lse: View,
    /// f32 `[T, 1]`.
    pub losses: View,
}

/// Second pass, in place: `logits ← (exp(logit - lse) - [target]) · scale`, 0 for ignored tokens.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropyGradient {
    pub logits: View,
    pub lse: View,
    pub targets: View,
    pub vocab_start: usize,
    pub scale: f32,
}

/// AdamW over flat f32 slices (Loshchilov & Hutter 2019), one pass:
/// `g = grad · grad_scale; m ← β₁m + (1-β₁)g; v ← β₂v + (1-β₂)g²;`
/// `w ← w - lr · (m / (1-β₁ᵗ) / (√(v / (1-β₂ᵗ)) + eps) + weight_decay · w)`.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    pub weight: View,
    pub grad: View,
    pub m: View,
    pub v: View,
    pub learning_rate: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    /// 1 for the first step.
    pub step: u64,
    /// Clipping and the loss scale, folded into one factor.
    pub grad_scale: f32,
}

/// A size for which a device says how much scratch memory it needs; see [`Device::scratch_bytes`].
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// A product of two views or of a view and a packed operand.
    Gemm {
        m: usize,
        n: usize,
        k: usize,
        dtype: DType,
    },
    Attention(AttentionShape),
    /// A product of `m` rows with a quantised operand.
    Quantised {
        m: usize,
        k: usize,
        coding: Coding,
    },
    PagedAttention {
        /// Most tokens of a sequence.
        capacity: usize,
        head_dim: usize,
    },
    CrossEntropy {
        tokens: usize,
        vocab: usize,
        shards: usize,
        hidden: usize,
        dtype: DType,
    },
    /// Norms and column sums over `[tokens, cols]`.
    Rows {
        tokens: usize,
        cols: usize,
    },
}

/// The machine has not enough memory for the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutOfMemory {
    pub bytes: usize,
}

impl std::fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot allocate {} bytes", self.bytes)
    }
}

impl std::error::Error for OutOfMemory {}

/// One rank's computing device with its arena.
pub trait Device: Send {
    /// For people: what runs, e.g. `cpu (avx512bf16, 2 threads)`.
    fn describe(&self) -> String;

    /// Replaces the arena by a zeroed one of `bytes`, and the scratch memory by one of `scratch_bytes`.
    fn allocate(&mut self, bytes: usize, scratch_bytes: usize) -> Result<(), OutOfMemory>;
    /// Scratch memory an operation of this size needs; allocate the largest.
    fn scratch_bytes(&self, need: Need) -> usize;
    /// Size of an operand packed in `outer_shards`.
    fn packed_bytes(&self, inner: usize, outer: usize, outer_shards: usize, dtype: DType) -> usize;
    /// Size of a quantised matrix.
    fn quantised_bytes(&self, inner: usize, outer: usize, coding: Coding) -> usize;

    /// Copies host bytes into a view; lengths must match.
    fn upload(&mut self, to: View, bytes: &[u8]);
    /// Copies a view to the host; lengths must match. Waits for all earlier operations.
    fn download(&self, from: View, bytes: &mut [u8]);
    /// Where the view lies in this process's memory, after all earlier operations on it are done; `None`
    /// when the arena is not host memory. From now on until the caller is told otherwise (a collective's
    /// `wait`), others may read and write the view's bytes, and no operation may use them.
    ///
    /// # Panics
    /// When the view leaves the arena.
    fn host(&mut self, _view: View) -> Option<HostMemory> {
        None
    }

    /// Makes a quantised matrix of its blocks, `[outer][Coding::row_bytes(inner)]`.
    fn upload_quantised(&mut self, to: Quantised, blocks: &[u8]);

    /// Sets every byte of the view to zero.
    fn clear(&mut self, view: View);
    /// Copies with conversion between F32, Bf16 and F16; same number of elements.
    fn cast(&mut self, from: View, to: View);
    /// `to += from`, both f32, or both the same act dtype.
    fn add(&mut self, to: View, from: View);
    /// `view *= factor`, f32.
    fn scale(&mut self, view: View, factor: f32);
    /// Element i of the f32 view becomes `mean + std · normal(first_index + i)`.
    fn fill_normal(&mut self, view: View, stream: Stream, first_index: u64, mean: f32, std: f32);
    /// Every element of the f32 view becomes `value`.
    fn fill(&mut self, view: View, value: f32);

    /// Packs an f32 or act matrix as the right operand of products in `to.dtype`.
    fn pack(&mut self, from: Operand, to: Packed);
    fn gemm(&mut self, gemm: &Gemm);
    /// `sums[1, N] += Σ over rows of x[T, N]` (x act, sums f32), a bias gradient.
    fn column_sums(&mut self, x: View, sums: View);
    /// `to[1, N] = tree over the rows of from[S, N]` (f32): joins virtual shards.
    fn join_rows(&mut self, from: View, to: View);

    /// `lse` is f32 `[T, heads]`, the log-sum-exp of each query's scaled scores.
    fn attention(&mut self, shape: &AttentionShape, qkv: View, out: View, lse: View);
    fn attention_backward(
        &mut self,
        shape: &AttentionShape,
        d_out: View,
        qkv: View,
        out: View,
        lse: View,
        d_qkv: View,
    );
    /// `qkv` act `[T, …]` (layout of [`AttentionShape`]), `out` act `[T, heads · head_dim]`.
    fn paged_attention(&mut self, attention: &PagedAttention, qkv: View, out: View);
    fn rotary(&mut self, rotary: &Rotary);
    fn rotary_rows(&mut self, rotary: &RotaryRows);

    fn add_residual(&mut self, add: &ResidualAdd);
    fn norm(&mut self, norm: &Norm);
    fn norm_backward(&mut self, norm: &NormBackward);

    /// `out = gelu(pre)`, as stored (recompute).
    fn gelu(&mut self, pre: View, out: View);
    /// SwiGLU. `gate_up` `[T, 2f]` holds gate and up alternating (gate_j in column 2j, up_j in 2j + 1):
    /// `out[T, f] = silu(gate) · up`.
    fn silu_mul(&mut self, gate_up: View, out: View);
    fn silu_mul_backward(&mut self, d_out: View, gate_up: View, d_gate_up: View);
    /// `out = dropout(x)`, in place allowed (the backward of a dropout is the same mask on the gradient).
    fn dropout(&mut self, x: View, dropout: &Dropout, out: View);

    fn embed(&mut self, embed: &Embed);
    fn embed_backward(&mut self, embed: &EmbedBackward);
    /// Adds the collected rows to `grad` (f32 `[rows, h]`) and empties `slots` and `sums`.
    fn embed_flush(&mut self, slots: View, sums: View, grad: View);

    fn cross_entropy(&mut self, op: &CrossEntropy);
    fn cross_entropy_join(&mut self, op: &CrossEntropyJoin);
    fn cross_entropy_gradient(&mut self, op: &CrossEntropyGradient);

    /// `to` (F64, one element) = sum of the f32 view, in a fixed order.
    fn sum(&mut self, from: View, to: View);
    /// `to` (F64 `[1, rows]`) = sum of squares of each row of the f32 view, in a fixed order that depends only
    /// on the number of columns.
    fn row_squares(&mut self, from: View, to: View);

    fn adamw(&mut self, step: &AdamW);
}

/// Typed host access to a device's memory.
pub trait DeviceExt: Device {
    fn upload_slice<T: bytemuck::NoUninit>(&mut self, to: View, values: &[T]) {
        self.upload(to, bytemuck::cast_slice(values));
    }

    fn download_vec<T: bytemuck::Pod>(&self, from: View) -> Vec<T> {
        let mut values = vec![T::zeroed(); from.bytes() / size_of::<T>()];
        self.download(from, bytemuck::cast_slice_mut(&mut values));
        values
    }

    /// One F64 element.
    fn read_f64(&self, from: View) -> f64 {
        let mut value = [0.0f64];
        self.download(from, bytemuck::cast_slice_mut(&mut value));
        value[0]
    }
}

impl<D: Device + ?Sized> DeviceExt for D {}
