//! The parameters of a network as a list: names, shapes, first values, decay. A pure function of the model.

use crate::Stage;
use std::ops::Range;
use triax_spec::model::{Activation, Model, NormKind, Positions};
use triax_tensor::View;

/// First values of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Element i is `std · normal(i)` of the stream with the parameter's name.
    Normal {
        std: f32,
    },
    Constant(f32),
}

/// How tensor parallelism splits the first dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Not at all: every rank of a group holds all of it.
    Whole,
    /// Into equal parts: heads with what belongs to them, feed-forward columns.
    Equal,
    /// Into whole virtual shards, which may differ by a pair of ids.
    Vocabulary,
}

/// A parameter before it has memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Declaration {
    /// For example `layer.3.attention.qkv.weight`.
    pub name: String,
    /// The first dimension is the one that tensor parallelism splits (if it splits the parameter).
    pub dims: Vec<usize>,
    pub split: Split,
    /// Whether weight decay applies: matrices yes, biases and norms no.
    pub decay: bool,
    pub init: Init,
}

impl Declaration {
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// A parameter in a device's arena.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub name: String,
    /// Of the whole parameter.
    pub dims: Vec<usize>,
    /// The part of `0..dims[0]` that this rank holds.
    pub rows: Range<usize>,
    pub split: Split,
    /// f32 `[rows, dims[1]]`, or `[1, rows]`.
    pub weight: View,
    /// Like `weight`; without rows when the network was planned for evaluation only.
    pub grad: View,
    pub decay: bool,
    pub init: Init,
}

impl Parameter {
    /// Elements of one row of the whole parameter.
    pub fn row_len(&self) -> usize {
        self.dims[1..].iter().product()
    }

    /// The elements of the whole parameter, row by row, that this rank holds.
    pub fn elements(&self) -> Range<usize> {
        self.rows.start * self.row_len()..self.rows.end * self.row_len()
    }
}

/// The parameters that a stage of `model` holds, in the order of the forward pass.
pub fn declare(model: &Model, stage: &Stage) -> Vec<Declaration> {
    let normal = Init::Normal { std: model.init.std };
    let outputs = if model.init.scale_outputs {
        Init::Normal { std: model.init.std / (2.0 * model.layers as f32).sqrt() }
    } else {
        normal
    };
    let (h, inner) = (model.hidden, model.heads * model.head_dim);
    let qkv = (model.heads + 2 * model.kv_heads) * model.head_dim;
    let up = match model.activation {
        Activation::Gelu => model.ffn,
        Activation::Swiglu => 2 * model.ffn,
    };
    let mut list = List { model, all: Vec::new() };

    if stage.first || (stage.last && model.tied) {
        list.matrix("embedding.tokens.weight".into(), model.vocab, h, Split::Vocabulary, normal);
    }
    if stage.first && model.positions == Positions::Learned {
        list.matrix("embedding.positions.weight".into(), model.sequence, h, Split::Whole, normal);
    }
    for layer in stage.layers() {
        let attention = format!("layer.{layer}.attention");
        list.norm(&format!("{attention}.norm"));
        list.column(&format!("{attention}.qkv"), qkv, normal);
        list.row(&format!("{attention}.output"), inner, outputs);
        let feed_forward = format!("layer.{layer}.feed_forward");
        list.norm(&format!("{feed_forward}.norm"));
        list.column(&format!("{feed_forward}.up"), up, normal);
        list.row(&format!("{feed_forward}.down"), model.ffn, outputs);
    }
    if stage.last {
        list.norm("norm");
        if !model.tied {
            list.matrix("head.weight".into(), model.vocab, h, Split::Vocabulary, normal);
        }
    }
    list.all
}

struct List<'a> {
    model: &'a Model,
    all: Vec<Declaration>,
}

impl List<'_> {
    fn matrix(&mut self, name: String, rows: usize, cols: usize, split: Split, init: Init) {
        self.all.push(Declaration { name, dims: vec![rows, cols], split, decay: true, init });
    }

    fn vector(&mut self, name: String, len: usize, split: Split, value: f32) {
        self.all.push(Declaration {
            name,
            dims: vec![len],
            split,
            decay: false,
            init: Init::Constant(value),
        });
    }

    fn norm(&mut self, name: &str) {
        self.vector(format!("{name}.weight"), self.model.hidden, Split::Whole, 1.0);
        if self.model.norm == NormKind::Layer {
            self.vector(format!("{name}.bias"), self.model.hidden, Split::Whole, 0.0);
        }
    }

    /// From the hidden size to `outputs`, which are split.
    fn column(&mut self, name: &str, outputs: usize, init: Init) {
        self.matrix(format!("{name}.weight"), outputs, self.model.hidden, Split::Equal, init);
        if self.model.bias {
            self.vector(format!("{name}.bias"), outputs, Split::Equal, 0.0);
        }
    }

    /// From `inputs`, which are split, to the hidden size.
    fn row(&mut self, name: &str, inputs: usize, init: Init) {
        self.matrix(format!("{name}.weight"), inputs, self.model.hidden, Split::Equal, init);
        if self.model.bias {
            self.vector(format!("{name}.bias"), self.model.hidden, Split::Whole, 0.0);
        }
    }
}
