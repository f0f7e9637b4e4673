//! The header of a KenLM binary, and reading numbers and bit fields out of its bytes.

use std::path::Path;

use super::MAX_ORDER;

/// A model's bytes. Reads beyond the end give zeros, so that a lying header cannot lead outside the file.
#[derive(Debug)]
pub(super) struct Bytes(Vec<u8>);

impl Bytes {
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        std::fs::read(path).map(Self)
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn u8(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        self.array(at).map_or(0, u32::from_le_bytes)
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        self.array(at).map_or(0, u64::from_le_bytes)
    }

    pub(super) fn f32(&self, at: usize) -> f32 {
        f32::from_bits(self.u32(at))
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    /// A field of at most 57 bits, `bit` bits after the byte `base`.
    pub(super) fn bits(&self, base: usize, bit: u64, length: u32) -> u64 {
        let at = base.wrapping_add((bit >> 3) as usize);
        (self.u64(at) >> (bit & 7)) & ((1 << length) - 1)
    }
}

/// How n-grams are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Probing,
    Trie { quantised: bool, compressed: bool },
}

#[derive(Debug)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// Buckets of a hash table for each entry.
    pub(super) multiplier: f32,
    /// N-grams of each order, 1 first.
    pub(super) counts: Vec<u64>,
    /// Bytes of the header.
    pub(super) size: usize,
}

const MAGIC: &[u8] = b"mmap lm http://kheafield.com/code format version 5\n\0";
/// The magic with its second zero, padded to 8 bytes; then 0.0, 1.0, -0.5, 1, u32::MAX, padding, and 1 in 64 bits.
const SANITY: usize = 56 + 32;

impl Header {
    pub(super) fn read(bytes: &Bytes) -> Result<Self, String> {
        if !bytes.0.starts_with(MAGIC) {
            return Err("it is no KenLM binary".to_owned());
        }
        if bytes.len() < SANITY + 20 {
            return Err("it ends inside its header".to_owned());
        }
        let numbers = (bytes.f32(60), bytes.f32(64), bytes.u32(68), bytes.u32(72), bytes.u64(80));
        if numbers != (1.0, -0.5, 1, u32::MAX, 1) {
            return Err("its header was written by a machine with other number formats".to_owned());
        }
        let order = bytes.u8(SANITY) as usize;
        if !(2..=MAX_ORDER).contains(&order) {
            return Err(format!("its order is {order}, read are 2 to {MAX_ORDER}"));
        }
        let kind = match bytes.u32(SANITY + 8) {
            0 => Kind::Probing,
            2 => Kind::Trie { quantised: false, compressed: false },
            3 => Kind::Trie { quantised: true, compressed: false },
            4 => Kind::Trie { quantised: false, compressed: true },
            5 => Kind::Trie { quantised: true, compressed: true },
            other => return Err(format!("its kind is {other}, read are 0 (probing) and 2 to 5 (tries)")),
        };
        let multiplier = bytes.f32(SANITY + 4);
        if !(1.0..1000.0).contains(&multiplier) {
            return Err(format!("its hash tables have {multiplier} buckets an entry"));
        }
        let counts: Vec<_> = (0..order).map(|n| bytes.u64(SANITY + 20 + 8 * n)).collect();
        let size = (SANITY + 20 + 8 * order).next_multiple_of(8);
        if bytes.len() < size {
            return Err("it ends inside its header".to_owned());
        }
        // An entry takes more than a byte everywhere, and less than 2⁵⁰ entries keep all sums in range.
        if let Some(count) = counts.iter().find(|&&count| count > 8 * bytes.len() as u64) {
            return Err(format!("it has {} bytes, its header promises {count} n-grams", bytes.len()));
        }
        Ok(Self { kind, multiplier, counts, size })
    }
}

/// Bits that hold numbers up to `largest`.
pub(super) const fn required_bits(largest: u64) -> u32 {
    u64::BITS - largest.leading_zeros()
}

/// Buckets of a hash table with linear probing.
pub(super) fn buckets(entries: u64, multiplier: f32) -> u64 {
    (entries + 1).max((multiplier * entries as f32) as u64)
}
