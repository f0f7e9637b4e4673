//! A network, or a pipeline stage of one: planned into a table, then run as forward and backward passes of
//! micro-batches.
//!
//! ```text
//! begin_step ─▶ begin_group ─▶ forward, backward of each micro-batch ─▶ finish_group ─▶ … ─▶ (optimizer) ─▶ pack_weights
//! ```
//! A group is the micro-batches whose gradients are summed in one piece; what joins several groups is the caller.
//! On a rank that holds whole layers nothing is allocated on the host between `begin_step` and `finish_group`.

use crate::activations::{self, GradientBuffers, LayerBuffers, LayerHalves};
use crate::attention::Attention;
use crate::embedding::Embedding;
use crate::feed_forward::FeedForward;
use crate::head::{Head, HeadBuffers, LossGradient};
use crate::init::{self, DeviceTensors};
use crate::linear::WeightJobs;
use crate::pass::Pass;
use crate::plan::Builder;
use crate::rank::{Exchange, Rank};
use crate::{ModelError, Options, Parameter, Stage, TensorSource};
use std::ops::Range;
use triax_comm::CommError;
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
    /// Which of `layers` each chunk runs.
    chunks: Vec<Range<usize>>,
    /// Of layers whose gradients of the group are finished.
    finished: Vec<bool>,
    /// The layer whose working copy is there, where layers share it.
    packed: Option<usize>,
    pub(crate) slots: Vec<Slot>,
    gradients: Option<Gradients>,
    /// F64 `[1, micro-batches]`.
    loss_sums: View,
    /// Of the output layer, and of the layers when they run at once.
    jobs: WeightJobs,
    host: Vec<f64>,
    step: Step,
}

/// What the caller does around each layer (its index among this rank's) of a pass; all ranks that hold the same
/// layers are called in the same order.
pub trait LayerHooks {
    /// The weights of `layer` are about to be read, after them those of `next`; where layers share buffers, they must
    /// be there when this returns, and those of `next` may be on their way.
    fn weights(&mut self, _: &mut Rank<'_>, _layer: usize, _next: Option<usize>) -> Result<(), CommError> {
        Ok(())
    }

    /// The gradients of `layer` are about to be written to a buffer that layers share.
    fn gradients(&mut self, _: &mut Rank<'_>, _layer: usize) -> Result<(), CommError> {
        Ok(())
    }

    /// Whether the pass runs the last micro-batch of a group, so that layers' gradients are finished on the way.
    fn is_last(&self) -> bool {
        false
    }

    /// All gradients of `layer` are finished: of the group, or of the micro-batch where layers share buffers.
    fn done(&mut self, _: &mut Rank<'_>, _layer: usize) -> Result<(), CommError> {
        Ok(())
    }
}

/// Nothing.
impl LayerHooks for () {}

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
    /// Of the longest chunk.
    pub layers: Vec<LayerBuffers>,
    pub head: Option<HeadBuffers>,
    /// What the last layer of a chunk writes, act `[l, h]`.
    output: View,
    /// Gradients and weight jobs that wait, when weight gradients are deferred.
    deferred: Option<Deferred>,
    pass: Pass,
}

struct Deferred {
    layers: Vec<LayerHalves>,
    jobs: WeightJobs,
}

/// What the backward pass needs beyond the slots.
struct Gradients {
    buffers: GradientBuffers,
    /// Shared by all layers, when weight gradients run at once.
    halves: Option<LayerHalves>,
    /// Gradients of the residual stream, act `[l, h]`: two in a pipeline, so that one can be under way.
    residuals: Vec<View>,
    /// Where a chunk's input can arrive while another micro-batch is computed, act `[l, h]`; absent where the
    /// embedding is in front of all chunks.
    received: Option<View>,
}

