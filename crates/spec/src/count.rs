//! Exact parameter counts and model FLOPs of a shape.
//!
//! ```text
//! parameters = V·h + s·h (learned positions) + L·layer + norm + V·h (untied output)
//! FLOPs/token = 6 · (parameters of matrix products, output layer included) + 12 · L · a·d · s
//! ```
//! with `a` heads of `d`; for GPT shapes `a·d = h`.

use crate::model::{Activation, Model, NormKind, Positions};

/// The number of trained values: every weight, bias, norm gain and embedding, shared ones once;
/// `u64::MAX` if they are more.
pub fn parameters(model: &Model) -> u64 {
    let hidden = model.hidden as u128;
    let embedding = model.vocab as u128 * hidden;
    let positions = match model.positions {
        Positions::Learned => model.sequence as u128 * hidden,
        Positions::Rotary { .. } => 0,
    };
    let norm = match model.norm {
        NormKind::Layer => 2 * hidden,
        NormKind::Rms => hidden,
    };
    let biases = if model.bias { layer_biases(model) } else { 0 };
    let layer = layer_matrices(model) + biases + 2 * norm;
    let output = if model.tied { 0 } else { embedding };
    let total = embedding + positions + model.layers as u128 * layer + norm + output;
    u64::try_from(total).unwrap_or(u64::MAX)
}

/// Floating-point operations that training one token requires: forward and backward, nothing recomputed.
///
/// This is the "model FLOPs" convention of PaLM (Chowdhery et al. 2022, appendix B): 6 per parameter that takes
/// part in a matrix product (2 forward, 4 backward), plus attention's 12·L·h·s, which counts the whole s×s
/// square although a causal mask needs half of it. It equals Megatron's 72·B·s·L·h²·(1 + s/6h + V/12hL) per
/// step (Narayanan et al. 2021) for GPT shapes.
pub fn flops_per_token(model: &Model, sequence: usize) -> f64 {
    let layers = model.layers as f64;
    let output = model.vocab as f64 * model.hidden as f64;
    let matrices = layers * layer_matrices(model) as f64 + output;
    let attention = 12.0 * layers * (model.heads * model.head_dim) as f64 * sequence as f64;
    6.0 * matrices + attention
}

/// Widths of the query and of the key and value projections together.
fn projections(model: &Model) -> (u128, u128) {
    let head = model.head_dim as u128;
    (model.heads as u128 * head, 2 * model.kv_heads as u128 * head)
}

fn layer_matrices(model: &Model) -> u128 {
    let (hidden, ffn) = (model.hidden as u128, model.ffn as u128);
    let (query, key_value) = projections(model);
    let feed_forward = match model.activation {
        Activation::Gelu => 2,
        Activation::Swiglu => 3,
    };
    hidden * (query + key_value) + query * hidden + feed_forward * hidden * ffn
}

fn layer_biases(model: &Model) -> u128 {
    let (hidden, ffn) = (model.hidden as u128, model.ffn as u128);
    let (query, key_value) = projections(model);
    let inner = match model.activation {
        Activation::Gelu => ffn,
        Activation::Swiglu => 2 * ffn,
    };
    query + key_value + hidden + inner + hidden
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    fn model(name: &str) -> Model {
        presets::find(name).unwrap().model.clone()
    }

    #[test]
    fn exact_counts_equal_the_published_ones() {
        for (name, published) in [
            ("gpt2-124m", 124_439_808),
            ("gpt2-355m", 354_823_168),
            ("gpt2-774m", 774_030_080),
            ("gpt2-1558m", 1_557_611_200),
            ("llama2-7b", 6_738_415_616),
            ("llama3-8b", 8_030_261_248),
            ("stories260k", 260_032),
        ] {
            assert_eq!(parameters(&model(name)), published, "{name}");
        }
    }

    #[test]
    fn rounded_counts_equal_the_published_ones() {
        for (name, billions, within) in [
            ("gpt3-125m", 0.125, 0.001),
            ("gpt3-350m", 0.356, 0.001),
            ("gpt3-760m", 0.760, 0.001),
            ("gpt3-1.3b", 1.3, 0.02),
            ("gpt3-2.7b", 2.65, 0.01),
            ("gpt3-6.7b", 6.66, 0.01),
            ("gpt3-13b", 12.85, 0.01),
            ("gpt3-175b", 174.6, 0.05),
            ("megatron-8.3b", 8.3, 0.05),
            ("turing-nlg-17b", 17.2, 0.05),
            ("mt-nlg-530b", 529.6, 0.05),
            ("yuan-13b", 12.87, 0.01),
            ("yuan-245b", 245.73, 0.005),
        ] {
            let counted = parameters(&model(name)) as f64 / 1e9;
            assert!((counted - billions).abs() <= within, "{name}: {counted} B, published {billions} B");
        }
    }

    #[test]
    fn gpt_shapes_follow_megatrons_formula() {
        for name in ["gpt3-175b", "mt-nlg-530b", "yuan-245b"] {
            let model = model(name);
            let [layers, hidden, vocab, sequence] =
                [model.layers, model.hidden, model.vocab, model.sequence].map(|n| n as f64);
            let formula = 12.0
                * layers
                * hidden
                * hidden
                * (1.0 + 13.0 / (12.0 * hidden) + (vocab + sequence) / (12.0 * layers * hidden));
            // The formula leaves out the final norm, 2h.
            assert!((parameters(&model) as f64 - formula - 2.0 * hidden).abs() < 1e-9 * formula, "{name}");
        }
    }

    #[test]
    fn model_flops_equal_megatrons_per_step() {
        let model = model("mt-nlg-530b");
        let [layers, hidden, vocab, sequence] =
            [model.layers, model.hidden, model.vocab, model.sequence].map(|n| n as f64);
        let step = 72.0
            * 1920.0
            * layers
            * sequence
            * hidden
            * hidden
            * (1.0 + sequence / (6.0 * hidden) + vocab / (12.0 * hidden * layers));
        let ours = flops_per_token(&model, model.sequence) * 1920.0 * sequence;
        assert!((ours / step - 1.0).abs() < 1e-12);
        // The same step on 280 GPUs of 312 TFLOP/s in 37.83 s at batch 280 is 56.0 % in the paper.
        let share = ours / 1920.0 * 280.0 / (37.83 * 280.0 * 312e12);
        assert!((share - 0.560).abs() < 0.001, "{share}");
    }
}
