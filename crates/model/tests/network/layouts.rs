//! What must not change the numbers: recompute, micro-batches, chunks of the loss, evaluation planning.

use crate::setup::{Machine, On, Samples, gpt, llama, options, styles};
use triax_model::{Options, Rank, Stage, declare};
use triax_spec::model::{Dropout, Mask};
use triax_spec::run::Recompute;
use triax_tensor::DType;

fn bits(gradients: &[(String, Vec<f32>)]) -> Vec<(&str, Vec<u32>)> {
    gradients.iter().map(|(n, g)| (n.as_str(), g.iter().map(|v| v.to_bits()).collect())).collect()
}

#[test]
fn every_recompute_mode_gives_the_same_bits() {
    for (model, on) in styles().into_iter().flat_map(|model| On::ALL.map(|on| (model.clone(), on))) {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let samples = Samples::random(&model, 4);
            let run = |recompute| {
                let options = Options { dtype, recompute, ..options(&model, 2, 2) };
                let mut machine = Machine::on(on, &model, &options);
                // Twice, so that what a step leaves behind would be seen in the next.
                machine.step(&samples);
                (machine.step(&samples), machine.gradients())
            };
            let (loss, gradients) = run(Recompute::None);
            for mode in [Recompute::Selective, Recompute::Full] {
                let (other_loss, other) = run(mode);
                assert_eq!(loss.to_bits(), other_loss.to_bits(), "{mode:?} {dtype} {on:?}");
                assert_eq!(bits(&gradients), bits(&other), "{mode:?} {dtype} {on:?}");
            }
        }
    }
}

/// Each gradient element is a sum that is rounded to f32 once for each micro-batch (or chunk) instead of once:
/// at most `micro-batches · 2⁻²⁴` of the largest partial sum, to which the rounded activations behind it add
/// nothing, for they are the same. 2⁻²⁰ of the tensor's largest element leaves room for cancellation.
fn assert_close(one: &[(String, Vec<f32>)], other: &[(String, Vec<f32>)]) {
    for ((name, one), (_, other)) in one.iter().zip(other) {
        let largest = one.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for (a, b) in one.iter().zip(other) {
            assert!((a - b).abs() <= largest * 2f32.powi(-20), "{name}: {a} and {b}, largest {largest}");
        }
    }
}

#[test]
fn micro_batches_and_chunks_do_not_change_losses_masks_or_gradients() {
    for model in styles() {
        let samples = Samples::random(&model, 4);
        let mut whole = Machine::new(&model, &Options { loss_chunk: 1000, ..options(&model, 4, 1) });
        let loss = whole.step(&samples);
        let gradients = whole.gradients();
        for (micro_batch, micro_batches, loss_chunk) in [(2, 2, 1000), (1, 4, 1000), (4, 1, 3), (3, 2, 5)] {
            let options = Options { loss_chunk, ..options(&model, micro_batch, micro_batches) };
            let mut machine = Machine::new(&model, &options);
            assert_eq!(machine.step(&samples), loss, "{micro_batch} samples in a micro-batch");
            assert_close(&gradients, &machine.gradients());
        }
    }
}

#[test]
fn evaluation_has_no_dropout_and_needs_no_training_plan() {
    for model in styles() {
        let samples = Samples::random(&model, 2);
        let losses = |machine: &mut Machine| {
            let mut losses = vec![f32::NAN; samples.tokens.len()];
            let batch = samples.range(&machine.network, 0, 2);
            let rank = &mut Rank::alone(&mut *machine.device);
            machine.network.forward_loss(rank, &batch, &mut losses).unwrap();
            losses
        };
        let training = losses(&mut Machine::new(&model, &options(&model, 2, 1)));
        let evaluation =
            losses(&mut Machine::new(&model, &Options { training: false, ..options(&model, 3, 1) }));
        assert_eq!(training, evaluation);

        let mut dry = model.clone();
        dry.dropout = Dropout::default();
        let mean = training.iter().map(|&l| f64::from(l)).sum::<f64>() / samples.counted() as f64;
        assert_eq!(Machine::new(&dry, &options(&dry, 2, 1)).step(&samples), mean);
        assert_ne!(Machine::new(&model, &options(&model, 2, 1)).step(&samples), mean);
    }
}

