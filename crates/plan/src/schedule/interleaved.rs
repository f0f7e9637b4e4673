//! Interleaved 1F1B: each stage holds several chunks of layers, and micro-batches go round in groups as large
//! as the pipeline: a group through chunk 0, then the same group through chunk 1, and so on.

use super::{Action, Work};

/// Forwards before the first backward.
pub(super) fn warm_up(stages: usize, stage: usize, chunks: usize, micro_batches: usize) -> usize {
    let all = micro_batches * chunks;
    if chunks == 1 {
        return (stages - 1 - stage).min(all);
    }
    (2 * (stages - 1 - stage) + (chunks - 1) * stages).min(all)
}

pub(super) fn stage(stages: usize, stage: usize, chunks: usize, micro_batches: usize) -> Vec<Action> {
    let group = if chunks == 1 { 1 } else { stages };
    // The k-th forward of any stage; backwards run through the chunks from the last.
    let forward = |k: usize| {
        let (round, inside) = (k / (group * chunks), k % (group * chunks));
        Work { micro_batch: round * group + inside % group, chunk: inside / group }
    };
    let backward = |k: usize| {
        let work = forward(k);
        Work { chunk: chunks - 1 - work.chunk, ..work }
    };
    let all = micro_batches * chunks;
    let warm_up = warm_up(stages, stage, chunks, micro_batches);
    let steady =
        (warm_up..all).flat_map(|k| [Action::Forward(forward(k)), Action::Backward(backward(k - warm_up))]);
    (0..warm_up)
        .map(|k| Action::Forward(forward(k)))
        .chain(steady)
        .chain((all - warm_up..all).map(|k| Action::Backward(backward(k))))
        .collect()
}
