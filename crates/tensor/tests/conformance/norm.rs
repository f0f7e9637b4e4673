//! Norms forward and backward, and the residual connection.

use proptest::prelude::*;
use triax_tensor::{DType, Need, Norm, NormBackward, NormKind, ResidualAdd};

use crate::arena::{Arena, Input, Output};
use crate::bound::{U, sum};
use crate::harness::{act, check, dropout, size};

#[derive(Clone, Debug)]
struct Case {
    kind: NormKind,
    dtype: DType,
    rows: usize,
    cols: usize,
    bias: bool,
}

#[derive(Clone, Debug)]
struct Add {
    value_f32: bool,
    bias: bool,
    dropout: bool,
    in_place: bool,
}

fn kind() -> impl Strategy<Value = NormKind> {
    prop_oneof![Just(NormKind::Layer), Just(NormKind::Rms)]
}

fn case() -> impl Strategy<Value = Case> {
    (kind(), act(), size(), size(), any::<bool>()).prop_map(|(kind, dtype, rows, cols, bias)| Case {
        kind,
        dtype,
        rows,
        cols,
        bias: bias && kind == NormKind::Layer,
    })
}

fn add() -> impl Strategy<Value = Add> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(value_f32, bias, dropout, in_place)| Add { value_f32, bias, dropout, in_place })
}

const EPS: f32 = 1e-5;

/// Mean and reciprocal deviation of a row.
fn statistics(kind: NormKind, row: &[f64]) -> (f64, f64) {
    let count = row.len() as f64;
    let mean = if kind == NormKind::Layer { row.iter().sum::<f64>() / count } else { 0.0 };
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    (mean, 1.0 / (variance + f64::from(EPS)).sqrt())
}

fn forward(arena: &mut Arena<'_>, case: &Case) -> Vec<Output> {
    let Case { kind, dtype, rows, cols, .. } = *case;
    let x = arena.normal("x", dtype, rows, cols, 1.0);
    let weight = arena.normal("weight", DType::F32, 1, cols, 1.0);
    let bias = case.bias.then(|| arena.normal("bias", DType::F32, 1, cols, 1.0));
    let out = arena.output(dtype, rows, cols);
    let stats = arena.output(DType::F32, rows, 2);
    let bias_view = bias.as_ref().map(|bias| bias.view);
    arena.device.norm(&Norm { kind, x: x.view, weight: weight.view, bias: bias_view, out, stats, eps: EPS });

    // The mean is off by its sum's error, the deviation relatively by the same over the deviation.
    let row = |r: usize| &x.values[r * cols..(r + 1) * cols];
    let largest = |r: usize| row(r).iter().fold(0.0f64, |a, x| a.max(x.abs()));
    let error = |r: usize| (sum(cols) + 8.0 * U) * largest(r);
    vec![
        Output::new("out", out, |r, c| {
            let (mean, reciprocal) = statistics(kind, row(r));
            let normal = ((row(r)[c] - mean) * reciprocal).abs();
            let moved = (2.0 + normal) * reciprocal * error(r) + (sum(cols) + 8.0 * U) * normal;
            weight.at(0, c).abs() * moved + 4.0 * U * bias.as_ref().map_or(0.0, |b| b.at(0, c).abs())
        }),
        Output::new("stats", stats, |r, c| {
            let (_, reciprocal) = statistics(kind, row(r));
            // Rounding errors of single elements average out in the mean and variance no worse than this.
            let relative = 2.0 * reciprocal * error(r) + sum(cols) + 8.0 * U;
            match (c, kind) {
                (0, NormKind::Layer) => error(r),
                (0, NormKind::Rms) => 0.0,
                _ => reciprocal * relative,
            }
        }),
    ]
}

fn add_residual(arena: &mut Arena<'_>, dtype: DType, (rows, cols): (usize, usize), add: &Add) -> Vec<Output> {
    let x = arena.normal("x", dtype, rows, cols, 1.0);
    let value = arena.normal("value", if add.value_f32 { DType::F32 } else { dtype }, rows, cols, 1.0);
    let bias = add.bias.then(|| arena.normal("bias", DType::F32, 1, cols, 1.0));
    let dropout = add.dropout.then(|| dropout(cols));
    let out = if add.in_place { x.view } else { arena.output(dtype, rows, cols) };
    arena.device.add_residual(&ResidualAdd {
        x: x.view,
        value: value.view,
        bias: bias.as_ref().map(|b| b.view),
        dropout,
        out,
    });
    vec![Output::new("out", out, |r, c| {
        let biased = value.at(r, c).abs() + bias.as_ref().map_or(0.0, |b| b.at(0, c).abs());
        let factor = dropout.map_or(1.0, |d| f64::from(d.factor(r, c)));
        4.0 * U * (x.at(r, c).abs() + biased * factor)
    })]
}

