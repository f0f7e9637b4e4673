//! One task, from its data files to its result.
//!
//! Items go through in blocks: rendered, tokenised, scored together (every different request once), judged. What an
//! item says is in its line of `items-<task>.jsonl`; what all say is the [`TaskResult`].

use crate::cache::{Cache, Scored};
use crate::calibration::{CalibrationForm, Expansion, Order, Words, best, shares};
use crate::contamination::contamination;
use crate::error::EvalError;
use crate::item::{Calibration, ChoiceRecord, Record};
use crate::metric::{Document, Estimate, Metric};
use crate::prompt::{Choice, Renderer};
use crate::rows::{Rows, read};
use crate::scoring::{Collision, Network, Tokens, same};
use crate::shots::{Draw, Pool};
use crate::summary::{self, Clean, TaskResult};
use crate::task::{Evidence, Kind, Score, Task};
use crate::template::{Row, plain};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use triax_data::Reader;

/// Items scored together.
const BLOCK: usize = 128;

/// What a user may ask beyond the task file; `None` leaves the prompt set's own choice.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Prompt sets by preference: each task takes the first it has. Empty for each task's own.
    pub prompts: Vec<String>,
    pub shots: Option<usize>,
    pub draw: Draw,
    /// At least one. They decide which shots are drawn.
    pub seeds: Vec<u64>,
    /// Only so many items, the first ones.
    pub limit: Option<usize>,
    pub expand: Option<Expansion>,
    pub calibrate: Option<Order>,
    /// Stands before every item in place of drawn shots.
    pub fixed_shots: Option<String>,
    /// Prefixes of token files to look for the items in.
    pub training: Vec<PathBuf>,
}

/// How far an evaluation is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    pub task: &'a str,
    /// Items judged of all seeds.
    pub done: usize,
    pub all: usize,
}

/// What one item with one seed says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) item: usize,
    pub(crate) gold: usize,
    /// The label chosen by each measure.
    pub(crate) predicted: BTreeMap<&'static str, usize>,
    pub(crate) document: Document,
    pub(crate) greedy: bool,
}

/// An item as text.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The right label or option.
    pub gold: usize,
    /// Numbers of the shots.
    pub shots: Vec<usize>,
    /// All that precedes the item.
    pub before: String,
    pub choices: Vec<Choice>,
}

/// Item number `item` of those that the prompt set wants, as an evaluation with the first seed would show it; also
/// how many there are.
///
/// # Errors
/// As [`evaluate`], and when there is no such item.
pub fn show(
    task: &Task,
    folder: &Path,
    settings: &Settings,
    item: usize,
) -> Result<(Rendered, usize), EvalError> {
    let run = Run::new(task, folder, settings)?;
    let count = run.wanted.len();
    let fault = || EvalError::Item {
        task: task.name.clone(),
        message: format!("there is no item {item}; the last of {count} is {}", count - 1),
    };
    let number = *run.wanted.get(item).ok_or_else(fault)?;
    Ok((run.render(run.seeds.first().copied().unwrap_or_default(), number)?, count))
}

/// An item on its way to the network.
struct Prepared {
    item: usize,
    gold: usize,
    shots: Vec<usize>,
    choices: Vec<Choice>,
    tokens: Vec<Tokens>,
    unconditional: Vec<Tokens>,
    content_free: Vec<Vec<Tokens>>,
}

/// Evaluates `task` on the data in `folder`; lines for each item go to `items`.
///
/// # Errors
/// When data is missing or damaged, a prompt cannot be rendered, the network refuses, or a file cannot be written.
pub fn evaluate(
    network: &mut Network<'_>,
    cache: &mut Cache,
    task: &Task,
    folder: &Path,
    settings: &Settings,
    items: &mut dyn Write,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<TaskResult, EvalError> {
    let mut run = Run::new(task, folder, settings)?;
    run.decontaminate(network)?;
    let all = run.wanted.len() * run.seeds.len();
    let mut seeds = Vec::new();
    for &seed in &run.seeds.clone() {
        let mut outcomes = Vec::new();
        for block in run.wanted.clone().chunks(BLOCK) {
            outcomes.extend(run.block(network, cache, seed, block, items)?);
            progress(Progress {
                task: &task.name,
                done: seeds.len() * run.wanted.len() + outcomes.len(),
                all,
            });
        }
        seeds.push(outcomes);
    }
    run.result(network, &seeds)
}

struct Run<'a> {
    task: &'a Task,
    set: &'a str,
    prompt: crate::task::Prompt,
    settings: &'a Settings,
    test: Rows,
    shots: Option<Rows>,
    /// Right choices of the items shots are drawn from.
    shot_labels: Vec<usize>,
    seeds: Vec<u64>,
    shot_count: usize,
    /// Numbers of the items that are judged.
    wanted: Vec<usize>,
    contaminated: Option<Clean>,
    is_contaminated: Vec<bool>,
    /// Words that count; those that repeat their label's first token do not.
    counted: Option<Vec<bool>>,
    collisions: Vec<Collision>,
    prompts_hash: blake3::Hasher,
    truncated: BTreeSet<usize>,
    joined: BTreeSet<usize>,
    guarded: usize,
}

