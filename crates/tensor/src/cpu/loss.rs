//! The output layer and cross-entropy, fused: the product's tiles leave their maxima and exponential sums
//! behind while they are still f32 in L1; only rounded logits reach memory.
//!
//! A virtual shard of the vocabulary is cut where column panels end, so a tile leaves one pair (maximum, sum)
//! per shard it touches; [`logits`] then joins a shard's pairs from left to right, [`join()`] the shards by the tree.

mod gradient;
mod join;

pub(super) use gradient::gradient;
pub(super) use join::join;

use super::Cpu;
use super::gemm::{self, Finish, Microkernel, Place, Tile, product};
use super::math::{self, Act};
use super::memory::SharedMut;
use crate::{CrossEntropy, DType, IGNORE, shard_range};
use half::{bf16, f16};

/// Most virtual shards of a vocabulary part.
const MAX_SHARDS: usize = 64;

/// Pairs of one row: one for every piece between panel and shard borders.
const fn most_pieces(kernel: Microkernel, vocab: usize) -> usize {
    vocab.div_ceil(kernel.nr()) + MAX_SHARDS
}

/// Offset of the pairs in the scratch memory: behind what the product itself needs.
fn pairs_offset(cpu: &Cpu, tokens: usize, vocab: usize, hidden: usize, dtype: DType) -> usize {
    gemm::scratch_bytes(cpu, tokens, vocab, hidden, dtype).next_multiple_of(64)
}

pub(super) fn scratch_bytes(cpu: &Cpu, tokens: usize, vocab: usize, hidden: usize, dtype: DType) -> usize {
    let kernel = Microkernel::new(cpu.isa, dtype);
    pairs_offset(cpu, tokens, vocab, hidden, dtype) + tokens * most_pieces(kernel, vocab) * 8
}

pub(super) fn logits(cpu: &mut Cpu, op: &CrossEntropy) {
    match op.hidden.dtype {
        DType::F32 => typed::<f32>(cpu, op),
        DType::Bf16 => typed::<bf16>(cpu, op),
        DType::F16 => typed::<f16>(cpu, op),
        other => panic!("hidden states of {other}"),
    }
}

fn typed<T: Act>(cpu: &mut Cpu, op: &CrossEntropy) {
    let (tokens, vocab) = (op.hidden.rows, op.weight.outer());
    let shards = op.statistics.cols / 2;
    assert_eq!((op.logits.rows, op.logits.cols), (tokens, vocab), "shape of {:?}", op.logits);
    assert_eq!((op.statistics.rows, op.target_logits.len()), (tokens, tokens), "{op:?}");
    assert_eq!(op.targets.len(), tokens, "{:?}", op.targets);
    assert!((1..=MAX_SHARDS).contains(&shards), "1 to {MAX_SHARDS} shards of the vocabulary, not {shards}");
    gemm::check_disjoint(op.logits, op.weight);
    gemm::check_disjoint(op.logits, crate::Operand::InnerCols(op.hidden));

    let dtype = op.hidden.dtype;
    let pieces = Pieces::new(Microkernel::new(cpu.isa, dtype), vocab, shards);
    let offset = pairs_offset(cpu, tokens, vocab, op.hidden.cols, dtype);
    let needed = scratch_bytes(cpu, tokens, vocab, op.hidden.cols, dtype);
    assert!(
        cpu.scratch.bytes() >= needed,
        "scratch memory of {} bytes, {needed} needed",
        cpu.scratch.bytes()
    );

    let Cpu { team, isa, arena, scratch } = cpu;
    // SAFETY: the logits, statistics and target logits are written by this operation alone (views checked
    // above), and the pairs lie behind the product's own scratch memory.
    let (values, targets, target_logits, statistics, pairs) = unsafe {
        let pairs = scratch.shared::<f32>(crate::View {
            offset,
            rows: tokens,
            cols: 2 * pieces.count,
            dtype: DType::F32,
        });
        (
            arena.shared::<T>(op.logits),
            arena.slice::<u32>(op.targets),
            arena.shared::<f32>(op.target_logits),
            arena.shared::<f32>(op.statistics),
            pairs,
        )
    };
    // SAFETY: nobody else holds the target logits yet.
    unsafe { target_logits.range(0..tokens) }.fill(0.0);
    let finish =
        Statistics { logits: values, vocab, targets, first: op.vocab_start, target_logits, pairs, pieces };
    let place = Place { team, isa: *isa, arena, scratch };
    product(place, crate::Operand::InnerCols(op.hidden), op.weight, 1, &finish);

    let isa = *isa;
    team.ranges(tokens, 16, &|rows| {
        for row in rows {
            // SAFETY: this row's statistics and pairs; all tiles are finished.
            let (to, from) = unsafe {
                let from = pairs.range(row * 2 * pieces.count..(row + 1) * 2 * pieces.count);
                (statistics.range(row * 2 * shards..(row + 1) * 2 * shards), &*from)
            };
            isa.vectorize(
                #[inline(always)]
                || join_pieces(pieces, from, to),
            );
        }
    });
}

