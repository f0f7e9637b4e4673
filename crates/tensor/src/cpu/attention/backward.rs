//! Backward: scores are made again block by block, `P = exp(S - lse)`, `dS = P ∘ (dP - rowsum(dO ∘ O))`.

use super::super::Cpu;
use super::super::math::{self, Act};
use super::engine::Engine;
use super::{
    Carver, HeadDropout, KEYS, Limits, Matrix, MatrixMut, QUERIES, VECTOR, carved, forward::store, lanes,
};
use crate::{AttentionShape, View};

#[derive(Clone, Copy)]
pub(super) struct Views {
    pub(super) d_out: View,
    pub(super) qkv: View,
    pub(super) out: View,
    pub(super) lse: View,
    pub(super) d_qkv: View,
}

fn sizes(depth: usize, seq: usize, head_dim: usize) -> [usize; 18] {
    let (units, width) = (head_dim.div_ceil(depth), head_dim.next_multiple_of(VECTOR));
    let (keys, queries) = (seq.next_multiple_of(KEYS), seq.next_multiple_of(QUERIES));
    let tile = KEYS * QUERIES;
    [
        keys * units,
        keys * units,
        keys / depth * head_dim,
        queries * units,
        queries / depth * width,
        queries * units,
        queries / depth * width,
        queries,
        queries,
        queries * width,
        keys * width,
        keys * width,
        tile,
        tile,
        tile / depth,
        tile / depth,
        tile / depth,
        tile,
    ]
}

/// Work memory of one worker.
pub(super) fn floats(depth: usize, seq: usize, head_dim: usize) -> usize {
    carved(&sizes(depth, seq, head_dim))
}

pub(super) fn run<T: Act, E: Engine<T>>(cpu: &mut Cpu, engine: E, shape: &AttentionShape, views: Views) {
    let AttentionShape { seq, heads, kv_heads, head_dim, .. } = *shape;
    let limits = cpu.limits(shape);
    let floats = floats(E::DEPTH, seq, head_dim);
    // SAFETY: the output overlaps no input (checked by the caller); items write disjoint parts; workers have
    // disjoint parts of the scratch memory.
    let (qkv, d_out, out, lse, d_qkv, scratch) = unsafe {
        (
            cpu.arena.slice::<T>(views.qkv),
            cpu.arena.slice::<T>(views.d_out),
            cpu.arena.slice::<T>(views.out),
            cpu.arena.slice::<f32>(views.lse),
            cpu.arena.shared::<T>(views.d_qkv),
            cpu.scratch.floats(cpu.threads() * floats),
        )
    };
    let group = heads / kv_heads;
    cpu.team.run(shape.batch * kv_heads, &|worker, item| {
        let _set_up = engine.set_up();
        let (sequence, kv_head) = (item / kv_heads, item % kv_heads);
        // SAFETY: this worker's part.
        let scratch = unsafe { scratch.range(worker * floats..(worker + 1) * floats) };
        let (first_row, stride) = (sequence * seq, views.qkv.cols);
        let first = |part: usize| first_row * stride + (kv_head * (group + 2) + part) * head_dim;
        let read = |part| Matrix { values: qkv, first: first(part), stride, rows: seq, cols: head_dim };
        let write = |part| MatrixMut { values: d_qkv, first: first(part), stride, cols: head_dim };
        let mut work =
            Backward::new(engine, read(group), read(group + 1), limits(sequence), shape.scale, scratch);
        for r in 0..group {
            let head = kv_head * group + r;
            let stride = views.out.cols;
            let first = first_row * stride + head * head_dim;
            let of = |values| Matrix { values, first, stride, rows: seq, cols: head_dim };
            let lse =
                Matrix { values: lse, first: first_row * heads + head, stride: heads, rows: seq, cols: 1 };
            let dropout = shape.dropout.map(|d| HeadDropout::new(&d, seq, first_row, head));
            work.head(read(r), of(d_out), of(out), lse, dropout);
            work.store_queries(write(r));
        }
        work.store_keys(write(group), write(group + 1));
    });
}

/// Packed operands and sums of one (sequence, kv head); the query side of one head at a time.
struct Backward<'a, E, U> {
    engine: E,
    limits: Limits,
    scale: f32,
    seq: usize,
    head_dim: usize,
    /// `head_dim` as lanes.
    width: usize,
    /// Left operands `[keys][units]`.
    keys: &'a mut [U],
    values: &'a mut [U],
    /// For each block of keys a left operand `[head_dim][KEYS / DEPTH]`.
    key_columns: &'a mut [U],
    /// For each block of queries a right operand `[units][QUERIES]`, and one `[QUERIES / DEPTH][width]`.
    queries: &'a mut [U],
    query_columns: &'a mut [U],
    d_out: &'a mut [U],
    d_out_columns: &'a mut [U],
    /// For each query.
    lse: &'a mut [f32],
    /// `rowsum(dO ∘ O)`.
    dots: &'a mut [f32],
    /// For each block of queries `[width][QUERIES]`.
    d_queries: &'a mut [f32],
    /// `[keys][width]`.
    d_keys: &'a mut [f32],
    d_values: &'a mut [f32],
    /// Tiles `[KEYS][QUERIES]`.
    scores: &'a mut [f32],
    d_scores: &'a mut [f32],
    /// Tiles as operands.
    probabilities: &'a mut [U],
    d_scores_left: &'a mut [U],
    d_scores_right: &'a mut [U],
    factors: &'a mut [f32],
}

