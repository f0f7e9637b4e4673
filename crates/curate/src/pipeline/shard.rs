//! One shard through one phase: a pure function of its input and the recipe, written whole or not at all.
//!
//! ```text
//! input ─▶ read, extract ─▶ decisions of the global step before ─▶ local steps ─▶ documents, rows for the one after
//!             └──────────────────────────┴───────────────────────────────┴──▶ removed/<step>/
//! ```
//! The done-marker is written last; what has one is never done again.

use super::Prepared;
use super::layout::Phase;
use super::statistics::Statistics;
use crate::CurateError;
use crate::cluster::Joins;
use crate::document::Document;
use crate::extract::Worker;
use crate::global::{Collect, Decide, Decision};
use crate::readers::{Record, Shard, read};
use crate::recipe::Built;
use crate::step::{Reason, Scratch, Verdict};
use crate::writers::{DocumentFile, LinesFile, Written, hash_of};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::atomic::Ordering;
use triax_data::AtomicFile;

/// What a finished shard leaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Done {
    /// Of recipe and inputs; a marker of another run is no marker.
    pub(super) run: String,
    /// Kept documents.
    pub(super) documents: Written,
    pub(super) removed: Vec<Written>,
    pub(super) statistics: Statistics,
}

/// Names of the steps that every recipe has.
pub(super) const READ: &str = "read";
pub(super) const EXTRACT: &str = "extract";

/// Of removed documents: written often, read seldom.
const REMOVED_LEVEL: i32 = 1;

/// One thread's tools.
pub(super) struct Tools {
    extraction: Worker,
    scratch: Scratch,
}

impl Tools {
    pub(super) fn new(run: &Prepared<'_>) -> Self {
        Self { extraction: Worker::new(&run.recipe.extract), scratch: Scratch::default() }
    }
}

/// Bits of a document's number that count within a shard.
const PLACE: u32 = 40;

/// The number of a shard's document: it rises through the corpus.
const fn number(shard: u32, place: u64) -> u64 {
    (shard as u64) << PLACE | place
}

/// A removed document as a line of `removed/`.
#[derive(Serialize)]
struct RemovedLine<'a> {
    #[serde(flatten)]
    reason: &'a Reason,
    #[serde(flatten)]
    document: &'a Document,
}

/// Runs a shard unless it is done.
pub(super) fn run_shard(
    run: &Prepared<'_>,
    phase: &Phase,
    shard: &Shard,
    tools: &mut Tools,
) -> Result<Done, CurateError> {
    let marker = run.layout.marker(phase, shard.number);
    if let Some(done) = load(&marker, &run.id)? {
        run.progress.bytes.fetch_add(run.bytes_of(phase, shard), Ordering::Relaxed);
        return Ok(done);
    }
    let mut pass = Pass::open(run, phase, shard, tools)?;
    match &phase.before {
        None => pass.read_source()?,
        Some(before) => pass.read_phase(before.phase)?,
    }
    let done = pass.close()?;
    let json = serde_json::to_vec(&done).expect("counts and names are JSON");
    write_whole(&marker, &json)?;
    Ok(done)
}

pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CurateError> {
    let mut file = AtomicFile::create(path)?;
    file.write(bytes)?;
    Ok(file.commit()?)
}

/// The marker, where it is of this run.
pub(super) fn load(marker: &Path, run: &str) -> Result<Option<Done>, CurateError> {
    let bytes = match std::fs::read(marker) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CurateError::io("read", marker, error)),
    };
    let done: Done = serde_json::from_slice(&bytes).map_err(|error| CurateError::damaged(marker, error))?;
    if done.run != run {
        return Err(CurateError::damaged(
            marker,
            "it is of another run; remove the output folder or choose another",
        ));
    }
    Ok(Some(done))
}

/// A shard under way.
struct Pass<'a> {
    run: &'a Prepared<'a>,
    phase: &'a Phase,
    shard: &'a Shard,
    tools: &'a mut Tools,
    statistics: Statistics,
    documents: DocumentFile,
    /// By step; made when the first document is removed.
    removed: BTreeMap<String, LinesFile>,
    rows: Option<Box<dyn Collect>>,
    decisions: Option<Box<dyn Decide>>,
    /// Documents that came in and went out.
    came: u64,
    kept: u64,
    made: u64,
}

