//! Attention forward and backward: causal and prefix masks, grouped heads, dropout, odd sizes.
//!
//! With p the probabilities, r the roundoff of the dtype that block products take them in, and E the error of a
//! score, `8 √d U Σ|q k| · scale`:
//!
//! ```text
//! out   Σ p |v| (2E + r + …)      lse   2E + …
//! ds    p (E |a - D| + error of a and D),  dq, dk   Σ (error of ds + r |ds|) |k|, |q|     dv   Σ p |do| (E + r)
//! ```
//! The backward pass reads the same output and log-sum-exp on every device.

use proptest::prelude::*;
use triax_tensor::{AttentionShape, DType, Mask, Need};

use crate::arena::{Arena, Input, Output};
use crate::bound::{U, roundoff, sum};
use crate::harness::{act, check, dropout};

#[derive(Clone, Debug)]
struct Case {
    batch: usize,
    seq: usize,
    kv_heads: usize,
    group: usize,
    head_dim: usize,
    dtype: DType,
    prefixes: Option<Vec<usize>>,
    dropout: bool,
}

impl Case {
    fn shape(&self, arena: &mut Arena<'_>) -> AttentionShape {
        let prefix = self.prefixes.as_ref().map(|prefixes| {
            let prefixes: Vec<u32> = prefixes.iter().map(|&prefix| prefix as u32).collect();
            arena.ids(&prefixes)
        });
        AttentionShape { mask: prefix.map_or(Mask::Causal, Mask::Prefix), ..self.causal() }
    }

    fn causal(&self) -> AttentionShape {
        let heads = self.kv_heads * self.group;
        AttentionShape {
            batch: self.batch,
            seq: self.seq,
            heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            mask: Mask::Causal,
            dropout: self.dropout.then(|| dropout(heads)),
        }
    }

    fn tokens(&self) -> usize {
        self.batch * self.seq
    }

    /// Keys that a query sees, as rows of the micro-batch.
    fn keys(&self, token: usize) -> std::ops::Range<usize> {
        let (sequence, position) = (token / self.seq, token % self.seq);
        let prefix = self.prefixes.as_ref().map_or(0, |prefixes| prefixes[sequence].min(self.seq));
        sequence * self.seq..sequence * self.seq + prefix.max(position + 1)
    }

    /// First columns of a head's query, key and value.
    fn columns(&self, head: usize) -> [usize; 3] {
        let (kv_head, r) = (head / self.group, head % self.group);
        [r, self.group, self.group + 1].map(|part| (kv_head * (self.group + 2) + part) * self.head_dim)
    }

    /// Of the dropout, whose `cols_total` is what [`dropout`] gives for this many heads.
    fn kept(&self, token: usize, head: usize, key: usize) -> f64 {
        let Some(dropout) = self.causal().dropout else { return 1.0 };
        let row = dropout.first_row + token as u64;
        let index = (row * dropout.cols_total + dropout.first_col + head as u64) * self.seq as u64
            + (key % self.seq) as u64;
        if dropout.stream.word(index) < dropout.threshold() {
            0.0
        } else {
            1.0 / (1.0 - f64::from(dropout.rate))
        }
    }
}

/// Σ and Σ|·| of the products of two runs of columns.
fn dot(
    a: &Input,
    (row, col): (usize, usize),
    b: &Input,
    (other, first): (usize, usize),
    len: usize,
) -> (f64, f64) {
    let products = (0..len).map(|i| a.at(row, col + i) * b.at(other, first + i));
    products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()))
}

/// One query of one head.
struct Query {
    /// Score and its error by key.
    scores: Vec<(f64, f64)>,
    lse: f64,
    worst: f64,
    largest: f64,
}

fn query(case: &Case, qkv: &Input, token: usize, head: usize) -> Query {
    let scale = 1.0 / (case.head_dim as f64).sqrt();
    let [q, k, _] = case.columns(head);
    let scores: Vec<(f64, f64)> = case
        .keys(token)
        .map(|key| {
            let (score, size) = dot(qkv, (token, q), qkv, (key, k), case.head_dim);
            (scale * score, scale * (sum(case.head_dim) + 2.0 * U) * size)
        })
        .collect();
    let largest = scores.iter().fold(0.0f64, |a, s| a.max(s.0.abs()));
    let worst = scores.iter().fold(0.0f64, |a, s| a.max(s.1));
    let lse = scores.iter().map(|s| s.0.exp()).sum::<f64>().ln();
    Query { scores, lse, worst, largest }
}

impl Query {
    /// Relative error of a probability of the forward pass, whose exponentials are taken from a running maximum
    /// that changes at most once a block.
    fn relative(&self) -> f64 {
        2.0 * self.worst
            + 8.0 * U * self.largest
            + (16.0 + self.scores.len() as f64 / 8.0) * U
            + sum(self.scores.len())
    }
}

