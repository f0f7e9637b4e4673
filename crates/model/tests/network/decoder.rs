//! Generation with a paged cache against the network without one.

use crate::setup::{Machine, gpt, llama, options};
use triax_model::{Decoder, DecoderOptions, MicroBatch, Options, Session, Span};
use triax_spec::model::{Mask, Model};
use triax_tensor::cpu::{Cpu, Kernel};
use triax_tensor::reference::Reference;
use triax_tensor::{DType, Device};

struct Opened {
    decoder: Decoder,
    device: Box<dyn Device>,
}

impl Opened {
    fn new(model: &Model, max_rows: usize, blocks: usize, mut device: Box<dyn Device>, dtype: DType) -> Self {
        let source = Machine::new(model, &Options { training: false, ..options(model, 1, 1) });
        let options = DecoderOptions {
            dtype,
            cache: dtype,
            capacity: model.sequence,
            block: 16,
            blocks,
            max_rows,
            max_logits: 3,
        };
        let tensors = source.network.tensors(&*source.device);
        let decoder = Decoder::open(model, &options, &tensors, &mut *device).unwrap();
        Self { decoder, device }
    }

    /// The logits behind the last tokens of all spans.
    fn step(&mut self, spans: &[Span<'_>]) -> Vec<Vec<f32>> {
        self.decoder.step(&mut *self.device, spans);
        let mut rows = Vec::new();
        for span in spans {
            rows.push(rows.last().map_or(0, |last| last + 1) + span.tokens.len() - 1);
        }
        let vocab = self.decoder.model().vocab;
        let mut logits = vec![0.0; rows.len() * vocab];
        self.decoder.logits(&mut *self.device, &rows, &mut logits);
        logits.chunks(vocab).map(<[f32]>::to_vec).collect()
    }
}

fn on_reference(model: &Model, max_rows: usize) -> Opened {
    Opened::new(model, max_rows, 4, Box::new(Reference::new()), DType::F32)
}

#[test]
fn sequences_decoded_together_are_as_if_alone() {
    for model in [gpt(Mask::Causal), llama(Mask::Causal)] {
        for (kernel, dtype) in [(None, DType::F32), (Some(Kernel::Auto), DType::Bf16)] {
            let device: Box<dyn Device> = match kernel {
                None => Box::new(Reference::new()),
                Some(kernel) => Box::new(Cpu::new(2, kernel).unwrap()),
            };
            let mut opened = Opened::new(&model, 7, 4, device, dtype);
            let texts: [&[u32]; 2] = [&[3, 1, 4, 1, 5, 9], &[2, 7, 1]];
            let span = |tokens, position, blocks| Span { tokens, position, blocks };
            let alone = texts.map(|text| opened.step(&[span(text, 0, &[2])])[0].clone());
            // Prompts of different lengths; then one token of one and three of the other.
            opened.step(&[span(&texts[0][..3], 0, &[1]), span(&texts[1][..2], 0, &[3])]);
            let ends = opened.step(&[span(&texts[1][2..], 2, &[3]), span(&texts[0][3..], 3, &[1])]);
            assert_eq!(ends[0], alone[1]);
            assert_eq!(ends[1], alone[0]);
        }
    }
}

#[test]
fn the_prompt_of_a_prefix_model_is_seen_in_both_directions() {
    for model in [gpt(Mask::Prefix), llama(Mask::Prefix)] {
        let mut opened = on_reference(&model, 7);
        let mut machine = Machine::new(&model, &options(&model, 1, 1));
        let tokens: [u32; 7] = [3, 1, 4, 1, 5, 9, 2];
        let targets: [u32; 7] = [1, 4, 1, 5, 9, 2, 6];
        for prompt in 1..6 {
            let mut losses = [0.0; 7];
            let prefix = [prompt as u32];
            let batch =
                MicroBatch { tokens: &tokens, targets: &targets, prefix: Some(&prefix), first_sample: 0 };
            let rank = &mut triax_model::Rank::alone(&mut *machine.device);
            machine.network.forward_loss(rank, &batch, &mut losses).unwrap();
            let mut feed =
                |tokens, position| opened.step(&[Span { tokens, position, blocks: &[0] }]).remove(0);
            let mut logits = feed(&tokens[..prompt], 0);
            for position in prompt - 1..7 {
                if position >= prompt {
                    logits = feed(&tokens[position..=position], position);
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
#[should_panic(expected = "6 + 2 tokens, capacity 7")]
fn a_full_sequence_is_refused() {
    let model = Model { sequence: 7, ..gpt(Mask::Causal) };
    on_reference(&model, 7).step(&[Span { tokens: &[1, 2], position: 6, blocks: &[0] }]);
}

#[test]
#[should_panic(expected = "block 4 in a cache of 4")]
fn a_block_beyond_the_cache_is_refused() {
    on_reference(&gpt(Mask::Causal), 7).step(&[Span { tokens: &[1], position: 0, blocks: &[4] }]);
}
