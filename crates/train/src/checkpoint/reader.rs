//! Reads a checkpoint: all checks first, values after, so that nothing is ever loaded in part.

use super::error::{CheckpointError, Fault};
use super::manifest::{Manifest, Slice, TensorEntry};
use super::shards::{Moment, TensorShape};
use super::{CHECKSUM, MANIFEST};
use safetensors::tensor::{Dtype, Metadata};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use triax_model::{ModelError, TensorSource};
use triax_spec::Model;

/// Bytes read at a time.
const CHUNK: usize = 4 << 20;
/// As in the safetensors library: no honest header is longer.
const LONGEST_HEADER: u64 = 100_000_000;

/// A checkpoint whose manifest, sizes and headers fit together.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    manifest: Manifest,
    /// File and byte position of every slice's data.
    places: HashMap<String, (String, u64)>,
    /// Where in the manifest each tensor is.
    by_name: HashMap<String, usize>,
}

/// Checks every size, name and hash of the checkpoint in `folder`.
pub fn verify(folder: &Path) -> Result<Manifest, CheckpointError> {
    let checkpoint = Checkpoint::open(folder)?;
    checkpoint.verify()?;
    Ok(checkpoint.manifest)
}

impl Checkpoint {
    /// Reads the manifest and the shards' headers and compares them with one another and with the folder.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let damaged = |fault| CheckpointError::Damaged { folder: folder.to_owned(), fault };
        let manifest = read_manifest(folder).map_err(damaged)?;
        let mut places = HashMap::new();
        for file in &manifest.files {
            let data = read_header(folder, &file.name, file.bytes, &manifest).map_err(damaged)?;
            places.extend(data.into_iter().map(|(key, at)| (key, (file.name.clone(), at))));
        }
        for entry in list_shards(folder).map_err(damaged)? {
            if !manifest.files.iter().any(|file| file.name == entry) {
                return Err(damaged(Fault::Unlisted { file: entry }));
            }
        }
        let names = manifest.tensors.iter().enumerate();
        let by_name = names.map(|(index, tensor)| (tensor.name.clone(), index)).collect();
        Ok(Self { folder: folder.to_owned(), manifest, places, by_name })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Reads every byte and compares the hashes.
    pub fn verify(&self) -> Result<(), CheckpointError> {
        for file in &self.manifest.files {
            let hash = self.hash_file(&file.name).map_err(|fault| self.damaged(fault))?;
            if hash != file.blake3 {
                return Err(self.damaged(Fault::Hash { what: file.name.clone() }));
            }
        }
        for tensor in &self.manifest.tensors {
            self.read(&tensor.name, |_, _| ())?;
        }
        Ok(())
    }

    /// Refuses a checkpoint of another model, or one whose tensors are not exactly `tensors`.
    pub fn check_model(&self, model: &Model, tensors: &[TensorShape]) -> Result<(), CheckpointError> {
        let mismatch = |what| Err(CheckpointError::Mismatch { folder: self.folder.clone(), what });
        let differences = model_differences(&self.manifest.model, model);
        if !differences.is_empty() {
            return mismatch(format!("its model differs: {}", differences.join(", ")));
        }
        let mut there: HashMap<&str, &TensorEntry> =
            self.manifest.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        for wanted in tensors {
            match there.remove(wanted.name.as_str()) {
                None => return mismatch(format!("tensor `{}` is missing", wanted.name)),
                Some(found) if found.dims != wanted.dims => {
                    return mismatch(format!(
                        "tensor `{}` is {:?}, the model needs {:?}",
                        wanted.name, found.dims, wanted.dims
                    ));
                }
                Some(_) => {}
            }
        }
        match there.keys().min() {
            Some(unknown) => mismatch(format!("the model has no tensor `{unknown}`")),
            None => Ok(()),
        }
    }

    /// Reads a tensor in pieces, in order: `take` gets the place of the first element and the piece. The hash of
    /// each slice is compared once more after its last piece.
    pub fn read(&self, name: &str, take: impl FnMut(usize, &[f32])) -> Result<(), CheckpointError> {
        let Some(&index) = self.by_name.get(name) else { return Err(self.no_tensor(name)) };
        let elements = self.manifest.tensors[index].elements();
        let elements = elements.expect("sizes were checked when the manifest was read");
        self.read_range(name, &(0..elements as usize), take)
    }

