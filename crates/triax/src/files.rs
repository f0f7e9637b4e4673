//! Small files that are written whole or not at all, and the tokenizer's place beside what it made.

use crate::failure::{Context, Failure};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use triax_data::{Reader, Tokenizer};

/// A tokenizer has this name wherever this program puts one: beside token files, in run folders, in exports.
pub(crate) const TOKENIZER: &str = "tokenizer.json";

/// Writes under a temporary name, syncs, renames.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = fs::File::create(&partial)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // Best effort: the error below is what matters.
        let _ = fs::remove_file(&partial);
    }
    written.context(|| format!("cannot write {}", path.display()))
}

pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let bytes = fs::read(from).context(|| format!("cannot read {}", from.display()))?;
    write_whole(to, &bytes)
}

pub(crate) fn create_folder(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).context(|| format!("cannot make {}", path.display()))
}

/// The folder in which `path` lies.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Puts `tokenizer` beside the token files it makes; another one that is there already is not replaced.
pub(crate) fn keep_tokenizer(tokenizer: &Tokenizer, folder: &Path) -> Result<PathBuf, Failure> {
    let path = folder.join(TOKENIZER);
    if path.exists() {
        let there = Tokenizer::load(&path).context(|| format!("cannot use {}", path.display()))?;
        if there.identity().hash != tokenizer.identity().hash {
            return Err(Failure::usage(format!(
                "{} is another tokenizer: {}",
                path.display(),
                there.identity().short()
            ))
            .help(format!("choose another folder for --output, or use it: --tokenizer {}", path.display())));
        }
        return Ok(path);
    }
    tokenizer.save(&path).context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The tokenizer that made the token files `prefix`, if it lies beside them.
pub(crate) fn tokenizer_beside(prefix: &Path) -> Option<PathBuf> {
    let reader = Reader::open(prefix).ok()?;
    let path = folder_of(prefix).join(TOKENIZER);
    let bytes = fs::read(&path).ok()?;
    (blake3::hash(&bytes).to_hex().as_str() == reader.identity()?.hash).then_some(path)
}
