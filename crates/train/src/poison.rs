//! Where a value that is no number came from. A sum over replicas has it on all of them, so each notes the sums of
//! its own gradients before: one f64 for each parameter, read only when a step is not finite.
//!
//! ```text
//! loss or norm of a step not finite ─▶ every rank: its losses, its noted sums, its weights ─▶ who, what, which samples
//! ```

use crate::buckets::Bucket;
use crate::{Engine, TrainError};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::fmt::Write;
use std::ops::Range;
use triax_comm::Axis;
use triax_model::{Stage, declare};
use triax_tensor::{Class, DType, Device, DeviceExt, Table, View};

/// The most places that are named.
const NAMED: usize = 8;

/// Sums of gradients before they were summed over the replicas.
pub(crate) struct Checks {
    /// F64 `[rounds, parameters]`; a round is what is summed over the replicas at once.
    sums: View,
}

impl Checks {
    pub(crate) fn plan(table: &mut Table, rounds: usize, parameters: usize) -> Self {
        let name = "sums of gradients before replicas are summed";
        Self { sums: table.add(name, Class::Workspace, DType::F64, rounds, parameters) }
    }

    pub(crate) fn clear(&self, device: &mut dyn Device) {
        device.clear(self.sums);
    }

    /// Notes a bucket's gradients.
    pub(crate) fn note(&self, device: &mut dyn Device, bucket: &Bucket, round: usize) {
        for member in &bucket.members {
            let gradient = bucket.grads.flat_range(member.elements.start, member.elements.len());
            device.sum(gradient, self.sums.row_range(round, 1).flat_range(member.parameter, 1));
        }
    }

    /// The parameters and rounds whose sum is not finite.
    fn nonfinite(&self, device: &dyn Device) -> Vec<(usize, usize)> {
        let sums: Vec<f64> = device.download_vec(self.sums);
        let places = sums.iter().enumerate().filter(|(_, sum)| !sum.is_finite());
        places.map(|(place, _)| (place % self.sums.cols, place / self.sums.cols)).collect()
    }
}

/// What one rank knows of a step that is not finite.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Testimony {
    /// Samples whose loss is not finite.
    losses: Vec<Range<u64>>,
    /// Of gradients that are not, the one nearest to the loss: its number in the model, its name, and the samples.
    gradient: Option<(usize, String, Range<u64>)>,
    /// The first weight that is not.
    weight: Option<String>,
}

impl Engine {
    /// Says which ranks' losses, gradients and weights were not finite, and of which samples, in the step whose `batch`
    /// samples begin at `first`; all ranks call it together, before the update.
    pub(crate) fn culprits(&mut self, first: u64, batch: u64) -> Result<String, TrainError> {
        let own = Testimony {
            losses: self.nonfinite_losses(first, batch),
            gradient: self.nonfinite_gradient(first, batch),
            weight: self.nonfinite_weight(),
        };
        let bytes = serde_json::to_vec(&own).expect("numbers and names always serialize");
        let all = self.gather(&bytes, "non-finite values")?;
        let read = |bytes: &Vec<u8>| serde_json::from_slice(bytes).unwrap_or_default();
        Ok(tell(&all.iter().map(read).collect::<Vec<Testimony>>()))
    }

    fn nonfinite_losses(&mut self, first: u64, batch: u64) -> Vec<Range<u64>> {
        if self.mesh.coordinate(Axis::Tensor) > 0 {
            return Vec::new();
        }
        let (layout, data) = (&self.layout, self.mesh.coordinate(Axis::Data));
        let (each, samples) = (layout.micro_batches(batch), layout.micro_batch as u64);
        let losses = self.network.losses(&*self.device).iter().enumerate();
        let places = losses.filter(|(_, loss)| !loss.is_finite()).map(|(index, _)| index);
        let of_micro_batch = |index: usize| {
            let start = layout.first_sample(first, batch, data, index / each, index % each);
            start..start + samples
        };
        places.map(of_micro_batch).collect()
    }

