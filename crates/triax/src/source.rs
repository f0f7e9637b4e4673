//! Where a trained network is taken from: a run folder (its newest checkpoint), one checkpoint, a Hugging
//! Face folder, or a GGUF file.
//!
//! ```text
//! run/                                 checkpoint            Hugging Face
//!   tokenizer.json                     shard-….safetensors   config.json
//!   checkpoints/step-00000400/ …       manifest.json         model.safetensors
//!                                                            tokenizer.json
//! ```

use crate::arguments::Quantise;
use crate::failure::{Context, Failure, with_causes};
use crate::files::TOKENIZER;
use crate::{chat_template, vocabulary};
use std::path::{Path, PathBuf};
use triax_data::{Identity, Tokenizer, Vocabulary};
use triax_model::{Requantised, TensorSource, gguf, hf};
use triax_serve::ChatTemplate;
use triax_spec::Model;
use triax_spec::run::DeviceKind;
use triax_tensor::{Coding, DType};
use triax_train::checkpoint::{self, Checkpoint};

/// A network on disk.
pub(crate) struct Source {
    pub(crate) model: Model,
    pub(crate) tensors: Box<dyn TensorSource>,
    /// The file beside it, if there is one.
    pub(crate) tokenizer: Option<PathBuf>,
    /// The one inside it, if there is one; or why it cannot be used.
    pub(crate) vocabulary: Option<Result<Vocabulary, String>>,
    /// The template inside it, if there is one.
    pub(crate) chat_template: Option<ChatTemplate>,
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
        if path.is_file() {
            return Self::gguf(path);
        }
        Self::checkpoint(path)
    }

    pub(crate) fn gguf(path: &Path) -> Result<Self, Failure> {
        let imported = gguf::import(path)
            .map_err(|error| Failure::run(format!("cannot take {}", with_causes(&error))))?;
        Ok(Self {
            model: imported.model.clone(),
            tokenizer: None,
            vocabulary: vocabulary::of_metadata(&imported.metadata).transpose(),
            chat_template: chat_template::of_metadata(&imported.metadata),
            tensors: Box::new(imported),
            identity: None,
            described: path.display().to_string(),
        })
    }

    /// With the weights of linear layers in `quantise`, where that is asked for.
    pub(crate) fn quantised(mut self, quantise: Option<Quantise>) -> Self {
        if let Some(quantise) = quantise {
            let coding = match quantise {
                Quantise::Int8 => Coding::Q8_0,
                Quantise::Int4 => Coding::Q4_1,
            };
            self.tensors = Box::new(Requantised::new(&self.model, self.tensors, coding));
        }
        self
    }

    /// Of keys and values beside such activations: f16 with f32 on the CPU, which loses less than int8 products.
    pub(crate) fn cache(&self, device: DeviceKind) -> DType {
        match (device, self.activations(device)) {
            (DeviceKind::Cpu, DType::F32) => DType::F16,
            (_, dtype) => dtype,
        }
    }

    /// Of activations: f32 on the reference device and beside quantised weights, whose products round them
    /// anyway; else bf16, as trained.
    pub(crate) fn activations(&self, device: DeviceKind) -> DType {
        let quantised = self.tensors.coding("layer.0.attention.output.weight").is_some();
        if quantised || device == DeviceKind::Reference { DType::F32 } else { DType::Bf16 }
    }

    pub(crate) fn hugging_face(folder: &Path) -> Result<Self, Failure> {
        let imported = hf::import(folder).map_err(|error| {
            Failure::run(format!("cannot take {}: {}", folder.display(), with_causes(&error)))
        })?;
        Ok(Self {
            model: imported.model.clone(),
            tokenizer: imported.tokenizer.clone(),
            tensors: Box::new(imported),
            vocabulary: None,
            chat_template: chat_template::of_folder(folder)?,
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
            vocabulary: None,
            chat_template: chat_template::of_folder(path)?,
            identity: opened.manifest().state.tokenizer.clone(),
            tokenizer,
            described: folder.display().to_string(),
            tensors: Box::new(opened),
        })
    }

    /// The tokenizer: the one given, or else the one beside the network; it must be the one trained with.
    pub(crate) fn tokenizer(&self, given: Option<&Path>) -> Result<Tokenizer, Failure> {
        if let (None, Some(vocabulary)) = (given, &self.vocabulary) {
            let vocabulary = vocabulary.as_ref().map_err(|reason| {
                Failure::usage(format!("cannot use the tokenizer in {}: {reason}", self.described))
                    .help("name another one: --tokenizer FILE")
            })?;
            return Tokenizer::from_vocabulary(&self.described, vocabulary)
                .context(|| format!("cannot use the tokenizer in {}", self.described));
        }
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
            "give a run folder with checkpoints/, a checkpoint with manifest.json, a Hugging Face folder with config.json, or a GGUF file",
        )),
        None => Err(Failure::usage(format!("there is no folder {}", run.display()))),
    }
}
