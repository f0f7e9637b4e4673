//! `triax export gguf`: a GGUF file of a Llama-style model, for llama.cpp and its kin.

use crate::arguments::GgufType;
use crate::console::{bytes, json_line};
use crate::failure::{Context, Failure, with_causes};
use crate::source::Source;
use crate::vocabulary;
use serde::Serialize;
use std::path::Path;
use triax_model::gguf::{self, Metadata, Stored};

#[derive(Serialize)]
struct Outcome<'a> {
    file: &'a Path,
    bytes: u64,
    parameters: u64,
    tokenizer: bool,
}

pub(crate) fn export(
    model: &Path,
    out: &Path,
    dtype: GgufType,
    tokenizer: Option<&Path>,
    json: bool,
) -> Result<(), Failure> {
    let source = Source::open(model)?;
    if out.exists() {
        return Err(Failure::usage(format!("{} is there already", out.display()))
            .help("choose a new file with --out"));
    }
    let has_tokenizer = tokenizer.is_some() || source.tokenizer.is_some() || source.vocabulary.is_some();
    let entries = if has_tokenizer {
        let found = source.tokenizer(tokenizer)?.vocabulary();
        let parts = found.context(|| "this tokenizer cannot go into a GGUF file".to_owned())?;
        vocabulary::to_metadata(&parts, source.model.vocab)
    } else {
        Metadata::default()
    };
    let stored = match dtype {
        GgufType::F16 => Stored::F16,
        GgufType::Bf16 => Stored::Bf16,
        GgufType::Q8_0 => Stored::Q8_0,
    };
    gguf::export(&source.model, &*source.tensors, &entries, out, stored).map_err(|error| {
        Failure::run(format!("cannot export {}: {}", source.described, with_causes(&error)))
    })?;
    let size = std::fs::metadata(out).context(|| format!("cannot look at {}", out.display()))?.len();
    let without = if has_tokenizer { "" } else { ", without a tokenizer" };
    eprintln!("{}: {}{without}", out.display(), bytes(size as usize));
    if !json {
        return Ok(());
    }
    let parameters = triax_spec::parameters(&source.model);
    json_line(&Outcome { file: out, bytes: size, parameters, tokenizer: has_tokenizer })
}
