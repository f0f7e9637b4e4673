//! 1F1B: `warm_up` forwards, then forward and backward in turn, then the backwards that are left. With a
//! warm-up of all micro-batches it is GPipe.

use super::{Action, Work};

pub(super) fn stage(micro_batches: usize, warm_up: usize) -> Vec<Action> {
    let warm_up = warm_up.min(micro_batches);
    let work = |micro_batch| Work { micro_batch, chunk: 0 };
    let steady = (warm_up..micro_batches)
        .flat_map(|mb| [Action::Forward(work(mb)), Action::Backward(work(mb - warm_up))]);
    (0..warm_up)
        .map(|mb| Action::Forward(work(mb)))
        .chain(steady)
        .chain((micro_batches - warm_up..micro_batches).map(|mb| Action::Backward(work(mb))))
        .collect()
}
