//! A rank's side of a step: its part of the network, master weights and moments, and what it exchanges with others.
//!
//! ```text
//! step: groups of micro-batches ─▶ join groups ─▶ reduce over replicas ─▶ loss, ‖g‖² ─▶ (a decision on the host)
//! update: AdamW on what this rank updates ─▶ gather weights (ZeRO) ─▶ working copies
//! ```
//! All ranks of a run call the same methods in the same order. On one rank nothing is allocated on the host.

use crate::buckets::Bucket;
use crate::checkpoint::{Checkpoint, Moment, TensorShape};
use crate::exact_sum::ExactSum;
use crate::feed::in_turn;
use crate::replicas::Replicas;
use crate::timeline::Timeline;
use crate::{Plan, TrainError};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use triax_comm::{Axis, Collective, CommError, Group, Mesh};
use triax_data::DataError;
use triax_model::{MicroBatch, ModelError, Network, Parameter, Rank, Split, Stage, TensorSource, declare};
use triax_plan::{Action, Layout, Schedule, Span};
use triax_spec::run::Optimizer;
use triax_tensor::{AdamW, Device, DeviceExt, View};

/// Where a step's samples come from.
pub trait Batches {
    /// Micro-batch `micro_batch` of this replica's `group`-th group.
    fn micro_batch(&mut self, group: usize, micro_batch: usize) -> Result<MicroBatch<'_>, DataError>;
}

/// A step of a single micro-batch.
impl Batches for MicroBatch<'_> {
    fn micro_batch(&mut self, _: usize, _: usize) -> Result<MicroBatch<'_>, DataError> {
        Ok(*self)
    }
}

pub struct Engine {
    pub(crate) device: Box<dyn Device>,
    pub(crate) collective: Box<dyn Collective>,
    pub(crate) mesh: Mesh,
    pub(crate) layout: Layout,
    pub(crate) schedule: Schedule,
    pub(crate) groups: Groups,
    pub(crate) network: Network,
    pub(crate) replicas: Replicas,
    pub(crate) squares: View,
    host: Vec<f64>,
    /// When it is asked for.
    pub(crate) timeline: Option<Timeline>,
}

/// The groups that this rank is in.
pub(crate) struct Groups {
    pub tensor: Group,
    pub world: Group,
    /// First and last stage, where both hold the tied embedding.
    pub embedding: Option<Group>,
}

/// What the host decides a step by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSums {
    /// Sum of the losses of the tokens that count, in nats.
    pub loss: f64,
    /// Of the gradients as computed, with the loss scale in them.
    pub gradient_squares: f64,
    /// Some rank was asked to stop.
    pub stop: bool,
}

/// Elements of a checkpoint's tensor that this rank holds.
pub(crate) struct Held {
    pub moment: Moment,
    pub parameter: usize,
    /// Of the whole tensor.
    pub elements: Range<usize>,
    pub view: View,
}

impl Engine {
    /// Allocates the plan's arena; weights and moments are zero. `collective`: this rank's end of a world as large as
    /// the plan's layout.
    pub fn allocate(
        plan: Plan,
        mut device: Box<dyn Device>,
        collective: Box<dyn Collective>,
    ) -> Result<Self, TrainError> {
        device.allocate(plan.table().bytes(), plan.scratch_bytes())?;
        plan.network.prepare(&mut *device);
        let mesh = plan.mesh;
        assert_eq!((collective.rank(), collective.world()), (mesh.rank(), mesh.world()), "the plan's world");
        let tied = plan.run.model.tied && mesh.size(Axis::Pipeline) > 1;
        let groups = Groups {
            tensor: mesh.group(Axis::Tensor),
            world: mesh.group_of(&Axis::ALL),
            embedding: if tied { mesh.embedding_group() } else { None },
        };
        Ok(Self {
            device,
            collective,
            mesh,
            groups,
            host: vec![0.0; plan.squares.len()],
            replicas: Replicas::new(&plan.layout, mesh.group(Axis::Data), plan.buckets, plan.checks),
            layout: plan.layout,
            schedule: plan.schedule,
            network: plan.network,
            squares: plan.squares,
            timeline: None,
        })
    }

    pub const fn network(&self) -> &Network {
        &self.network
    }

    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    pub const fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Notes from now on when each action of a step runs, in seconds since `clock`.
    pub fn record_timeline(&mut self, clock: Instant) {
        self.timeline = Some(Timeline::new(clock));
    }

    /// The newest step's actions in their order; empty when nothing is recorded.
    pub fn timeline(&self) -> &[Span] {
        self.timeline.as_ref().map_or(&[], |timeline| &timeline.spans)
    }

