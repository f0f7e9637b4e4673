//! Forward: the output and log-sum-exp of one block of queries against all keys it sees, online.

use super::super::isa::Isa;
use super::super::math::{self, Act};
use super::engine::Engine;
use super::{Carver, HeadDropout, KEYS, Limits, Matrix, MatrixMut, QUERIES, VECTOR, carved, lanes};

fn sizes(depth: usize, keys: usize, head_dim: usize) -> [usize; 7] {
    let (units, padded) = (head_dim.div_ceil(depth), keys.next_multiple_of(KEYS));
    [
        padded * units,
        padded / depth * head_dim,
        units * QUERIES,
        KEYS * QUERIES,
        KEYS / depth * QUERIES,
        head_dim.next_multiple_of(VECTOR) * QUERIES,
        KEYS * QUERIES,
    ]
}

/// Work memory of one worker for `keys` keys.
pub(super) fn forward_floats(depth: usize, keys: usize, head_dim: usize) -> usize {
    carved(&sizes(depth, keys, head_dim))
}

/// Packed keys and values of a (sequence, kv head), and work memory for a block of queries.
pub(super) struct Forward<'a, E, U> {
    engine: E,
    limits: Limits,
    /// Left operand `[keys][units]`.
    keys: &'a mut [U],
    /// For each block of keys a left operand `[head_dim][KEYS / DEPTH]`.
    values: &'a mut [U],
    /// Right operand `[units][QUERIES]`.
    queries: &'a mut [U],
    scores: &'a mut [f32],
    /// Right operand `[KEYS / DEPTH][QUERIES]`.
    probabilities: &'a mut [U],
    /// `[head_dim][QUERIES]`.
    out: &'a mut [f32],
    factors: &'a mut [f32],
}

/// The running softmax of a block's queries.
struct Softmax {
    maximum: [f32; QUERIES],
    sum: [f32; QUERIES],
    /// What earlier results are multiplied with after the maximum grew.
    rescale: [f32; QUERIES],
}

impl<'a, E, U: bytemuck::Pod> Forward<'a, E, U> {
    /// Packs the first `visible` keys and values.
    pub(super) fn new<T: Act>(
        engine: E,
        keys: Matrix<'_, T>,
        values: Matrix<'_, T>,
        limits: Limits,
        visible: usize,
        scratch: &'a mut [f32],
    ) -> Self
    where
        E: Engine<T, Unit = U>,
    {
        let [key_units, value_units, query_units, scores, probability_units, out, factors] =
            sizes(E::DEPTH, limits.keys, keys.cols);
        let mut carver = Carver { rest: scratch };
        let work = Self {
            engine,
            limits,
            keys: carver.take(key_units),
            values: carver.take(value_units),
            queries: carver.take(query_units),
            scores: carver.take(scores),
            probabilities: carver.take(probability_units),
            out: carver.take(out),
            factors: carver.take(factors),
        };
        let units = keys.cols.div_ceil(E::DEPTH);
        engine.rows(keys, 0, &mut work.keys[..visible.next_multiple_of(KEYS) * units]);
        let block = keys.cols * KEYS / E::DEPTH;
        for (i, to) in work.values.chunks_exact_mut(block).enumerate().take(visible.div_ceil(KEYS)) {
            engine.columns(values, i * KEYS, to);
        }
        work
    }

