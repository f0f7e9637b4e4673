//! `triax import hf` and `triax export hf`: checkpoints from and to Hugging Face folders.

use crate::console::{count, json_line};
use crate::failure::{Context, Failure, with_causes};
use crate::files::{TOKENIZER, copy, create_folder};
use crate::machine;
use crate::source::Source;
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use triax_data::Tokenizer;
use triax_model::{Stage, declare, hf};
use triax_spec::Progress;
use triax_spec::run::Precision;
use triax_train::checkpoint::{DataOrder, LocalDisk, Moment, Saver, State, TensorShape};

#[derive(Serialize)]
struct Outcome<'a> {
    folder: &'a Path,
    parameters: u64,
    layers: usize,
    hidden: usize,
    tokenizer: bool,
}

/// Makes a run folder with one checkpoint at step 0, from which training and generation go on.
pub(crate) fn import(folder: &Path, out: &Path, json: bool) -> Result<(), Failure> {
    let source = Source::hugging_face(folder)?;
    if out.join(triax_train::checkpoint::FOLDER).exists() {
        return Err(Failure::usage(format!("{} holds checkpoints already", out.display()))
            .help("choose a new folder with --out"));
    }
    let tokenizer = match &source.tokenizer {
        Some(path) => Some(Tokenizer::load(path).context(|| format!("cannot use {}", path.display()))?),
        None => None,
    };
    create_folder(out)?;
    if let Some(path) = &source.tokenizer {
        copy(path, &out.join(TOKENIZER))?;
    }
    let state = State {
        progress: Progress::default(),
        updates: 0,
        data: DataOrder { seed: 0, sequence: source.model.sequence, sources: Vec::new(), stages: Vec::new() },
        loss_scale: None,
        watch: triax_train::watch::WatchState::default(),
        skipped: Vec::new(),
        tokenizer: tokenizer.map(|tokenizer| tokenizer.identity().clone()),
    };
    let checkpoint = save(&source, out, state)?;
    report(&source, &checkpoint, json)
}

/// Writes weights and zero moments of every parameter as a checkpoint.
fn save(source: &Source, run: &Path, state: State) -> Result<PathBuf, Failure> {
    let declarations = declare(&source.model, &Stage::whole(&source.model));
    let shapes: Vec<TensorShape> = Moment::ALL
        .iter()
        .flat_map(|moment| declarations.iter().map(move |parameter| (moment, parameter)))
        .map(|(moment, parameter)| TensorShape {
            name: moment.of(&parameter.name),
            dims: parameter.dims.clone(),
        })
        .collect();
    let mut failed = None;
    let mut saver =
        Saver::new(run.to_owned(), 0, source.model.clone(), shapes, std::sync::Arc::new(LocalDisk));
    let mut weight = Vec::new();
    let started = saver.save(state, |index, first, values| match declarations.get(index) {
        Some(parameter) => {
            if first == 0 {
                match source.tensors.tensor(&parameter.name) {
                    Ok(tensor) => weight = tensor,
                    Err(error) => failed = Some(error),
                }
            }
            if failed.is_none() {
                values.copy_from_slice(&weight[first..first + values.len()]);
            }
        }
        None => values.fill(0.0),
    });
    let saved = started.and_then(|_| saver.wait()).map_err(|error| Failure::run(with_causes(&error)))?;
    let folder = saved.map(|saved| saved.folder).unwrap_or_default();
    match failed {
        None => Ok(folder),
        Some(error) => {
            // Some tensors were not read: what was written is not this model.
            let removed = fs::remove_dir_all(&folder);
            removed.context(|| format!("cannot remove the incomplete {}", folder.display()))?;
            Err(Failure::run(format!("cannot read {}: {}", source.described, with_causes(&error))))
        }
    }
}

pub(crate) fn export(checkpoint: &Path, out: &Path, dtype: Precision, json: bool) -> Result<(), Failure> {
    let source = Source::checkpoint(checkpoint)?;
    if out.join("config.json").exists() {
        return Err(Failure::usage(format!("{} holds a model already", out.display()))
            .help("choose a new folder with --out"));
    }
    hf::export(&source.model, &*source.tensors, out, machine::dtype(dtype)).map_err(|error| {
        Failure::run(format!("cannot export {}: {}", source.described, with_causes(&error)))
    })?;
    if let Some(path) = &source.tokenizer {
        copy(path, &out.join(TOKENIZER))?;
    }
    report(&source, out, json)
}

fn report(source: &Source, folder: &Path, json: bool) -> Result<(), Failure> {
    let model = &source.model;
    let parameters = triax_spec::parameters(model);
    let tokenizer = source.tokenizer.is_some();
    eprintln!(
        "{}: {} parameters, {} layers of {}{}",
        folder.display(),
        count(parameters as f64),
        model.layers,
        model.hidden,
        if tokenizer { ", with its tokenizer" } else { "; it has no tokenizer.json" }
    );
    if !json {
        return Ok(());
    }
    json_line(&Outcome { folder, parameters, layers: model.layers, hidden: model.hidden, tokenizer })
}
