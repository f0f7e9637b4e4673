//! `triax bench train`: training steps of a preset on random tokens: network, clipping and AdamW as in
//! training, without files.

use crate::arguments::BenchTrain;
use crate::console::{bytes, count, json_line};
use crate::failure::{Context, Failure};
use crate::machine;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;
use triax_model::{MicroBatch, Network, Options};
use triax_spec::model::Model;
use triax_spec::run::{Optimizer, Recompute};
use triax_spec::{Preset, presets};
use triax_tensor::philox::Stream;
use triax_tensor::{AdamW, Class, DType, Device, Table, View};

/// GPT-2's 50257 ids, padded as its trainers do.
const PADDED_GPT2_VOCABULARY: usize = 50304;

#[derive(Serialize)]
struct Outcome {
    model: String,
    parameters: u64,
    batch: usize,
    sequence: usize,
    dtype: &'static str,
    device: String,
    /// Of the median step.
    tokens_per_s: f64,
    peak_rss_mb: Option<f64>,
    loss_first: f64,
    loss_last: f64,
    /// Model arithmetic over the device's register-resident peak.
    flops_share: Option<f64>,
    peak_gflops: Option<f64>,
    /// Seconds of each measured step.
    step_s: Vec<f64>,
    /// Bytes by class.
    memory: BTreeMap<&'static str, usize>,
    scratch_bytes: usize,
}

pub(crate) fn run(arguments: &BenchTrain) -> Result<(), Failure> {
    let preset = preset(&arguments.model)?;
    let model = model(preset, arguments)?;
    let peak = machine::peak_of(arguments.device, arguments.dtype)?;
    let mut bench = Bench::prepare(&model, preset.recipe.optimizer, arguments)?;
    eprintln!(
        "{}: {} parameters, {}",
        preset.name,
        count(triax_spec::parameters(&model) as f64),
        bench.device.describe()
    );
    eprint!("{}", machine::memory_table(&bench.table, bench.scratch_bytes));
    let (mut losses, mut step_s) = (Vec::new(), Vec::new());
    for step in 0..=arguments.steps {
        let start = Instant::now();
        let loss = bench.step(step as u64 + 1, preset.recipe.learning_rate.peak);
        let seconds = start.elapsed().as_secs_f64();
        losses.push(loss);
        // The first step touches every page for the first time.
        if step > 0 {
            step_s.push(seconds);
        }
        eprintln!("step {step}: loss {loss:.4}, {seconds:.3} s");
    }
    let tokens = (arguments.batch * arguments.seq) as f64;
    let mut sorted = step_s.clone();
    sorted.sort_by(f64::total_cmp);
    let tokens_per_s = tokens / sorted[sorted.len() / 2];
    let outcome = Outcome {
        model: preset.name.to_owned(),
        parameters: triax_spec::parameters(&model),
        batch: arguments.batch,
        sequence: arguments.seq,
        dtype: arguments.dtype.name(),
        device: bench.device.describe(),
        tokens_per_s,
        peak_rss_mb: machine::peak_rss_mb(),
        loss_first: losses[0],
        loss_last: losses[losses.len() - 1],
        flops_share: peak
            .map(|peak| tokens_per_s * triax_spec::flops_per_token(&model, arguments.seq) / (peak * 1e9)),
        peak_gflops: peak,
        step_s,
        memory: Class::ALL.iter().map(|&class| (class.name(), bench.table.class_bytes(class))).collect(),
        scratch_bytes: bench.scratch_bytes,
    };
    let share =
        outcome.flops_share.map_or(String::new(), |share| format!(", {:.1} % of peak", 100.0 * share));
    let memory =
        outcome.peak_rss_mb.map_or(String::new(), |mb| format!(", at most {}", bytes((mb * 1e6) as usize)));
    eprintln!("{tokens_per_s:.0} tokens/s{share}{memory}");
    if arguments.json { json_line(&outcome) } else { Ok(()) }
}

fn preset(name: &str) -> Result<&'static Preset, Failure> {
    presets::find(name).ok_or_else(|| {
        let names: Vec<&str> = presets::PRESETS.iter().map(|preset| preset.name).collect();
        Failure::usage(format!("there is no preset `{name}`")).help(format!("presets: {}", names.join(", ")))
    })
}

