//! Generation with a cache against the network without one.

use crate::setup::{Machine, gpt, llama, options};
use triax_model::{Decoder, DecoderOptions, MicroBatch, Options, Part, Session};
use triax_spec::model::{Mask, Model};
use triax_tensor::reference::Reference;
use triax_tensor::{DType, Device, Table};

fn decoder(model: &Model, max_new: usize, sequences: usize) -> (Decoder, Reference) {
    let source = Machine::new(model, &Options { training: false, ..options(model, 1, 1) });
    let mut device = Reference::new();
    let mut table = Table::new();
    let options = DecoderOptions { dtype: DType::F32, capacity: model.sequence, max_new, sequences };
    let decoder = Decoder::plan(model, &options, &device, &mut table).unwrap();
    device.allocate(table.bytes(), decoder.scratch_bytes(&device)).unwrap();
    decoder.load(&mut device, &source.network.tensors(&*source.device)).unwrap();
    (decoder, device)
}

#[test]
fn sequences_decoded_together_are_as_if_alone() {
    for model in [gpt(Mask::Causal), llama(Mask::Causal)] {
        let (mut decoder, mut device) = decoder(&model, 7, 2);
        let texts: [&[u32]; 2] = [&[3, 1, 4, 1, 5, 9], &[2, 7, 1]];
        let alone = texts.map(|text| decoder.decode(&mut device, text, 0));
        let vocab = model.vocab;
        let mut logits = vec![0.0; 2 * vocab];
        // Prompts of different lengths; then one token of one and three of the other.
        let prompts = [
            Part { sequence: 1, past: 0, tokens: &texts[0][..3] },
            Part { sequence: 0, past: 0, tokens: &texts[1][..2] },
        ];
        decoder.decode_parts(&mut device, &prompts, &mut logits);
        let rest = [
            Part { sequence: 0, past: 2, tokens: &texts[1][2..] },
            Part { sequence: 1, past: 3, tokens: &texts[0][3..] },
        ];
        decoder.decode_parts(&mut device, &rest, &mut logits);
        assert_eq!(logits[..vocab], alone[1]);
        assert_eq!(logits[vocab..], alone[0]);
    }
}

#[test]
fn the_prompt_of_a_prefix_model_is_seen_in_both_directions() {
    for model in [gpt(Mask::Prefix), llama(Mask::Prefix)] {
        let (mut decoder, mut device) = decoder(&model, 7, 1);
        let mut machine = Machine::new(&model, &options(&model, 1, 1));
        let tokens: [u32; 7] = [3, 1, 4, 1, 5, 9, 2];
        let targets: [u32; 7] = [1, 4, 1, 5, 9, 2, 6];
        for prompt in 1..6 {
            let mut losses = [0.0; 7];
            let prefix = [prompt as u32];
            let batch =
                MicroBatch { tokens: &tokens, targets: &targets, prefix: Some(&prefix), first_sample: 0 };
            machine.network.forward_loss(&mut *machine.device, &batch, &mut losses);
            let mut logits = decoder.decode(&mut device, &tokens[..prompt], 0);
            for position in prompt - 1..7 {
                if position >= prompt {
                    logits = decoder.decode(&mut device, &tokens[position..=position], position);
                }
                let lse = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
                let loss = lse - f64::from(logits[targets[position] as usize]);
                let expected = f64::from(losses[position]);
                // Both end in f32 logits of a few units: a handful of roundings of 2⁻²².
                assert!((loss - expected).abs() < 1e-5, "prompt {prompt}, {position}: {loss} and {expected}");
            }
        }
    }
}

#[test]
fn a_session_takes_up_where_it_was_cut() {
    let model = llama(Mask::Causal);
    let source = Machine::new(&model, &Options { training: false, ..options(&model, 1, 1) });
    let tensors = source.network.tensors(&*source.device);
    let mut session = Session::new(&model, DType::F32, 7, Box::new(Reference::new()), &tensors).unwrap();
    let expected = session.feed(&[3, 1, 4, 1, 5]).to_vec();
    session.feed(&[9, 2]);
    assert_eq!((session.len(), session.capacity()), (7, 7));
    session.truncate(2);
    assert_eq!(session.feed(&[4, 1, 5]), expected);
    session.truncate(0);
    assert!(session.is_empty());
    assert_eq!(session.feed(&[3, 1, 4, 1, 5]), expected);
}

#[test]
#[should_panic(expected = "6 + 2 tokens in a cache for 7")]
fn a_full_cache_is_refused() {
    let (mut decoder, mut device) = decoder(&gpt(Mask::Causal), 7, 1);
    decoder.decode(&mut device, &[1, 2], 6);
}