    /// Reads the elements `range` of a tensor in pieces, in order. Only hashes of slices that are read whole can be
    /// compared; [`Checkpoint::verify`] compares all.
    pub fn read_range(
        &self,
        name: &str,
        range: &Range<usize>,
        mut take: impl FnMut(usize, &[f32]),
    ) -> Result<(), CheckpointError> {
        let Some(&index) = self.by_name.get(name) else { return Err(self.no_tensor(name)) };
        let tensor = &self.manifest.tensors[index];
        let elements = tensor.elements().expect("sizes were checked when the manifest was read");
        let mut buffer = vec![0f32; range.len().min(CHUNK / 4)];
        for slice in &tensor.slices {
            let wanted = range.start.max(slice.start as usize)..range.end.min(slice.end as usize);
            if !wanted.is_empty() {
                self.read_slice(name, elements, slice, wanted, &mut buffer, &mut take)
                    .map_err(|fault| self.damaged(fault))?;
            }
        }
        Ok(())
    }

    fn no_tensor(&self, name: &str) -> CheckpointError {
        CheckpointError::Mismatch { folder: self.folder.clone(), what: format!("it has no tensor `{name}`") }
    }

    fn read_slice(
        &self,
        name: &str,
        elements: u64,
        slice: &Slice,
        wanted: Range<usize>,
        buffer: &mut [f32],
        take: &mut impl FnMut(usize, &[f32]),
    ) -> Result<(), Fault> {
        let unreadable =
            |error: std::io::Error| Fault::Unreadable { file: slice.file.clone(), reason: error.to_string() };
        let (_, at) = self.places[&slice.key(name, elements)];
        let mut file = File::open(self.folder.join(&slice.file)).map_err(unreadable)?;
        let inside = 4 * (wanted.start as u64 - slice.start);
        file.seek(SeekFrom::Start(at + inside)).map_err(unreadable)?;
        let mut hash = blake3::Hasher::new();
        let whole = wanted == (slice.start as usize..slice.end as usize);
        let (mut next, end) = (wanted.start, wanted.end);
        while next < end {
            let piece = (end - next).min(buffer.len());
            let values = &mut buffer[..piece];
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(values);
            file.read_exact(bytes).map_err(unreadable)?;
            hash.update(bytes);
            take(next, values);
            next += piece;
        }
        if whole && hash.finalize().to_string() != slice.blake3 {
            return Err(Fault::Hash { what: format!("tensor `{name}` in {}", slice.file) });
        }
        Ok(())
    }

    fn hash_file(&self, name: &str) -> Result<String, Fault> {
        let unreadable =
            |error: std::io::Error| Fault::Unreadable { file: name.into(), reason: error.to_string() };
        let mut file = File::open(self.folder.join(name)).map_err(unreadable)?;
        let mut hash = blake3::Hasher::new();
        let mut buffer = vec![0; CHUNK];
        loop {
            match file.read(&mut buffer).map_err(unreadable)? {
                0 => return Ok(hash.finalize().to_string()),
                read => hash.update(&buffer[..read]),
            };
        }
    }

    fn damaged(&self, fault: Fault) -> CheckpointError {
        CheckpointError::Damaged { folder: self.folder.clone(), fault }
    }
}

/// The weights under their names in the model, for evaluation, generation and export.
impl TensorSource for Checkpoint {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let mut values = Vec::new();
        let read = self.read(&Moment::Weight.of(name), |_, piece| values.extend_from_slice(piece));
        read.map(|()| values).map_err(|error| self.model_error(name, &error))
    }

    /// Reads no more of the files than these.
    fn elements(&self, name: &str, dims: &[usize], range: Range<usize>) -> Result<Vec<f32>, ModelError> {
        let stored = Moment::Weight.of(name);
        if let Some(&index) = self.by_name.get(&stored) {
            let found = self.manifest.tensors[index].elements();
            let found = found.expect("sizes were checked when the manifest was read") as usize;
            let expected: usize = dims.iter().product();
            if found != expected {
                return Err(ModelError::TensorLength {
                    name: name.into(),
                    found,
                    expected,
                    dims: dims.to_vec(),
                });
            }
        }
        let mut values = Vec::with_capacity(range.len());
        let read = self.read_range(&stored, &range, |_, piece| values.extend_from_slice(piece));
        read.map(|()| values).map_err(|error| self.model_error(name, &error))
    }
}