fn forward(arena: &mut Arena<'_>, case: &Case) -> Vec<Output> {
    let shape = case.shape(arena);
    let qkv = arena.normal("qkv", case.dtype, case.tokens(), shape.qkv_cols(), 1.0);
    let out = arena.output(case.dtype, case.tokens(), shape.out_cols());
    let lse = arena.output(DType::F32, case.tokens(), shape.heads);
    arena.device.attention(&shape, qkv.view, out, lse);

    let (mut out_bound, mut lse_bound) = (vec![0.0; out.len()], vec![0.0; lse.len()]);
    for token in 0..case.tokens() {
        for head in 0..shape.heads {
            let query = query(case, &qkv, token, head);
            let [_, _, v] = case.columns(head);
            let error = query.relative() + roundoff(case.dtype) + sum(query.scores.len()) + 4.0 * U;
            for (key, (score, _)) in case.keys(token).zip(&query.scores) {
                let p = (score - query.lse).exp() * case.kept(token, head, key);
                for i in 0..case.head_dim {
                    out_bound[token * out.cols + head * case.head_dim + i] +=
                        error * p * qkv.at(key, v + i).abs();
                }
            }
            lse_bound[token * lse.cols + head] = query.relative() + 4.0 * U * query.lse.abs();
        }
    }
    vec![
        Output::new("out", out, |row, col| out_bound[row * out.cols + col]),
        Output::new("lse", lse, |row, col| lse_bound[row * lse.cols + col]),
    ]
}

fn backward(arena: &mut Arena<'_>, case: &Case) -> Vec<Output> {
    let shape = case.shape(arena);
    let (d, heads) = (case.head_dim, shape.heads);
    let qkv = arena.normal("qkv", case.dtype, case.tokens(), shape.qkv_cols(), 1.0);
    let d_out = arena.normal("d_out", case.dtype, case.tokens(), shape.out_cols(), 1.0);
    let queries: Vec<Query> =
        (0..case.tokens() * heads).map(|i| query(case, &qkv, i / heads, i % heads)).collect();
    let probability = |token: usize, head: usize, place: usize| {
        let query = &queries[token * heads + head];
        (query.scores[place].0 - query.lse).exp()
    };
    let mut outs = vec![0.0; case.tokens() * shape.out_cols()];
    for token in 0..case.tokens() {
        for head in 0..heads {
            let [_, _, v] = case.columns(head);
            for (place, key) in case.keys(token).enumerate() {
                let p = probability(token, head, place) * case.kept(token, head, key);
                for i in 0..d {
                    outs[token * shape.out_cols() + head * d + i] += p * qkv.at(key, v + i);
                }
            }
        }
    }
    let out = arena.input(case.dtype, case.tokens(), shape.out_cols(), &outs);
    let lse =
        arena.input(DType::F32, case.tokens(), heads, &queries.iter().map(|q| q.lse).collect::<Vec<_>>());
    let d_qkv = arena.output(case.dtype, case.tokens(), shape.qkv_cols());
    arena.device.attention_backward(&shape, d_out.view, qkv.view, out.view, lse.view, d_qkv);

    let mut bound = vec![0.0; d_qkv.len()];
    let scale = f64::from(shape.scale);
    // Roundings of what enters a block product, and of its sum over queries and the heads of a group.
    let entering = roundoff(case.dtype) + sum(case.seq * case.group) + 8.0 * U;
    for token in 0..case.tokens() {
        for head in 0..heads {
            let [q, k, v] = case.columns(head);
            let (along_out, out_size) = dot(&d_out, (token, head * d), &out, (token, head * d), d);
            for (place, key) in case.keys(token).enumerate() {
                let (score, error) = queries[token * heads + head].scores[place];
                // As the devices have it: from the stored log-sum-exp.
                let lse = lse.at(token, head);
                let p = (score - lse).exp();
                let relative = error + 4.0 * U * (score.abs() + lse.abs()) + 8.0 * U;
                let kept = case.kept(token, head, key);
                let (along_value, value_size) = dot(&d_out, (token, head * d), &qkv, (key, v), d);
                let difference = (kept * along_value - along_out).abs();
                let operands = (sum(d) + 4.0 * U) * (kept * value_size + out_size);
                let d_score = scale * p * difference;
                let d_score_error = scale * p * (relative * difference + operands) + entering * d_score;
                for i in 0..d {
                    let mut add =
                        |row: usize, col: usize, error: f64| bound[row * d_qkv.cols + col + i] += error;
                    add(token, q, d_score_error * qkv.at(key, k + i).abs());
                    add(key, k, d_score_error * qkv.at(token, q + i).abs());
                    add(key, v, kept * p * (relative + entering) * d_out.at(token, head * d + i).abs());
                }
            }
        }
    }
    vec![Output::new("d_qkv", d_qkv, |row, col| bound[row * d_qkv.cols + col])]
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (
        1usize..3,
        prop_oneof![1usize..12, 60usize..70, 120usize..140],
        1usize..3,
        1usize..3,
        prop_oneof![1usize..20, Just(32usize), Just(64), Just(80)],
    );
    (sizes, act(), any::<bool>(), any::<bool>(), any::<[u16; 2]>()).prop_map(
        |((batch, seq, kv_heads, group, head_dim), dtype, prefix, dropout, prefixes)| Case {
            batch,
            seq,
            kv_heads,
            group,
            head_dim,
            dtype,
            prefixes: prefix
                .then(|| prefixes[..batch].iter().map(|&prefix| usize::from(prefix) % (seq + 1)).collect()),
            dropout,
        },
    )
}

fn check_case(case: &Case, run: fn(&mut Arena<'_>, &Case) -> Vec<Output>) {
    let shape = case.causal();
    let bytes = (1 << 16) + 24 * case.tokens() * (shape.qkv_cols() + shape.out_cols());
    check(bytes, &[Need::Attention(shape)], |arena| run(arena, case));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn attention_agrees_with_the_reference(case in case()) {
        check_case(&case, forward);
    }

    #[test]
    fn attention_gradients_agree_with_the_reference(case in case()) {
        check_case(&case, backward);
    }
}
