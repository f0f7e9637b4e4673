//! Rotary position embedding: the sines of a position are computed once for all its rows and heads.

use super::Cpu;
use super::math::{Act, for_act};
use super::memory::assert_disjoint;
use crate::{Rotary, RotaryRows};

/// Pairs whose sines are on the stack at once.
const BLOCK: usize = 64;

pub(super) fn run(cpu: &mut Cpu, rotary: &Rotary) {
    let group = rotary.heads / rotary.kv_heads + 2;
    assert_eq!(rotary.heads % rotary.kv_heads, 0, "{rotary:?}: heads are no multiple of kv_heads");
    assert_eq!(rotary.head_dim % 2, 0, "{rotary:?}: an odd head_dim cannot turn in pairs");
    assert_eq!(rotary.qkv.cols, rotary.kv_heads * group * rotary.head_dim, "{rotary:?}");
    for_act!(rotary.qkv.dtype, T => turn::<T>(cpu, rotary, group));
}

/// `group`: heads of a kv head's group, its key and value included.
fn turn<T: Act>(cpu: &mut Cpu, rotary: &Rotary, group: usize) {
    let Rotary { qkv, head_dim, seq, .. } = *rotary;
    let half = head_dim / 2;
    // SAFETY: the only memory this operation uses; a position's rows belong to one thread.
    let memory = unsafe { cpu.arena.shared::<T>(qkv) };
    let isa = cpu.isa;
    cpu.team.ranges(seq.min(qkv.rows), 4, &|positions| {
        for first in (0..half).step_by(BLOCK) {
            let count = (half - first).min(BLOCK);
            let frequency: [f64; BLOCK] = std::array::from_fn(|i| {
                f64::from(rotary.base).powf(-2.0 * (first + i) as f64 / head_dim as f64)
            });
            for position in positions.clone() {
                let (mut sin, mut cos) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
                for i in 0..count {
                    let angle = (rotary.first_position + position) as f64 * frequency[i];
                    (sin[i], cos[i]) = (angle.sin() as f32, angle.cos() as f32);
                    sin[i] = if rotary.inverse { -sin[i] } else { sin[i] };
                }
                for row in (position..qkv.rows).step_by(seq) {
                    // The last head of each group is the value, which does not turn.
                    for head in (0..rotary.kv_heads * group).filter(|head| head % group != group - 1) {
                        let start = row * qkv.cols + head * head_dim + first;
                        // SAFETY: as above; the two halves of a head are disjoint.
                        let (low, high) = unsafe {
                            (
                                memory.range(start..start + count),
                                memory.range(start + half..start + half + count),
                            )
                        };
                        isa.vectorize(
                            #[inline(always)]
                            || pairs(low, high, &sin[..count], &cos[..count]),
                        );
                    }
                }
            }
        }
    });
}

pub(super) fn rows(cpu: &mut Cpu, rotary: &RotaryRows) {
    let RotaryRows { qkv, heads, kv_heads, head_dim, turns, positions } = *rotary;
    assert_eq!(heads % kv_heads, 0, "{rotary:?}: heads are no multiple of kv_heads");
    assert_eq!(head_dim % 2, 0, "{rotary:?}: an odd head_dim cannot turn in pairs");
    assert_eq!(qkv.cols, (heads + 2 * kv_heads) * head_dim, "{rotary:?}");
    assert_eq!((turns.cols, positions.len()), (head_dim, qkv.rows), "{rotary:?}");
    assert_disjoint(&[qkv], &[turns, positions]);
    for_act!(qkv.dtype, T => turn_rows::<T>(cpu, rotary));
}

fn turn_rows<T: Act>(cpu: &mut Cpu, rotary: &RotaryRows) {
    let RotaryRows { qkv, head_dim, .. } = *rotary;
    let (half, group) = (head_dim / 2, rotary.heads / rotary.kv_heads + 2);
    // SAFETY: the inputs do not overlap qkv (checked by the caller); a row belongs to one thread.
    let (memory, turns, positions) = unsafe {
        (
            cpu.arena.shared::<T>(qkv),
            cpu.arena.slice::<f32>(rotary.turns),
            cpu.arena.slice::<u32>(rotary.positions),
        )
    };
    let isa = cpu.isa;
    cpu.team.ranges(qkv.rows, 8, &|rows| {
        for row in rows {
            let (cos, sin) = turns[positions[row] as usize * head_dim..][..head_dim].split_at(half);
            // The last head of each group is the value, which does not turn.
            for head in (0..rotary.kv_heads * group).filter(|head| head % group != group - 1) {
                let start = row * qkv.cols + head * head_dim;
                // SAFETY: as above; the two halves of a head are disjoint.
                let (low, high) = unsafe {
                    (memory.range(start..start + half), memory.range(start + half..start + head_dim))
                };
                isa.vectorize(
                    #[inline(always)]
                    || pairs(low, high, sin, cos),
                );
            }
        }
    });
}

#[inline(always)]
fn pairs<T: Act>(low: &mut [T], high: &mut [T], sin: &[f32], cos: &[f32]) {
    for (((low, high), &s), &c) in low.iter_mut().zip(high).zip(sin).zip(cos) {
        let (a, b) = (low.to_f32(), high.to_f32());
        *low = T::from_f32(a * c - b * s);
        *high = T::from_f32(b * c + a * s);
    }
}
