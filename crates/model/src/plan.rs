//! From options to buffers: [`Options`], [`Stage`] and the builder that puts every buffer of a network into
//! the table before anything is allocated.

use crate::{Declaration, ModelError, Parameter, Split, declare};
use std::collections::HashMap;
use std::ops::Range;
use triax_spec::model::{Model, Positions};
use triax_spec::run::Recompute;
use triax_tensor::{Class, DType, Device, Need, Packed, Table, View, even_shard_range};

/// How a network runs; together with the model it decides every buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Of activations and working weights.
    pub dtype: DType,
    /// Tokens per sample, at most the model's.
    pub sequence: usize,
    /// Samples per micro-batch.
    pub micro_batch: usize,
    /// Most micro-batches in one optimizer step. With one, backward copies of the weights are packed when
    /// they are used and share one buffer, for there is no second use.
    pub micro_batches: usize,
    pub recompute: Recompute,
    /// Virtual shards of sums that tensor parallelism may split: a power of two.
    pub tensor_shards: usize,
    /// Tokens whose logits are held at a time.
    pub loss_chunk: usize,
    /// Of dropout.
    pub seed: u64,
    /// Without it there are no gradients and no backward, and activations are not kept.
    pub training: bool,
    /// This rank's part of each layer.
    pub tensor: TensorSplit,
    /// Weight gradients run when [`crate::Network::backward_weight`] is called, not within the backward pass.
    pub deferred: bool,
    pub shared: Shared,
}

/// Buffers of one layer's parameters that all layers use in turn, because the caller keeps only a part of each
/// layer's and is asked around every layer ([`crate::LayerHooks`]). Two of each, so that one can be exchanged while
/// the other is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// A layer's gradients are those of one micro-batch, until the next layer but one is on its way back.
    pub gradients: bool,
    /// A layer's weights are there from [`crate::LayerHooks::weights`] to that of the next layer but one; so is one
    /// layer's working copy.
    pub weights: bool,
}

/// How layers are split over the ranks of a tensor group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorSplit {
    pub size: usize,
    /// This rank's place in the group.
    pub index: usize,
    /// Between split layers a rank holds 1/size of the tokens.
    pub sequence: bool,
}

impl TensorSplit {
    /// Whole layers.
    pub const WHOLE: Self = Self { size: 1, index: 0, sequence: false };

    /// Ranks that tokens between split layers are shared out to.
    pub const fn token_parts(&self) -> usize {
        if self.sequence { self.size } else { 1 }
    }

    pub(crate) fn check(&self, model: &Model) -> Result<(), ModelError> {
        let Self { size, index, .. } = *self;
        if index >= size {
            return Err(ModelError::invalid("tensor index", index, format!("must be below the size {size}")));
        }
        for (what, value) in [("heads", model.heads), ("kv_heads", model.kv_heads), ("ffn", model.ffn)] {
            if !value.is_multiple_of(size) {
                let rule = format!("cannot be split over {size} tensor ranks");
                return Err(ModelError::invalid(what, value, rule));
            }
        }
        Ok(())
    }

    /// This rank's part of a first dimension of `len` elements.
    pub fn part(&self, split: Split, len: usize) -> Range<usize> {
        match split {
            Split::Whole => 0..len,
            Split::Equal => len / self.size * self.index..len / self.size * (self.index + 1),
            Split::Vocabulary => even_shard_range(len, self.size, self.index),
        }
    }
}

impl Options {
    /// Tokens of a micro-batch.
    pub const fn tokens(&self) -> usize {
        self.micro_batch * self.sequence
    }

    fn check(&self, model: &Model) -> Result<(), ModelError> {
        let positive = [
            ("micro_batch", self.micro_batch),
            ("micro_batches", self.micro_batches),
            ("sequence", self.sequence),
            ("loss_chunk", self.loss_chunk),
        ];
        check_positive(&positive)?;
        check_model(model)?;
        if !self.dtype.is_activation() {
            return Err(ModelError::invalid("dtype", self.dtype, "activations are bf16, f16 or f32"));
        }
        if self.sequence > model.sequence {
            return Err(ModelError::invalid(
                "sequence",
                self.sequence,
                format!("the model is made for at most {} tokens", model.sequence),
            ));
        }
        self.tensor.check(model)?;
        let TensorSplit { size, sequence, .. } = self.tensor;
        let whole = self.micro_batch.is_multiple_of(size)
            || (size.is_multiple_of(self.micro_batch) && self.tokens().is_multiple_of(size));
        if sequence && !whole {
            let rule = format!("{} tokens each cannot be cut into {size} equal parts", self.sequence);
            return Err(ModelError::invalid("micro_batch", self.micro_batch, rule));
        }
        if self.deferred && self.recompute != Recompute::None {
            let rule = "weight gradients that run later need activations that are kept";
            return Err(ModelError::invalid("recompute", self.recompute, rule));
        }
        if self.deferred && self.shared.gradients {
            let rule = "weight gradients that run later need gradients that are kept";
            return Err(ModelError::invalid("shared gradients", true, rule));
        }
        if !self.tensor_shards.is_power_of_two() {
            return Err(ModelError::invalid("tensor_shards", self.tensor_shards, "must be a power of two"));
        }
        let rates = [
            ("dropout.embedding", model.dropout.embedding),
            ("dropout.attention", model.dropout.attention),
            ("dropout.hidden", model.dropout.hidden),
        ];
        for (what, rate) in rates {
            if !(0.0..1.0).contains(&rate) {
                return Err(ModelError::invalid(what, rate, "must be at least 0 and below 1"));
            }
        }
        Ok(())
    }
}

