//! What all items of a task say together.

use crate::calibration::{Expansion, Order};
use crate::evaluate::Outcome;
use crate::metric::{Estimate, Metric, perplexities};
use crate::rows::DataFile;
use crate::scoring::Collision;
use crate::shots::Draw;
use crate::task::{Kind, Task};
use crate::template::{Row, plain};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskResult {
    pub task: String,
    pub version: u32,
    /// The prompt set.
    pub prompt: String,
    pub shots: usize,
    /// A fixed text stood before every item.
    pub fixed_shots: bool,
    pub draw: Option<Draw>,
    pub seeds: Vec<u64>,
    pub items: usize,
    /// `limit` cut the data short.
    pub limited: bool,
    /// Items left out by the task's own rule.
    pub skipped: usize,
    /// Items whose prompt lost its beginning.
    pub truncated: usize,
    /// Items with a token across the border of context and target.
    pub joined: usize,
    /// Name of the measure that is the task's score.
    pub measure: String,
    pub measures: BTreeMap<String, Metric>,
    /// Share of right answers by guessing.
    pub chance: Option<f64>,
    /// … by always giving the commonest answer.
    pub majority: Option<f64>,
    /// By label, of the first seed.
    pub labels: Vec<LabelResult>,
    /// By field and its value, of the first seed.
    pub groups: BTreeMap<String, BTreeMap<String, Estimate>>,
    pub expand: Expansion,
    pub calibrate: Order,
    /// Content-free shares that were raised from (almost) nothing, over all items.
    pub guarded: usize,
    /// Words that the scored tokens cannot tell apart.
    pub collisions: Vec<Collision>,
    pub decontamination: Option<Clean>,
    pub data: DataFile,
    pub shots_data: Option<DataFile>,
    /// BLAKE3 of every rendered context and target.
    pub prompts_hash: String,
    /// BLAKE3 of the task file's meaning.
    pub task_hash: String,
    pub context_length: usize,
}

impl TaskResult {
    /// The task's score.
    pub fn score(&self) -> Option<&Metric> {
        self.measures.get(&self.measure)
    }
}

/// The score of items that are not in the training text, and of those that are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Clean {
    pub files: Vec<String>,
    pub training_tokens: u64,
    /// Items with a run of thirteen tokens that is in the files.
    pub contaminated: usize,
    /// Items with no text as long as a run: never found.
    pub too_short: usize,
    pub clean: Option<Metric>,
    pub dirty: Option<Metric>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LabelResult {
    pub label: String,
    pub items: usize,
    pub predicted: usize,
    pub right: usize,
}

pub(crate) fn measures(kind: Kind, outcomes: &[&Outcome]) -> BTreeMap<&'static str, Estimate> {
    match kind {
        Kind::Choice => {
            let names = outcomes.first().into_iter().flat_map(|outcome| outcome.predicted.keys());
            let share = |name| {
                Estimate::share(outcomes.iter().map(|outcome| outcome.predicted[name] == outcome.gold))
            };
            names.filter_map(|&name| Some((name, share(name)?))).collect()
        }
        Kind::Cloze => {
            let log_probs: Vec<f64> = outcomes.iter().map(|outcome| outcome.document.log_prob).collect();
            let greedy = Estimate::share(outcomes.iter().map(|outcome| outcome.greedy));
            // exp(−mean ln p of the whole target): per word, as LAMBADA is reported.
            let perplexity = Estimate::of(&log_probs).map(|mean| {
                let value = (-mean.value).exp();
                mean.map(value, value)
            });
            let found = [("greedy", greedy), ("perplexity", perplexity)];
            found.into_iter().filter_map(|(name, estimate)| Some((name, estimate?))).collect()
        }
        Kind::Rolling => perplexities(&outcomes.iter().map(|outcome| outcome.document).collect::<Vec<_>>()),
    }
}

pub(crate) fn majority(outcomes: &[&Outcome]) -> Option<f64> {
    let mut counts = BTreeMap::new();
    for outcome in outcomes {
        *counts.entry(outcome.gold).or_insert(0usize) += 1;
    }
    counts.values().max().map(|&most| most as f64 / outcomes.len() as f64)
}

pub(crate) fn labels(names: &[String], outcomes: &[&Outcome], measure: &str) -> Vec<LabelResult> {
    let count = |is: &dyn Fn(usize, usize) -> bool| {
        let chosen = |o: &&&Outcome| o.predicted.get(measure).is_some_and(|&predicted| is(o.gold, predicted));
        outcomes.iter().filter(chosen).count()
    };
    names
        .iter()
        .enumerate()
        .map(|(place, label)| LabelResult {
            label: label.clone(),
            items: count(&|gold, _| gold == place),
            predicted: count(&|_, predicted| predicted == place),
            right: count(&|gold, predicted| gold == place && predicted == place),
        })
        .collect()
}

pub(crate) fn groups(
    fields: &[String],
    rows: &[Row],
    outcomes: &[&Outcome],
    kind: Kind,
    measure: &str,
) -> BTreeMap<String, BTreeMap<String, Estimate>> {
    fields
        .iter()
        .map(|field| {
            let mut by_value: BTreeMap<String, Vec<&Outcome>> = BTreeMap::new();
            for &outcome in outcomes {
                if let Some(value) = rows[outcome.item].get(field) {
                    by_value.entry(plain(value).into_owned()).or_default().push(outcome);
                }
            }
            let score = |outcomes: Vec<&Outcome>| measures(kind, &outcomes).get(measure).copied();
            let scores = by_value.into_iter().filter_map(|(value, of)| Some((value, score(of)?)));
            (field.clone(), scores.collect())
        })
        .collect()
}

pub(crate) fn hash(task: &Task) -> String {
    let json = serde_json::to_vec(task).expect("a task is plain data");
    blake3::hash(&json).to_hex().to_string()
}
