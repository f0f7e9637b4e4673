//! A recipe carried out: shard by shard, phase by phase, resumable, the same bytes for any number of threads and
//! processes.
//!
//! ```text
//! phase 0: every shard ──rows──▶ global step decides ──▶ phase 1: every shard ──…──▶ manifest
//! ```
//! Processes meet in the output folder only: a shard's marker says that it is done, `resolution.json` that a global step
//! has decided.

mod inspect;
mod layout;
mod manifest;
mod place;
mod shard;
mod statistics;
mod tokens;
mod upload;

pub use inspect::{Filtered, RemovedDocument, inspect};
pub use manifest::{Manifest, SourceSummary, StepSummary, Totals};
pub use place::Place;
pub use statistics::{Profile, Removed, Sample, Statistics, StepCount, Tally};
pub use tokens::{TokenSummary, TokenizedSource};
pub use upload::{Uploaded, upload};

use crate::CurateError;
use crate::cluster::Joins;
use crate::document::Document;
use crate::global::{Resolution, Standing};
use crate::objects::{Address, Stores};
use crate::readers::{Part, Shard, shards};
use crate::recipe::{Built, Recipe};
use layout::{Layout, Phase};
use serde::{Deserialize, Serialize};
use shard::{Done, Tools, run_shard, write_whole};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Where a cluster inside a process of the run that writes to `out` keeps what it spills and shuffles.
#[must_use]
pub fn cluster_scratch(out: &Path) -> PathBuf {
    Layout { root: out.to_owned() }.cluster()
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// From 0.
    pub phase: usize,
    pub phases: usize,
    /// A global step decides, or other ranks are waited for.
    pub is_waiting: bool,
    /// Of this phase and rank, on disk.
    pub bytes: u64,
    pub bytes_total: u64,
    /// Documents of the last phase.
    pub kept: u64,
    pub removed: u64,
}

/// Told of progress a few times a second, on the calling thread.
pub type Observer<'a> = &'a mut dyn FnMut(&Progress);

#[derive(Default)]
struct Counters {
    bytes: AtomicU64,
    kept: AtomicU64,
    removed: AtomicU64,
}

/// A recipe ready to run on its inputs.
struct Prepared<'a> {
    recipe: &'a Recipe,
    steps: Vec<Built>,
    phases: Vec<Phase>,
    shards: Vec<Shard>,
    /// Where inputs lie in stores.
    stores: Option<Stores>,
    ignored: u64,
    layout: Layout,
    /// Hash of recipe and inputs.
    id: String,
    threads: usize,
    joins: &'a Joins,
    stop: &'a AtomicBool,
    progress: Counters,
}

/// `work/plan.json`.
#[derive(Serialize, Deserialize)]
struct Plan {
    run: String,
    shards: Vec<Shard>,
}