    /// The queries from row `first` on: writes their rows of `out` and their elements of `lse`.
    pub(super) fn block<T: Act>(
        &mut self,
        queries: Matrix<'_, T>,
        first: usize,
        scale: f32,
        dropout: Option<HeadDropout>,
        out: MatrixMut<'_, T>,
        lse: Option<MatrixMut<'_, f32>>,
    ) where
        E: Engine<T, Unit = U>,
    {
        let (engine, isa) = (self.engine, self.engine.isa());
        let (head_dim, units) = (queries.cols, queries.cols.div_ceil(E::DEPTH));
        engine.rows_across(queries, first, self.queries);
        let limits = self.limits.lanes(first, queries.rows);
        let (fewest, most) = (limits[0] as usize, limits[QUERIES - 1] as usize);
        let mut softmax =
            Softmax { maximum: [f32::NEG_INFINITY; QUERIES], sum: [0.0; QUERIES], rescale: [0.0; QUERIES] };
        let sums = &mut self.out[..head_dim * QUERIES];
        for key in (0..most).step_by(KEYS) {
            let keys = &self.keys[key * units..(key + KEYS) * units];
            engine.product(keys, self.queries, self.scores, units, QUERIES, false);
            let mask = (key + KEYS > fewest).then_some(&limits);
            isa.vectorize(
                #[inline(always)]
                || softmax.add(self.scores, scale, key, mask),
            );
            if let Some(dropout) = dropout {
                dropout.fill(isa, first, key, self.factors);
                self.scores.iter_mut().zip(&*self.factors).for_each(|(s, f)| *s *= f);
            }
            engine.tile_right(self.scores, self.probabilities);
            if key > 0 {
                isa.vectorize(
                    #[inline(always)]
                    || softmax.rescale(sums),
                );
            }
            let block = head_dim * KEYS / E::DEPTH;
            let values = &self.values[key / KEYS * block..(key / KEYS + 1) * block];
            engine.product(values, self.probabilities, sums, KEYS / E::DEPTH, QUERIES, key > 0);
        }
        let factors = softmax.sum.map(|sum| 1.0 / sum);
        let count = (queries.rows - first).min(QUERIES);
        store(isa, self.out, &factors, first, count, out);
        if let Some(lse) = lse {
            for i in 0..count {
                // SAFETY: this element belongs to this block.
                unsafe { lse.row(first + i) }.fill(softmax.maximum[i] + softmax.sum[i].ln());
            }
        }
    }
}

impl Softmax {
    /// Turns a tile of products into `exp(score - maximum)`.
    #[inline(always)]
    fn add(&mut self, tile: &mut [f32], scale: f32, first_key: usize, limits: Option<&[u32; QUERIES]>) {
        let mut maximum = self.maximum;
        for row in 0..KEYS {
            let scores = lanes(tile, row);
            if let Some(limits) = limits {
                let key = (first_key + row) as u32;
                for i in 0..QUERIES {
                    let score = scores[i] * scale;
                    scores[i] = if key < limits[i] { score } else { f32::NEG_INFINITY };
                    maximum[i] = if scores[i] > maximum[i] { scores[i] } else { maximum[i] };
                }
            } else {
                for i in 0..QUERIES {
                    scores[i] *= scale;
                    maximum[i] = if scores[i] > maximum[i] { scores[i] } else { maximum[i] };
                }
            }
        }
        for i in 0..QUERIES {
            self.rescale[i] = math::exp(self.maximum[i] - maximum[i]);
            self.sum[i] *= self.rescale[i];
        }
        self.maximum = maximum;
        let mut sum = self.sum;
        for row in 0..KEYS {
            let scores = lanes(tile, row);
            for i in 0..QUERIES {
                scores[i] = math::exp(scores[i] - maximum[i]);
                sum[i] += scores[i];
            }
        }
        self.sum = sum;
    }

    #[inline(always)]
    fn rescale(&self, sums: &mut [f32]) {
        if self.rescale.iter().all(|&factor| factor == 1.0) {
            return;
        }
        for row in 0..sums.len() / QUERIES {
            lanes(sums, row).iter_mut().zip(&self.rescale).for_each(|(s, f)| *s *= f);
        }
    }
}

/// `to[first + q][col] = tile[col][q] · factors[q]` for the first `count` queries.
pub(super) fn store<T: Act>(
    isa: Isa,
    tile: &[f32],
    factors: &[f32; QUERIES],
    first: usize,
    count: usize,
    to: MatrixMut<'_, T>,
) {
    let mut square = [0.0f32; VECTOR * VECTOR];
    for start in (0..count).step_by(VECTOR) {
        for col in (0..to.cols).step_by(VECTOR) {
            for (i, square) in square.chunks_exact_mut(VECTOR).enumerate() {
                let values = &tile[(col + i) * QUERIES + start..][..VECTOR];
                for ((s, v), f) in square.iter_mut().zip(values).zip(&factors[start..]) {
                    *s = v * f;
                }
            }
            super::transpose::square(isa, bytemuck::cast_mut(&mut square));
            let width = (to.cols - col).min(VECTOR);
            for (i, square) in square.chunks_exact(VECTOR).enumerate().take(count - start) {
                // SAFETY: rows of this block belong to this item; one slice at a time.
                let row = &mut unsafe { to.row(first + start + i) }[col..col + width];
                isa.vectorize(
                    #[inline(always)]
                    || math::narrow(isa, &square[..width], row),
                );
            }
        }
    }
}
