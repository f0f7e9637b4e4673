//! Near copies by MinHash and locality-sensitive hashing (FineWeb's recipe: 112 = 14 × 8 functions over 5-grams of words).
//!
//! ```text
//! text ─normalize─▶ words ─▶ shingles ─▶ signature ─▶ 14 keys ─▶ sorted rows (key, document)
//!                                                                   │ equal keys side by side
//!              members ◀─ components ◀─ (true Jaccard similarity?) ◀┘ pairs
//! ```
//!
//! Documents of Jaccard similarity s meet with probability 1 − (1 − s⁸)¹⁴: 0.57 at 0.7, 0.92 at 0.8, 0.99 at 0.85.

pub(crate) mod class;
mod components;
mod normalize;
mod shingles;
mod signature;
mod similarity;
mod twister;
mod words;

pub use normalize::Normalizer;
pub use shingles::{ShingleHash, ShingleUnit, Shingler};
pub use signature::Signer;
pub use words::Segmenter;

use super::members::{Members, members_path};
use super::relations::{self, KeyCounts};
use crate::cluster::{Cluster, Joins};
use crate::document::Document;
use crate::global::{Collect, Decide, GlobalError, GlobalStep, Resolution, Standing};
use crate::runs::{RunError, RunReader, RunWriter, Sorter, merge, record};
use components::{Candidate, Edge, documents_of, write_members};
use serde::{Deserialize, Serialize};
use similarity::{SetWriter, Sets};
use std::path::{Path, PathBuf};

/// `[[step]] kind = "minhash_dedup"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MinHashDedup {
    pub shingle: ShingleUnit,
    /// Words or characters in a shingle.
    pub shingle_size: usize,
    pub words: Segmenter,
    pub hash: ShingleHash,
    pub bands: usize,
    /// Functions in a band.
    pub rows: usize,
    /// Of NumPy's `RandomState`.
    pub seed: u32,
    /// Pairs below this Jaccard similarity, found out exactly, are no copies. Takes 4 bytes of disk a shingle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jaccard: Option<f64>,
}

impl Default for MinHashDedup {
    fn default() -> Self {
        Self {
            shingle: ShingleUnit::Words,
            shingle_size: 5,
            words: Segmenter::English,
            hash: ShingleHash::Xxh64,
            bands: 14,
            rows: 8,
            seed: 1,
            jaccard: None,
        }
    }
}

impl MinHashDedup {
    /// What makes shingles of texts.
    #[must_use]
    pub fn shingler(&self) -> Shingler {
        Shingler::new(self.shingle, self.shingle_size, self.hash, self.words)
    }

    /// What makes signatures of shingles.
    #[must_use]
    pub fn signer(&self) -> Signer {
        Signer::new(self.bands, self.rows, self.seed, self.hash.is_narrow())
    }

    fn check(&self) -> Result<(), GlobalError> {
        let fault = |message: String| Err(GlobalError::Configuration { step: "minhash_dedup", message });
        if self.bands == 0 || self.rows == 0 || self.shingle_size == 0 {
            return fault("bands, rows and shingle_size must be at least 1".into());
        }
        match self.jaccard {
            Some(least) if !(0.0..=1.0).contains(&least) => {
                fault(format!("jaccard = {least} is not between 0 and 1"))
            }
            _ => Ok(()),
        }
    }
}

/// A band of a document's signature. Keys of different bands differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Band {
    key: u64,
    document: u64,
}

record!(Band, b"band", key: u64, document: u64);

fn bands_path(folder: &Path) -> PathBuf {
    folder.join("bands.run")
}

fn candidates_path(folder: &Path) -> PathBuf {
    folder.join("candidates.run")
}

struct Signatures {
    folder: PathBuf,
    shingler: Shingler,
    signer: Signer,
    bands: Sorter<Band>,
    candidates: RunWriter<Candidate>,
    sets: Option<SetWriter>,
    shingles: Vec<u64>,
    signature: Vec<u64>,
}

impl Collect for Signatures {
    fn see(&mut self, number: u64, standing: Standing, document: &Document) -> Result<(), GlobalError> {
        self.shingler.shingles(&document.text, &mut self.shingles);
        if self.shingles.is_empty() {
            return Ok(());
        }
        self.signer.sign(&self.shingles, &mut self.signature);
        for key in self.signer.bands(&self.signature) {
            self.bands.push(Band { key, document: number })?;
        }
        let (rank, worse) = standing.parts();
        self.candidates.push(Candidate { document: number, rank, worse })?;
        if let Some(sets) = &mut self.sets {
            sets.push(number, &self.shingles)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), GlobalError> {
        if let Some(sets) = self.sets {
            sets.finish()?;
        }
        self.candidates.finish()?;
        self.bands.write(&bands_path(&self.folder))?;
        Ok(())
    }
}

impl GlobalStep for MinHashDedup {
    fn name(&self) -> &'static str {
        "minhash_dedup"
    }