impl<'a> Run<'a> {
    fn new(task: &'a Task, folder: &Path, settings: &'a Settings) -> Result<Self, EvalError> {
        let known = settings.prompts.iter().find(|name| task.prompts.contains_key(*name));
        let asked = known.or(settings.prompts.first()).map(String::as_str);
        let (set, prompt) = task.prompt(asked)?;
        let mut prompt = prompt.clone();
        prompt.expand = settings.expand.unwrap_or(prompt.expand);
        prompt.calibrate = settings.calibrate.unwrap_or(prompt.calibrate);
        if !prompt.is_classification() || task.inputs.is_empty() {
            prompt.calibrate = Order::None;
        }
        if prompt.expand == Expansion::First {
            prompt.labels.iter_mut().for_each(|label| label.words.truncate(1));
        }
        let test = read(task, &task.test, folder)?;
        let shot_count = if task.kind == Kind::Rolling { 0 } else { settings.shots.unwrap_or(prompt.shots) };
        let drawn = shot_count > 0 && settings.fixed_shots.is_none();
        let shots = match drawn && !task.shots.is_empty() {
            true => match read(task, &task.shots, folder) {
                Ok(rows) => Some(rows).filter(|rows| rows.file != test.file),
                // None of the files for shots is there: they come from the test items.
                Err(EvalError::NoData { .. }) => None,
                Err(error) => return Err(error),
            },
            false => None,
        };
        let renderer = Renderer { task, prompt: &prompt };
        let pool = shots.as_ref().unwrap_or(&test);
        let shot_labels = match drawn {
            true => pool.rows.iter().map(|row| renderer.gold(row)).collect::<Result<_, _>>()?,
            false => Vec::new(),
        };
        let wanted: Vec<usize> = (0..test.rows.len())
            .filter(|&item| renderer.wants(&test.rows[item]))
            .take(settings.limit.unwrap_or(usize::MAX))
            .collect();
        if wanted.is_empty() {
            let message = format!("{} has no item that the prompt set {set} wants", test.file.path);
            return Err(EvalError::Item { task: task.name.clone(), message });
        }
        // Without drawn shots every seed gives the same prompts.
        let seeds = match drawn && settings.draw != Draw::First {
            true => settings.seeds.clone(),
            false => settings.seeds.iter().copied().take(1).collect(),
        };
        Ok(Self {
            task,
            set,
            prompt,
            settings,
            test,
            shots,
            shot_labels,
            seeds,
            shot_count: if drawn { shot_count } else { 0 },
            wanted,
            contaminated: None,
            is_contaminated: Vec::new(),
            counted: None,
            collisions: Vec::new(),
            prompts_hash: blake3::Hasher::new(),
            truncated: BTreeSet::new(),
            joined: BTreeSet::new(),
            guarded: 0,
        })
    }

    fn decontaminate(&mut self, network: &Network<'_>) -> Result<(), EvalError> {
        if self.settings.training.is_empty() {
            return Ok(());
        }
        let readers: Vec<Reader> =
            self.settings.training.iter().map(|prefix| Reader::open(prefix)).collect::<Result<_, _>>()?;
        let texts = |row: &Row| -> Result<Vec<String>, EvalError> {
            let complete = self.task.complete(row)?;
            let inputs = self.task.inputs.iter().filter_map(|input| complete.get(input));
            let mut texts: Vec<String> = inputs.map(|value| plain(value).into_owned()).collect();
            for option in &self.task.options {
                texts.push(option.render(&complete)?);
            }
            Ok(texts)
        };
        let items: Vec<Vec<String>> =
            self.wanted.iter().map(|&item| texts(&self.test.rows[item])).collect::<Result<_, _>>()?;
        let found = contamination(network.codec, &items, &readers)?;
        self.is_contaminated = vec![false; self.test.rows.len()];
        for (&item, &is) in self.wanted.iter().zip(&found.found) {
            self.is_contaminated[item] = is;
        }
        self.contaminated = Some(Clean {
            files: self.settings.training.iter().map(|prefix| prefix.display().to_string()).collect(),
            training_tokens: found.tokens,
            contaminated: found.found.iter().filter(|found| **found).count(),
            too_short: found.short,
            clean: None,
            dirty: None,
        });
        Ok(())
    }

