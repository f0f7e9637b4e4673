//! `triax bench tokenize`: how fast a text becomes token files, reading and writing included.

use crate::arguments::BenchTokenize;
use crate::console::json_line;
use crate::failure::{Context, Failure, with_causes};
use crate::machine;
use serde::Serialize;
use std::time::Instant;
use triax_data::{Reading, Tokenizer, tokenize};

/// Runs, of which the fastest counts: anything slower is another process's time.
const RUNS: usize = 3;

#[derive(Serialize)]
struct Outcome {
    mb_per_s: f64,
    tokens_per_s: f64,
    text_bytes: u64,
    tokens: u64,
    threads: usize,
    seconds: f64,
    peak_rss_mb: Option<f64>,
}

pub(crate) fn run(arguments: &BenchTokenize) -> Result<(), Failure> {
    let tokenizer = Tokenizer::load(&arguments.tokenizer).map_err(|error| {
        Failure::usage(format!("cannot use {}: {}", arguments.tokenizer.display(), with_causes(&error)))
    })?;
    let folder = std::env::temp_dir().join(format!("triax-bench-{}", std::process::id()));
    crate::files::create_folder(&folder)?;
    let measured = measure(arguments, &tokenizer, &folder.join("tokens"));
    let removed = std::fs::remove_dir_all(&folder);
    let outcome = measured?;
    removed.context(|| format!("cannot remove {}", folder.display()))?;
    eprintln!(
        "{:.1} MB/s, {:.2} M tokens/s on {} threads",
        outcome.mb_per_s,
        outcome.tokens_per_s / 1e6,
        outcome.threads
    );
    if arguments.json { json_line(&outcome) } else { Ok(()) }
}

fn measure(
    arguments: &BenchTokenize,
    tokenizer: &Tokenizer,
    prefix: &std::path::Path,
) -> Result<Outcome, Failure> {
    let inputs = [arguments.input.clone()];
    let mut best: Option<(f64, triax_data::Tokenized)> = None;
    for _ in 0..RUNS {
        let begin = Instant::now();
        let made = tokenize(&inputs, tokenizer, prefix, &Reading::default(), arguments.threads, |_| ())
            .context(|| format!("cannot tokenize {}", arguments.input.display()))?;
        let seconds = begin.elapsed().as_secs_f64();
        if best.as_ref().is_none_or(|(fastest, _)| seconds < *fastest) {
            best = Some((seconds, made));
        }
    }
    let (seconds, made) = best.expect("there is at least one run");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Outcome {
        mb_per_s: made.text_bytes as f64 / seconds / 1e6,
        tokens_per_s: made.tokens as f64 / seconds,
        text_bytes: made.text_bytes,
        tokens: made.tokens,
        threads: if arguments.threads == 0 { cores } else { arguments.threads },
        seconds,
        peak_rss_mb: machine::peak_rss_mb(),
    })
}
