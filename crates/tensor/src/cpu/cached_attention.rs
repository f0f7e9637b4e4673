//! Attention of new tokens against a key/value cache: many new tokens go through the blocks of [`attention`],
//! a few take the plain way, head by head and key by key.

use super::Cpu;
use super::attention;
use super::math::{self, Act, for_act};
use super::memory::assert_disjoint;
use crate::{CachedAttention, View};

/// From this many new tokens on, blocks of queries are worth packing the cache.
const BLOCKED: usize = 8;

pub(super) fn scratch_bytes(cpu: &Cpu, capacity: usize, _heads: usize, head_dim: usize) -> usize {
    let plain = capacity + head_dim.next_multiple_of(16);
    cpu.threads() * attention::floats_of_cache(capacity, head_dim).max(plain) * size_of::<f32>()
}

pub(super) fn run(cpu: &mut Cpu, op: &CachedAttention, qkv: View, out: View) {
    let CachedAttention { new, past, heads, kv_heads, head_dim, keys, values, .. } = *op;
    assert!(kv_heads > 0 && heads % kv_heads == 0, "{op:?}: heads are no multiple of kv_heads");
    assert_eq!((qkv.rows, qkv.cols), (new, (heads + 2 * kv_heads) * head_dim), "{qkv:?} for {op:?}");
    assert_eq!((out.rows, out.cols, out.dtype), (new, heads * head_dim, qkv.dtype), "{out:?} for {op:?}");
    for cache in [keys, values] {
        assert_eq!((cache.cols, cache.dtype), (kv_heads * head_dim, qkv.dtype), "{cache:?} for {op:?}");
        assert!(past + new <= cache.rows, "{past} + {new} tokens in a cache of {}", cache.rows);
    }
    assert_disjoint(&[out, keys, values], &[qkv]);
    if new > 0 {
        for_act!(qkv.dtype, T => {
            append::<T>(cpu, op, qkv);
            if new >= BLOCKED { attention::cached::<T>(cpu, op, qkv, out) } else { plain::<T>(cpu, op, qkv, out) }
        });
    }
}

/// Copies the new tokens' keys and values into the cache.
fn append<T: Act>(cpu: &mut Cpu, op: &CachedAttention, qkv: View) {
    let (width, group) = (op.head_dim, op.heads / op.kv_heads);
    // SAFETY: the views do not overlap (checked by the caller); one thread.
    let (from, keys, values) = unsafe {
        (cpu.arena.slice::<T>(qkv), cpu.arena.shared::<T>(op.keys), cpu.arena.shared::<T>(op.values))
    };
    for token in 0..op.new {
        for head in 0..op.kv_heads {
            let first = token * qkv.cols + (head * (group + 2) + group) * width;
            let to = (op.past + token) * op.keys.cols + head * width;
            // SAFETY: as above.
            let (key, value) = unsafe { (keys.range(to..to + width), values.range(to..to + width)) };
            key.copy_from_slice(&from[first..first + width]);
            value.copy_from_slice(&from[first + width..first + 2 * width]);
        }
    }
}

/// One query of one head at a time: all scores, softmax, weighted sum of values.
fn plain<T: Act>(cpu: &mut Cpu, op: &CachedAttention, qkv: View, out: View) {
    let CachedAttention { new, past, heads, kv_heads, head_dim, .. } = *op;
    let group = heads / kv_heads;
    let floats = past + new + head_dim.next_multiple_of(16);
    // SAFETY: the output overlaps no input (checked by the caller); items write disjoint parts; workers have
    // disjoint parts of the scratch memory.
    let (from, keys, values, out_values, scratch) = unsafe {
        (
            cpu.arena.slice::<T>(qkv),
            cpu.arena.slice::<T>(op.keys),
            cpu.arena.slice::<T>(op.values),
            cpu.arena.shared::<T>(out),
            cpu.scratch.floats(cpu.threads() * floats),
        )
    };
    let (isa, stride, scale) = (cpu.isa, op.keys.cols, op.scale);
    cpu.team.run(new * heads, &|worker, item| {
        let (token, head) = (item / heads, item % heads);
        let (kv_head, r) = (head / group, head % group);
        // SAFETY: this worker's part.
        let scratch = unsafe { scratch.range(worker * floats..(worker + 1) * floats) };
        let first = token * qkv.cols + (kv_head * (group + 2) + r) * head_dim;
        let query = &from[first..first + head_dim];
        let to = token * out.cols + head * head_dim;
        // SAFETY: this item's part.
        let to = unsafe { out_values.range(to..to + head_dim) };
        let (scores, sums) = scratch.split_at_mut(past + new);
        let (scores, sums) = (&mut scores[..past + token + 1], &mut sums[..head_dim]);
        let row = |cache: &'static [T], i: usize| &cache[i * stride + kv_head * head_dim..][..head_dim];
        isa.vectorize(
            #[inline(always)]
            || {
                for (i, score) in scores.iter_mut().enumerate() {
                    *score = math::dot(query, row(keys, i)) * scale;
                }
                let maximum = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let mut total = 0.0;
                for score in scores.iter_mut() {
                    *score = math::exp(*score - maximum);
                    total += *score;
                }
                sums.fill(0.0);
                for (i, p) in scores.iter().enumerate() {
                    sums.iter_mut().zip(row(values, i)).for_each(|(s, v)| *s += p * v.to_f32());
                }
                to.iter_mut().zip(&*sums).for_each(|(t, s)| *t = T::from_f32(s / total));
            },
        );
    });
}
