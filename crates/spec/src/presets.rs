//! Published models: shape, initialisation and training recipe, one row each.
//!
//! Where a paper is silent the row takes the choice of the nearest published recipe; `Preset::about` says so.

use crate::model::{Activation, Dropout, Init, Mask, Model, NormKind, Positions};
use crate::run::{
    Amount, Decay, GlobalBatch, LearningRate, LossScale, OnNonfinite, Optimizer, OptimizerKind, Precision,
    SpikeAction, Train,
};

/// A published model.
#[derive(Clone, Debug, PartialEq)]
pub struct Preset {
    pub name: &'static str,
    /// Where the numbers come from and what was chosen where the source is silent.
    pub about: &'static str,
    pub model: Model,
    pub recipe: Recipe,
}

/// How a published model was trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    pub precision: Precision,
    pub global_batch: GlobalBatch,
    pub learning_rate: LearningRate,
    pub optimizer: Optimizer,
    pub stop: Amount,
}

impl Recipe {
    /// The recipe as the training part of a run of `model`, with full sequences; the rest by default.
    pub fn train(&self, model: &Model) -> Train {
        Train {
            precision: self.precision,
            seed: 1,
            sequence: model.sequence,
            global_batch: self.global_batch,
            learning_rate: self.learning_rate,
            optimizer: self.optimizer,
            stop: self.stop,
            loss_scale: LossScale::default(),
            on_spike: None,
            on_nonfinite: OnNonfinite::default(),
            evaluate_every: 0,
            evaluate_samples: 256,
        }
    }
}

impl Default for LossScale {
    /// Megatron's.
    fn default() -> Self {
        Self { initial: 4_294_967_296.0, minimum: 1.0, window: 1000, hysteresis: 2 }
    }
}

impl Default for OnNonfinite {
    fn default() -> Self {
        Self { action: SpikeAction::Skip, limit: 10 }
    }
}

/// The preset of that name.
pub fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// Every preset, family by family, smallest first.
pub static PRESETS: [Preset; 22] = [
    gpt3("gpt3-125m", 12, 768, 12, GPT3_SMALL, 6.0e-4),
    gpt3("gpt3-350m", 24, 1024, 16, GPT3_SMALL, 3.0e-4),
    gpt3("gpt3-760m", 24, 1536, 16, GPT3_SMALL, 2.5e-4),
    // Printed as 24 heads of 128, which is 3072 and not 2048; 16 heads keep the printed head size and width.
    gpt3("gpt3-1.3b", 24, 2048, 16, GPT3_1M, 2.0e-4),
    gpt3("gpt3-2.7b", 32, 2560, 32, GPT3_1M, 1.6e-4),
    gpt3("gpt3-6.7b", 32, 4096, 32, GPT3_2M, 1.2e-4),
    // Printed as width 5140, which 40 heads do not divide; the field uses 5120 = 40 · 128.
    gpt3("gpt3-13b", 40, 5120, 40, GPT3_2M, 1.0e-4),
    gpt3("gpt3-175b", 96, 12288, 96, GPT3_LARGE, 0.6e-4),
    gpt2("gpt2-124m", 12, 768, 12, 6.0e-4),
    gpt2("gpt2-355m", 24, 1024, 16, 3.0e-4),
    gpt2("gpt2-774m", 36, 1280, 20, 2.5e-4),
    gpt2("gpt2-1558m", 48, 1600, 25, 2.0e-4),
    Preset {
        name: "megatron-8.3b",
        about: "Shoeybi et al. 2019: 72 layers, 24 heads, GPT-2's vocabulary padded to 51200.",
        model: Model { dropout: ALL_A_TENTH, ..gpt(72, 3072, 24, 51_200, 1024, 0.02) },
        recipe: megatron(3_000),
    },
    Preset {
        name: "turing-nlg-17b",
        about: "Rosset 2020 (blog): 78 layers of 4256; floor, weight decay and betas as Megatron 8.3B.",
        model: gpt(78, 4256, 28, 51_200, 1024, 0.02),
        recipe: megatron(3_200),
    },
    Preset {
        name: "mt-nlg-530b",
        about: "Smith et al. 2022: weights drawn with √(1/(3·hidden)); larger variance did not converge.",
        model: gpt(105, 20_480, 128, 51_200, 2048, 0.004_034_4),
        recipe: Recipe {
            precision: Precision::Bf16,
            global_batch: GlobalBatch { start: 32, step: 32, end: 1920, over: Amount::Tokens(12 * BILLION) },
            learning_rate: LearningRate {
                peak: 5.0e-5,
                warmup: Amount::Tokens(BILLION),
                decay: Decay::Cosine,
                over: Amount::Tokens(340 * BILLION),
                floor: 5.0e-6,
            },
            optimizer: adamw([0.9, 0.95], 1e-8, 0.1),
            stop: Amount::Tokens(270 * BILLION),
        },
    },
    Preset {
        name: "yuan-13b",
        about: "Wu et al. 2021 and its released scripts; with mask = \"prefix\" it is the PLM-13B.",
        model: gpt(40, 5120, 40, 53_228, 2048, 0.002),
        recipe: Recipe {
            precision: Precision::F16,
            global_batch: GlobalBatch { start: 448, step: 448, end: 2688, over: Amount::Samples(488_280) },
            learning_rate: LearningRate {
                peak: 1.0e-4,
                warmup: Amount::Samples(488_280),
                decay: Decay::Cosine,
                over: Amount::Samples(131_835_937),
                floor: 1.0e-5,
            },
            optimizer: adamw([0.9, 0.95], 1e-8, 0.01),
            stop: Amount::Samples(146_484_375),
        },
    },
    Preset {
        name: "yuan-245b",
        about: "Wu et al. 2021: 76 layers of 16384; heads of 128, warm-up, floor, weight decay as Yuan 13B.",
        model: gpt(76, 16_384, 128, 53_228, 2048, 0.002),
        recipe: Recipe {
            precision: Precision::F16,
            global_batch: GlobalBatch::constant(3360),
            learning_rate: LearningRate {
                peak: 1.6e-4,
                warmup: Amount::Tokens(BILLION),
                decay: Decay::Cosine,
                over: Amount::Tokens(180 * BILLION),
                floor: 1.6e-5,
            },
            optimizer: adamw([0.9, 0.95], 1e-8, 0.01),
            stop: Amount::Tokens(180 * BILLION),
        },
    },
    Preset {
        name: "llama2-7b",
        about: "Touvron et al. 2023: 4 M tokens a step, 2 T tokens.",
        model: Model { ffn: 11_008, ..llama(32, 4096, 32, 32, 32_000, 4096, 10_000.0) },
        recipe: llama_recipe(GlobalBatch::constant(1024), 2_000, 500_000, 3.0e-5),
    },
    Preset {
        name: "llama3-8b",
        about: "Grattafiori et al. 2024: 15 T tokens; batch, warm-up and floor after the 405B's.",
        model: Model { ffn: 14_336, ..llama(32, 4096, 32, 8, 128_256, 8192, 500_000.0) },
        recipe: llama_recipe(GlobalBatch::constant(1024), 8_000, 1_800_000, 3.0e-6),
    },
    Preset {
        name: "stories260k",
        about: "Karpathy's smallest llama2.c model, for tests: grouped queries, tied output.",
        model: Model { ffn: 172, tied: true, ..llama(5, 64, 8, 4, 512, 512, 10_000.0) },
        recipe: SMALL_RECIPE,
    },
    Preset {
        name: "tiny-gpt",
        about: "Two layers of 64, for tests and trials.",
        model: gpt(2, 64, 4, 512, 128, 0.02),
        recipe: SMALL_RECIPE,
    },
    Preset {
        name: "tiny-llama",
        about: "Two layers of 64 with grouped queries and an untied output, for tests and trials.",
        model: Model { ffn: 176, ..llama(2, 64, 4, 2, 512, 128, 10_000.0) },
        recipe: SMALL_RECIPE,
    },
];

