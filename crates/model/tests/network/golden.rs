//! Against what transformers computes for the same weights (files made by `golden/make_golden.py`).
//!
//! Tolerances: the golden files say how far PyTorch's f32 lies from the same computation in f64 (relative to a
//! tensor's largest element). Our devices round as often or (reference) less, so they lie about as far; the two may
//! lie on opposite sides, and a single draw may be lucky: four times the larger of that deviation and one f32
//! rounding (2⁻²⁴).

use crate::setup::{Machine, On, golden_folder, options};
use safetensors::SafeTensors;
use std::collections::HashMap;
use triax_model::{MicroBatch, ModelError, Options, Rank, Session, TensorSource, hf};
use triax_tensor::{AdamW, Class, DType, DeviceExt, Table};

pub(crate) struct Golden {
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl Golden {
    pub(crate) fn read(name: &str) -> Self {
        let bytes = std::fs::read(golden_folder(name).join("golden.safetensors")).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        Self { bytes, metadata }
    }

    fn words(&self, name: &str) -> (Vec<usize>, Vec<[u8; 4]>) {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors.tensor(name).unwrap();
        let words = tensor.data().chunks_exact(4).map(|b| b.try_into().unwrap()).collect();
        (tensor.shape().to_vec(), words)
    }

    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        self.words(name).1.into_iter().map(f32::from_le_bytes).collect()
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        self.words(name).1.into_iter().map(u32::from_le_bytes).collect()
    }

    fn number(&self, name: &str) -> f64 {
        self.metadata[name].parse().unwrap()
    }

    pub(crate) fn tolerance(&self, what: &str) -> f64 {
        4.0 * self.number(&format!("deviation.{what}")).max(2f64.powi(-24))
    }

    fn shape(&self, name: &str) -> Vec<usize> {
        self.words(name).0
    }
}

/// `|a - b|` at most `tolerance` times the largest `|b|`.
pub(crate) fn assert_near(what: &str, found: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let worst = found.iter().zip(expected).fold(0.0f64, |m, (a, b)| m.max(f64::from((a - b).abs())));
    assert!(
        worst <= tolerance * f64::from(largest),
        "{what}: off by {worst:e}, allowed {:e}",
        tolerance * f64::from(largest)
    );
}

fn cases() -> impl Iterator<Item = (On, &'static str)> {
    On::ALL.into_iter().flat_map(|on| [(on, "gpt2"), (on, "llama")])
}

fn machine(on: On, name: &str) -> (Machine, Golden, hf::Imported) {
    let imported = hf::import(&golden_folder(name)).unwrap();
    let golden = Golden::read(name);
    let batch = golden.shape("tokens")[0];
    let options = Options { loss_chunk: 24, ..options(&imported.model, batch, 1) };
    (Machine::loaded(on, &imported.model, &options, &imported), golden, imported)
}

#[test]
fn logits_are_those_of_transformers() {
    for (on, name) in cases() {
        let (golden, imported) = (Golden::read(name), hf::import(&golden_folder(name)).unwrap());
        let shape = golden.shape("logits");
        let (sequence, vocab) = (shape[1], shape[2]);
        let mut session =
            Session::new(&imported.model, DType::F32, sequence, on.device(), &imported).unwrap();
        let expected = golden.floats("logits");
        for (sample, tokens) in golden.ids("tokens").chunks(sequence).enumerate() {
            let first = 13;
            session.truncate(0);
            let mut logits = session.feed(&tokens[..first]).to_vec();
            for past in first - 1..sequence {
                if past >= first {
                    logits = session.feed(&tokens[past..=past]).to_vec();
                }
                let row = &expected[(sample * sequence + past) * vocab..][..vocab];
                assert_near(
                    &format!("{name} on {on:?}: logits behind {past}"),
                    &logits,
                    row,
                    golden.tolerance("logits"),
                );
            }
        }
    }
}

/// The gradients as a source of tensors: exported, they have the names and layouts of transformers.
struct Gradients<'a>(&'a Machine);

impl TensorSource for Gradients<'_> {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let parameter = self.0.network.parameters().iter().find(|p| p.name == name).unwrap();
        Ok(self.0.device.download_vec(parameter.grad))
    }
}

