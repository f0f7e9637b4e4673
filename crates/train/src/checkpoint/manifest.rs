//! The manifest: everything a checkpoint says about itself, and the rules that make it believable.
//!
//! Whole numbers are JSON numbers (read back exactly up to 64 bits); statistics that decide, where every bit
//! counts, are [`Bits`]: the sixteen hexadecimal digits of the f64.

use super::error::Fault;
use crate::loss_scale::LossScaler;
use crate::watch::WatchState;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use triax_data::Identity;
use triax_spec::{Model, Progress};

pub(super) const FORMAT: &str = "triax checkpoint";
pub(super) const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `triax checkpoint`.
    pub format: String,
    pub version: u32,
    pub model: Model,
    pub state: State,
    pub files: Vec<FileEntry>,
    pub tensors: Vec<TensorEntry>,
}

/// Where a run stands, apart from its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub progress: Progress,
    /// Optimizer updates so far: the steps that were not skipped. Adam's bias correction counts these.
    pub updates: u64,
    pub data: DataOrder,
    pub loss_scale: Option<LossScaler>,
    pub watch: WatchState,
    /// Samples that took no part in training, in the order they were met.
    pub skipped: Vec<Skipped>,
    pub tokenizer: Option<Identity>,
}

/// Which sample comes when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataOrder {
    pub seed: u64,
    /// Tokens a sample.
    pub sequence: usize,
    /// Every source of every stage; a source's place here is part of its order.
    pub sources: Vec<PathBuf>,
    pub stages: Vec<Stage>,
}

/// The blend from sample `start` on; one weight for each source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    pub start: u64,
    pub weights: Vec<Bits>,
}

/// The samples `start..end` did not change the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skipped {
    /// The step that met them.
    pub step: u64,
    pub start: u64,
    pub end: u64,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    pub name: String,
    pub bytes: u64,
    /// Of the whole file, in hexadecimal.
    pub blake3: String,
}

/// A named tensor, cut into slices of its flat, row-by-row elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    pub name: String,
    /// Of the whole tensor.
    pub dims: Vec<usize>,
    pub slices: Vec<Slice>,
}

/// The elements `start..end`, in a shard under [`Slice::key`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    pub file: String,
    pub start: u64,
    pub end: u64,
    /// `f32`.
    pub dtype: String,
    /// Of the slice's bytes, in hexadecimal.
    pub blake3: String,
}

impl TensorEntry {
    /// Number of elements; none when it does not fit 64 bits.
    pub fn elements(&self) -> Option<u64> {
        self.dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim as u64))
    }
}

impl Slice {
    /// The tensor's own name for a whole tensor, `name[start..end]` for a part.
    pub fn key(&self, name: &str, elements: u64) -> String {
        if self.start == 0 && self.end == elements {
            name.to_owned()
        } else {
            format!("{name}[{}..{}]", self.start, self.end)
        }
    }
}

