//! `triax bench curate --step minhash|dedup`: signatures of documents in memory, and a whole deduplication from files to files.

use super::bench_curate::{Measured, Outcome, RUNS, failed, recipe, records};
use crate::arguments::{BenchCurate, TextLanguage};
use crate::failure::{Failure, with_causes};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;
use triax_curate::pipeline::{Manifest, Place, run};
use triax_curate::readers::Record;
use triax_curate::{MinHashDedup, Recipe, Segmenter};

/// How well planted copies were found: documents whose metadata `cluster` is the same number, 0 or more, are copies.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Agreement {
    /// Of the removed documents, those with a copy among the kept.
    pub(crate) precision: f64,
    /// Of the planted copies, those that were removed.
    pub(crate) recall: f64,
}

fn step(language: TextLanguage) -> MinHashDedup {
    let words = match language {
        TextLanguage::En => Segmenter::English,
        TextLanguage::Zh => Segmenter::Chinese,
    };
    MinHashDedup { words, ..MinHashDedup::default() }
}

/// Texts in memory to signatures.
pub(crate) fn minhash(arguments: &BenchCurate, threads: usize) -> Result<Outcome, Failure> {
    let mut texts = Vec::new();
    records(&recipe(arguments)?, &mut |record| {
        if let Record::Text(document) = record {
            texts.push(document.text);
        }
    })
    .map_err(|error| failed(&error))?;
    let step = step(arguments.language);
    let bytes = texts.iter().map(|text| text.len() as u64).sum();
    let mut best: Option<Measured> = None;
    for _ in 0..=RUNS {
        let (next, signed) = (AtomicUsize::new(0), AtomicU64::new(0));
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let (mut shingler, signer) = (step.shingler(), step.signer());
                    let (mut shingles, mut signature) = (Vec::new(), Vec::new());
                    while let Some(text) = texts.get(next.fetch_add(1, Ordering::Relaxed)) {
                        shingler.shingles(text, &mut shingles);
                        if !shingles.is_empty() {
                            signer.sign(&shingles, &mut signature);
                            signed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let seconds = begin.elapsed().as_secs_f64();
        // The first run, which loads dictionaries, is never the fastest.
        if best.is_none_or(|best| seconds < best.seconds) {
            best =
                Some(Measured { documents: texts.len() as u64, bytes, kept: signed.into_inner(), seconds });
        }
    }
    Ok(Outcome::new("minhash", "text", threads, best.expect("there is at least one run")))
}

/// Files to deduplicated files, by a recipe of one step with the bands of crawl-en or crawl-zh; once, since everything is
/// read and written.
pub(crate) fn dedup(arguments: &BenchCurate, threads: usize) -> Result<Outcome, Failure> {
    let folder = std::env::temp_dir().join(format!("triax-bench-dedup-{}", std::process::id()));
    let measured = dedup_in(&folder, arguments, threads);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .map_err(|error| Failure::run(format!("cannot remove {}: {error}", folder.display())))?;
    }
    measured
}

fn dedup_in(folder: &Path, arguments: &BenchCurate, threads: usize) -> Result<Outcome, Failure> {
    let (words, bands) = match arguments.language {
        TextLanguage::En => ("english", 14),
        TextLanguage::Zh => ("chinese", 20),
    };
    let path =
        toml::Value::String(std::path::absolute(&arguments.input).map_or_else(
            |_| arguments.input.display().to_string(),
            |path: PathBuf| path.display().to_string(),
        ));
    let text = format!(
        "[[source]]\nname = \"input\"\npaths = [{path}]\n[[step]]\nkind = \"minhash_dedup\"\nwords = \"{words}\"\n\
         bands = {bands}\n[run]\nthreads = {threads}\nshard_mb = 64\n"
    );
    let recipe = Recipe::parse("bench", &text, &arguments.overrides)
        .map_err(|error| Failure::usage(with_causes(&error)))?;
    let begin = Instant::now();
    let manifest = run(&recipe, folder, Place::WHOLE, &AtomicBool::new(false), &mut |_| ())
        .map_err(|error| failed(&error))?
        .expect("the only rank makes the manifest");
    let seconds = begin.elapsed().as_secs_f64();
    let mut planted = Clusters::default();
    let mut bytes = 0;
    records(&recipe, &mut |record| {
        if let Record::Text(document) = record {
            bytes += document.text.len() as u64;
            planted.count(document.metadata.get("cluster"));
        }
    })
    .map_err(|error| failed(&error))?;
    let kept = kept(folder, &manifest)?;
    let documents = planted.documents;
    let measured = Measured { documents, bytes, kept: kept.documents, seconds };
    let mut outcome = Outcome::new("dedup", "text", threads, measured);
    outcome.agreement = planted.agreement(&kept);
    Ok(outcome)
}

/// Documents by cluster.
#[derive(Default)]
struct Clusters {
    documents: u64,
    members: BTreeMap<u64, u64>,
}

impl Clusters {
    fn count(&mut self, cluster: Option<&serde_json::Value>) {
        self.documents += 1;
        if let Some(cluster) = cluster.and_then(serde_json::Value::as_u64) {
            *self.members.entry(cluster).or_default() += 1;
        }
    }

    /// None where nothing was planted.
    fn agreement(&self, kept: &Self) -> Option<Agreement> {
        let removed = self.documents - kept.documents;
        let copies: u64 = self.members.values().map(|count| count - 1).sum();
        let left = |cluster| kept.members.get(cluster).copied().unwrap_or(0).max(1);
        let right: u64 = self.members.iter().map(|(cluster, count)| count - left(cluster)).sum();
        (copies > 0).then(|| Agreement {
            precision: right as f64 / removed.max(1) as f64,
            recall: right as f64 / copies as f64,
        })
    }
}

fn kept(folder: &Path, manifest: &Manifest) -> Result<Clusters, Failure> {
    let mut kept = Clusters::default();
    for file in manifest.sources.iter().flat_map(|source| &source.files) {
        let path = folder.join(&file.path);
        let paths = toml::Value::String(path.display().to_string());
        let text = format!("[[source]]\nname = \"kept\"\nformat = \"jsonl\"\npaths = [{paths}]\n");
        let recipe = Recipe::parse("kept", &text, &[]).map_err(|error| Failure::run(with_causes(&error)))?;
        records(&recipe, &mut |record| {
            if let Record::Text(document) = record {
                // What was metadata is one field of a written document.
                let metadata = document.metadata.get("metadata").unwrap_or(&serde_json::Value::Null);
                kept.count(metadata.get("cluster").or_else(|| document.metadata.get("cluster")));
            }
        })
        .map_err(|error| failed(&error))?;
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precision_and_recall_count_copies() {
        let mut all = Clusters::default();
        let mut kept = Clusters::default();
        // Three, two, and two documents of their own.
        for cluster in [0, 0, 0, 1, 1] {
            all.count(Some(&cluster.into()));
        }
        (0..2).for_each(|_| all.count(Some(&(-1).into())));
        // One of each stays, and one of their own was removed by mistake.
        for cluster in [0, 1, 1] {
            kept.count(Some(&cluster.into()));
        }
        kept.count(None);
        let agreement = all.agreement(&kept).unwrap();
        assert_eq!((agreement.precision, agreement.recall), (2.0 / 3.0, 2.0 / 3.0));
    }
}
