//! Dropout factors of consecutive elements: one Philox block serves four of them.

use super::isa::Isa;
use crate::{Dropout, philox};

/// Philox blocks drawn at once, one per vector lane.
const LANES: usize = 16;

/// Writes the factors of `out.len()` elements of row `row` from column `col` on: [`Dropout::factor`].
pub(super) fn factors(isa: Isa, dropout: &Dropout, row: usize, col: usize, out: &mut [f32]) {
    let first = (dropout.first_row + row as u64) * dropout.cols_total + dropout.first_col + col as u64;
    isa.vectorize(
        #[inline(always)]
        || fill(dropout, first, out),
    );
}

#[inline(always)]
fn fill(dropout: &Dropout, first: u64, out: &mut [f32]) {
    let (threshold, keep) = (dropout.threshold(), 1.0 / (1.0 - dropout.rate));
    let mut done = 0;
    while done < out.len() {
        let index = first + done as u64;
        let skip = (index % 4) as usize;
        let words = blocks(dropout, index / 4);
        let count = (4 * LANES - skip).min(out.len() - done);
        for (factor, word) in out[done..done + count].iter_mut().zip(&words.as_flattened()[skip..]) {
            *factor = if *word < threshold { 0.0 } else { keep };
        }
        done += count;
    }
}

/// Blocks `first..first + LANES` of the stream, a block per row.
#[inline(always)]
fn blocks(dropout: &Dropout, first: u64) -> [[u32; 4]; LANES] {
    let stream = dropout.stream;
    let mut words = [[0; 4]; LANES];
    for (lane, word) in words.iter_mut().enumerate() {
        let index = first + lane as u64;
        *word = philox::block(
            [stream.seed as u32, (stream.seed >> 32) as u32],
            [index as u32, (index >> 32) as u32, stream.purpose as u32, (stream.purpose >> 32) as u32],
        );
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Kernel;

    #[test]
    fn factors_are_those_of_single_elements() {
        let isa = Isa::choose(Kernel::Auto).unwrap();
        let stream = philox::Stream::named(7, "dropout");
        let dropout = Dropout { rate: 0.3, stream, first_row: 3, first_col: 2, cols_total: 1_001 };
        let mut out = [9.0; 150];
        for col in 0..5 {
            factors(isa, &dropout, 5, col, &mut out);
            for (i, factor) in out.iter().enumerate() {
                assert_eq!(*factor, dropout.factor(5, col + i));
            }
        }
    }
}
