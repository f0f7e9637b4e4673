//! Takes texts of evaluation sets out of the corpus, by the rule of MT-NLG and GPT-3, and by one of our own for Chinese.
//!
//! ```text
//!              ◀── cut ──▶           ◀── cut ──▶
//! …… ends here.  lorem ipsum [n-gram of a set] dolor sit.  A new sentence begins ……
//! └─ a piece ─┘                                           └────── a piece ──────┘
//! ```
//!
//! | | English (Megatron's tool) | Chinese |
//! |---|---|---|
//! | unit | words, lower case | letters, ideographs and digits, half-width, lower case |
//! | n-gram | 13 words; items of 8 to 12 words as a whole | 30 characters; items of 16 to 29 as a whole |
//! | cut on each side | 200 characters and on to the end of a sentence (. ! ?) | 60 and on to 。！？；… |
//! | pieces kept | longer than 200 characters | longer than 60 |
//! | document dropped | more than 10 pieces | more than 10 pieces |
//! | n-gram ignored | more than 10 times in the corpus | more than 10 times |
//!
//! Nobody has published a rule for Chinese. Measured with the test items of four FewCLUE tasks (ChID, CLUEWSC, EPRSTMT, TNEWS)
//! against a classical novel and web pages: up to 20 characters the hits are a phrase of web pages ("分享至用微信扫码二维码分享至…",
//! 13 items), from 25 on only an item of ChID that does quote the novel, over 35 characters. So the rule asks for 30.
//! Traditional text meets simplified sets only after conversion, which belongs in an earlier step.

mod cut;
mod grams;

use crate::cluster::Joins;
use crate::document::Document;
use crate::global::{Collect, Decide, Decision, GlobalError, GlobalStep, Resolution, Standing};
use crate::runs::{RunReader, Sorter, merge, record};
use crate::step::Reason;
use cut::cut;
use grams::{GramTable, Units};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// `[[step]] kind = "decontaminate"`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Decontaminate {
    pub sets: Vec<EvaluationSet>,
    pub rule: ContaminationRule,
    /// Words, or characters for Chinese.
    pub ngram: usize,
    /// Items shorter than an n-gram count as a whole from this length on.
    pub min_ngram: usize,
    /// Characters cut on each side of an n-gram, before going on to the end of a sentence.
    pub cut: usize,
    /// Pieces of no more characters than this are dropped.
    pub min_piece: usize,
    /// A document in more pieces than this is dropped.
    pub max_pieces: usize,
    /// n-grams that occur more often than this in the corpus are nobody's in particular, and ignored.
    pub max_occurrences: u32,
    /// The sets, read when they are first needed.
    #[serde(skip)]
    table: OnceLock<Arc<GramTable>>,
}

/// One file of evaluation items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationSet {
    /// JSON lines.
    pub path: PathBuf,
    /// Fields whose text must not be trained on; a list of texts counts too.
    pub fields: Vec<String>,
}

/// What a unit is and where sentences end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContaminationRule {
    #[default]
    English,
    Chinese,
}

/// As a recipe says it: what is not said follows from the rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    sets: Vec<EvaluationSet>,
    #[serde(default)]
    rule: ContaminationRule,
    ngram: Option<usize>,
    min_ngram: Option<usize>,
    cut: Option<usize>,
    min_piece: Option<usize>,
    max_pieces: Option<usize>,
    max_occurrences: Option<u32>,
}

impl From<Written> for Decontaminate {
    fn from(written: Written) -> Self {
        let rule = Self::by_rule(written.rule, written.sets);
        Self {
            ngram: written.ngram.unwrap_or(rule.ngram),
            min_ngram: written.min_ngram.unwrap_or(rule.min_ngram),
            cut: written.cut.unwrap_or(rule.cut),
            min_piece: written.min_piece.unwrap_or(rule.min_piece),
            max_pieces: written.max_pieces.unwrap_or(rule.max_pieces),
            max_occurrences: written.max_occurrences.unwrap_or(rule.max_occurrences),
            ..rule
        }
    }
}

