//! Matrix products and their epilogues.

use super::check;
use super::elementwise::{gelu_derivative, gelu_of};
use super::memory::{Matrix, Memory, rounded};
use super::rounding::Rounding;
use crate::{Activation, DType, Gemm, Operand, Packed, Quantised, View};

pub(super) fn pack(memory: &mut Memory, from: Operand, to: Packed) {
    assert!(
        !matches!(from, Operand::Packed(_) | Operand::Quantised(_)),
        "packing an operand that is packed: {from:?}"
    );
    assert!(
        from.inner() == to.inner && from.outer() == to.outer,
        "{from:?} packed as inner {}, outer {}",
        to.inner,
        to.outer
    );
    check::activation("from", stored(from));
    let target = check::unpacked(to);
    check::apart(&[("to", target)], &[("from", stored(from))]);
    let matrix = outer_inner(memory, from);
    memory.write(target, &matrix);
}

pub(super) fn gemm(memory: &mut Memory, gemm: &Gemm, rounding: Option<&mut Rounding>) {
    check(gemm);
    let (m, n) = (gemm.out.rows, gemm.out.cols);
    let mut left = outer_inner(memory, gemm.left);
    if let (Some(rounding), Operand::Quantised(_)) = (rounding, gemm.right) {
        rounding.round(&mut left);
    }
    let right = outer_inner(memory, gemm.right);

    let mut value = Matrix::zeros(m, n);
    for row in 0..m {
        for col in 0..n {
            value[(row, col)] = left.row(row).iter().zip(right.row(col)).map(|(a, b)| a * b).sum();
        }
    }

    if let Some(bias) = gemm.epilogue.bias {
        let bias = memory.read(bias);
        each(&mut value, |_, col, value| value + bias[(0, col)]);
    }
    match gemm.epilogue.activation {
        Activation::None => {}
        Activation::Gelu { pre } => {
            memory.write(pre, &value);
            each(&mut value, |_, _, value| gelu_of(rounded(value, pre.dtype)));
        }
        Activation::GeluGradient { pre } => {
            let pre = memory.read(pre);
            each(&mut value, |row, col, value| value * gelu_derivative(pre[(row, col)]));
        }
    }
    if let Some(dropout) = gemm.epilogue.dropout {
        each(&mut value, |row, col, value| value * f64::from(dropout.factor(row, col)));
    }
    if let Some(residual) = gemm.epilogue.residual {
        let residual = memory.read(residual);
        each(&mut value, |row, col, value| value + residual[(row, col)]);
    }
    if gemm.accumulate {
        let before = memory.read(gemm.out);
        each(&mut value, |row, col, value| value + before[(row, col)]);
    }
    memory.write(gemm.out, &value);
}

fn each(matrix: &mut Matrix, function: impl Fn(usize, usize, f64) -> f64) {
    for row in 0..matrix.rows {
        for col in 0..matrix.cols {
            matrix[(row, col)] = function(row, col, matrix[(row, col)]);
        }
    }
}

/// The view an operand lies in; a quantised one as a view of words, for its place alone.
fn stored(operand: Operand) -> View {
    match operand {
        Operand::Quantised(Quantised { offset, bytes, .. }) => {
            View { offset, rows: 1, cols: bytes / 4, dtype: DType::U32 }
        }
        Operand::InnerCols(view) | Operand::InnerRows(view) => view,
        Operand::Packed(packed) => check::unpacked(packed),
    }
}

/// The operand as `[outer, inner]`.
pub(super) fn outer_inner(memory: &Memory, operand: Operand) -> Matrix {
    match operand {
        Operand::Quantised(matrix) => dequantised(memory, matrix),
        Operand::InnerRows(view) => memory.read(view).transposed(),
        Operand::InnerCols(_) | Operand::Packed(_) => memory.read(stored(operand)),
    }
}

fn dequantised(memory: &Memory, matrix: Quantised) -> Matrix {
    let Quantised { offset, inner, outer, coding, .. } = matrix;
    let row = coding.row_bytes(inner);
    let rows = memory.bytes(offset, outer * row).chunks_exact(row);
    let mut values = vec![0.0f32; inner];
    let mut all = Vec::with_capacity(inner * outer);
    for row in rows {
        coding.dequantise(row, &mut values);
        all.extend(values.iter().map(|&v| f64::from(v)));
    }
    Matrix { rows: outer, cols: inner, values: all }
}

fn check(gemm: &Gemm) {
    let (left, right, out) = (gemm.left, gemm.right, gemm.out);
    let (m, n, dtype) = (left.outer(), right.outer(), left.dtype());
    assert!(
        !matches!(left, Operand::Packed(_) | Operand::Quantised(_)),
        "a packed or quantised left operand: {gemm:?}"
    );
    assert!(left.inner() == right.inner(), "inner dimensions {} and {}", left.inner(), right.inner());
    let fits = right.dtype() == dtype || matches!(right, Operand::Quantised(_));
    assert!(dtype.is_activation() && fits, "operands of {dtype} and {}", right.dtype());
    assert!(out.dtype == dtype || out.dtype == DType::F32, "a product of {dtype} stored as {}", out.dtype);
    assert!(!gemm.accumulate || out.dtype == DType::F32, "accumulation into {}", out.dtype);
    assert!(gemm.inner_shards > 0, "a product in 0 shards");
    check::shape("out", out, m, n);

    let mut inputs = vec![("left", stored(left)), ("right", stored(right))];
    let mut outputs = vec![("out", out)];
    if let Some(bias) = gemm.epilogue.bias {
        check::single("bias", bias, 1, n);
        inputs.push(("bias", bias));
    }
    match gemm.epilogue.activation {
        Activation::None => {}
        Activation::Gelu { pre } => {
            check::shape("pre", pre, m, n);
            check::dtype("pre", pre, dtype);
            outputs.push(("pre", pre));
        }
        Activation::GeluGradient { pre } => {
            check::shape("pre", pre, m, n);
            check::dtype("pre", pre, dtype);
            inputs.push(("pre", pre));
        }
    }
    if let Some(residual) = gemm.epilogue.residual {
        check::shape("residual", residual, m, n);
        check::dtype("residual", residual, dtype);
        check::same_or_apart(("out", out), ("residual", residual));
        if let Activation::Gelu { pre } = gemm.epilogue.activation {
            check::apart(&[("pre", pre)], &[("residual", residual)]);
        }
    }
    check::apart(&outputs, &inputs);
}