impl Checkpoint {
    fn model_error(&self, name: &str, error: &CheckpointError) -> ModelError {
        match error {
            CheckpointError::Mismatch { .. } => ModelError::NoTensor {
                name: name.into(),
                available: format!("{} tensors in {}", self.manifest.tensors.len(), self.folder.display()),
            },
            error => ModelError::File { path: self.folder.clone(), what: error.to_string() },
        }
    }
}

fn read_manifest(folder: &Path) -> Result<Manifest, Fault> {
    let read = |name: &str| {
        fs::read(folder.join(name)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Fault::Missing { file: name.into() },
            _ => Fault::Unreadable { file: name.into(), reason: error.to_string() },
        })
    };
    let text = read(MANIFEST)?;
    let checksum = read(CHECKSUM)?;
    if checksum != format!("{}  {MANIFEST}\n", blake3::hash(&text)).into_bytes() {
        return Err(Fault::Hash { what: MANIFEST.into() });
    }
    Manifest::parse(&text)
}

/// Positions of the data of each slice in a shard, after comparing its header with the manifest.
fn read_header(
    folder: &Path,
    name: &str,
    expected: u64,
    manifest: &Manifest,
) -> Result<Vec<(String, u64)>, Fault> {
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Fault::Missing { file: name.into() },
        _ => Fault::Unreadable { file: name.into(), reason: error.to_string() },
    };
    let wrong = |what: String| Fault::Shard { file: name.into(), what };
    let mut file = File::open(folder.join(name)).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?.len();
    if found != expected {
        return Err(Fault::Size { file: name.into(), expected, found });
    }
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(unreadable)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER.min(expected) {
        return Err(wrong(format!("a header of {length} bytes in a file of {expected}")));
    }
    let mut json = vec![0; length as usize];
    file.read_exact(&mut json).map_err(unreadable)?;
    let header: Metadata = serde_json::from_slice(&json)
        .map_err(|error| wrong(format!("the header is no safetensors header: {error}")))?;
    let data = 8 + length;
    if data + header.data_len() as u64 != found {
        return Err(wrong(format!("the header promises {} bytes of data", header.data_len())));
    }
    let mut unlisted = header.tensors();
    let mut places = Vec::new();
    for tensor in &manifest.tensors {
        let elements = tensor.elements().unwrap_or(0);
        for slice in tensor.slices.iter().filter(|slice| slice.file == name) {
            let key = slice.key(&tensor.name, elements);
            let Some(info) = unlisted.remove(&key) else {
                return Err(wrong(format!("`{key}` is missing")));
            };
            let (start, end) = info.data_offsets;
            if info.dtype != Dtype::F32 || (end - start) as u64 != 4 * (slice.end - slice.start) {
                return Err(wrong(format!("`{key}` is {:?} {:?}", info.dtype, info.shape)));
            }
            places.push((key, data + start as u64));
        }
    }
    match unlisted.keys().min() {
        Some(key) => Err(wrong(format!("`{key}` is not in manifest.json"))),
        None => Ok(places),
    }
}

fn list_shards(folder: &Path) -> Result<Vec<String>, Fault> {
    let unreadable =
        |error: std::io::Error| Fault::Unreadable { file: ".".into(), reason: error.to_string() };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") {
            names.push(name);
        }
    }
    Ok(names)
}

/// The fields in which two models differ; dropout and first values may change during a run.
fn model_differences(there: &Model, wanted: &Model) -> Vec<String> {
    let fields = |model: &Model| match serde_json::to_value(model) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => unreachable!("a model serializes as an object"),
    };
    let (there, wanted) = (fields(there), fields(wanted));
    wanted
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "dropout" | "init"))
        .filter(|(name, value)| there.get(*name) != Some(value))
        .map(|(name, value)| {
            let found = there.get(name).map_or("nothing".into(), ToString::to_string);
            format!("{name} is {found} there and {value} in the run file")
        })
        .collect()
}
