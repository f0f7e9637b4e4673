//! A network, or a pipeline stage of one: planned into a table, then run as forward and backward passes of
//! micro-batches.
//!
//! ```text
//! begin_step ─▶ forward_backward ─▶ … ─▶ forward_backward ─▶ finish_step ─▶ (optimizer) ─▶ pack_weights
//! ```
//! Between `begin_step` and `finish_step` nothing is allocated on the host.

use crate::activations::{self, GradientBuffers, LayerBuffers};
use crate::attention::Attention;
use crate::embedding::Embedding;
use crate::feed_forward::FeedForward;
use crate::head::{Head, HeadBuffers, LossGradient};
use crate::init::{self, DeviceTensors};
use crate::linear::WeightJobs;
use crate::pass::Pass;
use crate::plan::Builder;
use crate::{ModelError, Options, Parameter, Stage, TensorSource};
use triax_spec::model::{self, Model};
use triax_spec::run::Recompute;
use triax_tensor::{Class, DType, Device, DeviceExt, IGNORE, Mask, Need, Table, View};

/// Samples for one forward pass.
#[derive(Clone, Copy, Debug)]
pub struct MicroBatch<'a> {
    /// Whole sequences one after the other, at most as many as planned; or one shorter sequence.
    pub tokens: &'a [u32],
    /// The next token of each token, [`IGNORE`] where no loss is taken.
    pub targets: &'a [u32],
    /// Prefix lengths, one for each sequence; exactly for models with the prefix mask.
    pub prefix: Option<&'a [u32]>,
    /// Number of the first sample in the run; the others follow. Addresses dropout.
    pub first_sample: u64,
}

/// Decoder transformer on a device. Every method takes the device it was planned for.
pub struct Network {
    model: Model,
    options: Options,
    parameters: Vec<Parameter>,
    needs: Vec<Need>,
    pub(crate) embedding: Option<Embedding>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) head: Option<Head>,
    pub(crate) slots: Vec<Slot>,
    gradients: Option<Gradients>,
    /// F64 `[1, micro-batches]`.
    loss_sums: View,
    jobs: WeightJobs,
    host: Vec<f64>,
    step: Step,
}

/// One transformer layer.
pub(crate) struct Layer {
    pub attention: Attention,
    pub feed_forward: FeedForward,
}

/// A micro-batch in flight.
pub(crate) struct Slot {
    pub tokens: View,
    targets: View,
    prefix: View,
    pub layers: Vec<LayerBuffers>,
    pub head: Option<HeadBuffers>,
    /// What the last layer here writes, act `[T, h]`.
    output: View,
    pass: Pass,
}

/// What the backward pass needs beyond the slots.
struct Gradients {
    buffers: GradientBuffers,
    /// Gradient of the residual stream, act `[T, h]`.
    residual: View,
    /// F64 `[1, parameters]`.
    squares: View,
}

/// How far the current step is.
#[derive(Clone, Copy, Default)]
struct Step {
    forwarded: usize,
    backwarded: usize,
    counted: u64,
}

impl Network {
    /// Plans the whole model with one micro-batch in flight: every buffer goes into `table`; nothing is
    /// allocated.
    pub fn plan(
        model: &Model,
        options: &Options,
        device: &dyn Device,
        table: &mut Table,
    ) -> Result<Self, ModelError> {
        Self::plan_stage(model, options, &Stage::whole(model), 1, device, table)
    }

