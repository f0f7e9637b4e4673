//! Attention of new tokens over a paged key/value cache.
//!
//! ```text
//! block, kv head    keys [head_dim][block]     values [block][head_dim]
//!                     lanes: 16 keys             lanes: 16 elements
//! 1..8 queries      s = Σ_d q_d · k_d   ─▶  p = exp(s - max)  ─▶  o = Σ_j p_j · v_j / Σ p
//! ```
//!
//! Every score is one chain of multiply-adds over d, every output element one over the keys in order, and
//! the sum of probabilities is made in 16 lanes (key j in lane j % 16). Lanes and queries never mix, so a
//! query's result does not depend on how many share the tile, nor on how its keys came into the cache.

use super::Cpu;
use super::isa::Isa;
use super::math::{self, Act, for_act};
use super::memory::assert_disjoint;
use crate::{PagedAttention, View};

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(test)]
mod tests;

#[cfg(not(target_arch = "x86_64"))]
use Act as Cached;
#[cfg(target_arch = "x86_64")]
use avx512::Cached;

/// Neighbours in a vector.
const LANES: usize = 16;
/// Queries of the largest tile.
const QUERIES: usize = 8;
/// Keys whose scores a single query computes side by side.
const WIDE: usize = 4 * LANES;

const fn worker_floats(capacity: usize, head_dim: usize) -> usize {
    // Scores, queries, outputs.
    QUERIES * (capacity.next_multiple_of(WIDE) + 2 * head_dim.next_multiple_of(LANES))
}

pub(super) fn scratch_bytes(cpu: &Cpu, capacity: usize, head_dim: usize) -> usize {
    cpu.threads() * worker_floats(capacity, head_dim) * size_of::<f32>()
}

pub(super) fn run(cpu: &mut Cpu, op: &PagedAttention, qkv: View, out: View) {
    let PagedAttention { heads, kv_heads, head_dim, block, keys, values, rows, tables, .. } = *op;
    assert!(kv_heads > 0 && heads % kv_heads == 0, "{op:?}: heads are no multiple of kv_heads");
    assert!(block > 0 && block.is_multiple_of(LANES), "{op:?}: blocks are no multiple of {LANES} tokens");
    assert_eq!(qkv.cols, (heads + 2 * kv_heads) * head_dim, "{qkv:?} for {op:?}");
    assert_eq!(
        (out.rows, out.cols, out.dtype),
        (qkv.rows, heads * head_dim, qkv.dtype),
        "{out:?} for {op:?}"
    );
    assert_eq!((rows.rows, rows.cols), (qkv.rows, 3), "{rows:?} for {op:?}");
    for cache in [keys, values] {
        assert_eq!(cache.cols, kv_heads * head_dim * block, "{cache:?} for {op:?}");
        assert_eq!((cache.rows, cache.dtype), (keys.rows, keys.dtype), "{values:?} beside {keys:?}");
    }
    assert_disjoint(&[out, keys, values], &[qkv, rows, tables]);
    // SAFETY: nobody writes them (checked above).
    let (rows, ids) = unsafe { (cpu.arena.slice::<u32>(rows), cpu.arena.slice::<u32>(tables)) };
    let tokens: Vec<Token<'_>> = rows
        .as_chunks()
        .0
        .iter()
        .map(|&[table, position, seen]| {
            let (position, seen) = (position as usize, seen as usize);
            let table = &ids[table as usize * tables.cols..][..tables.cols];
            let longest = seen.max(position + 1);
            assert!(seen > 0 && longest <= tables.cols * block, "{position}, {seen} keys seen in {tables:?}");
            let used = &table[..longest.div_ceil(block)];
            assert!(used.iter().all(|&id| (id as usize) < keys.rows), "a block beyond {keys:?} in {used:?}");
            Token { table: used, position, seen }
        })
        .collect();
    for_act!(qkv.dtype, T => for_act!(keys.dtype, C => {
        append::<T, C>(cpu, op, qkv, &tokens);
        attend::<T, C>(cpu, op, qkv, out, &tokens);
    }));
}

/// One row of the call.
struct Token<'a> {
    table: &'a [u32],
    position: usize,
    seen: usize,
}

