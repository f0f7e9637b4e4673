//! How each of our tensors is made of Hugging Face tensors:
//! `ours = rows in our order(concatenate(transpose?(theirs)…))`.

use super::Architecture;
use triax_spec::model::Model;

/// One of our tensors and what it consists of.
pub(crate) struct Form {
    pub ours: String,
    /// Names and their dims, without the prefix of the whole model where they have one.
    pub theirs: Vec<(String, Vec<usize>)>,
    /// Whether theirs are stored `[our cols, our rows]`.
    transposed: bool,
    /// Our row i is row `order[i]` of the concatenation; `None`: the same order.
    order: Option<Vec<usize>>,
}

impl Form {
    fn same(ours: String, theirs: String, dims: &[usize]) -> Self {
        Self { ours, theirs: vec![(theirs, dims.to_vec())], transposed: false, order: None }
    }

    fn transposed(ours: String, theirs: String, dims: [usize; 2]) -> Self {
        Self { ours, theirs: vec![(theirs, dims.to_vec())], transposed: true, order: None }
    }

    /// Columns of our tensor (1 for vectors).
    fn cols(&self) -> usize {
        let dims = &self.theirs[0].1;
        match (dims.len(), self.transposed) {
            (2, true) => dims[0],
            (2, false) => dims[1],
            _ => 1,
        }
    }

    /// From the elements of `theirs`, in order, to ours.
    pub(crate) fn to_ours(&self, theirs: &[Vec<f32>]) -> Vec<f32> {
        let cols = self.cols();
        let rows: Vec<f32> = theirs
            .iter()
            .flat_map(|values| if self.transposed { transpose(values, cols) } else { values.clone() })
            .collect();
        match &self.order {
            None => rows,
            Some(order) => order.iter().flat_map(|&row| &rows[row * cols..][..cols]).copied().collect(),
        }
    }

    /// The inverse of [`Form::to_ours`].
    pub(crate) fn to_theirs(&self, ours: Vec<f32>) -> Vec<Vec<f32>> {
        let cols = self.cols();
        let mut rows = ours;
        if let Some(order) = &self.order {
            let ours = rows.clone();
            for (from, &row) in ours.chunks_exact(cols).zip(order) {
                rows[row * cols..][..cols].copy_from_slice(from);
            }
        }
        let mut rest = rows.as_slice();
        self.theirs
            .iter()
            .map(|(_, dims)| {
                let (part, tail) = rest.split_at(dims.iter().product());
                rest = tail;
                if self.transposed { transpose(part, part.len() / cols) } else { part.to_vec() }
            })
            .collect()
    }
}

/// `[rows, cols]` of a matrix with `rows` rows, as `[cols, rows]`.
fn transpose(values: &[f32], rows: usize) -> Vec<f32> {
    let cols = values.len() / rows;
    (0..cols).flat_map(|c| (0..rows).map(move |r| values[r * cols + c])).collect()
}

/// All tensors of a model.
pub(crate) fn forms(architecture: Architecture, model: &Model) -> Vec<Form> {
    match architecture {
        Architecture::Gpt2 => gpt2(model),
        Architecture::Llama => llama(model),
    }
}

/// The prefix of all tensors but the output layer.
pub(crate) const fn prefix(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Gpt2 => "transformer.",
        Architecture::Llama => "model.",
    }
}

/// Ends of names of constants that older versions stored beside the weights.
pub(crate) const fn constants(architecture: Architecture) -> &'static [&'static str] {
    match architecture {
        Architecture::Gpt2 => &[".attn.bias", ".attn.masked_bias"],
        Architecture::Llama => &["rotary_emb.inv_freq"],
    }
}

pub(crate) const HEAD: &str = "lm_head.weight";

