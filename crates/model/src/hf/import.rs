//! From a Hugging Face folder to a model and its tensors.

use super::{Architecture, config, files::Files, names};
use crate::{ModelError, TensorSource};
use names::Form;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use triax_spec::model::Model;

/// A folder whose config and headers have been checked; tensors are read when asked for.
pub struct Imported {
    pub model: Model,
    /// `tokenizer.json`, when the folder has one.
    pub tokenizer: Option<PathBuf>,
    files: Files,
    forms: HashMap<String, Form>,
    /// What the files leave out of the names, when a model was saved without its output layer.
    missing_prefix: &'static str,
}

/// Opens a folder and checks that its tensors are exactly those of its config.
pub fn import(folder: &Path) -> Result<Imported, ModelError> {
    let (architecture, model) = config::read(&folder.join("config.json"))?;
    let files = Files::open(folder)?;
    let prefix = names::prefix(architecture);
    let missing_prefix = if files.names().any(|name| name.starts_with(prefix)) { "" } else { prefix };
    let forms = names::forms(architecture, &model);
    let tokenizer = Some(folder.join("tokenizer.json")).filter(|path| path.exists());
    let imported = Imported {
        model,
        tokenizer,
        files,
        forms: forms.into_iter().map(|form| (form.ours.clone(), form)).collect(),
        missing_prefix,
    };
    imported.check(architecture, folder)?;
    Ok(imported)
}

impl Imported {
    fn stored<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(self.missing_prefix).unwrap_or(name)
    }

    fn check(&self, architecture: Architecture, folder: &Path) -> Result<(), ModelError> {
        let mut used = HashSet::new();
        for (name, dims) in self.forms.values().flat_map(|form| &form.theirs) {
            self.files.check(self.stored(name), dims)?;
            used.insert(self.stored(name));
        }
        if self.model.tied && self.files.has(names::HEAD) {
            self.check_tied_head(folder)?;
            used.insert(names::HEAD);
        }
        let constants = names::constants(architecture);
        let unknown = |name: &&str| !used.contains(name) && !constants.iter().any(|end| name.ends_with(end));
        match self.files.names().find(unknown) {
            Some(name) => Err(ModelError::file(
                folder,
                format!("tensor `{name}` has no place in this {} model", architecture.name()),
            )),
            None => Ok(()),
        }
    }

    fn check_tied_head(&self, folder: &Path) -> Result<(), ModelError> {
        let embedding = &self.forms["embedding.tokens.weight"].theirs[0];
        self.files.check(names::HEAD, &embedding.1)?;
        let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        if same(&self.files.read(names::HEAD)?, &self.files.read(self.stored(&embedding.0))?) {
            return Ok(());
        }
        Err(ModelError::file(
            folder,
            format!(
                "`{}` differs from the embedding, but tie_word_embeddings says they are one",
                names::HEAD
            ),
        ))
    }
}

impl TensorSource for Imported {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let form = self.forms.get(name).ok_or_else(|| ModelError::NoTensor {
            name: name.into(),
            available: format!(
                "{} tensors from `embedding.tokens.weight` to `norm.weight`",
                self.forms.len()
            ),
        })?;
        let theirs: Vec<Vec<f32>> = form
            .theirs
            .iter()
            .map(|(name, _)| self.files.read(self.stored(name)))
            .collect::<Result<_, _>>()?;
        Ok(form.to_ours(&theirs))
    }
}