    pub(crate) fn note(&mut self, action: Action, begin: Instant) {
        if let Some(timeline) = &mut self.timeline {
            timeline.note(action, begin);
        }
    }

    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// The orderly end of this rank, when nothing is under way.
    pub fn leave(&mut self) -> Result<(), TrainError> {
        Ok(self.collective.leave()?)
    }

    /// What carries the data between ranks, for people.
    pub fn describe_world(&self) -> String {
        self.collective.describe()
    }

    /// First values by seed, moments zero.
    pub fn initialise(&mut self, seed: u64) {
        self.each_kept_weight(|device, parameter, held, to| {
            parameter.initialise(device, seed, held, to);
            Ok(())
        })
        .expect("first values come from nowhere that could fail");
        self.begin_moments();
    }

    /// Weights from `source`, moments zero.
    pub fn load_weights(&mut self, source: &dyn TensorSource) -> Result<(), TrainError> {
        self.each_kept_weight(|device, parameter, held, to| parameter.load(device, source, held, to))?;
        self.begin_moments();
        Ok(())
    }

    /// Calls `each` with every stretch of weights that this rank keeps: the parameter, its elements, where they are.
    fn each_kept_weight(
        &mut self,
        mut each: impl FnMut(&mut dyn Device, &Parameter, Range<usize>, View) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        for bucket in &self.replicas.buckets {
            for piece in bucket.pieces(&bucket.weight.elements) {
                let parameter = &self.network.parameters()[piece.parameter];
                each(&mut *self.device, parameter, piece.elements, bucket.weight.at(&piece.place))?;
            }
        }
        Ok(())
    }

    fn begin_moments(&mut self) {
        for moment in self.replicas.buckets.iter().flat_map(|bucket| &bucket.moments) {
            self.device.clear(moment.view);
        }
        self.weights_changed();
    }

    /// Makes working copies of the weights that are kept whole.
    fn weights_changed(&mut self) {
        self.replicas.forget_weights();
        self.network.pack_weights(&mut *self.device);
    }

    /// Forward and backward passes of a step of `micro_batches` micro-batches a group, and the sums that it is decided
    /// by. `grad_scale`: loss scale / tokens that count in the whole global batch. `stop`: set when this rank is asked to.
    pub fn step(
        &mut self,
        batches: &mut dyn Batches,
        micro_batches: usize,
        grad_scale: f32,
        stop: &AtomicBool,
    ) -> Result<StepSums, TrainError> {
        if self.schedule.micro_batches != micro_batches && self.schedule.stages > 1 {
            let Schedule { kind, stages, chunks, .. } = self.schedule;
            self.schedule = Schedule::new(kind, stages, chunks, micro_batches)?;
        }
        if let Some(timeline) = &mut self.timeline {
            timeline.spans.clear();
        }
        self.network.begin_step(&mut *self.device);
        self.replicas.begin_step(&mut *self.device, micro_batches);
        let groups = self.layout.groups();
        for group in 0..groups {
            if group > 0 {
                self.network.begin_group(&mut *self.device);
            }
            self.run_schedule(batches, (group, micro_batches), grad_scale, groups == 1)?;
            self.finish_group()?;
            self.replicas.end_group(&mut *self.device, &mut *self.collective)?;
        }
        let begin = Instant::now();
        self.replicas.end_step(&mut *self.device, &mut *self.collective)?;
        let sums = self.sums(stop.load(Ordering::Relaxed))?;
        self.note(Action::ReduceGradients, begin);
        Ok(sums)
    }

    /// Ends a group's gradients; a tied embedding on two stages becomes the sum of both uses.
    fn finish_group(&mut self) -> Result<(), CommError> {
        let Self { device, collective, groups, network, .. } = self;
        network.finish_group(&mut rank_of(&mut **device, &mut **collective, groups))?;
        if let Some(group) = &groups.embedding {
            let embedding = network.parameters().iter().find(|p| p.name == "embedding.tokens.weight");
            let grad = embedding.expect("first and last stage hold a tied embedding").grad;
            let handle = collective.all_reduce(&mut **device, group, grad, "tied embedding")?;
            collective.wait(&mut **device, handle)?;
        }
        Ok(())
    }

