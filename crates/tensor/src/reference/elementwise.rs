//! Operations on single elements, and sums over rows, columns and everything.

use super::check;
use super::memory::{Matrix, Memory};
use crate::philox::Stream;
use crate::{DType, Dropout, View};

pub(super) fn cast(memory: &mut Memory, from: View, to: View) {
    check::activation("from", from);
    check::activation("to", to);
    assert_eq!(from.len(), to.len(), "cast of {from:?} to {to:?}");
    check::apart(&[("to", to)], &[("from", from)]);
    let values = memory.read(from).values;
    memory.write(to, &Matrix { rows: to.rows, cols: to.cols, values });
}

pub(super) fn add(memory: &mut Memory, to: View, from: View) {
    check::matching("from", from, to, to.rows, to.cols);
    check::apart(&[("to", to)], &[("from", from)]);
    let (mut sum, from) = (memory.read(to), memory.read(from));
    for (sum, value) in sum.values.iter_mut().zip(from.values) {
        *sum += value;
    }
    memory.write(to, &sum);
}

pub(super) fn scale(memory: &mut Memory, view: View, factor: f32) {
    check::dtype("view", view, DType::F32);
    map(memory, view, view, |value| value * f64::from(factor));
}

pub(super) fn fill(memory: &mut Memory, view: View, value: f32) {
    check::dtype("view", view, DType::F32);
    map(memory, view, view, |_| f64::from(value));
}

pub(super) fn fill_normal(
    memory: &mut Memory,
    view: View,
    stream: Stream,
    first_index: u64,
    mean: f32,
    std: f32,
) {
    check::dtype("view", view, DType::F32);
    let mut out = Matrix::zeros(view.rows, view.cols);
    for (index, value) in (first_index..).zip(&mut out.values) {
        *value = f64::from(mean) + f64::from(std) * stream.normal(index);
    }
    memory.write(view, &out);
}

pub(super) fn gelu(memory: &mut Memory, pre: View, out: View) {
    check::matching("out", out, pre, pre.rows, pre.cols);
    check::apart(&[("out", out)], &[("pre", pre)]);
    map(memory, pre, out, gelu_of);
}

/// `x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³)))`.
pub(super) fn gelu_of(x: f64) -> f64 {
    0.5 * x * (1.0 + gelu_argument(x).tanh())
}

/// The derivative of [`gelu_of`].
pub(super) fn gelu_derivative(x: f64) -> f64 {
    let tanh = gelu_argument(x).tanh();
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
    0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner
}

fn gelu_argument(x: f64) -> f64 {
    (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub(super) fn silu_mul(memory: &mut Memory, gate_up: View, out: View) {
    check::matching("gate_up", gate_up, out, out.rows, 2 * out.cols);
    check::apart(&[("out", out)], &[("gate_up", gate_up)]);
    let gate_up = memory.read(gate_up);
    let mut result = Matrix::zeros(out.rows, out.cols);
    for row in 0..out.rows {
        for col in 0..out.cols {
            let (gate, up) = (gate_up[(row, 2 * col)], gate_up[(row, 2 * col + 1)]);
            result[(row, col)] = gate * sigmoid(gate) * up;
        }
    }
    memory.write(out, &result);
}

pub(super) fn silu_mul_backward(memory: &mut Memory, d_out: View, gate_up: View, d_gate_up: View) {
    check::matching("gate_up", gate_up, d_out, d_out.rows, 2 * d_out.cols);
    check::matching("d_gate_up", d_gate_up, d_out, d_out.rows, 2 * d_out.cols);
    check::apart(&[("d_gate_up", d_gate_up)], &[("d_out", d_out), ("gate_up", gate_up)]);
    let (d_out, gate_up) = (memory.read(d_out), memory.read(gate_up));
    let mut result = Matrix::zeros(d_gate_up.rows, d_gate_up.cols);
    for row in 0..d_out.rows {
        for col in 0..d_out.cols {
            let (gate, up) = (gate_up[(row, 2 * col)], gate_up[(row, 2 * col + 1)]);
            let derivative = sigmoid(gate) * (1.0 + gate * (1.0 - sigmoid(gate)));
            result[(row, 2 * col)] = d_out[(row, col)] * up * derivative;
            result[(row, 2 * col + 1)] = d_out[(row, col)] * gate * sigmoid(gate);
        }
    }
    memory.write(d_gate_up, &result);
}

pub(super) fn dropout(memory: &mut Memory, x: View, dropout: &Dropout, out: View) {
    check::matching("out", out, x, x.rows, x.cols);
    check::same_or_apart(("out", out), ("x", x));
    let mut values = memory.read(x);
    for row in 0..x.rows {
        for col in 0..x.cols {
            values[(row, col)] *= f64::from(dropout.factor(row, col));
        }
    }
    memory.write(out, &values);
}

pub(super) fn column_sums(memory: &mut Memory, x: View, sums: View) {
    check::activation("x", x);
    check::single("sums", sums, 1, x.cols);
    check::apart(&[("sums", sums)], &[("x", x)]);
    let (x, mut total) = (memory.read(x), memory.read(sums));
    for row in 0..x.rows {
        for col in 0..x.cols {
            total[(0, col)] += x[(row, col)];
        }
    }
    memory.write(sums, &total);
}

pub(super) fn join_rows(memory: &mut Memory, from: View, to: View) {
    check::dtype("from", from, DType::F32);
    check::single("to", to, 1, from.cols);
    check::apart(&[("to", to)], &[("from", from)]);
    let from = memory.read(from);
    let mut total = Matrix::zeros(1, from.cols);
    for row in 0..from.rows {
        for col in 0..from.cols {
            total[(0, col)] += from[(row, col)];
        }
    }
    memory.write(to, &total);
}

/// `to = Σ value`.
pub(super) fn sum(memory: &mut Memory, from: View, to: View) {
    check::dtype("from", from, DType::F32);
    check::shape("to", to, 1, 1);
    check::dtype("to", to, DType::F64);
    check::apart(&[("to", to)], &[("from", from)]);
    let total = memory.read(from).values.into_iter().sum();
    memory.write(to, &Matrix { rows: 1, cols: 1, values: vec![total] });
}

/// `to[row] = Σ value²` over the row.
pub(super) fn row_squares(memory: &mut Memory, from: View, to: View) {
    check::dtype("from", from, DType::F32);
    check::shape("to", to, 1, from.rows);
    check::dtype("to", to, DType::F64);
    check::apart(&[("to", to)], &[("from", from)]);
    let x = memory.read(from);
    let values = (0..x.rows).map(|row| x.row(row).iter().map(|x| x * x).sum()).collect();
    memory.write(to, &Matrix { rows: 1, cols: x.rows, values });
}

fn map(memory: &mut Memory, from: View, to: View, function: impl Fn(f64) -> f64) {
    let mut values = memory.read(from);
    for value in &mut values.values {
        *value = function(*value);
    }
    memory.write(to, &values);
}