    fn block(
        &mut self,
        network: &mut Network<'_>,
        cache: &mut Cache,
        seed: u64,
        block: &[usize],
        items: &mut dyn Write,
    ) -> Result<Vec<Outcome>, EvalError> {
        let prepared: Vec<Prepared> =
            block.iter().map(|&item| self.prepare(network, seed, item)).collect::<Result<_, _>>()?;
        let asked: Vec<&Tokens> = prepared
            .iter()
            .flat_map(|p| p.tokens.iter().chain(&p.unconditional).chain(p.content_free.iter().flatten()))
            .collect();
        let mut scored = network.score(&asked, cache)?.into_iter();
        prepared
            .into_iter()
            .map(|prepared| {
                let mut take = |count: usize| scored.by_ref().take(count).collect::<Vec<_>>();
                let words = take(prepared.tokens.len());
                let unconditional = take(prepared.unconditional.len());
                let content_free: Vec<_> =
                    prepared.content_free.iter().map(|tokens| take(tokens.len())).collect();
                let (record, outcome) = self.judge(seed, &prepared, words, unconditional, &content_free);
                let mut line = serde_json::to_vec(&record).expect("a record is plain data");
                line.push(b'\n');
                items
                    .write_all(&line)
                    .map_err(|error| EvalError::io("write", Path::new("the items of the task"), error))?;
                Ok(outcome)
            })
            .collect()
    }

    fn render(&self, seed: u64, item: usize) -> Result<Rendered, EvalError> {
        let renderer = Renderer { task: self.task, prompt: &self.prompt };
        let row = &self.test.rows[item];
        let pool = Pool { labels: &self.shot_labels, is_test: self.shots.is_none() };
        let shots = match self.shot_count {
            0 => Vec::new(),
            count => pool.draw(self.settings.draw, count, seed, &self.task.name, item),
        };
        let shot_rows = &self.shots.as_ref().unwrap_or(&self.test).rows;
        let before = match &self.settings.fixed_shots {
            Some(text) => format!("{}{text}", self.prompt.description),
            None => renderer.before(&shots.iter().map(|&shot| &shot_rows[shot]).collect::<Vec<_>>())?,
        };
        Ok(Rendered { gold: renderer.gold(row)?, choices: renderer.choices(row, &before)?, shots, before })
    }

    fn prepare(&mut self, network: &Network<'_>, seed: u64, item: usize) -> Result<Prepared, EvalError> {
        let renderer = Renderer { task: self.task, prompt: &self.prompt };
        let row = &self.test.rows[item];
        let Rendered { gold, shots, before, mut choices } = self.render(seed, item)?;
        let first = self.prompt.evidence == Evidence::FirstToken;
        let tokenise = |context: &str, target: &str| -> Result<Tokens, EvalError> {
            let tokens = network.tokens(context, target)?;
            Ok(if first { tokens.first() } else { tokens })
        };
        let mut tokens: Vec<Tokens> = choices
            .iter()
            .map(|choice| tokenise(&choice.context, &choice.target))
            .collect::<Result<_, _>>()?;
        let mut unconditional = match self.prompt.score == Score::Unconditional {
            true => {
                let lead = |choice: &Choice| tokenise(&choice.lead, &choice.target);
                choices.iter().map(lead).collect::<Result<_, _>>()?
            }
            false => Vec::new(),
        };
        let mut content_free = Vec::new();
        if self.prompt.calibrate != Order::None {
            for text in &self.prompt.content_free {
                let choices = renderer.content_free(row, text, &before)?;
                let tokens: Result<Vec<_>, _> =
                    choices.iter().map(|choice| tokenise(&choice.context, &choice.target)).collect();
                content_free.push(tokens?);
            }
        }
        for choice in &choices {
            for text in [&choice.context, &choice.target] {
                self.prompts_hash.update(&(text.len() as u64).to_le_bytes());
                self.prompts_hash.update(text.as_bytes());
            }
        }
        if self.prompt.is_classification() && self.counted.is_none() {
            self.collide(&choices, &tokens);
        }
        if let Some(counted) = &self.counted {
            let keep = |list: &mut Vec<Tokens>| {
                let mut counted = counted.iter();
                list.retain(|_| *counted.next().unwrap_or(&true));
            };
            keep(&mut tokens);
            keep(&mut unconditional);
            content_free.iter_mut().for_each(keep);
            let mut counted = counted.iter();
            choices.retain(|_| *counted.next().unwrap_or(&true));
        }
        if tokens.iter().any(|tokens| tokens.truncated) {
            self.truncated.insert(item);
        }
        if tokens.iter().any(|tokens| tokens.joined) {
            self.joined.insert(item);
        }
        Ok(Prepared { item, gold, shots, choices, tokens, unconditional, content_free })
    }