    fn nonfinite_gradient(&mut self, first: u64, batch: u64) -> Option<(usize, String, Range<u64>)> {
        let data = self.mesh.coordinate(Axis::Data);
        let found = match &self.replicas.checks {
            Some(checks) => checks.nonfinite(&*self.device),
            // Nothing was summed: the gradients are this rank's own.
            None => {
                let mut found = Vec::new();
                self.each_own_row(|parameter, row| {
                    if !row.is_finite() && found.last() != Some(&(parameter, 0)) {
                        found.push((parameter, 0));
                    }
                });
                found
            }
        };
        let model = self.network.model();
        let declared = declare(model, &Stage::whole(model));
        let parameters = self.network.parameters();
        let number = |parameter: usize| declared.iter().position(|d| d.name == parameters[parameter].name);
        let (parameter, round) =
            found.into_iter().max_by_key(|&(parameter, round)| (number(parameter), Reverse(round)))?;
        let name = parameters[parameter].name.clone();
        let (layout, each) = (&self.layout, self.layout.micro_batches(batch));
        let sample = |group, micro_batch| layout.first_sample(first, batch, data, group, micro_batch);
        let (start, micro_batches) = match (layout.zero > 1, name.starts_with("layer.")) {
            (true, true) => (sample(round / each, round % each), 1),
            (true, false) => (sample(round, 0), each),
            (false, _) => (sample(0, 0), layout.groups() * each),
        };
        let end = start + (micro_batches * layout.micro_batch) as u64;
        Some((number(parameter)?, name, start..end))
    }

    fn nonfinite_weight(&mut self) -> Option<String> {
        let Self { device, network, replicas, squares, .. } = self;
        let sum = squares.flat_range(0, 1);
        for bucket in &replicas.buckets {
            for piece in bucket.pieces(&bucket.weight.elements) {
                device.sum(bucket.weight.at(&piece.place), sum);
                if !device.read_f64(sum).is_finite() {
                    return Some(network.parameters()[piece.parameter].name.clone());
                }
            }
        }
        None
    }
}

/// All ranks' testimonies in one line.
fn tell(all: &[Testimony]) -> String {
    let mut line = String::new();
    let ranks = || all.iter().enumerate();
    let losses = ranks().flat_map(|(rank, own)| own.losses.iter().map(move |samples| (rank, samples)));
    for (rank, samples) in losses.take(NAMED) {
        let _ = write!(line, "; the loss of samples {}..{} on rank {rank}", samples.start, samples.end);
    }
    // Gradients further from the loss have it from this one.
    let nearest = all.iter().filter_map(|own| own.gradient.as_ref().map(|(number, ..)| *number)).max();
    let gradients = ranks().filter_map(|(rank, own)| Some((rank, own.gradient.as_ref()?)));
    for (rank, (_, name, samples)) in gradients.filter(|(_, found)| Some(found.0) == nearest).take(NAMED) {
        let Range { start, end } = samples;
        let _ = write!(line, "; the gradient of `{name}` on rank {rank}, of samples {start}..{end}");
    }
    for (rank, name) in ranks().filter_map(|(rank, own)| Some((rank, own.weight.as_ref()?))).take(NAMED) {
        let _ = write!(line, "; the weight `{name}` on rank {rank}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_nearest_to_the_loss_is_the_one_that_is_named() {
        let gradient = |number, name: &str, start| Testimony {
            gradient: Some((number, name.into(), start..start + 4)),
            ..Testimony::default()
        };
        let all =
            [gradient(3, "early", 0), gradient(7, "late", 4), Testimony::default(), gradient(7, "late", 8)];
        assert_eq!(
            tell(&all),
            "; the gradient of `late` on rank 1, of samples 4..8; the gradient of `late` on rank 3, of samples 8..12"
        );
    }
}
