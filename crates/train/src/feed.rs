//! Sample numbers in, micro-batches out, in reused buffers; and the held-out sources.

use crate::checkpoint::{Bits, DataOrder, Stage};
use crate::{Batches, Engine, Evaluation, TrainError};
use std::path::PathBuf;
use triax_comm::Axis;
use triax_data::{DataError, Identity, Samples, Sequential, prefix_length};
use triax_model::MicroBatch;
use triax_plan::Layout;
use triax_spec::Run;
use triax_spec::model::Mask;
use triax_tensor::IGNORE;

/// The training samples of a run.
pub(crate) struct Feed {
    samples: Samples,
    order: DataOrder,
    /// Seed of prefix lengths, for models with the prefix mask.
    prefix_seed: Option<u64>,
    buffers: Buffers,
    window: Vec<u32>,
}

struct Buffers {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    prefix: Vec<u32>,
}

impl Buffers {
    fn new(micro_batch: usize, sequence: usize) -> Self {
        let tokens = micro_batch * sequence;
        Self { tokens: vec![0; tokens], targets: vec![0; tokens], prefix: vec![0; micro_batch] }
    }

    /// The first `count` samples.
    fn batch(&self, count: usize, sequence: usize, prefix: bool, first_sample: u64) -> MicroBatch<'_> {
        MicroBatch {
            tokens: &self.tokens[..count * sequence],
            targets: &self.targets[..count * sequence],
            prefix: prefix.then_some(&self.prefix[..count]),
            first_sample,
        }
    }
}

impl Feed {
    /// `before`: the order of the checkpoint the run goes on from, and its position. Another blend in the run file
    /// begins a new stage there; what each source has given so far stays counted.
    pub(crate) fn open(run: &Run, before: Option<(&DataOrder, u64)>) -> Result<Self, TrainError> {
        let order = match before {
            None => first_order(run),
            Some((order, position)) => next_order(order, position, run),
        };
        let stages: Vec<_> = order
            .stages
            .iter()
            .map(|stage| triax_data::Stage {
                start: stage.start,
                weights: stage.weights.iter().map(|weight| weight.0).collect(),
            })
            .collect();
        let sequence = order.sequence;
        let mut samples = Samples::open_staged(&order.sources, &stages, sequence, order.seed)?;
        samples.limit_vocab(run.model.vocab as u32);
        Ok(Self {
            samples,
            prefix_seed: (run.model.mask == Mask::Prefix).then_some(run.data.seed),
            buffers: Buffers::new(run.layout.micro_batch, sequence),
            window: vec![0; sequence + 1],
            order,
        })
    }

    pub(crate) const fn order(&self) -> &DataOrder {
        &self.order
    }

    pub(crate) fn tokenizer(&self) -> Option<&Identity> {
        self.samples.tokenizer()
    }

    fn prefix(&self, sample: u64) -> usize {
        self.prefix_seed.map_or(0, |seed| prefix_length(seed, sample, self.order.sequence))
    }

    /// Tokens whose loss is taken in `count` samples from `first` on. Of a sample with prefix p the targets
    /// p.. count: the tokens before them are seen in both directions.
    pub(crate) fn counted(&self, first: u64, count: u64) -> u64 {
        let sequence = self.order.sequence as u64;
        match self.prefix_seed {
            None => count * sequence,
            Some(_) => {
                (first..first + count).map(|n| sequence - self.prefix(n).saturating_sub(1) as u64).sum()
            }
        }
    }

    /// The samples `first..first + count`, at most a micro-batch.
    pub(crate) fn micro_batch(&mut self, first: u64, count: usize) -> Result<MicroBatch<'_>, DataError> {
        let sequence = self.order.sequence;
        for index in 0..count {
            let sample = first + index as u64;
            self.samples.fill(sample, &mut self.window)?;
            let place = index * sequence..(index + 1) * sequence;
            self.buffers.tokens[place.clone()].copy_from_slice(&self.window[..sequence]);
            let prefix = self.prefix(sample);
            self.buffers.prefix[index] = prefix as u32;
            let targets = &mut self.buffers.targets[place];
            targets.copy_from_slice(&self.window[1..]);
            targets[..prefix.saturating_sub(1)].fill(IGNORE);
        }
        Ok(self.buffers.batch(count, sequence, self.prefix_seed.is_some(), first))
    }
}

