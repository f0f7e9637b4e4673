//! The n-grams of evaluation sets, and where a text has one.
//!
//! An n-gram is known by a polynomial of the 64-bit hashes of its units, which moves along a text by one multiplication a
//! unit and length: h(i+1) = (h(i) − u(i)·Bⁿ⁻¹)·B + u(i+n).

use super::{ContaminationRule, Decontaminate, EvaluationSet};
use crate::dedup::class::is_any_punctuation;
use crate::global::GlobalError;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use xxhash_rust::xxh3::xxh3_64;

/// Odd, so that no bit of a hash is ever lost.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;
/// Bits of the filter that most places of a text fail to pass.
const FILTER_BITS: u32 = 22;

/// The units of a text, with the hashes of all n-grams of the lengths that sets have.
#[derive(Debug, Default)]
pub(super) struct Units {
    hashes: Vec<u64>,
    spans: Vec<(usize, usize)>,
    /// By length of n-gram, in the order of the table's lengths: one hash for each first unit.
    grams: Vec<Vec<u64>>,
    lower: String,
}

impl Units {
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Byte at which a unit begins.
    pub(super) fn start(&self, unit: usize) -> usize {
        self.spans[unit].0
    }

    /// Byte after a unit.
    pub(super) fn end(&self, unit: usize) -> usize {
        self.spans[unit].1
    }

    /// The first unit that begins at this byte or later.
    pub(super) fn first_from(&self, byte: usize) -> usize {
        self.spans.partition_point(|&(start, _)| start < byte)
    }

    fn split(&mut self, text: &str, rule: ContaminationRule) {
        self.hashes.clear();
        self.spans.clear();
        match rule {
            ContaminationRule::English => self.words(text),
            ContaminationRule::Chinese => self.characters(text),
        }
    }

    /// Runs of letters, digits and underscores, in lower case.
    fn words(&mut self, text: &str) {
        let mut start = None;
        let ends = text.char_indices().chain(std::iter::once((text.len(), ' ')));
        for (place, c) in ends {
            if c.is_alphanumeric() || c == '_' {
                start.get_or_insert(place);
            } else if let Some(start) = start.take() {
                self.lower.clear();
                self.lower.extend(text[start..place].chars().flat_map(char::to_lowercase));
                self.hashes.push(xxh3_64(self.lower.as_bytes()));
                self.spans.push((start, place));
            }
        }
    }

    /// Letters, ideographs and digits, each by itself.
    fn characters(&mut self, text: &str) {
        for (place, c) in text.char_indices() {
            let half = match c {
                // Full-width forms lie in the order of ASCII.
                '！'..='～' => char::from_u32(c as u32 - 0xfee0).unwrap_or(c),
                _ => c,
            };
            if half.is_alphanumeric() && !is_any_punctuation(half) {
                let lower = half.to_lowercase().next().unwrap_or(half);
                self.hashes.push(xxh3_64(&(lower as u32).to_le_bytes()));
                self.spans.push((place, place + c.len_utf8()));
            }
        }
    }

    fn roll(&mut self, lengths: &[usize]) {
        self.grams.resize_with(lengths.len(), Vec::new);
        for (&length, grams) in lengths.iter().zip(&mut self.grams) {
            grams.clear();
            if self.hashes.len() < length {
                continue;
            }
            let leading = (1..length).fold(1u64, |power, _| power.wrapping_mul(BASE));
            let mut hash = gram_hash(&self.hashes[..length]);
            grams.push(hash);
            for (gone, come) in self.hashes.iter().zip(&self.hashes[length..]) {
                hash = hash.wrapping_sub(gone.wrapping_mul(leading)).wrapping_mul(BASE).wrapping_add(*come);
                grams.push(hash);
            }
        }
    }
}

fn gram_hash(units: &[u64]) -> u64 {
    units.iter().fold(0, |hash: u64, &unit| hash.wrapping_mul(BASE).wrapping_add(unit))
}

/// Where a gram comes from.
#[derive(Clone, Copy, Debug)]
struct Origin {
    set: u16,
    line: u32,
}

/// An n-gram found in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) gram: u32,
    /// In units.
    pub(super) length: usize,
}

/// All n-grams of the sets, numbered in the order of sets, lines and places.
pub(super) struct GramTable {
    rule: ContaminationRule,
    sets: Vec<String>,
    /// Descending: at one place the longest counts.
    lengths: Vec<usize>,
    /// By length, as `lengths`.
    grams: Vec<HashMap<u64, u32>>,
    filter: Vec<u64>,
    origins: Vec<Origin>,
}

