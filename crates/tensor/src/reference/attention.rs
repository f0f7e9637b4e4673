//! Attention forward and backward, attention against a cache, rotary position embedding.

use super::check;
use super::memory::{Matrix, Memory};
use crate::{AttentionShape, DType, Dropout, Mask, Rotary, RotaryRows, View};

/// Where the heads lie in the columns of a `qkv` matrix.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    head_dim: usize,
    /// Query heads of one kv head.
    pub(super) group: usize,
}

impl Columns {
    pub(super) fn new(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        assert!(
            kv_heads > 0 && heads.is_multiple_of(kv_heads),
            "{heads} heads do not divide into {kv_heads} kv heads"
        );
        Self { head_dim, group: heads / kv_heads }
    }

    pub(super) fn query(self, head: usize) -> usize {
        (head / self.group * (self.group + 2) + head % self.group) * self.head_dim
    }

    pub(super) fn key_of(self, kv_head: usize) -> usize {
        (kv_head * (self.group + 2) + self.group) * self.head_dim
    }

    pub(super) fn value_of(self, kv_head: usize) -> usize {
        self.key_of(kv_head) + self.head_dim
    }
}

pub(super) fn attention(memory: &mut Memory, shape: &AttentionShape, qkv: View, out: View, lse: View) {
    check_shape(shape, qkv, out, lse);
    check::apart(&[("out", out), ("lse", lse)], &[("qkv", qkv)]);
    let columns = Columns::new(shape.heads, shape.kv_heads, shape.head_dim);
    let visible = Visible::read(memory, shape);
    let qkv = memory.read(qkv);
    let mut result = Matrix::zeros(out.rows, out.cols);
    let mut all_lse = Matrix::zeros(lse.rows, lse.cols);
    for token in 0..shape.tokens() {
        let first = token / shape.seq * shape.seq;
        for head in 0..shape.heads {
            let value = columns.value_of(head / columns.group);
            let scores = scores(shape, columns, &qkv, token, head, visible.keys(token));
            let log_sum = log_sum_exp(&scores);
            all_lse[(token, head)] = log_sum;
            for (key, score) in scores.iter().enumerate() {
                let kept = kept(shape, token, head, key);
                let probability = (score - log_sum).exp() * kept;
                for i in 0..shape.head_dim {
                    result[(token, head * shape.head_dim + i)] += probability * qkv[(first + key, value + i)];
                }
            }
        }
    }
    memory.write(out, &result);
    memory.write(lse, &all_lse);
}

/// With p the probabilities, k the dropout's factors and o the output:
/// `dv_j = Σ_i k p_ij do_i`, `ds_ij = p_ij (k do_i·v_j - do_i·o_i)`, `dq_i = scale Σ_j ds_ij k_j`,
/// `dk_j = scale Σ_i ds_ij q_i`.
pub(super) fn attention_backward(
    memory: &mut Memory,
    shape: &AttentionShape,
    d_out: View,
    qkv: View,
    out: View,
    lse: View,
    d_qkv: View,
) {
    check_shape(shape, qkv, out, lse);
    check::matching("d_out", d_out, qkv, out.rows, out.cols);
    check::matching("d_qkv", d_qkv, qkv, qkv.rows, qkv.cols);
    check::apart(&[("d_qkv", d_qkv)], &[("d_out", d_out), ("qkv", qkv), ("out", out), ("lse", lse)]);
    let columns = Columns::new(shape.heads, shape.kv_heads, shape.head_dim);
    let visible = Visible::read(memory, shape);
    let scale = f64::from(shape.scale);
    let (d_out, qkv) = (memory.read(d_out), memory.read(qkv));
    let (out, lse) = (memory.read(out), memory.read(lse));
    let mut d = Matrix::zeros(d_qkv.rows, d_qkv.cols);
    for token in 0..shape.tokens() {
        let first = token / shape.seq * shape.seq;
        for head in 0..shape.heads {
            let query_col = columns.query(head);
            let key_col = columns.key_of(head / columns.group);
            let value_col = columns.value_of(head / columns.group);
            let out_col = head * shape.head_dim;
            let along_out: f64 =
                (0..shape.head_dim).map(|i| d_out[(token, out_col + i)] * out[(token, out_col + i)]).sum();
            let scores = scores(shape, columns, &qkv, token, head, visible.keys(token));
            for (key, score) in scores.iter().enumerate() {
                let row = first + key;
                let probability = (score - lse[(token, head)]).exp();
                let kept = kept(shape, token, head, key);
                let along_value: f64 = (0..shape.head_dim)
                    .map(|i| d_out[(token, out_col + i)] * qkv[(row, value_col + i)])
                    .sum();
                let d_score = probability * (kept * along_value - along_out) * scale;
                for i in 0..shape.head_dim {
                    d[(row, value_col + i)] += kept * probability * d_out[(token, out_col + i)];
                    d[(token, query_col + i)] += d_score * qkv[(row, key_col + i)];
                    d[(row, key_col + i)] += d_score * qkv[(token, query_col + i)];
                }
            }
        }
    }
    memory.write(d_qkv, &d);
}

