//! AdamW over flat slices: one pass over memory, which is what bounds it.

use super::Cpu;
use super::memory::assert_disjoint;
use crate::AdamW;

pub(super) fn adamw(cpu: &mut Cpu, step: &AdamW) {
    let len = step.weight.len();
    for view in [step.grad, step.m, step.v] {
        assert_eq!(view.len(), len, "{view:?} for the weight {:?}", step.weight);
    }
    assert_disjoint(&[step.weight, step.m, step.v], &[step.grad]);
    // SAFETY: the views do not overlap; ranges are disjoint.
    let (weight, grad, m, v) = unsafe {
        (
            cpu.arena.shared::<f32>(step.weight),
            cpu.arena.slice::<f32>(step.grad),
            cpu.arena.shared::<f32>(step.m),
            cpu.arena.shared::<f32>(step.v),
        )
    };
    let rates = Rates::new(step);
    let isa = cpu.isa;
    cpu.team.ranges(len, 16_384, &|range| {
        // SAFETY: as above.
        let (weight, m, v) =
            unsafe { (weight.range(range.clone()), m.range(range.clone()), v.range(range.clone())) };
        let grad = &grad[range];
        isa.vectorize(
            #[inline(always)]
            || update(rates, weight, grad, m, v),
        );
    });
}

/// The step's factors, with the bias corrections worked out in f64.
#[derive(Clone, Copy)]
struct Rates {
    grad_scale: f32,
    beta1: f32,
    beta2: f32,
    /// `1 - β`, of the same rounded β.
    rest1: f32,
    rest2: f32,
    /// `1 / (1 - βᵗ)`.
    correction1: f32,
    correction2: f32,
    eps: f32,
    learning_rate: f32,
    weight_decay: f32,
}

impl Rates {
    fn new(step: &AdamW) -> Self {
        let correction = |beta: f32| (1.0 / (1.0 - f64::from(beta).powf(step.step as f64))) as f32;
        Self {
            grad_scale: step.grad_scale,
            beta1: step.beta1,
            beta2: step.beta2,
            rest1: (1.0 - f64::from(step.beta1)) as f32,
            rest2: (1.0 - f64::from(step.beta2)) as f32,
            correction1: correction(step.beta1),
            correction2: correction(step.beta2),
            eps: step.eps,
            learning_rate: step.learning_rate,
            weight_decay: step.weight_decay,
        }
    }
}

#[inline(always)]
fn update(r: Rates, weight: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
    for (((w, &g), m), v) in weight.iter_mut().zip(grad).zip(m).zip(v) {
        let g = g * r.grad_scale;
        *m = r.beta1 * *m + r.rest1 * g;
        *v = r.beta2 * *v + r.rest2 * (g * g);
        let direction = (*m * r.correction1) / ((*v * r.correction2).sqrt() + r.eps);
        *w -= r.learning_rate * (direction + r.weight_decay * *w);
    }
}