const BILLION: u64 = 1_000_000_000;

const ALL_A_TENTH: Dropout = Dropout { embedding: 0.1, attention: 0.1, hidden: 0.1 };
const NO_DROPOUT: Dropout = Dropout { embedding: 0.0, attention: 0.0, hidden: 0.0 };

/// GPT-2 style: learned positions, layer norm, GELU, biases, tied output.
const fn gpt(layers: usize, hidden: usize, heads: usize, vocab: usize, sequence: usize, std: f32) -> Model {
    Model {
        layers,
        hidden,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        ffn: 4 * hidden,
        vocab,
        sequence,
        norm: NormKind::Layer,
        norm_eps: 1e-5,
        activation: Activation::Gelu,
        positions: Positions::Learned,
        bias: true,
        tied: true,
        mask: Mask::Causal,
        dropout: NO_DROPOUT,
        init: Init { std, scale_outputs: true },
    }
}

/// Llama style: rotary positions, RMS norm, SwiGLU, no biases, untied output; `ffn` is 4 · hidden until set.
const fn llama(
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    vocab: usize,
    sequence: usize,
    base: f32,
) -> Model {
    Model {
        kv_heads,
        norm: NormKind::Rms,
        activation: Activation::Swiglu,
        positions: Positions::Rotary { base },
        bias: false,
        tied: false,
        ..gpt(layers, hidden, heads, vocab, sequence, 0.02)
    }
}

const fn adamw(betas: [f32; 2], eps: f32, weight_decay: f32) -> Optimizer {
    Optimizer { kind: OptimizerKind::Adamw, betas, eps, weight_decay, clip: 1.0 }
}

/// Batch in sequences of 2048, and over how many tokens it grows from 32 k tokens: "4–12 billion, depending on
/// the model size", divided among the sizes here.
const GPT3_SMALL: (u64, u64) = (256, 4 * BILLION);
const GPT3_1M: (u64, u64) = (512, 6 * BILLION);
const GPT3_2M: (u64, u64) = (1024, 8 * BILLION);
const GPT3_LARGE: (u64, u64) = (1536, 12 * BILLION);