pub(super) fn rotary(memory: &mut Memory, rotary: &Rotary) {
    let &Rotary { qkv, heads, kv_heads, head_dim, base, seq, first_position, inverse } = rotary;
    let columns = Columns::new(heads, kv_heads, head_dim);
    check::shape("qkv", qkv, qkv.rows, (heads + 2 * kv_heads) * head_dim);
    check::activation("qkv", qkv);
    assert!(head_dim.is_multiple_of(2) && seq > 0, "rotary of head_dim {head_dim}, seq {seq}");
    let half = head_dim / 2;
    let mut values = memory.read(qkv);
    let turned =
        (0..heads).map(|head| columns.query(head)).chain((0..kv_heads).map(|head| columns.key_of(head)));
    for col in turned {
        for row in 0..qkv.rows {
            let position = (first_position + row % seq) as f64;
            for i in 0..half {
                let angle = position * f64::from(base).powf(-2.0 * i as f64 / head_dim as f64);
                let (sin, cos) = if inverse { (-angle).sin_cos() } else { angle.sin_cos() };
                let (x, y) = (values[(row, col + i)], values[(row, col + i + half)]);
                values[(row, col + i)] = x * cos - y * sin;
                values[(row, col + i + half)] = y * cos + x * sin;
            }
        }
    }
    memory.write(qkv, &values);
}

pub(super) fn rotary_rows(memory: &mut Memory, rotary: &RotaryRows) {
    let &RotaryRows { qkv, heads, kv_heads, head_dim, turns, positions } = rotary;
    let columns = Columns::new(heads, kv_heads, head_dim);
    check::shape("qkv", qkv, qkv.rows, (heads + 2 * kv_heads) * head_dim);
    check::activation("qkv", qkv);
    assert!(head_dim.is_multiple_of(2), "rotary of head_dim {head_dim}");
    check::single("turns", turns, turns.rows, head_dim);
    check::shape("positions", positions, 1, qkv.rows);
    check::apart(&[("qkv", qkv)], &[("turns", turns), ("positions", positions)]);
    let half = head_dim / 2;
    let mut values = memory.read(qkv);
    let (turns, positions) = (memory.read(turns), memory.read_ids(positions));
    let turned =
        (0..heads).map(|head| columns.query(head)).chain((0..kv_heads).map(|head| columns.key_of(head)));
    for col in turned {
        for (row, &position) in positions.iter().enumerate() {
            for i in 0..half {
                let (cos, sin) = (turns[(position as usize, i)], turns[(position as usize, half + i)]);
                let (x, y) = (values[(row, col + i)], values[(row, col + i + half)]);
                values[(row, col + i)] = x * cos - y * sin;
                values[(row, col + i + half)] = y * cos + x * sin;
            }
        }
    }
    memory.write(qkv, &values);
}

/// How many keys of its sequence each query sees.
struct Visible {
    seq: usize,
    /// Of each sequence; 0 under the causal mask.
    prefix: Vec<u32>,
}

impl Visible {
    fn read(memory: &Memory, shape: &AttentionShape) -> Self {
        let prefix = match shape.mask {
            Mask::Causal => vec![0; shape.batch],
            Mask::Prefix(view) => {
                check::shape("prefix", view, 1, shape.batch);
                memory.read_ids(view)
            }
        };
        for &prefix in &prefix {
            assert!(prefix as usize <= shape.seq, "a prefix of {prefix} in a sequence of {}", shape.seq);
        }
        Self { seq: shape.seq, prefix }
    }

    fn keys(&self, token: usize) -> usize {
        (self.prefix[token / self.seq] as usize).max(token % self.seq + 1)
    }
}

/// The scaled scores of one query against the first `keys` keys of its sequence.
fn scores(
    shape: &AttentionShape,
    columns: Columns,
    qkv: &Matrix,
    token: usize,
    head: usize,
    keys: usize,
) -> Vec<f64> {
    let (query_col, key_col) = (columns.query(head), columns.key_of(head / columns.group));
    let first = token / shape.seq * shape.seq;
    (first..first + keys)
        .map(|row| {
            let products = (0..shape.head_dim).map(|i| qkv[(token, query_col + i)] * qkv[(row, key_col + i)]);
            f64::from(shape.scale) * products.sum::<f64>()
        })
        .collect()
}

/// The dropout's factor of one probability.
fn kept(shape: &AttentionShape, token: usize, head: usize, key: usize) -> f64 {
    let Some(Dropout { rate, stream, first_row, first_col, cols_total }) = shape.dropout else { return 1.0 };
    let query = (first_row + token as u64) * cols_total + first_col + head as u64;
    // The rule of `Dropout` over a matrix whose rows are (query, head) and whose columns are keys.
    let rule = Dropout { rate, stream, first_row: query, first_col: 0, cols_total: shape.seq as u64 };
    f64::from(rule.factor(0, key))
}

pub(super) fn log_sum_exp(scores: &[f64]) -> f64 {
    let maximum = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    maximum + scores.iter().map(|score| (score - maximum).exp()).sum::<f64>().ln()
}

fn check_shape(shape: &AttentionShape, qkv: View, out: View, lse: View) {
    check::shape("qkv", qkv, shape.tokens(), shape.qkv_cols());
    check::activation("qkv", qkv);
    check::matching("out", out, qkv, shape.tokens(), shape.out_cols());
    check::shape("lse", lse, shape.tokens(), shape.heads);
    check::dtype("lse", lse, DType::F32);
}