/// What every network needs of a model.
pub(crate) fn check_model(model: &Model) -> Result<(), ModelError> {
    check_positive(&[
        ("layers", model.layers),
        ("hidden", model.hidden),
        ("heads", model.heads),
        ("kv_heads", model.kv_heads),
        ("head_dim", model.head_dim),
        ("ffn", model.ffn),
        ("vocab", model.vocab),
    ])?;
    if !model.heads.is_multiple_of(model.kv_heads) {
        return Err(ModelError::invalid(
            "kv_heads",
            model.kv_heads,
            format!("must divide heads ({})", model.heads),
        ));
    }
    if matches!(model.positions, Positions::Rotary { .. }) && !model.head_dim.is_multiple_of(2) {
        return Err(ModelError::invalid("head_dim", model.head_dim, "must be even with rotary positions"));
    }
    Ok(())
}

fn check_positive(values: &[(&'static str, usize)]) -> Result<(), ModelError> {
    match values.iter().find(|&&(_, value)| value == 0) {
        Some(&(what, value)) => Err(ModelError::invalid(what, value, "must be at least 1")),
        None => Ok(()),
    }
}

/// The part of a network that one pipeline stage holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Runs of layers; between two of them the micro-batch goes through the other stages.
    pub chunks: Vec<Range<usize>>,
    /// Has the embedding, in front of the first chunk.
    pub first: bool,
    /// Has the final norm, the head and the loss, behind the last chunk.
    pub last: bool,
}

impl Stage {
    pub fn whole(model: &Model) -> Self {
        let all = 0..model.layers;
        Self { chunks: vec![all], first: true, last: true }
    }

    /// Numbers of all its layers, chunk after chunk.
    pub fn layers(&self) -> impl Iterator<Item = usize> + '_ {
        self.chunks.iter().cloned().flatten()
    }
}

