//! On real networks and devices: batch 1 = batch N = pieces = cached = preempted = streamed, and tensor 1 = 2 = 4,
//! pipeline 1 = 2, bit for bit.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::time::Duration;
use triax_comm::Options as Peers;
use triax_infer::{
    Engine, Event, GenerateRequest, Job, Loading, Network, Part, Sampling, ScoreReply, ScoreRequest, Scorer,
    TokenScore, load, load_in_ranks,
};
use triax_model::{ModelError, Requantised, Stage, TensorSource, declare};
use triax_plan::InferenceLayout;
use triax_spec::model::{Activation, Dropout, Init, Mask, Model, NormKind, Positions};
use triax_tensor::cpu::{Cpu, Kernel};
use triax_tensor::philox::Stream;
use triax_tensor::reference::Reference;
use triax_tensor::{Coding, DType, Device};

const CONTEXT: usize = 96;

fn gpt(mask: Mask) -> Model {
    Model {
        layers: 2,
        hidden: 48,
        heads: 3,
        kv_heads: 3,
        head_dim: 16,
        ffn: 80,
        vocab: 131,
        sequence: CONTEXT,
        norm: NormKind::Layer,
        norm_eps: 1e-5,
        activation: Activation::Gelu,
        positions: Positions::Learned,
        bias: true,
        tied: true,
        mask,
        dropout: Dropout { embedding: 0.0, attention: 0.0, hidden: 0.0 },
        init: Init { std: 0.25, scale_outputs: true },
    }
}

fn llama(mask: Mask) -> Model {
    Model {
        hidden: 64,
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

/// Values by name.
struct Random(Model);

impl TensorSource for Random {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let declared = declare(&self.0, &Stage::whole(&self.0));
        let elements = declared.iter().find(|d| d.name == name).unwrap().elements() as u64;
        let stream = Stream::named(5, name);
        let (mean, std) = if name.contains("norm.weight") { (1.0, 0.1) } else { (0.0, 0.2) };
        Ok((0..elements).map(|i| (mean + std * stream.normal(i)) as f32).collect())
    }
}

fn engine(model: &Model, on_cpu: bool, sequences: usize, cache: usize, rows: usize) -> Engine {
    let (dtype, device) = device(on_cpu);
    let loading = Loading { dtype, memory: dtype, sequences, context: CONTEXT, cache, rows };
    Engine::new(load(model, &loading, device, &Random(model.clone())).unwrap(), Some(0))
}

fn device(on_cpu: bool) -> (DType, Box<dyn Device>) {
    match on_cpu {
        true => (DType::Bf16, Box::new(Cpu::new(2, Kernel::Auto).unwrap())),
        false => (DType::F32, Box::new(Reference::new())),
    }
}

fn text(kind: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|i| if i < 37 { i * 7 % 131 } else { (i * (kind + 3) + kind) % 131 }).collect()
}

fn scores() -> Vec<ScoreRequest> {
    [(0, 60, 40), (1, 60, 40), (2, 45, 44), (0, 80, 20), (3, 97, 1), (4, 12, 3)]
        .map(|(kind, length, cut)| {
            let text = text(kind, length);
            ScoreRequest {
                context: text[..cut].to_vec(),
                continuation: text[cut..].to_vec(),
                top: 3,
                also: Vec::new(),
            }
        })
        .to_vec()
}

fn texts() -> Vec<GenerateRequest> {
    (0..6)
        .map(|kind| GenerateRequest {
            prompt: text(kind, 30 + 9 * kind as usize),
            max_tokens: 20,
            sampling: Sampling {
                temperature: if kind % 2 == 0 { 0.0 } else { 1.0 },
                seed: u64::from(kind),
                ..Sampling::GREEDY
            },
            stop_tokens: Vec::new(),
            top: 2,
        })
        .collect()
}

/// Every request in an engine of its own, a whole prompt in one piece.
fn alone(model: &Model, on_cpu: bool) -> (Vec<ScoreReply>, Vec<Vec<TokenScore>>) {
    let fresh = || engine(model, on_cpu, 1, CONTEXT, CONTEXT);
    let scored = scores().iter().map(|r| fresh().score(std::slice::from_ref(r)).unwrap().remove(0)).collect();
    let made =
        texts().iter().map(|r| fresh().generate(std::slice::from_ref(r)).unwrap().remove(0).tokens).collect();
    (scored, made)
}