impl<'a, E, U: bytemuck::Pod> Backward<'a, E, U> {
    fn new<T: Act>(
        engine: E,
        keys: Matrix<'_, T>,
        values: Matrix<'_, T>,
        limits: Limits,
        scale: f32,
        scratch: &'a mut [f32],
    ) -> Self
    where
        E: Engine<T, Unit = U>,
    {
        let (seq, head_dim) = (keys.rows, keys.cols);
        let s = sizes(E::DEPTH, seq, head_dim);
        let mut carver = Carver { rest: scratch };
        let work = Self {
            engine,
            limits,
            scale,
            seq,
            head_dim,
            width: head_dim.next_multiple_of(VECTOR),
            keys: carver.take(s[0]),
            values: carver.take(s[1]),
            key_columns: carver.take(s[2]),
            queries: carver.take(s[3]),
            query_columns: carver.take(s[4]),
            d_out: carver.take(s[5]),
            d_out_columns: carver.take(s[6]),
            lse: carver.take(s[7]),
            dots: carver.take(s[8]),
            d_queries: carver.take(s[9]),
            d_keys: carver.take(s[10]),
            d_values: carver.take(s[11]),
            scores: carver.take(s[12]),
            d_scores: carver.take(s[13]),
            probabilities: carver.take(s[14]),
            d_scores_left: carver.take(s[15]),
            d_scores_right: carver.take(s[16]),
            factors: carver.take(s[17]),
        };
        engine.rows(keys, 0, work.keys);
        engine.rows(values, 0, work.values);
        for (i, to) in work.key_columns.chunks_exact_mut(head_dim * KEYS / E::DEPTH).enumerate() {
            engine.columns(keys, i * KEYS, to);
        }
        work.d_keys.fill(0.0);
        work.d_values.fill(0.0);
        work
    }

    /// Goes through all visible blocks of one query head.
    fn head<T: Act>(
        &mut self,
        queries: Matrix<'_, T>,
        d_out: Matrix<'_, T>,
        out: Matrix<'_, T>,
        lse: Matrix<'_, f32>,
        dropout: Option<HeadDropout>,
    ) where
        E: Engine<T, Unit = U>,
    {
        self.pack_queries(queries, d_out);
        for query in 0..self.lse.len() {
            // Lanes beyond the last query get probability exp(-∞) = 0.
            (self.lse[query], self.dots[query]) =
                if query < self.seq { (lse.row(query)[0], 0.0) } else { (f32::INFINITY, 0.0) };
        }
        self.engine.isa().vectorize(
            #[inline(always)]
            || {
                for query in 0..self.seq {
                    self.dots[query] = math::dot(d_out.row(query), out.row(query));
                }
            },
        );
        self.d_queries.fill(0.0);
        for key in (0..self.seq).step_by(KEYS) {
            for query in (0..self.seq).step_by(QUERIES) {
                let limits = self.limits.lanes(query, self.seq);
                if (limits[QUERIES - 1] as usize) > key {
                    self.blocks::<T>(key, query, &limits, dropout);
                }
            }
        }
    }

    fn pack_queries<T: Act>(&mut self, queries: Matrix<'_, T>, d_out: Matrix<'_, T>)
    where
        E: Engine<T, Unit = U>,
    {
        let (across, along) = (self.head_dim.div_ceil(E::DEPTH) * QUERIES, QUERIES / E::DEPTH * self.width);
        for i in 0..self.seq.div_ceil(QUERIES) {
            let (first, rows, columns) =
                (i * QUERIES, i * across..(i + 1) * across, i * along..(i + 1) * along);
            self.engine.rows_across(queries, first, &mut self.queries[rows.clone()]);
            self.engine.rows_across(d_out, first, &mut self.d_out[rows]);
            self.engine.columns_across(queries, first, self.width, &mut self.query_columns[columns.clone()]);
            self.engine.columns_across(d_out, first, self.width, &mut self.d_out_columns[columns]);
        }
    }