impl<'a> Pass<'a> {
    fn open(
        run: &'a Prepared<'a>,
        phase: &'a Phase,
        shard: &'a Shard,
        tools: &'a mut Tools,
    ) -> Result<Self, CurateError> {
        let global = |step: usize| match &run.steps[step] {
            Built::Global(step) => step,
            Built::Local(_) => unreachable!("phases begin and end with global steps"),
        };
        let decisions = match &phase.before {
            Some(before) if run.concerns(before.step, shard) => {
                let folder = run.layout.decisions(before.phase);
                Some(global(before.step).decide(&folder, number(shard.number, 0))?)
            }
            _ => None,
        };
        let rows = match phase.after {
            Some(step) => {
                let folder = run.layout.rows(phase, shard.number);
                super::remove_folder(&folder)?;
                super::create_folder(&folder)?;
                let memory = run.recipe.run.memory_mb * 1_000_000 / run.threads;
                Some(global(step).collect(&folder, memory)?)
            }
            None => None,
        };
        let path = run.layout.documents(phase, shard, run.recipe);
        let output = if phase.after.is_none() { run.recipe.output.clone() } else { between() };
        Ok(Self {
            documents: DocumentFile::create(&path, &output)?,
            rows,
            run,
            phase,
            shard,
            tools,
            statistics: Statistics::default(),
            removed: BTreeMap::new(),
            decisions,
            came: 0,
            kept: 0,
            made: 0,
        })
    }

    /// Documents out of the source's files.
    fn read_source(&mut self) -> Result<(), CurateError> {
        let (run, shard) = (self.run, self.shard);
        let source = &run.recipe.sources[shard.source];
        for part in &shard.parts {
            let mut passed = 0;
            let local = run.local(part, shard.number)?;
            read(&local, source, &run.recipe.limits, &mut |record, at| {
                if run.stop.load(Ordering::Relaxed) {
                    return Err(CurateError::Interrupted);
                }
                let at = at.min(part.bytes);
                run.progress.bytes.fetch_add(at - passed.min(at), Ordering::Relaxed);
                passed = passed.max(at);
                self.record(record)
            })?;
            run.progress.bytes.fetch_add(part.bytes.saturating_sub(passed), Ordering::Relaxed);
            if part.object.is_some() {
                std::fs::remove_file(&local.path)
                    .map_err(|error| CurateError::io("remove", &local.path, error))?;
            }
        }
        super::remove_folder(&run.layout.fetched(shard.number))
    }

    fn record(&mut self, record: Record) -> Result<(), CurateError> {
        self.came += 1;
        match record {
            Record::Bad { document, reason } => {
                self.statistics.step(READ).entered.add(&document);
                self.remove(READ, &document, &reason)
            }
            Record::Text(document) => {
                let read = self.statistics.step(READ);
                read.entered.add(&document);
                read.kept.add(&document);
                self.statistics.before.add(&document);
                self.steps(document)
            }
            Record::Page { mut document, html, charset } => {
                let read = self.statistics.step(READ);
                for tally in [&mut read.entered, &mut read.kept] {
                    tally.documents += 1;
                    tally.bytes += html.len() as u64;
                }
                let extract = self.statistics.step(EXTRACT);
                extract.entered.documents += 1;
                extract.entered.bytes += html.len() as u64;
                match self.tools.extraction.extract(html, charset, document.url.clone()) {
                    Ok(found) => {
                        document.text = found.text;
                        if !found.title.is_empty() {
                            document.metadata.insert("title".into(), found.title.into());
                        }
                        document.metadata.insert("encoding".into(), found.encoding.into());
                        self.statistics.step(EXTRACT).kept.add(&document);
                        self.statistics.before.add(&document);
                        self.steps(document)
                    }
                    Err(reason) => self.remove(EXTRACT, &document, &reason),
                }
            }
        }
    }

    /// Documents that the phase before has kept, with the decisions about them.
    fn read_phase(&mut self, before: usize) -> Result<(), CurateError> {
        let run = self.run;
        let phase = &run.phases[before];
        let path = run.layout.documents(phase, self.shard, run.recipe);
        let marker = run.layout.marker(phase, self.shard.number);
        let written = load(&marker, &run.id)?
            .ok_or_else(|| CurateError::damaged(&marker, "the phase before has no marker for this shard"))?
            .documents;
        if hash_of(&path)? != written.hash {
            return Err(CurateError::damaged(&path, "its bytes are not those its marker has the hash of"));
        }
        let fault = |error| CurateError::io("read", &path, error);
        let file = File::open(&path).map_err(fault)?;
        let reader = zstd::stream::read::Decoder::new(file).map_err(fault)?;
        let share = written.bytes / written.documents.max(1);
        for (place, line) in BufReader::with_capacity(1 << 17, reader).split(b'\n').enumerate() {
            if run.stop.load(Ordering::Relaxed) {
                return Err(CurateError::Interrupted);
            }
            let line = line.map_err(fault)?;
            let document: Document =
                serde_json::from_slice(&line).map_err(|error| CurateError::damaged(&path, error))?;
            self.came += 1;
            run.progress.bytes.fetch_add(share, Ordering::Relaxed);
            self.decided(document, number(self.shard.number, place as u64))?;
        }
        if self.came != written.documents {
            let message = format!("it has {} documents; its marker says {}", self.came, written.documents);
            return Err(CurateError::damaged(&path, message));
        }
        Ok(())
    }

