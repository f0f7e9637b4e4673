//! Files to `.bin/.idx` on all cores, the documents in the order of the input whatever the number of threads.
//!
//! ```text
//!                ┌─▶ worker 0 ─▶┐
//! reader ─batch──┼─▶ worker 1 ─▶┼──▶ writer      batch k goes to worker k mod workers, and is taken from there:
//!                └─▶ worker 2 ─▶┘                order and bounded memory without a reorder buffer
//! ```

use crate::documents::{Piece, read};
use crate::inputs::{Input, find};
use crate::tokenizer::Scratch;
use crate::{BadDocuments, DataError, Reading, TokenType, Tokenizer, Writer};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// How far tokenizing has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes on disk, before decompression.
    pub input_bytes: u64,
    pub input_bytes_total: u64,
    pub text_bytes: u64,
    pub documents: u64,
    pub tokens: u64,
}

/// What tokenizing has made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokenized {
    pub documents: u64,
    /// With one end-of-document token a document.
    pub tokens: u64,
    pub text_bytes: u64,
    /// Documents without text, which are left out.
    pub empty: u64,
    /// Bad documents left out, as [`BadDocuments::Skip`] asks.
    pub skipped: u64,
    /// What was wrong with the first of them.
    pub first_skipped: Option<String>,
    /// Files in folders left out because their ending is not known.
    pub ignored_files: u64,
}

/// Bytes of text a worker gets at a time.
const BATCH: usize = 1 << 18;
/// Batches waiting before and after each worker.
const WAITING: usize = 4;

struct Batch<'a> {
    input: &'a Input,
    pieces: Vec<Piece>,
    input_bytes: u64,
}

#[derive(Default)]
struct Encoded {
    tokens: Vec<u32>,
    /// Places in `tokens` where documents end.
    ends: Vec<usize>,
    text_bytes: u64,
    input_bytes: u64,
    empty: u64,
    skipped: u64,
    first_skipped: Option<String>,
}

/// Writes all documents of `inputs`, each ended by the tokenizer's end-of-document token, to `prefix.bin`, `prefix.idx`
/// and `prefix.tokenizer.json`. Folders are walked in the order of names. `threads`: 0 for all cores.
///
/// # Errors
/// When a file cannot be read or written, or a document cannot be read and `reading` refuses that. Then nothing is left
/// behind and an older pair of that name is as it was.
pub fn tokenize(
    inputs: &[PathBuf],
    tokenizer: &Tokenizer,
    prefix: &Path,
    reading: &Reading,
    threads: usize,
    mut progress: impl FnMut(&Progress),
) -> Result<Tokenized, DataError> {
    let eod = tokenizer.eod().ok_or_else(|| DataError::Tokenizer {
        name: tokenizer.identity().name.clone(),
        message:
            "it has no end-of-document token under a usual name; say which of its tokens ends a document"
                .into(),
    })?;
    let (inputs, ignored_files) = find(inputs)?;
    let workers = match threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    };
    let kind = TokenType::for_vocab(tokenizer.vocab());
    let mut writer = Writer::create(prefix, kind, Some(tokenizer.identity().clone()))?;
    let mut total = Tokenized { ignored_files, ..Tokenized::default() };
    let mut state =
        Progress { input_bytes_total: inputs.iter().map(|input| input.bytes).sum(), ..Progress::default() };

    std::thread::scope(|scope| {
        let (to_workers, from_workers): (Vec<_>, Vec<_>) = (0..workers)
            .map(|_| {
                let (to_worker, jobs) = sync_channel(WAITING);
                let (results, from_worker) = sync_channel(WAITING);
                scope.spawn(move || work(tokenizer, eod, reading, &jobs, &results));
                (to_worker, from_worker)
            })
            .unzip();
        let inputs = &inputs;
        scope.spawn(move || deal(inputs, reading, tokenizer.is_cuttable(), &to_workers));

        let mut document = Vec::new();
        // When this loop leaves early its receivers close, and with them every thread ends.
        for turn in from_workers.iter().cycle() {
            let Ok(encoded) = turn.recv() else { break };
            let encoded: Encoded = encoded?;
            let mut start = 0;
            for &end in &encoded.ends {
                if document.is_empty() {
                    writer.push_document(&encoded.tokens[start..end])?;
                } else {
                    document.extend_from_slice(&encoded.tokens[start..end]);
                    writer.push_document(&document)?;
                    document.clear();
                }
                start = end;
            }
            document.extend_from_slice(&encoded.tokens[start..]);
            total.skipped += encoded.skipped;
            total.empty += encoded.empty;
            total.first_skipped = total.first_skipped.take().or(encoded.first_skipped);
            state.text_bytes += encoded.text_bytes;
            state.documents += encoded.ends.len() as u64;
            state.tokens += encoded.tokens.len() as u64;
            state.input_bytes = encoded.input_bytes;
            progress(&state);
        }
        Ok(())
    })?;
    writer.finish()?;
    Ok(Tokenized { documents: state.documents, tokens: state.tokens, text_bytes: state.text_bytes, ..total })
}

