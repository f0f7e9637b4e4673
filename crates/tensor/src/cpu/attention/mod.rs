//! Blocked attention that never holds the s×s matrix (Dao, "FlashAttention-2", 2023), with scores transposed:
//!
//! ```text
//!                64 queries (vector lanes)
//!              ┌───────────────┐
//!   64 keys    │ Sᵀ = K · Qᵀ   │   softmax goes down a lane: no sums across a vector
//!              └───────────────┘
//!   forward    Oᵀ += Vᵀ · Pᵀ           backward    dV += Pᵀ · dO     dPᵀ = V · dOᵀ
//!                                                  dK += dSᵀ · Q     dQᵀ += Kᵀ · dSᵀ
//! ```
//!
//! Blocks beyond the mask are skipped. A worker packs the keys and values of one (sequence, kv head) for the
//! block products of its [`engine::Engine`] and then goes through that head's query blocks; backward, all
//! sums of a kv head are made by one worker in one order.

mod backward;
mod engine;
mod float;
mod forward;
#[cfg(target_arch = "x86_64")]
mod paired;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod transpose;

use super::Cpu;
use super::isa::Isa;
use super::math::{Act, for_act};
use super::memory::{SharedMut, assert_disjoint};
use crate::{AttentionShape, DType, Dropout, Mask, View};
use forward::{Forward, forward_floats};

/// Queries of a block: the lanes of a score tile.
const QUERIES: usize = 64;
/// Keys of a block: the rows of a score tile.
const KEYS: usize = 64;
/// A multiple of this many lanes is what block products are made for.
const VECTOR: usize = 16;

/// Part of a row-major matrix in the arena: `cols` columns of `rows` rows.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    pub(super) values: &'a [T],
    /// Element (0, 0).
    pub(super) first: usize,
    /// Elements from row to row.
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl<'a, T> Matrix<'a, T> {
    #[inline(always)]
    fn row(&self, row: usize) -> &'a [T] {
        debug_assert!(row < self.rows);
        let start = self.first + row * self.stride;
        &self.values[start..start + self.cols]
    }
}

/// The same, written.
#[derive(Clone, Copy)]
pub(super) struct MatrixMut<'a, T> {
    pub(super) values: SharedMut<'a, T>,
    pub(super) first: usize,
    pub(super) stride: usize,
    pub(super) cols: usize,
}

impl<'a, T> MatrixMut<'a, T> {
    /// # Safety
    /// No other live slice overlaps this row.
    #[inline(always)]
    unsafe fn row(&self, row: usize) -> &'a mut [T] {
        let start = self.first + row * self.stride;
        // SAFETY: passed on.
        unsafe { self.values.range(start..start + self.cols) }
    }
}

/// Which keys a query sees: `0..max(prefix, query + 1)`, never more than there are.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) prefix: usize,
    pub(super) keys: usize,
}

impl Limits {
    fn of(&self, query: usize) -> usize {
        (query + 1).max(self.prefix).min(self.keys)
    }

    /// For each lane of the query block at `first`; lanes beyond the last query see what the last one sees.
    fn lanes(&self, first: usize, queries: usize) -> [u32; QUERIES] {
        std::array::from_fn(|lane| self.of((first + lane).min(queries - 1)) as u32)
    }
}

/// Dropout of the probabilities of one (sequence, head).
#[derive(Clone, Copy)]
pub(super) struct HeadDropout {
    dropout: Dropout,
    /// Row of query 0 in a matrix of `seq` columns that has a row per (query, head) of the whole batch.
    first_row: usize,
    /// Rows from query to query.
    stride: usize,
}

impl HeadDropout {
    fn new(dropout: &Dropout, seq: usize, first_query: usize, head: usize) -> Self {
        Self {
            dropout: Dropout { first_row: 0, first_col: 0, cols_total: seq as u64, ..*dropout },
            first_row: (dropout.first_row as usize + first_query) * dropout.cols_total as usize
                + dropout.first_col as usize
                + head,
            stride: dropout.cols_total as usize,
        }
    }

