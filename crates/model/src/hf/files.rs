//! Safetensors files of a folder: headers at once, tensors when they are asked for.

use crate::ModelError;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Longest header that is believed, as in the safetensors crate.
const LONGEST_HEADER: u64 = 100_000_000;

pub(crate) struct Files {
    folder: PathBuf,
    files: Vec<(PathBuf, Header)>,
    /// Tensor name to index of its file.
    tensors: BTreeMap<String, usize>,
}

struct Header {
    metadata: Metadata,
    /// Bytes before the first tensor.
    data_start: u64,
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl Files {
    /// Opens `model.safetensors`, or the shards of `model.safetensors.index.json`.
    pub(crate) fn open(folder: &Path) -> Result<Self, ModelError> {
        let (single, index) = (folder.join("model.safetensors"), folder.join("model.safetensors.index.json"));
        let mut files = Self { folder: folder.into(), files: Vec::new(), tensors: BTreeMap::new() };
        match (single.exists(), index.exists()) {
            (true, _) => files.add(single)?,
            (false, true) => files.add_shards(&index)?,
            (false, false) => {
                return Err(ModelError::file(
                    folder,
                    "has neither model.safetensors nor model.safetensors.index.json; \
                     other weight files must be converted to safetensors first",
                ));
            }
        }
        Ok(files)
    }

    fn add_shards(&mut self, path: &Path) -> Result<(), ModelError> {
        let text = std::fs::read(path).map_err(|e| ModelError::io(path, e))?;
        let index: Index =
            serde_json::from_slice(&text).map_err(|source| ModelError::Json { path: path.into(), source })?;
        let mut shards: Vec<&String> = index.weight_map.values().collect();
        shards.sort();
        shards.dedup();
        for shard in shards {
            if Path::new(shard).file_name() != Some(shard.as_ref()) {
                return Err(ModelError::file(path, format!("shard `{shard}` is not a file of this folder")));
            }
            self.add(self.folder.join(shard))?;
        }
        for (name, shard) in &index.weight_map {
            match self.tensors.get(name) {
                Some(&file) if self.files[file].0 == self.folder.join(shard) => {}
                _ => {
                    return Err(ModelError::file(path, format!("tensor `{name}` is not in shard `{shard}`")));
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf) -> Result<(), ModelError> {
        let header = Header::read(&path)?;
        for name in header.metadata.offset_keys() {
            if let Some(&other) = self.tensors.get(&name) {
                let other = self.files[other].0.display();
                return Err(ModelError::file(path, format!("tensor `{name}` is also in {other}")));
            }
            self.tensors.insert(name, self.files.len());
        }
        self.files.push((path, header));
        Ok(())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Checks shape and type of a tensor.
    pub(crate) fn check(&self, name: &str, dims: &[usize]) -> Result<(), ModelError> {
        let Some(&file) = self.tensors.get(name) else {
            return Err(ModelError::file(&self.folder, format!("has no tensor `{name}`")));
        };
        let (path, header) = &self.files[file];
        let info = header.metadata.info(name).expect("names come from the headers");
        if info.shape != dims {
            let found = &info.shape;
            return Err(ModelError::file(
                path,
                format!("tensor `{name}` is {found:?}, the config says {dims:?}"),
            ));
        }
        if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            let found = info.dtype;
            return Err(ModelError::file(
                path,
                format!("tensor `{name}` is {found:?}, not F32, F16 or BF16"),
            ));
        }
        Ok(())
    }

    /// The elements of a tensor that [`Files::check`] has accepted.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let Some(&file) = self.tensors.get(name) else {
            return Err(ModelError::file(&self.folder, format!("has no tensor `{name}`")));
        };
        let (path, header) = &self.files[file];
        let info = header.metadata.info(name).expect("names come from the headers");
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        let mut open = || {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(header.data_start + start as u64))?;
            file.read_exact(&mut bytes)
        };
        open().map_err(|e| ModelError::io(path, e))?;
        match info.dtype {
            Dtype::F32 => {
                Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
            }
            Dtype::F16 => Ok(halves(&bytes).map(|b| f16::from_le_bytes(b).to_f32()).collect()),
            Dtype::BF16 => Ok(halves(&bytes).map(|b| bf16::from_le_bytes(b).to_f32()).collect()),
            other => {
                Err(ModelError::file(path, format!("tensor `{name}` is {other:?}, not F32, F16 or BF16")))
            }
        }
    }
}

fn halves(bytes: &[u8]) -> impl Iterator<Item = [u8; 2]> {
    bytes.chunks_exact(2).map(|b| [b[0], b[1]])
}

impl Header {
    fn read(path: &Path) -> Result<Self, ModelError> {
        let io = |e| ModelError::io(path, e);
        let mut file = File::open(path).map_err(io)?;
        let total = file.metadata().map_err(io)?.len();
        let mut length = [0; 8];
        if total < 8 {
            return Err(ModelError::file(path, format!("is {total} bytes long, too short for safetensors")));
        }
        file.read_exact(&mut length).map_err(io)?;
        let length = u64::from_le_bytes(length);
        if length > LONGEST_HEADER || length > total - 8 {
            let what = format!(
                "claims a header of {length} bytes in a file of {total}: not safetensors, or damaged"
            );
            return Err(ModelError::file(path, what));
        }
        let mut text = vec![0; length as usize];
        file.read_exact(&mut text).map_err(io)?;
        let metadata: Metadata =
            serde_json::from_slice(&text).map_err(|source| ModelError::Json { path: path.into(), source })?;
        let (data_start, expected) = (8 + length, 8 + length + metadata.data_len() as u64);
        if expected != total {
            let what =
                format!("is {total} bytes long, its header describes {expected}: truncated or damaged");
            return Err(ModelError::file(path, what));
        }
        Ok(Self { metadata, data_start })
    }
}
