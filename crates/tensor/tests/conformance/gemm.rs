//! Matrix products: every layout, dtype and epilogue.

use proptest::prelude::*;
use triax_tensor::{Activation, DType, Epilogue, Gemm, Need, Operand};

use crate::arena::{Arena, Input, Output};
use crate::bound::{U, roundoff, sum};
use crate::harness::{act, check, dropout, size};

/// How an operand lies in memory; `Packed` from f32 or act, stored either way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    InnerCols,
    InnerRows,
    Packed { from_rows: bool, from_f32: bool },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Curve {
    None,
    Gelu,
    GeluGradient,
}

#[derive(Clone, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    dtype: DType,
    left_rows: bool,
    right: Layout,
    out_f32: bool,
    accumulate: bool,
    shards: usize,
    bias: bool,
    curve: Curve,
    dropout: bool,
    /// Some(true): the output buffer itself.
    residual: Option<bool>,
}

impl Case {
    fn out_dtype(&self) -> DType {
        if self.out_f32 || self.accumulate { DType::F32 } else { self.dtype }
    }
}

fn layout() -> impl Strategy<Value = Layout> {
    prop_oneof![
        Just(Layout::InnerCols),
        Just(Layout::InnerRows),
        (any::<bool>(), any::<bool>())
            .prop_map(|(from_rows, from_f32)| Layout::Packed { from_rows, from_f32 })
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let shape = (size(), size(), size(), act(), any::<bool>(), layout());
    let rest = (
        any::<bool>(),
        any::<bool>(),
        prop_oneof![Just(1usize), Just(2), Just(3), Just(8)],
        any::<bool>(),
        prop_oneof![Just(Curve::None), Just(Curve::Gelu), Just(Curve::GeluGradient)],
        any::<bool>(),
        any::<Option<bool>>(),
    );
    (shape, rest).prop_map(
        |(
            (m, n, k, dtype, left_rows, right),
            (out_f32, accumulate, shards, bias, curve, dropout, residual),
        )| {
            Case {
                m,
                n,
                k,
                dtype,
                left_rows,
                right,
                out_f32,
                accumulate,
                shards,
                bias,
                curve,
                dropout,
                residual,
            }
        },
    )
}

/// The operand and its stored values, `[outer, inner]`.
fn operand(
    arena: &mut Arena<'_>,
    name: &str,
    outer: usize,
    inner: usize,
    dtype: DType,
    layout: Layout,
) -> (Operand, Vec<f64>) {
    let rows = matches!(layout, Layout::InnerRows | Layout::Packed { from_rows: true, .. });
    let from_f32 = matches!(layout, Layout::Packed { from_f32: true, .. });
    let (r, c) = if rows { (inner, outer) } else { (outer, inner) };
    let source = arena.normal(name, if from_f32 { DType::F32 } else { dtype }, r, c, 1.0);
    let view = if rows { Operand::InnerRows(source.view) } else { Operand::InnerCols(source.view) };
    let operand = match layout {
        Layout::Packed { .. } => Operand::Packed(arena.packed(view, dtype)),
        _ => view,
    };
    let at = |o: usize, i: usize| if rows { source.at(i, o) } else { source.at(o, i) };
    let values = (0..outer * inner).map(|x| crate::arena::stored(at(x / inner, x % inner), dtype)).collect();
    (operand, values)
}

/// Σ|a b| of every element.
fn magnitudes(left: &[f64], right: &[f64], m: usize, n: usize, k: usize) -> Vec<f64> {
    let row = |values: &[f64], i: usize| -> Vec<f64> { values[i * k..(i + 1) * k].to_vec() };
    let mut sums = Vec::with_capacity(m * n);
    for i in 0..m {
        let a = row(left, i);
        for j in 0..n {
            sums.push(a.iter().zip(&right[j * k..(j + 1) * k]).map(|(a, b)| (a * b).abs()).sum());
        }
    }
    sums
}

fn run(arena: &mut Arena<'_>, case: &Case) -> Vec<Output> {
    let Case { m, n, k, dtype, .. } = *case;
    let left_layout = if case.left_rows { Layout::InnerRows } else { Layout::InnerCols };
    let (left, a) = operand(arena, "left", m, k, dtype, left_layout);
    let (right, b) = operand(arena, "right", n, k, dtype, case.right);
    let bias = case.bias.then(|| arena.normal("bias", DType::F32, 1, n, 1.0));
    let (activation, pre): (Activation, Option<Input>) = match case.curve {
        Curve::None => (Activation::None, None),
        Curve::Gelu => (Activation::Gelu { pre: arena.output(dtype, m, n) }, None),
        Curve::GeluGradient => {
            let pre = arena.normal("pre", dtype, m, n, 1.0);
            (Activation::GeluGradient { pre: pre.view }, Some(pre))
        }
    };
    let out_dtype = case.out_dtype();
    let before = (case.accumulate || case.residual == Some(true) && out_dtype == dtype)
        .then(|| arena.normal("out", out_dtype, m, n, 1.0));
    let out = before.as_ref().map_or_else(|| arena.output(out_dtype, m, n), |before| before.view);
    let residual = match case.residual {
        Some(true) if out_dtype == dtype => Some(out),
        Some(_) => Some(arena.normal("residual", dtype, m, n, 1.0).view),
        None => None,
    };
    let epilogue = Epilogue {
        bias: bias.as_ref().map(|bias| bias.view),
        activation,
        dropout: case.dropout.then(|| dropout(n)),
        residual,
    };
    arena.device.gemm(&Gemm {
        left,
        right,
        out,
        inner_shards: case.shards,
        accumulate: case.accumulate,
        epilogue,
    });

    // The product with its bias, then what follows: each addend is below 8 and adds one rounding of what
    // is there; GELU and its derivative have slopes below 1.2, and their own error grows with the argument.
    let magnitudes = magnitudes(&a, &b, m, n, k);
    let product = |row: usize, col: usize| {
        let bias = bias.as_ref().map_or(0.0, |bias| bias.at(0, col).abs());
        let size = magnitudes[row * n + col] + bias;
        (size, sum(k) * size + 2.0 * U * size)
    };
    let finished = |row: usize, col: usize| {
        let (size, error) = product(row, col);
        let (size, error) = match case.curve {
            Curve::None => (size, error),
            Curve::Gelu => {
                // `pre` may be stored one unit apart; beyond |x| = 6 the curve is a line or zero.
                (size, 1.2 * (error + 2.0 * roundoff(dtype) * size) + 16.0 * 13.0 * U * size)
            }
            Curve::GeluGradient => {
                let x = pre.as_ref().map_or(0.0, |pre| pre.at(row, col).abs());
                (1.2 * size, 1.2 * error + 32.0 * (1.0 + x * x * x) * (1.0 + x) * U * size)
            }
        };
        let scale = if case.dropout { 1.0 / 0.7 } else { 1.0 };
        scale * error + 4.0 * U * (scale * size + 16.0)
    };
    let mut outputs = vec![Output::new("out", out, finished)];
    if let Activation::Gelu { pre } = activation {
        outputs.push(Output::new("pre", pre, |row, col| product(row, col).1));
    }
    outputs
}

fn check_case(case: &Case) {
    let needs = [Need::Gemm { m: case.m, n: case.n, k: case.k, dtype: case.dtype }];
    let bytes = 65536 + 16 * (case.m * case.n + 2 * case.k * (case.m + case.n + 128));
    check(bytes, &needs, |arena| run(arena, case));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn products_agree_with_the_reference(case in case()) {
        check_case(&case);
    }
}

#[test]
fn a_product_longer_than_any_block_agrees() {
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        for (m, n, k) in [(5, 50, 4501), (130, 3, 1031), (3, 1100, 37), (301, 259, 260)] {
            let packed = Layout::Packed { from_rows: true, from_f32: true };
            for (left_rows, right) in [(false, packed), (true, Layout::InnerRows)] {
                check_case(&Case {
                    m,
                    n,
                    k,
                    dtype,
                    left_rows,
                    right,
                    out_f32: true,
                    accumulate: false,
                    shards: 8,
                    bias: false,
                    curve: Curve::None,
                    dropout: false,
                    residual: None,
                });
            }
        }
    }
}
