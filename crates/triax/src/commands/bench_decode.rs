//! `triax bench decode`: how fast a model reads prompts and generates, greedily, with several sequences at once.

use crate::arguments::BenchDecode;
use crate::console::json_line;
use crate::failure::{Context, Failure};
use crate::machine;
use crate::random_steps::median;
use crate::source::Source;
use serde::Serialize;
use std::path::Path;
use std::time::Instant;
use triax_model::{Decoder, DecoderOptions, Span};
use triax_tensor::Device;

/// Tokens of a cache block.
const BLOCK: usize = 16;
/// Most tokens in one step.
const ROWS: usize = 512;

#[derive(Serialize)]
struct Outcome {
    model: String,
    parameters: u64,
    batch: usize,
    prompt: usize,
    generate: usize,
    activations: String,
    device: String,
    /// Of the median round; all prompts one after the other.
    prefill_tokens_per_s: f64,
    /// Of the median round; all sequences together.
    decode_tokens_per_s: f64,
    /// Seconds of each round.
    prefill_s: Vec<f64>,
    decode_s: Vec<f64>,
    peak_rss_mb: Option<f64>,
}

pub(crate) fn run(arguments: &BenchDecode) -> Result<(), Failure> {
    let &BenchDecode { batch, prompt, generate, rounds, .. } = arguments;
    if batch == 0 || prompt == 0 || generate == 0 || rounds == 0 {
        return Err(Failure::usage("--batch, --prompt, --generate and --rounds must be at least 1"));
    }
    let source = Source::open(&arguments.model)?.quantised(arguments.quantise);
    let model = &source.model;
    let capacity = prompt + generate;
    if capacity > model.sequence {
        let sequence = model.sequence;
        return Err(Failure::usage(format!("{prompt} + {generate} tokens, the model takes {sequence}"))
            .help("use a smaller --prompt or --generate"));
    }
    let dtype = source.activations(arguments.device.device);
    let per_sequence = capacity.div_ceil(BLOCK);
    let options = DecoderOptions {
        dtype,
        cache: source.cache(arguments.device.device),
        capacity,
        block: BLOCK,
        blocks: batch * per_sequence,
        max_rows: ROWS.max(batch),
        max_logits: batch,
    };
    let mut device = machine::device(arguments.device)?;
    let description = device.describe();
    let decoder = Decoder::open(model, &options, &*source.tensors, &mut *device)
        .context(|| format!("cannot run {}", source.described))?;
    let parameters = triax_spec::parameters(model);
    eprintln!("{}: {description}", source.described);
    let blocks = (0..batch * per_sequence).map(|id| id as u32).collect();
    let mut bench = Bench { decoder, device, blocks, per_sequence, logits: vec![0.0; batch * model.vocab] };
    let (mut prefill_s, mut decode_s) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (prefill, decode) = bench.round(arguments);
        // The first round touches every page for the first time.
        if round > 0 {
            prefill_s.push(prefill);
            decode_s.push(decode);
        }
    }
    let outcome = Outcome {
        // Its last name alone: where it lies is this machine's business.
        model: Path::new(&source.described)
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into()),
        parameters,
        batch,
        prompt,
        generate,
        activations: dtype.to_string(),
        device: description,
        prefill_tokens_per_s: (batch * prompt) as f64 / median(&prefill_s),
        decode_tokens_per_s: (batch * generate) as f64 / median(&decode_s),
        prefill_s,
        decode_s,
        peak_rss_mb: machine::peak_rss_mb(),
    };
    eprintln!(
        "prefill {:.1} tokens/s, decode {:.1} tokens/s",
        outcome.prefill_tokens_per_s, outcome.decode_tokens_per_s
    );
    if arguments.json { json_line(&outcome) } else { Ok(()) }
}

struct Bench {
    decoder: Decoder,
    device: Box<dyn Device>,
    blocks: Vec<u32>,
    per_sequence: usize,
    /// `[batch, vocab]`.
    logits: Vec<f32>,
}

impl Bench {
    /// Seconds for all prompts, and for all tokens generated behind them.
    fn round(&mut self, arguments: &BenchDecode) -> (f64, f64) {
        let &BenchDecode { batch, prompt, generate, .. } = arguments;
        let vocab = self.decoder.model().vocab;
        let begin = Instant::now();
        let mut next: Vec<u32> = (0..batch).map(|sequence| self.prefill(sequence, prompt)).collect();
        let prefill = begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        for position in prompt..prompt + generate {
            let spans: Vec<Span<'_>> = next
                .iter()
                .zip(self.blocks.chunks_exact(self.per_sequence))
                .map(|(token, blocks)| Span { tokens: std::slice::from_ref(token), position, blocks })
                .collect();
            self.decoder.step(&mut *self.device, &spans);
            let rows: Vec<usize> = (0..batch).collect();
            self.decoder.logits(&mut *self.device, &rows, &mut self.logits);
            for (token, logits) in next.iter_mut().zip(self.logits.chunks_exact(vocab)) {
                *token = likeliest(logits);
            }
        }
        (prefill, begin.elapsed().as_secs_f64())
    }

    /// Takes in a prompt; the token that follows.
    fn prefill(&mut self, sequence: usize, prompt: usize) -> u32 {
        let vocab = self.decoder.model().vocab;
        let tokens: Vec<u32> =
            (0..prompt).map(|i| ((i * 7919 + sequence * 104_729 + 13) % vocab) as u32).collect();
        let blocks = &self.blocks[sequence * self.per_sequence..][..self.per_sequence];
        let (mut position, mut last) = (0, 0);
        for piece in tokens.chunks(self.decoder.options().max_rows) {
            self.decoder.step(&mut *self.device, &[Span { tokens: piece, position, blocks }]);
            (position, last) = (position + piece.len(), piece.len() - 1);
        }
        let logits = &mut self.logits[..vocab];
        self.decoder.logits(&mut *self.device, &[last], logits);
        likeliest(logits)
    }
}

fn likeliest(logits: &[f32]) -> u32 {
    let better = |best: usize, id: usize| if logits[id] > logits[best] { id } else { best };
    (1..logits.len()).fold(0, better) as u32
}