    /// The five products of a block of keys and a block of queries.
    fn blocks<T: Act>(
        &mut self,
        key: usize,
        query: usize,
        limits: &[u32; QUERIES],
        dropout: Option<HeadDropout>,
    ) where
        E: Engine<T, Unit = U>,
    {
        let (engine, isa) = (self.engine, self.engine.isa());
        let (width, units) = (self.width, self.head_dim.div_ceil(E::DEPTH));
        let keys = key * units..(key + KEYS) * units;
        let across = query * units..(query + QUERIES) * units;
        let along = query / E::DEPTH * width..(query + QUERIES) / E::DEPTH * width;
        engine.product(
            &self.keys[keys.clone()],
            &self.queries[across.clone()],
            self.scores,
            units,
            QUERIES,
            false,
        );
        engine.product(&self.values[keys], &self.d_out[across], self.d_scores, units, QUERIES, false);
        let factors = dropout.map(|dropout| {
            dropout.fill(isa, query, key, self.factors);
            &*self.factors
        });
        let step = Step {
            scale: self.scale,
            key,
            limits: (key + KEYS > limits[0] as usize).then_some(limits),
            lse: self.lse[query..query + QUERIES].try_into().expect("a block of queries"),
            dots: self.dots[query..query + QUERIES].try_into().expect("a block of queries"),
            factors,
        };
        isa.vectorize(
            #[inline(always)]
            || step.run(self.scores, self.d_scores),
        );
        engine.tile_left(self.scores, self.probabilities);
        engine.tile_left(self.d_scores, self.d_scores_left);
        engine.tile_right(self.d_scores, self.d_scores_right);
        let sums = key * width..(key + KEYS) * width;
        let inner = QUERIES / E::DEPTH;
        let d_out = &self.d_out_columns[along.clone()];
        engine.product(self.probabilities, d_out, &mut self.d_values[sums.clone()], inner, width, true);
        engine.product(
            self.d_scores_left,
            &self.query_columns[along],
            &mut self.d_keys[sums],
            inner,
            width,
            true,
        );
        let block = self.head_dim * KEYS / E::DEPTH;
        let key_columns = &self.key_columns[key / KEYS * block..(key / KEYS + 1) * block];
        let d_queries = &mut self.d_queries[query * width..query * width + self.head_dim * QUERIES];
        engine.product(key_columns, self.d_scores_right, d_queries, KEYS / E::DEPTH, QUERIES, true);
    }

    fn store_queries<T: Act>(&self, to: MatrixMut<'_, T>)
    where
        E: Engine<T, Unit = U>,
    {
        for (i, tile) in self.d_queries.chunks_exact(self.width * QUERIES).enumerate() {
            let first = i * QUERIES;
            let count = (self.seq - first).min(QUERIES);
            store(self.engine.isa(), tile, &[self.scale; QUERIES], first, count, to);
        }
    }

    fn store_keys<T: Act>(&self, d_keys: MatrixMut<'_, T>, d_values: MatrixMut<'_, T>)
    where
        E: Engine<T, Unit = U>,
    {
        self.engine.isa().vectorize(
            #[inline(always)]
            || {
                for (to, from, scale) in [(d_keys, &self.d_keys, self.scale), (d_values, &self.d_values, 1.0)]
                {
                    for (row, from) in from.chunks_exact(self.width).enumerate().take(self.seq) {
                        // SAFETY: this head's part of the row belongs to this item; one slice at a time.
                        let to = unsafe { to.row(row) };
                        to.iter_mut().zip(from).for_each(|(t, f)| *t = T::from_f32(f * scale));
                    }
                }
            },
        );
    }
}

/// The element-wise part between the products of a block.
struct Step<'a> {
    scale: f32,
    key: usize,
    limits: Option<&'a [u32; QUERIES]>,
    lse: [f32; QUERIES],
    dots: [f32; QUERIES],
    factors: Option<&'a [f32]>,
}

impl Step<'_> {
    /// Turns products into probabilities (dropped out) and their gradients into score gradients.
    #[inline(always)]
    fn run(&self, scores: &mut [f32], d_scores: &mut [f32]) {
        for row in 0..KEYS {
            let (scores, d_scores) = (lanes(scores, row), lanes(d_scores, row));
            for i in 0..QUERIES {
                scores[i] = math::exp(scores[i] * self.scale - self.lse[i]);
            }
            if let Some(limits) = self.limits {
                let key = (self.key + row) as u32;
                for i in 0..QUERIES {
                    scores[i] = if key < limits[i] { scores[i] } else { 0.0 };
                }
            }
            if let Some(factors) = self.factors {
                let factors = &factors[row * QUERIES..(row + 1) * QUERIES];
                for i in 0..QUERIES {
                    d_scores[i] = scores[i] * (d_scores[i] * factors[i] - self.dots[i]);
                    scores[i] *= factors[i];
                }
            } else {
                for i in 0..QUERIES {
                    d_scores[i] = scores[i] * (d_scores[i] - self.dots[i]);
                }
            }
        }
    }
}
