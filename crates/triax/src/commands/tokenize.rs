//! `triax tokenize`: text into `.bin/.idx`, with a tokenizer given or trained here.

use crate::arguments::{self, Tokenize};
use crate::console::{Progress, bytes, count, json_line};
use crate::failure::{Context, Failure, with_causes};
use crate::files;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;
use triax_data::{BadDocuments, Reading, Split, Tokenized, Tokenizer, TokenizerKind, sample_texts};

/// Text that a tokenizer is trained on; more changes little but the waiting.
const TRAINING_TEXT: u64 = 32 << 20;

#[derive(Serialize)]
struct Outcome<'a> {
    prefix: &'a Path,
    tokenizer: PathBuf,
    vocabulary: usize,
    documents: u64,
    tokens: u64,
    text_bytes: u64,
    bytes_per_token: f64,
    empty: u64,
    skipped: u64,
    first_skipped: &'a Option<String>,
    ignored_files: u64,
    seconds: f64,
}

pub(crate) fn run(arguments: &Tokenize) -> Result<(), Failure> {
    for input in &arguments.inputs {
        if !input.exists() {
            return Err(Failure::usage(format!("there is no file or folder {}", input.display())));
        }
    }
    let reading = Reading {
        field: arguments.field.clone(),
        split: Split::File,
        bad: if arguments.skip_bad_lines { BadDocuments::Skip } else { BadDocuments::Refuse },
    };
    let tokenizer = tokenizer(arguments, &reading)?;
    let folder = files::folder_of(&arguments.output);
    files::create_folder(folder)?;
    let kept = files::keep_tokenizer(&tokenizer, folder)?;

    let begin = Instant::now();
    let made = with_progress(&arguments.inputs, &tokenizer, &arguments.output, &reading, arguments.threads)?;
    let seconds = begin.elapsed().as_secs_f64();
    eprintln!(
        "{}: {} tokens of {} documents, {:.2} bytes a token, {:.1} MB/s",
        arguments.output.display(),
        count(made.tokens as f64),
        count(made.documents as f64),
        made.text_bytes as f64 / made.tokens.max(1) as f64,
        made.text_bytes as f64 / seconds / 1e6
    );
    tell_left_out(&made);
    if !arguments.json {
        return Ok(());
    }
    json_line(&Outcome {
        prefix: &arguments.output,
        tokenizer: kept,
        vocabulary: tokenizer.vocab(),
        documents: made.documents,
        tokens: made.tokens,
        text_bytes: made.text_bytes,
        bytes_per_token: made.text_bytes as f64 / made.tokens.max(1) as f64,
        empty: made.empty,
        skipped: made.skipped,
        first_skipped: &made.first_skipped,
        ignored_files: made.ignored_files,
        seconds,
    })
}

fn tokenizer(arguments: &Tokenize, reading: &Reading) -> Result<Tokenizer, Failure> {
    if let Some(path) = &arguments.tokenizer {
        return Tokenizer::load(path).map_err(|error| {
            Failure::usage(format!("cannot use {}: {}", path.display(), with_causes(&error)))
        });
    }
    let kind = match arguments.train_tokenizer {
        Some(arguments::TokenizerKind::Unigram) => TokenizerKind::Unigram,
        _ => TokenizerKind::Bpe,
    };
    let texts = sample_texts(&arguments.inputs, reading, TRAINING_TEXT)
        .map_err(|error| Failure::run(with_causes(&error)))?;
    let size: usize = texts.iter().map(String::len).sum();
    eprintln!("training the tokenizer on {} of text", bytes(size));
    let begin = Instant::now();
    let tokenizer = Tokenizer::train(kind, arguments.vocab.unwrap_or_default(), texts.iter())
        .map_err(|error| Failure::usage(with_causes(&error)))?;
    eprintln!("{} ids in {:.1} s", tokenizer.vocab(), begin.elapsed().as_secs_f64());
    Ok(tokenizer)
}

/// Tokenizes with a bar that counts bytes on disk.
pub(crate) fn with_progress(
    inputs: &[PathBuf],
    tokenizer: &Tokenizer,
    prefix: &Path,
    reading: &Reading,
    threads: usize,
) -> Result<Tokenized, Failure> {
    let mut bar: Option<Progress> = None;
    let begin = Instant::now();
    triax_data::tokenize(inputs, tokenizer, prefix, reading, threads, |progress| {
        let bar = bar.get_or_insert_with(|| Progress::new("tokenizing", progress.input_bytes_total));
        bar.set(progress.input_bytes, || {
            let speed = progress.text_bytes as f64 / begin.elapsed().as_secs_f64() / 1e6;
            format!("{} tokens, {speed:.1} MB/s", count(progress.tokens as f64))
        });
    })
    .context(|| format!("cannot tokenize into {}", prefix.display()))
}

fn tell_left_out(made: &Tokenized) {
    let first = made.first_skipped.as_deref().unwrap_or_default();
    let notes = [
        (made.skipped, format!("documents could not be read and were left out, the first: {first}")),
        (made.empty, "documents had no text".to_owned()),
        (made.ignored_files, "files in folders have an ending that is not read".to_owned()),
    ];
    for (number, note) in notes {
        if number > 0 {
            eprintln!("{number} {note}");
        }
    }
}