impl Decontaminate {
    /// The rule with its own numbers.
    #[must_use]
    pub fn by_rule(rule: ContaminationRule, sets: Vec<EvaluationSet>) -> Self {
        let (ngram, min_ngram, cut, min_piece) = match rule {
            ContaminationRule::English => (13, 8, 200, 200),
            ContaminationRule::Chinese => (30, 16, 60, 60),
        };
        Self {
            sets,
            rule,
            ngram,
            min_ngram,
            cut,
            min_piece,
            max_pieces: 10,
            max_occurrences: 10,
            table: OnceLock::new(),
        }
    }

    fn table(&self) -> Result<Arc<GramTable>, GlobalError> {
        if let Some(table) = self.table.get() {
            return Ok(table.clone());
        }
        if self.min_ngram == 0 || self.ngram < self.min_ngram {
            return Err(GlobalError::Configuration {
                step: "decontaminate",
                message: format!(
                    "ngram = {} and min_ngram = {}; 1 ≤ min_ngram ≤ ngram would work",
                    self.ngram, self.min_ngram
                ),
            });
        }
        // Two threads may both read the sets; the first to end is kept.
        let table = Arc::new(GramTable::load(self)?);
        Ok(self.table.get_or_init(|| table).clone())
    }
}

/// How often an n-gram occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Count {
    gram: u32,
    count: u32,
}

record!(Count, b"gram", gram: u32, count: u32);

fn counts_path(folder: &Path) -> PathBuf {
    folder.join("ngrams.run")
}

/// n-grams found in the corpus, one JSON object a line.
const HITS: &str = "hits.jsonl";

/// One line of the report of what was hit.
#[derive(Debug, Serialize)]
struct Hit<'a> {
    set: &'a str,
    /// Line of the set, from 1.
    line: u32,
    ngram: String,
    occurrences: u64,
    is_ignored: bool,
}

/// The first pass: how often each n-gram occurs.
struct Counter {
    table: Arc<GramTable>,
    folder: PathBuf,
    memory: usize,
    units: Units,
    counts: HashMap<u32, u32>,
}