    /// Which words the network cannot tell apart. Words of one label that look the same count once.
    fn collide(&mut self, choices: &[Choice], tokens: &[Tokens]) {
        let mut counted = vec![true; choices.len()];
        for group in same(tokens.iter()) {
            let labels: BTreeSet<usize> = group.iter().map(|&place| choices[place].label).collect();
            for (index, &place) in group.iter().enumerate() {
                counted[place] = !group[..index].iter().any(|&o| choices[o].label == choices[place].label);
            }
            self.collisions.push(Collision {
                tokens: tokens[group[0]].target().collect(),
                labels: labels.iter().map(|&label| self.prompt.labels[label].is.clone()).collect(),
                words: group.iter().map(|&place| choices[place].word.clone()).collect(),
            });
        }
        self.counted = Some(counted);
    }

    fn judge(
        &mut self,
        seed: u64,
        prepared: &Prepared,
        words: Vec<Scored>,
        unconditional: Vec<Scored>,
        content_free: &[Vec<Scored>],
    ) -> (Record, Outcome) {
        let sum = |scored: &Scored| scored.log_probs.iter().map(|&l| f64::from(l)).sum::<f64>();
        let choices: Vec<ChoiceRecord> = prepared
            .choices
            .iter()
            .zip(words)
            .enumerate()
            .map(|(place, (choice, scored))| ChoiceRecord {
                label: choice.label,
                word: choice.word.clone(),
                context: choice.context.clone(),
                target: choice.target.clone(),
                sum: sum(&scored),
                tokens: scored.log_probs.len(),
                characters: choice.counted().chars().count(),
                bytes: choice.counted().len(),
                greedy: scored.greedy.iter().all(|&greedy| greedy),
                unconditional: unconditional.get(place).map(sum),
                log_probs: scored.log_probs,
            })
            .collect();
        let mut outcome = Outcome { item: prepared.item, gold: prepared.gold, ..Outcome::default() };
        let mut scores = BTreeMap::new();
        let mut calibration = None;
        match self.task.kind {
            Kind::Choice => {
                let mut sizes = Vec::new();
                for choice in &choices {
                    sizes.resize(sizes.len().max(choice.label + 1), 0);
                    sizes[choice.label] += 1;
                }
                let groups = Words { sizes: &sizes };
                for measure in self.measures() {
                    let values: Vec<f64> = choices.iter().map(|choice| choice.value(measure)).collect();
                    let labels = groups.join_logarithms(&values, self.prompt.expand);
                    outcome.predicted.insert(measure.name(), best(&labels));
                    scores.insert(measure.name(), labels);
                }
                if self.prompt.calibrate != Order::None {
                    let found = self.calibrate(&groups, &choices, content_free);
                    outcome.predicted.insert("calibrated", best(&found.labels));
                    calibration = Some(found);
                }
            }
            Kind::Cloze | Kind::Rolling => {
                let choice = &choices[0];
                outcome.greedy = choice.greedy;
                outcome.document = Document {
                    log_prob: choice.sum,
                    tokens: choice.tokens,
                    words: choice.target.split_whitespace().count(),
                    bytes: choice.target.len(),
                };
            }
        }
        let row = &self.test.rows[prepared.item];
        let record = Record {
            task: self.task.name.clone(),
            item: prepared.item,
            seed,
            id: ["id", "uid", "idx", "qID", "pairID"].iter().find_map(|name| row.get(*name)).cloned(),
            shots: prepared.shots.clone(),
            gold: (self.task.kind == Kind::Choice).then_some(prepared.gold),
            predicted: outcome.predicted.clone(),
            scores,
            calibration,
            truncated: prepared.tokens.iter().any(|tokens| tokens.truncated),
            joined: prepared.tokens.iter().any(|tokens| tokens.joined),
            contaminated: self.is_contaminated.get(prepared.item).copied(),
            choices,
        };
        (record, outcome)
    }

