//! Layer norm and RMS norm over rows.
//!
//! Forward: `y = (x - mean) · r · weight + bias`, `r = 1 / √(variance + eps)` (RMS: mean 0). Backward, with
//! `x̂ = (x - mean) · r` and `g = dy · weight`: `dx = r · (g - avg(g) - x̂ · avg(g · x̂))` (RMS: without avg(g)).

use super::Cpu;
use super::isa::Isa;
use super::math::{Act, for_act};
use super::memory::{SharedMut, assert_disjoint, assert_same_or_disjoint};
use crate::{Norm, NormBackward, NormKind, shard_range};

/// Sums along a row are made in this many lanes: element i goes to lane i % LANES.
const LANES: usize = 32;
/// Columns of the residual gradient that are on the stack at once.
const BLOCK: usize = 64;

pub(super) fn forward(cpu: &mut Cpu, norm: &Norm) {
    let (x, out) = (norm.x, norm.out);
    assert_eq!((x.rows, x.cols, x.dtype), (out.rows, out.cols, out.dtype), "{x:?} and {out:?}");
    assert_eq!((norm.stats.rows, norm.stats.cols), (x.rows, 2), "statistics {:?} of {x:?}", norm.stats);
    assert_eq!(norm.weight.len(), x.cols, "weight {:?} of {x:?}", norm.weight);
    assert_disjoint(&[out, norm.stats], &[x, norm.weight]);
    if let Some(bias) = norm.bias {
        assert_eq!(bias.len(), x.cols, "bias {bias:?} of {x:?}");
        assert_disjoint(&[out, norm.stats], &[bias]);
    }
    for_act!(x.dtype, T => normalize::<T>(cpu, norm));
}

fn normalize<T: Act>(cpu: &mut Cpu, norm: &Norm) {
    let (rows, width) = (norm.x.rows, norm.x.cols);
    // SAFETY: outputs overlap no inputs (checked by the caller); rows are disjoint.
    let (x, weight, out, stats) = unsafe {
        (
            cpu.arena.slice::<T>(norm.x),
            cpu.arena.slice::<f32>(norm.weight),
            cpu.arena.shared::<T>(norm.out),
            cpu.arena.shared::<f32>(norm.stats),
        )
    };
    // SAFETY: as above.
    let bias = norm.bias.map(|view| unsafe { cpu.arena.slice::<f32>(view) });
    let (isa, kind, eps) = (cpu.isa, norm.kind, norm.eps);
    cpu.team.ranges(rows, 8, &|range| {
        for row in range {
            // SAFETY: as above.
            let (out, stats) =
                unsafe { (out.range(row * width..(row + 1) * width), stats.range(2 * row..2 * row + 2)) };
            let x = &x[row * width..(row + 1) * width];
            isa.vectorize(
                #[inline(always)]
                || normalize_row(kind, eps, x, weight, bias, out, stats),
            );
        }
    });
}

#[inline(always)]
fn normalize_row<T: Act>(
    kind: NormKind,
    eps: f32,
    x: &[T],
    weight: &[f32],
    bias: Option<&[f32]>,
    out: &mut [T],
    stats: &mut [f32],
) {
    let count = x.len() as f32;
    let mean = match kind {
        NormKind::Layer => lane_sum(x, |x| x) / count,
        NormKind::Rms => 0.0,
    };
    let variance = lane_sum(x, |x| (x - mean) * (x - mean)) / count;
    let r = 1.0 / (variance + eps).sqrt();
    stats.copy_from_slice(&[mean, r]);
    let (x, weight) = (&x[..out.len()], &weight[..out.len()]);
    match bias {
        None => {
            for i in 0..out.len() {
                out[i] = T::from_f32((x[i].to_f32() - mean) * r * weight[i]);
            }
        }
        Some(bias) => {
            let bias = &bias[..out.len()];
            for i in 0..out.len() {
                out[i] = T::from_f32((x[i].to_f32() - mean) * r * weight[i] + bias[i]);
            }
        }
    }
}