    /// Factors of a tile `[KEYS, QUERIES]`.
    fn fill(&self, isa: Isa, first_query: usize, first_key: usize, tile: &mut [f32]) {
        let mut keys = [0.0; KEYS];
        for lane in 0..QUERIES {
            let row = self.first_row + (first_query + lane) * self.stride;
            super::dropout::factors(isa, &self.dropout, row, first_key, &mut keys);
            for (row, factor) in tile.chunks_exact_mut(QUERIES).zip(keys) {
                row[lane] = factor;
            }
        }
    }
}

/// Cuts work memory into consecutive pieces that each start on a cache line.
struct Carver<'a> {
    rest: &'a mut [f32],
}

impl<'a> Carver<'a> {
    fn take<U: bytemuck::Pod>(&mut self, count: usize) -> &'a mut [U] {
        let (piece, rest) = std::mem::take(&mut self.rest).split_at_mut(count.next_multiple_of(VECTOR));
        self.rest = rest;
        &mut bytemuck::cast_slice_mut(piece)[..count]
    }
}

/// Floats of pieces carved one after another.
fn carved(counts: &[usize]) -> usize {
    counts.iter().map(|count| count.next_multiple_of(VECTOR)).sum()
}

/// One row of a tile.
#[inline(always)]
fn lanes(tile: &mut [f32], row: usize) -> &mut [f32; QUERIES] {
    (&mut tile[row * QUERIES..(row + 1) * QUERIES]).try_into().expect("a row of a tile has QUERIES lanes")
}

pub(super) fn scratch_bytes(cpu: &Cpu, shape: &AttentionShape) -> usize {
    let forward = forward_floats(1, shape.seq, shape.head_dim);
    let backward = backward::floats(1, shape.seq, shape.head_dim);
    cpu.threads() * forward.max(backward) * size_of::<f32>()
}

fn check(shape: &AttentionShape, qkv: View, outs: &[View], lse: View) {
    let (tokens, cols) = (shape.tokens(), shape.out_cols());
    assert!(
        shape.kv_heads > 0 && shape.heads.is_multiple_of(shape.kv_heads),
        "{shape:?}: heads are no multiple of kv_heads"
    );
    assert_eq!((qkv.rows, qkv.cols), (tokens, shape.qkv_cols()), "{qkv:?} for {shape:?}");
    for out in outs {
        assert_eq!((out.rows, out.cols, out.dtype), (tokens, cols, qkv.dtype), "{out:?} for {shape:?}");
    }
    assert_eq!((lse.rows, lse.cols), (tokens, shape.heads), "{lse:?} for {shape:?}");
    if let Mask::Prefix(prefix) = shape.mask {
        assert_eq!(prefix.len(), shape.batch, "{prefix:?} for {shape:?}");
    }
}

impl Cpu {
    /// The limits of each sequence.
    fn limits(&self, shape: &AttentionShape) -> impl Fn(usize) -> Limits + Sync + use<> {
        let prefixes = match shape.mask {
            Mask::Causal => None,
            // SAFETY: the caller's outputs do not overlap the prefixes (`assert_disjoint`).
            Mask::Prefix(view) => Some(unsafe { self.arena.slice::<u32>(view) }),
        };
        let keys = shape.seq;
        move |sequence| {
            let prefix = prefixes.map_or(0, |prefixes| prefixes[sequence] as usize);
            assert!(prefix <= keys, "a prefix of {prefix} in a sequence of {keys}");
            Limits { prefix, keys }
        }
    }
}

/// Names the prefix view as an input.
fn mask_input(shape: &AttentionShape) -> Option<View> {
    match shape.mask {
        Mask::Causal => None,
        Mask::Prefix(view) => Some(view),
    }
}

