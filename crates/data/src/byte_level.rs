//! Byte-level byte-pair encoding for bulk text, with the ids of the `tokenizers` crate.
//!
//! The crate builds offsets and strings for every token; here a word goes straight to ids, and a worker remembers the
//! words it has met. A tokenizer this encoder cannot follow exactly is left to the crate.

use crate::permutation::mix;
use crate::words::words;
use serde_json::Value;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

type Map<K, V> = HashMap<K, V, BuildHasherDefault<MixHasher>>;

#[derive(Debug)]
pub(crate) struct ByteLevelBpe {
    bytes: [u32; 256],
    /// Pair of ids → rank of the merge, id of the result.
    merges: Map<u64, (u32, u32)>,
}

/// A worker's memory of words and scratch space.
#[derive(Default)]
pub(crate) struct WordCache {
    /// Word → its ids as a range of `ids`.
    words: Map<Box<[u8]>, (u32, u32)>,
    ids: Vec<u32>,
    symbols: Vec<u32>,
}

/// Words longer than this are rare and not remembered.
const LONGEST_REMEMBERED: usize = 48;
const MOST_REMEMBERED: usize = 1 << 18;
/// Up to this many bytes, looking at all pairs for each merge beats a heap.
const SHORT: usize = 40;

impl ByteLevelBpe {
    /// The encoder for a `tokenizer.json`, when it is byte-level BPE with GPT-2's pattern and nothing else.
    pub(crate) fn from_json(json: &Value) -> Option<Self> {
        let (model, words) = (&json["model"], &json["pre_tokenizer"]);
        let absent =
            |value: &Value| matches!(value, Value::Null | Value::Bool(false)) || value == "" || value == 0.0;
        let plain = model["type"] == "BPE"
            && words["type"] == "ByteLevel"
            && words["add_prefix_space"] == false
            && words.get("use_regex").is_none_or(|value| value == true)
            && absent(&json["normalizer"])
            && absent(&json["truncation"])
            && absent(&json["padding"])
            && [
                "dropout",
                "continuing_subword_prefix",
                "end_of_word_suffix",
                "byte_fallback",
                "ignore_merges",
            ]
            .iter()
            .all(|key| absent(&model[*key]));
        // Special tokens are text to the encoder; any other added token would have to be searched for.
        let added = json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
        if !plain || !added.iter().all(|token| token["special"] == true) {
            return None;
        }
        let vocab = model["vocab"].as_object()?;
        let id = |token: &str| u32::try_from(vocab.get(token)?.as_u64()?).ok();
        let mut bytes = [0; 256];
        for (byte, character) in byte_characters().into_iter().enumerate() {
            bytes[byte] = id(character.encode_utf8(&mut [0; 4]))?;
        }
        let mut merges = Map::default();
        for (rank, merge) in model["merges"].as_array()?.iter().enumerate() {
            let (left, right) = match merge {
                Value::String(pair) => pair.split_once(' ')?,
                pair => (pair[0].as_str()?, pair[1].as_str()?),
            };
            let result = id(&format!("{left}{right}"))?;
            merges.insert(pair(id(left)?, id(right)?), (rank as u32, result));
        }
        Some(Self { bytes, merges })
    }

    /// Appends the ids of a text.
    pub(crate) fn encode(&self, text: &str, cache: &mut WordCache, out: &mut Vec<u32>) {
        for word in words(text) {
            let word = word.as_bytes();
            if let Some(&(start, end)) = cache.words.get(word) {
                out.extend_from_slice(&cache.ids[start as usize..end as usize]);
                continue;
            }
            cache.symbols.clear();
            cache.symbols.extend(word.iter().map(|&byte| self.bytes[usize::from(byte)]));
            if word.len() <= SHORT {
                self.merge_short(&mut cache.symbols);
            } else {
                self.merge_long(&mut cache.symbols);
            }
            out.extend_from_slice(&cache.symbols);
            if word.len() <= LONGEST_REMEMBERED && cache.words.len() < MOST_REMEMBERED {
                let start = cache.ids.len() as u32;
                cache.ids.extend_from_slice(&cache.symbols);
                cache.words.insert(word.into(), (start, cache.ids.len() as u32));
            }
        }
    }

    /// The lowest rank first, the leftmost of equals.
    fn merge_short(&self, symbols: &mut Vec<u32>) {
        loop {
            let ranked = symbols.windows(2).enumerate().filter_map(|(place, two)| {
                let &(rank, result) = self.merges.get(&pair(two[0], two[1]))?;
                Some((rank, place, result))
            });
            let Some((_, place, result)) = ranked.min() else { return };
            symbols[place] = result;
            symbols.remove(place + 1);
        }
    }

    /// The same by a heap over a linked list, for words of hundreds of bytes (a sentence of Chinese is one word).
    fn merge_long(&self, symbols: &mut Vec<u32>) {
        const GONE: u32 = u32::MAX;
        let end = symbols.len();
        let mut next: Vec<usize> = (1..=end).collect();
        let mut previous: Vec<usize> = (0..end).map(|place| place.wrapping_sub(1)).collect();
        let mut heap = BinaryHeap::new();
        let queue = |heap: &mut BinaryHeap<_>, place: usize, left: u32, right: u32| {
            if let Some(&(rank, result)) = self.merges.get(&pair(left, right)) {
                heap.push(std::cmp::Reverse((rank, place, left, right, result)));
            }
        };
        for place in 1..end {
            queue(&mut heap, place - 1, symbols[place - 1], symbols[place]);
        }
        while let Some(std::cmp::Reverse((_, place, left, right, result))) = heap.pop() {
            let after = next[place];
            if after == end || symbols[place] != left || symbols[after] != right {
                continue;
            }
            symbols[place] = result;
            symbols[after] = GONE;
            next[place] = next[after];
            if next[place] < end {
                previous[next[place]] = place;
                queue(&mut heap, place, result, symbols[next[place]]);
            }
            if previous[place] < end {
                queue(&mut heap, previous[place], symbols[previous[place]], result);
            }
        }
        symbols.retain(|&symbol| symbol != GONE);
    }
}

fn pair(left: u32, right: u32) -> u64 {
    (u64::from(left) << 32) | u64::from(right)
}

/// The visible character that stands for each byte in the vocabulary: itself where Latin-1 has a visible one, else
/// the next from U+0100 on.
pub(crate) fn byte_characters() -> [char; 256] {
    let mut spare = (0x100..).filter_map(char::from_u32);
    std::array::from_fn(|byte| match byte as u8 {
        visible @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(visible),
        _ => spare.next().unwrap_or(char::REPLACEMENT_CHARACTER),
    })
}

/// The words of a text in the guise the vocabulary knows them in.
pub(crate) fn visible_words(text: &str) -> Vec<String> {
    let characters = byte_characters();
    words(text).map(|word| word.bytes().map(|byte| characters[usize::from(byte)]).collect()).collect()
}

/// Not proof against crafted collisions, and need not be: the worst they do is slow down their author's own run.
#[derive(Default)]
pub(crate) struct MixHasher(u64);

impl Hasher for MixHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        for chunk in chunks {
            self.write_u64(u64::from_le_bytes(*chunk));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.write_u64(u64::from_le_bytes(last) ^ ((bytes.len() as u64) << 56));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(26) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, _: usize) {
        // The length prefix of a slice; `write` mixes the length in already.
    }

    fn finish(&self) -> u64 {
        mix(self.0)
    }
}
