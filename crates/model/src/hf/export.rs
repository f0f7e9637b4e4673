//! From a model and its tensors to a Hugging Face folder. Tensors are written one after the other; files get
//! their names when they are complete, `config.json` last.

use super::{Architecture, config, names};
use crate::file::write_file;
use crate::{ModelError, TensorSource};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use triax_spec::model::Model;
use triax_tensor::DType;

/// Writes `config.json` and `model.safetensors` into `folder` (made if need be), weights as `dtype`: F32, Bf16
/// or F16.
///
/// # Errors
/// When neither GPT-2 nor Llama computes what the model computes, a value does not fit into `dtype`, or a file
/// cannot be written; files that were there stay as they were.
pub fn export(
    model: &Model,
    source: &dyn TensorSource,
    folder: &Path,
    dtype: DType,
) -> Result<(), ModelError> {
    let architecture = config::architecture_of(model)?;
    if !dtype.is_activation() {
        return Err(ModelError::invalid("dtype of exported weights", dtype, "must be f32, bf16 or f16"));
    }
    fs::create_dir_all(folder).map_err(|e| ModelError::io(folder, e))?;
    write_file(&folder.join("model.safetensors"), |file, path| {
        write_weights(file, path, architecture, model, source, dtype)
    })?;
    let config = config::write(architecture, model, dtype);
    write_file(&folder.join("config.json"), |file, path| {
        writeln!(file, "{config:#}").map_err(|e| ModelError::io(path, e))
    })
}

fn write_weights(
    file: &mut BufWriter<File>,
    path: &Path,
    architecture: Architecture,
    model: &Model,
    source: &dyn TensorSource,
    dtype: DType,
) -> Result<(), ModelError> {
    let stored = match dtype {
        DType::Bf16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        _ => Dtype::F32,
    };
    let forms = names::forms(architecture, model);
    let mut end = 0;
    let infos: Vec<(String, TensorInfo)> = forms
        .iter()
        .flat_map(|form| &form.theirs)
        .map(|(name, dims)| {
            let start = end;
            end += dims.iter().product::<usize>() * dtype.bytes();
            (name.clone(), TensorInfo { dtype: stored, shape: dims.clone(), data_offsets: (start, end) })
        })
        .collect();
    // Readers in Python ask which framework's layout this is.
    let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(about), infos).map_err(|e| ModelError::file(path, e.to_string()))?;
    let mut header =
        serde_json::to_vec(&metadata).map_err(|source| ModelError::Json { path: path.into(), source })?;
    header.resize(header.len().next_multiple_of(8), b' ');

    let io = |e| ModelError::io(path, e);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    file.write_all(&header).map_err(io)?;
    for form in &forms {
        let values = source.tensor(&form.ours)?;
        let expected: usize = form.theirs.iter().map(|(_, dims)| dims.iter().product::<usize>()).sum();
        if values.len() != expected {
            return Err(ModelError::TensorLength {
                name: form.ours.clone(),
                found: values.len(),
                expected,
                dims: form.theirs[0].1.clone(),
            });
        }
        for (values, (name, _)) in form.to_theirs(values).iter().zip(&form.theirs) {
            file.write_all(&encode(values, dtype, name, path)?).map_err(io)?;
        }
    }
    Ok(())
}

fn encode(values: &[f32], dtype: DType, name: &str, path: &Path) -> Result<Vec<u8>, ModelError> {
    let halves = |to: fn(f32) -> [u8; 2]| values.iter().flat_map(|&v| to(v)).collect();
    match dtype {
        DType::Bf16 => Ok(halves(|v| bf16::from_f32(v).to_le_bytes())),
        DType::F16 => match values.iter().find(|v| v.is_finite() && f16::from_f32(**v).is_infinite()) {
            Some(value) => Err(ModelError::file(
                path,
                format!("{value} in `{name}` does not fit into f16; use bf16 or f32"),
            )),
            None => Ok(halves(|v| f16::from_f32(v).to_le_bytes())),
        },
        _ => Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
    }
}