/// Copies the new tokens' keys and values into their blocks.
fn append<T: Act, C: Cached>(cpu: &mut Cpu, op: &PagedAttention, qkv: View, tokens: &[Token<'_>]) {
    let PagedAttention { kv_heads, head_dim, block, .. } = *op;
    let (isa, group) = (cpu.isa, op.heads / kv_heads);
    // SAFETY: the views do not overlap (checked by the caller); one thread.
    let (from, keys, values) = unsafe {
        (cpu.arena.slice::<T>(qkv), cpu.arena.shared::<C>(op.keys), cpu.arena.shared::<C>(op.values))
    };
    for (row, token) in tokens.iter().enumerate() {
        let (id, at) = (token.table[token.position / block] as usize, token.position % block);
        for head in 0..kv_heads {
            let first = row * qkv.cols + (head * (group + 2) + group) * head_dim;
            let (key, value) = from[first..first + 2 * head_dim].split_at(head_dim);
            let to = (id * kv_heads + head) * head_dim * block;
            let cells = to..to + head_dim * block;
            // SAFETY: as above.
            let (keys, values) = unsafe { (keys.range(cells.clone()), values.range(cells)) };
            let mut to = keys[at..].iter_mut().step_by(block);
            for key in key.chunks(LANES) {
                to.by_ref().zip(narrow::<T, C>(isa, key)).take(key.len()).for_each(|(to, key)| *to = key);
            }
            for (to, value) in values[at * head_dim..].chunks_mut(LANES).zip(value.chunks(LANES)) {
                to[..value.len()].copy_from_slice(&narrow::<T, C>(isa, value)[..value.len()]);
            }
        }
    }
}

/// At most sixteen numbers as the cache holds them.
#[inline(always)]
fn narrow<T: Act, C: Cached>(isa: Isa, from: &[T]) -> [C; LANES] {
    let mut numbers = [0.0f32; LANES];
    numbers.iter_mut().zip(from).for_each(|(number, from)| *number = from.to_f32());
    #[cfg(target_arch = "x86_64")]
    if matches!(isa, Isa::Amx | Isa::Avx512 | Isa::Avx512Bf16) {
        // SAFETY: the machine has the instructions.
        return unsafe { C::narrow(&numbers) };
    }
    let _ = isa;
    numbers.map(C::from_f32)
}

/// The keys and values of one kv head.
struct Head<'a, T> {
    keys: &'a [T],
    values: &'a [T],
    /// Elements of a block's part of one kv head.
    part: usize,
    kv_heads: usize,
    kv_head: usize,
    block: usize,
    head_dim: usize,
}

/// Some queries over the same table.
struct Queries<'a> {
    table: &'a [u32],
    count: usize,
    /// Keys that each sees.
    seen: [usize; QUERIES],
}

fn attend<T: Act, C: Cached>(cpu: &mut Cpu, op: &PagedAttention, qkv: View, out: View, tokens: &[Token<'_>]) {
    let PagedAttention { heads, kv_heads, head_dim, block, scale, .. } = *op;
    let group = heads / kv_heads;
    let longest = tokens.iter().map(|token| token.seen).max().unwrap_or(0);
    let floats = worker_floats(longest, head_dim);
    // Neighbouring rows of one table, (first row, rows): their heads fill whole tiles together.
    let per_run = QUERIES >> group.trailing_zeros().min(QUERIES.trailing_zeros());
    let mut runs: Vec<(usize, usize)> = Vec::with_capacity(tokens.len());
    for (row, token) in tokens.iter().enumerate() {
        match runs.last_mut() {
            Some((first, count))
                if *count < per_run && std::ptr::eq(tokens[*first].table.as_ptr(), token.table.as_ptr()) =>
            {
                *count += 1;
            }
            _ => runs.push((row, 1)),
        }
    }
    // SAFETY: the output overlaps no input (checked by the caller); items write disjoint parts; workers have
    // disjoint parts of the scratch memory.
    let (from, keys, values, to, scratch) = unsafe {
        (
            cpu.arena.slice::<T>(qkv),
            cpu.arena.slice::<C>(op.keys),
            cpu.arena.slice::<C>(op.values),
            cpu.arena.shared::<T>(out),
            cpu.scratch.floats(cpu.threads() * floats),
        )
    };
    let isa = cpu.isa;
    cpu.team.run(runs.len() * kv_heads, &|worker, item| {
        // SAFETY: this worker's part.
        let scratch = unsafe { scratch.range(worker * floats..(worker + 1) * floats) };
        let ((first, count), kv_head) = (runs[item / kv_heads], item % kv_heads);
        let part = head_dim * block;
        let head = Head { keys, values, part, kv_heads, kv_head, block, head_dim };
        let table = tokens[first..first + count].iter().map(|t| t.table).max_by_key(|t| t.len());
        let table = table.expect("a run has rows");
        // Query q of the run: row q / group, head q % group of the kv head's.
        for start in (0..count * group).step_by(QUERIES) {
            let mut queries = Queries { table, count: (count * group - start).min(QUERIES), seen: [0; 8] };
            let (scores, rest) = scratch.split_at_mut(QUERIES * longest.next_multiple_of(WIDE));
            let (vectors, outputs) = rest.split_at_mut(QUERIES * head_dim.next_multiple_of(LANES));
            let lanes = queries.count.next_power_of_two();
            vectors[..lanes * head_dim].fill(0.0);
            for q in 0..queries.count {
                let (row, r) = (first + (start + q) / group, (start + q) % group);
                queries.seen[q] = tokens[row].seen;
                let at = row * qkv.cols + (kv_head * (group + 2) + r) * head_dim;
                for (d, x) in from[at..at + head_dim].iter().enumerate() {
                    vectors[d * lanes + q] = x.to_f32() * scale;
                }
            }
            match lanes {
                1 => tile::<C, 1, 4>(isa, &head, &queries, vectors, scores, outputs),
                2 => tile::<C, 2, 4>(isa, &head, &queries, vectors, scores, outputs),
                4 => tile::<C, 4, 4>(isa, &head, &queries, vectors, scores, outputs),
                _ => tile::<C, 8, 2>(isa, &head, &queries, vectors, scores, outputs),
            }
            for q in 0..queries.count {
                let (row, r) = (first + (start + q) / group, (start + q) % group);
                let at = row * out.cols + (kv_head * group + r) * head_dim;
                // SAFETY: this item's part.
                store(unsafe { to.range(at..at + head_dim) }, &outputs[q * head_dim..]);
            }
        }
    });
}

fn store<T: Act>(to: &mut [T], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = T::from_f32(from));
}