fn backward(
    arena: &mut Arena<'_>,
    kind: NormKind,
    dtype: DType,
    (rows, cols): (usize, usize),
    shards: usize,
    bias: bool,
    residual: Option<bool>,
) -> Vec<Output> {
    let d_out = arena.normal("d_out", dtype, rows, cols, 1.0);
    let x = arena.normal("x", dtype, rows, cols, 1.0);
    let weight = arena.normal("weight", DType::F32, 1, cols, 1.0);
    let both: Vec<f64> = (0..rows)
        .flat_map(|r| {
            let (mean, reciprocal) = statistics(kind, x.row(r));
            [mean, reciprocal]
        })
        .collect();
    let stats = arena.input(DType::F32, rows, 2, &both);
    let d_residual = residual.map(|_| arena.normal("d_residual", dtype, rows, cols, 1.0));
    let d_x = match (&d_residual, residual) {
        (Some(input), Some(true)) => input.view,
        _ => arena.output(dtype, rows, cols),
    };
    let d_weight = arena.normal("d_weight", DType::F32, shards, cols, 1.0);
    let d_bias =
        (bias && kind == NormKind::Layer).then(|| arena.normal("d_bias", DType::F32, shards, cols, 1.0));
    arena.device.norm_backward(&NormBackward {
        kind,
        d_out: d_out.view,
        x: x.view,
        stats: stats.view,
        weight: weight.view,
        d_residual: d_residual.as_ref().map(|input| input.view),
        d_x,
        d_weight: d_weight.view,
        d_bias: d_bias.as_ref().map(|input| input.view),
    });

    // The magnitude of a normalised element before its subtraction cancels.
    let normal = |r: usize, c: usize| (x.at(r, c).abs() + stats.at(r, 0).abs()) * stats.at(r, 1);
    let g = |r: usize, c: usize| (d_out.at(r, c) * weight.at(0, c)).abs();
    let shard_rows = |s: usize| triax_tensor::shard_range(rows, shards, s);
    let row_means: Vec<(f64, f64)> = (0..rows)
        .map(|r| {
            let mean = |term: &dyn Fn(usize) -> f64| (0..cols).map(term).sum::<f64>() / cols as f64;
            (mean(&|c| g(r, c)), mean(&|c| g(r, c) * normal(r, c)))
        })
        .collect();
    let error = sum(cols) + 16.0 * U;
    let residual_at = |r, c| d_residual.as_ref().map_or(0.0, |input: &Input| input.at(r, c).abs());
    let mut outputs = vec![
        Output::new("d_x", d_x, |r, c| {
            let (mean, mean_normal) = row_means[r];
            error * stats.at(r, 1) * (g(r, c) + mean + normal(r, c) * mean_normal)
                + 2.0 * U * residual_at(r, c)
        }),
        Output::new("d_weight", d_weight.view, |s, c| {
            let magnitude: f64 = shard_rows(s).map(|r| d_out.at(r, c).abs() * normal(r, c)).sum();
            (sum(rows) + 8.0 * U) * (magnitude + d_weight.at(s, c).abs())
        }),
    ];
    if let Some(d_bias) = d_bias {
        outputs.push(Output::new("d_bias", d_bias.view, |s, c| {
            let magnitude: f64 = shard_rows(s).map(|r| d_out.at(r, c).abs()).sum();
            (sum(rows) + 4.0 * U) * (magnitude + d_bias.at(s, c).abs())
        }));
    }
    outputs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn norms_agree_with_the_reference(case in case()) {
        let needs = [Need::Rows { tokens: case.rows, cols: case.cols }];
        check(1 << 19, &needs, |arena| forward(arena, &case));
    }

    #[test]
    fn residual_connections_agree_with_the_reference(
        dtype in act(), rows in size(), cols in size(), add in add()
    ) {
        check(1 << 19, &[], |arena| add_residual(arena, dtype, (rows, cols), &add));
    }

    #[test]
    fn norm_gradients_agree_with_the_reference(
        kind in kind(), dtype in act(), rows in size(), cols in size(),
        shards in prop_oneof![Just(1usize), Just(2), Just(8)], bias in any::<bool>(), residual in any::<Option<bool>>()
    ) {
        let needs = [Need::Rows { tokens: rows, cols }];
        check(1 << 19, &needs, |arena| backward(arena, kind, dtype, (rows, cols), shards, bias, residual));
    }
}
