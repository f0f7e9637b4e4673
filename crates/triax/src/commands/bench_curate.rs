//! `triax bench curate`: how fast one step of curation is on this machine, on documents in memory.

use super::bench_dedup::{self, Agreement};
use crate::arguments::{BenchCurate, CurateStep};
use crate::console::json_line;
use crate::failure::{Failure, with_causes};
use crate::machine;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;
use triax_curate::readers::{Record, read, shards};
use triax_curate::{CurateError, Recipe, Scratch, Verdict};
use triax_data::{Reading, Tokenizer, TokenizerKind, sample_texts};

/// Runs, of which the fastest counts: anything slower is another process's time.
pub(super) const RUNS: usize = 3;

/// A tokenizer that is trained for the measurement: its vocabulary, and bytes of text it is trained on.
const VOCABULARY: usize = 32_768;
const TRAINING_TEXT: u64 = 16 << 20;

/// What one step did, the way every step reports it.
#[derive(Serialize)]
pub(crate) struct Outcome {
    pub(crate) step: &'static str,
    /// Of what `bytes` counts, in 10⁶ bytes.
    pub(crate) mb_per_s: f64,
    pub(crate) docs_per_s: f64,
    pub(crate) threads: usize,
    pub(crate) peak_rss_mb: Option<f64>,
    pub(crate) documents: u64,
    pub(crate) bytes: u64,
    /// What `bytes` counts: "HTML", "text", "archive on disk".
    pub(crate) unit: &'static str,
    pub(crate) seconds: f64,
    /// Documents that came out.
    pub(crate) kept: u64,
    /// Where copies were planted.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(crate) agreement: Option<Agreement>,
}

impl Outcome {
    pub(crate) fn new(step: &'static str, unit: &'static str, threads: usize, measured: Measured) -> Self {
        let Measured { documents, bytes, kept, seconds } = measured;
        Self {
            step,
            mb_per_s: bytes as f64 / seconds / 1e6,
            docs_per_s: documents as f64 / seconds,
            threads,
            peak_rss_mb: machine::peak_rss_mb(),
            documents,
            bytes,
            unit,
            seconds,
            kept,
            agreement: None,
        }
    }
}

/// The fastest of several runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) documents: u64,
    pub(crate) bytes: u64,
    pub(crate) kept: u64,
    pub(crate) seconds: f64,
}

pub(crate) fn run(arguments: &BenchCurate) -> Result<(), Failure> {
    let threads = match arguments.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let outcome = match arguments.step {
        CurateStep::Read => read_archives(arguments)?,
        CurateStep::Extract => extract(arguments, threads)?,
        CurateStep::Filters => filters(arguments, threads)?,
        CurateStep::Minhash => bench_dedup::minhash(arguments, threads)?,
        CurateStep::Dedup => bench_dedup::dedup(arguments, threads)?,
        CurateStep::Tokenize => tokenize(arguments, threads)?,
    };
    eprintln!(
        "{}: {:.2} MB/s of {}, {:.0} documents/s on {} threads",
        outcome.step, outcome.mb_per_s, outcome.unit, outcome.docs_per_s, outcome.threads
    );
    if arguments.json { json_line(&outcome) } else { Ok(()) }
}

/// A recipe with one source of the input and no steps, for reading it.
pub(super) fn recipe(arguments: &BenchCurate) -> Result<Recipe, Failure> {
    let path = toml::Value::String(arguments.input.display().to_string());
    let text = format!("[[source]]\nname = \"input\"\npaths = [{path}]\n");
    Recipe::parse("bench", &text, &arguments.overrides).map_err(|error| Failure::usage(with_causes(&error)))
}

pub(super) fn records(recipe: &Recipe, each: &mut dyn FnMut(Record)) -> Result<(), CurateError> {
    let (shards, _) = shards(recipe)?;
    for part in shards.iter().flat_map(|shard| &shard.parts) {
        read(part, &recipe.sources[0], &recipe.limits, &mut |record, _| {
            each(record);
            Ok(())
        })?;
    }
    Ok(())
}

pub(super) fn failed(error: &CurateError) -> Failure {
    Failure::run(with_causes(error))
}

/// Reading alone: bytes on disk, on one thread.
fn read_archives(arguments: &BenchCurate) -> Result<Outcome, Failure> {
    let recipe = recipe(arguments)?;
    let (all, _) = shards(&recipe).map_err(|error| failed(&error))?;
    let bytes = all.iter().map(triax_curate::readers::Shard::bytes).sum();
    let mut best: Option<Measured> = None;
    for _ in 0..RUNS {
        let (mut documents, mut kept) = (0, 0);
        let begin = Instant::now();
        records(&recipe, &mut |record| {
            documents += 1;
            kept += u64::from(!matches!(record, Record::Bad { .. }));
        })
        .map_err(|error| failed(&error))?;
        let seconds = begin.elapsed().as_secs_f64();
        if best.is_none_or(|best| seconds < best.seconds) {
            best = Some(Measured { documents, bytes, kept, seconds });
        }
    }
    Ok(Outcome::new("read", "files on disk", 1, best.expect("there is at least one run")))
}