    /// Plans one pipeline stage with `slots` micro-batches in flight.
    pub fn plan_stage(
        model: &Model,
        options: &Options,
        stage: &Stage,
        slots: usize,
        device: &dyn Device,
        table: &mut Table,
    ) -> Result<Self, ModelError> {
        if stage.layers.is_empty() || stage.layers.end > model.layers {
            return Err(ModelError::invalid(
                "layers of a stage",
                format!("{:?}", stage.layers),
                format!("must be a non-empty part of 0..{}", model.layers),
            ));
        }
        let mut builder = Builder::new(model, options, stage, device, table)?;
        let builder = &mut builder;
        let embedding = stage.first.then(|| Embedding::plan(builder, stage.last));
        let layers: Vec<Layer> = stage
            .layers
            .clone()
            .map(|layer| Layer {
                attention: Attention::plan(builder, layer),
                feed_forward: FeedForward::plan(builder, layer),
            })
            .collect();
        let head = stage.last.then(|| Head::plan(builder));
        let slots = activations::plan(builder, stage.layers.clone(), slots)
            .into_iter()
            .enumerate()
            .map(|(slot, layers)| Slot::plan(builder, slot, layers, stage.last))
            .collect();
        let parameters = builder.parameters.len();
        let gradients = options.training.then(|| Gradients {
            buffers: GradientBuffers::plan(builder),
            residual: builder.rows(
                "gradient of the residual stream".into(),
                Class::Workspace,
                options.dtype,
                model.hidden,
            ),
            squares: builder.table.add("gradient squares", Class::Workspace, DType::F64, 1, parameters),
        });
        let loss_sums =
            builder.table.add("loss sums", Class::Workspace, DType::F64, 1, options.micro_batches);
        Ok(Self {
            model: model.clone(),
            options: options.clone(),
            parameters: std::mem::take(&mut builder.parameters),
            needs: std::mem::take(&mut builder.needs),
            embedding,
            layers,
            head,
            slots,
            gradients,
            loss_sums,
            jobs: WeightJobs::with_capacity(8),
            host: vec![0.0; parameters.max(options.micro_batches)],
            step: Step::default(),
        })
    }

    pub const fn model(&self) -> &Model {
        &self.model
    }

    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Scratch memory to allocate beside the table, in bytes.
    pub fn scratch_bytes(&self, device: &dyn Device) -> usize {
        self.needs.iter().map(|&need| device.scratch_bytes(need)).max().unwrap_or(0)
    }

    /// In the order of the forward pass, as [`crate::declare`] lists them.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// First values of all parameters: normal with the model's std (output projections scaled if it says
    /// so), norms 1, biases 0.
    pub fn initialise(&self, device: &mut dyn Device, seed: u64) {
        init::initialise(device, &self.parameters, seed);
    }

    /// Sets all parameters.
    pub fn load(&self, device: &mut dyn Device, source: &dyn TensorSource) -> Result<(), ModelError> {
        init::load(device, &self.parameters, source)
    }

    /// The parameters' current values.
    pub fn tensors<'a>(&'a self, device: &'a dyn Device) -> DeviceTensors<'a> {
        DeviceTensors { device, parameters: &self.parameters }
    }

    /// Makes the working copies of all weights; to be called whenever the masters have changed.
    pub fn pack_weights(&self, device: &mut dyn Device) {
        for layer in &self.layers {
            layer.attention.pack(device);
            layer.feed_forward.pack(device);
        }
        if let Some(head) = &self.head {
            head.pack(device);
        }
    }

    /// Starts a step: empties the small sums that micro-batches add to. Every started step must be finished,
    /// also one whose gradients are thrown away.
    pub fn begin_step(&mut self, device: &mut dyn Device) {
        assert!(self.options.training, "a step on a network planned for evaluation");
        self.step = Step::default();
        if let Some(embedding) = &self.embedding {
            embedding.begin_step(device);
        }
        for layer in &self.layers {
            layer.attention.begin_step(device);
            layer.feed_forward.begin_step(device);
        }
        if let Some(head) = &self.head {
            head.begin_step(device);
        }
    }

    /// One micro-batch: losses, and gradients added to those of the step. `grad_scale` is the loss scale
    /// divided by the number of tokens that count in the whole global batch.
    pub fn forward_backward(&mut self, device: &mut dyn Device, batch: &MicroBatch<'_>, grad_scale: f32) {
        self.upload(device, 0, batch);
        self.forward(device, 0, grad_scale);
        self.backward(device, 0);
    }

    /// Copies a micro-batch to the device, for the passes of `slot`.
    ///
    /// # Panics
    /// When the micro-batch is not what was planned, or a token id is not in the vocabulary.
    pub fn upload(&mut self, device: &mut dyn Device, slot: usize, batch: &MicroBatch<'_>) {
        let pass = self.pass(slot, batch, true);
        let slot = &mut self.slots[slot];
        slot.upload(device, batch, pass);
        self.step.counted += batch.targets.iter().filter(|&&t| t != IGNORE).count() as u64;
    }

