//! Products with quantised weights.
//!
//! A device may round rows to int8: element x of a group of 32 with largest magnitude A is off by at most
//! A / 254, so a product is off by at most `Σ over groups of A / 254 · Σ |w|`, beside the rounding of f32 sums.

use half::f16;
use proptest::prelude::*;
use triax_tensor::cpu::{Cpu, Kernel};
use triax_tensor::philox::Stream;
use triax_tensor::{Cells, Coding, DType, DeviceExt, Epilogue, Gemm, Need, Operand};

use crate::arena::{Arena, Output};
use crate::bound::{U, sum};
use crate::harness::{act, check, size};

#[derive(Clone, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    coding: Coding,
    dtype: DType,
    out_f32: bool,
    bias: bool,
    residual: bool,
}

fn coding() -> impl Strategy<Value = Coding> {
    (0..Coding::ALL.len()).prop_map(|i| Coding::ALL[i])
}

fn case() -> impl Strategy<Value = Case> {
    let inner = prop_oneof![1usize..40, Just(64), 60usize..300, Just(512), Just(576)];
    (size(), size(), inner, coding(), act(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(m, n, k, coding, dtype, out_f32, bias, residual)| Case {
            m,
            n,
            k,
            coding,
            dtype,
            out_f32,
            bias,
            residual,
        },
    )
}

/// Random codes under scales around 0.01.
fn blocks(n: usize, k: usize, coding: Coding) -> Vec<u8> {
    let stream = Stream::named(9, coding.name());
    let mut blocks: Vec<u8> = (0..n * coding.row_bytes(k)).map(|i| stream.word(i as u64) as u8).collect();
    let halves: &[usize] = match coding {
        Coding::Q8_0 | Coding::Q4_0 => &[0],
        Coding::Q4_1 | Coding::Q4K => &[0, 2],
        Coding::Q6K => &[208],
        Coding::Wide => &[],
    };
    for (index, block) in blocks.chunks_exact_mut(coding.block_bytes()).enumerate() {
        let number = |i: usize| 0.01 * stream.normal((8 * index + i) as u64) as f32;
        for (i, &at) in halves.iter().enumerate() {
            block[at..at + 2].copy_from_slice(&f16::from_f32(number(i)).to_le_bytes());
        }
        if coding == Coding::Wide {
            block[..4].copy_from_slice(&number(0).to_le_bytes());
            block[4..8].copy_from_slice(&number(1).to_le_bytes());
        }
    }
    blocks
}

/// Of each weight `[n, k]`: its magnitude, and the sum of magnitudes of its two terms.
fn magnitudes(blocks: &[u8], k: usize, coding: Coding) -> Vec<(f64, f64)> {
    let mut cells = Cells::default();
    let mut all = Vec::new();
    for row in blocks.chunks_exact(coding.row_bytes(k)) {
        let mut left = k;
        for block in row.chunks_exact(coding.block_bytes()) {
            coding.unpack(block, &mut cells);
            for i in 0..coding.block().min(left) {
                let code = f64::from(i32::from(cells.codes[i]) - i32::from(coding.zero()));
                let scaled = f64::from(cells.scales[i / coding.group()]) * code;
                let minimum = f64::from(cells.minima[i / coding.group()]);
                all.push(((scaled + minimum).abs(), scaled.abs() + minimum.abs()));
            }
            left -= coding.block().min(left);
        }
    }
    all
}

fn run(arena: &mut Arena<'_>, case: &Case) -> Vec<Output> {
    let Case { m, n, k, coding, dtype, .. } = *case;
    let x = arena.normal("x", dtype, m, k, 1.0);
    let blocks = blocks(n, k, coding);
    let right = Operand::Quantised(arena.quantised(k, n, coding, &blocks));
    let bias = case.bias.then(|| arena.normal("bias", DType::F32, 1, n, 1.0));
    let residual = case.residual.then(|| arena.normal("residual", dtype, m, n, 1.0));
    let out = arena.output(if case.out_f32 { DType::F32 } else { dtype }, m, n);
    let epilogue = Epilogue {
        bias: bias.as_ref().map(|b| b.view),
        residual: residual.as_ref().map(|r| r.view),
        ..Epilogue::default()
    };
    let left = Operand::InnerCols(x.view);
    arena.device.gemm(&Gemm { left, right, out, inner_shards: 1, accumulate: false, epilogue });

    let weights = magnitudes(&blocks, k, coding);
    let bound = |row: usize, col: usize| {
        let (x, w) = (x.row(row), &weights[col * k..(col + 1) * k]);
        let (mut rounding, mut size) = (0.0, 0.0);
        for (x, w) in x.chunks(32).zip(w.chunks(32)) {
            let most = x.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            rounding += 1.0001 * most / 254.0 * w.iter().map(|w| w.0).sum::<f64>();
            size += most * w.iter().map(|w| w.1).sum::<f64>();
        }
        // Two chained terms a group, each a product of rounded factors; then at most two additions below 16.
        rounding + (sum(4 * k.div_ceil(16)) + 4.0 * U) * size + 64.0 * U
    };
    vec![Output::new("out", out, bound)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn products_with_quantised_weights_agree_with_the_reference(case in case()) {
        let bytes = (1 << 17) + 16 * case.m * case.n + 8 * case.m * case.k + 6 * (case.n + 64) * (case.k + 256);
        let need = Need::Quantised { m: case.m, k: case.k, coding: case.coding };
        check(bytes, &[need], |arena| run(arena, &case));
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_others() {
    let (m, n, k) = (23, 200, 192);
    for kernel in [Kernel::Amx, Kernel::Avx512Bf16, Kernel::Avx512, Kernel::Avx2, Kernel::Portable] {
        for coding in Coding::ALL {
            let k = if coding.block() == 256 { 256 } else { k };
            let Ok(mut cpu) = Cpu::new(2, kernel) else { continue };
            let need = Need::Quantised { m, k, coding };
            let arena = &mut Arena::new(&mut cpu, 1 << 21, &[need]);
            let x = arena.normal("x", DType::F32, m, k, 1.0).view;
            let right = Operand::Quantised(arena.quantised(k, n, coding, &blocks(n, k, coding)));
            let mut product = |first: usize, count: usize| {
                let out = arena.output(DType::F32, count, n);
                let left = Operand::InnerCols(x.row_range(first, count));
                let epilogue = Epilogue::default();
                arena.device.gemm(&Gemm { left, right, out, inner_shards: 1, accumulate: false, epilogue });
                arena.device.download_vec::<f32>(out)
            };
            let whole = product(0, m);
            for (first, count) in [(0, 1), (3, 2), (5, 3), (6, 8), (9, 12), (22, 1)] {
                let part = product(first, count);
                assert_eq!(part, whole[first * n..(first + count) * n], "{kernel:?} {}", coding.name());
            }
        }
    }
}

#[test]
fn a_value_no_code_stands_for_is_not_lost() {
    let (n, k) = (20, 64);
    for kernel in [Kernel::Amx, Kernel::Avx512Bf16, Kernel::Avx512, Kernel::Avx2, Kernel::Portable] {
        for value in [f64::NAN, f64::INFINITY] {
            let Ok(mut cpu) = Cpu::new(1, kernel) else { continue };
            let need = Need::Quantised { m: 1, k, coding: Coding::Q8_0 };
            let arena = &mut Arena::new(&mut cpu, 1 << 17, &[need]);
            let mut values = vec![0.5; k];
            values[40] = value;
            let x = arena.input(DType::F32, 1, k, &values).view;
            let blocks = blocks(n, k, Coding::Q8_0);
            let right = Operand::Quantised(arena.quantised(k, n, Coding::Q8_0, &blocks));
            let out = arena.output(DType::F32, 1, n);
            let (left, epilogue) = (Operand::InnerCols(x), Epilogue::default());
            arena.device.gemm(&Gemm { left, right, out, inner_shards: 1, accumulate: false, epilogue });
            let found = arena.device.download_vec::<f32>(out);
            assert!(found.iter().all(|v| v.is_nan()), "{kernel:?} {value}: {found:?}");
        }
    }
}
