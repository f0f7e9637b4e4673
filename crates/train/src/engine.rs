//! The device's side of a step: network, master weights and moments.
//!
//! ```text
//! begin ─▶ micro_batch ─▶ … ─▶ micro_batch ─▶ end: loss, ‖g‖² ─▶ (a decision on the host) ─▶ update
//! ```
//! From `begin` to `update` nothing is allocated on the host.

use crate::checkpoint::{Checkpoint, Moment, TensorShape};
use crate::{Plan, TrainError};
use triax_model::{MicroBatch, Network, TensorSource};
use triax_spec::run::Optimizer;
use triax_tensor::{AdamW, Device, DeviceExt, View};

pub struct Engine {
    device: Box<dyn Device>,
    network: Network,
    moments: Vec<[View; 2]>,
}

/// What the host decides a step by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSums {
    /// Sum of the losses of the tokens that count, in nats.
    pub loss: f64,
    pub counted: u64,
    /// Of the gradients as computed, with the loss scale in them.
    pub gradient_squares: f64,
}

impl Engine {
    /// Allocates the plan's arena; weights and moments are zero.
    pub fn allocate(plan: Plan, mut device: Box<dyn Device>) -> Result<Self, TrainError> {
        device.allocate(plan.table().bytes(), plan.scratch_bytes())?;
        Ok(Self { device, network: plan.network, moments: plan.moments })
    }

    pub const fn network(&self) -> &Network {
        &self.network
    }

    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// First values by seed, moments zero.
    pub fn initialise(&mut self, seed: u64) {
        self.network.initialise(&mut *self.device, seed);
        self.begin_moments();
    }

    /// Weights from `source`, moments zero.
    pub fn load_weights(&mut self, source: &dyn TensorSource) -> Result<(), TrainError> {
        self.network.load(&mut *self.device, source)?;
        self.begin_moments();
        Ok(())
    }

    fn begin_moments(&mut self) {
        for &[m, v] in &self.moments {
            self.device.clear(m);
            self.device.clear(v);
        }
        self.network.pack_weights(&mut *self.device);
    }

    pub fn begin(&mut self) {
        self.network.begin_step(&mut *self.device);
    }

    /// `grad_scale`: loss scale / tokens that count in the whole global batch.
    pub fn micro_batch(&mut self, batch: &MicroBatch<'_>, grad_scale: f32) {
        self.network.forward_backward(&mut *self.device, batch, grad_scale);
    }

    /// Finishes the gradients and waits for the sums.
    pub fn end(&mut self) -> StepSums {
        self.network.finish_step(&mut *self.device);
        StepSums {
            loss: self.network.loss_sum(&*self.device),
            counted: self.network.counted(),
            gradient_squares: self.network.gradient_squares(&mut *self.device),
        }
    }

    /// One AdamW update, the `step`-th (from 1), of all parameters; decay touches matrices only.
    pub fn update(&mut self, optimizer: &Optimizer, learning_rate: f32, grad_scale: f32, step: u64) {
        for (parameter, &[m, v]) in self.network.parameters().iter().zip(&self.moments) {
            self.device.adamw(&AdamW {
                weight: parameter.weight,
                grad: parameter.grad,
                m,
                v,
                learning_rate,
                beta1: optimizer.betas[0],
                beta2: optimizer.betas[1],
                eps: optimizer.eps,
                weight_decay: if parameter.decay { optimizer.weight_decay } else { 0.0 },
                step,
                grad_scale,
            });
        }
        self.network.pack_weights(&mut *self.device);
    }

    /// The loss of every token, without dropout and gradients. Not between `begin` and `update`.
    pub fn losses(&mut self, batch: &MicroBatch<'_>, losses: &mut [f32]) {
        self.network.forward_loss(&mut *self.device, batch, losses);
    }

    /// All tensors of a checkpoint: weights, then first, then second moments, in the order of the parameters.
    pub fn tensors(&self) -> Vec<TensorShape> {
        let shapes = |moment: Moment| {
            self.network.parameters().iter().map(move |parameter| TensorShape {
                name: moment.of(&parameter.name),
                dims: parameter.dims.clone(),
            })
        };
        Moment::ALL.into_iter().flat_map(shapes).collect()
    }

    /// Reads tensor `index` of [`Engine::tensors`].
    pub fn read_tensor(&self, index: usize, values: &mut [f32]) {
        self.device.download(self.tensor(index), bytemuck::cast_slice_mut(values));
    }

    fn tensor(&self, index: usize) -> View {
        let parameters = self.moments.len();
        let parameter = index % parameters;
        match index / parameters {
            0 => self.network.parameters()[parameter].weight,
            moment => self.moments[parameter][moment - 1],
        }
    }

    /// Takes all tensors of a verified checkpoint of this model.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        let tensors = self.tensors();
        checkpoint.check_model(self.network.model(), &tensors)?;
        for (index, shape) in tensors.iter().enumerate() {
            let view = self.tensor(index);
            checkpoint.read(&shape.name, |first, values| {
                self.device.upload_slice(view.flat_range(first, values.len()), values);
            })?;
        }
        self.network.pack_weights(&mut *self.device);
        Ok(())
    }
}
