//! N-grams in tries: an entry's children lie next to each other in the following order's array, sorted by word. Entries
//! are bit fields.
//!
//! ```text
//! unigrams   probability f32 │ backoff f32 │ first child u64
//! middles    word │ backoff, probability │ first child      (quantised: numbers of bins)
//! longest    word │ probability
//! ```
//!
//! Compressed pointers (Raj and Whittaker 2003) keep their low bits in the entry and their high bits as places in a
//! sorted array: the k-th number is the first entry whose pointer has k above its low bits.

use super::format::{Bytes, Header, required_bits};
use super::{MAX_ORDER, Weights};

#[derive(Debug)]
pub(super) struct Trie {
    unigrams: usize,
    middles: Vec<Level>,
    longest: Level,
}

/// The array of one order.
#[derive(Debug)]
struct Level {
    base: usize,
    entries: u64,
    word_bits: u32,
    /// Bits of an entry.
    total_bits: u32,
    values: Values,
    pointers: Pointers,
}

/// How an entry's weights are stored, after its word.
#[derive(Clone, Copy, Debug)]
enum Values {
    /// 31 bits of probability without its sign, and 32 of backoff, which the longest lack.
    Floats,
    /// `backoff_bits` and then `probability_bits`, numbers of bins in tables of f32.
    Bins { probabilities: usize, probability_bits: u32, backoffs: usize, backoff_bits: u32 },
}

#[derive(Clone, Copy, Debug)]
enum Pointers {
    None,
    Inline { bits: u32 },
    Array { bits: u32, start: usize, count: u64 },
}

/// Children: a range of entries in the next order's array.
type Range = (u64, u64);

impl Trie {
    /// The tries that begin at `start`, and their bytes.
    pub(super) fn read(
        bytes: &Bytes,
        header: &Header,
        start: usize,
        quantised: bool,
        compressed: bool,
    ) -> Result<(Self, usize), String> {
        let counts = &header.counts;
        let order = counts.len();
        let (probability_bits, backoff_bits) =
            (u32::from(bytes.u8(start + 1)), u32::from(bytes.u8(start + 2)));
        let mut at = start;
        let mut tables = Vec::new();
        if quantised {
            if !(1..=25).contains(&probability_bits) || !(1..=25).contains(&backoff_bits) {
                return Err(format!(
                    "it is quantised to {probability_bits} and {backoff_bits} bits, read are 1 to 25"
                ));
            }
            at += 8;
            for _ in 0..order - 2 {
                tables.push((at, at + (4 << probability_bits)));
                at += (4 << probability_bits) + (4 << backoff_bits);
            }
            tables.push((at, at));
            at += 4 << probability_bits;
        }
        let values = |level: usize, backoff_bits: u32| match tables.get(level) {
            Some(&(probabilities, backoffs)) => {
                Values::Bins { probabilities, probability_bits, backoffs, backoff_bits }
            }
            None => Values::Floats,
        };
        let unigrams = at;
        // One more for the end of the last one's children, one for an unknown word that the model lacks.
        at += 16 * (counts[0] as usize + 2);
        let word_bits = required_bits(counts[0]);
        let most_chopped = if order > 2 && compressed { u32::from(bytes.u8(at + 1)) } else { 0 };
        let mut middles = Vec::new();
        for level in 0..order - 2 {
            let (entries, children) = (counts[level + 1], counts[level + 2]);
            let pointers = if compressed {
                let (bits, count) = chopped(entries + 1, children, most_chopped);
                // A header of 8 bytes, then numbers at a multiple of 8, wherever the array begins.
                let array = Pointers::Array { bits, start: at.next_multiple_of(8) + 8, count };
                at += 8 * (1 + count as usize) + 7;
                array
            } else {
                Pointers::Inline { bits: required_bits(children) }
            };
            let inline = match pointers {
                Pointers::None => 0,
                Pointers::Inline { bits } | Pointers::Array { bits, .. } => bits,
            };
            let quant_bits = if quantised { probability_bits + backoff_bits } else { 63 };
            let total_bits = word_bits + quant_bits + inline;
            middles.push(Level {
                base: at,
                entries,
                word_bits,
                total_bits,
                values: values(level, backoff_bits),
                pointers,
            });
            at += level_size(entries, total_bits);
        }
        let total_bits = word_bits + if quantised { probability_bits } else { 31 };
        let (entries, values) = (counts[order - 1], values(order - 2, 0));
        let longest = Level { base: at, entries, word_bits, total_bits, values, pointers: Pointers::None };
        at += level_size(entries, total_bits);
        Ok((Self { unigrams, middles, longest }, at - start))
    }