/// The part of one step's samples that a replica takes.
pub(crate) struct StepFeed<'a> {
    pub feed: &'a mut Feed,
    pub layout: &'a Layout,
    /// Which replica.
    pub data: usize,
    /// The step's first sample, and how many there are.
    pub first: u64,
    pub batch: u64,
}

impl Batches for StepFeed<'_> {
    fn micro_batch(&mut self, group: usize, micro_batch: usize) -> Result<MicroBatch<'_>, DataError> {
        let first = self.layout.first_sample(self.first, self.batch, self.data, group, micro_batch);
        self.feed.micro_batch(first, self.layout.micro_batch)
    }
}

fn first_order(run: &Run) -> DataOrder {
    DataOrder {
        seed: run.data.seed,
        sequence: run.train.sequence,
        sources: run.data.blend.iter().map(|source| source.path.clone()).collect(),
        stages: vec![Stage {
            start: 0,
            weights: run.data.blend.iter().map(|source| Bits(source.weight)).collect(),
        }],
    }
}

/// The order of a checkpoint, with a further stage when the run file's blend is not its last one.
fn next_order(before: &DataOrder, position: u64, run: &Run) -> DataOrder {
    let mut order = before.clone();
    let place = |sources: &mut Vec<PathBuf>, path: &PathBuf| {
        sources.iter().position(|known| known == path).unwrap_or_else(|| {
            sources.push(path.clone());
            sources.len() - 1
        })
    };
    let places: Vec<usize> =
        run.data.blend.iter().map(|source| place(&mut order.sources, &source.path)).collect();
    let mut weights = vec![Bits(0.0); order.sources.len()];
    for (&place, source) in places.iter().zip(&run.data.blend) {
        weights[place].0 += source.weight;
    }
    for stage in &mut order.stages {
        stage.weights.resize(order.sources.len(), Bits(0.0));
    }
    if order.stages.last().is_none_or(|last| last.weights != weights) {
        order.stages.retain(|stage| stage.start < position);
        let start = if order.stages.is_empty() { 0 } else { position };
        order.stages.push(Stage { start, weights });
    }
    order
}

/// The held-out sources of a run.
pub(crate) struct HeldOut {
    sources: Vec<(PathBuf, Sequential)>,
    /// Windows of each source, at most.
    most: u64,
    prefix: bool,
    micro_batch: usize,
    sequence: usize,
    buffers: Buffers,
    losses: Vec<f32>,
}

impl HeldOut {
    pub(crate) fn open(run: &Run) -> Result<Self, TrainError> {
        let (micro_batch, sequence) = (run.layout.micro_batch, run.train.sequence);
        let open = |source: &triax_spec::run::Source| {
            let mut windows = Sequential::open(&source.path, sequence)?;
            windows.limit_vocab(run.model.vocab as u32);
            Ok((source.path.clone(), windows))
        };
        Ok(Self {
            sources: run.data.validation.iter().map(open).collect::<Result<_, DataError>>()?,
            most: run.train.evaluate_samples,
            prefix: run.model.mask == Mask::Prefix,
            micro_batch,
            sequence,
            buffers: Buffers::new(micro_batch, sequence),
            losses: vec![0.0; micro_batch * sequence],
        })
    }

