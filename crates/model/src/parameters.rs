//! The parameters of a network as a list: names, shapes, first values, decay. A pure function of the model.

use crate::Stage;
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

/// A parameter before it has memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Declaration {
    /// For example `layer.3.attention.qkv.weight`.
    pub name: String,
    /// The first dimension is the one that tensor parallelism splits (if it splits the parameter).
    pub dims: Vec<usize>,
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
    pub dims: Vec<usize>,
    /// f32 `[dims[0], dims[1]]`, or `[1, dims[0]]`.
    pub weight: View,
    /// Like `weight`; without rows when the network was planned for evaluation only.
    pub grad: View,
    pub decay: bool,
    pub init: Init,
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
        list.matrix("embedding.tokens.weight".into(), model.vocab, h, normal);
    }
    if stage.first && model.positions == Positions::Learned {
        list.matrix("embedding.positions.weight".into(), model.sequence, h, normal);
    }
    for layer in stage.layers.clone() {
        let attention = format!("layer.{layer}.attention");
        list.norm(&format!("{attention}.norm"));
        list.linear(&format!("{attention}.qkv"), qkv, h, qkv, normal);
        list.linear(&format!("{attention}.output"), inner, h, h, outputs);
        let feed_forward = format!("layer.{layer}.feed_forward");
        list.norm(&format!("{feed_forward}.norm"));
        list.linear(&format!("{feed_forward}.up"), up, h, up, normal);
        list.linear(&format!("{feed_forward}.down"), model.ffn, h, h, outputs);
    }
    if stage.last {
        list.norm("norm");
        if !model.tied {
            list.matrix("head.weight".into(), model.vocab, h, normal);
        }
    }
    list.all
}

struct List<'a> {
    model: &'a Model,
    all: Vec<Declaration>,
}

impl List<'_> {
    fn matrix(&mut self, name: String, rows: usize, cols: usize, init: Init) {
        self.all.push(Declaration { name, dims: vec![rows, cols], decay: true, init });
    }

    fn vector(&mut self, name: String, len: usize, value: f32) {
        self.all.push(Declaration { name, dims: vec![len], decay: false, init: Init::Constant(value) });
    }

    fn norm(&mut self, name: &str) {
        self.vector(format!("{name}.weight"), self.model.hidden, 1.0);
        if self.model.norm == NormKind::Layer {
            self.vector(format!("{name}.bias"), self.model.hidden, 0.0);
        }
    }

    fn linear(&mut self, name: &str, rows: usize, cols: usize, outputs: usize, init: Init) {
        self.matrix(format!("{name}.weight"), rows, cols, init);
        if self.model.bias {
            self.vector(format!("{name}.bias"), outputs, 0.0);
        }
    }
}
