//! Sums in an order that depends on the shape alone, never on the number of threads.

use super::Cpu;
use super::math::{Act, for_act};
use super::memory::assert_disjoint;
use crate::{View, join_order, shard_range};
use std::sync::atomic::{AtomicU64, Ordering};

/// Columns summed at once.
const BLOCK: usize = 64;
/// Parts of a flat sum.
const PARTS: usize = 64;
/// Accumulators of a part: element i goes to number i % LANES.
const LANES: usize = 16;

/// Norms keep a row of sums per worker for each of two parameters.
pub(super) fn scratch_bytes(cpu: &Cpu, _tokens: usize, cols: usize) -> usize {
    cpu.threads() * super::norm::worker_floats(cols) * size_of::<f32>()
}

pub(super) fn column_sums(cpu: &mut Cpu, x: View, sums: View) {
    assert_eq!(x.cols, sums.len(), "{sums:?} for the columns of {x:?}");
    assert_disjoint(&[sums], &[x]);
    for_act!(x.dtype, T => {
        // SAFETY: the views do not overlap; items write disjoint columns.
        let (x_values, sums) = unsafe { (cpu.arena.slice::<T>(x), cpu.arena.shared::<f32>(sums)) };
        let isa = cpu.isa;
        cpu.team.run(x.cols.div_ceil(BLOCK), &|_, block| {
            let start = block * BLOCK;
            let count = (x.cols - start).min(BLOCK);
            // SAFETY: as above.
            let sums = unsafe { sums.range(start..start + count) };
            isa.vectorize(#[inline(always)] || sum_columns(x_values, x.cols, start, sums));
        });
    });
}

/// Adds the columns from `start` on, rows in order, the finished sum last.
#[inline(always)]
fn sum_columns<T: Act>(x: &[T], cols: usize, start: usize, sums: &mut [f32]) {
    let mut total = [0.0f32; BLOCK];
    for row in x.chunks_exact(cols) {
        let row = &row[start..start + sums.len()];
        if let Ok(row) = <&[T; BLOCK]>::try_from(row) {
            for i in 0..BLOCK {
                total[i] += row[i].to_f32();
            }
        } else {
            total.iter_mut().zip(row).for_each(|(t, x)| *t += x.to_f32());
        }
    }
    sums.iter_mut().zip(total).for_each(|(s, t)| *s += t);
}

pub(super) fn join_rows(cpu: &mut Cpu, from: View, to: View) {
    assert_eq!(from.cols, to.len(), "{to:?} for the columns of {from:?}");
    assert!(from.rows > 0, "no rows to join in {from:?}");
    assert_disjoint(&[to], &[from]);
    // SAFETY: the views do not overlap; items write disjoint columns.
    let (rows, to) = unsafe { (cpu.arena.slice::<f32>(from), cpu.arena.shared::<f32>(to)) };
    cpu.team.run(from.cols.div_ceil(BLOCK), &|_, block| {
        let start = block * BLOCK;
        let count = (from.cols - start).min(BLOCK);
        // A tree over u32::MAX rows is 32 high, and one row is being added.
        let mut stack = [[0.0f32; BLOCK]; 34];
        let mut height = 0;
        for row in 0..from.rows {
            let values = &rows[row * from.cols + start..][..count];
            stack[height][..count].copy_from_slice(values);
            height += 1;
            for _ in 0..join_order(from.rows, row) {
                let (older, newer) = stack.split_at_mut(height - 1);
                older[height - 2].iter_mut().zip(&newer[0]).for_each(|(a, b)| *a += b);
                height -= 1;
            }
        }
        // SAFETY: as above.
        unsafe { to.range(start..start + count) }.copy_from_slice(&stack[0][..count]);
    });
}

pub(super) fn row_squares(cpu: &mut Cpu, from: View, to: View) {
    assert_eq!(to.len(), from.rows, "{to:?} for the rows of {from:?}");
    assert_disjoint(&[to], &[from]);
    // SAFETY: the views do not overlap; items write disjoint elements.
    let (values, to) = unsafe { (cpu.arena.slice::<f32>(from), cpu.arena.shared::<f64>(to)) };
    let (isa, cols) = (cpu.isa, from.cols);
    cpu.team.ranges(from.rows, (1 << 14) / cols.max(1) + 1, &|range| {
        // SAFETY: as above.
        let to = unsafe { to.range(range.clone()) };
        let rows = &values[range.start * cols..range.end * cols];
        isa.vectorize(
            #[inline(always)]
            || {
                for (to, row) in to.iter_mut().zip(rows.chunks_exact(cols)) {
                    *to = sum_part(row, |x| x * x);
                }
            },
        );
    });
}

/// `to = Σ x` in f64: a fixed number of parts, each in fixed lanes, joined in order.
pub(super) fn sum(cpu: &mut Cpu, from: View, to: View) {
    assert_eq!(to.len(), 1, "a sum goes into one element, not {to:?}");
    assert_disjoint(&[to], &[from]);
    // SAFETY: the views do not overlap.
    let (values, to) = unsafe { (cpu.arena.slice::<f32>(from), cpu.arena.shared::<f64>(to)) };
    let parts: [AtomicU64; PARTS] = std::array::from_fn(|_| AtomicU64::new(0));
    let isa = cpu.isa;
    cpu.team.run(PARTS, &|_, part| {
        let values = &values[shard_range(values.len(), PARTS, part)];
        let sum = isa.vectorize(
            #[inline(always)]
            || sum_part(values, |x| x),
        );
        parts[part].store(sum.to_bits(), Ordering::Relaxed);
    });
    let total = parts.iter().map(|part| f64::from_bits(part.load(Ordering::Relaxed))).sum::<f64>();
    // SAFETY: one thread; the only slice of it.
    unsafe { to.range(0..1) }.fill(total);
}

#[inline(always)]
fn sum_part(values: &[f32], term: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += term(f64::from(chunk[i]));
        }
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, x)| *lane += term(f64::from(*x)));
    lanes.iter().sum()
}