impl Prepared<'_> {
    /// Whether a step applies to the shard's source.
    fn concerns(&self, step: usize, shard: &Shard) -> bool {
        let sources = &self.recipe.steps[step].sources;
        sources.is_empty() || sources.contains(&self.recipe.sources[shard.source].name)
    }

    fn resolution(&self, phase: usize) -> Result<Resolution, CurateError> {
        let path = self.layout.resolution(phase);
        let bytes = std::fs::read(&path).map_err(|error| CurateError::io("read", &path, error))?;
        serde_json::from_slice(&bytes).map_err(|error| CurateError::damaged(&path, error))
    }

    /// A part whose path is on this machine: of an object, a copy in the output folder's `work`, which an earlier start
    /// may have left there.
    fn local<'p>(&self, part: &'p Part, shard: u32) -> Result<Cow<'p, Part>, CurateError> {
        let (Some(object), Some(stores)) = (&part.object, &self.stores) else {
            return Ok(Cow::Borrowed(part));
        };
        let content = blake3::hash(format!("{}\n{}", object.url, object.tag).as_bytes()).to_hex();
        let file = part.name.rsplit('/').next().unwrap_or_default();
        let path = self.layout.fetched(shard).join(format!("{}-{file}", &content[..16]));
        if !path.metadata().is_ok_and(|metadata| metadata.len() == object.bytes) {
            stores.fetch(object, &path)?;
        }
        Ok(Cow::Owned(Part { path, ..part.clone() }))
    }

    /// How good a document is among its copies.
    fn standing(&self, step: usize, shard: &Shard, document: &Document) -> Standing {
        let own = self.recipe.sources[shard.source].priority;
        let mut better: Vec<u16> = self
            .recipe
            .sources
            .iter()
            .map(|source| source.priority)
            .filter(|priority| *priority > own)
            .collect();
        better.sort_unstable();
        better.dedup();
        let quality =
            document.metadata.get(&self.recipe.steps[step].quality).and_then(serde_json::Value::as_f64);
        Standing::new(better.len() as u16, quality.map_or(0.0, |quality| quality as f32))
    }

    /// What a shard has to read in a phase.
    fn bytes_of(&self, phase: &Phase, shard: &Shard) -> u64 {
        match &phase.before {
            None => shard.bytes(),
            Some(before) => {
                let path = self.layout.documents(&self.phases[before.phase], shard, self.recipe);
                path.metadata().map_or(0, |metadata| metadata.len())
            }
        }
    }
}

/// Carries the recipe out in `out`, or goes on where an earlier call stopped. Rank 0 returns the manifest, other ranks
/// none.
///
/// `stop`: once true, the run ends soon with [`CurateError::Interrupted`]; nothing done is lost.
///
/// # Errors
/// When an input cannot be opened, the disk fails, `out` holds another run, or counts do not balance.
pub fn run(
    recipe: &Recipe,
    out: &Path,
    place: Place,
    stop: &AtomicBool,
    observer: Observer<'_>,
) -> Result<Option<Manifest>, CurateError> {
    run_on(recipe, out, place, &Joins::Here, stop, observer)
}

/// As [`run`], with the rows of all shards joined where `joins` says. A run may be gone on with elsewhere than it was begun.
///
/// # Errors
/// As [`run`], and when a cluster cannot be reached or loses rows.
pub fn run_on(
    recipe: &Recipe,
    out: &Path,
    place: Place,
    joins: &Joins,
    stop: &AtomicBool,
    observer: Observer<'_>,
) -> Result<Option<Manifest>, CurateError> {
    run_steps(recipe, recipe.build()?, out, place, joins, stop, observer)
}

/// As [`run_on`], with the steps ready.
fn run_steps(
    recipe: &Recipe,
    steps: Vec<Built>,
    out: &Path,
    place: Place,
    joins: &Joins,
    stop: &AtomicBool,
    observer: Observer<'_>,
) -> Result<Option<Manifest>, CurateError> {
    let (shards, ignored) = shards(recipe)?;
    let inputs = serde_json::to_vec(&shards).expect("names and numbers are JSON");
    let id = blake3::hash(&[recipe.hash().as_bytes(), &inputs].concat()).to_hex()[..32].to_owned();
    let phases = layout::phases(&steps);
    let threads = match recipe.run.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    };
    let layout = Layout { root: out.to_owned() };
    if place.rank == 0 {
        // Rather now than after hours of work.
        upload::check(recipe)?;
    }
    let first = shards.iter().flat_map(|shard| &shard.parts).find_map(|part| part.object.as_ref());
    let stores = match first.map(|object| Address::parse(&object.url)) {
        None => None,
        Some(address) => {
            let address = address.expect("the listing was made of addresses");
            Some(Stores::open("read", &address, std::env::vars())?)
        }
    };
    let run = Prepared {
        recipe,
        steps,
        phases,
        shards,
        stores,
        ignored,
        layout,
        id,
        threads,
        joins,
        stop,
        progress: Counters::default(),
    };
    claim(&run, place)?;
    for phase in &run.phases {
        run_phase(&run, phase, place, observer)?;
    }
    if place.rank != 0 {
        return Ok(None);
    }
    let mut manifest = account(&run)?;
    // All shards are done: what is temporary now is of ranks that were killed.
    sweep(&run.layout.root)?;
    remove_folder(&run.layout.cluster())?;
    if !recipe.tokens.tokenizer.is_empty() {
        manifest.tokens = Some(tokens::write_tokens(&run, &recipe.tokens, &manifest)?);
    }
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is JSON");
    write_whole(&run.layout.manifest(), &json)?;
    if !recipe.run.keep_intermediate {
        for phase in run.phases.iter().filter(|phase| phase.after.is_some()) {
            remove_folder(&run.layout.between(phase.number))?;
            remove_folder(&run.layout.rows_folder(phase.number))?;
        }
    }
    Ok(Some(manifest))
}

