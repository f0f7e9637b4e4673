//! The output layer with its loss: logits and statistics, their join, the gradient.

use proptest::prelude::*;
use triax_tensor::philox::Stream;
use triax_tensor::{
    CrossEntropy, CrossEntropyGradient, CrossEntropyJoin, DType, IGNORE, Need, Operand, even_shard_range,
};

use crate::arena::{Arena, Output};
use crate::bound::{U, sum};
use crate::harness::{act, check, size};

const START: usize = 10;

/// Targets in, below and beyond this part of the vocabulary, and ignored ones.
fn targets(tokens: usize, vocab: usize) -> Vec<u32> {
    let stream = Stream::named(9, "targets");
    let any = |i: usize| stream.word(i as u64) % (vocab + 2 * START) as u32;
    (0..tokens).map(|i| if i % 5 == 3 { IGNORE } else { any(i) }).collect()
}

#[derive(Clone, Copy, Debug)]
enum Weight {
    InnerCols,
    InnerRows,
    Packed,
}

fn logits(
    arena: &mut Arena<'_>,
    (tokens, vocab, width): (usize, usize, usize),
    dtype: DType,
    weight: Weight,
    shards: usize,
) -> Vec<Output> {
    let hidden = arena.normal("hidden", dtype, tokens, width, 1.0);
    // Stored [vocab, width]; the other way round for `InnerRows`.
    let rows = matches!(weight, Weight::InnerRows);
    let stored = if rows {
        arena.normal("weight", dtype, width, vocab, 0.5)
    } else {
        arena.normal("weight", dtype, vocab, width, 0.5)
    };
    let operand = match weight {
        Weight::InnerCols => Operand::InnerCols(stored.view),
        Weight::InnerRows => Operand::InnerRows(stored.view),
        Weight::Packed => Operand::Packed(arena.packed_in(Operand::InnerCols(stored.view), shards, dtype)),
    };
    let ids = targets(tokens, vocab);
    let targets = arena.ids(&ids);
    let logits = arena.output(dtype, tokens, vocab);
    let statistics = arena.output(DType::F32, tokens, 2 * shards);
    let target_logits = arena.output(DType::F32, tokens, 1);
    arena.device.cross_entropy(&CrossEntropy {
        hidden: hidden.view,
        weight: operand,
        logits,
        targets,
        vocab_start: START,
        statistics,
        target_logits,
    });

    let at = |v: usize, i: usize| if rows { stored.at(i, v) } else { stored.at(v, i) };
    let (mut value, mut error) = (vec![0.0; tokens * vocab], vec![0.0; tokens * vocab]);
    for t in 0..tokens {
        for v in 0..vocab {
            let products = (0..width).map(|i| hidden.at(t, i) * at(v, i));
            value[t * vocab + v] = products.clone().sum::<f64>();
            error[t * vocab + v] = (sum(width) + U) * products.map(f64::abs).sum::<f64>();
        }
    }
    let range = |t: usize, s: usize| {
        let range = even_shard_range(vocab, shards, s);
        t * vocab + range.start..t * vocab + range.end
    };
    let worst = |t: usize, s: usize| error[range(t, s)].iter().copied().fold(0.0, f64::max);
    vec![
        Output::new("logits", logits, |t, v| error[t * vocab + v]),
        Output::new("statistics", statistics, |t, c| {
            let part = &value[range(t, c / 2)];
            let maximum = part.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let worst = worst(t, c / 2);
            if c % 2 == 0 || part.is_empty() {
                worst
            } else {
                // An exponent's error is that of both logits, two roundings of their size, and 4 U.
                let terms = part.iter().map(|x| {
                    (x - maximum).exp()
                        * (2.0 * worst + 2.0 * U * (x.abs() + maximum.abs()) + 8.0 * U + sum(part.len()))
                });
                terms.sum()
            }
        }),
        Output::new("target_logits", target_logits, |t, _| {
            let col = (ids[t] as usize).checked_sub(START).filter(|&v| v < vocab);
            col.map_or(0.0, |v| error[t * vocab + v])
        }),
    ]
}

