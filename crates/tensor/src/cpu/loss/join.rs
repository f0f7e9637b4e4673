//! Between the passes: log-sum-exp and losses from the shards' statistics.

use super::super::Cpu;
use super::super::math;
use super::super::memory::assert_disjoint;
use crate::{CrossEntropyJoin, IGNORE, join_order};

/// Partial results of a log-sum-exp: the maximum and the sum of `exp(x - maximum)`.
#[derive(Clone, Copy)]
struct Partial {
    maximum: f32,
    sum: f32,
}

impl Partial {
    fn join(self, other: Self) -> Self {
        let maximum = self.maximum.max(other.maximum);
        // An empty shard's maximum is -∞; two of them must not make a NaN of ∞ - ∞.
        let part =
            |p: Self| if p.maximum == maximum { p.sum } else { p.sum * math::exp(p.maximum - maximum) };
        Self { maximum, sum: part(self) + part(other) }
    }
}

pub(in super::super) fn join(cpu: &mut Cpu, op: &CrossEntropyJoin) {
    let (statistics, tokens) = (op.statistics, op.targets.len());
    assert!(statistics.rows > 0 && statistics.rows.is_multiple_of(tokens), "{op:?}");
    assert!(statistics.cols >= 2 && statistics.cols % 2 == 0, "{op:?}: statistics come in pairs");
    for view in [op.target_logits, op.lse, op.losses] {
        assert_eq!(view.len(), tokens, "{view:?} for {tokens} tokens");
    }
    assert_disjoint(&[op.lse, op.losses], &[statistics, op.target_logits, op.targets]);
    // SAFETY: outputs overlap neither inputs nor each other; tokens are disjoint.
    let (statistics, target_logits, targets, lse, losses) = unsafe {
        (
            cpu.arena.slice::<f32>(op.statistics),
            cpu.arena.slice::<f32>(op.target_logits),
            cpu.arena.slice::<u32>(op.targets),
            cpu.arena.shared::<f32>(op.lse),
            cpu.arena.shared::<f32>(op.losses),
        )
    };
    let (cols, part) = (op.statistics.cols, tokens * op.statistics.cols);
    let shards = op.statistics.rows / tokens * cols / 2;
    cpu.team.ranges(tokens, 64, &|range| {
        // SAFETY: as above.
        let (lse, losses) = unsafe { (lse.range(range.clone()), losses.range(range.clone())) };
        for ((t, lse), loss) in range.zip(lse).zip(losses) {
            // A tree over u32::MAX shards is 32 high, and one shard is being added.
            let mut stack = [Partial { maximum: f32::NEG_INFINITY, sum: 0.0 }; 34];
            let mut height = 0;
            let pairs =
                statistics.chunks_exact(part).flat_map(|p| p[t * cols..(t + 1) * cols].chunks_exact(2));
            for (shard, pair) in pairs.enumerate() {
                stack[height] = Partial { maximum: pair[0], sum: pair[1] };
                height += 1;
                for _ in 0..join_order(shards, shard) {
                    stack[height - 2] = stack[height - 2].join(stack[height - 1]);
                    height -= 1;
                }
            }
            *lse = stack[0].maximum + stack[0].sum.ln();
            *loss = if targets[t] == IGNORE { 0.0 } else { *lse - target_logits[t] };
        }
    });
}