/// Makes the output folder this run's, or says that it is another's.
fn claim(run: &Prepared<'_>, place: Place) -> Result<(), CurateError> {
    let path = run.layout.plan();
    match std::fs::read(&path) {
        Ok(bytes) => {
            let plan: Plan =
                serde_json::from_slice(&bytes).map_err(|error| CurateError::damaged(&path, error))?;
            if plan.run != run.id {
                let message = "the folder holds a run of another recipe or other inputs (its recipe.toml and \
                               work/plan.json say which); choose another folder, or remove it";
                return Err(CurateError::Output { path: run.layout.root.clone(), message: message.into() });
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if place.world == 1 && !is_free(&run.layout.root)? {
                let message = "the folder is not empty and holds no run; choose a new one";
                return Err(CurateError::Output { path: run.layout.root.clone(), message: message.into() });
            }
            if place.rank == 0 {
                let plan = Plan { run: run.id.clone(), shards: run.shards.clone() };
                write_whole(&path, &serde_json::to_vec(&plan).expect("a plan is JSON"))?;
            }
        }
        Err(error) => return Err(CurateError::io("read", &path, error)),
    }
    if place.rank == 0 && !run.layout.recipe().exists() {
        write_whole(&run.layout.recipe(), run.recipe.to_toml().as_bytes())?;
    }
    if place.world == 1 { sweep(&run.layout.root) } else { Ok(()) }
}

/// Whether a folder does not exist, is empty, or holds only what a run leaves that is killed before it has a plan.
fn is_free(root: &Path) -> Result<bool, CurateError> {
    let list = |folder: &Path| match folder.read_dir() {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let work = root.join("work");
    let fault = |error| CurateError::io("read", root, error);
    if list(root).map_err(fault)?.iter().any(|path| *path != work) {
        return Ok(false);
    }
    let is_temporary = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "tmp");
    Ok(list(&work).map_err(fault)?.iter().all(is_temporary))
}

/// Removes temporary files that a killed process has left.
fn sweep(folder: &Path) -> Result<(), CurateError> {
    let fault = |error| CurateError::io("read", folder, error);
    for entry in folder.read_dir().map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(fault)?);
        if kind.is_dir() {
            sweep(&path)?;
        } else if kind.is_file() && path.extension().is_some_and(|ending| ending == "tmp") {
            std::fs::remove_file(&path).map_err(|error| CurateError::io("remove", &path, error))?;
        }
    }
    Ok(())
}