pub(super) fn forward(cpu: &mut Cpu, shape: &AttentionShape, qkv: View, out: View, lse: View) {
    check(shape, qkv, &[out], lse);
    assert_disjoint(&[out, lse], &[qkv]);
    if let Some(prefix) = mask_input(shape) {
        assert_disjoint(&[out, lse], &[prefix]);
    }
    if shape.tokens() == 0 {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if let (DType::Bf16, Some(engine)) = (qkv.dtype, paired::Paired::new(cpu.isa)) {
        return forward_with(cpu, engine, shape, qkv, out, lse);
    }
    for_act!(qkv.dtype, T => forward_with::<T, _>(cpu, float::Float::new(cpu.isa), shape, qkv, out, lse));
}

fn forward_with<T: Act, E: engine::Engine<T>>(
    cpu: &mut Cpu,
    engine: E,
    shape: &AttentionShape,
    qkv: View,
    out: View,
    lse: View,
) {
    let AttentionShape { seq, heads, kv_heads, head_dim, .. } = *shape;
    let limits = cpu.limits(shape);
    let floats = forward_floats(E::DEPTH, seq, head_dim);
    // SAFETY: outputs overlap neither inputs nor each other (`forward`); items write disjoint parts; workers
    // have disjoint parts of the scratch memory.
    let (qkv_values, out_values, lse_values, scratch) = unsafe {
        (
            cpu.arena.slice::<T>(qkv),
            cpu.arena.shared::<T>(out),
            cpu.arena.shared::<f32>(lse),
            cpu.scratch.floats(cpu.threads() * floats),
        )
    };
    let group = heads / kv_heads;
    let pairs = shape.batch * kv_heads;
    // With few heads for many threads, a head's queries are cut as well, at the price of packing its keys again.
    let blocks = seq.div_ceil(QUERIES);
    let cuts = if pairs >= 2 * cpu.threads() { 1 } else { (4 * cpu.threads()).div_ceil(pairs).min(blocks) };
    cpu.team.run(pairs * cuts, &|worker, item| {
        let _set_up = engine.set_up();
        let (sequence, kv_head) = (item / cuts / kv_heads, item / cuts % kv_heads);
        let queries = crate::shard_range(blocks, cuts, item % cuts);
        // SAFETY: this worker's part.
        let scratch = unsafe { scratch.range(worker * floats..(worker + 1) * floats) };
        let part = |head: usize| Matrix {
            values: qkv_values,
            first: sequence * seq * qkv.cols + (kv_head * (group + 2) + head) * head_dim,
            stride: qkv.cols,
            rows: seq,
            cols: head_dim,
        };
        let limits = limits(sequence);
        let visible = limits.of((queries.end * QUERIES).min(seq) - 1);
        let mut work = Forward::new(engine, part(group), part(group + 1), limits, visible, scratch);
        for r in 0..group {
            let head = kv_head * group + r;
            let to = MatrixMut {
                values: out_values,
                first: sequence * seq * out.cols + head * head_dim,
                stride: out.cols,
                cols: head_dim,
            };
            let lse = MatrixMut {
                values: lse_values,
                first: sequence * seq * heads + head,
                stride: heads,
                cols: 1,
            };
            let dropout = shape.dropout.map(|d| HeadDropout::new(&d, seq, sequence * seq, head));
            for block in queries.clone() {
                work.block(part(r), block * QUERIES, shape.scale, dropout, to, Some(lse));
            }
        }
    });
}

pub(super) fn backward(
    cpu: &mut Cpu,
    shape: &AttentionShape,
    d_out: View,
    qkv: View,
    out: View,
    lse: View,
    d_qkv: View,
) {
    check(shape, qkv, &[out, d_out], lse);
    assert_eq!(
        (d_qkv.rows, d_qkv.cols, d_qkv.dtype),
        (qkv.rows, qkv.cols, qkv.dtype),
        "{d_qkv:?} of {qkv:?}"
    );
    assert_disjoint(&[d_qkv], &[d_out, qkv, out, lse]);
    if let Some(prefix) = mask_input(shape) {
        assert_disjoint(&[d_qkv], &[prefix]);
    }
    if shape.tokens() == 0 {
        return;
    }
    let views = backward::Views { d_out, qkv, out, lse, d_qkv };
    #[cfg(target_arch = "x86_64")]
    if let (DType::Bf16, Some(engine)) = (qkv.dtype, paired::Paired::new(cpu.isa)) {
        return backward::run(cpu, engine, shape, views);
    }
    for_act!(qkv.dtype, T => backward::run::<T, _>(cpu, float::Float::new(cpu.isa), shape, views));
}