#[inline(always)]
fn lane_sum<T: Act>(row: &[T], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += term(chunk[i].to_f32());
        }
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, x)| *lane += term(x.to_f32()));
    lanes.iter().sum()
}

/// Scratch of one worker in the backward pass: the sums of a shard's weight and bias gradients.
pub(super) fn worker_floats(cols: usize) -> usize {
    (2 * cols).next_multiple_of(16)
}

pub(super) fn backward(cpu: &mut Cpu, norm: &NormBackward) {
    let (x, d_x, shards) = (norm.x, norm.d_x, norm.d_weight);
    for view in [norm.d_out, d_x].into_iter().chain(norm.d_residual) {
        assert_eq!((view.rows, view.cols, view.dtype), (x.rows, x.cols, x.dtype), "{view:?} and {x:?}");
    }
    assert_eq!((norm.stats.rows, norm.stats.cols), (x.rows, 2), "statistics {:?} of {x:?}", norm.stats);
    assert_eq!((norm.weight.len(), shards.cols), (x.cols, x.cols), "{:?}, {shards:?} of {x:?}", norm.weight);
    assert!(shards.rows > 0, "no shards in {shards:?}");
    let inputs = [norm.d_out, x, norm.stats, norm.weight];
    assert_disjoint(&[d_x, shards], &inputs);
    if let Some(d_bias) = norm.d_bias {
        assert_eq!((d_bias.rows, d_bias.cols), (shards.rows, shards.cols), "{d_bias:?} and {shards:?}");
        assert_disjoint(&[d_bias, d_x, shards], &inputs);
    }
    if let Some(d_residual) = norm.d_residual {
        assert_same_or_disjoint(d_x, d_residual);
    }
    for_act!(x.dtype, T => backward_of::<T>(cpu, norm));
}

/// What a shard of the backward pass reads and writes.
struct Rows<'a, T> {
    kind: NormKind,
    width: usize,
    d_out: &'a [T],
    x: &'a [T],
    stats: &'a [f32],
    weight: &'a [f32],
    d_residual: Option<SharedMut<'a, T>>,
    d_x: SharedMut<'a, T>,
}

fn backward_of<T: Act>(cpu: &mut Cpu, norm: &NormBackward) {
    let width = norm.x.cols;
    // SAFETY: outputs overlap neither inputs nor each other (checked by the caller), but for `d_residual`,
    // which may be `d_x`; a row and a shard belong to one thread.
    let rows = unsafe {
        Rows {
            kind: norm.kind,
            width,
            d_out: cpu.arena.slice::<T>(norm.d_out),
            x: cpu.arena.slice::<T>(norm.x),
            stats: cpu.arena.slice::<f32>(norm.stats),
            weight: cpu.arena.slice::<f32>(norm.weight),
            d_residual: norm.d_residual.map(|view| cpu.arena.shared::<T>(view)),
            d_x: cpu.arena.shared::<T>(norm.d_x),
        }
    };
    // SAFETY: as above.
    let d_weight = unsafe { cpu.arena.shared::<f32>(norm.d_weight) };
    // SAFETY: as above.
    let d_bias = norm.d_bias.map(|view| unsafe { cpu.arena.shared::<f32>(view) });
    let (tokens, shards) = (norm.x.rows, norm.d_weight.rows);
    // SAFETY: nobody else uses the scratch memory during an operation.
    let scratch = unsafe { cpu.scratch.floats(cpu.threads() * worker_floats(width)) };
    let isa = cpu.isa;
    cpu.team.run(shards, &|worker, shard| {
        // SAFETY: this worker's part.
        let sums =
            unsafe { scratch.range(worker * worker_floats(width)..(worker + 1) * worker_floats(width)) };
        let (weight_sums, bias_sums) = sums[..2 * width].split_at_mut(width);
        weight_sums.fill(0.0);
        bias_sums.fill(0.0);
        for row in shard_range(tokens, shards, shard) {
            rows.backward(isa, row, weight_sums, bias_sums);
        }
        let add = |to: SharedMut<'_, f32>, sums: &[f32]| {
            // SAFETY: the shard's row.
            let to = unsafe { to.range(shard * width..(shard + 1) * width) };
            to.iter_mut().zip(sums).for_each(|(t, s)| *t += s);
        };
        add(d_weight, weight_sums);
        if let Some(d_bias) = d_bias {
            add(d_bias, bias_sums);
        }
    });
}