fn compare(model: &Model, on_cpu: bool) {
    let (scored, made) = alone(model, on_cpu);
    // All at once; in small pieces; with memory for hardly one text, so that texts are preempted.
    for (sequences, cache, rows) in [(6, 6 * CONTEXT, 96), (3, 3 * CONTEXT, 5), (6, CONTEXT + 32, 40)] {
        let mut engine = engine(model, on_cpu, sequences, cache, rows);
        // The second time from the cache.
        for time in 0..2 {
            assert_eq!(engine.score(&scores()).unwrap(), scored, "{sequences} {rows}, time {time}");
            let found: Vec<_> = engine.generate(&texts()).unwrap().into_iter().map(|g| g.tokens).collect();
            assert_eq!(found, made, "{sequences} {rows}, time {time}");
        }
    }
}

#[test]
fn gpt_on_the_cpu() {
    compare(&gpt(Mask::Causal), true);
}

#[test]
fn llama_on_the_cpu() {
    compare(&llama(Mask::Causal), true);
}

#[test]
fn prefix_models_on_the_cpu() {
    compare(&gpt(Mask::Prefix), true);
    compare(&llama(Mask::Prefix), true);
}

#[test]
fn llama_on_the_reference_device() {
    compare(&llama(Mask::Causal), false);
}

