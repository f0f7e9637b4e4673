//! The table of every key a run file may have. Reading, checking, writing and the reference page follow it.

use crate::model::{Activation, Mask, NormKind, Positions};
use crate::run::{
    Amount, Decay, DeviceKind, GlobalBatch, Kernel, NumericsMode, OnSpike, OptimizerKind, Precision,
    Recompute, Run, ScheduleKind, SpikeAction,
};

/// One key of the run file.
pub(crate) struct Key {
    /// Dotted, `[]` for each item of an array: `data.blend[].path`.
    pub(crate) path: &'static str,
    pub(crate) kind: Kind,
    /// The value when absent, in words or TOML; `required` without one.
    pub(crate) default: &'static str,
    /// TOML text of a value that works.
    pub(crate) example: &'static str,
    pub(crate) about: &'static str,
    /// Its value in a resolved run as TOML text; none where it does not apply or another key says it.
    pub(crate) show: fn(&Run) -> Option<String>,
    pub(crate) only: Option<Only>,
}

/// A key that means something only beside a value of another one.
pub(crate) struct Only {
    pub(crate) key: &'static str,
    pub(crate) when: fn(&Run) -> bool,
    /// The other key's setting, as TOML.
    pub(crate) setting: &'static str,
}

/// Type and range, ends included.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Integer {
        least: u64,
        most: u64,
    },
    Number {
        least: f64,
        most: f64,
    },
    /// Two numbers.
    Pair {
        least: f64,
        most: f64,
    },
    Boolean,
    /// Only `false`: switches a section off.
    Off,
    Text,
    Choice(&'static [&'static str]),
    Preset,
    Amount {
        least: u64,
    },
}

const fn key(
    path: &'static str,
    kind: Kind,
    default: &'static str,
    example: &'static str,
    about: &'static str,
    show: fn(&Run) -> Option<String>,
) -> Key {
    Key { path, kind, default, example, about, show, only: None }
}

impl Key {
    const fn only(self, key: &'static str, setting: &'static str, when: fn(&Run) -> bool) -> Self {
        Self { only: Some(Only { key, when, setting }), ..self }
    }
}

const SIZE: Kind = Kind::Integer { least: 1, most: 1 << 24 };
const BATCH: Kind = Kind::Integer { least: 1, most: 1_000_000 };
const RANKS: Kind = Kind::Integer { least: 1, most: 4096 };
const COUNT: Kind = Kind::Integer { least: 0, most: i64::MAX as u64 };
const RATE: Kind = Kind::Number { least: 0.0, most: 0.99 };
const WEIGHT: Kind = Kind::Number { least: 1e-9, most: 1e9 };
const SIGMA: Kind = Kind::Number { least: 0.0, most: 1000.0 };
const EPSILON: Kind = Kind::Number { least: 1e-12, most: 0.1 };

const POSITIONS: &[&str] = &["learned", "rotary"];
const DECAYS: &[&str] = &["constant", "linear", "cosine", "inverse-sqrt", "warmup-stable-decay"];
const NONFINITE: &[&str] = &["skip", "rollback", "stop"];

fn whole(number: impl Into<u128>) -> Option<String> {
    Some(number.into().to_string())
}

fn size(number: usize) -> Option<String> {
    Some(number.to_string())
}

fn float(number: f32) -> Option<String> {
    Some(format!("{number:?}"))
}

pub(crate) fn quoted(text: impl ToString) -> Option<String> {
    Some(toml::Value::String(text.to_string()).to_string())
}

fn ramp(run: &Run, show: fn(&GlobalBatch) -> Option<String>) -> Option<String> {
    let batch = &run.train.global_batch;
    (*batch != GlobalBatch::constant(batch.end)).then(|| show(batch)).flatten()
}

fn f16(run: &Run) -> bool {
    run.train.precision == Precision::F16
}

fn spike(run: &Run, show: fn(&OnSpike) -> Option<String>) -> Option<String> {
    run.train.on_spike.as_ref().and_then(show)
}

pub(crate) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

