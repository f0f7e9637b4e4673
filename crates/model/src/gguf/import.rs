//! From a GGUF file to a model and its tensors.

use super::config;
use super::metadata::Metadata;
use super::names::{Form, forms};
use super::parse::{Info, Kind, head};
use crate::{ModelError, TensorSource};
use half::{bf16, f16};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use triax_spec::model::Model;
use triax_tensor::Coding;

/// A file whose head has been checked; tensors are read when asked for.
pub struct Imported {
    pub model: Model,
    /// Everything the file says, its tokenizer among it.
    pub metadata: Metadata,
    path: PathBuf,
    tensors: HashMap<String, Info>,
    forms: HashMap<String, Form>,
}

/// Opens a file and checks that its tensors are exactly those of its metadata.
pub fn import(path: &Path) -> Result<Imported, ModelError> {
    let file = File::open(path).map_err(|e| ModelError::io(path, e))?;
    let length = file.metadata().map_err(|e| ModelError::io(path, e))?.len();
    let head =
        head(BufReader::with_capacity(1 << 20, file), length).map_err(|e| ModelError::file(path, e))?;
    let model = config::model(path, &head)?;
    let tensors: HashMap<String, Info> = head.tensors.into_iter().map(|t| (t.name.clone(), t)).collect();
    // A model with more layers than tensors is refused before its names are made.
    if model.layers > tensors.len() {
        return Err(ModelError::file(
            path,
            format!("has {} tensors for {} layers", tensors.len(), model.layers),
        ));
    }
    let forms = forms(&model);
    let mut used = HashSet::new();
    for (name, dims) in forms.iter().flat_map(|form| &form.theirs) {
        match tensors.get(name) {
            None => return Err(ModelError::file(path, format!("has no tensor `{name}`"))),
            Some(info) if info.dims != *dims => {
                let found = &info.dims;
                let what = format!("tensor `{name}` is {found:?}, the metadata says {dims:?}");
                return Err(ModelError::file(path, what));
            }
            Some(_) => used.insert(name.as_str()),
        };
    }
    if let Some(name) = tensors.keys().find(|name| !used.contains(name.as_str())) {
        return Err(ModelError::file(path, format!("tensor `{name}` has no place in this llama model")));
    }
    let forms = forms.into_iter().map(|form| (form.ours.clone(), form)).collect();
    Ok(Imported { model, metadata: head.metadata, path: path.to_owned(), tensors, forms })
}

impl Imported {
    fn form(&self, name: &str) -> Result<&Form, ModelError> {
        self.forms.get(name).ok_or_else(|| ModelError::NoTensor {
            name: name.into(),
            available: format!(
                "{} tensors from `embedding.tokens.weight` to `norm.weight`",
                self.forms.len()
            ),
        })
    }

    fn bytes(&self, info: &Info) -> Result<Vec<u8>, ModelError> {
        let mut bytes = vec![0; info.bytes as usize];
        let mut read = || {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(info.offset))?;
            file.read_exact(&mut bytes)
        };
        read().map_err(|e| ModelError::io(&self.path, e))?;
        Ok(bytes)
    }

    fn numbers(&self, info: &Info) -> Result<Vec<f32>, ModelError> {
        let bytes = self.bytes(info)?;
        let halves = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
        Ok(match info.kind {
            Kind::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Kind::F16 => halves().map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            Kind::Bf16 => halves().map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            Kind::Blocks(coding) => {
                let mut values = vec![0.0; info.dims.iter().product()];
                coding.dequantise(&bytes, &mut values);
                values
            }
        })
    }

    /// The parts of one of our tensors.
    fn parts<'a>(&'a self, form: &'a Form) -> impl Iterator<Item = &'a Info> {
        form.theirs.iter().map(|(name, _)| &self.tensors[name])
    }
}

impl TensorSource for Imported {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let form = self.form(name)?;
        let mut rows = Vec::new();
        for info in self.parts(form) {
            rows.extend(self.numbers(info)?);
        }
        let (outer, inner) = form.dims();
        let rows = form.ordered(&rows, inner);
        if !form.transposed {
            return Ok(rows);
        }
        Ok((0..inner)
            .flat_map(|col| (0..outer).map(move |row| (row, col)))
            .map(|(r, c)| rows[r * inner + c])
            .collect())
    }

    fn coding(&self, name: &str) -> Option<Coding> {
        let mut common = None;
        for info in self.parts(self.forms.get(name)?) {
            let Kind::Blocks(coding) = info.kind else { return None };
            common = match common {
                None => Some(coding),
                Some(known) if known == coding => common,
                Some(_) => Some(Coding::Wide),
            };
        }
        common
    }

    fn blocks(&self, name: &str) -> Result<Vec<u8>, ModelError> {
        let form = self.form(name)?;
        let Some(common) = self.coding(name) else {
            return Err(ModelError::NoTensor {
                name: name.into(),
                available: "the same as numbers, not as blocks".into(),
            });
        };
        let mut rows = Vec::new();
        for info in self.parts(form) {
            let bytes = self.bytes(info)?;
            match info.kind {
                Kind::Blocks(coding) if coding != common => rows.extend(coding.widen(&bytes)),
                _ => rows.extend(bytes),
            }
        }
        Ok(form.ordered(&rows, common.row_bytes(form.dims().1)))
    }
}
