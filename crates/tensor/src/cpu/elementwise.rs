//! Element-wise loops: each output element depends on the same element of the inputs alone, so any split
//! over threads gives the same bits.

use super::Cpu;
use super::math::{self, Act, for_act};
use super::memory::{Element, assert_disjoint, assert_same_or_disjoint};
use crate::{DType, Dropout, View, philox::Stream};

/// Elements a thread takes at least.
const LEAST: usize = 8192;

pub(super) fn clear(cpu: &mut Cpu, view: View) {
    match view.dtype {
        DType::F32 => set(cpu, view, 0.0f32),
        DType::F64 => set(cpu, view, 0.0f64),
        DType::U32 => set(cpu, view, 0u32),
        DType::Bf16 | DType::F16 => for_act!(view.dtype, T => set(cpu, view, T::from_f32(0.0))),
    }
}

pub(super) fn fill(cpu: &mut Cpu, view: View, value: f32) {
    set(cpu, view, value);
}

fn set<T: Element>(cpu: &mut Cpu, view: View, value: T) {
    // SAFETY: the only memory this operation uses; ranges are disjoint.
    let to = unsafe { cpu.arena.shared::<T>(view) };
    // SAFETY: as above.
    cpu.team.ranges(view.len(), LEAST, &|range| unsafe { to.range(range) }.fill(value));
}

/// `to[i] = f(from[i])` over disjoint views.
#[inline(always)]
fn map<A: Element, B: Element>(cpu: &mut Cpu, from: View, to: View, f: impl Fn(A) -> B + Sync + Copy) {
    assert_eq!(from.len(), to.len(), "{from:?} and {to:?} differ in length");
    assert_disjoint(&[to], &[from]);
    // SAFETY: the views do not overlap; ranges of `to` are disjoint.
    let (source, target) = unsafe { (cpu.arena.slice::<A>(from), cpu.arena.shared::<B>(to)) };
    let isa = cpu.isa;
    cpu.team.ranges(to.len(), LEAST, &|range| {
        // SAFETY: as above.
        let target = unsafe { target.range(range.clone()) };
        let source = &source[range];
        isa.vectorize(
            #[inline(always)]
            || target.iter_mut().zip(source).for_each(|(t, &s)| *t = f(s)),
        );
    });
}

pub(super) fn cast(cpu: &mut Cpu, from: View, to: View) {
    for_act!(from.dtype, A => for_act!(to.dtype, B => map(cpu, from, to, |x: A| B::from_f32(Act::to_f32(x)))));
}

pub(super) fn gelu(cpu: &mut Cpu, pre: View, out: View) {
    for_act!(pre.dtype, T => map(cpu, pre, out, |x: T| T::from_f32(math::gelu(Act::to_f32(x)))));
}

pub(super) fn add(cpu: &mut Cpu, to: View, from: View) {
    assert_eq!(from.len(), to.len(), "{from:?} and {to:?} differ in length");
    assert_disjoint(&[to], &[from]);
    for_act!(to.dtype, T => {
        // SAFETY: the views do not overlap; ranges of `to` are disjoint.
        let (source, target) = unsafe { (cpu.arena.slice::<T>(from), cpu.arena.shared::<T>(to)) };
        let isa = cpu.isa;
        cpu.team.ranges(to.len(), LEAST, &|range| {
            // SAFETY: as above.
            let target = unsafe { target.range(range.clone()) };
            let source = &source[range];
            isa.vectorize(#[inline(always)] || {
                for (t, &s) in target.iter_mut().zip(source) {
                    *t = T::from_f32(Act::to_f32(*t) + Act::to_f32(s));
                }
            });
        });
    });
}

pub(super) fn scale(cpu: &mut Cpu, view: View, factor: f32) {
    // SAFETY: the only memory this operation uses; ranges are disjoint.
    let to = unsafe { cpu.arena.shared::<f32>(view) };
    let isa = cpu.isa;
    cpu.team.ranges(view.len(), LEAST, &|range| {
        // SAFETY: as above.
        let to = unsafe { to.range(range) };
        isa.vectorize(
            #[inline(always)]
            || to.iter_mut().for_each(|x| *x *= factor),
        );
    });
}