impl GramTable {
    pub(super) fn load(rule: &Decontaminate) -> Result<Self, GlobalError> {
        let lengths: Vec<usize> = (rule.min_ngram..=rule.ngram).rev().collect();
        let mut table = Self {
            rule: rule.rule,
            sets: Vec::new(),
            grams: vec![HashMap::new(); lengths.len()],
            lengths,
            filter: vec![0; 1 << (FILTER_BITS - 6)],
            origins: Vec::new(),
        };
        for (number, set) in rule.sets.iter().enumerate() {
            let name =
                set.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            table.sets.push(name);
            each_gram(rule, set, |gram| {
                let next = table.origins.len() as u32;
                let index = table.lengths[0] - gram.length;
                if let Entry::Vacant(entry) = table.grams[index].entry(gram.hash) {
                    entry.insert(next);
                    table.origins.push(Origin { set: number as u16, line: gram.line });
                    let bit = filter_bit(gram.hash);
                    table.filter[bit >> 6] |= 1 << (bit & 63);
                }
            })?;
        }
        // Lengths that no set has cost time at every unit of the corpus.
        let used: Vec<bool> = table.grams.iter().map(|grams| !grams.is_empty()).collect();
        let mut is_used = used.iter();
        table.lengths.retain(|_| is_used.next() == Some(&true));
        table.grams.retain(|grams| !grams.is_empty());
        Ok(table)
    }

    pub(super) fn len(&self) -> usize {
        self.origins.len()
    }

    /// Name of the set that an n-gram was first seen in.
    pub(super) fn set_name(&self, gram: u32) -> &str {
        self.origin(gram).0
    }

    /// Name of the set and line in it.
    pub(super) fn origin(&self, gram: u32) -> (&str, u32) {
        let origin = self.origins[gram as usize];
        (&self.sets[usize::from(origin.set)], origin.line)
    }

    /// Replaces what is in `units` by the units of a text.
    pub(super) fn units(&self, text: &str, units: &mut Units) {
        units.split(text, self.rule);
        units.roll(&self.lengths);
    }

    /// The longest n-gram that begins at a unit and is not to be passed over.
    pub(super) fn find(&self, units: &Units, place: usize, is_passed: impl Fn(u32) -> bool) -> Option<Found> {
        self.lengths.iter().zip(&self.grams).zip(&units.grams).find_map(|((&length, grams), hashes)| {
            let hash = *hashes.get(place)?;
            let bit = filter_bit(hash);
            if self.filter[bit >> 6] >> (bit & 63) & 1 == 0 {
                return None;
            }
            grams.get(&hash).filter(|&&gram| !is_passed(gram)).map(|&gram| Found { gram, length })
        })
    }

    /// The texts of some n-grams, read from the sets again, since few of them are ever asked for.
    pub(super) fn texts(
        &self,
        rule: &Decontaminate,
        asked: impl Iterator<Item = u32>,
    ) -> Result<HashMap<u32, String>, GlobalError> {
        let asked: HashSet<u32> = asked.collect();
        let mut texts = HashMap::new();
        for set in &rule.sets {
            each_gram(rule, set, |gram| {
                let index = self.lengths.iter().position(|&length| length == gram.length);
                let known = index.and_then(|index| self.grams[index].get(&gram.hash));
                if let Some(number) = known.filter(|number| asked.contains(number)) {
                    texts.entry(*number).or_insert_with(|| gram.text.to_owned());
                }
            })?;
        }
        Ok(texts)
    }
}

fn filter_bit(hash: u64) -> usize {
    (hash >> (64 - FILTER_BITS)) as usize
}

/// An n-gram of a set.
struct Gram<'a> {
    length: usize,
    hash: u64,
    /// From 1.
    line: u32,
    text: &'a str,
}

/// Visits all n-grams of a set: those of the full length, and short items as a whole.
fn each_gram(
    rule: &Decontaminate,
    set: &EvaluationSet,
    mut visit: impl FnMut(&Gram<'_>),
) -> Result<(), GlobalError> {
    let file = File::open(&set.path).map_err(|error| GlobalError::io("open", &set.path, error))?;
    let fault = |message: String| GlobalError::Input { path: set.path.clone(), message };
    let (mut units, mut items) = (Units::default(), 0u64);
    for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
        let line = line.map_err(|error| GlobalError::io("read", &set.path, error))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let item: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&line)
            .map_err(|error| fault(format!("line {}: not a JSON object: {error}", number + 1)))?;
        for text in set.fields.iter().filter_map(|field| item.get(field)).flat_map(texts_of) {
            items += 1;
            units.split(text, rule.rule);
            let length = units.len().min(rule.ngram);
            if length < rule.min_ngram {
                continue;
            }
            for (place, hashes) in units.hashes.windows(length).enumerate() {
                let text = &text[units.start(place)..units.end(place + length - 1)];
                visit(&Gram { length, hash: gram_hash(hashes), line: number as u32 + 1, text });
            }
        }
    }
    if items == 0 {
        return Err(fault(format!("no line has text in any of the fields {:?}", set.fields)));
    }
    Ok(())
}

fn texts_of(value: &serde_json::Value) -> Vec<&str> {
    match value {
        serde_json::Value::String(text) => vec![text],
        serde_json::Value::Array(values) => values.iter().filter_map(serde_json::Value::as_str).collect(),
        _ => Vec::new(),
    }
}