impl Collect for Counter {
    fn see(&mut self, _: u64, _: Standing, document: &Document) -> Result<(), GlobalError> {
        self.table.units(&document.text, &mut self.units);
        for place in 0..self.units.len() {
            if let Some(found) = self.table.find(&self.units, place, |_| false) {
                *self.counts.entry(found.gram).or_default() += 1;
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), GlobalError> {
        let mut rows = Sorter::new(&self.folder, "ngrams", self.memory);
        for (gram, count) in self.counts {
            rows.push(Count { gram, count })?;
        }
        rows.write(&counts_path(&self.folder))?;
        Ok(())
    }
}

/// The second pass: cuts.
struct Cutter {
    rule: Decontaminate,
    table: Arc<GramTable>,
    ignored: HashSet<u32>,
    units: Units,
}

impl Decide for Cutter {
    fn decide(&mut self, _: u64, document: &mut Document) -> Result<Decision, GlobalError> {
        let text = &document.text;
        self.table.units(text, &mut self.units);
        let mut pieces: Vec<String> = Vec::new();
        // Where the text not yet looked at begins, in bytes, and its first unit.
        let (mut start, mut place) = (0, 0);
        let mut first_set = None;
        let keep = |piece: &str, pieces: &mut Vec<String>| {
            if piece.chars().count() > self.rule.min_piece {
                pieces.push(piece.to_owned());
            }
        };
        while place < self.units.len() {
            let Some(found) = self.table.find(&self.units, place, |gram| self.ignored.contains(&gram)) else {
                place += 1;
                continue;
            };
            first_set.get_or_insert(found.gram);
            let span = self.units.start(place) - start..self.units.end(place + found.length - 1) - start;
            let (before, after) = cut(&text[start..], span, self.rule.cut, self.rule.rule);
            keep(before, &mut pieces);
            if after.chars().count() <= self.rule.min_piece {
                start = text.len();
                break;
            }
            start = text.len() - after.len();
            place = self.units.first_from(start);
        }
        let Some(gram) = first_set else { return Ok(Decision::Keep) };
        if start < text.len() {
            keep(&text[start..], &mut pieces);
        }
        let name = self.table.set_name(gram).to_owned();
        if pieces.len() > self.rule.max_pieces {
            let detail = format!("{name}: {} pieces", pieces.len());
            return Ok(Decision::Remove(Reason::measured("contaminated_pieces", detail)));
        }
        Ok(match pieces.len() {
            0 => Decision::Remove(Reason::measured("contaminated", name)),
            1 => {
                document.text = pieces.remove(0);
                document.metadata.insert("contaminated_by".to_owned(), name.into());
                Decision::Keep
            }
            _ => Decision::Split(pieces),
        })
    }
}

impl GlobalStep for Decontaminate {
    fn name(&self) -> &'static str {
        "decontaminate"
    }

    fn collect(&self, folder: &Path, memory: usize) -> Result<Box<dyn Collect>, GlobalError> {
        Ok(Box::new(Counter {
            table: self.table()?,
            folder: folder.to_owned(),
            memory,
            units: Units::default(),
            counts: HashMap::new(),
        }))
    }

    fn resolve(
        &self,
        shards: &[PathBuf],
        out: &Path,
        memory: usize,
        _: &Joins,
    ) -> Result<Resolution, GlobalError> {
        let paths: Vec<PathBuf> = shards.iter().map(|folder| counts_path(folder)).collect();
        let mut occurrences: Vec<(u32, u64)> = Vec::new();
        for row in merge::<Count>(&paths, memory, out)? {
            let row = row?;
            match occurrences.last_mut() {
                Some((gram, count)) if *gram == row.gram => *count += u64::from(row.count),
                _ => occurrences.push((row.gram, row.count.into())),
            }
        }
        let is_ignored = |count: u64| count > u64::from(self.max_occurrences);
        let mut ignored = Sorter::new(out, "ignored", memory);
        for &(gram, count) in occurrences.iter().filter(|&&(_, count)| is_ignored(count)) {
            ignored.push(Count { gram, count: u32::try_from(count).unwrap_or(u32::MAX) })?;
        }
        let ignored = ignored.write(&counts_path(out))?;
        let path = out.join(HITS);
        let file = File::create(&path).map_err(|error| GlobalError::io("create", &path, error))?;
        let mut file = BufWriter::new(file);
        let mut by_set = serde_json::Map::new();
        let table = self.table()?;
        let mut texts = table.texts(self, occurrences.iter().map(|&(gram, _)| gram))?;
        for &(gram, count) in &occurrences {
            let (set, line) = table.origin(gram);
            let ngram = texts.remove(&gram).unwrap_or_default();
            let hit = Hit { set, line, ngram, occurrences: count, is_ignored: is_ignored(count) };
            serde_json::to_writer(&mut file, &hit)
                .map_err(|error| GlobalError::io("write", &path, error.into()))?;
            file.write_all(b"\n").map_err(|error| GlobalError::io("write", &path, error))?;
            let total = by_set.get(set).and_then(serde_json::Value::as_u64).unwrap_or(0);
            by_set.insert(set.to_owned(), (total + 1).into());
        }
        file.flush().map_err(|error| GlobalError::io("write", &path, error))?;
        let mut counts: Resolution = [
            ("ngrams", table.len() as u64),
            ("ngrams_hit", occurrences.len() as u64),
            ("ngrams_ignored", ignored),
        ]
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect();
        counts.insert("ngrams_hit_by_set".to_owned(), by_set.into());
        Ok(counts)
    }

    fn decide(&self, out: &Path, _: u64) -> Result<Box<dyn Decide>, GlobalError> {
        let rows = RunReader::<Count>::open(&counts_path(out), 1 << 16)?;
        let ignored = rows.map(|row| row.map(|row| row.gram)).collect::<Result<_, _>>()?;
        Ok(Box::new(Cutter { rule: self.clone(), table: self.table()?, ignored, units: Units::default() }))
    }
}

#[cfg(test)]
mod tests;
