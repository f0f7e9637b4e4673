//! API keys: who may ask. Keys are never kept, shown or logged, only their hashes are.

use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("cannot read the keys in {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path} has no keys: write one on each line (# begins a comment)")]
    Empty { path: String },
    #[error("line {line} of {path} is no key: a key is 8 or more visible ASCII characters without spaces")]
    Line { path: String, line: usize },
}

/// Hashes of the keys that are let in.
pub struct Keys(Vec<blake3::Hash>);

impl Keys {
    /// One key a line; empty lines and lines that begin with `#` are left out.
    ///
    /// # Errors
    /// When the file cannot be read, has no keys, or a line is no key.
    pub fn load(file: &Path) -> Result<Self, KeysError> {
        let path = file.display().to_string();
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(&text, &path),
            Err(source) => Err(KeysError::Read { path, source }),
        }
    }

    fn parse(text: &str, path: &str) -> Result<Self, KeysError> {
        let path = path.to_owned();
        let mut hashes = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let key = line.trim();
            if key.is_empty() || key.starts_with('#') {
                continue;
            }
            if key.len() < 8 || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(KeysError::Line { path, line: index + 1 });
            }
            hashes.push(blake3::hash(key.as_bytes()));
        }
        if hashes.is_empty() { Err(KeysError::Empty { path }) } else { Ok(Self(hashes)) }
    }

    /// Takes the same time for every key of one length: hashes are compared whole (`blake3::Hash` compares in
    /// constant time), and all of them.
    pub(crate) fn admit(&self, key: &str) -> bool {
        let hash = blake3::hash(key.as_bytes());
        self.0.iter().fold(false, |admitted, one| admitted | (*one == hash))
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Keys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_keys_of_the_file_are_let_in() {
        let keys = Keys::parse("# of the team\nsecret-one-1\n\n  secret-two-2  \n", "keys").unwrap();
        assert!(keys.admit("secret-one-1") && keys.admit("secret-two-2"));
        assert!(!keys.admit("secret-one-") && !keys.admit("") && !keys.admit("# of the team"));
        assert_eq!(format!("{keys:?}"), "Keys(2)");
    }

    #[test]
    fn what_is_no_key_is_refused_by_its_line_and_not_shown() {
        let error = Keys::parse("good-key-1\nshort\n", "keys").unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("short"), "{error}");
        assert!(matches!(Keys::parse("# none\n", "keys"), Err(KeysError::Empty { .. })));
    }
}
