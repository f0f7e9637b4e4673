//! How each of our tensors is made of GGUF tensors: rows of theirs, one behind the other, in our order.

use crate::hf::qkv_order;
use triax_spec::model::Model;

/// One of our tensors and what it consists of.
pub(super) struct Form {
    pub(super) ours: String,
    /// Names and dims.
    pub(super) theirs: Vec<(String, Vec<usize>)>,
    /// Row i of the linear layer (its output i) is row `order[i]` of theirs together; `None`: the same order.
    pub(super) order: Option<Vec<usize>>,
    /// Whether ours is stored `[in, out]`; theirs never is.
    pub(super) transposed: bool,
}

impl Form {
    fn same(ours: String, theirs: String, dims: &[usize]) -> Self {
        Self { ours, theirs: vec![(theirs, dims.to_vec())], order: None, transposed: false }
    }

    /// Rows of the linear layer (1 for vectors) and their length.
    pub(super) fn dims(&self) -> (usize, usize) {
        let inner = *self.theirs[0].1.last().expect("every tensor has dims");
        let outer = |dims: &[usize]| if let [outer, _] = *dims { outer } else { 1 };
        (self.theirs.iter().map(|(_, dims)| outer(dims)).sum(), inner)
    }

    /// Their rows in our order; `row`: elements or bytes of a row.
    pub(super) fn ordered<T: Copy>(&self, rows: &[T], row: usize) -> Vec<T> {
        match &self.order {
            None => rows.to_vec(),
            Some(order) => order.iter().flat_map(|&from| &rows[from * row..][..row]).copied().collect(),
        }
    }

    /// The inverse of [`Form::ordered`].
    pub(super) fn restored<T: Copy>(&self, rows: &[T], row: usize) -> Vec<T> {
        let mut restored = rows.to_vec();
        if let Some(order) = &self.order {
            for (from, &to) in rows.chunks_exact(row).zip(order) {
                restored[to * row..][..row].copy_from_slice(from);
            }
        }
        restored
    }
}

/// All tensors of a model.
pub(super) fn forms(model: &Model) -> Vec<Form> {
    let (h, f) = (model.hidden, model.ffn);
    let (q, kv) = (model.heads * model.head_dim, model.kv_heads * model.head_dim);
    let turned = turned(model);
    let order: Vec<usize> = qkv_order(model).into_iter().map(|row| turned[row]).collect();
    let mut forms =
        vec![Form::same("embedding.tokens.weight".into(), "token_embd.weight".into(), &[model.vocab, h])];
    for layer in 0..model.layers {
        let our = |name: &str| format!("layer.{layer}.{name}");
        let their = |name: &str| format!("blk.{layer}.{name}.weight");
        forms.extend([
            Form::same(our("attention.norm.weight"), their("attn_norm"), &[h]),
            Form {
                ours: our("attention.qkv.weight"),
                theirs: vec![
                    (their("attn_q"), vec![q, h]),
                    (their("attn_k"), vec![kv, h]),
                    (their("attn_v"), vec![kv, h]),
                ],
                order: Some(order.clone()),
                transposed: false,
            },
            Form {
                transposed: true,
                ..Form::same(our("attention.output.weight"), their("attn_output"), &[h, q])
            },
            Form::same(our("feed_forward.norm.weight"), their("ffn_norm"), &[h]),
            Form {
                ours: our("feed_forward.up.weight"),
                theirs: vec![(their("ffn_gate"), vec![f, h]), (their("ffn_up"), vec![f, h])],
                order: Some((0..f).flat_map(|j| [j, f + j]).collect()),
                transposed: false,
            },
            Form {
                transposed: true,
                ..Form::same(our("feed_forward.down.weight"), their("ffn_down"), &[h, f])
            },
        ]);
    }
    forms.push(Form::same("norm.weight".into(), "output_norm.weight".into(), &[h]));
    if !model.tied {
        forms.push(Form::same("head.weight".into(), "output.weight".into(), &[model.vocab, h]));
    }
    forms
}

/// For each row of q, k and v in the rotate-half order of a head, `t · d/2 + i`, its row in GGUF: `2i + t`.
fn turned(model: &Model) -> Vec<usize> {
    let (d, turned_heads) = (model.head_dim, model.heads + model.kv_heads);
    (0..(turned_heads + model.kv_heads) * d)
        .map(|row| {
            let (head, j) = (row / d, row % d);
            if head < turned_heads { head * d + 2 * (j % (d / 2)) + j / (d / 2) } else { row }
        })
        .collect()
}
