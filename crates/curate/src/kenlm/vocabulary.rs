//! From words to their numbers: a hash table in models with probing, sorted hashes in tries. Word 0 is the unknown one.

use super::format::{Bytes, Header, Kind, buckets};

#[derive(Debug)]
pub(super) enum Vocabulary {
    /// Buckets of 12 bytes: hash, number.
    Hashed { start: usize, buckets: u64 },
    /// The number is the place, counted from 1.
    Sorted { start: usize, words: u64 },
}

impl Vocabulary {
    /// The vocabulary, and where it ends.
    pub(super) fn read(bytes: &Bytes, header: &Header) -> Result<(Self, usize), String> {
        let start = header.size + 8;
        let (vocabulary, size) = match header.kind {
            Kind::Probing => {
                let buckets = buckets(header.counts[0], header.multiplier);
                (Self::Hashed { start, buckets }, 12 * buckets)
            }
            Kind::Trie { .. } => {
                let words = bytes.u64(header.size);
                if words > header.counts[0] {
                    return Err(format!("its vocabulary has {words} words, its header {}", header.counts[0]));
                }
                (Self::Sorted { start, words }, 8 * header.counts[0])
            }
        };
        Ok((vocabulary, start + size as usize))
    }

    pub(super) fn index(&self, bytes: &Bytes, word: &[u8]) -> u32 {
        let hash = murmur(word);
        match *self {
            Self::Hashed { start, buckets } => {
                find_bucket(bytes, start, buckets, 12, hash).map_or(0, |at| bytes.u32(at + 8))
            }
            Self::Sorted { start, words } => {
                let (mut low, mut high) = (0, words);
                while low < high {
                    let middle = low + (high - low) / 2;
                    match bytes.u64(start + 8 * middle as usize).cmp(&hash) {
                        std::cmp::Ordering::Equal => return middle as u32 + 1,
                        std::cmp::Ordering::Less => low = middle + 1,
                        std::cmp::Ordering::Greater => high = middle,
                    }
                }
                0
            }
        }
    }
}

/// Where the bucket with a key begins. Key 0 is an empty bucket.
pub(super) fn find_bucket(bytes: &Bytes, start: usize, buckets: u64, size: usize, key: u64) -> Option<usize> {
    let mut bucket = key % buckets;
    for _ in 0..buckets {
        let at = start + size * bucket as usize;
        match bytes.u64(at) {
            found if found == key => return Some(at),
            0 => return None,
            _ => bucket = if bucket + 1 == buckets { 0 } else { bucket + 1 },
        }
    }
    None
}

/// MurmurHash64A (Appleby) with seed 0.
fn murmur(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
    const SHIFT: u32 = 47;
    let mut hash = (bytes.len() as u64).wrapping_mul(FACTOR);
    let (blocks, rest) = bytes.as_chunks::<8>();
    for block in blocks {
        let mut mixed = u64::from_le_bytes(*block).wrapping_mul(FACTOR);
        mixed ^= mixed >> SHIFT;
        hash = (hash ^ mixed.wrapping_mul(FACTOR)).wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(last)).wrapping_mul(FACTOR);
    }
    hash ^= hash >> SHIFT;
    hash = hash.wrapping_mul(FACTOR);
    hash ^ (hash >> SHIFT)
}