pub(super) fn fill_normal(cpu: &mut Cpu, view: View, stream: Stream, first: u64, mean: f32, std: f32) {
    /// Pairs of numbers that are drawn together, as many as make full vectors.
    const PAIRS: usize = 16;
    // SAFETY: the only memory this operation uses; ranges are disjoint.
    let to = unsafe { cpu.arena.shared::<f32>(view) };
    let (isa, mean, std) = (cpu.isa, f64::from(mean), f64::from(std));
    cpu.team.ranges(view.len(), 1024, &|range| {
        let first = first + range.start as u64;
        // SAFETY: as above.
        let to = unsafe { to.range(range) };
        // A number whose other half lies before the range.
        let (odd, to) = to.split_at_mut((first % 2) as usize);
        for x in odd {
            *x = (mean + std * stream.normal(first)) as f32;
        }
        let begin = first.div_ceil(2);
        isa.vectorize(
            #[inline(always)]
            || {
                for (number, some) in to.chunks_mut(2 * PAIRS).enumerate() {
                    let pair = begin + (number * PAIRS) as u64;
                    let mut values = [[0.0f32; 2]; PAIRS];
                    for (i, values) in values.iter_mut().enumerate() {
                        *values = stream.two_normals(pair + i as u64).map(|x| (mean + std * x) as f32);
                    }
                    some.copy_from_slice(&values.as_flattened()[..some.len()]);
                }
            },
        );
    });
}

pub(super) fn silu_mul(cpu: &mut Cpu, gate_up: View, out: View) {
    assert_eq!(gate_up.len(), 2 * out.len(), "{gate_up:?} is not twice {out:?}");
    assert_disjoint(&[out], &[gate_up]);
    for_act!(out.dtype, T => {
        // SAFETY: the views do not overlap; ranges of `out` are disjoint.
        let (source, target) = unsafe { (cpu.arena.slice::<T>(gate_up), cpu.arena.shared::<T>(out)) };
        let isa = cpu.isa;
        cpu.team.ranges(out.len(), LEAST, &|range| {
            let pairs = source[2 * range.start..2 * range.end].as_chunks::<2>().0;
            // SAFETY: as above.
            let target = unsafe { target.range(range) };
            isa.vectorize(#[inline(always)] || {
                for (t, &[gate, up]) in target.iter_mut().zip(pairs) {
                    let gate = Act::to_f32(gate);
                    *t = T::from_f32(gate * math::sigmoid(gate) * Act::to_f32(up));
                }
            });
        });
    });
}

pub(super) fn silu_mul_backward(cpu: &mut Cpu, d_out: View, gate_up: View, d_gate_up: View) {
    assert_eq!(gate_up.len(), 2 * d_out.len(), "{gate_up:?} is not twice {d_out:?}");
    assert_eq!(gate_up.len(), d_gate_up.len(), "{gate_up:?} and {d_gate_up:?} differ in length");
    assert_disjoint(&[d_gate_up], &[d_out, gate_up]);
    for_act!(d_out.dtype, T => {
        // SAFETY: the output does not overlap the inputs; its ranges are disjoint.
        let (d_out, source, target) = unsafe {
            (cpu.arena.slice::<T>(d_out), cpu.arena.slice::<T>(gate_up), cpu.arena.shared::<T>(d_gate_up))
        };
        let isa = cpu.isa;
        cpu.team.ranges(d_out.len(), LEAST, &|range| {
            let doubled = 2 * range.start..2 * range.end;
            let pairs = source[doubled.clone()].as_chunks::<2>().0;
            // SAFETY: as above.
            let target = unsafe { target.range(doubled) }.as_chunks_mut::<2>().0;
            let d_out = &d_out[range];
            isa.vectorize(#[inline(always)] || {
                for ((t, &[gate, up]), &d) in target.iter_mut().zip(pairs).zip(d_out) {
                    let (gate, up, d) = (Act::to_f32(gate), Act::to_f32(up), Act::to_f32(d));
                    let s = math::sigmoid(gate);
                    let d_gate = d * up * (s + gate * s * (1.0 - s));
                    *t = [T::from_f32(d_gate), T::from_f32(d * gate * s)];
                }
            });
        });
    });
}

pub(super) fn dropout(cpu: &mut Cpu, x: View, dropout: &Dropout, out: View) {
    assert_eq!((x.rows, x.cols), (out.rows, out.cols), "{x:?} and {out:?} differ in shape");
    assert_same_or_disjoint(out, x);
    for_act!(x.dtype, T => {
        // SAFETY: the views are the same memory or disjoint; each element is read and written by one thread,
        // through slices that do not live at the same time.
        let (source, target) = unsafe { (cpu.arena.shared::<T>(x), cpu.arena.shared::<T>(out)) };
        let isa = cpu.isa;
        cpu.team.ranges(x.rows, (LEAST / x.cols.max(1)).max(1), &|rows| {
            let mut values = [0.0f32; 64];
            for row in rows {
                for col in (0..x.cols).step_by(64) {
                    let width = (x.cols - col).min(64);
                    let range = row * x.cols + col..row * x.cols + col + width;
                    let values = &mut values[..width];
                    super::dropout::factors(isa, dropout, row, col, values);
                    // SAFETY: as above.
                    for (v, s) in values.iter_mut().zip(unsafe { source.range(range.clone()) }) {
                        *v *= Act::to_f32(*s);
                    }
                    // SAFETY: as above.
                    for (v, t) in values.iter().zip(unsafe { target.range(range) }) {
                        *t = T::from_f32(*v);
                    }
                }
            }
        });
    });
}
