//! GGUF files: written, read back, computed with on their blocks, refused.

use crate::setup::{Machine, llama, options};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use triax_model::gguf::{self, Metadata, Stored, Value};
use triax_model::{Declaration, ModelError, Requantised, Session, Stage, TensorSource, declare};
use triax_spec::model::{Init, Mask, Model};
use triax_tensor::cpu::{Cpu, Kernel};
use triax_tensor::reference::Reference;
use triax_tensor::{Coding, DType, Device};

/// A model whose rows divide into blocks.
fn model(tied: bool) -> Model {
    let dropout = triax_spec::model::Dropout::default();
    // GGUF does not say how a model was initialised.
    let init = Init { std: 0.02, scale_outputs: false };
    let llama = llama(Mask::Causal);
    Model {
        sequence: 32,
        hidden: 64,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        ffn: 96,
        vocab: 50,
        tied,
        dropout,
        init,
        ..llama
    }
}

/// All tensors of a freshly initialised model.
struct Tensors(HashMap<String, Vec<f32>>);

impl Tensors {
    fn of(model: &Model) -> Self {
        let machine = Machine::new(model, &options(model, 1, 1));
        let source = machine.network.tensors(&*machine.device);
        let names = declare(model, &Stage::whole(model)).into_iter().map(|d| d.name);
        Self(names.map(|name| (name.clone(), source.tensor(&name).unwrap())).collect())
    }
}

impl TensorSource for Tensors {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        Ok(self.0[name].clone())
    }
}

fn write(model: &Model, source: &dyn TensorSource, file: &Path, stored: Stored) {
    let mut tokenizer = Metadata::default();
    tokenizer.push("tokenizer.ggml.tokens", Value::List(vec![Value::Text("a b".into())]));
    gguf::export(model, source, &tokenizer, file, stored).unwrap();
}

#[test]
fn a_model_comes_back_from_a_file_of_every_type() {
    for tied in [true, false] {
        let model = model(tied);
        let tensors = Tensors::of(&model);
        for (stored, bits) in [(Stored::F16, 11), (Stored::Bf16, 8), (Stored::Q8_0, 0)] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("model.gguf");
            write(&model, &tensors, &file, stored);
            let imported = gguf::import(&file).unwrap();
            assert_eq!(imported.model, model);
            assert_eq!(imported.metadata.texts("tokenizer.ggml.tokens").unwrap(), ["a b"]);
            for (name, ours) in &tensors.0 {
                let theirs = imported.tensor(name).unwrap();
                assert_eq!(ours.len(), theirs.len(), "{name}");
                let largest = ours.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                for (a, b) in ours.iter().zip(&theirs) {
                    // Half a unit in the last place; half a step of the largest block, its scale rounded to f16.
                    let allowed = match bits {
                        0 => largest / 254.0 * 1.001 + largest * 2f32.powi(-11),
                        bits => a.abs() * 2f32.powi(-bits) + 2f32.powi(-25),
                    };
                    assert!((a - b).abs() <= allowed, "{stored:?} {name}: {a} came back as {b}");
                }
            }
            // Written again, it is the same file.
            let again = folder.path().join("again.gguf");
            write(&model, &imported, &again, stored);
            assert!(fs::read(&file).unwrap() == fs::read(&again).unwrap(), "{stored:?}");
        }
    }
}

fn logits(model: &Model, source: &dyn TensorSource, device: Box<dyn Device>, pieces: &[&[u32]]) -> Vec<f32> {
    let mut session = Session::new(model, DType::F32, 16, device, source).unwrap();
    let mut logits = Vec::new();
    for piece in pieces {
        logits = session.feed(piece).to_vec();
    }
    logits
}

/// Root of the mean square.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (squares / a.len() as f64).sqrt()
}

/// How far rounding activations may take the logits from `exact`: the farthest of eight networks that round at random,
/// with twice the variance of rounding to nearest.
fn allowed(model: &Model, source: &dyn TensorSource, text: &[u32], exact: &[f32]) -> f64 {
    let far = |seed| {
        let device = Box::new(Reference::rounding_at_random(seed));
        distance(&logits(model, source, device, &[text]), exact)
    };
    (0..8).map(far).fold(0.0, f64::max)
}