fn run_phase(
    run: &Prepared<'_>,
    phase: &Phase,
    place: Place,
    observer: Observer<'_>,
) -> Result<(), CurateError> {
    if phase.after.is_some_and(|_| run.layout.resolution(phase.number).exists()) {
        return Ok(());
    }
    let own: Vec<&Shard> = run.shards.iter().filter(|shard| place.has(shard.number)).collect();
    let bytes_total = own.iter().map(|shard| run.bytes_of(phase, shard)).sum();
    run.progress.bytes.store(0, Ordering::Relaxed);
    let progress = |is_waiting| Progress {
        phase: phase.number,
        phases: run.phases.len(),
        is_waiting,
        bytes: run.progress.bytes.load(Ordering::Relaxed),
        bytes_total,
        kept: run.progress.kept.load(Ordering::Relaxed),
        removed: run.progress.removed.load(Ordering::Relaxed),
    };
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let work = || {
            let mut tools = Tools::new(run);
            while let Some(shard) = own.get(next.fetch_add(1, Ordering::Relaxed)) {
                if failed.load(Ordering::Relaxed) || run.stop.load(Ordering::Relaxed) {
                    return Ok::<(), CurateError>(());
                }
                run_shard(run, phase, shard, &mut tools)
                    .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..run.threads.min(own.len())).map(|_| scope.spawn(work)).collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            observer(&progress(false));
            std::thread::park_timeout(Duration::from_millis(50));
        }
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    if run.stop.load(Ordering::Relaxed) {
        return Err(CurateError::Interrupted);
    }
    observer(&progress(true));
    let markers: Vec<PathBuf> =
        run.shards.iter().map(|shard| run.layout.marker(phase, shard.number)).collect();
    let wait = |paths: &[PathBuf], observer: Observer<'_>| {
        wait_for(run, place, paths, &mut || observer(&progress(true)))
    };
    if place.rank == 0 {
        wait(&markers, observer)?;
        if let Some(step) = phase.after {
            decide(run, phase, step)?;
        }
        Ok(())
    } else if phase.after.is_some() {
        wait(&[run.layout.resolution(phase.number)], observer)
    } else {
        Ok(())
    }
}

/// Until all files are there; gives up when none comes for as long as the place has patience.
fn wait_for(
    run: &Prepared<'_>,
    place: Place,
    paths: &[PathBuf],
    tell: &mut dyn FnMut(),
) -> Result<(), CurateError> {
    let (mut since, mut missing) = (Instant::now(), usize::MAX);
    loop {
        let now: Vec<&PathBuf> = paths.iter().filter(|path| !path.exists()).collect();
        let Some(first) = now.first() else { return Ok(()) };
        if run.stop.load(Ordering::Relaxed) {
            return Err(CurateError::Interrupted);
        }
        if now.len() != missing {
            (since, missing) = (Instant::now(), now.len());
        }
        if since.elapsed() > place.patience {
            let message = format!(
                "{} such files have not come for {} s; start the ranks that make them, then this one again",
                now.len(),
                place.patience.as_secs()
            );
            return Err(CurateError::Output { path: (*first).clone(), message });
        }
        tell();
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn decide(run: &Prepared<'_>, phase: &Phase, step: usize) -> Result<(), CurateError> {
    let layout = &run.layout;
    let Built::Global(global) = &run.steps[step] else {
        unreachable!("a phase ends with a global step");
    };
    let out = layout.decisions(phase.number);
    remove_folder(&out)?;
    create_folder(&out)?;
    let rows: Vec<PathBuf> = run.shards.iter().map(|shard| layout.rows(phase, shard.number)).collect();
    let resolution = global.resolve(&rows, &out, run.recipe.run.memory_mb * 1_000_000, run.joins)?;
    write_whole(&layout.resolution(phase.number), &serde_json::to_vec(&resolution).expect("figures are JSON"))
}

fn create_folder(path: &Path) -> Result<(), CurateError> {
    std::fs::create_dir_all(path).map_err(|error| CurateError::io("create", path, error))
}

fn remove_folder(path: &Path) -> Result<(), CurateError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(CurateError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// The manifest out of all markers.
fn account(run: &Prepared<'_>) -> Result<Manifest, CurateError> {
    let (mut all, mut resolutions) = (Vec::new(), BTreeMap::new());
    for phase in &run.phases {
        let mut done: Vec<Done> = Vec::new();
        for shard in &run.shards {
            let marker = run.layout.marker(phase, shard.number);
            let found = shard::load(&marker, &run.id)?;
            done.push(
                found.ok_or_else(|| CurateError::damaged(&marker, "a shard that was done has no marker"))?,
            );
        }
        all.push((phase, done));
        if let Some(step) = phase.after {
            resolutions.insert(step, run.resolution(phase.number)?);
        }
    }
    Manifest::new(run, &all, &resolutions)
}

#[cfg(test)]
mod tests;
