//! `triax generate`: continue a text, showing each piece as soon as it is certain.

use crate::arguments::{DeviceArguments, Generate, RanksArguments};
use crate::console::json_line;
use crate::failure::{Context, Failure};
use crate::source::Source;
use crate::{layout, machine};
use serde::Serialize;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};
use triax_data::Tokenizer;
use triax_infer::{
    Engine, Event, Finish, GenerateRequest, Generated, InferError, Job, Loading, Sampling, load_in_ranks,
};
use triax_spec::run::DeviceKind;

#[derive(Serialize)]
struct Outcome<'a> {
    prompt: &'a str,
    /// The continuation alone.
    text: String,
    tokens: Vec<u32>,
    log_probabilities: Vec<f32>,
    finish: &'static str,
    prompt_tokens: usize,
    seed: u64,
    tokens_per_s: f64,
}

pub(crate) fn run(arguments: &Generate) -> Result<(), Failure> {
    let sampling = Sampling {
        temperature: arguments.temperature,
        top_k: arguments.top_k,
        top_p: arguments.top_p,
        seed: arguments.seed,
        ..Sampling::GREEDY
    };
    sampling.validate().map_err(|error| Failure::usage(error.to_string()))?;
    let source = Source::open(&arguments.model)?.quantised(arguments.quantise);
    let tokenizer = source.tokenizer(arguments.tokenizer.as_deref())?;
    let mut engine =
        engine(&source, &tokenizer, (arguments.device, &arguments.ranks), 1, source.model.sequence)?;

    let begin = Instant::now();
    let mut shown = Shown::new(&tokenizer, arguments);
    let (generated, prompt_tokens) =
        continue_text(&mut engine, &tokenizer, &arguments.prompt, arguments.max_tokens, sampling, |ids| {
            shown.show(ids)
        })?;
    let seconds = begin.elapsed().as_secs_f64();
    let ids = generated.ids();
    let text = decode(&tokenizer, &ids)?;
    shown.finish(&text)?;
    if !arguments.json {
        return Ok(());
    }
    json_line(&Outcome {
        prompt: &arguments.prompt,
        text,
        log_probabilities: generated.tokens.iter().map(|token| token.log_prob).collect(),
        tokens_per_s: ids.len() as f64 / seconds,
        tokens: ids,
        finish: generated.finish.name(),
        prompt_tokens,
        seed: arguments.seed,
    })
}

/// An engine for `sequences` texts of up to the model's context, with memory for `cache` tokens of all of them (at
/// least one context), on one rank or as many as are asked for; bf16 on the CPU device, as trained, f32 on the
/// reference device.
pub(crate) fn engine(
    source: &Source,
    tokenizer: &Tokenizer,
    (device, ranks): (DeviceArguments, &RanksArguments),
    sequences: usize,
    cache: usize,
) -> Result<Engine, Failure> {
    /// Tokens of a pass, from which on products are no faster for more.
    const ROWS: usize = 256;
    let loading = Loading {
        dtype: source.activations(device.device),
        memory: source.cache(device.device),
        sequences,
        context: source.model.sequence,
        cache,
        rows: ROWS,
    };
    let layout = layout::of_inference(ranks.layout.as_deref(), &source.model)?;
    if layout.tensor() > 1 && device.device == DeviceKind::Reference {
        return Err(Failure::usage(
            "the reference device makes each sum in one piece, which tensor ranks cannot share",
        )
        .help("use pp, such as --layout pp=2, or --device cpu"));
    }
    let threads = machine::threads_of_a_rank(device.threads, layout.world());
    let one = DeviceArguments { threads, ..device };
    let devices = (0..layout.world()).map(|_| machine::device(one)).collect::<Result<_, _>>()?;
    let peers = triax_comm::Options { timeout: Duration::from_secs(ranks.peer_timeout) };
    let network = load_in_ranks(&source.model, &loading, layout, peers, devices, &*source.tensors)
        .context(|| format!("cannot run {}", source.described))?;
    Ok(Engine::new(network, tokenizer.eod()))
}

/// Continues `prompt`; `each` sees all new ids so far and may end the text. Also gives the prompt's length in
/// tokens.
pub(crate) fn continue_text(
    engine: &mut Engine,
    tokenizer: &Tokenizer,
    prompt: &str,
    max_tokens: usize,
    sampling: Sampling,
    mut each: impl FnMut(&[u32]) -> ControlFlow<()>,
) -> Result<(Generated, usize), Failure> {
    let ids = tokenizer.encode(prompt).context(|| "cannot tokenize the prompt".to_owned())?;
    let request = GenerateRequest {
        prompt: ids,
        max_tokens,
        sampling,
        stop_tokens: tokenizer.eod().into_iter().collect(),
        top: 0,
    };
    let job = Job::generate(&request, engine.document_start());
    let prompt_tokens = job.prompt.len();
    let refused = |error: InferError| Failure::usage(error.to_string());
    let id = engine.submit(job).map_err(refused)?;
    let mut new = Vec::new();
    let mut generated = Generated { tokens: Vec::new(), finish: Finish::Cancelled };
    while !engine.is_idle() {
        for (_, event) in engine.step() {
            match event {
                Event::Token(score) => {
                    new.push(score.token);
                    generated.tokens.push(score);
                    if each(&new).is_break() {
                        engine.cancel(id);
                    }
                }
                Event::End { finish, .. } => generated.finish = finish,
                Event::Failed(error) => return Err(refused(error)),
                Event::Prompt { .. } | Event::Stop(_) => {}
            }
        }
    }
    Ok((generated, prompt_tokens))
}

pub(crate) fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String, Failure> {
    tokenizer.decode(ids).context(|| "cannot turn tokens into text".to_owned())
}

/// The continuation on standard output as it grows; nothing with `--json`.
struct Shown<'a> {
    tokenizer: &'a Tokenizer,
    quiet: bool,
    /// Bytes already written.
    written: usize,
}

impl<'a> Shown<'a> {
    fn new(tokenizer: &'a Tokenizer, arguments: &Generate) -> Self {
        let quiet = arguments.json;
        if !quiet {
            let _ = write!(io::stdout(), "{}", arguments.prompt);
        }
        Self { tokenizer, quiet, written: 0 }
    }

    /// Writes what is certain: a token may hold a part of a character, which decodes as U+FFFD for now.
    fn show(&mut self, ids: &[u32]) -> ControlFlow<()> {
        if self.quiet {
            return ControlFlow::Continue(());
        }
        let Ok(text) = self.tokenizer.decode(ids) else { return ControlFlow::Continue(()) };
        let certain = text.trim_end_matches('\u{fffd}');
        if let Some(fresh) = certain.get(self.written..) {
            let mut out = io::stdout();
            if out.write_all(fresh.as_bytes()).and_then(|()| out.flush()).is_err() {
                return ControlFlow::Break(());
            }
            self.written = certain.len();
        }
        ControlFlow::Continue(())
    }

    fn finish(self, text: &str) -> Result<(), Failure> {
        if self.quiet {
            return Ok(());
        }
        writeln!(io::stdout(), "{}", text.get(self.written..).unwrap_or(""))
            .context(|| "cannot write to standard output".to_owned())
    }
}
