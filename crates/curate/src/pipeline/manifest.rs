//! The account of a finished run: every parameter, every count, every file.

use super::Prepared;
use super::layout::Phase;
use super::shard::{Done, EXTRACT, READ};
use super::statistics::{Statistics, StepCount, Tally};
use super::tokens::TokenSummary;
use crate::CurateError;
use crate::global::Resolution;
use crate::recipe::{Recipe, Step};
use crate::writers::Written;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `manifest.json`. The same inputs and recipe give the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this file's format.
    pub version: u32,
    pub name: String,
    /// Of recipe and inputs.
    pub run: String,
    /// The recipe with every default written out.
    pub recipe: serde_json::Value,
    /// Documents that were found, kept, and removed; `found + made = kept + removed`.
    pub totals: Totals,
    /// In the order in which documents pass them: `read`, `extract`, then the recipe's.
    pub steps: Vec<StepSummary>,
    /// In the order of the recipe.
    pub sources: Vec<SourceSummary>,
    /// Files in folders that were passed over: other endings, hidden, links.
    pub ignored_files: u64,
    /// Where the recipe asks for token files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenSummary>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub found: u64,
    pub made: u64,
    pub kept: u64,
    pub removed: u64,
    /// Of the texts kept.
    pub kept_bytes: u64,
}

/// One step over all sources.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepSummary {
    pub name: String,
    pub kind: String,
    #[serde(flatten)]
    pub count: StepCount,
    /// Of a step over all documents: what it found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Resolution>,
}

/// One source over all steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceSummary {
    pub name: String,
    /// Share in the blend, as the recipe has it.
    pub weight: f64,
    pub found: u64,
    pub kept: Tally,
    pub statistics: Statistics,
    /// Kept documents.
    pub files: Vec<Written>,
    pub removed_files: Vec<Written>,
}

impl Manifest {
    /// Puts the shards of all phases together and checks that they balance.
    pub(super) fn new(
        run: &Prepared<'_>,
        done: &[(&Phase, Vec<Done>)],
        resolutions: &BTreeMap<usize, Resolution>,
    ) -> Result<Self, CurateError> {
        let recipe = run.recipe;
        let mut sources: Vec<SourceSummary> = recipe
            .sources
            .iter()
            .map(|source| SourceSummary {
                name: source.name.clone(),
                weight: source.weight,
                found: 0,
                kept: Tally::default(),
                statistics: Statistics::default(),
                files: Vec::new(),
                removed_files: Vec::new(),
            })
            .collect();
        let mut whole = Statistics::default();
        let mut before: Option<u64> = None;
        for (phase, shards) in done {
            let mut entered = 0;
            for (shard, done) in run.shards.iter().zip(shards) {
                let source = &mut sources[shard.source];
                source.statistics.merge(&done.statistics);
                whole.merge(&done.statistics);
                source.removed_files.extend(done.removed.iter().cloned());
                if phase.after.is_none() {
                    source.files.push(done.documents.clone());
                    source.kept.documents += done.documents.documents;
                }
                let made: u64 = done.statistics.steps.values().map(|step| step.made).sum();
                let removed: u64 = done.removed.iter().map(|written| written.documents).sum();
                entered += done.documents.documents + removed - made;
            }
            if before.is_some_and(|before| before != entered) {
                return Err(CurateError::Unbalanced {
                    place: format!("phase {}", phase.number),
                    documents: before.unwrap_or_default(),
                    kept: entered,
                    made: 0,
                    removed: 0,
                });
            }
            before = Some(shards.iter().map(|done| done.documents.documents).sum());
        }
        for source in &mut sources {
            source.found = source.statistics.steps.get(READ).map_or(0, |read| read.entered.documents);
            source.kept.bytes = kept_bytes(recipe, &source.statistics);
        }
        let steps = summaries(recipe, &whole, resolutions);
        let totals = Totals {
            found: sources.iter().map(|source| source.found).sum(),
            made: steps.iter().map(|step| step.count.made).sum(),
            kept: sources.iter().map(|source| source.kept.documents).sum(),
            removed: steps.iter().map(|step| step.count.removed_total().documents).sum(),
            kept_bytes: sources.iter().map(|source| source.kept.bytes).sum(),
        };
        if totals.found + totals.made != totals.kept + totals.removed {
            return Err(CurateError::Unbalanced {
                place: "the whole run".into(),
                documents: totals.found,
                kept: totals.kept,
                made: totals.made,
                removed: totals.removed,
            });
        }
        Ok(Self {
            version: 1,
            name: recipe.name.clone(),
            run: run.id.clone(),
            recipe: serde_json::to_value(recipe).expect("a recipe is JSON"),
            totals,
            steps,
            sources,
            ignored_files: run.ignored,
            tokens: None,
        })
    }

    /// Paths of a source's kept documents, below the output folder.
    pub fn files<'a>(&'a self, source: &'a str) -> impl Iterator<Item = &'a Written> {
        self.sources.iter().filter(move |summary| summary.name == source).flat_map(|summary| &summary.files)
    }
}

/// What leaves the last step that the source's documents pass.
fn kept_bytes(recipe: &Recipe, statistics: &Statistics) -> u64 {
    let last = recipe.steps.iter().rev().find_map(|step| statistics.steps.get(&step.name));
    if let Some(last) = last {
        return last.kept.bytes;
    }
    // No step of the recipe concerns it: what was extracted, and what was text from the start.
    let (read, extract) = (statistics.steps.get(READ), statistics.steps.get(EXTRACT));
    let kept = |step: Option<&StepCount>| step.map_or(0, |step| step.kept.bytes);
    kept(read) - extract.map_or(0, |step| step.entered.bytes) + kept(extract)
}

fn summaries(
    recipe: &Recipe,
    whole: &Statistics,
    resolutions: &BTreeMap<usize, Resolution>,
) -> Vec<StepSummary> {
    let own = [READ, EXTRACT].into_iter().map(|name| (name, name, None));
    let steps = recipe.steps.iter().enumerate().map(|(index, Step { name, kind, .. })| {
        (name.as_str(), kind.as_str(), resolutions.get(&index).cloned())
    });
    own.chain(steps)
        .map(|(name, kind, resolution)| StepSummary {
            name: name.to_owned(),
            kind: kind.to_owned(),
            count: whole.steps.get(name).cloned().unwrap_or_default(),
            resolution,
        })
        .collect()
}
