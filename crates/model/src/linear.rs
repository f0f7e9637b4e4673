//! A linear layer and its deferred weight gradients.
//!
//! ```text
//!            stored      forward y = x·W       input gradient dx = dy·Wᵀ    weight gradient
//! column     [out, in]   in: one sum           out: virtual shards          dyᵀ·x
//! row        [in, out]   in: virtual shards    out: one sum                 xᵀ·dy
//! ```
//! The first dimension is the one that tensor parallelism splits: a column-parallel layer splits its outputs,
//! a row-parallel layer its inputs. A rank's sum over virtual shards is then a part of the whole one: what a
//! row-parallel layer's forward and a column-parallel layer's input gradient give is f32, to be joined.

use crate::plan::Builder;
use triax_tensor::{Activation, Device, Epilogue, Gemm, Need, Operand, Packed, View};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parallel {
    Column,
    Row,
}

pub(crate) struct Linear {
    parallel: Parallel,
    shards: usize,
    weight: View,
    grad: View,
    /// Weight and gradient.
    bias: Option<(View, View)>,
    forward: Packed,
    backward: Option<BackwardCopy>,
}

#[derive(Clone, Copy)]
struct BackwardCopy {
    packed: Packed,
    pack_on_use: bool,
}

impl Linear {
    /// Plans the layer of the parameters `{name}.weight` and, if declared, `{name}.bias` for products of
    /// up to `rows` rows.
    pub(crate) fn plan(builder: &mut Builder<'_>, name: &str, parallel: Parallel, rows: usize) -> Self {
        Self::plan_in(builder, name, parallel, rows, 1)
    }

    /// As [`Linear::plan`], with outputs whose virtual shards are summed over (the vocabulary in the loss).
    pub(crate) fn plan_in(
        builder: &mut Builder<'_>,
        name: &str,
        parallel: Parallel,
        rows: usize,
        output_shards: usize,
    ) -> Self {
        let parameter = builder.parameter(&format!("{name}.weight"));
        let (weight, grad) = (parameter.weight, parameter.grad);
        let bias = builder.find(&format!("{name}.bias")).map(|p| (p.weight, p.grad));
        let (inputs, outputs) = match parallel {
            Parallel::Column => (weight.cols, weight.rows),
            Parallel::Row => (weight.rows, weight.cols),
        };
        let dtype = builder.options.dtype;
        let forward = builder.forward_copy(name, inputs, outputs, output_shards);
        builder.needs.push(Need::Gemm { m: rows, n: outputs, k: inputs, dtype });
        let backward = builder.options.training.then(|| {
            let (packed, pack_on_use) = builder.backward_copy(name, outputs, inputs);
            BackwardCopy { packed, pack_on_use }
        });
        if backward.is_some() {
            builder.needs.push(Need::Gemm { m: rows, n: inputs, k: outputs, dtype });
            builder.needs.push(Need::Gemm { m: weight.rows, n: weight.cols, k: rows, dtype });
        }
        builder.needs.push(Need::Rows { tokens: rows, cols: outputs });
        Self { parallel, shards: builder.own_shards(), weight, grad, bias, forward, backward }
    }

    /// Packs the working copies from the master weight.
    pub(crate) fn pack(&self, device: &mut dyn Device) {
        let from = match self.parallel {
            Parallel::Column => Operand::InnerCols(self.weight),
            Parallel::Row => Operand::InnerRows(self.weight),
        };
        device.pack(from, self.forward);
        if let Some(copy) = self.backward
            && !copy.pack_on_use
        {
            self.pack_backward(device, copy.packed);
        }
    }

    fn pack_backward(&self, device: &mut dyn Device, to: Packed) {
        let from = match self.parallel {
            Parallel::Column => Operand::InnerRows(self.weight),
            Parallel::Row => Operand::InnerCols(self.weight),
        };
        device.pack(from, to);
    }

    pub(crate) const fn forward_operand(&self) -> Operand {
        Operand::Packed(self.forward)
    }

    /// `out = epilogue(x · W)`, the layer's bias included.
    pub(crate) fn forward(&self, device: &mut dyn Device, x: View, out: View, epilogue: Epilogue) {
        self.product(device, x, out, Epilogue { bias: self.bias(), ..epilogue });
    }

