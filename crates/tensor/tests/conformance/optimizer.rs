//! AdamW, one pass.

use proptest::prelude::*;
use triax_tensor::{AdamW, DType};

use crate::arena::{Arena, Output};
use crate::bound::U;
use crate::harness::check;

fn adamw(arena: &mut Arena<'_>, len: usize, step: u64) -> Vec<Output> {
    let weight = arena.normal("weight", DType::F32, 1, len, 1.0);
    let grad = arena.normal("grad", DType::F32, 1, len, 1.0);
    let m = arena.normal("m", DType::F32, 1, len, 0.1);
    let random = arena.normal("v", DType::F32, 1, len, 0.1);
    let v = arena.input(DType::F32, 1, len, &random.values.iter().map(|x| x * x).collect::<Vec<_>>());
    let adamw = AdamW {
        weight: weight.view,
        grad: grad.view,
        m: m.view,
        v: v.view,
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step,
        grad_scale: 0.5,
    };
    arena.device.adamw(&adamw);

    let (beta1, beta2) = (f64::from(adamw.beta1), f64::from(adamw.beta2));
    let g = |c: usize| (0.5 * grad.at(0, c)).abs();
    let first = |c: usize| beta1 * m.at(0, c).abs() + (1.0 - beta1) * g(c);
    let second = |c: usize| beta2 * v.at(0, c) + (1.0 - beta2) * g(c) * g(c);
    vec![
        Output::new("m", m.view, |_, c| 6.0 * U * first(c)),
        Output::new("v", v.view, |_, c| 8.0 * U * second(c)),
        Output::new("weight", weight.view, |_, c| {
            let corrected = |value: f64, beta: f64| value / (1.0 - beta.powf(step as f64));
            let denominator = corrected(second(c), beta2).sqrt() + f64::from(adamw.eps);
            let direction = corrected(first(c), beta1) / denominator;
            let rate = f64::from(adamw.learning_rate);
            // The moments' errors and about ten roundings of the direction; one of the weight.
            24.0 * U * rate * (direction + 0.1 * weight.at(0, c).abs()) + U * weight.at(0, c).abs()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn adamw_agrees_with_the_reference(len in 1usize..5000, step in 1u64..2000) {
        check(1 << 18, &[], |arena| adamw(arena, len, step));
    }
}
