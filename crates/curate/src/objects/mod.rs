//! Objects in a store, named by URL: `s3://`, `gs://` and `az://`, each followed by a bucket and a key.
//!
//! They are listed before a run begins, brought to this machine whole, one shard at a time, and never read over the
//! network in pieces. Without the feature `cloud` the stores are absent: URLs are understood, and refused with the
//! name of the feature.

#[cfg(not(feature = "cloud"))]
mod absent;
#[cfg(feature = "cloud")]
mod remote;

#[cfg(not(feature = "cloud"))]
pub use absent::Stores;
#[cfg(feature = "cloud")]
pub use remote::Stores;

use serde::{Deserialize, Serialize};
use std::fmt;

/// Whether a path means an object in a store.
pub fn is_url(path: &str) -> bool {
    path.contains("://")
}

/// Whose store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// Amazon's S3, and everything that speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage; the bucket is a container.
    Az,
}

impl Scheme {
    const ALL: [Self; 3] = [Self::S3, Self::Gs, Self::Az];

    const fn word(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
        }
    }
}

/// A bucket and a key in it; the key may end in the middle of a tree of keys, as a folder does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub scheme: Scheme,
    pub bucket: String,
    /// Without `/` at either end; empty for the whole bucket.
    pub key: String,
}

impl Address {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// When the scheme is none of the three, the bucket is missing, or a part of the key is empty, `.` or `..`.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (word, rest) = url.split_once("://").unwrap_or((url, ""));
        let scheme = Scheme::ALL.into_iter().find(|scheme| scheme.word() == word);
        let scheme = scheme.ok_or_else(|| {
            format!("{url}: no store is called {word}://; there are s3://, gs:// and az://")
        })?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() || bucket.contains('*') {
            return Err(format!("{url}: a bucket must be named, as in {word}://bucket/key"));
        }
        let key = key.strip_suffix('/').unwrap_or(key);
        let is_plain = |part: &str| !matches!(part, "" | "." | "..");
        if !key.is_empty() && !key.split('/').all(is_plain) {
            return Err(format!("{url}: a part of the key is empty, `.` or `..`"));
        }
        Ok(Self { scheme, bucket: bucket.into(), key: key.into() })
    }

    /// The address of something below this one.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        let key = if self.key.is_empty() { name.to_owned() } else { format!("{}/{name}", self.key) };
        Self { key, ..self.clone() }
    }

    /// The part of the key before the first part with a `*`: all that the address can mean lies below it.
    #[cfg_attr(not(any(test, feature = "cloud")), expect(dead_code, reason = "only stores list"))]
    fn stem(&self) -> Self {
        let parts: Vec<&str> = self.key.split('/').take_while(|part| !part.contains('*')).collect();
        Self { key: parts.join("/"), ..self.clone() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}/{}", self.scheme.word(), self.bucket, self.key)
    }
}

/// An object as it was when it was listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    pub url: String,
    pub bytes: u64,
    /// What the store calls this content of the object (ETag); empty where it says nothing.
    pub tag: String,
}

/// What a store was asked for and cannot give.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {url}: {message}")]
pub struct ObjectError {
    pub action: &'static str,
    pub url: String,
    /// Which rule was broken and what would work.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_bucket_and_a_key() {
        for (url, bucket, key) in [
            ("s3://b/a/c.gz", "b", "a/c.gz"),
            ("gs://b/a/", "b", "a"),
            ("az://b", "b", ""),
            ("az://b/", "b", ""),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!((&*address.bucket, &*address.key), (bucket, key), "{url}");
        }
        assert_eq!(Address::parse("s3://b/a").unwrap().below("c/d").to_string(), "s3://b/a/c/d");
        assert_eq!(Address::parse("s3://b").unwrap().below("c").to_string(), "s3://b/c");
    }

    #[test]
    fn what_is_no_address_is_said_with_what_would_work() {
        for (url, expected) in [
            ("http://b/a", "s3://, gs:// and az://"),
            ("s3://", "s3://bucket/key"),
            ("s3://*/a", "s3://bucket/key"),
            ("s3://b/a/../c", "`..`"),
            ("s3://b//c", "empty"),
        ] {
            let message = Address::parse(url).unwrap_err();
            assert!(message.contains(expected) && message.contains(url), "{message}");
        }
    }

    #[test]
    fn everything_a_pattern_means_lies_below_its_stem() {
        for (url, stem) in
            [("s3://b/a/*/c", "a"), ("s3://b/*", ""), ("s3://b/a/c*.gz", "a"), ("s3://b/a", "a")]
        {
            assert_eq!(Address::parse(url).unwrap().stem().key, stem, "{url}");
        }
    }
}