#[test]
fn loss_and_all_gradients_are_those_of_transformers() {
    for (on, name) in cases() {
        let (mut machine, golden, imported) = machine(on, name);
        let (tokens, targets) = (golden.ids("tokens"), golden.ids("targets"));
        let loss = one_step(&mut machine, &tokens, &targets);
        assert_near(
            &format!("{name} on {on:?}: loss"),
            &[loss as f32],
            &golden.floats("loss"),
            golden.tolerance("loss"),
        );

        let folder = tempfile::tempdir().unwrap();
        hf::export(&imported.model, &Gradients(&machine), folder.path(), DType::F32).unwrap();
        let bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
        let exported = SafeTensors::deserialize(&bytes).unwrap();
        for (tensor, view) in exported.iter() {
            let found: Vec<f32> =
                view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            let expected = golden.floats(&format!("grad.{tensor}"));
            assert_near(&format!("{name} on {on:?}: {tensor}"), &found, &expected, golden.tolerance("grad"));
        }
        let stored = SafeTensors::deserialize(&golden.bytes).unwrap();
        let gradients = stored.names().iter().filter(|n| n.starts_with("grad.")).count();
        assert_eq!(exported.len(), gradients, "every gradient of the golden file is compared");
    }
}

fn one_step(machine: &mut Machine, tokens: &[u32], targets: &[u32]) -> f64 {
    let batch = MicroBatch { tokens, targets, prefix: None, first_sample: 0 };
    let (network, device) = (&mut machine.network, &mut *machine.device);
    network.begin_step(device);
    let rank = &mut Rank::alone(device);
    network.forward_backward(rank, &batch, 1.0 / tokens.len() as f32, &mut ()).unwrap();
    network.finish_group(rank).unwrap();
    network.losses(rank.device)[0] / tokens.len() as f64
}

#[test]
fn fifty_steps_of_adamw_follow_the_curve_of_pytorch() {
    for (on, name) in cases() {
        let (golden, imported) = (Golden::read(name), hf::import(&golden_folder(name)).unwrap());
        let shape = golden.shape("curve.tokens");
        let (model, options) = (&imported.model, options(&imported.model, shape[1], 1));
        let mut device = on.device();
        let mut table = Table::new();
        let network = triax_model::Network::plan(model, &options, &*device, &mut table).unwrap();
        let moments: Vec<_> = network
            .parameters()
            .iter()
            .map(|p| {
                let mut moment =
                    |_| table.add(&p.name, Class::Optimizer, DType::F32, p.weight.rows, p.weight.cols);
                (moment(0), moment(1))
            })
            .collect();
        device.allocate(table.bytes(), network.scratch_bytes(&*device)).unwrap();
        network.load(&mut *device, &imported).unwrap();
        let mut machine = Machine { device, network };

        let count = shape[1] * shape[2];
        let (tokens, targets) = (golden.ids("curve.tokens"), golden.ids("curve.targets"));
        let batches = tokens.chunks(count).zip(targets.chunks(count));
        for (step, ((tokens, targets), expected)) in batches.zip(golden.floats("curve.losses")).enumerate() {
            machine.network.pack_weights(&mut *machine.device);
            let loss = one_step(&mut machine, tokens, targets);
            let (off, allowed) = ((loss - f64::from(expected)).abs(), golden.tolerance("curve"));
            assert!(
                off <= allowed,
                "{name} on {on:?}, step {step}: loss {loss}, PyTorch {expected}, allowed {allowed:e}"
            );
            for (parameter, &(m, v)) in machine.network.parameters().iter().zip(&moments) {
                let decay = if parameter.decay { golden.number("weight_decay") } else { 0.0 };
                machine.device.adamw(&AdamW {
                    weight: parameter.weight,
                    grad: parameter.grad,
                    m,
                    v,
                    learning_rate: golden.number("lr") as f32,
                    beta1: golden.number("beta1") as f32,
                    beta2: golden.number("beta2") as f32,
                    eps: golden.number("eps") as f32,
                    weight_decay: decay as f32,
                    step: step as u64 + 1,
                    grad_scale: 1.0,
                });
            }
        }
    }
}