    fn collect(&self, folder: &Path, memory: usize) -> Result<Box<dyn Collect>, GlobalError> {
        self.check()?;
        Ok(Box::new(Signatures {
            folder: folder.to_owned(),
            shingler: self.shingler(),
            signer: self.signer(),
            bands: Sorter::new(folder, "bands", memory),
            candidates: RunWriter::create(&candidates_path(folder))?,
            sets: self.jaccard.map(|_| SetWriter::create(folder)).transpose()?,
            shingles: Vec::new(),
            signature: Vec::new(),
        }))
    }

    fn share(&self, folder: &Path, cluster: &Cluster) -> Result<(), GlobalError> {
        cluster.share::<Band>(&bands_path(folder))
    }

    fn resolve(
        &self,
        shards: &[PathBuf],
        out: &Path,
        memory: usize,
        joins: &Joins,
    ) -> Result<Resolution, GlobalError> {
        self.check()?;
        let paths: Vec<PathBuf> = shards.iter().map(|folder| bands_path(folder)).collect();
        let mut pairs = Sorter::new(out, "pairs", memory / 2);
        // Pairs with the first of the band and, where pairs are looked at, with the one before: a chain alone would break
        // where one of its pairs turns out to be dissimilar, and all pairs of a band of millions cannot be looked at.
        let neighbours = self.jaccard.is_some();
        let mut see = |first, second| Ok(pairs.push(Edge { first, second })?);
        let bands = match joins {
            Joins::Here => meetings(&paths, memory / 2, out, neighbours, &mut see)?,
            Joins::Cluster(cluster) => relations::pairs::<Band>(cluster, &paths, out, neighbours, &mut see)?,
        };
        let mut path = out.join("pairs.run");
        let candidates = write_pairs(&path, pairs.sorted()?, |_| Ok(true))?;
        let mut similar = candidates;
        if let Some(least) = self.jaccard {
            let mut sets = Sets::open(shards, &documents_of(&path, out, memory / 2)?)?;
            let all = RunReader::open(&path, BUFFER)?;
            path = out.join("similar.run");
            similar = write_pairs(&path, all, |pair| Ok(sets.jaccard(pair.first, pair.second)? >= least))?;
        }
        let candidate_rows = shards.iter().map(|folder| RunReader::open(&candidates_path(folder), BUFFER));
        let candidate_rows = candidate_rows.collect::<Result<Vec<RunReader<Candidate>>, _>>()?;
        let documents: u64 = candidate_rows.iter().map(RunReader::count).sum();
        let found =
            write_members(&path, candidate_rows.into_iter().flatten(), out, memory / 2, &members_path(out))?;
        let counts = [
            ("documents", documents),
            ("bands", bands.counted),
            ("largest_band", bands.largest),
            ("candidate_pairs", candidates),
            ("dissimilar_pairs", candidates - similar),
            ("clusters", found.clusters),
            ("removed", found.removed),
            ("largest_cluster", found.largest),
        ];
        Ok(counts.into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect())
    }

    fn decide(&self, out: &Path, first: u64) -> Result<Box<dyn Decide>, GlobalError> {
        Ok(Box::new(Members::open(out, first, "minhash_duplicate", "minhash_cluster_size")?))
    }
}

/// Bytes read from a run at a time.
const BUFFER: usize = 1 << 18;

/// Hands over pairs of documents in one band, by a merge of the runs at `paths`: each with the band's first, and where
/// `neighbours` are wanted with the one before.
fn meetings(
    paths: &[PathBuf],
    memory: usize,
    out: &Path,
    neighbours: bool,
    see: &mut dyn FnMut(u64, u64) -> Result<(), GlobalError>,
) -> Result<KeyCounts, GlobalError> {
    let (mut counts, mut length) = (KeyCounts::default(), 0u64);
    // First and last document of the band under way.
    let mut band: Option<(Band, u64)> = None;
    for row in merge::<Band>(paths, memory, out)? {
        let row = row?;
        counts.counted += 1;
        match &mut band {
            Some((first, last)) if first.key == row.key => {
                length += 1;
                see(first.document, row.document)?;
                if neighbours && *last != first.document {
                    see(*last, row.document)?;
                }
                *last = row.document;
            }
            _ => {
                length = 1;
                counts.keys += 1;
                band = Some((row, row.document));
            }
        }
        counts.largest = counts.largest.max(length);
    }
    Ok(counts)
}

/// Writes each pair that is to be kept, once, and says how many there are.
fn write_pairs(
    path: &Path,
    pairs: impl Iterator<Item = Result<Edge, RunError>>,
    mut is_kept: impl FnMut(Edge) -> Result<bool, GlobalError>,
) -> Result<u64, GlobalError> {
    let mut writer = RunWriter::create(path)?;
    let mut last = None;
    for pair in pairs {
        let pair = pair?;
        if last.replace(pair) != Some(pair) && is_kept(pair)? {
            writer.push(pair)?;
        }
    }
    Ok(writer.finish()?)
}

#[cfg(test)]
mod tests;