impl Manifest {
    /// Reads and checks a manifest; never panics, whatever the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| Fault::Manifest { reason: error.to_string() })?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Human-readable JSON with a newline at the end.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("strings and finite numbers always serialize");
        text.push(b'\n');
        text
    }

    fn check(&self) -> Result<(), Fault> {
        let wrong = |what: String| Err(Fault::Contradiction { what });
        if self.format != FORMAT || self.version != VERSION {
            return wrong(format!(
                "format `{}`, version {}; this program reads `{FORMAT}`, version {VERSION}",
                self.format, self.version
            ));
        }
        for stage in &self.state.data.stages {
            if stage.weights.len() != self.state.data.sources.len() {
                return wrong(format!(
                    "the blend from sample {} has {} weights for {} sources",
                    stage.start,
                    stage.weights.len(),
                    self.state.data.sources.len()
                ));
            }
        }
        let mut files = HashMap::new();
        for file in &self.files {
            if !is_shard_name(&file.name) {
                return wrong(format!(
                    "`{}` is not the name of a shard, shard-<number>.safetensors or shard-<rank>-<number>.safetensors",
                    file.name
                ));
            }
            if files.insert(file.name.as_str(), file.bytes).is_some() {
                return wrong(format!("{} is listed twice", file.name));
            }
            if !is_hash(&file.blake3) {
                return wrong(format!("checksum of {} is not 64 hexadecimal digits", file.name));
            }
        }
        let mut names = HashSet::new();
        for tensor in &self.tensors {
            if !names.insert(tensor.name.as_str()) {
                return wrong(format!("tensor `{}` is listed twice", tensor.name));
            }
            let Some(elements) = tensor.elements() else {
                return wrong(format!("tensor `{}` is too large: {:?}", tensor.name, tensor.dims));
            };
            let mut next = 0;
            for slice in &tensor.slices {
                if slice.start != next || slice.end <= slice.start || slice.end > elements {
                    return wrong(format!(
                        "tensor `{}` of {elements} elements: slice {}..{} where one from {next} was due",
                        tensor.name, slice.start, slice.end
                    ));
                }
                next = slice.end;
                let Some(&bytes) = files.get(slice.file.as_str()) else {
                    return wrong(format!(
                        "tensor `{}` is said to be in {}, which is not listed",
                        tensor.name, slice.file
                    ));
                };
                if (slice.end - slice.start).checked_mul(4).is_none_or(|needed| needed > bytes) {
                    return wrong(format!("a slice of `{}` is larger than {}", tensor.name, slice.file));
                }
                if slice.dtype != "f32" || !is_hash(&slice.blake3) {
                    return wrong(format!(
                        "a slice of `{}` has dtype `{}` and checksum `{}`; f32 and 64 hexadecimal digits were due",
                        tensor.name, slice.dtype, slice.blake3
                    ));
                }
            }
            if next != elements {
                return wrong(format!("tensor `{}`: elements {next}..{elements} are nowhere", tensor.name));
            }
        }
        Ok(())
    }
}

fn is_shard_name(name: &str) -> bool {
    name.strip_prefix("shard-").and_then(|rest| rest.strip_suffix(".safetensors")).is_some_and(|numbers| {
        numbers.split('-').all(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// For fuzzing: whatever the bytes, reading ends with a manifest that survives a round trip or with an error.
pub fn fuzz_manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::parse(bytes) {
        let again = Manifest::parse(&manifest.to_json()).expect("a manifest this program wrote is readable");
        assert_eq!(again.to_json(), manifest.to_json(), "writing and reading keeps a manifest as it is");
    }
}

/// An f64 that JSON keeps bit for bit.
#[derive(Clone, Copy, Debug)]
pub struct Bits(pub f64);

impl PartialEq for Bits {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Serialize for Bits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0.to_bits()))
    }
}

impl<'de> Deserialize<'de> for Bits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hexadecimal = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u64::from_str_radix(&text, 16) {
            Ok(bits) if hexadecimal => Ok(Self(f64::from_bits(bits))),
            _ => {
                Err(serde::de::Error::custom(format!("`{text}` is not the 16 hexadecimal digits of an f64")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_f64_keeps_its_bits(bits: u64) {
            let text = serde_json::to_string(&Bits(f64::from_bits(bits))).unwrap();
            let back: Bits = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back.0.to_bits(), bits);
        }

        #[test]
        fn every_u64_keeps_its_value(step: u64, samples: u64, tokens: u64) {
            let progress = Progress { step, samples, tokens };
            let text = serde_json::to_string(&progress).unwrap();
            prop_assert_eq!(serde_json::from_str::<Progress>(&text).unwrap(), progress);
        }
    }

    #[test]
    fn the_corpus_is_read_or_refused_without_a_panic() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        let mut read = 0;
        let mut accepted = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            fuzz_manifest(&bytes);
            for cut in (0..bytes.len()).step_by(37) {
                fuzz_manifest(&bytes[..cut]);
            }
            read += 1;
            accepted += usize::from(Manifest::parse(&bytes).is_ok());
        }
        assert!(read >= 8, "the corpus has {read} files");
        assert!(accepted >= 1 && accepted < read);
    }
}
