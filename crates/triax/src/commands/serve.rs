//! `triax serve`: a network behind an HTTP API, and a page to try it.

use crate::arguments::Serve;
use crate::commands::generate::engine;
use crate::console::json_line;
use crate::failure::{Context, Failure};
use crate::files::write_whole;
use crate::interrupt;
use crate::source::Source;
use serde::Serialize;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;
use triax_serve::{ChatTemplate, Keys, Limits, Served, serve};

/// Tokens of memory for each text where the command does not say: few texts fill a whole context, and those that
/// do may take what others leave.
const USUAL_TEXT: usize = 1024;

/// What scripts read from the ready file.
#[derive(Serialize)]
struct Ready {
    url: String,
    port: u16,
    model: String,
}

pub(crate) fn run(arguments: &Serve) -> Result<(), Failure> {
    let address = SocketAddr::new(arguments.host, arguments.port);
    let keys = arguments.keys_file.as_deref().map(Keys::load).transpose();
    let keys = keys.map_err(|error| Failure::usage(error.to_string()))?;
    if keys.is_none() && !arguments.host.is_loopback() {
        return Err(Failure::usage(format!(
            "{} is open to other machines, and no keys are asked for",
            arguments.host
        ))
        .help("give keys with --keys-file, or listen on 127.0.0.1"));
    }
    let mut source = Source::open(&arguments.model)?.quantised(arguments.quantise);
    let tokenizer = source.tokenizer(arguments.tokenizer.as_deref())?;
    let mut chat_template = source.chat_template.take();
    if let Some(file) = &arguments.chat_template {
        let text = fs::read_to_string(file).context(|| format!("cannot read {}", file.display()))?;
        let start = chat_template.and_then(|template| template.start);
        chat_template = Some(ChatTemplate { source: text, start });
    }
    let name = arguments.name.clone().unwrap_or_else(|| name_of(&arguments.model));
    let texts = usize::from(arguments.texts);
    let cache = arguments.cache_tokens.unwrap_or(texts * USUAL_TEXT);
    let engine = engine(&source, &tokenizer, (arguments.device, &arguments.ranks), texts, cache)?;
    drop(source);
    let stop = interrupt::flag()?;
    let limits = Limits {
        body: arguments.body_limit << 20,
        queue: arguments.queue,
        request: Duration::from_secs(arguments.request_seconds),
        drain: Duration::from_secs(arguments.drain_seconds),
        ..Limits::default()
    };
    let mut failed = Ok(());
    let served = Served { name: name.clone(), engine, tokenizer, chat_template };
    serve(served, address, keys, limits, &stop, |address| {
        let ready = Ready { url: format!("http://{address}"), port: address.port(), model: name };
        eprintln!("{} answers at {}", ready.model, ready.url);
        failed = tell(&ready, arguments.ready_file.as_deref());
        // Nobody would learn where it answers.
        if failed.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
    })
    .map_err(|error| Failure::run(error.to_string()))?;
    failed
}

fn tell(ready: &Ready, file: Option<&Path>) -> Result<(), Failure> {
    match file {
        Some(file) => write_whole(file, serde_json::json!(ready).to_string().as_bytes()),
        None => json_line(ready),
    }
}

/// The last folder's or file's name that says something.
fn name_of(model: &Path) -> String {
    let path = model.canonicalize().unwrap_or_else(|_| model.to_owned());
    path.file_stem().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}
