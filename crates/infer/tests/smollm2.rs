//! A real quantised model beside llama.cpp and beside the exact arithmetic of its weights: `cargo xtask smollm2` gives
//! it SmolLM2-135M, and what llama.cpp says behind each token of some texts.
//!
//! ```text
//! distance(ours, exact), distance(llama.cpp, exact) ≤ the farthest of networks that round activations at random
//! ```
//! Both round activations to int8 to the nearest step, with half the variance of rounding at random; everything else
//! is the same arithmetic up to f32. So the bound is measured on the model itself and holds no number of ours.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use triax_infer::{Loading, Part, load};
use triax_model::gguf::{self, Imported};
use triax_tensor::cpu::{Cpu, Kernel};
use triax_tensor::reference::Reference;
use triax_tensor::{DType, Device};

/// The folder with `model` (the path of the file) and `texts.json`.
const FOLDER: &str = "TRIAX_SMOLLM2";

/// Networks that round at random.
const DRAWS: u64 = 3;

struct Text {
    prompt: String,
    /// Of the prompt.
    tokens: usize,
    /// The prompt's, and what llama.cpp continued it with greedily.
    ids: Vec<u32>,
    /// llama.cpp's logits behind the prompt and every token of its continuation but the last, `[rows, vocab]`.
    theirs: Vec<f32>,
}

fn texts(folder: &Path) -> Vec<Text> {
    let json: Vec<serde_json::Value> =
        serde_json::from_slice(&fs::read(folder.join("texts.json")).unwrap()).unwrap();
    json.iter()
        .enumerate()
        .map(|(number, text)| {
            let ids = |name: &str| -> Vec<u32> {
                text[name].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
            };
            let bytes = fs::read(folder.join(format!("logits-{number}.f32"))).unwrap();
            Text {
                prompt: text["prompt"].as_str().unwrap().to_owned(),
                tokens: ids("ids").len(),
                ids: [ids("ids"), ids("greedy")].concat(),
                theirs: bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            }
        })
        .collect()
}

/// Logits of the last `rows` of `ids`, in one pass.
fn logits(imported: &Imported, device: Box<dyn Device>, memory: DType, ids: &[u32], rows: usize) -> Vec<f32> {
    let loading = Loading {
        dtype: DType::F32,
        memory,
        sequences: 1,
        context: ids.len(),
        cache: ids.len(),
        rows: ids.len(),
    };
    let mut network = load(&imported.model, &loading, device, imported).unwrap();
    let blocks: Vec<u32> = (0..network.shape().blocks as u32).collect();
    let part = Part { tokens: ids, past: 0, blocks: &blocks, logits: rows };
    let mut all = Vec::new();
    network.step(&[part], &mut |_, logits| all.extend_from_slice(logits));
    all
}

/// Root of the mean square, and the largest.
fn distance(a: &[f32], b: &[f32]) -> (f64, f64) {
    assert_eq!(a.len(), b.len());
    let differences = || a.iter().zip(b).map(|(a, b)| f64::from(a - b).abs());
    let squares: f64 = differences().map(|d| d * d).sum();
    ((squares / a.len() as f64).sqrt(), differences().fold(0.0, f64::max))
}

fn likeliest(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, id| if row[id] > row[best] { id } else { best })
}

fn log_probability(row: &[f32], id: usize) -> f64 {
    let largest = row.iter().fold(f32::MIN, |largest, &logit| largest.max(logit));
    let sum: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    f64::from(row[id] - largest) - sum.ln()
}

/// What one text shows: a line for people, and what is wrong.
fn judge(imported: &Imported, text: &Text) -> (String, Vec<String>) {
    let vocab = imported.model.vocab;
    let rows = text.theirs.len() / vocab;
    let ids = &text.ids[..text.tokens + rows - 1];
    let on_reference = |device: Reference, memory| logits(imported, Box::new(device), memory, ids, rows);
    let exact = on_reference(Reference::new(), DType::F32);
    let ours = logits(imported, Box::new(Cpu::new(1, Kernel::Auto).unwrap()), DType::F16, ids, rows);
    let random: Vec<Vec<f32>> =
        (0..DRAWS).map(|seed| on_reference(Reference::rounding_at_random(seed), DType::F16)).collect();
    let allowed = random
        .iter()
        .map(|random| distance(random, &exact))
        .fold((0.0f64, 0.0f64), |most, far| (most.0.max(far.0), most.1.max(far.1)));
    let mut wrong = Vec::new();
    let far = [("triax", &ours), ("llama.cpp", &text.theirs)].map(|(name, logits)| {
        let (off, largest) = distance(logits, &exact);
        if off > allowed.0 {
            wrong.push(format!("{name} is {off:.4} off, allowed {:.4}", allowed.0));
        }
        (off, largest)
    });
    let row = |logits: &[f32], row: usize| -> Vec<f32> { logits[row * vocab..][..vocab].to_vec() };
    let (mut nats, mut nats_allowed) = (0.0f64, 0.0f64);
    for place in 0..rows {
        let chosen = likeliest(&row(&text.theirs, place));
        let behind = |logits: &[f32]| log_probability(&row(logits, place), chosen);
        nats = nats.max((behind(&ours) - behind(&text.theirs)).abs());
        for random in &random {
            // Either side may be that far from the exact one.
            nats_allowed = nats_allowed.max(2.0 * (behind(random) - behind(&exact)).abs());
        }
    }
    if nats > nats_allowed {
        wrong.push(format!("a log-probability differs by {nats:.4}, allowed {nats_allowed:.4}"));
    }
    let mut parts = String::from("same greedy text");
    for place in 0..rows {
        let (a, b) = (row(&ours, place), row(&text.theirs, place));
        let chosen = likeliest(&b);
        let mine = likeliest(&a);
        if mine != chosen {
            let exact = row(&exact, place);
            let gap = f64::from(exact[mine] - exact[chosen]).abs();
            let error =
                random.iter().map(|random| distance(&row(random, place), &exact).1).fold(0.0, f64::max);
            // Each of the two logits may be off by that much.
            if gap > 2.0 * error {
                wrong.push(format!("token {place}: the two best are {gap:.4} apart, errors are {error:.4}"));
            }
            parts = format!("parts at {place}: the two best are {gap:.4} apart, errors up to {error:.4}");
            break;
        }
    }
    let line = format!(
        "{:?}, {rows} rows: off the exact logits by {:.4} (largest {:.3}), llama.cpp by {:.4} ({:.3}), allowed {:.4} \
         ({:.3}); each other {:.4}; log-probabilities within {nats:.4}, allowed {nats_allowed:.4}; {parts}",
        text.prompt,
        far[0].0,
        far[0].1,
        far[1].0,
        far[1].1,
        allowed.0,
        allowed.1,
        distance(&ours, &text.theirs).0
    );
    (line, wrong)
}

#[test]
#[ignore = "needs a model and llama.cpp's logits: cargo xtask smollm2"]
fn logits_of_a_real_model_lie_within_the_error_of_its_rounding() {
    let folder =
        PathBuf::from(std::env::var_os(FOLDER).expect("cargo xtask smollm2 says where the texts are"));
    let imported = gguf::import(Path::new(fs::read_to_string(folder.join("model")).unwrap().trim())).unwrap();
    let texts = texts(&folder);
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(text) = texts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (line, faults) = judge(&imported, text);
                    println!("{line}");
                    wrong
                        .lock()
                        .unwrap()
                        .extend(faults.into_iter().map(|fault| (text.prompt.clone(), fault)));
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty() && !texts.is_empty(), "{wrong:#?}");
}