/// How a vocabulary is cut into pieces by panel borders and shard borders.
#[derive(Clone, Copy)]
struct Pieces {
    panel: usize,
    vocab: usize,
    shards: usize,
    count: usize,
}

impl Pieces {
    fn new(kernel: Microkernel, vocab: usize, shards: usize) -> Self {
        let panel = kernel.nr();
        Self { panel, vocab, shards, count: vocab.div_ceil(panel) + shards }
    }

    /// The shard of a column.
    #[inline(always)]
    fn shard(&self, col: usize) -> usize {
        // The inverse of `shard_range`: the last shard that starts at or before the column.
        ((col + 1) * self.shards).div_ceil(self.vocab).saturating_sub(1).min(self.shards - 1)
    }

    /// The piece a column lies in. Empty shards own a piece that nothing writes.
    #[inline(always)]
    fn piece(&self, col: usize) -> usize {
        col / self.panel + self.shard(col)
    }
}

/// Joins a row's pieces, shard by shard, from left to right.
#[inline(always)]
fn join_pieces(pieces: Pieces, from: &[f32], to: &mut [f32]) {
    for shard in 0..pieces.shards {
        let cols = shard_range(pieces.vocab, pieces.shards, shard);
        let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0);
        if !cols.is_empty() {
            let range = pieces.piece(cols.start)..=pieces.piece(cols.end - 1);
            max = range.clone().fold(f32::NEG_INFINITY, |max, piece| larger(max, from[2 * piece]));
            sum = range.fold(0.0, |sum, piece| sum + from[2 * piece + 1] * math::exp(from[2 * piece] - max));
        }
        to[2 * shard] = max;
        to[2 * shard + 1] = sum;
    }
}

/// The larger of two, NaN if either is.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

struct Statistics<'a, T> {
    logits: SharedMut<'a, T>,
    vocab: usize,
    targets: &'a [u32],
    first: usize,
    target_logits: SharedMut<'a, f32>,
    pairs: SharedMut<'a, f32>,
    pieces: Pieces,
}

impl<T: Act> Statistics<'_, T> {
    /// Maximum and sum of exponentials of one piece of a row.
    #[inline(always)]
    fn piece(&self, row: usize, col: usize, x: &[f32]) {
        const LANES: usize = 16;
        let mut maxima = [f32::NEG_INFINITY; LANES];
        for chunk in x.chunks(LANES) {
            for (max, &x) in maxima.iter_mut().zip(chunk) {
                *max = if x > *max { x } else { *max };
            }
        }
        let max = maxima.into_iter().fold(f32::NEG_INFINITY, f32::max);
        let mut sums = [0.0f32; LANES];
        let mut chunks = x.chunks_exact(LANES);
        for chunk in &mut chunks {
            for (sum, &x) in sums.iter_mut().zip(chunk) {
                *sum += math::exp(x - max);
            }
        }
        for (sum, &x) in sums.iter_mut().zip(chunks.remainder()) {
            *sum += math::exp(x - max);
        }
        let sum: f32 = sums.into_iter().fold(0.0, |a, b| a + b);
        let at = 2 * (row * self.pieces.count + self.pieces.piece(col));
        // SAFETY: a piece lies in one tile, and every tile is finished once.
        let pair = unsafe { self.pairs.range(at..at + 2) };
        // A NaN among the logits is skipped by the maximum but not by the sum.
        pair.copy_from_slice(&[max, sum]);
    }
}

impl<T: Act> Finish for Statistics<'_, T> {
    #[inline(always)]
    fn finish(&self, tile: Tile<'_>) {
        let cols = tile.col..tile.col + tile.cols;
        for r in 0..tile.rows {
            let row = tile.row + r;
            let values = &tile.values[r * tile.stride..][..tile.cols];
            // SAFETY: every element of the product is finished once.
            let out =
                unsafe { self.logits.range(row * self.vocab + cols.start..row * self.vocab + cols.end) };
            for (out, &x) in out.iter_mut().zip(values) {
                *out = T::from_f32(x);
            }
            let target = self.targets[row];
            if target != IGNORE && cols.contains(&(target as usize).wrapping_sub(self.first)) {
                let value = values[target as usize - self.first - cols.start];
                // SAFETY: the target's column lies in this tile alone.
                let slot = unsafe { self.target_logits.range(row..row + 1) };
                slot[0] = value;
            }
            let mut start = cols.start;
            while start < cols.end {
                let shard = self.pieces.shard(start);
                let end = shard_range(self.vocab, self.pieces.shards, shard).end.min(cols.end);
                self.piece(row, start, &values[start - cols.start..end - cols.start]);
                start = end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_found_in_the_shard_that_holds_it() {
        for vocab in [1, 2, 7, 97, 50_257] {
            for shards in [1, 2, 3, 8, 64] {
                let pieces = Pieces::new(Microkernel::Portable, vocab, shards);
                for shard in 0..shards {
                    for col in shard_range(vocab, shards, shard) {
                        assert_eq!(pieces.shard(col), shard, "column {col} of {vocab} in {shards}");
                        assert!(pieces.piece(col) < pieces.count);
                    }
                }
            }
        }
    }
}