    fn pass(&self, slot: usize, batch: &MicroBatch<'_>, dropout: bool) -> Pass {
        let (tokens, options) = (batch.tokens.len(), &self.options);
        let seq = options.sequence.min(tokens);
        assert!(
            tokens > 0 && tokens <= options.tokens() && tokens.is_multiple_of(seq),
            "a micro-batch of {tokens} tokens; planned are up to {} sequences of {}",
            options.micro_batch,
            options.sequence
        );
        assert_eq!(tokens, batch.targets.len(), "as many targets as tokens");
        let vocab = self.model.vocab as u32;
        let outside = |&&id: &&u32| id >= vocab && id != IGNORE;
        if let Some(id) = batch.tokens.iter().find(|&&id| id >= vocab).or(batch.targets.iter().find(outside))
        {
            panic!("token id {id} in a model with a vocabulary of {vocab}");
        }
        let sequences = tokens / seq;
        let mask = match (self.model.mask, batch.prefix) {
            (model::Mask::Causal, None) => Mask::Causal,
            (model::Mask::Prefix, Some(prefix)) => {
                assert_eq!(prefix.len(), sequences, "one prefix length for each sequence");
                Mask::Prefix(self.slots[slot].prefix.flat_range(0, sequences))
            }
            (mask, prefix) => panic!("a model with the {mask:?} mask and prefix lengths {prefix:?}"),
        };
        Pass { batch: sequences, seq, first_row: batch.first_sample * options.sequence as u64, dropout, mask }
    }

    /// Forward pass of the micro-batch in `slot`; on the last stage also its loss and the gradients of the
    /// output layer.
    pub fn forward(&mut self, device: &mut dyn Device, slot: usize, grad_scale: f32) {
        let accumulate = self.step.forwarded > 0;
        self.run_layers(device, slot);
        self.run_head(device, slot, Some(LossGradient { scale: grad_scale, accumulate }));
        if let Some(head) = &self.head {
            assert!(
                self.step.forwarded < self.options.micro_batches,
                "more than the planned {} micro-batches in a step",
                self.options.micro_batches
            );
            let losses = head.losses.row_range(0, self.slots[slot].pass.tokens());
            device.sum(losses, self.loss_sums.flat_range(self.step.forwarded, 1));
        }
        self.step.forwarded += 1;
    }

    fn run_layers(&self, device: &mut dyn Device, slot: usize) {
        let slot = &self.slots[slot];
        let tokens = slot.pass.tokens();
        if let Some(embedding) = &self.embedding {
            let x = slot.layers[0].x.row_range(0, tokens);
            embedding.forward(device, &slot.pass, slot.tokens.flat_range(0, tokens), 0, x);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let buffers = slot.layers[index].rows(tokens);
            layer.attention.forward(device, &slot.pass, &buffers);
            let out = slot.output_of(index).row_range(0, tokens);
            layer.feed_forward.forward(device, &slot.pass, &buffers, out);
        }
    }

    fn run_head(&mut self, device: &mut dyn Device, slot: usize, gradient: Option<LossGradient>) {
        let slot = &self.slots[slot];
        let tokens = slot.pass.tokens();
        if let (Some(head), Some(buffers)) = (&self.head, &slot.head) {
            let targets = slot.targets.flat_range(0, tokens);
            head.forward(device, &mut self.jobs, &buffers.rows(tokens), targets, gradient);
        }
    }

    /// Backward pass of the micro-batch in `slot`, after its forward pass; micro-batches go through forward
    /// and backward in the same order.
    pub fn backward(&mut self, device: &mut dyn Device, slot: usize) {
        let slot = &self.slots[slot];
        let pass = &slot.pass;
        let tokens = pass.tokens();
        let accumulate = self.step.backwarded > 0;
        let gradients = self.gradients.as_ref().expect("backward runs only in networks planned for training");
        let d_x = gradients.residual.row_range(0, tokens);
        let work = gradients.buffers.rows(tokens);
        if let (Some(head), Some(buffers)) = (&self.head, &slot.head) {
            head.backward(device, &buffers.rows(tokens), d_x);
        }
        for (layer, buffers) in self.layers.iter().zip(&slot.layers).rev() {
            let buffers = &buffers.rows(tokens);
            match self.options.recompute {
                Recompute::None => {}
                Recompute::Selective => layer.feed_forward.recompute(device, buffers),
                Recompute::Full => {
                    layer.attention.forward(device, pass, buffers);
                    layer.feed_forward.activate(device, buffers);
                }
            }
            layer.feed_forward.backward(device, &mut self.jobs, pass, buffers, &work, d_x, accumulate);
            if self.options.recompute == Recompute::Selective {
                layer.attention.recompute(device, pass, buffers);
            }
            layer.attention.backward(device, &mut self.jobs, pass, buffers, &work, d_x, accumulate);
        }
        if let Some(embedding) = &self.embedding {
            embedding.backward(device, pass, slot.tokens.flat_range(0, tokens), d_x);
        }
        self.step.backwarded += 1;
    }