/// How far the current step is.
#[derive(Clone, Default)]
struct Step {
    /// Losses summed so far.
    losses: usize,
    counted: u64,
    /// Micro-batches of the group that have written the output layer's, and each chunk's, gradients.
    head: usize,
    chunks: Vec<usize>,
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
        let outside = |chunk: &Range<usize>| chunk.is_empty() || chunk.end > model.layers;
        if stage.chunks.is_empty() || stage.chunks.iter().any(outside) {
            return Err(ModelError::invalid(
                "layers of a stage",
                format!("{:?}", stage.chunks),
                format!("must be non-empty parts of 0..{}", model.layers),
            ));
        }
        let mut builder = Builder::new(model, options, stage, device, table)?;
        let builder = &mut builder;
        let exchange = Exchange::plan(builder);
        let embedding = stage.first.then(|| Embedding::plan(builder, stage.last, exchange));
        let layers: Vec<Layer> = stage
            .layers()
            .map(|layer| Layer {
                attention: Attention::plan(builder, layer, exchange),
                feed_forward: FeedForward::plan(builder, layer, exchange),
            })
            .collect();
        let head = stage.last.then(|| Head::plan(builder, exchange));
        let mut first = 0;
        let chunks: Vec<Range<usize>> = stage
            .chunks
            .iter()
            .map(|chunk| {
                first += chunk.len();
                first - chunk.len()..first
            })
            .collect();
        let longest = chunks.iter().map(Range::len).max().unwrap_or(0);
        let slots = activations::plan(builder, longest, slots)
            .into_iter()
            .enumerate()
            .map(|(slot, layers)| Slot::plan(builder, slot, layers, stage.last))
            .collect();
        let parameters = builder.parameters.len();
        let whole = stage.first && stage.last && chunks.len() == 1;
        let alone = stage.first && chunks.len() == 1;
        let gradients = options.training.then(|| Gradients {
            received: (!alone).then(|| {
                let name = "activation that arrives ahead".to_owned();
                builder.local_rows(name, Class::Workspace, options.dtype, model.hidden)
            }),
            buffers: GradientBuffers::plan(builder),
            halves: (!options.deferred).then(|| LayerHalves::plan_shared(builder)),
            residuals: (0..if whole { 1 } else { 2 })
                .map(|index| {
                    let name = format!("gradient {index} of the residual stream");
                    builder.local_rows(name, Class::Workspace, options.dtype, model.hidden)
                })
                .collect(),
        });
        let loss_sums =
            builder.table.add("loss sums", Class::Workspace, DType::F64, 1, options.micro_batches);
        Ok(Self {
            model: model.clone(),
            options: options.clone(),
            parameters: std::mem::take(&mut builder.parameters),
            needs: std::mem::take(&mut builder.needs),
            embedding,
            finished: vec![false; layers.len()],
            packed: None,
            layers,
            head,
            step: Step { chunks: vec![0; chunks.len()], ..Step::default() },
            chunks,
            slots,
            gradients,
            loss_sums,
            jobs: WeightJobs::with_capacity(8, false),
            host: vec![0.0; parameters.max(options.micro_batches)],
        })
    }

    pub const fn model(&self) -> &Model {
        &self.model
    }

    /// Layers of this rank.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Whether this rank has the output layer.
    pub const fn has_head(&self) -> bool {
        self.head.is_some()
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

    /// Fills what the passes read beside the weights; once after allocation.
    pub fn prepare(&self, device: &mut dyn Device) {
        if let Some(embedding) = &self.embedding {
            embedding.prepare(device);
        }
    }

    /// First values of all parameters, where layers share no buffers: normal with the model's std (output projections scaled if it says
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
    pub fn pack_weights(&mut self, device: &mut dyn Device) {
        self.packed = None;
        if !self.options.shared.weights {
            self.layers.iter().for_each(|layer| layer.pack(device));
        }
        if let Some(head) = &self.head {
            head.pack(device);
        }
    }

    /// Starts a step. Every started step must be finished, also one whose gradients are thrown away.
    pub fn begin_step(&mut self, device: &mut dyn Device) {
        assert!(self.options.training, "a step on a network planned for evaluation");
        (self.step.losses, self.step.counted) = (0, 0);
        self.begin_group(device);
    }

    /// Starts a further group of the step: its first micro-batch writes the gradients, the others add to them.
    pub fn begin_group(&mut self, device: &mut dyn Device) {
        self.step.head = 0;
        self.step.chunks.fill(0);
        let shared = self.options.shared.gradients;
        self.finished.fill(shared);
        if let Some(embedding) = &self.embedding {
            embedding.begin_group(device);
        }
        if !shared {
            self.layers.iter().for_each(|layer| layer.begin_group(device));
        }
        if let Some(head) = &self.head {
            head.begin_group(device);
        }
    }

    /// One micro-batch of a whole network: losses, and gradients added to those of the group. `grad_scale` is the
    /// loss scale divided by the number of tokens that count in the whole global batch.
    pub fn forward_backward(
        &mut self,
        rank: &mut Rank<'_>,
        batch: &MicroBatch<'_>,
        grad_scale: f32,
        hooks: &mut dyn LayerHooks,
    ) -> Result<(), CommError> {
        self.upload(rank.device, 0, batch);
        self.forward(rank, 0, 0, grad_scale, hooks)?;
        self.backward(rank, 0, 0, 0, hooks)
    }

    /// Copies a micro-batch to the device, for the passes of `slot`.
    ///
    /// # Panics
    /// When the micro-batch is not what was planned, or a token id is not in the vocabulary.
    pub fn upload(&mut self, device: &mut dyn Device, slot: usize, batch: &MicroBatch<'_>) {
        let pass = self.pass(slot, batch, true);
        self.slots[slot].upload(device, batch, pass);
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
        let parts = options.tensor.token_parts();
        assert!(tokens.is_multiple_of(parts), "{tokens} tokens on {parts} ranks");
        Pass {
            batch: sequences,
            seq,
            first_row: batch.first_sample * options.sequence as u64,
            dropout,
            mask,
            parts,
            part: options.tensor.index % parts,
        }
    }

    /// What `chunk` reads of the micro-batch in `slot` when another chunk comes before it: act `[l, h]`.
    pub fn input(&self, slot: usize) -> View {
        let slot = &self.slots[slot];
        slot.layers[0].x.row_range(0, slot.pass.local_tokens())
    }

    /// What `chunk` writes of the micro-batch in `slot`: act `[l, h]`.
    pub fn output(&self, slot: usize, chunk: usize) -> View {
        let (slot, layers) = (&self.slots[slot], self.chunks[chunk].len());
        slot.output_of(layers - 1, layers).row_range(0, slot.pass.local_tokens())
    }

    /// Where the whole micro-batch that is to become [`Network::input`] can arrive before it has a slot.
    pub fn received(&self) -> Option<View> {
        self.gradients.as_ref().and_then(|gradients| gradients.received)
    }

    /// Gradient of the residual stream number `index` for the micro-batch in `slot`: of a chunk's output before its
    /// backward pass, of its input behind it. act `[l, h]`.
    pub fn residual_gradient(&self, slot: usize, index: usize) -> View {
        self.gradients().residuals[index].row_range(0, self.slots[slot].pass.local_tokens())
    }

    /// Gradients of the residual stream that there are.
    pub fn residual_gradients(&self) -> usize {
        self.gradients.as_ref().map_or(0, |gradients| gradients.residuals.len())
    }

    fn gradients(&self) -> &Gradients {
        self.gradients.as_ref().expect("backward runs only in networks planned for training")
    }

    fn is_first(&self, chunk: usize) -> bool {
        chunk == 0 && self.embedding.is_some()
    }

    fn is_last(&self, chunk: usize) -> bool {
        chunk + 1 == self.chunks.len() && self.head.is_some()
    }

    /// Forward pass of `chunk` for the micro-batch in `slot`; behind the last chunk of all also its loss and the
    /// gradients of the output layer.
    pub fn forward(
        &mut self,
        rank: &mut Rank<'_>,
        slot: usize,
        chunk: usize,
        grad_scale: f32,
        hooks: &mut dyn LayerHooks,
    ) -> Result<(), CommError> {
        self.run_layers(rank, slot, chunk, hooks)?;
        if !self.is_last(chunk) {
            return Ok(());
        }
        let accumulate = self.step.head > 0;
        self.run_head(rank, slot, Some(LossGradient { scale: grad_scale, accumulate }))?;
        self.step.head += 1;
        assert!(
            self.step.losses < self.options.micro_batches,
            "more than the planned {} micro-batches in a step",
            self.options.micro_batches
        );
        let head = self.head.as_ref().expect("the last chunk has the head");
        let losses = head.losses.row_range(0, self.slots[slot].pass.tokens());
        rank.device.sum(losses, self.loss_sums.flat_range(self.step.losses, 1));
        self.step.losses += 1;
        Ok(())
    }

    fn run_layers(
        &mut self,
        rank: &mut Rank<'_>,
        slot: usize,
        chunk: usize,
        hooks: &mut dyn LayerHooks,
    ) -> Result<(), CommError> {
        let slot = &self.slots[slot];
        let pass = &slot.pass;
        let range = self.chunks[chunk].clone();
        if let (Some(embedding), true) = (&self.embedding, chunk == 0) {
            let x = slot.layers[0].x.row_range(0, pass.local_tokens());
            embedding.forward(rank, pass, slot.tokens.flat_range(0, pass.tokens()), 0, x)?;
        }
        for (index, layer) in self.layers[range.clone()].iter().enumerate() {
            let number = range.start + index;
            hooks.weights(rank, number, (number + 1 < range.end).then_some(number + 1))?;
            if self.options.shared.weights && self.packed.replace(number) != Some(number) {
                layer.pack(rank.device);
            }
            let buffers = slot.layers[index].rows(pass);
            layer.attention.forward(rank, pass, &buffers)?;
            let out = slot.output_of(index, range.len()).row_range(0, pass.local_tokens());
            layer.feed_forward.forward(rank, pass, &buffers, out)?;
        }
        Ok(())
    }

    fn run_head(
        &mut self,
        rank: &mut Rank<'_>,
        slot: usize,
        gradient: Option<LossGradient>,
    ) -> Result<(), CommError> {
        let slot = &self.slots[slot];
        if let (Some(head), Some(buffers)) = (&self.head, &slot.head) {
            let (pass, targets) = (&slot.pass, slot.targets.flat_range(0, slot.pass.tokens()));
            head.forward(rank, &mut self.jobs, pass, &buffers.rows(pass), targets, gradient)?;
        }
        Ok(())
    }

    /// Backward pass of `chunk` for the micro-batch in `slot`, after its forward pass, on gradient `residual` of the
    /// residual stream; the micro-batches of a group go through both in the same order. With deferred weight
    /// gradients they wait for [`Network::backward_weight`].
    pub fn backward(
        &mut self,
        rank: &mut Rank<'_>,
        slot: usize,
        chunk: usize,
        residual: usize,
        hooks: &mut dyn LayerHooks,
    ) -> Result<(), CommError> {
        let (first, last) = (self.is_first(chunk), self.is_last(chunk));
        let gradients = self.gradients.as_ref().expect("backward runs only in networks planned for training");
        let Slot { tokens, layers: buffers, head, deferred, pass, .. } = &mut self.slots[slot];
        let d_x = gradients.residuals[residual].row_range(0, pass.local_tokens());
        let work = gradients.buffers.rows(pass);
        let shared = self.options.shared;
        let accumulate = !shared.gradients && self.step.chunks[chunk] > 0;
        if let (Some(head), Some(buffers), true) = (&self.head, head, last) {
            head.backward(rank.device, &buffers.rows(pass), d_x);
        }
        for index in (0..self.chunks[chunk].len()).rev() {
            let number = self.chunks[chunk].start + index;
            let layer = &self.layers[number];
            hooks.weights(rank, number, (index > 0).then(|| number - 1))?;
            if shared.gradients {
                hooks.gradients(rank, number)?;
                layer.begin_group(rank.device);
            }
            let buffers = &buffers[index].rows(pass);
            let (halves, jobs) = match deferred {
                Some(deferred) => (&deferred.layers[index], &mut deferred.jobs),
                None => (gradients.halves.as_ref().expect("shared unless deferred"), &mut self.jobs),
            };
            match self.options.recompute {
                Recompute::None => {}
                Recompute::Selective => layer.feed_forward.recompute(rank.device, buffers),
                Recompute::Full => {
                    if shared.weights && self.packed.replace(number) != Some(number) {
                        layer.pack(rank.device);
                    }
                    layer.attention.forward(rank, pass, buffers)?;
                    layer.feed_forward.activate(rank, pass, buffers)?;
                }
            }
            let half = (&work, &halves.feed_forward.rows(pass));
            layer.feed_forward.backward(rank, jobs, pass, buffers, half, d_x, accumulate)?;
            if self.options.recompute == Recompute::Selective {
                layer.attention.recompute(rank.device, pass, buffers);
            }
            let half = (&work, &halves.attention.rows(pass));
            layer.attention.backward(rank, jobs, pass, buffers, half, d_x, accumulate)?;
            if (shared.gradients || hooks.is_last()) && deferred.is_none() {
                layer.finish_group(rank)?;
                self.finished[number] = true;
                hooks.done(rank, number)?;
            }
        }
        if let (Some(embedding), true) = (&self.embedding, first) {
            embedding.backward(rank, pass, tokens.flat_range(0, pass.tokens()), d_x)?;
        }
        self.step.chunks[chunk] += 1;
        Ok(())
    }

    /// The weight gradients that the backward pass of `chunk` for the micro-batch in `slot` left.
    pub fn backward_weight(
        &mut self,
        rank: &mut Rank<'_>,
        slot: usize,
        chunk: usize,
        hooks: &mut dyn LayerHooks,
    ) -> Result<(), CommError> {
        let deferred = self.slots[slot].deferred.as_mut().expect("planned with deferred weight gradients");
        deferred.jobs.run(rank.device);
        if hooks.is_last() {
            for number in self.chunks[chunk].clone().rev() {
                self.layers[number].finish_group(rank)?;
                self.finished[number] = true;
                hooks.done(rank, number)?;
            }
        }
        Ok(())
    }

    /// Ends a group: after it every parameter's `grad` holds the group's gradient (but those that layers share).
    pub fn finish_group(&mut self, rank: &mut Rank<'_>) -> Result<(), CommError> {
        for (layer, finished) in self.layers.iter().zip(&mut self.finished) {
            if !*finished {
                layer.finish_group(rank)?;
                *finished = true;
            }
        }
        if let Some(head) = &self.head {
            head.finish_group(rank)?;
        }
        if let Some(embedding) = &self.embedding {
            embedding.finish_group(rank.device);
        }
        Ok(())
    }

    /// The losses of the step's micro-batches so far, each summed over its tokens (natural logarithm), in the order
    /// of their forward passes; waits for the device. Empty without the output layer.
    pub fn losses(&mut self, device: &dyn Device) -> &[f64] {
        let count = self.step.losses;
        let host = &mut self.host[..count];
        if count > 0 {
            device.download(self.loss_sums.flat_range(0, count), bytemuck::cast_slice_mut(host));
        }
        host
    }

    /// Number of tokens that counted in the step so far.
    pub const fn counted(&self) -> u64 {
        self.step.counted
    }

    /// Evaluation without dropout and gradients, `chunk` of the micro-batch uploaded to slot 0 by
    /// [`Network::upload_evaluation`]; behind the last chunk of all [`Network::token_losses`] has its losses.
    /// Not between `forward` and `backward` of slot 0.
    pub fn evaluate(
        &mut self,
        rank: &mut Rank<'_>,
        chunk: usize,
        hooks: &mut dyn LayerHooks,
    ) -> Result<(), CommError> {
        self.run_layers(rank, 0, chunk, hooks)?;
        if self.is_last(chunk) { self.run_head(rank, 0, None) } else { Ok(()) }
    }

    /// Copies a micro-batch to slot 0 for [`Network::evaluate`].
    pub fn upload_evaluation(&mut self, device: &mut dyn Device, batch: &MicroBatch<'_>) {
        let pass = self.pass(0, batch, false);
        self.slots[0].upload(device, batch, pass);
    }

    /// The loss of every token of the last forward pass (0 for ignored ones), on the last stage.
    pub fn token_losses(&self, device: &dyn Device, losses: &mut [f32]) {
        let head = self.head.as_ref().expect("losses are on the last stage");
        device.download(head.losses.row_range(0, losses.len()), bytemuck::cast_slice_mut(losses));
    }

    /// [`Network::evaluate`] of a whole network: the loss of every token into `losses`.
    pub fn forward_loss(
        &mut self,
        rank: &mut Rank<'_>,
        batch: &MicroBatch<'_>,
        losses: &mut [f32],
    ) -> Result<(), CommError> {
        assert_eq!(losses.len(), batch.tokens.len(), "one loss for each token");
        self.upload_evaluation(rank.device, batch);
        self.evaluate(rank, 0, &mut ())?;
        self.token_losses(rank.device, losses);
        Ok(())
    }
}