/// `R` queries, `V` vectors side by side. `vectors` `[head_dim][R]`, `scores` `[R][longest]`, `outputs`
/// `[R][head_dim]`.
fn tile<C: Cached, const R: usize, const V: usize>(
    isa: Isa,
    head: &Head<'_, C>,
    queries: &Queries<'_>,
    vectors: &[f32],
    scores: &mut [f32],
    outputs: &mut [f32],
) {
    match isa {
        // On x86-64 without FMA a fused multiply-add would call a library.
        Isa::Portable => {
            body::<C, R, V, { cfg!(target_arch = "aarch64") }, false>(
                head, queries, vectors, scores, outputs,
            );
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => isa.vectorize(
            #[inline(always)]
            || body::<C, R, V, true, false>(head, queries, vectors, scores, outputs),
        ),
        #[cfg(target_arch = "x86_64")]
        Isa::Amx | Isa::Avx512 | Isa::Avx512Bf16 => isa.vectorize(
            #[inline(always)]
            || body::<C, R, V, true, true>(head, queries, vectors, scores, outputs),
        ),
    }
}

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `AVX512`: the machine has it.
#[inline(always)]
fn body<C: Cached, const R: usize, const V: usize, const FUSED: bool, const AVX512: bool>(
    head: &Head<'_, C>,
    queries: &Queries<'_>,
    vectors: &[f32],
    scores: &mut [f32],
    outputs: &mut [f32],
) {
    let seen = queries.seen[..queries.count].iter().copied().max().unwrap_or(0);
    let stride = seen.next_multiple_of(WIDE);
    let whole = seen.next_multiple_of(LANES);
    let mut first = 0;
    while first < whole {
        if whole - first >= V * LANES {
            score::<C, R, V, FUSED, AVX512>(head, queries.table, vectors, first, scores, stride);
            first += V * LANES;
        } else {
            score::<C, R, 1, FUSED, AVX512>(head, queries.table, vectors, first, scores, stride);
            first += LANES;
        }
    }
    let mut totals = [1.0f32; R];
    for (q, total) in totals.iter_mut().enumerate() {
        let row = &mut scores[q * stride..][..whole];
        *total = probabilities(row, queries.seen[q].clamp(1, seen));
    }
    let mut first = 0;
    while first < head.head_dim {
        let rest = head.head_dim - first;
        if rest >= V * LANES {
            weigh::<C, R, V, FUSED, AVX512>(
                head,
                queries.table,
                scores,
                stride,
                seen,
                first,
                &totals,
                outputs,
            );
            first += V * LANES;
        } else if rest >= LANES {
            weigh::<C, R, 1, FUSED, AVX512>(
                head,
                queries.table,
                scores,
                stride,
                seen,
                first,
                &totals,
                outputs,
            );
            first += LANES;
        } else {
            weigh_one::<C, FUSED>(head, queries, scores, stride, first, &totals, outputs);
            first += 1;
        }
    }
}

/// Scores of the keys `first..first + V · LANES`.
#[inline(always)]
fn score<C: Cached, const R: usize, const V: usize, const FUSED: bool, const AVX512: bool>(
    head: &Head<'_, C>,
    table: &[u32],
    vectors: &[f32],
    first: usize,
    scores: &mut [f32],
    stride: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if AVX512 {
        // SAFETY: the machine has the instructions.
        return unsafe { avx512::score::<C, R, V>(head, table, vectors, first, scores, stride) };
    }
    let mut sums = [[[0.0f32; LANES]; V]; R];
    let mut parts: [&[C]; V] = [&[]; V];
    for (v, part) in parts.iter_mut().enumerate() {
        let key = first + v * LANES;
        *part = &head.part_of(head.keys, table[key / head.block])[key % head.block..];
    }
    for (d, query) in vectors.as_chunks::<R>().0[..head.head_dim].iter().enumerate() {
        for v in 0..V {
            let keys: [f32; LANES] = lanes(&parts[v][d * head.block..]);
            for r in 0..R {
                for l in 0..LANES {
                    sums[r][v][l] = multiply_add::<FUSED>(query[r], keys[l], sums[r][v][l]);
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (v, sums) in sums.iter().enumerate() {
            scores[r * stride + first + v * LANES..][..LANES].copy_from_slice(sums);
        }
    }
}

#[inline(always)]
fn lanes<C: Act>(from: &[C]) -> [f32; LANES] {
    let from: &[C; LANES] = from.first_chunk().expect("a block's row is whole vectors");
    // A plain loop: what `from_fn` calls is compiled without this function's instructions.
    let mut values = [0.0f32; LANES];
    for l in 0..LANES {
        values[l] = from[l].to_f32();
    }
    values
}

/// From scores to `exp(score - maximum)`, 0 for those not seen; their sum.
#[inline(always)]
fn probabilities(scores: &mut [f32], seen: usize) -> f32 {
    scores[seen..].fill(f32::NEG_INFINITY);
    let (vectors, _) = scores.as_chunks_mut::<LANES>();
    let mut highest = [f32::NEG_INFINITY; LANES];
    for vector in &*vectors {
        for l in 0..LANES {
            highest[l] = if vector[l] > highest[l] { vector[l] } else { highest[l] };
        }
    }
    let highest = highest.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0f32; LANES];
    for vector in vectors {
        for l in 0..LANES {
            vector[l] = math::exp(vector[l] - highest);
            sums[l] += vector[l];
        }
    }
    sums.iter().sum()
}

/// Output elements `first..first + V · LANES` of all queries.
#[inline(always)]
fn weigh<C: Cached, const R: usize, const V: usize, const FUSED: bool, const AVX512: bool>(
    head: &Head<'_, C>,
    table: &[u32],
    scores: &[f32],
    stride: usize,
    seen: usize,
    first: usize,
    totals: &[f32; R],
    outputs: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if AVX512 {
        // SAFETY: the machine has the instructions.
        return unsafe {
            avx512::weigh::<C, R, V>(head, table, scores, stride, seen, first, totals, outputs)
        };
    }
    let mut sums = [[[0.0f32; LANES]; V]; R];
    for (index, &id) in table.iter().enumerate().take(seen.div_ceil(head.block)) {
        let start = index * head.block;
        let count = (seen - start).min(head.block);
        let part = head.part_of(head.values, id);
        let mut weights: [&[f32]; R] = [&[]; R];
        for (r, weights) in weights.iter_mut().enumerate() {
            *weights = &scores[r * stride + start..][..count];
        }
        for (at, row) in part.chunks_exact(head.head_dim).take(count).enumerate() {
            for v in 0..V {
                let values: [f32; LANES] = lanes(&row[first + v * LANES..]);
                for r in 0..R {
                    for l in 0..LANES {
                        sums[r][v][l] = multiply_add::<FUSED>(weights[r][at], values[l], sums[r][v][l]);
                    }
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (v, sums) in sums.iter().enumerate() {
            let to = &mut outputs[r * head.head_dim + first + v * LANES..][..LANES];
            to.iter_mut().zip(sums).for_each(|(to, sum)| *to = sum / totals[r]);
        }
    }
}

/// Output element `d` of all queries, where no vector fits.
#[inline(always)]
fn weigh_one<C: Act, const FUSED: bool>(
    head: &Head<'_, C>,
    queries: &Queries<'_>,
    scores: &[f32],
    stride: usize,
    d: usize,
    totals: &[f32],
    outputs: &mut [f32],
) {
    for q in 0..queries.count {
        let mut sum = 0.0f32;
        for (key, &p) in scores[q * stride..][..queries.seen[q]].iter().enumerate() {
            let part = head.part_of(head.values, queries.table[key / head.block]);
            sum = multiply_add::<FUSED>(p, part[key % head.block * head.head_dim + d].to_f32(), sum);
        }
        outputs[q * head.head_dim + d] = sum / totals[q];
    }
}

impl<'a, T> Head<'a, T> {
    /// This kv head's part of a block.
    #[inline(always)]
    fn part_of(&self, cache: &'a [T], id: u32) -> &'a [T] {
        &cache[(id as usize * self.kv_heads + self.kv_head) * self.part..][..self.part]
    }
}
