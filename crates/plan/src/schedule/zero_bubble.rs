//! ZB-H1: 1F1B in which stage i runs a micro-batch's weight gradients i micro-batches later than its input
//! gradients. Stage i of 1F1B holds p - i micro-batches, so the i that wait bring every stage to p, and the
//! waiting work fills what would be bubble at the end.

use super::{Action, Work};

pub(super) fn stage(stages: usize, stage: usize, micro_batches: usize) -> Vec<Action> {
    let work = |micro_batch| Work { micro_batch, chunk: 0 };
    let warm_up = (stages - 1 - stage).min(micro_batches);
    let mut actions: Vec<Action> = (0..warm_up).map(|mb| Action::Forward(work(mb))).collect();
    for k in 0..micro_batches {
        if warm_up + k < micro_batches {
            actions.push(Action::Forward(work(warm_up + k)));
        }
        actions.push(Action::BackwardInput(work(k)));
        if k >= stage {
            actions.push(Action::BackwardWeight(work(k - stage)));
        }
    }
    actions.extend(
        (micro_batches.saturating_sub(stage)..micro_batches).map(|mb| Action::BackwardWeight(work(mb))),
    );
    actions
}
