//! Held-out bits per byte of a trained network: what its predictions would cost an ideal entropy coder.
//!
//! ```text
//! bits per byte = Σ −log₂ p(token | tokens before it) / bytes of the text
//!
//! window 1   [ counted . . . . . . . . . . . ]
//! window 2             [ context . . | counted . . . ]        every token is counted once; but for the first
//! window 3                           [ context . . | counted …    window, it sees half a window before it
//! ```
//! The end-of-document tokens are paid for too, though the bytes do not count them.

use crate::arguments::DeviceArguments;
use crate::failure::{Context, Failure};
use crate::machine;
use crate::source::Source;
use std::path::Path;
use triax_data::Reader;
use triax_model::{MicroBatch, Network, Options, Rank, Shared, TensorSplit};
use triax_spec::run::{Precision, Recompute};
use triax_tensor::{Device, IGNORE, Table};

/// Windows computed at once.
const WINDOWS: usize = 8;

/// A network planned for evaluation.
pub(crate) struct Judge {
    device: Box<dyn Device>,
    network: Network,
    sequence: usize,
}

impl Judge {
    pub(crate) fn new(source: &Source, arguments: DeviceArguments) -> Result<Self, Failure> {
        let mut device = machine::device(arguments)?;
        let sequence = source.model.sequence;
        let options = Options {
            dtype: machine::dtype(Precision::Bf16),
            sequence,
            micro_batch: WINDOWS,
            micro_batches: 1,
            recompute: Recompute::None,
            tensor_shards: 8,
            loss_chunk: (WINDOWS * sequence).min(1024),
            seed: 0,
            training: false,
            tensor: TensorSplit::WHOLE,
            deferred: false,
            shared: Shared::default(),
        };
        let mut table = Table::new();
        let failed = || format!("cannot evaluate {}", source.described);
        let mut network = Network::plan(&source.model, &options, &*device, &mut table).context(failed)?;
        let scratch = network.scratch_bytes(&*device);
        device.allocate(table.bytes(), scratch).context(failed)?;
        network.load(&mut *device, &*source.tensors).context(failed)?;
        network.pack_weights(&mut *device);
        Ok(Self { device, network, sequence })
    }

    /// The loss of every token of `stream` in nats; 0 for the first, before which nothing stands.
    pub(crate) fn losses(
        &mut self,
        stream: &[u32],
        mut progress: impl FnMut(u64),
    ) -> Result<Vec<f32>, Failure> {
        let failed = || "cannot judge the held-out text".to_owned();
        let windows = windows(stream.len(), self.sequence);
        let mut all = vec![0.0];
        for group in windows.chunks(WINDOWS) {
            let (tokens, targets) = fill(stream, group, self.sequence);
            let mut losses = vec![0.0; tokens.len()];
            let batch = MicroBatch { tokens: &tokens, targets: &targets, prefix: None, first_sample: 0 };
            let rank = &mut Rank::alone(&mut *self.device);
            self.network.forward_loss(rank, &batch, &mut losses).context(failed)?;
            let counted = losses.iter().zip(&targets).filter(|(_, target)| **target != IGNORE);
            all.extend(counted.map(|(loss, _)| loss));
            progress(group.iter().map(|window| window.counted as u64).sum());
        }
        Ok(all)
    }
}

/// All tokens of the token files `prefix`; `first` stands before them (the end of another document).
pub(crate) fn read(prefix: &Path, first: u32) -> Result<Vec<u32>, Failure> {
    let failed = || format!("cannot read {}", prefix.display());
    let reader = Reader::open(prefix).context(failed)?;
    let mut stream = vec![first; reader.tokens() as usize + 1];
    reader.read(0, &mut stream[1..]).context(failed)?;
    Ok(stream)
}

pub(crate) fn bits(losses: &[f32]) -> f64 {
    losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / std::f64::consts::LN_2
}

/// Inputs `start..start + sequence`, of whose targets the last `counted` before the end count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    start: usize,
    /// Inputs that there are.
    length: usize,
    counted: usize,
}

/// Share of a window that is context only.
const CONTEXT_SHARE: usize = 2;

/// Windows in which every token of the stream but the first is a counted target once.
fn windows(stream: usize, sequence: usize) -> Vec<Window> {
    let targets = stream.saturating_sub(1);
    let context = sequence / CONTEXT_SHARE;
    let (mut windows, mut done) = (Vec::new(), 0);
    while done < targets {
        let start = done.saturating_sub(context);
        let length = sequence.min(targets - start);
        let counted = start + length - done;
        windows.push(Window { start, length, counted });
        done += counted;
    }
    windows
}

fn fill(stream: &[u32], windows: &[Window], sequence: usize) -> (Vec<u32>, Vec<u32>) {
    let mut tokens = vec![0; windows.len() * sequence];
    let mut targets = vec![IGNORE; windows.len() * sequence];
    for (index, &Window { start, length, counted }) in windows.iter().enumerate() {
        let at = index * sequence;
        tokens[at..at + length].copy_from_slice(&stream[start..start + length]);
        let first = length - counted;
        targets[at + first..at + length].copy_from_slice(&stream[start + first + 1..start + length + 1]);
    }
    (tokens, targets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_token_is_counted_once_and_sees_its_context(stream in 0usize..3000, sequence in 4usize..300) {
            let numbers: Vec<u32> = (0..stream as u32).collect();
            let windows = windows(stream, sequence);
            let mut next = 1;
            for window in &windows {
                let (tokens, targets) = fill(&numbers, std::slice::from_ref(window), sequence);
                for (place, &target) in targets.iter().enumerate().filter(|(_, target)| **target != IGNORE) {
                    prop_assert_eq!(target, next, "targets come in order");
                    prop_assert_eq!(tokens[place] + 1, target, "the input is the token before");
                    prop_assert!(place >= sequence / CONTEXT_SHARE || target as usize <= sequence);
                    next += 1;
                }
            }
            prop_assert_eq!(next as usize, stream.max(1));
        }
    }
}