/// The preset's model as the bench runs it: without dropout, GPT-2's vocabulary padded.
fn model(preset: &Preset, arguments: &BenchTrain) -> Result<Model, Failure> {
    if arguments.steps == 0 || arguments.batch == 0 || arguments.seq == 0 {
        return Err(Failure::usage("--steps, --batch and --seq must be at least 1"));
    }
    let mut model = preset.model.clone();
    model.dropout = triax_spec::model::Dropout::default();
    model.vocab = match arguments.vocab {
        Some(vocab) => vocab,
        None if preset.name.starts_with("gpt2") => PADDED_GPT2_VOCABULARY,
        None => model.vocab,
    };
    if arguments.seq > model.sequence {
        return Err(Failure::usage(format!(
            "--seq {} is longer than the {} positions of {}",
            arguments.seq, model.sequence, preset.name
        ))
        .help(format!("use --seq {} or less", model.sequence)));
    }
    Ok(model)
}

struct Bench {
    device: Box<dyn Device>,
    network: Network,
    /// First and second moment of each parameter.
    moments: Vec<[View; 2]>,
    optimizer: Optimizer,
    table: Table,
    scratch_bytes: usize,
    tokens: Vec<u32>,
    targets: Vec<u32>,
}

impl Bench {
    fn prepare(model: &Model, optimizer: Optimizer, arguments: &BenchTrain) -> Result<Self, Failure> {
        let mut device = machine::device(arguments.device)?;
        let mut table = Table::new();
        let options = Options {
            dtype: machine::dtype(arguments.dtype),
            sequence: arguments.seq,
            micro_batch: arguments.batch,
            micro_batches: 1,
            recompute: Recompute::None,
            tensor_shards: 8,
            loss_chunk: (arguments.batch * arguments.seq).min(1024),
            seed: 1,
            training: true,
        };
        let network = Network::plan(model, &options, &*device, &mut table)
            .map_err(|error| Failure::usage(error.to_string()))?;
        let moments = network
            .parameters()
            .iter()
            .map(|parameter| {
                ["first", "second"].map(|moment| {
                    let name = format!("{} moment of {}", moment, parameter.name);
                    let View { rows, cols, .. } = parameter.weight;
                    table.add(name, Class::Optimizer, DType::F32, rows, cols)
                })
            })
            .collect();
        let scratch_bytes = network.scratch_bytes(&*device);
        device
            .allocate(table.bytes(), scratch_bytes)
            .context(|| format!("{} for this model and batch", bytes(table.bytes() + scratch_bytes)))?;
        network.initialise(&mut *device, 1);
        network.pack_weights(&mut *device);
        let stream = Stream::named(1, "bench tokens");
        let count = arguments.batch * arguments.seq;
        let token = |index: usize| ((u64::from(stream.word(index as u64)) * model.vocab as u64) >> 32) as u32;
        let tokens: Vec<u32> = (0..count).map(token).collect();
        let targets = (1..=count).map(token).collect();
        Ok(Self { device, network, moments, optimizer, table, scratch_bytes, tokens, targets })
    }

    /// One optimizer step; the mean loss before it.
    fn step(&mut self, number: u64, learning_rate: f32) -> f64 {
        let Self { device, network, optimizer, .. } = self;
        let device = &mut **device;
        let batch =
            MicroBatch { tokens: &self.tokens, targets: &self.targets, prefix: None, first_sample: 0 };
        network.begin_step(device);
        network.forward_backward(device, &batch, 1.0 / self.tokens.len() as f32);
        network.finish_step(device);
        let norm = network.gradient_squares(device).sqrt() as f32;
        let clip = if optimizer.clip > 0.0 && norm > optimizer.clip { optimizer.clip / norm } else { 1.0 };
        for (parameter, &[m, v]) in network.parameters().iter().zip(&self.moments) {
            device.adamw(&AdamW {
                weight: parameter.weight,
                grad: parameter.grad,
                m,
                v,
                learning_rate,
                beta1: optimizer.betas[0],
                beta2: optimizer.betas[1],
                eps: optimizer.eps,
                weight_decay: if parameter.decay { optimizer.weight_decay } else { 0.0 },
                step: number,
                grad_scale: clip,
            });
        }
        network.pack_weights(device);
        network.loss_sum(device) / self.tokens.len() as f64
    }
}
