//! Rows of activations rounded to int8 at random: a measure of what rounding them to nearest may do.
//!
//! ```text
//! group of 32, step Δ = max |x| / 127:     x = (c + f) · Δ  ──▶  (c + 1) · Δ with probability f, else c · Δ
//! ```
//! The mean is x. The variance is f · (1 - f) · Δ², over all f Δ² / 6: twice that of rounding to nearest, Δ² / 12. So
//! what a network gives with such roundings lies √2 times as far from the exact result as with roundings to nearest,
//! as long as errors are small enough to add up; no size of a network or of its values enters.

use super::memory::Matrix;
use crate::philox::Stream;

/// Elements that share a step, as in the blocks of ggml.
const GROUP: usize = 32;
/// Steps on either side of zero.
const STEPS: f64 = 127.0;

#[derive(Debug)]
pub(super) struct Rounding {
    stream: Stream,
    /// Numbers drawn so far.
    drawn: u64,
}

impl Rounding {
    pub(super) fn new(seed: u64) -> Self {
        Self { stream: Stream::named(seed, "rounding of activations"), drawn: 0 }
    }

    pub(super) fn round(&mut self, rows: &mut Matrix) {
        let cols = rows.cols;
        for row in rows.values.chunks_exact_mut(cols) {
            row.chunks_mut(GROUP).for_each(|group| self.round_group(group));
        }
    }

    fn round_group(&mut self, group: &mut [f64]) {
        let step = group.iter().fold(0.0f64, |largest, x| largest.max(x.abs())) / STEPS;
        if step == 0.0 {
            return;
        }
        for x in group {
            let steps = *x / step;
            let share = f64::from(self.stream.uniform(self.drawn));
            self.drawn += 1;
            *x = step * (steps + share).floor();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rounded_value_is_right_on_average_and_its_variance_is_a_sixth_of_a_squared_step() {
        let (rows, cols) = (4000, 40);
        let value = |i: usize| (i % cols) as f64 * 0.37 - 5.3;
        let mut matrix = Matrix { rows, cols, values: (0..rows * cols).map(value).collect() };
        Rounding::new(3).round(&mut matrix);
        let (mut variance, mut expected) = (0.0, 0.0);
        for col in 0..cols {
            let group = (col / GROUP * GROUP..cols.min((col / GROUP + 1) * GROUP)).map(value);
            let step = group.fold(0.0f64, |largest, x| largest.max(x.abs())) / STEPS;
            let errors = (0..rows).map(|row| matrix.values[row * cols + col] - value(col));
            let (sum, squares) = errors.fold((0.0, 0.0), |(s, q), e| (s + e, q + e * e));
            // A mean of n errors of variance at most Δ² / 4: five standard deviations.
            let allowed = 5.0 * step / 2.0 / (rows as f64).sqrt();
            assert!((sum / rows as f64).abs() <= allowed, "column {col}");
            variance += squares / rows as f64;
            expected += step * step / 6.0;
        }
        // f is not quite uniform over forty columns.
        assert!((0.7..1.3).contains(&(variance / expected)), "{variance} of {expected}");
    }
}
