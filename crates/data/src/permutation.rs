//! A keyed bijection on `0..size`: a shuffle that stores nothing.
//!
//! An alternating Feistel network on the smallest power of two ≥ `size`; values that land outside walk on until they
//! fall inside (cycle walking, fewer than two rounds on average), which keeps it a bijection on `0..size`:
//!
//! ```text
//! left ^= F(round, right);  right ^= F(round, left);  …
//! ```

#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    size: u64,
    key: u64,
    left_bits: u32,
    right_bits: u32,
}

const ROUNDS: u64 = 6;

impl Permutation {
    /// `key`: any words; different words give unrelated orders. `size` at least 1.
    #[must_use]
    pub fn new(size: u64, key: &[u64]) -> Self {
        let bits = u64::BITS - size.saturating_sub(1).leading_zeros();
        let key = key.iter().fold(0x9e37_79b9_7f4a_7c15, |state, &word| mix(state ^ mix(word)));
        Self { size, key, left_bits: bits / 2, right_bits: bits - bits / 2 }
    }

    /// The place of item `index`, both below the size.
    #[must_use]
    pub fn apply(&self, index: u64) -> u64 {
        debug_assert!(index < self.size);
        let mut value = index;
        loop {
            value = self.encrypt(value);
            if value < self.size {
                return value;
            }
        }
    }

    fn encrypt(&self, value: u64) -> u64 {
        let (left_mask, right_mask) = (mask(self.left_bits), mask(self.right_bits));
        let (mut left, mut right) = ((value >> self.right_bits) & left_mask, value & right_mask);
        for round in 0..ROUNDS {
            left ^= mix(self.key ^ mix((right << 8) | (2 * round))) & left_mask;
            right ^= mix(self.key ^ mix((left << 8) | (2 * round + 1))) & right_mask;
        }
        (left << self.right_bits) | right
    }
}

fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// A bijection on 64-bit words in which every input bit moves every output bit (constants of MurmurHash3's variant 13).
pub(crate) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_place_is_taken_exactly_once(size in 1u64..3000, key in any::<[u64; 3]>()) {
            let permutation = Permutation::new(size, &key);
            let mut taken = vec![false; size as usize];
            for index in 0..size {
                let place = permutation.apply(index) as usize;
                prop_assert!(!std::mem::replace(&mut taken[place], true));
            }
        }

        #[test]
        fn huge_sizes_stay_in_range(size in 1u64..=1 << 62, key in any::<u64>(), part in 0.0f64..1.0) {
            let index = ((size as f64 * part) as u64).min(size - 1);
            prop_assert!(Permutation::new(size, &[key]).apply(index) < size);
        }
    }

    #[test]
    fn the_order_looks_random() {
        // Among n = 10,000 places, fixed points and unchanged neighbours are Poisson with mean 1: ten of either has
        // probability below 1e-6.
        let permutation = Permutation::new(10_000, &[7, 0, 0]);
        let order: Vec<u64> = (0..10_000).map(|index| permutation.apply(index)).collect();
        let fixed = order.iter().enumerate().filter(|&(index, &place)| index as u64 == place).count();
        let neighbours = order.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
        assert!(fixed < 10 && neighbours < 10, "{fixed} fixed, {neighbours} neighbours");
        // The mean place of the first half is 5,000 with standard deviation 10000/√12/√5000·√½ ≈ 29.
        let mean = order[..5000].iter().sum::<u64>() as f64 / 5000.0;
        assert!((mean - 4999.5).abs() < 6.0 * 29.0, "{mean}");
    }

    #[test]
    fn another_epoch_is_another_order() {
        let order =
            |epoch| (0..100).map(|i| Permutation::new(100, &[1, 0, epoch]).apply(i)).collect::<Vec<_>>();
        assert_ne!(order(0), order(1));
    }
}
