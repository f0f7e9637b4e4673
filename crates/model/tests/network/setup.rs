//! Tiny networks of every style, and a few calls to run them.

use std::path::PathBuf;
use triax_model::{MicroBatch, Network, Options, Rank, Shared, TensorSource, TensorSplit};
use triax_spec::model::{Activation, Dropout, Init, Mask, Model, NormKind, Positions};
use triax_spec::run::Recompute;
use triax_tensor::cpu::{Cpu, Kernel};
use triax_tensor::philox::Stream;
use triax_tensor::reference::Reference;
use triax_tensor::{DType, Device, DeviceExt, Table};

/// Two layers; sizes that are multiples of nothing. Every dropout site drops.
pub(crate) fn gpt(mask: Mask) -> Model {
    Model {
        layers: 2,
        hidden: 12,
        heads: 3,
        kv_heads: 3,
        head_dim: 4,
        ffn: 20,
        vocab: 19,
        sequence: 7,
        norm: NormKind::Layer,
        norm_eps: 1e-5,
        activation: Activation::Gelu,
        positions: Positions::Learned,
        bias: true,
        tied: true,
        mask,
        dropout: Dropout { embedding: 0.1, attention: 0.2, hidden: 0.15 },
        init: Init { std: 0.25, scale_outputs: true },
    }
}

pub(crate) fn llama(mask: Mask) -> Model {
    Model {
        heads: 4,
        kv_heads: 2,
        norm: NormKind::Rms,
        activation: Activation::Swiglu,
        positions: Positions::Rotary { base: 100.0 },
        bias: false,
        tied: false,
        ..gpt(mask)
    }
}

pub(crate) fn styles() -> [Model; 4] {
    [gpt(Mask::Causal), gpt(Mask::Prefix), llama(Mask::Causal), llama(Mask::Prefix)]
}

pub(crate) fn options(model: &Model, micro_batch: usize, micro_batches: usize) -> Options {
    Options {
        dtype: DType::F32,
        sequence: model.sequence,
        micro_batch,
        micro_batches,
        recompute: Recompute::None,
        tensor_shards: 8,
        loss_chunk: 5,
        seed: 7,
        training: true,
        tensor: TensorSplit::WHOLE,
        deferred: false,
        shared: Shared::default(),
    }
}

/// Which device a test runs on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum On {
    Reference,
    Cpu,
}

impl On {
    pub(crate) const ALL: [Self; 2] = [Self::Reference, Self::Cpu];

    pub(crate) fn device(self) -> Box<dyn Device> {
        match self {
            Self::Reference => Box::new(Reference::new()),
            Self::Cpu => Box::new(Cpu::new(2, Kernel::Auto).unwrap()),
        }
    }
}

/// A network with its device.
pub(crate) struct Machine {
    pub device: Box<dyn Device>,
    pub network: Network,
}

impl Machine {
    /// On the reference device.
    pub(crate) fn new(model: &Model, options: &Options) -> Self {
        Self::on(On::Reference, model, options)
    }

    /// Ready to step, with first values in which every parameter matters.
    pub(crate) fn on(on: On, model: &Model, options: &Options) -> Self {
        let mut machine = Self::planned(on, model, options);
        machine.network.initialise(&mut *machine.device, 3);
        for parameter in machine.network.parameters().iter().filter(|p| p.dims.len() == 1) {
            // Norm weights about 1, biases about 0, but none exactly.
            let mut values: Vec<f32> = machine.device.download_vec(parameter.weight);
            let stream = Stream::named(5, &parameter.name);
            values.iter_mut().enumerate().for_each(|(i, v)| *v += 0.1 * stream.normal(i as u64) as f32);
            machine.device.upload_slice(parameter.weight, &values);
        }
        machine.network.pack_weights(&mut *machine.device);
        machine
    }

    pub(crate) fn loaded(on: On, model: &Model, options: &Options, source: &dyn TensorSource) -> Self {
        let mut machine = Self::planned(on, model, options);
        machine.network.load(&mut *machine.device, source).unwrap();
        machine.network.pack_weights(&mut *machine.device);
        machine
    }

    fn planned(on: On, model: &Model, options: &Options) -> Self {
        let mut device = on.device();
        let mut table = Table::new();
        let network = Network::plan(model, options, &*device, &mut table).unwrap();
        device.allocate(table.bytes(), network.scratch_bytes(&*device)).unwrap();
        Self { device, network }
    }

    /// One optimizer step's gradients from `samples` in micro-batches as planned; the mean loss.
    pub(crate) fn step(&mut self, samples: &Samples) -> f64 {
        let options = self.network.options().clone();
        self.network.begin_step(&mut *self.device);
        let count = samples.prefix.len();
        for first in (0..count).step_by(options.micro_batch) {
            let last = (first + options.micro_batch).min(count);
            let batch = samples.range(&self.network, first, last);
            let rank = &mut Rank::alone(&mut *self.device);
            self.network.forward_backward(rank, &batch, 1.0 / samples.counted() as f32, &mut ()).unwrap();
        }
        self.network.finish_group(&mut Rank::alone(&mut *self.device)).unwrap();
        assert_eq!(self.network.counted(), samples.counted());
        self.network.losses(&*self.device).iter().sum::<f64>() / samples.counted() as f64
    }

    /// All gradients, parameter by parameter.
    pub(crate) fn gradients(&self) -> Vec<(String, Vec<f32>)> {
        let download = |p: &triax_model::Parameter| (p.name.clone(), self.device.download_vec(p.grad));
        self.network.parameters().iter().map(download).collect()
    }
}

/// Samples of one sequence length.
pub(crate) struct Samples {
    pub sequence: usize,
    pub tokens: Vec<u32>,
    pub targets: Vec<u32>,
    pub prefix: Vec<u32>,
}

impl Samples {
    /// Random tokens; the loss is taken behind the prefix.
    pub(crate) fn random(model: &Model, count: usize) -> Self {
        let stream = Stream::named(11, "samples");
        let id = |i: usize| stream.word(i as u64) % model.vocab as u32;
        let sequence = model.sequence;
        let tokens: Vec<u32> = (0..count * sequence).map(id).collect();
        let prefix: Vec<u32> = (0..count).map(|i| (2 + i as u32) % sequence as u32).collect();
        let targets = (0..tokens.len())
            .map(|t| match model.mask {
                Mask::Prefix if t % sequence + 1 < prefix[t / sequence] as usize => triax_tensor::IGNORE,
                _ => id(t + 1),
            })
            .collect();
        Self { sequence, tokens, targets, prefix }
    }

    pub(crate) fn counted(&self) -> u64 {
        self.targets.iter().filter(|&&t| t != triax_tensor::IGNORE).count() as u64
    }

    pub(crate) fn range(&self, network: &Network, first: usize, last: usize) -> MicroBatch<'_> {
        let tokens = first * self.sequence..last * self.sequence;
        MicroBatch {
            tokens: &self.tokens[tokens.clone()],
            targets: &self.targets[tokens],
            prefix: (network.model().mask == Mask::Prefix).then_some(&self.prefix[first..last]),
            first_sample: 100 + first as u64,
        }
    }
}

pub(crate) fn golden_folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}