#[rustfmt::skip]
pub(crate) static KEYS: &[Key] = &[
    key("model.preset", Kind::Preset, "none", "\"gpt2-124m\"", "a published model: its shape, and its training recipe where `[train]` is silent", |_| None),
    key("model.layers", SIZE, "the preset's; required without one", "12", "transformer layers", |r| size(r.model.layers)),
    key("model.hidden", SIZE, "the preset's; required without one", "768", "width of the residual stream", |r| size(r.model.hidden)),
    key("model.heads", SIZE, "the preset's; required without one", "12", "attention heads", |r| size(r.model.heads)),
    key("model.kv_heads", SIZE, "the preset's, in proportion to `heads`; else `heads`", "2", "key/value heads, a divisor of `heads`", |r| size(r.model.kv_heads)),
    key("model.head_dim", SIZE, "the preset's; `hidden / heads` if one of these is given", "64", "width of a head, `hidden / heads` with learned positions", |r| size(r.model.head_dim)),
    key("model.ffn", Kind::Integer { least: 1, most: 1 << 26 }, "the preset's, in proportion to `hidden`; else 4 · hidden, with swiglu ⅔ of it, rounded up to a multiple of 64", "3072", "width of the feed-forward layer", |r| size(r.model.ffn)),
    key("model.vocab", SIZE, "the preset's; required without one", "50304", "token ids, padding included", |r| size(r.model.vocab)),
    key("model.sequence", SIZE, "the preset's; else 1024", "1024", "longest sequence, and the number of learned positions", |r| size(r.model.sequence)),
    key("model.norm", Kind::Choice(NormKind::NAMES), "the preset's; else \"layer\"", "\"rms\"", "layer norm or RMS norm", |r| quoted(r.model.norm)),
    key("model.norm_eps", EPSILON, "the preset's; else 1e-5", "1e-6", "added to the variance", |r| float(r.model.norm_eps)),
    key("model.activation", Kind::Choice(Activation::NAMES), "the preset's; else \"gelu\"", "\"swiglu\"", "of the feed-forward layer", |r| quoted(r.model.activation)),
    key("model.positions", Kind::Choice(POSITIONS), "the preset's; else \"learned\"", "\"rotary\"", "how tokens know where they are", |r| match r.model.positions { Positions::Learned => quoted("learned"), Positions::Rotary { .. } => quoted("rotary") }),
    key("model.rope_base", Kind::Number { least: 1.0, most: 1e12 }, "the preset's; else 10000.0", "500000.0", "base of the rotary frequencies", |r| match r.model.positions { Positions::Learned => None, Positions::Rotary { base } => float(base) })
        .only("model.positions", "model.positions = \"rotary\"", |r| r.model.positions != Positions::Learned),
    key("model.bias", Kind::Boolean, "the preset's; else true", "false", "whether linear layers have biases", |r| Some(r.model.bias.to_string())),
    key("model.tied", Kind::Boolean, "the preset's; else true", "false", "whether the output layer shares the token embedding", |r| Some(r.model.tied.to_string())),
    key("model.mask", Kind::Choice(Mask::NAMES), "the preset's; else \"causal\"", "\"prefix\"", "causal, or a random prefix of each sample seen in both directions (PLM)", |r| quoted(r.model.mask)),
    key("model.dropout", RATE, "the preset's; else 0.0", "0.1", "all three rates at once", |_| None),
    key("model.dropout.embedding", RATE, "`model.dropout`", "0.1", "after the embeddings", |r| float(r.model.dropout.embedding)),
    key("model.dropout.attention", RATE, "`model.dropout`", "0.1", "of attention weights", |r| float(r.model.dropout.attention)),
    key("model.dropout.hidden", RATE, "`model.dropout`", "0.1", "after the output projections of attention and feed-forward", |r| float(r.model.dropout.hidden)),
    key("model.init.std", Kind::Number { least: 1e-6, most: 1.0 }, "the preset's; else 0.02", "0.01", "standard deviation of initial weights", |r| float(r.model.init.std)),
    key("model.init.scale_outputs", Kind::Boolean, "the preset's; else true", "false", "divide it by √(2 · layers) for each layer's two output projections", |r| Some(r.model.init.scale_outputs.to_string())),

    key("data.blend[].path", Kind::Text, "required", "\"tokens/wiki\"", "common prefix of a `.bin/.idx` pair, from the working directory", |_| None),
    key("data.blend[].weight", WEIGHT, "1.0", "2.0", "share of the samples, relative to the others", |_| None),
    key("data.validation[].path", Kind::Text, "required", "\"tokens/held-out\"", "common prefix of a held-out pair", |_| None),
    key("data.validation[].weight", WEIGHT, "1.0", "2.0", "share in the mean of the validation losses", |_| None),
    key("data.seed", COUNT, "1", "2", "seed of the order of samples", |r| whole(r.data.seed)),

    key("train.precision", Kind::Choice(Precision::NAMES), "the preset's; else \"bf16\"", "\"f32\"", "of activations and working weights", |r| quoted(r.train.precision)),
    key("train.seed", COUNT, "1", "2", "seed of initial weights and dropout", |r| whole(r.train.seed)),
    key("train.sequence", SIZE, "`model.sequence`", "64", "tokens per sample", |r| size(r.train.sequence)),
    key("train.global_batch", BATCH, "the preset's; else 64", "512", "sequences per optimizer step; a table for a batch that grows", |r| { let batch = &r.train.global_batch; (*batch == GlobalBatch::constant(batch.end)).then(|| batch.end.to_string()) }),
    key("train.global_batch.start", BATCH, "the preset's; else `end`", "32", "first batch", |r| ramp(r, |b| whole(b.start))),
    key("train.global_batch.step", Kind::Integer { least: 0, most: 1_000_000 }, "the preset's; else 0", "32", "growth from one part to the next", |r| ramp(r, |b| whole(b.step))),
    key("train.global_batch.end", BATCH, "the preset's; else 64", "192", "last batch", |r| ramp(r, |b| whole(b.end))),
    key("train.global_batch.over", Kind::Amount { least: 0 }, "the preset's; else \"0 samples\"", "\"12B tokens\"", "how long it grows, in equal parts", |r| ramp(r, |b| quoted(b.over))),
    key("train.learning_rate.peak", Kind::Number { least: 1e-12, most: 10.0 }, "the preset's; else 3e-4", "1e-4", "highest rate", |r| float(r.train.learning_rate.peak)),
    key("train.learning_rate.warmup", Kind::Amount { least: 0 }, "the preset's; else a hundredth of `over`", "\"10 steps\"", "linear growth from 0; counted in samples if its unit is not that of `over`", |r| quoted(r.train.learning_rate.warmup)),
    key("train.learning_rate.decay", Kind::Choice(DECAYS), "the preset's; else \"cosine\"", "\"linear\"", "shape of the descent", |r| quoted(decay_name(r.train.learning_rate.decay))),
    key("train.learning_rate.tail", Kind::Number { least: 0.0001, most: 1.0 }, "0.1", "0.2", "last share of `over` in which the rate descends", |r| match r.train.learning_rate.decay { Decay::WarmupStableDecay { tail } => float(tail), _ => None })
        .only("train.learning_rate.decay", "train.learning_rate.decay = \"warmup-stable-decay\"", |r| matches!(r.train.learning_rate.decay, Decay::WarmupStableDecay { .. })),
    key("train.learning_rate.over", Kind::Amount { least: 1 }, "the preset's; else `train.stop`", "\"340B tokens\"", "where the descent ends, from the start of the run", |r| quoted(r.train.learning_rate.over)),
    key("train.learning_rate.floor", Kind::Number { least: 0.0, most: 10.0 }, "the preset's, in proportion to `peak`; else a tenth of it", "1e-5", "lowest rate after warm-up", |r| float(r.train.learning_rate.floor)),
    key("train.optimizer.kind", Kind::Choice(OptimizerKind::NAMES), "\"adamw\"", "\"adamw\"", "the optimizer", |r| quoted(r.train.optimizer.kind)),
    key("train.optimizer.betas", Kind::Pair { least: 0.0, most: 0.999_999 }, "the preset's; else [0.9, 0.95]", "[0.9, 0.98]", "decay of the mean gradient and of its square", |r| Some(format!("[{:?}, {:?}]", r.train.optimizer.betas[0], r.train.optimizer.betas[1]))),
    key("train.optimizer.eps", EPSILON, "the preset's; else 1e-8", "1e-7", "added to the root of the squares", |r| float(r.train.optimizer.eps)),
    key("train.optimizer.weight_decay", Kind::Number { least: 0.0, most: 10.0 }, "the preset's; else 0.1", "0.05", "of matrices, not of biases and norms", |r| float(r.train.optimizer.weight_decay)),
    key("train.optimizer.clip", Kind::Number { least: 0.0, most: 1e6 }, "the preset's; else 1.0", "0.5", "limit of the global gradient norm; 0 for none", |r| float(r.train.optimizer.clip)),
    key("train.stop", Kind::Amount { least: 1 }, "the preset's; required without one", "\"1000 steps\"", "length of the run", |r| quoted(r.train.stop)),
    key("train.loss_scale.initial", Kind::Number { least: 1.0, most: 1e15 }, "4294967296.0", "65536.0", "first loss scale", |r| f16(r).then(|| float(r.train.loss_scale.initial)).flatten())
        .only("train.precision", "train.precision = \"f16\"", f16),
    key("train.loss_scale.minimum", Kind::Number { least: 1e-6, most: 1e15 }, "1.0", "2.0", "below it the run stops", |r| f16(r).then(|| float(r.train.loss_scale.minimum)).flatten())
        .only("train.precision", "train.precision = \"f16\"", f16),
    key("train.loss_scale.window", Kind::Integer { least: 1, most: 1_000_000 }, "1000", "500", "clean steps before it doubles", |r| f16(r).then(|| r.train.loss_scale.window.to_string()))
        .only("train.precision", "train.precision = \"f16\"", f16),
    key("train.loss_scale.hysteresis", Kind::Integer { least: 1, most: 1000 }, "2", "1", "overflows before it halves", |r| f16(r).then(|| r.train.loss_scale.hysteresis.to_string()))
        .only("train.precision", "train.precision = \"f16\"", f16),
    key("train.on_spike", Kind::Off, "false", "false", "`false`: spikes are not watched; a table: they are", |_| None),
    key("train.on_spike.loss_sigma", SIGMA, "6.0", "5.0", "deviations of the loss above its mean that are a spike; 0: not watched", |r| spike(r, |s| float(s.loss_sigma))),
    key("train.on_spike.norm_sigma", SIGMA, "0.0", "8.0", "the same for the gradient norm", |r| spike(r, |s| float(s.norm_sigma))),
    key("train.on_spike.window", Kind::Integer { least: 2, most: 1_000_000 }, "100", "200", "steps that mean and deviation are taken over", |r| spike(r, |s| whole(s.window))),
    key("train.on_spike.action", Kind::Choice(SpikeAction::NAMES), "\"skip\"", "\"rollback\"", "log it, skip the step, roll back to the last checkpoint and go on behind the spike, or stop", |r| spike(r, |s| quoted(s.action))),
    key("train.on_spike.limit", Kind::Integer { least: 1, most: 1_000_000 }, "10", "3", "more than this many in a row stop the run", |r| spike(r, |s| whole(s.limit))),
    key("train.on_nonfinite.action", Kind::Choice(NONFINITE), "\"skip\"", "\"rollback\"", "what a loss or norm that is not finite leads to", |r| quoted(r.train.on_nonfinite.action)),
    key("train.on_nonfinite.limit", Kind::Integer { least: 1, most: 1_000_000 }, "10", "3", "more than this many in a row stop the run", |r| whole(r.train.on_nonfinite.limit)),
    key("train.evaluate_every", COUNT, "1000 with `data.validation`, else 0", "500", "steps between evaluations; 0: never", |r| whole(r.train.evaluate_every)),
    key("train.evaluate_samples", Kind::Integer { least: 1, most: 1_000_000_000 }, "256", "64", "samples per validation source", |r| whole(r.train.evaluate_samples)),

    key("layout.micro_batch", BATCH, "1", "2", "sequences computed at once; the global batch is accumulated", |r| size(r.layout.micro_batch)),
    key("layout.recompute", Kind::Choice(Recompute::NAMES), "\"none\"", "\"full\"", "what the backward pass computes again instead of keeping", |r| quoted(r.layout.recompute)),
    key("layout.tensor", RANKS, "1", "2", "ranks that each layer is split over, neighbours in a node", |r| size(r.layout.tensor)),
    key("layout.pipeline", RANKS, "1", "2", "stages that the layers are split into", |r| size(r.layout.pipeline)),
    key("layout.data", Kind::Integer { least: 0, most: 1 << 20 }, "0", "2", "replicas that share the batch; 0: what the world leaves, or one", |r| size(r.layout.data)),
    key("layout.sequence_parallel", Kind::Boolean, "false", "true", "norms, dropout and residuals on 1/tensor of the tokens", |r| Some(r.layout.sequence_parallel.to_string())),
    key("layout.schedule", Kind::Choice(ScheduleKind::NAMES), "\"1f1b\"", "\"gpipe\"", "order of forward and backward passes in the pipeline", |r| quoted(r.layout.schedule)),
    key("layout.chunks", Kind::Integer { least: 1, most: 64 }, "1", "2", "runs of layers a stage, for the interleaved schedule", |r| (r.layout.schedule == ScheduleKind::Interleaved).then(|| size(r.layout.chunks)).flatten())
        .only("layout.schedule", "layout.schedule = \"interleaved\"", |r| r.layout.schedule == ScheduleKind::Interleaved),
    key("layout.zero", Kind::Integer { least: 0, most: 3 }, "0", "1", "what replicas share out (ZeRO): 1 the optimizer's moments; 2 also the layers' gradients, summed after every micro-batch; 3 also the layers' weights, gathered layer by layer", |r| size(r.layout.zero)),
    key("layout.peer_timeout", Kind::Integer { least: 1, most: 86_400 }, "300", "60", "seconds that a rank waits for a silent one before the whole run ends", |r| whole(r.layout.peer_timeout)),

    key("checkpoint.every", Kind::Amount { least: 0 }, "\"1000 steps\"", "\"500 steps\"", "how often one is written; 0: never", |r| quoted(r.checkpoint.every)),
    key("checkpoint.keep", Kind::Integer { least: 0, most: 1_000_000 }, "3", "5", "newest kept; 0: all", |r| size(r.checkpoint.keep)),

    key("numerics.mode", Kind::Choice(NumericsMode::NAMES), "\"exact\"", "\"fast\"", "exact: the same bits in every layout; fast: sums in whatever order is quickest", |r| quoted(r.numerics.mode)),
    key("numerics.data_groups", Kind::Integer { least: 0, most: 1 << 20 }, "0", "4", "groups that a batch's gradients are summed in; 0: as many as data-parallel ranks", |r| size(r.numerics.data_groups)),
    key("numerics.tensor_shards", Kind::Integer { least: 1, most: 64 }, "8", "4", "virtual shards of sums that tensor parallelism may split", |r| size(r.numerics.tensor_shards)),

    key("device.kind", Kind::Choice(DeviceKind::NAMES), "\"cpu\"", "\"reference\"", "fast, or slow and obviously right", |r| quoted(r.device.kind)),
    key("device.threads", Kind::Integer { least: 0, most: 65_536 }, "0", "2", "worker threads; 0: all cores", |r| size(r.device.threads)),
    key("device.kernel", Kind::Choice(Kernel::NAMES), "\"auto\"", "\"portable\"", "micro-kernels of the CPU device; auto: the best the machine has", |r| (r.device.kind == DeviceKind::Cpu || r.device.kernel != Kernel::Auto).then(|| quoted(r.device.kernel)).flatten())
        .only("device.kind", "device.kind = \"cpu\"", |r| r.device.kind == DeviceKind::Cpu),
];