fn join(arena: &mut Arena<'_>, tokens: usize, parts: usize, shards: usize) -> Vec<Output> {
    let random = arena.normal("statistics", DType::F32, parts * tokens, 2 * shards, 3.0);
    let values: Vec<f64> =
        random.values.iter().enumerate().map(|(i, &x)| if i % 2 == 0 { x } else { 1.0 + x.abs() }).collect();
    let statistics = arena.input(DType::F32, parts * tokens, 2 * shards, &values);
    let target_logits = arena.normal("target logits", DType::F32, tokens, 1, 1.0);
    let targets = arena.ids(&targets(tokens, 30));
    let (lse, losses) = (arena.output(DType::F32, tokens, 1), arena.output(DType::F32, tokens, 1));
    arena.device.cross_entropy_join(&CrossEntropyJoin {
        statistics: statistics.view,
        target_logits: target_logits.view,
        targets,
        lse,
        losses,
    });
    // Each level of the tree adds an exponential of a difference of maxima; the logarithm turns the sum's
    // relative error into an absolute one.
    let levels = ((parts * shards) as f64).log2().ceil() + 1.0;
    let largest = |t: usize| {
        let part = |part| statistics.row(part * tokens + t).iter().fold(0.0f64, |a, x| a.max(x.abs()));
        (0..parts).map(part).fold(0.0, f64::max)
    };
    let error = |t: usize| (8.0 * levels + sum(parts * shards) / U) * U * (1.0 + largest(t)) + 8.0 * U;
    vec![
        Output::new("lse", lse, |t, _| error(t)),
        Output::new("losses", losses, |t, _| {
            error(t) + 4.0 * U * (largest(t) + 4.0 + target_logits.at(t, 0).abs())
        }),
    ]
}

fn gradient(arena: &mut Arena<'_>, tokens: usize, vocab: usize, dtype: DType) -> Vec<Output> {
    let logits = arena.normal("logits", dtype, tokens, vocab, 2.0);
    let exact: Vec<f64> =
        (0..tokens).map(|t| logits.row(t).iter().map(|x| x.exp()).sum::<f64>().ln()).collect();
    let lse = arena.input(DType::F32, tokens, 1, &exact);
    let targets = arena.ids(&targets(tokens, vocab));
    let scale = 0.125;
    arena.device.cross_entropy_gradient(&CrossEntropyGradient {
        logits: logits.view,
        lse: lse.view,
        targets,
        vocab_start: START,
        scale,
    });
    vec![Output::new("gradient", logits.view, |t, v| {
        let argument = logits.at(t, v) - lse.at(t, 0);
        let probability = argument.exp();
        f64::from(scale) * (probability * (8.0 + 2.0 * argument.abs()) + 2.0) * U
    })]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn logits_and_statistics_agree_with_the_reference(
        tokens in size(), vocab in 8usize..150, width in size(), dtype in act(),
        weight in prop_oneof![Just(Weight::InnerCols), Just(Weight::InnerRows), Just(Weight::Packed)],
        shards in prop_oneof![Just(1usize), Just(2), Just(8)]
    ) {
        let needs = [
            Need::CrossEntropy { tokens, vocab, shards, hidden: width, dtype },
            Need::Gemm { m: tokens, n: vocab, k: width, dtype },
        ];
        check(1 << 20, &needs, |arena| logits(arena, (tokens, vocab, width), dtype, weight, shards));
    }

    #[test]
    fn joined_losses_agree_with_the_reference(tokens in size(), parts in 1usize..5, shards in 1usize..17) {
        check(1 << 18, &[], |arena| join(arena, tokens, parts, shards));
    }

    #[test]
    fn loss_gradients_agree_with_the_reference(tokens in size(), vocab in 1usize..150, dtype in act()) {
        check(1 << 19, &[], |arena| gradient(arena, tokens, vocab, dtype));
    }
}