    /// Applies what the global step has decided that the phase begins with.
    fn decided(&mut self, mut document: Document, number: u64) -> Result<(), CurateError> {
        let (Some(before), Some(decisions)) = (&self.phase.before, &mut self.decisions) else {
            return self.steps(document);
        };
        let name = &self.run.recipe.steps[before.step].name;
        let count = self.statistics.step(name);
        count.entered.add(&document);
        let length = document.text.len();
        match decisions.decide(number, &mut document)? {
            Decision::Keep => {
                count.kept.add(&document);
                count.edited += u64::from(document.text.len() != length);
                self.steps(document)
            }
            Decision::Remove(reason) => self.remove(name, &document, &reason),
            Decision::Split(texts) if texts.is_empty() => {
                self.remove(name, &document, &Reason::new("nothing_left"))
            }
            Decision::Split(texts) => {
                let made = texts.len() as u64 - 1;
                self.made += made;
                count.made += made;
                count.edited += 1;
                for (piece, text) in texts.into_iter().enumerate() {
                    let piece = Document { id: format!("{}/{piece}", document.id), text, ..document.clone() };
                    self.statistics.step(name).kept.add(&piece);
                    self.steps(piece)?;
                }
                Ok(())
            }
        }
    }

    /// The local steps of the phase.
    fn steps(&mut self, mut document: Document) -> Result<(), CurateError> {
        let (run, phase) = (self.run, self.phase);
        for &index in &phase.steps {
            let Built::Local(step) = &run.steps[index] else {
                unreachable!("global steps end phases");
            };
            if !run.concerns(index, self.shard) {
                continue;
            }
            let name = &run.recipe.steps[index].name;
            let length = document.text.len();
            let count = self.statistics.step(name);
            count.entered.add(&document);
            match step.apply(&mut document, &mut self.tools.scratch) {
                Verdict::Keep => {
                    count.kept.add(&document);
                    count.edited += u64::from(document.text.len() != length);
                }
                Verdict::Remove(reason) => return self.remove(name, &document, &reason),
            }
        }
        self.keep(&document)
    }

    fn keep(&mut self, document: &Document) -> Result<(), CurateError> {
        if let (Some(step), Some(rows)) = (self.phase.after, &mut self.rows) {
            if self.run.concerns(step, self.shard) {
                let standing = self.run.standing(step, self.shard, document);
                rows.see(number(self.shard.number, self.kept), standing, document)?;
            }
        } else {
            self.statistics.after.add(document);
        }
        self.kept += 1;
        self.run.progress.kept.fetch_add(u64::from(self.phase.after.is_none()), Ordering::Relaxed);
        self.documents.write(document)
    }

    fn remove(&mut self, step: &str, document: &Document, reason: &Reason) -> Result<(), CurateError> {
        self.statistics.step(step).remove(document, reason);
        self.run.progress.removed.fetch_add(1, Ordering::Relaxed);
        let file = match self.removed.entry(step.to_owned()) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry
                .insert(LinesFile::create(&self.run.layout.removed(step, self.shard.number), REMOVED_LEVEL)?),
        };
        if self.run.recipe.output.removed_text {
            file.write(&RemovedLine { reason, document })
        } else {
            let document = &Document { text: String::new(), ..document.clone() };
            file.write(&RemovedLine { reason, document })
        }
    }

    /// Names the files and checks that every document is accounted for.
    fn close(mut self) -> Result<Done, CurateError> {
        let layout = &self.run.layout;
        let place = || format!("phase {}, shard {}", self.phase.number, self.shard.number);
        let mut documents = self.documents.finish()?;
        documents.path = layout.relative(&layout.documents(self.phase, self.shard, self.run.recipe));
        let mut removed = Vec::new();
        for (step, file) in std::mem::take(&mut self.removed) {
            let written = file.finish()?;
            let path = layout.relative(&layout.removed(&step, self.shard.number));
            removed.push(Written { path, ..written });
        }
        if let (Some(rows), Some(step)) = (self.rows.take(), self.phase.after) {
            rows.finish()?;
            if let (Joins::Cluster(cluster), Built::Global(step)) = (self.run.joins, &self.run.steps[step]) {
                step.share(&layout.rows(self.phase, self.shard.number), cluster)?;
            }
        }
        let gone: u64 = removed.iter().map(|written| written.documents).sum();
        if self.came + self.made != documents.documents + gone {
            return Err(CurateError::Unbalanced {
                place: place(),
                documents: self.came,
                kept: documents.documents,
                made: self.made,
                removed: gone,
            });
        }
        for (name, step) in &self.statistics.steps {
            step.check(|| format!("{}, step {name}", place()))?;
        }
        self.statistics.before.close();
        self.statistics.after.close();
        Ok(Done { run: self.run.id.clone(), documents, removed, statistics: self.statistics })
    }
}

/// Between phases, documents are JSON lines whatever the recipe's output is.
fn between() -> crate::recipe::Output {
    crate::recipe::Output { level: 1, ..crate::recipe::Output::default() }
}