    /// Loss and gradient norm of the whole step. Every square is added without rounding and every loss in the order of
    /// the micro-batches, so the result is that of one rank.
    fn sums(&mut self, stop: bool) -> Result<StepSums, TrainError> {
        let mut squares = ExactSum::default();
        self.each_own_row(|_, row| squares.add(row));
        let losses = self.network.losses(&*self.device);
        if self.groups.world.size() == 1 {
            return Ok(StepSums { loss: losses.iter().sum(), gradient_squares: squares.value(), stop });
        }
        let mut mine = vec![u8::from(stop)];
        mine.extend(squares.to_bytes());
        let last = self.mesh.size(Axis::Pipeline) - 1;
        if self.mesh.coordinate(Axis::Pipeline) == last && self.mesh.coordinate(Axis::Tensor) == 0 {
            mine.extend(losses.iter().flat_map(|loss| loss.to_le_bytes()));
        }
        let all = self.collective.gather_host(&self.groups.world, &mine, "loss and gradient norm")?;
        let mut sums = StepSums { loss: 0.0, gradient_squares: 0.0, stop: false };
        let mut squares = ExactSum::default();
        let length = squares.to_bytes().len();
        // World order is stage by stage, then replica by replica.
        let mut replicas: Vec<Vec<f64>> = Vec::with_capacity(self.layout.data);
        for bytes in &all {
            let (own, losses) = bytes.split_at(1 + length);
            sums.stop |= own[0] != 0;
            squares.join(&ExactSum::from_bytes(&own[1..]).expect("every rank runs the same program"));
            if !losses.is_empty() {
                replicas.push(losses.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect());
            }
        }
        sums.loss =
            if self.layout.in_turn { in_turn(&replicas) } else { replicas.into_iter().flatten().sum() };
        sums.gradient_squares = squares.value();
        Ok(sums)
    }

    /// Calls `each` with the parameter and the sum of squares of every row of gradients that this rank counts: those of
    /// its part of each bucket that no other rank counts.
    pub(crate) fn each_own_row(&mut self, mut each: impl FnMut(usize, f64)) {
        let own = self.mesh.coordinate(Axis::Data);
        for bucket in &self.replicas.buckets {
            for piece in bucket.pieces(&bucket.parts[own]) {
                if !counts(&self.mesh, &self.network.parameters()[piece.parameter]) {
                    continue;
                }
                let rows = piece.elements.len() / piece.row;
                let grads = bucket.gradient.at(&piece.place);
                let to = self.squares.flat_range(0, rows);
                self.device.row_squares(grads.reshape(rows, piece.row), to);
                let host = &mut self.host[..rows];
                self.device.download(to, bytemuck::cast_slice_mut(host));
                host.iter().for_each(|&row| each(piece.parameter, row));
            }
        }
    }

    /// One AdamW update, the `step`-th (from 1), of all parameters; decay touches matrices only.
    pub fn update(
        &mut self,
        optimizer: &Optimizer,
        learning_rate: f32,
        grad_scale: f32,
        step: u64,
    ) -> Result<(), TrainError> {
        let begin = Instant::now();
        for bucket in &self.replicas.buckets {
            let [m, v] = &bucket.moments;
            for piece in bucket.pieces(&m.elements) {
                let decay = self.network.parameters()[piece.parameter].decay;
                self.device.adamw(&AdamW {
                    weight: bucket.weight.at(&piece.place),
                    grad: bucket.gradient.at(&piece.place),
                    m: m.at(&piece.place),
                    v: v.at(&piece.place),
                    learning_rate,
                    beta1: optimizer.betas[0],
                    beta2: optimizer.betas[1],
                    eps: optimizer.eps,
                    weight_decay: if decay { optimizer.weight_decay } else { 0.0 },
                    step,
                    grad_scale,
                });
            }
        }
        self.replicas.share_updated(&mut *self.device, &mut *self.collective)?;
        self.weights_changed();
        self.note(Action::Step, begin);
        Ok(())
    }

    /// All tensors of a checkpoint: weights, then first, then second moments, in the order of the model's parameters.
    pub fn tensors(&self) -> Vec<TensorShape> {
        let model = self.network.model();
        let declared = declare(model, &Stage::whole(model));
        let shapes = |moment: Moment| {
            declared.iter().map(move |parameter| TensorShape {
                name: moment.of(&parameter.name),
                dims: parameter.dims.clone(),
            })
        };
        Moment::ALL.into_iter().flat_map(shapes).collect()
    }

    /// What this rank writes of [`Engine::tensors`]: (tensor, its elements, where they are). All ranks together write
    /// every element once.
    pub(crate) fn owned(&self) -> Vec<(usize, Range<usize>, View)> {
        let tensors = self.tensors();
        let place =
            |name: &str| tensors.iter().position(|t| t.name == name).expect("declared for the whole model");
        let own = self.mesh.coordinate(Axis::Data);
        let owned = self.held(&Moment::ALL, |bucket, _| bucket.parts[own].clone());
        owned
            .into_iter()
            .filter(|held| counts(&self.mesh, &self.network.parameters()[held.parameter]))
            .map(|held| {
                let parameter = &self.network.parameters()[held.parameter];
                (place(&held.moment.of(&parameter.name)), held.elements, held.view)
            })
            .collect()
    }