    fn calibrate(
        &mut self,
        groups: &Words<'_>,
        choices: &[ChoiceRecord],
        content_free: &[Vec<Scored>],
    ) -> Calibration {
        // The score that the prompt set compares is the evidence, for items and content-free inputs alike; lengths
        // of a content-free target are its own.
        let measure = if self.prompt.score == Score::Token { Score::Token } else { Score::Sum };
        let evidence = shares(&choices.iter().map(|choice| choice.value(measure)).collect::<Vec<_>>());
        let of = |scored: &Scored| {
            let sum: f64 = scored.log_probs.iter().map(|&l| f64::from(l)).sum();
            if measure == Score::Token { sum / scored.log_probs.len().max(1) as f64 } else { sum }
        };
        let content_free: Vec<Vec<f64>> =
            content_free.iter().map(|words| shares(&words.iter().map(of).collect::<Vec<_>>())).collect();
        let form: CalibrationForm = self.prompt.calibrate_by;
        let found =
            groups.calibrate(&evidence, &content_free, self.prompt.calibrate, form, self.prompt.expand);
        self.guarded += found.guarded;
        Calibration { evidence, content_free, labels: found.labels }
    }

    /// The scores that are told apart for every choice.
    fn measures(&self) -> impl Iterator<Item = Score> {
        let (first, unconditional) =
            (self.prompt.evidence == Evidence::FirstToken, self.prompt.score == Score::Unconditional);
        Score::ALL.into_iter().filter(move |score| match score {
            Score::Sum => true,
            Score::Token | Score::Character | Score::Byte => !first,
            Score::Unconditional => unconditional,
        })
    }

    fn result(mut self, network: &Network<'_>, seeds: &[Vec<Outcome>]) -> Result<TaskResult, EvalError> {
        let main = match (self.task.kind, self.prompt.calibrate) {
            (Kind::Choice, Order::None) => self.prompt.score.name(),
            (Kind::Choice, _) => "calibrated",
            (Kind::Cloze, _) => "greedy",
            (Kind::Rolling, _) => "bits_per_byte",
        };
        let measures = |outcomes: &[&Outcome]| summary::measures(self.task.kind, outcomes);
        let by_seed: Vec<_> =
            seeds.iter().map(|outcomes| measures(&outcomes.iter().collect::<Vec<_>>())).collect();
        let over_seeds = |seeds: &[BTreeMap<&'static str, Estimate>], name: &str| {
            Metric::over(seeds.iter().filter_map(|seed| seed.get(name).copied()).collect())
        };
        let names = by_seed.first().into_iter().flat_map(BTreeMap::keys);
        let all: BTreeMap<String, Metric> =
            names.filter_map(|&name| Some((name.to_owned(), over_seeds(&by_seed, name)?))).collect();
        if let Some(clean) = &mut self.contaminated {
            let part = |contaminated: bool| {
                let seeds: Vec<_> = seeds
                    .iter()
                    .map(|outcomes| {
                        let of = |o: &&Outcome| self.is_contaminated[o.item] == contaminated;
                        summary::measures(self.task.kind, &outcomes.iter().filter(of).collect::<Vec<_>>())
                    })
                    .collect();
                over_seeds(&seeds, main)
            };
            (clean.clean, clean.dirty) = (part(false), part(true));
        }
        let first: Vec<&Outcome> = seeds.first().into_iter().flatten().collect();
        let names: Vec<String> = self.prompt.labels.iter().map(|label| label.is.clone()).collect();
        let choice = self.task.kind == Kind::Choice;
        let options = if names.is_empty() { self.task.options.len() } else { names.len() };
        Ok(TaskResult {
            task: self.task.name.clone(),
            version: self.task.version,
            prompt: self.set.to_owned(),
            shots: self.shot_count,
            fixed_shots: self.settings.fixed_shots.is_some(),
            draw: (self.shot_count > 0).then_some(self.settings.draw),
            seeds: self.seeds.clone(),
            items: self.wanted.len(),
            limited: self.settings.limit.is_some_and(|limit| limit <= self.wanted.len()),
            skipped: self.test.skipped,
            truncated: self.truncated.len(),
            joined: self.joined.len(),
            measure: main.to_owned(),
            measures: all,
            chance: choice.then(|| 1.0 / options as f64),
            majority: choice.then(|| summary::majority(&first)).flatten(),
            labels: if names.is_empty() { Vec::new() } else { summary::labels(&names, &first, main) },
            groups: summary::groups(&self.task.groups, &self.test.rows, &first, self.task.kind, main),
            expand: self.prompt.expand,
            calibrate: self.prompt.calibrate,
            guarded: self.guarded,
            collisions: self.collisions,
            decontamination: self.contaminated,
            data: self.test.file,
            shots_data: self.shots.map(|shots| shots.file),
            prompts_hash: self.prompts_hash.finalize().to_hex().to_string(),
            task_hash: summary::hash(self.task),
            context_length: network.scorer.context_length(),
        })
    }
}
