//! From a model and its tensors to a GGUF file.

use super::config;
use super::metadata::{Metadata, Value};
use super::names::{Form, forms};
use crate::file::write_file;
use crate::{ModelError, TensorSource};
use half::{bf16, f16};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use triax_spec::model::{Activation, Mask, Model, NormKind, Positions};
use triax_tensor::Coding;

/// Where tensors begin.
const ALIGNMENT: usize = 32;

/// How matrices are stored; vectors stay F32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    F16,
    Bf16,
    Q8_0,
}

impl Stored {
    /// Number of the type, and of the kind of file.
    const fn numbers(self) -> (u32, u32) {
        match self {
            Self::F16 => (1, 1),
            Self::Bf16 => (30, 32),
            Self::Q8_0 => (8, 7),
        }
    }

    const fn row_bytes(self, inner: usize) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2 * inner,
            Self::Q8_0 => Coding::Q8_0.row_bytes(inner),
        }
    }
}

/// Writes `path`; `tokenizer`: entries that describe the tokenizer, put behind the model's.
///
/// # Errors
/// When the `llama` architecture does not compute what the model computes, a row does not divide into blocks, a
/// value does not fit, or the file cannot be written; a file that was there stays as it was.
pub fn export(
    model: &Model,
    source: &dyn TensorSource,
    tokenizer: &Metadata,
    path: &Path,
    stored: Stored,
) -> Result<(), ModelError> {
    let base = check(model)?;
    let forms = forms(model);
    if stored == Stored::Q8_0 {
        let uneven = |dims: &[usize]| dims.len() == 2 && !dims[1].is_multiple_of(32);
        if let Some((name, dims)) = forms.iter().flat_map(|f| &f.theirs).find(|(_, dims)| uneven(dims)) {
            let what = format!(
                "rows of `{name}` have {} values, no multiple of Q8_0's 32: use f16 or bf16",
                dims[1]
            );
            return Err(ModelError::file(path, what));
        }
    }
    let mut metadata = config::describe(model, base, stored.numbers().1);
    metadata.0.extend(tokenizer.0.iter().cloned());
    write_file(path, |file, partial| {
        let io = |e| ModelError::io(partial, e);
        let head = head(&metadata, &forms, stored);
        file.write_all(&head).map_err(io)?;
        for form in &forms {
            write_form(file, partial, form, source, stored)?;
        }
        Ok(())
    })
}

/// The base of its rotary positions, when it is a llama model.
fn check(model: &Model) -> Result<f32, ModelError> {
    let rules = [
        (model.norm == NormKind::Rms, "its norms are no RMS norms"),
        (model.activation == Activation::Swiglu, "its activation is not SwiGLU"),
        (!model.bias, "its linear layers have biases"),
        (model.mask == Mask::Causal, "its mask is not causal"),
    ];
    let reason = rules.iter().find(|(holds, _)| !holds).map(|&(_, why)| why);
    match (model.positions, reason) {
        (Positions::Rotary { base }, None) => Ok(base),
        (_, reason) => Err(ModelError::NotExportable {
            architecture: "llama GGUF file",
            reason: reason.unwrap_or("its positions are not rotary").into(),
        }),
    }
}

fn head(metadata: &Metadata, forms: &[Form], stored: Stored) -> Vec<u8> {
    let tensors: Vec<&(String, Vec<usize>)> = forms.iter().flat_map(|form| &form.theirs).collect();
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.0.len() as u64).to_le_bytes());
    for (key, value) in &metadata.0 {
        text(&mut bytes, key);
        bytes.extend(kind(value).to_le_bytes());
        write_value(&mut bytes, value);
    }
    let mut offset = 0u64;
    for (name, dims) in tensors {
        text(&mut bytes, name);
        bytes.extend((dims.len() as u32).to_le_bytes());
        for &dim in dims.iter().rev() {
            bytes.extend((dim as u64).to_le_bytes());
        }
        let number = if dims.len() == 2 { stored.numbers().0 } else { 0 };
        bytes.extend(number.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += tensor_bytes(dims, stored).next_multiple_of(ALIGNMENT) as u64;
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes
}

fn tensor_bytes(dims: &[usize], stored: Stored) -> usize {
    match *dims {
        [outer, inner] => outer * stored.row_bytes(inner),
        _ => 4 * dims[0],
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.bytes());
}

/// The type that a value is written as: what other programs expect of sizes, numbers and lists.
fn kind(value: &Value) -> u32 {
    match value {
        Value::Unsigned(_) => 4,
        Value::Signed(_) => 5,
        Value::Float(_) => 6,
        Value::Bool(_) => 7,
        Value::Text(_) => 8,
        Value::List(_) => 9,
    }
}

fn write_value(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Unsigned(n) => bytes.extend((*n as u32).to_le_bytes()),
        Value::Signed(n) => bytes.extend((*n as i32).to_le_bytes()),
        Value::Float(n) => bytes.extend((*n as f32).to_le_bytes()),
        Value::Bool(flag) => bytes.push(u8::from(*flag)),
        Value::Text(content) => text(bytes, content),
        Value::List(values) => {
            bytes.extend(values.first().map_or(8, kind).to_le_bytes());
            bytes.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| write_value(bytes, value));
        }
    }
}

fn write_form(
    file: &mut BufWriter<File>,
    path: &Path,
    form: &Form,
    source: &dyn TensorSource,
    stored: Stored,
) -> Result<(), ModelError> {
    let values = source.tensor(&form.ours)?;
    let (outer, inner) = form.dims();
    if values.len() != outer * inner {
        let dims = vec![outer, inner];
        let (name, found) = (form.ours.clone(), values.len());
        return Err(ModelError::TensorLength { name, found, expected: outer * inner, dims });
    }
    let rows: Vec<f32> = match form.transposed {
        true => (0..outer)
            .flat_map(|row| (0..inner).map(move |col| (row, col)))
            .map(|(r, c)| values[c * outer + r])
            .collect(),
        false => values,
    };
    let rows = form.restored(&rows, inner);
    let mut rest = rows.as_slice();
    for (name, dims) in &form.theirs {
        let (part, tail) = rest.split_at(dims.iter().product());
        rest = tail;
        let mut bytes = encode(part, dims, name, path, stored)?;
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        file.write_all(&bytes).map_err(|e| ModelError::io(path, e))?;
    }
    Ok(())
}

fn encode(
    values: &[f32],
    dims: &[usize],
    name: &str,
    path: &Path,
    stored: Stored,
) -> Result<Vec<u8>, ModelError> {
    if dims.len() != 2 {
        return Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }
    // Q8_0's scales are f16 too.
    let largest = if stored == Stored::Q8_0 { 127.0 * 65_504.0 } else { 65_504.0 };
    if stored != Stored::Bf16
        && let Some(value) = values.iter().find(|v| v.is_nan() || v.abs() > largest)
    {
        return Err(ModelError::file(path, format!("{value} in `{name}` does not fit; use bf16")));
    }
    Ok(match stored {
        Stored::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        Stored::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        Stored::Q8_0 => {
            let mut blocks = Vec::new();
            values.chunks_exact(dims[1]).for_each(|row| Coding::Q8_0.quantise(row, &mut blocks));
            blocks
        }
    })
}