    /// `moments` of `part` of every bucket, which must be stored here.
    fn held(&self, moments: &[Moment], part: impl Fn(&Bucket, Moment) -> Range<usize>) -> Vec<Held> {
        let mut found = Vec::new();
        for &moment in moments {
            for bucket in &self.replicas.buckets {
                let stored = match moment {
                    Moment::Weight => &bucket.weight,
                    Moment::First => &bucket.moments[0],
                    Moment::Second => &bucket.moments[1],
                };
                for piece in bucket.pieces(&part(bucket, moment)) {
                    let first = self.network.parameters()[piece.parameter].elements().start;
                    let elements = first + piece.elements.start..first + piece.elements.end;
                    let view = stored.at(&piece.place);
                    found.push(Held { moment, parameter: piece.parameter, elements, view });
                }
            }
        }
        found
    }

    /// Takes this rank's part of all tensors of a checkpoint of this model.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        checkpoint.check_model(self.network.model(), &self.tensors())?;
        let wanted = self.held(&Moment::ALL, |bucket, moment| match moment {
            Moment::Weight => bucket.weight.elements.clone(),
            _ => bucket.moments[0].elements.clone(),
        });
        for held in wanted {
            let name = held.moment.of(&self.network.parameters()[held.parameter].name);
            checkpoint.read_range(&name, &held.elements, |first, values| {
                let place = held.view.flat_range(first - held.elements.start, values.len());
                self.device.upload_slice(place, values);
            })?;
        }
        self.weights_changed();
        Ok(())
    }

    pub(crate) fn read(&self, view: View, values: &mut [f32]) {
        self.device.download(view, bytemuck::cast_slice_mut(values));
    }

    /// Reads tensor `index` of [`Engine::tensors`] on a rank that holds all of it.
    pub fn read_tensor(&self, index: usize, values: &mut [f32]) {
        for (tensor, elements, view) in self.owned() {
            if tensor == index {
                self.read(view, &mut values[elements]);
            }
        }
    }

    /// The losses that each replica's last stage has summed, replica by replica.
    pub(crate) fn gather_losses(&mut self, mine: &[f64]) -> Result<Vec<Vec<f64>>, TrainError> {
        let last = self.mesh.size(Axis::Pipeline) - 1;
        let tells = self.mesh.coordinate(Axis::Pipeline) == last && self.mesh.coordinate(Axis::Tensor) == 0;
        let bytes: Vec<u8> = mine.iter().filter(|_| tells).flat_map(|loss| loss.to_le_bytes()).collect();
        let all = self.gather(&bytes, "held-out losses")?;
        let replicas = all.len() - self.mesh.size(Axis::Data) * self.mesh.size(Axis::Tensor);
        let floats =
            |bytes: &Vec<u8>| bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
        Ok(all[replicas..].iter().step_by(self.mesh.size(Axis::Tensor)).map(floats).collect())
    }

    /// Whether all replicas must evaluate as many micro-batches.
    pub(crate) const fn evaluates_together(&self) -> bool {
        self.replicas.gather_weights()
    }

    /// Every rank's bytes in their order, for decisions that all must take together.
    pub(crate) fn gather(&mut self, mine: &[u8], what: &'static str) -> Result<Vec<Vec<u8>>, TrainError> {
        if self.groups.world.size() == 1 {
            return Ok(vec![mine.to_vec()]);
        }
        Ok(self.collective.gather_host(&self.groups.world, mine, what)?)
    }
}

/// This rank as its network sees it.
pub(crate) fn rank_of<'a>(
    device: &'a mut dyn Device,
    collective: &'a mut dyn Collective,
    groups: &'a Groups,
) -> Rank<'a> {
    Rank {
        device,
        collective: Some(collective),
        tensor: (groups.tensor.size() > 1).then_some(&groups.tensor),
    }
}

/// Whether this rank speaks for a parameter that others may hold too: whole parameters belong to the first tensor
/// rank, a tied embedding to the first stage.
fn counts(mesh: &Mesh, parameter: &Parameter) -> bool {
    let first_stage = mesh.coordinate(Axis::Pipeline) == 0;
    (parameter.split != Split::Whole || mesh.coordinate(Axis::Tensor) == 0)
        && (first_stage || !parameter.name.starts_with("embedding."))
}