#[test]
fn blocks_are_computed_with_as_they_are_and_pieces_do_not_change_a_bit() {
    let model = model(true);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    write(&model, &Tensors::of(&model), &file, Stored::Q8_0);
    let text: &[u32] = &[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8];
    let imported = gguf::import(&file).unwrap();
    assert_eq!(imported.coding("layer.0.attention.qkv.weight"), Some(Coding::Q8_0));
    let exact = logits(&model, &imported, Box::new(Reference::new()), &[text]);
    let allowed = allowed(&model, &imported, text, &exact);
    for kernel in [Kernel::Amx, Kernel::Avx512Bf16, Kernel::Avx512, Kernel::Avx2, Kernel::Portable] {
        let Ok(cpu) = Cpu::new(2, kernel) else { continue };
        let whole = logits(&model, &imported, Box::new(cpu), &[text]);
        let off = distance(&whole, &exact);
        assert!(0.0 < off && off <= allowed, "{kernel:?}: {off}, allowed {allowed}");
        let cpu = Cpu::new(1, kernel).unwrap();
        let pieces: Vec<&[u32]> = vec![&text[..9], &text[9..10], &text[10..]];
        assert_eq!(whole, logits(&model, &imported, Box::new(cpu), &pieces), "{kernel:?}");
    }
}

#[test]
fn a_source_is_quantised_while_it_is_loaded() {
    let model = model(false);
    let text: &[u32] = &[3, 1, 4, 1, 5];
    for coding in [Coding::Q8_0, Coding::Q4_1] {
        let numbers = Tensors::of(&model);
        let source = Requantised::new(&model, Box::new(Tensors::of(&model)), coding);
        for d in declare(&model, &Stage::whole(&model)).iter().filter(|d| source.coding(&d.name).is_some()) {
            let row_wise = !d.name.ends_with("output.weight") && !d.name.ends_with("down.weight");
            weights_are_half_a_step_off(
                &numbers.0[&d.name],
                &source.blocks(&d.name).unwrap(),
                d,
                coding,
                row_wise,
            );
        }
        let exact = logits(&model, &source, Box::new(Reference::new()), &[text]);
        let allowed = allowed(&model, &source, text, &exact);
        let on_cpu = logits(&model, &source, Box::new(Cpu::new(2, Kernel::Auto).unwrap()), &[text]);
        let off = distance(&on_cpu, &exact);
        assert!(0.0 < off && off <= allowed, "{}: {off}, allowed {allowed}", coding.name());
    }
}

/// Rows of the linear layer, block by block: a code is the nearest, its scale and minimum are rounded to f16.
fn weights_are_half_a_step_off(
    numbers: &[f32],
    blocks: &[u8],
    declaration: &Declaration,
    coding: Coding,
    row_wise: bool,
) {
    let [rows, cols] = declaration.dims[..] else { panic!("{declaration:?} is no matrix") };
    let (outer, inner) = if row_wise { (rows, cols) } else { (cols, rows) };
    let mut values = vec![0.0; inner];
    for (row, blocks) in blocks.chunks_exact(coding.row_bytes(inner)).enumerate() {
        coding.dequantise(blocks, &mut values);
        let number = |i: usize| numbers[if row_wise { row * inner + i } else { i * outer + row }];
        for first in (0..inner).step_by(32) {
            let group: Vec<f32> = (first..(first + 32).min(inner)).map(number).collect();
            let (low, high) = group.iter().fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
            let largest = high.max(-low);
            let (step, steps) = match coding {
                Coding::Q8_0 => (largest / 127.0, 127.0),
                _ => ((high - low) / 15.0, 15.0),
            };
            // An f16 is off by 2⁻¹¹ of itself: the scale at each of up to `steps` steps, and the minimum.
            let allowed = step * (0.5 + steps * 2f32.powi(-11)) + largest * 2f32.powi(-11) + 1e-7;
            for (&number, &value) in group.iter().zip(&values[first..]) {
                assert!((number - value).abs() <= allowed, "{}: {number} is {value}", declaration.name);
            }
        }
    }
}

#[test]
fn files_that_contradict_themselves_are_refused_by_name() {
    let model = model(true);
    let tensors = Tensors::of(&model);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    write(&model, &tensors, &file, Stored::F16);
    let bytes = fs::read(&file).unwrap();
    // The last occurrence of a name, replaced by another of the same length.
    let renamed = |from: &str, to: &str| {
        let at = bytes.windows(from.len()).rposition(|w| w == from.as_bytes()).unwrap();
        let mut changed = bytes.clone();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        fs::write(&file, changed).unwrap();
        gguf::import(&file).err().unwrap().to_string()
    };
    assert!(renamed("output_norm.weight", "output_norm.weigth").contains("no tensor `output_norm.weight`"));
    assert!(renamed("llama.rope.freq_base", "llama.rope.freq_bass").contains("`llama.rope.freq_bass` is"));
    assert!(renamed("llama.vocab_size", "llama.vocab_sise").contains("`llama.vocab_sise`"));
    fs::write(&file, &bytes[..bytes.len() - 40]).unwrap();
    assert!(gguf::import(&file).err().unwrap().to_string().contains("ends beyond the file"));

    let biased = Model { bias: true, ..model };
    let refused =
        gguf::export(&biased, &tensors, &Metadata::default(), &folder.path().join("x"), Stored::F16);
    assert!(refused.unwrap_err().to_string().contains("linear layers have biases"));
    assert!(!folder.path().join("x").exists());
}
