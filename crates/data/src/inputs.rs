//! Which files a list of inputs means, in an order that depends on their names only.

use crate::DataError;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    JsonLines,
    Parquet,
}

#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    /// On disk.
    pub(crate) bytes: u64,
}

/// What a folder is searched for. A file named itself is text whatever its ending.
const TEXT: [&str; 30] = [
    "txt", "text", "md", "markdown", "rst", "tex", "html", "css", "rs", "py", "c", "h", "cc", "cpp", "hpp",
    "cu", "go", "js", "ts", "java", "kt", "swift", "rb", "php", "sh", "sql", "toml", "yaml", "yml", "scala",
];

/// The files, and how many of a folder's were left out for their ending.
pub(crate) fn find(paths: &[PathBuf]) -> Result<(Vec<Input>, u64), DataError> {
    let (mut inputs, mut ignored) = (Vec::new(), 0);
    for path in paths {
        let metadata = path.metadata().map_err(|error| DataError::io("read", path, error))?;
        if metadata.is_dir() {
            let before = inputs.len();
            walk(path, &mut inputs, &mut ignored)?;
            if inputs.len() == before {
                return Err(DataError::Input {
                    path: path.clone(),
                    message: "no text, JSON lines or Parquet files in this folder".into(),
                });
            }
        } else {
            inputs.push(Input {
                path: path.clone(),
                format: format(path).unwrap_or(Format::Text),
                bytes: metadata.len(),
            });
        }
    }
    Ok((inputs, ignored))
}

/// Hidden files and folders are passed over, as are links, which may lead in circles.
fn walk(folder: &Path, inputs: &mut Vec<Input>, ignored: &mut u64) -> Result<(), DataError> {
    let fault = |error| DataError::io("read", folder, error);
    let entries = std::fs::read_dir(folder).map_err(fault)?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(fault)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, kind) = (entry.path(), entry.file_type().map_err(fault)?);
        if entry.file_name().as_encoded_bytes().starts_with(b".") || kind.is_symlink() {
            *ignored += 1;
        } else if kind.is_dir() {
            walk(&path, inputs, ignored)?;
        } else if let Some(format) = format(&path) {
            let bytes = entry.metadata().map_err(fault)?.len();
            inputs.push(Input { path, format, bytes });
        } else {
            *ignored += 1;
        }
    }
    Ok(())
}

fn format(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let name = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "jsonl" | "ndjson" => Some(Format::JsonLines),
        "parquet" => Some(Format::Parquet),
        ending if TEXT.contains(&ending) => Some(Format::Text),
        _ => None,
    }
}
