//! A finished output folder, copied to a store: every file but those of `work/`, the manifest last, so that where there
//! is a manifest there is all of it.

use super::layout::Layout;
use super::shard::write_whole;
use crate::CurateError;
use crate::objects::{Address, Object, ObjectError, Stores};
use crate::recipe::Recipe;
use crate::writers::hash_of;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uploaded {
    pub files: u64,
    pub bytes: u64,
    /// Files that an earlier call had copied.
    pub skipped: u64,
}

/// `work/uploaded.json`: by URL, the content that was sent and the object that came of it.
type Ledger = BTreeMap<String, Entry>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// As in [`crate::writers::Written`].
    hash: String,
    object: Object,
}

fn target(recipe: &Recipe) -> Option<Address> {
    let url = &recipe.output.upload;
    (!url.is_empty()).then(|| Address::parse(url).expect("the recipe was checked"))
}

fn open(address: &Address) -> Result<Stores, ObjectError> {
    Stores::open("write to", address, std::env::vars())
}

/// Whether the store that the recipe's output goes to is there.
pub(super) fn check(recipe: &Recipe) -> Result<(), CurateError> {
    if let Some(address) = target(recipe) {
        open(&address)?.list(&address.below("manifest.json"))?;
    }
    Ok(())
}

/// Copies the finished run in `out` to the recipe's `output.upload`; nothing where the recipe names none. Called again,
/// it sends what is not there yet or has changed on either side. Each file's URL is told before it is sent.
///
/// # Errors
/// When a file cannot be read, or the store refuses or cannot be reached.
pub fn upload(recipe: &Recipe, out: &Path, tell: &mut dyn FnMut(&str)) -> Result<Uploaded, CurateError> {
    let Some(address) = target(recipe) else { return Ok(Uploaded::default()) };
    let layout = Layout { root: out.to_owned() };
    let stores = open(&address)?;
    let path = layout.uploaded();
    let mut ledger: Ledger = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| CurateError::damaged(&path, error))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ledger::new(),
        Err(error) => return Err(CurateError::io("read", &path, error)),
    };
    let mut files = Vec::new();
    collect(out, &mut files)?;
    files.retain(|file| !file.starts_with(out.join("work")));
    files.sort_by_key(|file| (*file == layout.manifest(), file.clone()));
    let mut done = Uploaded::default();
    for file in files {
        let to = address.below(&layout.relative(&file));
        let (url, hash) = (to.to_string(), hash_of(&file)?);
        if let Some(entry) = ledger.get(&url).filter(|entry| entry.hash == hash)
            && stores.find(&to)?.is_some_and(|now| now == entry.object)
        {
            done.skipped += 1;
            continue;
        }
        tell(&url);
        let object = stores.put(&file, &to)?;
        done.files += 1;
        done.bytes += object.bytes;
        ledger.insert(url, Entry { hash, object });
        write_whole(&path, &serde_json::to_vec(&ledger).expect("a ledger is JSON"))?;
    }
    Ok(done)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), CurateError> {
    let fault = |error| CurateError::io("read", folder, error);
    for entry in folder.read_dir().map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let kind = entry.file_type().map_err(fault)?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}