    /// The mean loss on each source; with a prefix mask, of empty prefixes. The replicas take micro-batches in turn.
    pub(crate) fn evaluate(&mut self, engine: &mut Engine, step: u64) -> Result<Vec<Evaluation>, TrainError> {
        let (replica, replicas) = (engine.mesh().coordinate(Axis::Data), engine.mesh().size(Axis::Data));
        let mut evaluations = Vec::with_capacity(self.sources.len());
        for (path, windows) in &self.sources {
            let (mut sums, mut tokens) = (Vec::new(), 0);
            let count = windows.count().min(self.most);
            for (index, first) in (0..count).step_by(self.micro_batch).enumerate() {
                let samples = (count - first).min(self.micro_batch as u64) as usize;
                for index in 0..samples {
                    let place = index * self.sequence..(index + 1) * self.sequence;
                    let inputs = &mut self.buffers.tokens[place.clone()];
                    tokens += windows.fill(first + index as u64, inputs, &mut self.buffers.targets[place])?;
                }
                if index % replicas != replica {
                    continue;
                }
                let losses = &mut self.losses[..samples * self.sequence];
                let batch = self.buffers.batch(samples, self.sequence, self.prefix, 0);
                if let Some(sum) = engine.evaluate(&batch, losses)? {
                    sums.push(sum);
                }
            }
            let micro_batches = count.div_ceil(self.micro_batch as u64) as usize;
            let left = micro_batches % replicas;
            if engine.evaluates_together() && left > 0 && replica >= left {
                // The others need this replica's part of the weights: the last micro-batch again, not counted.
                let last = micro_batches - 1;
                let samples = count as usize - last * self.micro_batch;
                let batch = self.buffers.batch(samples, self.sequence, self.prefix, 0);
                engine.evaluate(&batch, &mut self.losses[..samples * self.sequence])?;
            }
            let loss = in_turn(&engine.gather_losses(&sums)?);
            evaluations.push(Evaluation {
                step,
                source: path.clone(),
                loss: loss / tokens.max(1) as f64,
                tokens: tokens as u64,
            });
        }
        Ok(evaluations)
    }
}

/// The sum over micro-batches that the replicas took in turn, in the order of the micro-batches.
pub(crate) fn in_turn(replicas: &[Vec<f64>]) -> f64 {
    let most = replicas.iter().map(Vec::len).max().unwrap_or(0);
    (0..most).flat_map(|round| replicas.iter().filter_map(move |sums| sums.get(round))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(sources: &[&str], stages: &[(u64, &[f64])]) -> DataOrder {
        DataOrder {
            seed: 1,
            sequence: 8,
            sources: sources.iter().map(PathBuf::from).collect(),
            stages: stages
                .iter()
                .map(|&(start, weights)| Stage {
                    start,
                    weights: weights.iter().copied().map(Bits).collect(),
                })
                .collect(),
        }
    }

    fn blend(before: &DataOrder, position: u64, sources: &[(&str, f64)]) -> DataOrder {
        let model = triax_spec::presets::find("gpt2-124m").unwrap();
        let mut run = crate::testing::run(model.model.clone());
        run.data.blend = sources
            .iter()
            .map(|&(path, weight)| triax_spec::run::Source { path: path.into(), weight })
            .collect();
        next_order(before, position, &run)
    }

    #[test]
    fn an_unchanged_blend_adds_no_stage() {
        let before = order(&["a", "b"], &[(0, &[1.0, 2.0])]);
        assert_eq!(blend(&before, 100, &[("a", 1.0), ("b", 2.0)]), before);
        assert_eq!(
            blend(&before, 100, &[("b", 2.0), ("a", 1.0)]),
            before,
            "the order of writing is no change"
        );
    }

    #[test]
    fn another_blend_begins_at_the_position_and_sources_keep_their_places() {
        let before = order(&["a", "b"], &[(0, &[1.0, 2.0])]);
        let after = blend(&before, 100, &[("c", 5.0), ("b", 3.0)]);
        assert_eq!(after, order(&["a", "b", "c"], &[(0, &[1.0, 2.0, 0.0]), (100, &[0.0, 3.0, 5.0])]));
        let again = blend(&after, 100, &[("a", 1.0)]);
        assert_eq!(again, order(&["a", "b", "c"], &[(0, &[1.0, 2.0, 0.0]), (100, &[1.0, 0.0, 0.0])]));
    }
}