const fn gpt3(
    name: &'static str,
    layers: usize,
    hidden: usize,
    heads: usize,
    (batch, ramp): (u64, u64),
    peak: f32,
) -> Preset {
    Preset {
        name,
        about: "Brown et al. 2020; attention dense in every layer, where the paper alternates with banded.",
        model: gpt(layers, hidden, heads, 50_257, 2048, 0.02),
        recipe: Recipe {
            precision: Precision::F16,
            global_batch: GlobalBatch { start: 16, step: 16, end: batch, over: Amount::Tokens(ramp) },
            learning_rate: LearningRate {
                peak,
                warmup: Amount::Tokens(375_000_000),
                decay: Decay::Cosine,
                over: Amount::Tokens(260 * BILLION),
                floor: (peak as f64 / 10.0) as f32,
            },
            optimizer: adamw([0.9, 0.95], 1e-8, 0.1),
            stop: Amount::Tokens(300 * BILLION),
        },
    }
}

const fn gpt2(name: &'static str, layers: usize, hidden: usize, heads: usize, peak: f32) -> Preset {
    Preset {
        name,
        about: "Radford et al. 2019: batch 512 of 1024; rates and Adam as GPT-3's size, no dropout, as in reproductions.",
        model: gpt(layers, hidden, heads, 50_257, 1024, 0.02),
        recipe: Recipe {
            precision: Precision::Bf16,
            global_batch: GlobalBatch::constant(512),
            learning_rate: LearningRate {
                peak,
                warmup: Amount::Steps(2_000),
                decay: Decay::Cosine,
                over: Amount::Steps(600_000),
                floor: (peak as f64 / 10.0) as f32,
            },
            optimizer: adamw([0.9, 0.95], 1e-8, 0.1),
            stop: Amount::Steps(600_000),
        },
    }
}

const fn megatron(warmup: u64) -> Recipe {
    Recipe {
        precision: Precision::F16,
        global_batch: GlobalBatch::constant(512),
        learning_rate: LearningRate {
            peak: 1.5e-4,
            warmup: Amount::Steps(warmup),
            decay: Decay::Cosine,
            over: Amount::Steps(300_000),
            floor: 1.0e-5,
        },
        optimizer: adamw([0.9, 0.999], 1e-8, 0.01),
        stop: Amount::Steps(300_000),
    }
}

/// Llama's: peak 3e-4, AdamW with ε 1e-5, cosine to the end.
const fn llama_recipe(global_batch: GlobalBatch, warmup: u64, steps: u64, floor: f32) -> Recipe {
    Recipe {
        precision: Precision::Bf16,
        global_batch,
        learning_rate: LearningRate {
            peak: 3.0e-4,
            warmup: Amount::Steps(warmup),
            decay: Decay::Cosine,
            over: Amount::Steps(steps),
            floor,
        },
        optimizer: adamw([0.9, 0.95], 1e-5, 0.1),
        stop: Amount::Steps(steps),
    }
}

const SMALL_RATE: LearningRate = LearningRate {
    peak: 1.0e-3,
    warmup: Amount::Steps(20),
    decay: Decay::Cosine,
    over: Amount::Steps(400),
    floor: 1.0e-4,
};

const SMALL_RECIPE: Recipe = Recipe {
    precision: Precision::Bf16,
    global_batch: GlobalBatch::constant(16),
    learning_rate: SMALL_RATE,
    optimizer: adamw([0.9, 0.95], 1e-8, 0.1),
    stop: Amount::Steps(400),
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (index, preset) in PRESETS.iter().enumerate() {
            assert!(PRESETS[..index].iter().all(|other| other.name != preset.name), "{}", preset.name);
        }
    }

    #[test]
    fn mt_nlg_weights_are_drawn_with_the_papers_deviation() {
        let model = &find("mt-nlg-530b").unwrap().model;
        let published = (1.0 / (3.0 * model.hidden as f64)).sqrt();
        assert!((f64::from(model.init.std) / published - 1.0).abs() < 1e-4);
    }

    #[test]
    fn batches_are_the_published_tokens() {
        for (name, tokens, within) in [
            ("gpt3-125m", 0.5e6, 0.03e6),
            ("gpt3-1.3b", 1e6, 0.05e6),
            ("gpt3-6.7b", 2e6, 0.1e6),
            ("gpt3-175b", 3.2e6, 0.1e6),
            ("mt-nlg-530b", 3.93e6, 0.01e6),
            ("yuan-245b", 6.88e6, 0.01e6),
            ("llama2-7b", 4e6, 0.2e6),
        ] {
            let preset = find(name).unwrap();
            let ours = (preset.recipe.global_batch.end as usize * preset.model.sequence) as f64;
            assert!((ours - tokens).abs() <= within, "{name}: {ours}");
        }
    }

    #[test]
    fn llama2_sees_2_trillion_tokens() {
        let preset = find("llama2-7b").unwrap();
        let train = preset.recipe.train(&preset.model);
        let tokens = train.when(train.stop).tokens as f64;
        assert!((tokens / 2e12 - 1.0).abs() < 0.05, "{tokens}");
    }
}
