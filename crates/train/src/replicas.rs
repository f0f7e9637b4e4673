//! What the replicas exchange: sums of gradients, and with ZeRO the weights that each has updated or keeps.
//!
//! ```text
//! ZeRO-0, 1  micro-batches of a group ─▶ gradients, whole ─▶ groups joined ─▶ sum over replicas, once a step
//! ZeRO-2, 3  one micro-batch ─▶ a layer's gradients ─▶ sum over replicas, own part ─▶ parts joined
//! ZeRO-3     own parts of the weights ─▶ a layer, gathered before it runs forward, and again backward
//! ```
//! Layers use two stretches of memory in turn for what is not kept: while one is exchanged the other is computed with.

use crate::buckets::Bucket;
use crate::poison::Checks;
use triax_comm::{Collective, CommError, Group, Handle};
use triax_model::{LayerHooks, Rank};
use triax_plan::Layout;
use triax_tensor::{Device, join_order};

/// Stretches that layers use in turn.
const REGIONS: usize = 2;

pub(crate) struct Replicas {
    group: Group,
    zero: usize,
    in_turn: bool,
    pub buckets: Vec<Bucket>,
    pub checks: Option<Checks>,
    /// Of the first layer.
    ahead: usize,
    layers: usize,
    /// Sums over the replicas under way, by bucket.
    reducing: Vec<Option<Handle>>,
    /// How far the step's sums are, by bucket.
    sums: Vec<Sum>,
    /// Micro-batches of a group in this step, and groups.
    micro_batches: usize,
    groups: usize,
    /// Which layer's gradients, on their way or not, a stretch holds.
    gradients: [Option<usize>; REGIONS],
    /// Which layer's weights, and what brings them.
    weights: [(Option<usize>, Option<Handle>); REGIONS],
}

/// Of one bucket.
#[derive(Clone, Copy, Default)]
struct Sum {
    /// What was joined: groups, or micro-batches.
    joined: usize,
    /// Sums that wait.
    height: usize,
}

impl Replicas {
    pub(crate) fn new(layout: &Layout, group: Group, buckets: Vec<Bucket>, checks: Option<Checks>) -> Self {
        Self {
            group,
            zero: layout.zero,
            in_turn: layout.in_turn,
            checks,
            ahead: buckets.iter().position(|bucket| bucket.is_layer).unwrap_or(0),
            layers: buckets.iter().filter(|bucket| bucket.is_layer).count(),
            reducing: buckets.iter().map(|_| None).collect(),
            sums: vec![Sum::default(); buckets.len()],
            buckets,
            micro_batches: 0,
            groups: layout.groups(),
            gradients: [None; REGIONS],
            weights: [(None, None), (None, None)],
        }
    }

    /// Whether a forward pass needs all replicas.
    pub(crate) const fn gather_weights(&self) -> bool {
        self.zero > 2
    }

