//! From a text to the hashes of its shingles: overlapping runs of words or characters of its normalised form.

use super::normalize::Normalizer;
use super::words::{Segmenter, Words};
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};
use xxhash_rust::{xxh32::xxh32, xxh64::xxh64};

/// What a shingle is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShingleUnit {
    /// FineWeb: 5 of them.
    #[default]
    Words,
    /// Megatron's tools: 5; NeMo Curator: 24; for Chinese without a dictionary: 6.
    Characters,
}

/// How a shingle becomes a number. The narrow ones give signatures of 32-bit values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShingleHash {
    /// datatrove's default.
    #[default]
    Xxh64,
    /// The first eight bytes, little-endian, as FineWeb was made.
    Sha1,
    Xxh32,
    /// The first four bytes, little-endian.
    Sha1Narrow,
}

impl ShingleHash {
    /// Whether values are of 32 bits.
    #[must_use]
    pub const fn is_narrow(self) -> bool {
        matches!(self, Self::Xxh32 | Self::Sha1Narrow)
    }

    fn of(self, shingle: &[u8]) -> u64 {
        match self {
            Self::Xxh64 => xxh64(shingle, 0),
            Self::Xxh32 => xxh32(shingle, 0).into(),
            Self::Sha1 | Self::Sha1Narrow => {
                let digest = Sha1::digest(shingle);
                let bytes = digest.first_chunk().expect("a digest has twenty bytes");
                let word = u64::from_le_bytes(*bytes);
                if self.is_narrow() { word & u64::from(u32::MAX) } else { word }
            }
        }
    }
}

/// Makes shingles; holds the buffers for it, one a thread.
#[derive(Debug, Default)]
pub struct Shingler {
    unit: ShingleUnit,
    /// Words or characters in a shingle.
    size: usize,
    hash: ShingleHash,
    segmenter: Segmenter,
    normalized: String,
    words: Words,
    ends: Vec<usize>,
}

impl Shingler {
    /// `size`: words or characters in a shingle, at least 1.
    #[must_use]
    pub fn new(unit: ShingleUnit, size: usize, hash: ShingleHash, segmenter: Segmenter) -> Self {
        Self { unit, size: size.max(1), hash, segmenter, ..Self::default() }
    }

    /// Replaces what is in `hashes` by those of the shingles of `text`, in order, repeated ones too. None for texts shorter
    /// than a shingle.
    pub fn shingles(&mut self, text: &str, hashes: &mut Vec<u64>) {
        hashes.clear();
        Normalizer.normalize(text, &mut self.normalized);
        match self.unit {
            ShingleUnit::Words => {
                self.segmenter.segment(&self.normalized, &mut self.words);
                let windows = self.words.windows(self.size);
                hashes.extend(windows.map(|shingle| self.hash.of(shingle.as_bytes())));
            }
            ShingleUnit::Characters => {
                let text = &self.normalized;
                self.ends.clear();
                self.ends.extend(text.char_indices().map(|(place, c)| place + c.len_utf8()));
                let starts = std::iter::once(0).chain(self.ends.iter().copied());
                let windows = starts.zip(self.ends.iter().skip(self.size - 1));
                hashes.extend(windows.map(|(start, &end)| self.hash.of(&text.as_bytes()[start..end])));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(unit: ShingleUnit, size: usize, hash: ShingleHash, text: &str) -> Vec<u64> {
        let mut hashes = vec![1];
        Shingler::new(unit, size, hash, Segmenter::English).shingles(text, &mut hashes);
        hashes
    }

    #[test]
    fn shingles_overlap_and_are_hashed_in_the_published_ways() {
        use ShingleHash::{Sha1, Sha1Narrow, Xxh32, Xxh64};
        let text = "Hello, World again";
        let words = |hash| hashes(ShingleUnit::Words, 2, hash, text);
        assert_eq!(words(Xxh64), [xxh64(b"hello world", 0), xxh64(b"world again", 0)]);
        assert_eq!(words(Xxh32)[1], u64::from(xxh32(b"world again", 0)));
        // hashlib.sha1(b"hello world").digest() begins 2a ae 6c 35 c9 4f cf b4.
        assert_eq!(words(Sha1)[0], 0xb4cf_4fc9_356c_ae2a);
        assert_eq!(words(Sha1Narrow)[0], 0x356c_ae2a);
    }

    #[test]
    fn characters_are_code_points_of_the_normal_form() {
        let expected = ["中文", "文 ", " a"].map(|shingle| xxh64(shingle.as_bytes(), 0));
        assert_eq!(hashes(ShingleUnit::Characters, 2, ShingleHash::Xxh64, "中文，A"), expected);
    }

    #[test]
    fn a_text_shorter_than_a_shingle_has_none() {
        assert_eq!(hashes(ShingleUnit::Words, 5, ShingleHash::Xxh64, "only four words here"), [0u64; 0]);
        assert_eq!(hashes(ShingleUnit::Characters, 5, ShingleHash::Xxh64, ""), [0u64; 0]);
    }
}
