//! Layer norm, RMS norm and their backward, and the residual connection.

use super::check;
use super::memory::{Matrix, Memory};
use crate::{DType, Norm, NormBackward, NormKind, ResidualAdd, View, shard_range};

pub(super) fn norm(memory: &mut Memory, norm: &Norm) {
    check_norm(norm);
    let x = memory.read(norm.x);
    let weight = memory.read(norm.weight);
    let bias = norm.bias.map(|bias| memory.read(bias));
    let mut out = Matrix::zeros(x.rows, x.cols);
    let mut stats = Matrix::zeros(x.rows, 2);
    for row in 0..x.rows {
        let mean = match norm.kind {
            NormKind::Layer => x.row(row).iter().sum::<f64>() / x.cols as f64,
            NormKind::Rms => 0.0,
        };
        let variance = x.row(row).iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.cols as f64;
        let reciprocal = 1.0 / (variance + f64::from(norm.eps)).sqrt();
        stats[(row, 0)] = mean;
        stats[(row, 1)] = reciprocal;
        for col in 0..x.cols {
            let normal = (x[(row, col)] - mean) * reciprocal;
            out[(row, col)] = normal * weight[(0, col)] + bias.as_ref().map_or(0.0, |bias| bias[(0, col)]);
        }
    }
    memory.write(norm.out, &out);
    memory.write(norm.stats, &stats);
}

/// With n the normalised row and g = d_out · weight:
/// `d_x = (g - mean(g) - n · mean(g n)) / deviation + d_residual`, without `mean(g)` for RMS;
/// `d_weight += Σ d_out n`, `d_bias += Σ d_out`.
pub(super) fn norm_backward(memory: &mut Memory, norm: &NormBackward) {
    check_backward(norm);
    let (d_out, x) = (memory.read(norm.d_out), memory.read(norm.x));
    let (stats, weight) = (memory.read(norm.stats), memory.read(norm.weight));
    let mut d_x = match norm.d_residual {
        Some(view) => memory.read(view),
        None => Matrix::zeros(x.rows, x.cols),
    };
    let normal = |row: usize, col: usize| (x[(row, col)] - stats[(row, 0)]) * stats[(row, 1)];
    for row in 0..x.rows {
        let g: Vec<f64> = (0..x.cols).map(|col| d_out[(row, col)] * weight[(0, col)]).collect();
        let mean_g = match norm.kind {
            NormKind::Layer => g.iter().sum::<f64>() / x.cols as f64,
            NormKind::Rms => 0.0,
        };
        let mean_gn = (0..x.cols).map(|col| g[col] * normal(row, col)).sum::<f64>() / x.cols as f64;
        for col in 0..x.cols {
            d_x[(row, col)] += (g[col] - mean_g - normal(row, col) * mean_gn) * stats[(row, 1)];
        }
    }
    let mut d_weight = memory.read(norm.d_weight);
    let mut d_bias = norm.d_bias.map(|view| memory.read(view));
    for shard in 0..d_weight.rows {
        for row in shard_range(x.rows, d_weight.rows, shard) {
            for col in 0..x.cols {
                d_weight[(shard, col)] += d_out[(row, col)] * normal(row, col);
                if let Some(d_bias) = &mut d_bias {
                    d_bias[(shard, col)] += d_out[(row, col)];
                }
            }
        }
    }
    memory.write(norm.d_x, &d_x);
    memory.write(norm.d_weight, &d_weight);
    if let (Some(view), Some(d_bias)) = (norm.d_bias, d_bias) {
        memory.write(view, &d_bias);
    }
}

fn check_norm(norm: &Norm) {
    let (rows, cols) = (norm.x.rows, norm.x.cols);
    check::activation("x", norm.x);
    check::matching("out", norm.out, norm.x, rows, cols);
    check::single("weight", norm.weight, 1, cols);
    check::single("stats", norm.stats, rows, 2);
    let mut inputs = vec![("weight", norm.weight)];
    inputs.extend(norm.bias.map(|bias| ("bias", bias)));
    if let Some(bias) = norm.bias {
        assert!(norm.kind == NormKind::Layer, "an RMS norm with a bias: {norm:?}");
        check::single("bias", bias, 1, cols);
    }
    inputs.push(("x", norm.x));
    check::apart(&[("out", norm.out), ("stats", norm.stats)], &inputs);
}

pub(super) fn add_residual(memory: &mut Memory, add: &ResidualAdd) {
    let (rows, cols) = (add.x.rows, add.x.cols);
    check::activation("x", add.x);
    check::shape("value", add.value, rows, cols);
    either("value", add.value, add.x.dtype);
    check::matching("out", add.out, add.x, rows, cols);
    check::same_or_apart(("out", add.out), ("x", add.x));
    let mut inputs = vec![("value", add.value)];
    if let Some(bias) = add.bias {
        check::single("bias", bias, 1, cols);
        inputs.push(("bias", bias));
    }
    check::apart(&[("out", add.out)], &inputs);

    let mut x = memory.read(add.x);
    let value = memory.read(add.value);
    let bias = add.bias.map(|bias| memory.read(bias));
    for row in 0..rows {
        for col in 0..cols {
            let biased = value[(row, col)] + bias.as_ref().map_or(0.0, |bias| bias[(0, col)]);
            let factor = add.dropout.map_or(1.0, |dropout| f64::from(dropout.factor(row, col)));
            x[(row, col)] += biased * factor;
        }
    }
    memory.write(add.out, &x);
}

/// f32 or the act dtype.
pub(super) fn either(name: &str, view: View, act: DType) {
    assert!(view.dtype == act || view.dtype == DType::F32, "{name} is {}, must be {act} or f32", view.dtype);
}

fn check_backward(norm: &NormBackward) {
    let (rows, cols) = (norm.x.rows, norm.x.cols);
    check::activation("x", norm.x);
    check::matching("d_out", norm.d_out, norm.x, rows, cols);
    check::matching("d_x", norm.d_x, norm.x, rows, cols);
    check::single("stats", norm.stats, rows, 2);
    check::single("weight", norm.weight, 1, cols);
    assert!(norm.d_weight.rows > 0, "d_weight without shards");
    check::single("d_weight", norm.d_weight, norm.d_weight.rows, cols);
    let mut outputs = vec![("d_x", norm.d_x), ("d_weight", norm.d_weight)];
    if let Some(d_bias) = norm.d_bias {
        assert!(norm.kind == NormKind::Layer, "an RMS norm with a bias: {norm:?}");
        check::single("d_bias", d_bias, norm.d_weight.rows, cols);
        outputs.push(("d_bias", d_bias));
    }
    let inputs = [("d_out", norm.d_out), ("x", norm.x), ("stats", norm.stats), ("weight", norm.weight)];
    check::apart(&outputs, &inputs);
    if let Some(d_residual) = norm.d_residual {
        check::matching("d_residual", d_residual, norm.x, rows, cols);
        check::same_or_apart(("d_x", norm.d_x), ("d_residual", d_residual));
        check::apart(&outputs[1..], &[("d_residual", d_residual)]);
    }
}
