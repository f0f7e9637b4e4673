//! The second pass: logits become their gradient in place.

use super::super::Cpu;
use super::super::math::{self, Act, for_act};
use super::super::memory::assert_disjoint;
use crate::{CrossEntropyGradient, IGNORE};

pub(in super::super) fn gradient(cpu: &mut Cpu, op: &CrossEntropyGradient) {
    let logits = op.logits;
    assert_eq!((op.lse.len(), op.targets.len()), (logits.rows, logits.rows), "{op:?}");
    assert_disjoint(&[logits], &[op.lse, op.targets]);
    for_act!(logits.dtype, T => gradient_of::<T>(cpu, op));
}

fn gradient_of<T: Act>(cpu: &mut Cpu, op: &CrossEntropyGradient) {
    // SAFETY: the logits overlap no input (checked by the caller); rows are disjoint.
    let (logits, lse, targets) = unsafe {
        (cpu.arena.shared::<T>(op.logits), cpu.arena.slice::<f32>(op.lse), cpu.arena.slice::<u32>(op.targets))
    };
    let (isa, width) = (cpu.isa, op.logits.cols);
    cpu.team.ranges(op.logits.rows, 1, &|range| {
        for t in range {
            // SAFETY: as above.
            let row = unsafe { logits.range(t * width..(t + 1) * width) };
            if targets[t] == IGNORE {
                row.fill(T::from_f32(0.0));
                continue;
            }
            let target = (targets[t] as usize).checked_sub(op.vocab_start).filter(|&target| target < width);
            let logit = target.map(|target| row[target].to_f32());
            isa.vectorize(
                #[inline(always)]
                || row.iter_mut().for_each(|x| *x = T::from_f32(math::exp(x.to_f32() - lse[t]) * op.scale)),
            );
            if let (Some(target), Some(logit)) = (target, logit) {
                row[target] = T::from_f32((math::exp(logit - lse[t]) - 1.0) * op.scale);
            }
        }
    });
}