    /// `partial = x · W`, f32, this rank's part of a row-parallel layer's sum; the bias comes behind the sum.
    pub(crate) fn forward_partial(&self, device: &mut dyn Device, x: View, partial: View) {
        self.product(device, x, partial, Epilogue::default());
    }

    fn product(&self, device: &mut dyn Device, x: View, out: View, epilogue: Epilogue) {
        device.gemm(&Gemm {
            left: Operand::InnerCols(x),
            right: Operand::Packed(self.forward),
            out,
            inner_shards: if self.parallel == Parallel::Row { self.shards } else { 1 },
            accumulate: false,
            epilogue,
        });
    }

    pub(crate) fn bias(&self) -> Option<View> {
        self.bias.map(|(weight, _)| weight)
    }

    /// Must precede the input gradients of a micro-batch.
    pub(crate) fn ready_backward(&self, device: &mut dyn Device) {
        if let Some(copy) = self.backward
            && copy.pack_on_use
        {
            self.pack_backward(device, copy.packed);
        }
    }

    /// `d_x = activation(d_out · Wᵀ)`; of a split column-parallel layer this rank's part of the sum, f32.
    pub(crate) fn input_gradient(
        &self,
        device: &mut dyn Device,
        d_out: View,
        d_x: View,
        activation: Activation,
    ) {
        let copy = self.backward.as_ref().expect("backward runs only in networks planned for training");
        device.gemm(&Gemm {
            left: Operand::InnerCols(d_out),
            right: Operand::Packed(copy.packed),
            out: d_x,
            inner_shards: if self.parallel == Parallel::Column { self.shards } else { 1 },
            accumulate: false,
            epilogue: Epilogue { activation, ..Epilogue::default() },
        });
    }

    /// Adds the bias gradient at once and queues the weight gradient.
    pub(crate) fn weight_gradient(
        &self,
        device: &mut dyn Device,
        jobs: &mut WeightJobs,
        x: View,
        d_out: View,
        accumulate: bool,
    ) {
        if let Some((_, grad)) = self.bias {
            device.column_sums(d_out, grad);
        }
        let (left, right) = match self.parallel {
            Parallel::Column => (d_out, x),
            Parallel::Row => (x, d_out),
        };
        jobs.push(WeightJob { left, right, out: self.grad, accumulate });
    }

    /// Empties what micro-batches add to.
    pub(crate) fn begin_group(&self, device: &mut dyn Device) {
        if let Some((_, grad)) = self.bias {
            device.clear(grad);
        }
    }
}

/// A weight gradient that the schedule decides when to run: `out[m, n] (+)= leftᵀ · right`, summed over tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightJob {
    /// act `[tokens, m]`.
    pub left: View,
    /// act `[tokens, n]`.
    pub right: View,
    /// f32 `[m, n]`.
    pub out: View,
    pub accumulate: bool,
}

/// Weight gradients waiting to be run, in order; never grows after planning.
#[derive(Debug)]
pub(crate) struct WeightJobs {
    jobs: Vec<WeightJob>,
    deferred: bool,
}

impl WeightJobs {
    /// `deferred`: the buffers that jobs read keep their values until [`WeightJobs::run`].
    pub(crate) fn with_capacity(capacity: usize, deferred: bool) -> Self {
        Self { jobs: Vec::with_capacity(capacity), deferred }
    }

    /// The buffers that waiting jobs read are about to be used again: runs the jobs, unless they are deferred.
    pub(crate) fn settle(&mut self, device: &mut dyn Device) {
        if !self.deferred {
            self.run(device);
        }
    }

    fn push(&mut self, job: WeightJob) {
        assert!(
            self.jobs.len() < self.jobs.capacity(),
            "more than {} weight gradients wait",
            self.jobs.len()
        );
        self.jobs.push(job);
    }

    pub(crate) fn run(&mut self, device: &mut dyn Device) {
        for job in self.jobs.drain(..) {
            device.gemm(&Gemm {
                left: Operand::InnerRows(job.left),
                right: Operand::InnerRows(job.right),
                out: job.out,
                inner_shards: 1,
                accumulate: job.accumulate,
                epilogue: Epilogue::default(),
            });
        }
    }
}