impl<T: Act> Rows<'_, T> {
    /// Writes a row of `d_x` and adds the row's share to the parameter gradients.
    fn backward(&self, isa: Isa, row: usize, weight_sums: &mut [f32], bias_sums: &mut [f32]) {
        let range = row * self.width..(row + 1) * self.width;
        let (d_out, x) = (&self.d_out[range.clone()], &self.x[range.clone()]);
        let (mean, r) = (self.stats[2 * row], self.stats[2 * row + 1]);
        isa.vectorize(
            #[inline(always)]
            || {
                let (g_mean, gx_mean) = sum_row(d_out, x, self.weight, mean, r, weight_sums, bias_sums);
                let g_mean = if self.kind == NormKind::Layer { g_mean } else { 0.0 };
                // The residual's gradient may be `d_x` itself: it is read to the stack before that is written.
                for start in (0..self.width).step_by(BLOCK) {
                    let count = (self.width - start).min(BLOCK);
                    let mut past = [0.0f32; BLOCK];
                    let block = range.start + start..range.start + start + count;
                    if let Some(d_residual) = self.d_residual {
                        // SAFETY: this thread's row; no other slice of it lives.
                        let d_residual = unsafe { d_residual.range(block.clone()) };
                        past.iter_mut().zip(&*d_residual).for_each(|(p, d)| *p = d.to_f32());
                    }
                    // SAFETY: as above.
                    let d_x = unsafe { self.d_x.range(block) };
                    let (d_out, x) = (&d_out[start..start + count], &x[start..start + count]);
                    let weight = &self.weight[start..start + count];
                    for i in 0..count {
                        let normal = (x[i].to_f32() - mean) * r;
                        let g = d_out[i].to_f32() * weight[i];
                        d_x[i] = T::from_f32(r * (g - g_mean - normal * gx_mean) + past[i]);
                    }
                }
            },
        );
    }
}

/// The averages of `g` and `g · x̂` over a row, whose `dy · x̂` and `dy` are added to the sums.
#[inline(always)]
fn sum_row<T: Act>(
    d_out: &[T],
    x: &[T],
    weight: &[f32],
    mean: f32,
    r: f32,
    weight_sums: &mut [f32],
    bias_sums: &mut [f32],
) -> (f32, f32) {
    let (mut g_lanes, mut gx_lanes) = ([0.0f32; LANES], [0.0f32; LANES]);
    let whole = x.len() / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        let lanes = start..start + LANES;
        let (d_out, x, weight) = (&d_out[lanes.clone()], &x[lanes.clone()], &weight[lanes.clone()]);
        let (weight_sums, bias_sums) = (&mut weight_sums[lanes.clone()], &mut bias_sums[lanes]);
        for i in 0..LANES {
            let (d, normal) = (d_out[i].to_f32(), (x[i].to_f32() - mean) * r);
            let g = d * weight[i];
            g_lanes[i] += g;
            gx_lanes[i] += g * normal;
            weight_sums[i] += d * normal;
            bias_sums[i] += d;
        }
    }
    for i in whole..x.len() {
        let (d, normal) = (d_out[i].to_f32(), (x[i].to_f32() - mean) * r);
        let g = d * weight[i];
        g_lanes[i - whole] += g;
        gx_lanes[i - whole] += g * normal;
        weight_sums[i] += d * normal;
        bias_sums[i] += d;
    }
    let count = x.len() as f32;
    (g_lanes.iter().sum::<f32>() / count, gx_lanes.iter().sum::<f32>() / count)
}