impl Layer {
    fn pack(&self, device: &mut dyn Device) {
        self.attention.pack(device);
        self.feed_forward.pack(device);
    }

    fn begin_group(&self, device: &mut dyn Device) {
        self.attention.begin_group(device);
        self.feed_forward.begin_group(device);
    }

    fn finish_group(&self, rank: &mut Rank<'_>) -> Result<(), CommError> {
        self.attention.finish_group(rank)?;
        self.feed_forward.finish_group(rank)
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
            builder.local_rows(format!("slot.{slot}.output"), Class::Activations, dtype, hidden)
        } else {
            layers[0].x
        };
        let head = last.then(|| HeadBuffers::plan(builder, slot, output));
        let pass = Pass::plain(0, 1, Mask::Causal);
        let deferred = (builder.options.training && builder.options.deferred).then(|| Deferred {
            layers: (0..layers.len()).map(|layer| LayerHalves::plan_own(builder, slot, layer)).collect(),
            jobs: WeightJobs::with_capacity(4 * layers.len(), true),
        });
        Self { tokens: token_ids, targets, prefix, layers, head, output, deferred, pass }
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

    /// Where layer `index` of a chunk of `layers` layers writes.
    pub(crate) fn output_of(&self, index: usize, layers: usize) -> View {
        if index + 1 < layers { self.layers[index + 1].x } else { self.output }
    }
}
