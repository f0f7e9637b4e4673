//! Removed documents, found again by step, reason and source.

use crate::CurateError;
use crate::document::Document;
use crate::step::Reason;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;

/// Which removed documents are wanted; none is all.
#[derive(Clone, Debug, Default)]
pub struct Filtered {
    pub step: Option<String>,
    pub reason: Option<String>,
    pub source: Option<String>,
}

/// A line of `removed/`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemovedDocument {
    /// The folder it was found in.
    #[serde(default)]
    pub step: String,
    #[serde(flatten)]
    pub reason: Reason,
    #[serde(flatten)]
    pub document: Document,
}

/// Gives each removed document of `out` that is wanted, by step and shard, until `each` breaks off.
///
/// # Errors
/// When there is no run in `out`, or a file of it is damaged.
pub fn inspect(
    out: &Path,
    wanted: &Filtered,
    each: &mut dyn FnMut(RemovedDocument) -> ControlFlow<()>,
) -> Result<(), CurateError> {
    let folder = out.join("removed");
    if !out.join("work/plan.json").is_file() {
        let message = "there is no curation run here; give the folder of --out".into();
        return Err(CurateError::Output { path: out.to_owned(), message });
    }
    for step in names(&folder)? {
        if wanted.step.as_ref().is_some_and(|wanted| *wanted != step) {
            continue;
        }
        for name in names(&folder.join(&step))? {
            let path = folder.join(&step).join(name);
            if path.extension().is_none_or(|ending| ending != "zst") {
                continue;
            }
            let fault = |error| CurateError::io("read", &path, error);
            let file = File::open(&path).map_err(fault)?;
            for line in BufReader::new(zstd::stream::read::Decoder::new(file).map_err(fault)?).split(b'\n') {
                let line = line.map_err(fault)?;
                let mut found: RemovedDocument =
                    serde_json::from_slice(&line).map_err(|error| CurateError::damaged(&path, error))?;
                found.step.clone_from(&step);
                let is_wanted = wanted.reason.as_ref().is_none_or(|wanted| *wanted == found.reason.label)
                    && wanted.source.as_ref().is_none_or(|wanted| *wanted == found.document.source);
                if is_wanted && each(found).is_break() {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Of a folder's entries, sorted; a folder that is not there has none.
fn names(folder: &Path) -> Result<Vec<String>, CurateError> {
    let entries = match folder.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(CurateError::io("read", folder, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| CurateError::io("read", folder, error))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