/// What the parts of a network are planned with.
pub(crate) struct Builder<'a> {
    pub model: &'a Model,
    pub options: &'a Options,
    pub device: &'a dyn Device,
    pub table: &'a mut Table,
    pub parameters: Vec<Parameter>,
    index: HashMap<String, usize>,
    /// Everything that needs scratch memory.
    pub needs: Vec<Need>,
    /// Forward copies that all layers share, by the name without the layer, when they do.
    shared_forward: HashMap<String, Packed>,
    /// Buffer that all backward copies of weights share, when they do.
    shared_backward: Option<Packed>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(
        model: &'a Model,
        options: &'a Options,
        stage: &Stage,
        device: &'a dyn Device,
        table: &'a mut Table,
    ) -> Result<Self, ModelError> {
        options.check(model)?;
        let declared = declare(model, stage);
        let rows: Vec<Range<usize>> =
            declared.iter().map(|d| options.tensor.part(d.split, d.dims[0])).collect();
        let shape = |rows: &Range<usize>, dims: &[usize]| match dims {
            [_, cols] => (rows.len(), *cols),
            _ => (1, rows.len()),
        };
        let mut place = |class, shared, suffix: &str| -> Vec<View> {
            let mut layers = LayerRegions::new(class, shared);
            let each = declared.iter().zip(&rows);
            each.map(|(d, held)| {
                let (rows, cols) = shape(held, &d.dims);
                layers.place(table, &declared, &d.name, suffix, (rows, cols), &options.tensor)
            })
            .collect()
        };
        let weights = place(Class::Weights, options.shared.weights, "");
        let grads: Vec<View> = if options.training {
            place(Class::Gradients, options.shared.gradients, ".grad")
        } else {
            weights.iter().map(|view| View { offset: 0, rows: 0, ..*view }).collect()
        };
        let index = declared.iter().enumerate().map(|(i, d)| (d.name.clone(), i)).collect();
        let parameters = declared
            .into_iter()
            .zip(rows)
            .zip(weights.into_iter().zip(grads))
            .map(|((d, rows), (weight, grad))| Parameter {
                name: d.name,
                dims: d.dims,
                rows,
                split: d.split,
                weight,
                grad,
                decay: d.decay,
                init: d.init,
            })
            .collect();
        let mut builder = Self {
            model,
            options,
            device,
            table,
            parameters,
            index,
            needs: Vec::new(),
            shared_forward: HashMap::new(),
            shared_backward: None,
        };
        if options.training && (options.micro_batches == 1 || options.shared.weights) {
            builder.share_backward();
        }
        Ok(builder)
    }

    fn share_backward(&mut self) {
        let bytes = self
            .parameters
            .iter()
            .filter(|p| p.dims.len() == 2)
            .flat_map(|p| [(p.weight.rows, p.weight.cols), (p.weight.cols, p.weight.rows)])
            .map(|(inner, outer)| self.device.packed_bytes(inner, outer, 1, self.options.dtype))
            .max()
            .unwrap_or(0);
        let room = Packed { bytes, ..Packed::new(self.device, 0, 0, 1, self.options.dtype) };
        self.shared_backward = Some(self.table.add_packed("backward copy of one weight", room));
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Parameter> {
        self.index.get(name).map(|&i| &self.parameters[i])
    }

    /// A parameter that [`declare`] lists for this stage.
    pub(crate) fn parameter(&self, name: &str) -> &Parameter {
        self.find(name).unwrap_or_else(|| panic!("`{name}` is declared for every stage that plans it"))
    }

    /// The copy for forward products, in virtual shards of what the layer puts out.
    pub(crate) fn forward_copy(&mut self, name: &str, inner: usize, outer: usize, shards: usize) -> Packed {
        let packed = Packed::new(self.device, inner, outer, shards, self.options.dtype);
        match layer_of(name).filter(|_| self.options.shared.weights) {
            None => self.table.add_packed(format!("{name} forward copy"), packed),
            Some((_, part)) => {
                let table = &mut *self.table;
                let add = || table.add_packed(format!("{part} forward copy of one layer"), packed);
                *self.shared_forward.entry(part.to_owned()).or_insert_with(add)
            }
        }
    }

    /// The copy for input gradients, and whether it must be packed before each use.
    pub(crate) fn backward_copy(&mut self, name: &str, inner: usize, outer: usize) -> (Packed, bool) {
        let packed = Packed::new(self.device, inner, outer, 1, self.options.dtype);
        match self.shared_backward {
            Some(shared) => (Packed { offset: shared.offset, ..packed }, true),
            None => (self.table.add_packed(format!("{name} backward copy"), packed), false),
        }
    }

    /// A buffer `[tokens of a micro-batch, cols]`.
    pub(crate) fn rows(&mut self, name: String, class: Class, dtype: DType, cols: usize) -> View {
        self.table.add(name, class, dtype, self.options.tokens(), cols)
    }

    /// A buffer `[tokens that this rank holds between split layers, cols]`.
    pub(crate) fn local_rows(&mut self, name: String, class: Class, dtype: DType, cols: usize) -> View {
        let tokens = self.options.tokens() / self.options.tensor.token_parts();
        self.table.add(name, class, dtype, tokens, cols)
    }

    /// Virtual shards of a sum whose terms are split over the tensor group that are this rank's.
    pub(crate) fn own_shards(&self) -> usize {
        (self.options.tensor_shards / self.options.tensor.size).max(1)
    }

    /// This rank's part of what tensor parallelism splits: heads, key/value heads and feed-forward columns.
    pub(crate) fn own(&self, size: usize) -> usize {
        size / self.options.tensor.size
    }
}

/// The layer that a parameter's name says, and the rest of the name.
fn layer_of(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("layer.")?.split_once('.')
}

/// Where the parameters of a class go: each has its own buffer, or all layers use two stretches in turn, in which
/// their parameters lie as they would in the table.
struct LayerRegions {
    class: Class,
    shared: bool,
    regions: Vec<View>,
    /// The layer being placed, how many came before it, and the elements placed of it.
    layer: Option<String>,
    before: usize,
    filled: usize,
}

/// Layers whose parameters are there at once when layers share buffers.
const REGIONS: usize = 2;

impl LayerRegions {
    const fn new(class: Class, shared: bool) -> Self {
        Self { class, shared, regions: Vec::new(), layer: None, before: 0, filled: 0 }
    }

    fn place(
        &mut self,
        table: &mut Table,
        declared: &[Declaration],
        name: &str,
        suffix: &str,
        (rows, cols): (usize, usize),
        split: &TensorSplit,
    ) -> View {
        let Some((layer, _)) = layer_of(name).filter(|_| self.shared) else {
            return table.add(format!("{name}{suffix}"), self.class, DType::F32, rows, cols);
        };
        if self.layer.as_deref() != Some(layer) {
            self.before += usize::from(self.layer.is_some());
            (self.layer, self.filled) = (Some(layer.to_owned()), 0);
            if self.regions.len() < REGIONS {
                let of_layer = |d: &&Declaration| layer_of(&d.name).is_some_and(|(other, _)| other == layer);
                let elements = |d: &Declaration| {
                    split.part(d.split, d.dims[0]).len() * d.dims[1..].iter().product::<usize>()
                };
                let all = declared.iter().filter(of_layer).map(|d| aligned(elements(d))).sum();
                let name = format!("one layer{suffix}, {}", self.regions.len());
                self.regions.push(table.add(name, self.class, DType::F32, 1, all));
            }
        }
        let region = self.regions[self.before % REGIONS];
        let view = region.flat_range(self.filled, rows * cols).reshape(rows, cols);
        self.filled += aligned(rows * cols);
        view
    }
}

/// F32 elements up to the boundary where the table would begin the next buffer.
const fn aligned(elements: usize) -> usize {
    elements.next_multiple_of(Table::ALIGNMENT / 4)
}