#[test]
fn a_text_that_is_continued_and_scored_afterwards_has_the_same_log_probabilities() {
    let model = llama(Mask::Causal);
    let mut engine = engine(&model, true, 4, 4 * CONTEXT, 64);
    let requests = texts();
    let made = engine.generate(&requests).unwrap();
    let scores: Vec<ScoreRequest> = requests
        .iter()
        .zip(&made)
        .map(|(request, made)| ScoreRequest {
            context: request.prompt.clone(),
            continuation: made.ids(),
            top: 2,
            also: Vec::new(),
        })
        .collect();
    for (reply, made) in engine.score(&scores).unwrap().iter().zip(&made) {
        assert_eq!(reply.log_probs, made.tokens.iter().map(|t| t.log_prob).collect::<Vec<_>>());
        assert_eq!(reply.top, made.tokens.iter().map(|t| t.top.clone()).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_told_step_by_step_is_what_comes_at_the_end() {
    let model = gpt(Mask::Causal);
    let mut engine = engine(&model, true, 4, 4 * CONTEXT, 64);
    let whole = engine.generate(&texts()).unwrap();
    let ids: Vec<_> = texts().iter().map(|r| engine.submit(Job::generate(r, None)).unwrap()).collect();
    let mut told = vec![Vec::new(); ids.len()];
    while !engine.is_idle() {
        for (id, event) in engine.step() {
            if let Event::Token(score) = event {
                told[ids.iter().position(|&i| i == id).unwrap()].push(score);
            }
        }
    }
    assert_eq!(told, whole.into_iter().map(|g| g.tokens).collect::<Vec<_>>());
}

/// Three layers, so that two stages differ, and heads for four ranks.
fn shared(model: Model) -> Model {
    Model { layers: 3, hidden: 64, heads: 8, kv_heads: 4, head_dim: 8, ffn: 88, ..model }
}

fn in_ranks(
    model: &Model,
    on_cpu: bool,
    (tensor, pipeline): (usize, usize),
    peers: Peers,
    source: &dyn TensorSource,
) -> Box<dyn Network> {
    let layout = InferenceLayout::new(model, tensor, pipeline).unwrap();
    let (dtype, _) = device(on_cpu);
    let loading =
        Loading { dtype, memory: dtype, sequences: 3, context: CONTEXT, cache: 3 * CONTEXT, rows: 40 };
    let devices = (0..layout.world()).map(|_| device(on_cpu).1).collect();
    load_in_ranks(model, &loading, layout, peers, devices, source).unwrap()
}

/// All logits of two texts, whose later pieces share passes.
fn logits(network: &mut dyn Network) -> Vec<u32> {
    let texts = [text(0, 50), text(1, 33)];
    let blocks: [&[u32]; 2] = [&[4, 1, 7, 0], &[3, 9, 2]];
    let mut bits = Vec::new();
    let part = |i: usize, range: std::ops::Range<usize>| Part {
        tokens: &texts[i][range.clone()],
        past: range.start,
        blocks: blocks[i],
        logits: range.len(),
    };
    for parts in [vec![part(0, 0..40)], vec![part(0, 40..47), part(1, 0..33)], vec![part(0, 47..50)]] {
        let mut rows = 0;
        network.step(&parts, &mut |row, logits| {
            assert_eq!(row, rows);
            rows += 1;
            bits.extend(logits.iter().map(|logit| logit.to_bits()));
        });
        assert_eq!(rows, parts.iter().map(|part| part.logits).sum::<usize>());
    }
    bits
}

fn compare_layouts(model: &Model, on_cpu: bool, layouts: &[(usize, usize)], source: &dyn TensorSource) {
    let greedy: Vec<GenerateRequest> =
        texts().into_iter().map(|r| GenerateRequest { sampling: Sampling::GREEDY, ..r }).collect();
    let all = |layout| {
        let mut network = in_ranks(model, on_cpu, layout, Peers::default(), source);
        let bits = logits(&mut *network);
        let mut engine = Engine::new(network, Some(0));
        (bits, engine.generate(&greedy).unwrap(), engine.score(&scores()).unwrap())
    };
    let one = all((1, 1));
    assert!(one.0.iter().all(|&bits| f32::from_bits(bits).is_finite()));
    for &layout in layouts {
        let found = all(layout);
        assert!(found.0 == one.0, "logits of (tensor, pipeline) {layout:?}");
        assert_eq!((found.1, found.2), (one.1.clone(), one.2.clone()), "(tensor, pipeline) {layout:?}");
    }
}

const LAYOUTS: [(usize, usize); 6] = [(2, 1), (4, 1), (1, 2), (2, 2), (4, 2), (1, 3)];

#[test]
fn every_layout_of_gpt_on_the_cpu_is_one_rank() {
    let model = Model { kv_heads: 8, ..shared(gpt(Mask::Causal)) };
    compare_layouts(&model, true, &LAYOUTS, &Random(model.clone()));
}

#[test]
fn every_layout_of_llama_on_the_cpu_is_one_rank() {
    let model = shared(llama(Mask::Causal));
    compare_layouts(&model, true, &LAYOUTS, &Random(model.clone()));
    let tied = Model { tied: true, ..shared(llama(Mask::Causal)) };
    compare_layouts(&tied, true, &[(2, 2)], &Random(tied.clone()));
}

/// Its sums are f64 and rounded once, so only stages give its bits.
#[test]
fn stages_on_the_reference_device_are_one_rank() {
    for model in [Model { kv_heads: 8, ..shared(gpt(Mask::Prefix)) }, shared(llama(Mask::Causal))] {
        compare_layouts(&model, false, &[(1, 2)], &Random(model.clone()));
    }
}

#[test]
fn stages_share_quantised_weights_and_tensor_ranks_are_refused_them() {
    let model = Model { tied: true, ..shared(llama(Mask::Causal)) };
    for coding in [Coding::Q8_0, Coding::Q4_1] {
        let source = Requantised::new(&model, Box::new(Random(model.clone())), coding);
        compare_layouts(&model, true, &[(1, 2), (1, 3)], &source);
        let layout = InferenceLayout::new(&model, 2, 1).unwrap();
        let loading = Loading {
            dtype: DType::F32,
            memory: DType::F32,
            sequences: 1,
            context: CONTEXT,
            cache: CONTEXT,
            rows: CONTEXT,
        };
        let devices = (0..2).map(|_| device(true).1).collect();
        let refused = load_in_ranks(&model, &loading, layout, Peers::default(), devices, &source);
        let refused = refused.err().unwrap().to_string();
        assert!(refused.contains("use tensor 1"), "{refused}");
    }
}

/// The second stage waits for the first for as long as that computes, which is longer than nothing.
#[test]
fn a_rank_that_is_silent_for_longer_than_its_peers_wait_ends_the_network_and_is_named() {
    let model = shared(llama(Mask::Causal));
    let peers = Peers { timeout: Duration::ZERO };
    let mut network = in_ranks(&model, true, (1, 2), peers, &Random(model.clone()));
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| logits(&mut *network))).unwrap_err();
    let said = ended.downcast_ref::<String>().unwrap();
    assert!(said.contains("border of a stage") && said.contains("rank"), "{said}");
}
