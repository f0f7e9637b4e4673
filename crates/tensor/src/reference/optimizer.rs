//! AdamW, element by element.

use super::check;
use super::memory::Memory;
use crate::AdamW;

pub(super) fn adamw(memory: &mut Memory, step: &AdamW) {
    let (rows, cols) = (step.weight.rows, step.weight.cols);
    let views = [("weight", step.weight), ("grad", step.grad), ("m", step.m), ("v", step.v)];
    for (name, view) in views {
        check::single(name, view, rows, cols);
    }
    check::apart(&views, &[]);
    assert!(step.step > 0, "steps count from 1");

    let grad = memory.read(step.grad);
    let (mut weight, mut m, mut v) = (memory.read(step.weight), memory.read(step.m), memory.read(step.v));
    let (beta1, beta2) = (f64::from(step.beta1), f64::from(step.beta2));
    let first = 1.0 - beta1.powf(step.step as f64);
    let second = 1.0 - beta2.powf(step.step as f64);
    for i in 0..grad.values.len() {
        let g = grad.values[i] * f64::from(step.grad_scale);
        m.values[i] = beta1 * m.values[i] + (1.0 - beta1) * g;
        v.values[i] = beta2 * v.values[i] + (1.0 - beta2) * g * g;
        let direction = m.values[i] / first / ((v.values[i] / second).sqrt() + f64::from(step.eps));
        let decay = f64::from(step.weight_decay) * weight.values[i];
        weight.values[i] -= f64::from(step.learning_rate) * (direction + decay);
    }
    memory.write(step.m, &m);
    memory.write(step.v, &v);
    memory.write(step.weight, &weight);
}
