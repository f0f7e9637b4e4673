//! N-grams in hash tables, one an order: fast, large.

use super::format::{Bytes, Header, buckets};
use super::vocabulary::find_bucket;
use super::{MAX_ORDER, Weights};

#[derive(Debug)]
pub(super) struct Probing {
    unigrams: usize,
    /// Start and buckets of the orders 2 to the last but one: hash, probability, backoff in 16 bytes.
    middles: Vec<(usize, u64)>,
    /// The last order has no backoff: 12 bytes.
    longest: (usize, u64),
}

impl Probing {
    /// The tables that begin at `start`, and their bytes.
    pub(super) fn read(header: &Header, start: usize) -> Result<(Self, usize), String> {
        // One more than there are: the unknown word, if the model came without.
        let mut at = start + 8 * (header.counts[0] as usize + 1);
        let Some((&last, middles)) = header.counts[1..].split_last() else {
            return Err("it has unigrams only".to_owned());
        };
        let mut table = |entries: u64, size: usize| {
            let found = (at, buckets(entries, header.multiplier));
            at += size * found.1 as usize;
            found
        };
        let middles = middles.iter().map(|&entries| table(entries, 16)).collect();
        let longest = table(last, 12);
        Ok((Self { unigrams: start, middles, longest }, at - start))
    }

    pub(super) fn unigram(&self, bytes: &Bytes, word: u32) -> Weights {
        weights(bytes, self.unigrams + 8 * word as usize)
    }

    /// Words of the longest n-gram that ends in `word` after `history` (last word first), its probability; the backoffs
    /// of that n-gram and its shorter tails.
    pub(super) fn longest_match(
        &self,
        bytes: &Bytes,
        word: u32,
        history: &[u32],
        backoffs: &mut [f32; MAX_ORDER],
    ) -> (usize, f32) {
        let Weights { mut probability, backoff } = self.unigram(bytes, word);
        backoffs[0] = backoff;
        let (mut matched, mut key) = (1, u64::from(word));
        for &before in history {
            key = key.wrapping_mul(8_978_948_897_894_561_157)
                ^ (1 + u64::from(before)).wrapping_mul(17_894_857_484_156_487_943);
            let found = match self.middles.get(matched - 1) {
                Some(&(start, buckets)) => find_bucket(bytes, start, buckets, 16, key),
                None => {
                    if let Some(at) = find_bucket(bytes, self.longest.0, self.longest.1, 12, key) {
                        return (matched + 1, negative(bytes.f32(at + 8)));
                    }
                    None
                }
            };
            let Some(at) = found else { break };
            let found = weights(bytes, at + 8);
            probability = found.probability;
            backoffs[matched] = found.backoff;
            matched += 1;
        }
        (matched, probability)
    }
}

fn weights(bytes: &Bytes, at: usize) -> Weights {
    Weights { probability: negative(bytes.f32(at)), backoff: bytes.f32(at + 4) }
}

/// Logarithms of probabilities are never positive; their sign bit says something else (whether longer n-grams exist).
fn negative(value: f32) -> f32 {
    -value.abs()
}