    /// For passes of a group's micro-batches. `last`: of the last one, and of the step's only group.
    pub(crate) const fn hooks(&mut self, last: bool) -> Hooks<'_> {
        Hooks { replicas: self, last }
    }

    pub(crate) fn begin_step(&mut self, device: &mut dyn Device, micro_batches: usize) {
        self.micro_batches = micro_batches;
        self.sums.fill(Sum::default());
        if let Some(checks) = &self.checks {
            checks.clear(device);
        }
    }

    /// Ends a group whose gradients of what is whole are finished.
    pub(crate) fn end_group(
        &mut self,
        device: &mut dyn Device,
        collective: &mut dyn Collective,
    ) -> Result<(), CommError> {
        let count = self.buckets.len();
        let all = || (0..count).rev();
        if self.zero < 2 {
            all().for_each(|index| self.join(device, index));
            return Ok(());
        }
        let whole: Vec<usize> = all().filter(|&index| !self.buckets[index].is_layer).collect();
        whole.iter().try_for_each(|&index| self.begin_sum(device, collective, index))?;
        whole.iter().try_for_each(|&index| self.settle(device, collective, index))
    }

    /// Finishes the step's sums: after it every bucket's `gradient` holds them.
    pub(crate) fn end_step(
        &mut self,
        device: &mut dyn Device,
        collective: &mut dyn Collective,
    ) -> Result<(), CommError> {
        if self.group.size() == 1 {
            return Ok(());
        }
        for index in (0..self.buckets.len()).rev() {
            if self.zero < 2 && self.reducing[index].is_none() {
                self.begin_sum(device, collective, index)?;
            }
        }
        self.gradients = [None; REGIONS];
        (0..self.buckets.len()).rev().try_for_each(|index| self.settle(device, collective, index))
    }

    /// With ZeRO every replica has updated its part; all get all of what they keep whole.
    pub(crate) fn share_updated(
        &mut self,
        device: &mut dyn Device,
        collective: &mut dyn Collective,
    ) -> Result<(), CommError> {
        self.forget_weights();
        if self.zero == 0 {
            return Ok(());
        }
        let own = self.group.index;
        let mut handles = Vec::with_capacity(self.buckets.len());
        for bucket in self.buckets.iter().filter(|bucket| !(self.zero > 2 && bucket.is_layer)) {
            let from = bucket.weight.at(&bucket.parts[own]);
            let to = bucket.weights;
            handles.push(collective.all_gather(device, &self.group, &bucket.parts, from, to, "weights")?);
        }
        handles.into_iter().try_for_each(|handle| collective.wait(device, handle))
    }

    /// The weights that are kept have changed.
    pub(crate) fn forget_weights(&mut self) {
        for (layer, on_its_way) in &mut self.weights {
            debug_assert!(on_its_way.is_none(), "what a pass gathers it uses");
            *layer = None;
        }
    }

    /// Begins the sum of a bucket's gradients over the replicas.
    fn begin_sum(
        &mut self,
        device: &mut dyn Device,
        collective: &mut dyn Collective,
        index: usize,
    ) -> Result<(), CommError> {
        let bucket = &self.buckets[index];
        if let Some(checks) = &self.checks {
            checks.note(device, bucket, if self.zero < 2 { 0 } else { self.sums[index].joined });
        }
        let (group, what) = (&self.group, "gradients");
        let handle = if self.zero == 0 {
            collective.all_reduce(device, group, bucket.grads, what)?
        } else {
            let to = bucket.gradient.view;
            collective.reduce_scatter(device, group, &bucket.parts, bucket.grads, to, what)?
        };
        self.reducing[index] = Some(handle);
        Ok(())
    }

    /// Finishes a sum that is under way.
    fn settle(
        &mut self,
        device: &mut dyn Device,
        collective: &mut dyn Collective,
        index: usize,
    ) -> Result<(), CommError> {
        if let Some(handle) = self.reducing[index].take() {
            collective.wait(device, handle)?;
            if self.zero > 1 {
                self.join(device, index);
            }
        }
        Ok(())
    }

    /// Joins the gradients of a group, or of a micro-batch, with those before.
    fn join(&mut self, device: &mut dyn Device, index: usize) {
        let (bucket, Sum { joined, height }) = (&self.buckets[index], &mut self.sums[index]);
        let (sum, all) = match (self.zero, bucket.is_layer) {
            (0 | 1, _) => (bucket.grads, self.groups),
            (_, true) => (bucket.gradient.view, self.groups * self.micro_batches),
            (_, false) => (bucket.gradient.view, self.groups),
        };
        let joins = if self.zero < 2 || self.in_turn {
            join_order(all, *joined)
        } else {
            // In the order of the micro-batches.
            usize::from(*joined > 0)
        };
        for _ in 0..joins {
            *height -= 1;
            device.add(sum, bucket.waiting[*height]);
        }
        if *joined + 1 < all {
            device.cast(sum, bucket.waiting[*height]);
            *height += 1;
        }
        *joined += 1;
    }

    /// Begins to bring the weights of `layer`, unless they are there or on their way.
    fn gather(
        &mut self,
        device: &mut dyn Device,
        collective: &mut dyn Collective,
        layer: usize,
    ) -> Result<(), CommError> {
        let bucket = &self.buckets[self.ahead + layer];
        let (held, on_its_way) = &mut self.weights[layer % REGIONS];
        if *held == Some(layer) {
            return Ok(());
        }
        if let Some(handle) = on_its_way.take() {
            collective.wait(device, handle)?;
        }
        let (from, to) = (bucket.weight.view, bucket.weights);
        let handle =
            collective.all_gather(device, &self.group, &bucket.parts, from, to, "weights of a layer")?;
        (*held, *on_its_way) = (Some(layer), Some(handle));
        Ok(())
    }
}

/// What happens around layers.
pub(crate) struct Hooks<'a> {
    replicas: &'a mut Replicas,
    last: bool,
}

/// A rank's device and its end of the world.
fn ends<'r>(rank: &'r mut Rank<'_>) -> (&'r mut dyn Device, &'r mut dyn Collective) {
    (&mut *rank.device, &mut **rank.collective.as_mut().expect("a replica has a world"))
}

impl LayerHooks for Hooks<'_> {
    fn weights(&mut self, rank: &mut Rank<'_>, layer: usize, next: Option<usize>) -> Result<(), CommError> {
        let replicas = &mut *self.replicas;
        if replicas.zero < 3 {
            return Ok(());
        }
        let (device, collective) = ends(rank);
        for layer in [Some(layer), next].into_iter().flatten() {
            replicas.gather(device, collective, layer)?;
        }
        match replicas.weights[layer % REGIONS].1.take() {
            Some(handle) => collective.wait(device, handle),
            None => Ok(()),
        }
    }

    fn gradients(&mut self, rank: &mut Rank<'_>, layer: usize) -> Result<(), CommError> {
        let (device, collective) = ends(rank);
        let replicas = &mut *self.replicas;
        match replicas.gradients[layer % REGIONS].replace(layer) {
            Some(before) => replicas.settle(device, collective, replicas.ahead + before),
            None => Ok(()),
        }
    }

    fn is_last(&self) -> bool {
        self.last && self.replicas.group.size() > 1
    }

    fn done(&mut self, rank: &mut Rank<'_>, layer: usize) -> Result<(), CommError> {
        let (device, collective) = ends(rank);
        debug_assert!(layer < self.replicas.layers);
        self.replicas.begin_sum(device, collective, self.replicas.ahead + layer)
    }
}