    /// Runs the weight gradients that wait.
    pub fn run_weight_jobs(&mut self, device: &mut dyn Device) {
        self.jobs.run(device);
    }

    /// Ends a step: after it every parameter's `grad` holds the step's gradient.
    pub fn finish_step(&mut self, device: &mut dyn Device) {
        self.run_weight_jobs(device);
        for layer in &self.layers {
            layer.attention.finish_step(device);
            layer.feed_forward.finish_step(device);
        }
        if let Some(head) = &self.head {
            head.finish_step(device);
        }
        if let Some(embedding) = &self.embedding {
            embedding.finish_step(device);
        }
    }

    /// Sum of the losses (natural logarithm) of all tokens that counted in the step so far; waits for the device.
    pub fn loss_sum(&mut self, device: &dyn Device) -> f64 {
        let count = self.step.forwarded;
        self.read_sum(device, self.loss_sums, count)
    }

    /// Number of tokens that counted in the step so far.
    pub const fn counted(&self) -> u64 {
        self.step.counted
    }

    /// Sum of squares of all gradients, parameter by parameter in order; waits for the device.
    pub fn gradient_squares(&mut self, device: &mut dyn Device) -> f64 {
        let gradients = self.gradients.as_ref().expect("only networks planned for training have gradients");
        let squares = gradients.squares;
        for (index, parameter) in self.parameters.iter().enumerate() {
            device.sum_of_squares(parameter.grad, squares.flat_range(index, 1));
        }
        self.read_sum(device, squares, self.parameters.len())
    }

    fn read_sum(&mut self, device: &dyn Device, from: View, count: usize) -> f64 {
        if count == 0 {
            return 0.0;
        }
        let host = &mut self.host[..count];
        device.download(from.flat_range(0, count), bytemuck::cast_slice_mut(host));
        host.iter().sum()
    }

    /// Evaluation: the loss of every token (0 for ignored ones) into `losses`, without dropout and gradients.
    /// Not between `forward` and `backward` of slot 0.
    pub fn forward_loss(&mut self, device: &mut dyn Device, batch: &MicroBatch<'_>, losses: &mut [f32]) {
        assert_eq!(losses.len(), batch.tokens.len(), "one loss for each token");
        let pass = self.pass(0, batch, false);
        self.slots[0].upload(device, batch, pass);
        self.run_layers(device, 0);
        self.run_head(device, 0, None);
        let head = self.head.as_ref().expect("losses are on the last stage");
        device.download(head.losses.row_range(0, losses.len()), bytemuck::cast_slice_mut(losses));
    }
}

impl Slot {
    fn plan(builder: &mut Builder<'_>, slot: usize, layers: Vec<LayerBuffers>, last: bool) -> Self {
        let (tokens, samples) = (builder.options.tokens(), builder.options.micro_batch);
        let mut ids = |name: &str, cols| {
            builder.table.add(format!("slot.{slot}.{name}"), Class::Activations, DType::U32, 1, cols)
        };
        let (token_ids, targets, prefix) =
            (ids("tokens", tokens), ids("targets", tokens), ids("prefix", samples));
        let output = if builder.options.training {
            let (dtype, hidden) = (builder.options.dtype, builder.model.hidden);
            builder.rows(format!("slot.{slot}.output"), Class::Activations, dtype, hidden)
        } else {
            layers[0].x
        };
        let head = last.then(|| HeadBuffers::plan(builder, slot, output));
        let pass = Pass { batch: 0, seq: 1, first_row: 0, dropout: false, mask: Mask::Causal };
        Self { tokens: token_ids, targets, prefix, layers, head, output, pass }
    }

    fn upload(&mut self, device: &mut dyn Device, batch: &MicroBatch<'_>, pass: Pass) {
        let tokens = pass.tokens();
        device.upload_slice(self.tokens.flat_range(0, tokens), batch.tokens);
        device.upload_slice(self.targets.flat_range(0, tokens), batch.targets);
        if let Some(prefix) = batch.prefix {
            device.upload_slice(self.prefix.flat_range(0, prefix.len()), prefix);
        }
        self.pass = pass;
    }

    /// Where layer `index` of this stage writes.
    pub(crate) fn output_of(&self, index: usize) -> View {
        self.layers.get(index + 1).map_or(self.output, |next| next.x)
    }
}