fn decay_name(decay: Decay) -> &'static str {
    match decay {
        Decay::Constant => "constant",
        Decay::Linear => "linear",
        Decay::Cosine => "cosine",
        Decay::InverseSqrt => "inverse-sqrt",
        Decay::WarmupStableDecay { .. } => "warmup-stable-decay",
    }
}

impl Kind {
    /// Type and range in words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Integer { least, most } if *most >= i64::MAX as u64 => {
                format!("a whole number from {least} to 2^63 - 1")
            }
            Self::Integer { least, most } => format!("a whole number from {least} to {most}"),
            Self::Number { least, most } => format!("a number from {least:?} to {most:?}"),
            Self::Pair { least, most } => format!("two numbers from {least:?} to {most:?}"),
            Self::Boolean => "true or false".to_owned(),
            Self::Off => "false or a table".to_owned(),
            Self::Text => "a string that is not empty".to_owned(),
            Self::Choice(names) => one_of(names.iter().copied()),
            Self::Preset => one_of(crate::presets::PRESETS.iter().map(|preset| preset.name)),
            Self::Amount { least: 0 } => {
                "an amount such as \"500 steps\", \"3k samples\" or \"12B tokens\"".to_owned()
            }
            Self::Amount { .. } => {
                "an amount above 0 such as \"500 steps\", \"3k samples\" or \"12B tokens\"".to_owned()
            }
        }
    }
}

fn one_of(names: impl Iterator<Item = &'static str>) -> String {
    let names: Vec<String> = names.map(|name| format!("\"{name}\"")).collect();
    match names.as_slice() {
        [one] => one.clone(),
        _ => format!("one of {}", names.join(", ")),
    }
}

/// A written value of the right type and range.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Setting {
    Integer(u64),
    Number(f64),
    Pair([f64; 2]),
    Boolean(bool),
    Text(String),
    Amount(Amount),
}
