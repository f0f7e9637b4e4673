//! Matrix products and their epilogues.

use super::check;
use super::elementwise::{gelu_derivative, gelu_of};
use super::memory::{Matrix, Memory, rounded};
use crate::{Activation, DType, Gemm, Operand, Packed, View};

pub(super) fn pack(memory: &mut Memory, from: Operand, to: Packed) {
    assert!(!matches!(from, Operand::Packed(_)), "packing an operand that is packed: {from:?}");
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

pub(super) fn gemm(memory: &mut Memory, gemm: &Gemm) {
    check(gemm);
    let (m, n) = (gemm.out.rows, gemm.out.cols);
    let left = outer_inner(memory, gemm.left);
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

/// The view an operand lies in.
fn stored(operand: Operand) -> View {
    match operand {
        Operand::InnerCols(view) | Operand::InnerRows(view) => view,
        Operand::Packed(packed) => check::unpacked(packed),
    }
}

/// The operand as `[outer, inner]`.
pub(super) fn outer_inner(memory: &Memory, operand: Operand) -> Matrix {
    let matrix = memory.read(stored(operand));
    match operand {
        Operand::InnerRows(_) => matrix.transposed(),
        Operand::InnerCols(_) | Operand::Packed(_) => matrix,
    }
}

fn check(gemm: &Gemm) {
    let (left, right, out) = (gemm.left, gemm.right, gemm.out);
    let (m, n, dtype) = (left.outer(), right.outer(), left.dtype());
    assert!(!matches!(left, Operand::Packed(_)), "a packed left operand: {gemm:?}");
    assert!(left.inner() == right.inner(), "inner dimensions {} and {}", left.inner(), right.inner());
    assert!(dtype.is_activation() && right.dtype() == dtype, "operands of {dtype} and {}", right.dtype());
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