    pub(super) fn unigram(&self, bytes: &Bytes, word: u32) -> (Weights, Range) {
        let at = self.unigrams + 16 * word as usize;
        let weights = Weights { probability: bytes.f32(at), backoff: bytes.f32(at + 4) };
        (weights, (bytes.u64(at + 8), bytes.u64(at + 24)))
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
        let (weights, mut range) = self.unigram(bytes, word);
        let mut probability = weights.probability;
        backoffs[0] = weights.backoff;
        let mut matched = 1;
        for &before in history {
            let level = self.middles.get(matched - 1).unwrap_or(&self.longest);
            let Some(entry) = level.find(bytes, before, range) else { break };
            let found = level.weights(bytes, entry);
            probability = found.probability;
            backoffs[matched] = found.backoff;
            range = level.children(bytes, entry);
            matched += 1;
            if matched == self.middles.len() + 2 {
                break;
            }
        }
        (matched, probability)
    }
}

impl Level {
    fn find(&self, bytes: &Bytes, word: u32, (begin, end): Range) -> Option<u64> {
        let (mut low, mut high) = (begin, end.min(self.entries));
        while low < high {
            let middle = low + (high - low) / 2;
            let found = bytes.bits(self.base, middle * u64::from(self.total_bits), self.word_bits);
            match found.cmp(&u64::from(word)) {
                std::cmp::Ordering::Equal => return Some(middle),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    fn weights(&self, bytes: &Bytes, entry: u64) -> Weights {
        let bit = entry * u64::from(self.total_bits) + u64::from(self.word_bits);
        match self.values {
            Values::Floats => {
                let probability = bytes.bits(self.base, bit, 31) as u32 | 1 << 31;
                let backoff = match self.pointers {
                    Pointers::None => 0,
                    _ => bytes.bits(self.base, bit + 31, 32) as u32,
                };
                Weights { probability: f32::from_bits(probability), backoff: f32::from_bits(backoff) }
            }
            Values::Bins { probabilities, probability_bits, backoffs, backoff_bits } => {
                let probability = bytes.bits(self.base, bit + u64::from(backoff_bits), probability_bits);
                let backoff = match backoff_bits {
                    0 => 0.0,
                    bits => bytes.f32(backoffs + 4 * bytes.bits(self.base, bit, bits) as usize),
                };
                Weights { probability: bytes.f32(probabilities + 4 * probability as usize), backoff }
            }
        }
    }

    fn children(&self, bytes: &Bytes, entry: u64) -> Range {
        let pointer = |entry: u64, bits: u32| {
            bytes.bits(self.base, (entry + 1) * u64::from(self.total_bits) - u64::from(bits), bits)
        };
        match self.pointers {
            Pointers::None => (0, 0),
            Pointers::Inline { bits } => (pointer(entry, bits), pointer(entry + 1, bits)),
            Pointers::Array { bits, start, count } => {
                let high = |entry: u64| {
                    // The last place whose number is not above the entry.
                    let (mut low, mut above) = (0, count);
                    while above - low > 1 {
                        let middle = low + (above - low) / 2;
                        match bytes.u64(start + 8 * middle as usize) <= entry {
                            true => low = middle,
                            false => above = middle,
                        }
                    }
                    low
                };
                let whole = |entry: u64| (high(entry) << bits) | pointer(entry, bits);
                (whole(entry), whole(entry + 1))
            }
        }
    }
}

/// Bytes of an array: one entry more for the end of the last one's children, eight bytes so that a read may run over.
const fn level_size(entries: u64, total_bits: u32) -> usize {
    (((1 + entries) * total_bits as u64).div_ceil(8) + 8) as usize
}

/// Low bits of a compressed pointer that stay in the entry, and numbers in the array: the split with the fewest bits in
/// all, at most `most` bits chopped off.
fn chopped(entries: u64, largest: u64, most: u32) -> (u32, u64) {
    let required = required_bits(largest);
    let numbers = |chop: u32| largest.checked_shr(required - chop).unwrap_or(0);
    let cost = |chop: u32| i128::from(numbers(chop)) * 64 - i128::from(entries) * i128::from(chop);
    let best = (0..=required.min(most)).min_by_key(|&chop| cost(chop)).unwrap_or(0);
    (required - best, numbers(best) + 1)
}
