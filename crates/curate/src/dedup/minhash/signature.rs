//! MinHash signatures: of every hash function the least value over a document's shingles.
//!
//! ```text
//! signature[i] = min over shingles s of  ((a[i]·s + b[i]) mod 2⁶⁴) mod (2⁶¹ − 1)
//! ```
//!
//! Two documents agree in a place with the probability of their Jaccard similarity. The numbers are datatrove's, which
//! lets the product wrap at 2⁶⁴; parameters come from NumPy's `RandomState(seed)`.
//!
//! Nearly all values are larger than the minimum so far. Multiplied by 8, a and b give the low 61 bits of the sum at
//! the top of a word, and one multiplication, one addition and one comparison with the minimum, shifted alike, tell
//! that the exact value need not be worked out.

use super::twister::MersenneTwister;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const PRIME: u64 = (1 << 61) - 1;
/// Bits above the 61st add at most this to the low 61.
const HIGHEST: u64 = 7;

/// Hash functions in bands of rows.
#[derive(Clone, Debug)]
pub struct Signer {
    a: Vec<u64>,
    b: Vec<u64>,
    rows: usize,
    /// Signatures are cut to 32 bits.
    is_narrow: bool,
}

impl Signer {
    /// `bands` × `rows` functions. `is_narrow`: 32-bit values, as datatrove's precision 32.
    #[must_use]
    pub fn new(bands: usize, rows: usize, seed: u32, is_narrow: bool) -> Self {
        let mut twister = MersenneTwister::new(seed);
        let a = (0..bands * rows).map(|_| twister.between(1, PRIME)).collect();
        let b = (0..bands * rows).map(|_| twister.between(0, PRIME)).collect();
        Self { a, b, rows, is_narrow }
    }

    /// Values in a signature.
    #[must_use]
    pub fn size(&self) -> usize {
        self.a.len()
    }

    /// Replaces what is in `signature` by that of a document with these hashes of shingles, at least one.
    pub fn sign(&self, shingles: &[u64], signature: &mut Vec<u64>) {
        signature.clear();
        let functions = self.a.iter().zip(&self.b);
        if self.is_narrow {
            signature.extend(functions.map(|(&a, &b)| {
                let narrow = |&shingle: &u64| value(a, b, shingle) & u64::from(u32::MAX);
                shingles.iter().map(narrow).min().unwrap_or(u64::MAX)
            }));
        } else {
            signature.extend(functions.map(|(&a, &b)| least(a, b, shingles)));
        }
    }

    /// One number a band: documents with equal numbers agree in all rows of the band. Numbers of different bands differ.
    pub fn bands<'a>(&'a self, signature: &'a [u64]) -> impl Iterator<Item = u64> + 'a {
        signature.chunks_exact(self.rows).enumerate().map(|(band, rows)| {
            let bytes: Vec<u8> = rows.iter().flat_map(|row| row.to_le_bytes()).collect();
            xxh3_64_with_seed(&bytes, band as u64)
        })
    }
}

/// The value of one function for one shingle.
fn value(a: u64, b: u64, shingle: u64) -> u64 {
    let sum = shingle.wrapping_mul(a).wrapping_add(b);
    let folded = (sum & PRIME) + (sum >> 61);
    folded.min(folded.wrapping_sub(PRIME))
}

fn least(a: u64, b: u64, shingles: &[u64]) -> u64 {
    // With `HIGHEST + 1` added, the few sums that fold to beyond the prime wrap to the least values, so none is missed.
    let (a8, b8) = (a << 3, b.wrapping_add(HIGHEST + 1) << 3);
    let bound = |least: u64| least.saturating_add(HIGHEST + 1).min(PRIME) << 3 | 7;
    let mut least = PRIME;
    let mut limit = u64::MAX;
    for &shingle in shingles {
        if shingle.wrapping_mul(a8).wrapping_add(b8) <= limit {
            let value = value(a, b, shingle);
            if value < least {
                least = value;
                limit = bound(least);
            }
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_are_those_of_datatrove() {
        let signer = Signer::new(14, 8, 1, false);
        assert_eq!(signer.a[111], 223_865_076_026_037_746);
        assert_eq!(signer.b[..2], [1_062_448_801_025_099_917, 1_324_811_268_927_594_100]);
        assert_eq!(signer.b[111], 1_097_409_548_522_419_201);
    }

    /// The definition, with Python's unbounded integers.
    fn by_definition(a: u64, b: u64, shingle: u64) -> u64 {
        let sum = (u128::from(a) * u128::from(shingle) + u128::from(b)) % (1 << 64);
        (sum % u128::from(PRIME)) as u64
    }

    proptest! {
        #[test]
        fn skipping_large_values_changes_no_minimum(
            a in 1..PRIME, b in 0..PRIME, mut shingles in prop::collection::vec(any::<u64>(), 1..60),
            near in -20i64..20, multiple in 0u64..8,
        ) {
            // One shingle whose sum lies at a multiple of the prime, where folding and wrapping meet.
            let target = PRIME.wrapping_mul(multiple).wrapping_add(near as u64);
            if let Some(inverse) = inverse(a) {
                shingles.push(target.wrapping_sub(b).wrapping_mul(inverse));
            }
            let expected = shingles.iter().map(|&shingle| by_definition(a, b, shingle)).min().unwrap();
            prop_assert_eq!(least(a, b, &shingles), expected);
        }
    }

    /// Of odd numbers, modulo 2⁶⁴, by Newton's iteration.
    fn inverse(a: u64) -> Option<u64> {
        (a % 2 == 1).then(|| (0..6).fold(a, |x, _| x.wrapping_mul(2u64.wrapping_sub(a.wrapping_mul(x)))))
    }

    #[test]
    fn bands_agree_exactly_where_their_rows_do() {
        let signer = Signer::new(3, 2, 1, false);
        let one: Vec<u64> = signer.bands(&[1, 2, 3, 4, 1, 2]).collect();
        let other: Vec<u64> = signer.bands(&[1, 2, 3, 5, 1, 2]).collect();
        assert!(one[0] == other[0] && one[1] != other[1] && one[2] == other[2]);
        assert_ne!(one[0], one[2], "equal rows in different bands are different keys");
    }
}