/// Files to token files, reading and writing included.
fn tokenize(arguments: &BenchCurate, threads: usize) -> Result<Outcome, Failure> {
    let fault = |error: triax_data::DataError| Failure::run(with_causes(&error));
    let inputs = [arguments.input.clone()];
    let reading = Reading::default();
    let tokenizer = match &arguments.tokenizer {
        Some(path) => Tokenizer::load(path).map_err(fault)?,
        None => {
            let texts = sample_texts(&inputs, &reading, TRAINING_TEXT).map_err(fault)?;
            Tokenizer::train(TokenizerKind::Bpe, VOCABULARY, texts.iter()).map_err(fault)?
        }
    };
    let folder = std::env::temp_dir().join(format!("triax-bench-{}", std::process::id()));
    crate::files::create_folder(&folder)?;
    let mut best: Option<Measured> = None;
    let mut measure = || -> Result<(), Failure> {
        for _ in 0..RUNS {
            let begin = Instant::now();
            let made =
                triax_data::tokenize(&inputs, &tokenizer, &folder.join("tokens"), &reading, threads, |_| ())
                    .map_err(fault)?;
            let seconds = begin.elapsed().as_secs_f64();
            if best.is_none_or(|best| seconds < best.seconds) {
                let (documents, bytes) = (made.documents, made.text_bytes);
                best = Some(Measured { documents, bytes, kept: documents, seconds });
            }
        }
        Ok(())
    };
    let measured = measure();
    let removed = std::fs::remove_dir_all(&folder);
    measured?;
    removed.map_err(|error| Failure::run(format!("cannot remove {}: {error}", folder.display())))?;
    Ok(Outcome::new("tokenize", "text", threads, best.expect("there is at least one run")))
}

/// Texts in memory through a chain of filters, until one removes them.
fn filters(arguments: &BenchCurate, threads: usize) -> Result<Outcome, Failure> {
    let chain = triax_curate::filters::chain(&arguments.chain)
        .map_err(|error| Failure::usage(with_causes(&error)))?;
    let recipe = recipe(arguments)?;
    let mut documents = Vec::new();
    records(&recipe, &mut |record| {
        if let Record::Text(document) = record {
            documents.push(document);
        }
    })
    .map_err(|error| failed(&error))?;
    if documents.is_empty() {
        return Err(Failure::usage(format!("no texts in {}", arguments.input.display()))
            .help("--input takes JSON lines, Parquet, WET archives, text files"));
    }
    let bytes = documents.iter().map(|document| document.text.len() as u64).sum();
    let mut best: Option<Measured> = None;
    // The first run also loads dictionaries.
    for _ in 0..RUNS {
        let (next, kept) = (AtomicUsize::new(0), AtomicU64::new(0));
        let begin = Instant::now();
        std::thread::scope(|scope| {
            let work = || {
                let mut scratch = Scratch::default();
                while let Some(document) = documents.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut document = document.clone();
                    let stays =
                        chain.iter().all(|filter| filter.apply(&mut document, &mut scratch) == Verdict::Keep);
                    kept.fetch_add(u64::from(stays), Ordering::Relaxed);
                }
            };
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
        let seconds = begin.elapsed().as_secs_f64();
        if best.is_none_or(|best| seconds < best.seconds) {
            best =
                Some(Measured { documents: documents.len() as u64, bytes, kept: kept.into_inner(), seconds });
        }
    }
    Ok(Outcome::new("filters", "text", threads, best.expect("there is at least one run")))
}

/// Pages in memory to main texts.
fn extract(arguments: &BenchCurate, threads: usize) -> Result<Outcome, Failure> {
    let recipe = recipe(arguments)?;
    let mut pages = Vec::new();
    records(&recipe, &mut |record| {
        if let Record::Page { document, html, charset } = record {
            pages.push((html, charset, document.url));
        }
    })
    .map_err(|error| failed(&error))?;
    if pages.is_empty() {
        return Err(Failure::usage(format!("no HTML pages in {}", arguments.input.display()))
            .help("--input takes a web archive, or a folder of .html files"));
    }
    let extractor = triax_curate::extract::extractor(&recipe.extract);
    let bytes = pages.iter().map(|(html, ..)| html.len() as u64).sum();
    let mut best: Option<Measured> = None;
    for _ in 0..RUNS {
        let (next, kept) = (AtomicUsize::new(0), AtomicU64::new(0));
        let begin = Instant::now();
        std::thread::scope(|scope| {
            let work = || {
                while let Some((html, charset, url)) = pages.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (charset, url) = (charset.as_deref(), url.as_deref());
                    let found =
                        triax_curate::extract::extract(html, charset, url, &recipe.extract, &*extractor);
                    kept.fetch_add(u64::from(found.is_ok()), Ordering::Relaxed);
                }
            };
            for _ in 0..threads {
                let thread = std::thread::Builder::new().stack_size(triax_curate::extract::STACK);
                thread.spawn_scoped(scope, work).expect("a machine that runs this can start its threads");
            }
        });
        let seconds = begin.elapsed().as_secs_f64();
        if best.is_none_or(|best| seconds < best.seconds) {
            best = Some(Measured { documents: pages.len() as u64, bytes, kept: kept.into_inner(), seconds });
        }
    }
    Ok(Outcome::new("extract", "HTML", threads, best.expect("there is at least one run")))
}
