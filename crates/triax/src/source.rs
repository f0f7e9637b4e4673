//! Where a trained network is taken from: a run folder (its newest checkpoint), one checkpoint, or a Hugging
//! Face folder.
//!
//! ```text
//! run/                                 checkpoint            Hugging Face
//!   tokenizer.json                     shard-….safetensors   config.json
//!   checkpoints/step-00000400/ …       manifest.json         model.safetensors
//!                                                            tokenizer.json
//! ```

use crate::failure::{Context, Failure, with_causes};
use crate::files::TOKENIZER;
use std::path::{Path, PathBuf};
use triax_data::{Identity, Tokenizer};
use triax_model::{TensorSource, hf};
use triax_spec::Model;
use triax_train::checkpoint::{self, Checkpoint};

/// A network on disk.
pub(crate) struct Source {
    pub(crate) model: Model,
    pub(crate) tensors: Box<dyn TensorSource>,
    /// The file beside it, if there is one.
    pub(crate) tokenizer: Option<PathBuf>,
    /// The tokenizer it was trained with, if it says so.
    pub(crate) identity: Option<Identity>,
    /// For messages.
    pub(crate) described: String,
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        if path.join("config.json").is_file() {
            return Self::hugging_face(path);
        }
        Self::checkpoint(path)
    }

    pub(crate) fn hugging_face(folder: &Path) -> Result<Self, Failure> {
        let imported = hf::import(folder).map_err(|error| {
            Failure::run(format!("cannot take {}: {}", folder.display(), with_causes(&error)))
        })?;
        Ok(Self {
            model: imported.model.clone(),
            tokenizer: imported.tokenizer.clone(),
            tensors: Box::new(imported),
            identity: None,
            described: folder.display().to_string(),
        })
    }

    /// A checkpoint, or the newest one of a run folder; every byte of it is verified.
    pub(crate) fn checkpoint(path: &Path) -> Result<Self, Failure> {
        let folder = newest_checkpoint(path)?;
        let opened = Checkpoint::open(&folder)
            .and_then(|checkpoint| checkpoint.verify().map(|()| checkpoint))
            .map_err(|error| Failure::run(with_causes(&error)))?;
        // …/run/checkpoints/step-00000400: the tokenizer lies in the run folder.
        let tokenizer = folder
            .ancestors()
            .take(3)
            .map(|ancestor| ancestor.join(TOKENIZER))
            .find(|candidate| candidate.is_file());
        Ok(Self {
            model: opened.manifest().model.clone(),
            identity: opened.manifest().state.tokenizer.clone(),
            tokenizer,
            described: folder.display().to_string(),
            tensors: Box::new(opened),
        })
    }

    /// The tokenizer: the one given, or else the one beside the network; it must be the one trained with.
    pub(crate) fn tokenizer(&self, given: Option<&Path>) -> Result<Tokenizer, Failure> {
        let Some(path) = given.or(self.tokenizer.as_deref()) else {
            return Err(Failure::usage(format!("there is no {TOKENIZER} beside {}", self.described))
                .help("name it: --tokenizer FILE"));
        };
        let tokenizer = Tokenizer::load(path).context(|| format!("cannot use {}", path.display()))?;
        if let Some(trained) = &self.identity
            && trained.hash != tokenizer.identity().hash
        {
            return Err(Failure::usage(format!(
                "{} is {}, but {} was trained with {}",
                path.display(),
                tokenizer.identity().short(),
                self.described,
                trained.short()
            ))
            .help("name the tokenizer it was trained with: --tokenizer FILE"));
        }
        let vocabulary = tokenizer.identity().vocab as usize;
        if vocabulary > self.model.vocab {
            return Err(Failure::usage(format!(
                "{} has {vocabulary} ids, but {} knows {}",
                path.display(),
                self.described,
                self.model.vocab
            ))
            .help("name the tokenizer it was trained with: --tokenizer FILE"));
        }
        Ok(tokenizer)
    }
}

/// A checkpoint itself, or the newest one of a run folder.
pub(crate) fn newest_checkpoint(path: &Path) -> Result<PathBuf, Failure> {
    if path.join("manifest.json").is_file() { Ok(path.to_owned()) } else { newest(path) }
}

fn newest(run: &Path) -> Result<PathBuf, Failure> {
    let all = checkpoint::list(run).context(|| format!("cannot look into {}", run.display()))?;
    match all.last() {
        Some((_, folder)) => Ok(folder.clone()),
        None if run.exists() => Err(Failure::usage(format!("no network in {}", run.display())).help(
            "give a run folder with checkpoints/, a checkpoint with manifest.json, or a Hugging Face folder with config.json",
        )),
        None => Err(Failure::usage(format!("there is no folder {}", run.display()))),
    }
}
