//! The output layer and cross-entropy, fused: the product's tiles leave their maxima and exponential sums
//! behind while they are still f32 in L1; only rounded logits reach memory.
//!
//! Column panels begin at the borders of the vocabulary's virtual shards, so a row of a tile leaves one pair
//! (maximum, sum); [`logits`] then joins a shard's pairs from left to right, [`join()`] the shards by the tree.

mod gradient;
mod join;

pub(super) use gradient::gradient;
pub(super) use join::join;

use super::Cpu;
use super::gemm::{self, Finish, MAX_TILE, Microkernel, Panels, Place, Shards, Tile, product};
use super::isa::Isa;
use super::math::{self, Act};
use super::memory::SharedMut;
use crate::{CrossEntropy, DType, IGNORE};
use half::{bf16, f16};

/// Most virtual shards of a vocabulary part.
const MAX_SHARDS: usize = 64;

/// Panels of a vocabulary cut into shards: each leaves a pair for every row.
fn panels(cpu: &Cpu, (vocab, shards): (usize, usize), dtype: DType) -> Panels {
    Panels::new(vocab, shards, Microkernel::new(cpu.isa, dtype).nr())
}

/// Offset of the pairs in the scratch memory: behind what the product itself needs.
fn pairs_offset(cpu: &Cpu, (vocab, shards): (usize, usize), hidden: usize, dtype: DType) -> usize {
    gemm::scratch_bytes(cpu, vocab, shards, hidden, dtype).next_multiple_of(64)
}

pub(super) fn scratch_bytes(
    cpu: &Cpu,
    tokens: usize,
    sharded: (usize, usize),
    hidden: usize,
    dtype: DType,
) -> usize {
    pairs_offset(cpu, sharded, hidden, dtype) + tokens * panels(cpu, sharded, dtype).count() * 8
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
    let panels = panels(cpu, (vocab, shards), dtype);
    let count = panels.count();
    let offset = pairs_offset(cpu, (vocab, shards), op.hidden.cols, dtype);
    let needed = scratch_bytes(cpu, tokens, (vocab, shards), op.hidden.cols, dtype);
    assert!(
        cpu.scratch.bytes() >= needed,
        "scratch memory of {} bytes, {needed} needed",
        cpu.scratch.bytes()
    );

    let Cpu { team, isa, arena, scratch } = cpu;
    // SAFETY: the logits, statistics and target logits are written by this operation alone (views checked
    // above), and the pairs lie behind the product's own scratch memory.
    let (values, targets, target_logits, statistics, pairs) = unsafe {
        let pairs =
            scratch.shared::<f32>(crate::View { offset, rows: tokens, cols: 2 * count, dtype: DType::F32 });
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
    let finish = Statistics {
        isa: *isa,
        logits: values,
        vocab,
        targets,
        first: op.vocab_start,
        target_logits,
        pairs,
        panels: count,
    };
    let place = Place { team, isa: *isa, arena, scratch };
    let left = crate::Operand::InnerCols(op.hidden);
    product(place, left, op.weight, Shards { inner: 1, outer: shards }, &finish);

    let isa = *isa;
    team.ranges(tokens, 16, &|rows| {
        for row in rows {
            // SAFETY: this row's statistics and pairs; all tiles are finished.
            let (to, from) = unsafe {
                let from = pairs.range(row * 2 * count..(row + 1) * 2 * count);
                (statistics.range(row * 2 * shards..(row + 1) * 2 * shards), &*from)
            };
            isa.vectorize(
                #[inline(always)]
                || join_panels(panels, from, to),
            );
        }
    });
}

/// Joins a row's panels, shard by shard, from left to right.
#[inline(always)]
fn join_panels(panels: Panels, from: &[f32], to: &mut [f32]) {
    for ((_, panels), to) in panels.per_shard().zip(to.chunks_exact_mut(2)) {
        let max = panels.clone().fold(f32::NEG_INFINITY, |max, panel| larger(max, from[2 * panel]));
        let sum = panels.fold(0.0, |sum, panel| sum + from[2 * panel + 1] * math::exp(from[2 * panel] - max));
        to.copy_from_slice(&[max, sum]);
    }
}

/// The larger of two, NaN if either is.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

struct Statistics<'a, T> {
    isa: Isa,
    logits: SharedMut<'a, T>,
    vocab: usize,
    targets: &'a [u32],
    first: usize,
    target_logits: SharedMut<'a, f32>,
    pairs: SharedMut<'a, f32>,
    /// Panels of a row.
    panels: usize,
}

impl<T: Act> Statistics<'_, T> {
    /// Maximum and sum of exponentials of every row of a tile. The exponentials of all rows are made in one loop whose
    /// length the compiler does not know, which is what makes it vectorise them.
    #[inline(always)]
    fn statistics(&self, tile: &Tile<'_>) {
        let mut shifted = [0.0f32; MAX_TILE];
        let mut maxima = [f32::NEG_INFINITY; MAX_ROWS];
        for (r, max) in maxima.iter_mut().enumerate().take(tile.rows) {
            let row = &tile.values[r * tile.stride..][..tile.cols];
            *max = join_lanes(row, f32::NEG_INFINITY, |max, x| if x > max { x } else { max });
            for (shifted, &x) in shifted[r * tile.stride..].iter_mut().zip(row) {
                *shifted = x - *max;
            }
        }
        for x in &mut shifted[..tile.rows * tile.stride] {
            *x = math::exp(*x);
        }
        for (r, &max) in maxima.iter().enumerate().take(tile.rows) {
            let sum = join_lanes(&shifted[r * tile.stride..][..tile.cols], 0.0, |sum, x| sum + x);
            let at = 2 * ((tile.row + r) * self.panels + tile.panel);
            // SAFETY: every tile is finished once.
            let pair = unsafe { self.pairs.range(at..at + 2) };
            // A NaN among the logits is skipped by the maximum but not by the sum.
            pair.copy_from_slice(&[max, sum]);
        }
    }
}

const LANES: usize = 16;
/// Rows of the tallest tile.
const MAX_ROWS: usize = 32;

/// Joins a row lane by lane, then the lanes by halves.
#[inline(always)]
fn join_lanes(row: &[f32], start: f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for lane in 0..LANES {
            lanes[lane] = join(lanes[lane], chunk[lane]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = join(*lane, x);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = join(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
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
            math::narrow(self.isa, values, out);
            let target = self.targets[row];
            if target != IGNORE && cols.contains(&(target as usize).wrapping_sub(self.first)) {
                let value = values[target as usize - self.first - cols.start];
                // SAFETY: the target's column lies in this tile alone.
                let slot = unsafe { self.target_logits.range(row..row + 1) };
                slot[0] = value;
            }
        }
        self.statistics(&tile);
    }
}
