//! Which tokenizer made a token file: kept beside it as `<prefix>.tokenizer.json`.
//!
//! Megatron's format does not say whose ids it holds; a wrong tokenizer is then found by a bad loss, if at all.

use crate::DataError;
use crate::atomic::write_file;
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// For people; two tokenizers are the same when their hashes are.
    pub name: String,
    /// Every id is below it.
    pub vocab: u32,
    /// BLAKE3 of the bytes of `tokenizer.json`, in hexadecimal.
    pub hash: String,
    /// Id of the end-of-document token.
    pub eod: Option<u32>,
}

impl Identity {
    /// The identity beside a token file, if there is one.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, DataError> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DataError::io("read", path, error)),
        };
        let fault = |message: String| DataError::Identity { path: path.to_owned(), message };
        let identity: Self = serde_json::from_slice(&text).map_err(|error| {
            fault(format!(
                "not a tokenizer identity ({error}); delete it to use the tokens without the check"
            ))
        })?;
        if identity.vocab == 0 || identity.eod.is_some_and(|eod| eod >= identity.vocab) {
            return Err(fault(format!("eod {:?} is not below vocab {}", identity.eod, identity.vocab)));
        }
        Ok(Some(identity))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), DataError> {
        let text = serde_json::to_string_pretty(self).expect("plain strings and numbers always serialize");
        write_file(path, format!("{text}\n").as_bytes())
    }

    /// Name, size and the start of the hash, for messages.
    #[must_use]
    pub fn short(&self) -> String {
        format!("{} ({} ids, {:.12})", self.name, self.vocab, self.hash)
    }
}