#[test]
fn a_shorter_sequence_is_the_beginning_of_a_longer_one() {
    for model in [gpt(Mask::Causal), llama(Mask::Causal)] {
        let samples = Samples::random(&model, 1);
        let mut machine = Machine::new(&model, &options(&model, 2, 1));
        let mut losses = |tokens: usize| {
            let batch = samples.range(&machine.network, 0, 1);
            let batch = triax_model::MicroBatch {
                tokens: &batch.tokens[..tokens],
                targets: &batch.targets[..tokens],
                ..batch
            };
            let mut losses = vec![0.0f32; tokens];
            let rank = &mut Rank::alone(&mut *machine.device);
            machine.network.forward_loss(rank, &batch, &mut losses).unwrap();
            losses
        };
        assert_eq!(losses(7)[..4], losses(4));
    }
}

#[test]
fn the_parameters_are_those_that_the_specification_counts() {
    for model in styles() {
        let declared = declare(&model, &Stage::whole(&model));
        let count: usize = declared.iter().map(|d| d.elements()).sum();
        assert_eq!(count as u64, triax_spec::count::parameters(&model));
        let machine = Machine::new(&model, &options(&model, 1, 1));
        let names = |p: &triax_model::Parameter| (p.name.clone(), p.weight.len(), p.grad.len());
        let planned: Vec<_> = machine.network.parameters().iter().map(names).collect();
        let expected: Vec<_> =
            declared.iter().map(|d| (d.name.clone(), d.elements(), d.elements())).collect();
        assert_eq!(planned, expected);
    }
}

#[test]
fn stages_hold_every_parameter_once_but_tied_embeddings() {
    for model in styles() {
        let stage = |layers: std::ops::Range<usize>, first, last| Stage { chunks: vec![layers], first, last };
        let (first, last) = (stage(0..1, true, false), stage(1..2, false, true));
        let mut names: Vec<String> =
            [first, last].iter().flat_map(|stage| declare(&model, stage)).map(|d| d.name).collect();
        let whole: Vec<String> = declare(&model, &Stage::whole(&model)).into_iter().map(|d| d.name).collect();
        if model.tied {
            let copy = names.iter().rposition(|n| n == "embedding.tokens.weight").unwrap();
            names.remove(copy);
        }
        assert_eq!(names, whole);
    }
}

#[test]
fn first_values_follow_the_specification() {
    let model = gpt(Mask::Causal);
    let mut device = triax_tensor::reference::Reference::new();
    let mut table = triax_tensor::Table::new();
    let options = Options { training: false, ..options(&model, 1, 1) };
    let network = triax_model::Network::plan(&model, &options, &device, &mut table).unwrap();
    triax_tensor::Device::allocate(&mut device, table.bytes(), 0).unwrap();
    network.initialise(&mut device, 3);
    for parameter in network.parameters() {
        let values: Vec<f32> = triax_tensor::DeviceExt::download_vec(&device, parameter.weight);
        let expected = match parameter.name.as_str() {
            name if name.ends_with("norm.weight") => {
                assert!(values.iter().all(|&v| v == 1.0), "{name}");
                continue;
            }
            name if name.ends_with("bias") => {
                assert!(values.iter().all(|&v| v == 0.0), "{name}");
                continue;
            }
            name if name.ends_with("output.weight") || name.ends_with("down.weight") => 0.25 / 2.0,
            _ => 0.25,
        };
        let std = (values.iter().map(|v| f64::from(v * v)).sum::<f64>() / values.len() as f64).sqrt();
        // The estimate's own standard deviation is σ/√(2n); four of them.
        let tolerance = 4.0 * expected / (2.0 * values.len() as f64).sqrt();
        assert!((std - expected).abs() < tolerance, "{}: {std}, not {expected}", parameter.name);
    }
}

#[test]
fn impossible_options_name_the_value_and_the_rule() {
    let model = gpt(Mask::Causal);
    let plan = |model: &triax_spec::model::Model, options: &Options| {
        let device = triax_tensor::reference::Reference::new();
        let mut table = triax_tensor::Table::new();
        triax_model::Network::plan(model, options, &device, &mut table).err().unwrap().to_string()
    };
    let good = options(&model, 1, 1);
    assert_eq!(
        plan(&model, &Options { sequence: 8, ..good }),
        "sequence is 8: the model is made for at most 7 tokens"
    );
    assert_eq!(
        plan(&model, &Options { dtype: DType::F64, ..good }),
        "dtype is f64: activations are bf16, f16 or f32"
    );
    let mut odd = llama(Mask::Causal);
    odd.kv_heads = 3;
    assert_eq!(plan(&odd, &good), "kv_heads is 3: must divide heads (4)");
}