fn gpt2(model: &Model) -> Vec<Form> {
    let (h, f) = (model.hidden, model.ffn);
    let mut forms = vec![
        Form::same("embedding.tokens.weight".into(), "transformer.wte.weight".into(), &[model.vocab, h]),
        Form::same(
            "embedding.positions.weight".into(),
            "transformer.wpe.weight".into(),
            &[model.sequence, h],
        ),
    ];
    for layer in 0..model.layers {
        let our = |name: &str| format!("layer.{layer}.{name}");
        let their = |name: &str| format!("transformer.h.{layer}.{name}");
        let order = Some(qkv_order(model));
        forms.extend([
            Form::same(our("attention.norm.weight"), their("ln_1.weight"), &[h]),
            Form::same(our("attention.norm.bias"), their("ln_1.bias"), &[h]),
            Form {
                order: order.clone(),
                ..Form::transposed(our("attention.qkv.weight"), their("attn.c_attn.weight"), [h, 3 * h])
            },
            Form { order, ..Form::same(our("attention.qkv.bias"), their("attn.c_attn.bias"), &[3 * h]) },
            Form::same(our("attention.output.weight"), their("attn.c_proj.weight"), &[h, h]),
            Form::same(our("attention.output.bias"), their("attn.c_proj.bias"), &[h]),
            Form::same(our("feed_forward.norm.weight"), their("ln_2.weight"), &[h]),
            Form::same(our("feed_forward.norm.bias"), their("ln_2.bias"), &[h]),
            Form::transposed(our("feed_forward.up.weight"), their("mlp.c_fc.weight"), [h, f]),
            Form::same(our("feed_forward.up.bias"), their("mlp.c_fc.bias"), &[f]),
            Form::same(our("feed_forward.down.weight"), their("mlp.c_proj.weight"), &[f, h]),
            Form::same(our("feed_forward.down.bias"), their("mlp.c_proj.bias"), &[h]),
        ]);
    }
    forms.push(Form::same("norm.weight".into(), "transformer.ln_f.weight".into(), &[h]));
    forms.push(Form::same("norm.bias".into(), "transformer.ln_f.bias".into(), &[h]));
    if !model.tied {
        forms.push(Form::same("head.weight".into(), HEAD.into(), &[model.vocab, h]));
    }
    forms
}

fn llama(model: &Model) -> Vec<Form> {
    let (h, f) = (model.hidden, model.ffn);
    let (q, kv) = (model.heads * model.head_dim, model.kv_heads * model.head_dim);
    let mut forms = vec![Form::same(
        "embedding.tokens.weight".into(),
        "model.embed_tokens.weight".into(),
        &[model.vocab, h],
    )];
    for layer in 0..model.layers {
        let our = |name: &str| format!("layer.{layer}.{name}");
        let their = |name: &str| format!("model.layers.{layer}.{name}");
        let projection =
            |name: &str, rows: usize| (their(&format!("self_attn.{name}_proj.weight")), vec![rows, h]);
        let feed = |name: &str| (their(&format!("mlp.{name}_proj.weight")), vec![f, h]);
        forms.extend([
            Form::same(our("attention.norm.weight"), their("input_layernorm.weight"), &[h]),
            Form {
                ours: our("attention.qkv.weight"),
                theirs: vec![projection("q", q), projection("k", kv), projection("v", kv)],
                transposed: false,
                order: Some(qkv_order(model)),
            },
            Form::transposed(our("attention.output.weight"), their("self_attn.o_proj.weight"), [h, q]),
            Form::same(our("feed_forward.norm.weight"), their("post_attention_layernorm.weight"), &[h]),
            Form {
                ours: our("feed_forward.up.weight"),
                theirs: vec![feed("gate"), feed("up")],
                transposed: false,
                order: Some((0..f).flat_map(|j| [j, f + j]).collect()),
            },
            Form::transposed(our("feed_forward.down.weight"), their("mlp.down_proj.weight"), [h, f]),
        ]);
    }
    forms.push(Form::same("norm.weight".into(), "model.norm.weight".into(), &[h]));
    if !model.tied {
        forms.push(Form::same("head.weight".into(), HEAD.into(), &[model.vocab, h]));
    }
    forms
}

/// From rows grouped by kv head to all q, all k, all v.
pub(crate) fn qkv_order(model: &Model) -> Vec<usize> {
    let (d, group) = (model.head_dim, model.heads / model.kv_heads);
    let head = |first: usize| first * d..(first + 1) * d;
    (0..model.kv_heads)
        .flat_map(|kv| {
            let queries = kv * group * d..(kv + 1) * group * d;
            queries.chain(head(model.heads + kv)).chain(head(model.heads + model.kv_heads + kv))
        })
        .collect()
}