/// Reads the inputs and deals batches to the workers in turn; an error travels like a batch, in its place.
fn deal<'a>(
    inputs: &'a [Input],
    reading: &Reading,
    is_cuttable: bool,
    workers: &[SyncSender<Result<Batch<'a>, DataError>>],
) {
    let mut turns = workers.iter().cycle();
    // A closed channel means the writer has stopped.
    let mut send = |job| match turns.next().map(|worker| worker.send(job)) {
        Some(Ok(())) => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let mut finished = 0;
    for input in inputs {
        let mut batch = Batch { input, pieces: Vec::new(), input_bytes: finished };
        let mut size = 0;
        let flow = read(input, reading, is_cuttable, &mut |piece, passed| {
            size += piece.size();
            batch.pieces.push(piece);
            batch.input_bytes = finished + passed.min(input.bytes);
            if size < BATCH {
                return Ok(ControlFlow::Continue(()));
            }
            size = 0;
            let next = Batch { input, pieces: Vec::new(), input_bytes: batch.input_bytes };
            Ok(send(Ok(std::mem::replace(&mut batch, next))))
        });
        finished += input.bytes;
        if matches!(flow, Ok(ControlFlow::Continue(()))) {
            batch.input_bytes = finished;
        }
        // What was read before a fault may hold an earlier one, which is the one to report.
        let is_closed = matches!(flow, Ok(ControlFlow::Break(()))) || send(Ok(batch)).is_break();
        match flow {
            Err(error) if !is_closed => {
                // Nothing follows, so it does not matter whether the writer still listens.
                let _ = send(Err(error));
                return;
            }
            _ if is_closed => return,
            _ => {}
        }
    }
}

fn work(
    tokenizer: &Tokenizer,
    eod: u32,
    reading: &Reading,
    jobs: &Receiver<Result<Batch<'_>, DataError>>,
    results: &SyncSender<Result<Encoded, DataError>>,
) {
    let mut scratch = Scratch::default();
    for job in jobs {
        let result = job.and_then(|batch| encode(tokenizer, eod, reading, batch, &mut scratch));
        if results.send(result).is_err() {
            return;
        }
    }
}

fn encode(
    tokenizer: &Tokenizer,
    eod: u32,
    reading: &Reading,
    batch: Batch<'_>,
    scratch: &mut Scratch,
) -> Result<Encoded, DataError> {
    let mut encoded = Encoded { input_bytes: batch.input_bytes, ..Encoded::default() };
    for piece in batch.pieces {
        let is_last = piece.is_last;
        let text = match piece.text(&batch.input.path, reading) {
            Ok(text) => text,
            Err(error) if reading.bad == BadDocuments::Skip => {
                encoded.skipped += 1;
                encoded.first_skipped.get_or_insert_with(|| error.to_string());
                continue;
            }
            Err(error) => return Err(error),
        };
        if text.is_empty() {
            encoded.empty += 1;
            continue;
        }
        encoded.text_bytes += text.len() as u64;
        tokenizer.encode_into(&text, scratch, &mut encoded.tokens)?;
        if is_last {
            encoded.tokens.push(eod);
            encoded.ends.push(encoded.tokens.len());
        }
    }
    Ok(encoded)
}
