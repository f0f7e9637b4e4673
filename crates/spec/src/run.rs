//! The run file: everything a training run is, as typed values.

use crate::model::Model;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A whole run, resolved: every default filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub model: Model,
    pub data: Data,
    pub train: Train,
    pub layout: Layout,
    pub checkpoint: Checkpoint,
    pub numerics: Numerics,
    pub device: Device,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Data {
    pub blend: Vec<Source>,
    /// Held-out sources, evaluated every `train.evaluate_every` steps; may be empty.
    pub validation: Vec<Source>,
    /// Seed of the order of samples.
    pub seed: u64,
}

/// A `.bin/.idx` pair by its common prefix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub path: PathBuf,
    /// Share of the samples, relative to the others.
    pub weight: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Train {
    pub precision: Precision,
    /// Seed of initial weights and dropout.
    pub seed: u64,
    /// Tokens per sample, at most `model.sequence`.
    pub sequence: usize,
    pub global_batch: GlobalBatch,
    pub learning_rate: LearningRate,
    pub optimizer: Optimizer,
    pub stop: Amount,
    pub loss_scale: LossScale,
    pub on_spike: Option<OnSpike>,
    pub on_nonfinite: OnNonfinite,
    /// 0: never.
    pub evaluate_every: u64,
    /// Samples per validation source.
    pub evaluate_samples: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    Bf16,
    F16,
    F32,
}

/// Sequences per optimizer step: constant when `start == end`; otherwise grows by `step` in equal
/// parts of `over` (as MT-NLG: 32 to 1920 in steps of 32 over 12 B tokens).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GlobalBatch {
    pub start: u64,
    pub step: u64,
    pub end: u64,
    pub over: Amount,
}

/// How far: counted in optimizer steps, samples or tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Amount {
    Steps(u64),
    Samples(u64),
    Tokens(u64),
}

/// Warm-up from 0 to `peak`, then the decay, never below `floor`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LearningRate {
    pub peak: f32,
    pub warmup: Amount,
    pub decay: Decay,
    /// Where the decay ends, counted from the start of the run.
    pub over: Amount,
    pub floor: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    Constant,
    Linear,
    Cosine,
    /// `peak · √(warmup / position)`.
    InverseSqrt,
    /// Stable until the last `tail` share of `over`, then linear to the floor.
    WarmupStableDecay {
        tail: f32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    pub kind: OptimizerKind,
    pub betas: [f32; 2],
    pub eps: f32,
    /// Applied to matrices, not to biases and norms.
    pub weight_decay: f32,
    /// Global gradient norm limit; 0 for none.
    pub clip: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    Adamw,
}

/// f16's dynamic loss scale (Megatron's rule): halve on overflow after `hysteresis` overflows,
/// double after `window` clean steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    pub initial: f32,
    pub minimum: f32,
    pub window: u64,
    pub hysteresis: u32,
}

/// A step whose loss or gradient norm lies `sigma` standard deviations above the mean of the last
/// `window` steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OnSpike {
    /// 0: the loss is not watched.
    pub loss_sigma: f32,
    /// 0: the gradient norm is not watched.
    pub norm_sigma: f32,
    pub window: u64,
    pub action: SpikeAction,
    /// More than this many in a row stop the run.
    pub limit: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpikeAction {
    /// Log it, go on.
    Log,
    /// Leave the weights as they are; the samples are logged as skipped.
    Skip,
    /// Return to the last checkpoint and go on behind the samples of the spike.
    Rollback,
    Stop,
}

/// A non-finite loss or gradient norm (f16 overflow is the loss scale's business).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnNonfinite {
    /// `Log` is refused here.
    pub action: SpikeAction,
    pub limit: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Sequences per micro-batch; the global batch is accumulated over micro-batches.
    pub micro_batch: usize,
    pub recompute: Recompute,
    /// Ranks that each layer is split over.
    pub tensor: usize,
    /// Stages that the layers are split into.
    pub pipeline: usize,
    /// Replicas that share the batch; 0: what the world leaves, or one.
    pub data: usize,
    /// Norms, dropout and residuals on 1/tensor of the tokens.
    pub sequence_parallel: bool,
    pub schedule: ScheduleKind,
    /// Runs of layers a stage holds, more than one with the interleaved schedule.
    pub chunks: usize,
    /// What replicas share out: 0 nothing, 1 moments, 2 also the layers' gradients, 3 also the layers' weights.
    pub zero: usize,
    /// Seconds that a rank waits for a silent one before the run ends.
    pub peer_timeout: u64,
}

/// A save to a slow disk or the first step of a large model may take minutes.
pub const PEER_TIMEOUT: u64 = 300;

impl Layout {
    /// One rank that keeps everything.
    pub const fn single(micro_batch: usize) -> Self {
        Self {
            micro_batch,
            recompute: Recompute::None,
            tensor: 1,
            pipeline: 1,
            data: 1,
            sequence_parallel: false,
            schedule: ScheduleKind::OneForwardOneBackward,
            chunks: 1,
            zero: 0,
            peer_timeout: PEER_TIMEOUT,
        }
    }
}

/// Order of forward and backward passes in a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// All forwards, then all backwards.
    GPipe,
    /// One forward, one backward, after a warm-up.
    OneForwardOneBackward,
    /// 1F1B over several chunks a stage.
    Interleaved,
    /// 1F1B with weight gradients moved into the bubble, at 1F1B's peak memory.
    ZeroBubbleH1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recompute {
    None,
    /// What is cheap to compute and large to keep: norm outputs, activations, attention statistics.
    Selective,
    /// Only each layer's input is kept.
    Full,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub every: Amount,
    /// Newest checkpoints kept; 0 keeps all.
    pub keep: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numerics {
    pub mode: NumericsMode,
    /// Virtual shards of sums that tensor parallelism may split.
    pub tensor_shards: usize,
    /// Groups that a batch's gradients are summed in; 0: as many as data-parallel ranks.
    pub data_groups: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NumericsMode {
    /// Sums between ranks in f32, in an order that no layout changes.
    Exact,
    /// Each rank sums what it holds in one piece, so that bits depend on the layout.
    Fast,
}

impl Default for Numerics {
    fn default() -> Self {
        Self { mode: NumericsMode::Exact, tensor_shards: crate::split::SHARDS, data_groups: 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub kind: DeviceKind,
    /// 0: all cores.
    pub threads: usize,
    pub kernel: Kernel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    Cpu,
    Reference,
}

/// Which micro-kernels the CPU device uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kernel {
    /// The best the machine has.
    Auto,
    Amx,
    Avx512Bf16,
    Avx512,
    Avx2,
    /// Plain Rust, vectorised by the compiler (NEON on AArch64).
    Portable,
}
