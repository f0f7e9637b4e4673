//! Items that the network may have read: those that share thirteen tokens in a row with its training text.
//!
//! The items' runs go into a table; the training tokens stream past it once, so their amount does not matter.

use crate::border::Codec;
use crate::error::EvalError;
use std::collections::HashMap;
use triax_data::Reader;

/// Length of a run, as in Brown et al. 2020 (there of words).
const RUN: usize = 13;

/// Multiplier of the rolling hash, odd, so that it is a unit modulo 2⁶⁴.
const BASE: u64 = 0x9E37_79B9_7F4A_7C15;

/// A bit for each value of a run's hash folded to this many bits: most runs are turned away by one look.
const SIEVE_BITS: u32 = 24;

/// Tokens read at once.
const BLOCK: u64 = 1 << 16;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contamination {
    /// One entry an item: it shares a run with the training text.
    pub found: Vec<bool>,
    /// Items without any run: their texts are too short to tell.
    pub short: usize,
    /// Training tokens compared.
    pub tokens: u64,
}

/// `items`: the texts of each, looked for one by one.
///
/// # Errors
/// When a text cannot be tokenised or a token file cannot be read.
pub fn contamination(
    codec: &dyn Codec,
    items: &[Vec<String>],
    training: &[Reader],
) -> Result<Contamination, EvalError> {
    let mut table = Table::new();
    let mut short = 0;
    for (item, texts) in items.iter().enumerate() {
        let before = table.runs.len();
        for text in texts {
            table.add(item, &codec.encode(text)?);
        }
        short += usize::from(table.runs.len() == before);
    }
    let mut result = Contamination { found: vec![false; items.len()], short, tokens: 0 };
    for reader in training {
        for document in 0..reader.documents() {
            let Some(range) = reader.document(document) else { break };
            result.tokens += range.end - range.start;
            // Blocks overlap by a run less one token, so that every run lies in one of them.
            let mut begin = range.start;
            while begin + (RUN as u64) <= range.end {
                let end = range.end.min(begin + BLOCK);
                let mut tokens = vec![0; (end - begin) as usize];
                reader.read(begin, &mut tokens)?;
                table.look(&tokens, &mut result.found);
                begin = end - (RUN as u64 - 1);
                if end == range.end {
                    break;
                }
            }
        }
    }
    Ok(result)
}

/// All runs of all items.
struct Table {
    /// Number of the item and the run itself.
    runs: Vec<(usize, [u32; RUN])>,
    by_hash: HashMap<u64, Vec<usize>>,
    sieve: Vec<u64>,
}

impl Table {
    fn new() -> Self {
        Self { runs: Vec::new(), by_hash: HashMap::new(), sieve: vec![0; 1 << (SIEVE_BITS - 6)] }
    }

    fn add(&mut self, item: usize, tokens: &[u32]) {
        for (place, hash) in hashes(tokens) {
            let Some(run) = tokens[place..].first_chunk::<RUN>() else { break };
            let (word, bit) = sieve_place(hash);
            self.sieve[word] |= bit;
            self.by_hash.entry(hash).or_default().push(self.runs.len());
            self.runs.push((item, *run));
        }
    }

    fn look(&self, tokens: &[u32], found: &mut [bool]) {
        for (place, hash) in hashes(tokens) {
            let (word, bit) = sieve_place(hash);
            if self.sieve[word] & bit == 0 {
                continue;
            }
            for &number in self.by_hash.get(&hash).into_iter().flatten() {
                let (item, run) = &self.runs[number];
                found[*item] |= tokens[place..].starts_with(run);
            }
        }
    }
}

/// Place and hash of every run: Σ tokenᵢ · BASE^(RUN − 1 − i) modulo 2⁶⁴, of ids raised by one so that 0 counts.
fn hashes(tokens: &[u32]) -> impl Iterator<Item = (usize, u64)> {
    let oldest = (0..RUN - 1).fold(1u64, |power, _| power.wrapping_mul(BASE));
    let mut hash = 0u64;
    tokens.iter().enumerate().filter_map(move |(place, &token)| {
        if place >= RUN {
            let leaving = (u64::from(tokens[place - RUN]) + 1).wrapping_mul(oldest);
            hash = hash.wrapping_sub(leaving);
        }
        hash = hash.wrapping_mul(BASE).wrapping_add(u64::from(token) + 1);
        (place + 1 >= RUN).then(|| (place + 1 - RUN, hash))
    })
}

fn sieve_place(hash: u64) -> (usize, u64) {
    let folded = (hash ^ hash >> 32).wrapping_mul(BASE) >> (64 - SIEVE_BITS);
    ((folded >> 6) as usize, 1 << (folded & 63))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::border::tests::Words;
    use proptest::prelude::*;
    use triax_data::{TokenType, Writer};

    proptest! {
        #[test]
        fn a_run_is_found_wherever_it_lies_and_nothing_else(
            training in proptest::collection::vec(0u32..3, 0..200), item in proptest::collection::vec(0u32..3, 0..40),
        ) {
            let mut table = Table::new();
            table.add(0, &item);
            let mut found = [false];
            table.look(&training, &mut found);
            let expected = item.windows(RUN).any(|run| training.windows(RUN).any(|other| other == run));
            prop_assert_eq!(found[0], expected);
        }
    }

    #[test]
    fn items_in_training_files_are_found_across_blocks_but_not_across_documents() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("tokens");
        let shared = "a sentence of more than thirteen tokens";
        let ids = Words.encode(shared).unwrap();
        let mut writer = Writer::create(&prefix, TokenType::I32, None).unwrap();
        // Long enough that the shared text lies across the border of two blocks.
        let mut document = vec![7; BLOCK as usize - 9];
        document.extend_from_slice(&ids);
        writer.push_document(&document).unwrap();
        let split = Words.encode("across two files here").unwrap();
        writer.push_document(&split[..split.len() / 2]).unwrap();
        writer.push_document(&split[split.len() / 2..]).unwrap();
        writer.finish().unwrap();
        let items = [shared, "a sentence of none", "across two files here", "short"];
        let items: Vec<Vec<String>> = items.iter().map(|text| vec![(*text).to_owned()]).collect();
        let result = contamination(&Words, &items, &[Reader::open(&prefix).unwrap()]).unwrap();
        assert_eq!((result.found, result.short), (vec![true, false, false, false], 1));
        assert_eq!(result.tokens as usize, document.len() + split.len());
    }
}
