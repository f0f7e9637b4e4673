//! Element-wise operations and sums.

use proptest::prelude::*;
use triax_tensor::philox::Stream;
use triax_tensor::{DType, Need};

use crate::arena::{Arena, Output};
use crate::bound::{U, sum};
use crate::harness::{act, check, dropout, size};

const BYTES: usize = 1 << 19;

/// An error of the curves: `x · sigmoid(y)` with |y| ≤ 1.6 |x| + 0.08 |x|³, whose argument has 8 roundings.
fn curve(x: f64) -> f64 {
    16.0 * x.abs() * (1.0 + 1.6 * x.abs() + 0.08 * x.abs().powi(3)) * U
}

fn cast(arena: &mut Arena<'_>, from: DType, to: DType, rows: usize, cols: usize) -> Vec<Output> {
    let from = arena.normal("from", from, rows, cols, 3.0);
    let to = arena.output(to, rows, cols);
    arena.device.cast(from.view, to);
    vec![Output::exact("to", to)]
}

fn add(arena: &mut Arena<'_>, dtype: DType, rows: usize, cols: usize) -> Vec<Output> {
    let to = arena.normal("to", dtype, rows, cols, 1.0);
    let from = arena.normal("from", dtype, rows, cols, 1.0);
    arena.device.add(to.view, from.view);
    vec![Output::new("to", to.view, |r, c| U * (to.at(r, c) + from.at(r, c)).abs())]
}

fn scale_and_fill(arena: &mut Arena<'_>, rows: usize, cols: usize) -> Vec<Output> {
    let scaled = arena.normal("scaled", DType::F32, rows, cols, 1.0).view;
    let filled = arena.output(DType::F32, rows, cols);
    let cleared = arena.output(DType::Bf16, rows, cols);
    let random = arena.output(DType::F32, rows, cols);
    arena.device.scale(scaled, 0.37);
    arena.device.fill(filled, -2.5);
    arena.device.clear(cleared);
    arena.device.fill_normal(random, Stream::named(3, "weights"), 1001, 0.5, 0.02);
    vec![
        Output::exact("scaled", scaled),
        Output::exact("filled", filled),
        Output::exact("cleared", cleared),
        Output::new("random", random, |_, _| 2.0 * U * (0.5 + 0.02 * 8.0)),
    ]
}

fn gelu(arena: &mut Arena<'_>, dtype: DType, rows: usize, cols: usize) -> Vec<Output> {
    let pre = arena.normal("pre", dtype, rows, cols, 2.0);
    let out = arena.output(dtype, rows, cols);
    arena.device.gelu(pre.view, out);
    vec![Output::new("out", out, |r, c| curve(pre.at(r, c)))]
}

fn silu(arena: &mut Arena<'_>, dtype: DType, rows: usize, cols: usize) -> Vec<Output> {
    let gate_up = arena.normal("gate_up", dtype, rows, 2 * cols, 2.0);
    let d_out = arena.normal("d_out", dtype, rows, cols, 1.0);
    let out = arena.output(dtype, rows, cols);
    let d_gate_up = arena.output(dtype, rows, 2 * cols);
    arena.device.silu_mul(gate_up.view, out);
    arena.device.silu_mul_backward(d_out.view, gate_up.view, d_gate_up);
    let (gate, up) = (|r, c| gate_up.at(r, 2 * c), |r, c| gate_up.at(r, 2 * c + 1));
    vec![
        Output::new("out", out, |r, c| {
            curve(gate(r, c)) * up(r, c).abs() + 4.0 * U * (gate(r, c) * up(r, c)).abs()
        }),
        Output::new("d_gate_up", d_gate_up, |r, c| {
            let (gate, up, d) = (gate(r, c / 2), up(r, c / 2), d_out.at(r, c / 2).abs());
            // The derivative is sigmoid · (1 + gate (1 - sigmoid)), below 1.1, each factor off like the curve.
            let error = 16.0 * (1.0 + gate.abs()) * (1.0 + gate.abs()) * U;
            d * if c % 2 == 0 { up.abs() * error } else { gate.abs() * error }
        }),
    ]
}

fn dropped(arena: &mut Arena<'_>, dtype: DType, rows: usize, cols: usize, in_place: bool) -> Vec<Output> {
    let x = arena.normal("x", dtype, rows, cols, 1.0);
    let out = if in_place { x.view } else { arena.output(dtype, rows, cols) };
    arena.device.dropout(x.view, &dropout(cols), out);
    vec![Output::new("out", out, |r, c| 2.0 * U * x.at(r, c).abs())]
}

fn sums(arena: &mut Arena<'_>, dtype: DType, rows: usize, cols: usize) -> Vec<Output> {
    let x = arena.normal("x", dtype, rows, cols, 1.0);
    let single = arena.normal("single", DType::F32, rows, cols, 1.0);
    let columns = arena.normal("columns", DType::F32, 1, cols, 1.0);
    let joined = arena.output(DType::F32, 1, cols);
    let total = arena.output(DType::F64, 1, 1);
    let squares = arena.output(DType::F64, 1, rows);
    arena.device.column_sums(x.view, columns.view);
    arena.device.join_rows(single.view, joined);
    arena.device.sum(single.view, total);
    arena.device.row_squares(single.view, squares);
    let magnitude =
        |input: &crate::arena::Input, col| (0..rows).map(|row| input.at(row, col).abs()).sum::<f64>();
    let all: f64 = single.values.iter().map(|x| x.abs()).sum();
    vec![
        Output::new("column_sums", columns.view, |_, c| {
            sum(rows + 1) * (magnitude(&x, c) + columns.at(0, c).abs())
        }),
        Output::new("join_rows", joined, |_, c| sum(rows) * magnitude(&single, c)),
        Output::new("sum", total, |_, _| sum(rows * cols) * all),
        Output::new("row_squares", squares, |_, row| {
            sum(cols) * single.row(row).iter().map(|x| x * x).sum::<f64>()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn casts_round_once(from in act(), to in act(), rows in size(), cols in size()) {
        check(BYTES, &[], |arena| cast(arena, from, to, rows, cols));
    }

    #[test]
    fn additions_agree_with_the_reference(dtype in act(), rows in size(), cols in size()) {
        check(BYTES, &[], |arena| add(arena, dtype, rows, cols));
    }

    #[test]
    fn scaling_and_filling_agree_with_the_reference(rows in size(), cols in size()) {
        check(BYTES, &[], |arena| scale_and_fill(arena, rows, cols));
    }

    #[test]
    fn gelu_agrees_with_the_reference(dtype in act(), rows in size(), cols in size()) {
        check(BYTES, &[], |arena| gelu(arena, dtype, rows, cols));
    }

    #[test]
    fn swiglu_agrees_with_the_reference(dtype in act(), rows in size(), cols in size()) {
        check(BYTES, &[], |arena| silu(arena, dtype, rows, cols));
    }

    #[test]
    fn dropout_agrees_with_the_reference(
        dtype in act(), rows in size(), cols in size(), in_place in any::<bool>()
    ) {
        check(BYTES, &[], |arena| dropped(arena, dtype, rows, cols, in_place));
    }

    #[test]
    fn sums_agree_with_the_reference(dtype in act(), rows in size(), cols in size()) {
        check(BYTES, &[Need::Rows { tokens: rows, cols }], |arena| sums(arena, dtype, rows, cols));
    }
}

#[test]
fn long_sums_agree_with_the_reference() {
    let (rows, cols) = (997, 300);
    let needs = [Need::Rows { tokens: rows, cols }];
    check(1 << 22, &needs, |arena| sums(arena, DType::Bf16, rows, cols));
}
