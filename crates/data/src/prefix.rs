//! Where the visible prefix of a prefix-LM sample ends: a pure function of seed and sample number.

use crate::permutation::mix;

/// Even over `0..sequence`; the first so many tokens see one another, the rest see only what is before them.
#[must_use]
pub fn prefix_length(seed: u64, sample: u64, sequence: usize) -> usize {
    let word = mix(mix(seed ^ 0x7072_6566_6978_2d6c).wrapping_add(sample));
    // The high half of the product maps 64 random bits evenly onto the range.
    ((u128::from(word) * sequence as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_fill_the_range_evenly() {
        let mut counts = [0u32; 8];
        for sample in 0..8000 {
            counts[prefix_length(3, sample, 8)] += 1;
        }
        // Binomial with mean 1000 and standard deviation 30.
        assert!(counts.iter().all(|count| (820..1180).contains(count)), "{counts:?}");
    }
}
