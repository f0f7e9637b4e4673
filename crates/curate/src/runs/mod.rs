//! Sorted runs of fixed-size records on disk: how joins over a whole corpus stay within a memory limit.
//!
//! ```text
//! records ──Sorter──▶ run, run, run ──merge──▶ one ascending stream      what is equal stands side by side
//! ```
//!
//! Records are ordered by all their fields, so the stream is the same however the records were dealt to runs: by one
//! thread or many, over one shard or eight. A run appears under its name whole or not at all; its length, order
//! and checksum are verified when it is read.

mod file;
mod merge;
mod sorter;

pub use file::{RunReader, RunWriter};
pub use merge::{Merge, merge};
pub use sorter::{Sorted, Sorter};

use std::path::{Path, PathBuf};

/// A row of a relation: hashes, document numbers, never text.
pub trait Record: Copy + Ord + Send + 'static {
    /// Kept in the head of a run, so that rows of another relation are refused.
    const KIND: [u8; 4];
    /// Bytes on disk.
    const SIZE: usize;
    /// Names of the fields in their order, each with its bytes: an unsigned number of that width.
    const FIELDS: &'static [(&'static str, usize)];

    /// Writes [`Record::SIZE`] bytes.
    fn encode(&self, out: &mut [u8]);

    /// Reads what [`Record::encode`] wrote.
    fn decode(bytes: &[u8]) -> Self;
}

/// What can go wrong with a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("{path}: {fault}; delete it and run the step again")]
    Damaged { path: PathBuf, fault: RunFault },
}

/// What is wrong inside a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunFault {
    #[error("not a run of sorted records")]
    Magic,
    #[error("holds records {found:?} of {found_size} bytes, not {expected:?} of {expected_size}")]
    Kind { found: String, found_size: u32, expected: String, expected_size: usize },
    #[error("partial: {found} bytes, and {expected}")]
    Partial { found: u64, expected: String },
    #[error("record {record} is smaller than the one before it")]
    Order { record: u64 },
    #[error("its checksum differs from the one written: the file has been changed")]
    Checksum,
}

impl RunError {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// Writes and reads the fields of a record one after another, little-endian.
macro_rules! record {
    ($name:ident, $kind:literal, $($field:ident: $type:ty),+ $(,)?) => {
        impl $crate::runs::Record for $name {
            const KIND: [u8; 4] = *$kind;
            const SIZE: usize = $(size_of::<$type>() +)+ 0;
            const FIELDS: &'static [(&'static str, usize)] = &[$((stringify!($field), size_of::<$type>())),+];

            fn encode(&self, out: &mut [u8]) {
                let mut place = 0;
                $(
                    out[place..place + size_of::<$type>()].copy_from_slice(&self.$field.to_le_bytes());
                    place += size_of::<$type>();
                )+
                debug_assert_eq!(place, Self::SIZE);
            }

            fn decode(bytes: &[u8]) -> Self {
                let mut rest = bytes;
                $(
                    let (field, after) =
                        rest.split_first_chunk().expect("the caller hands over a whole record");
                    let $field = <$type>::from_le_bytes(*field);
                    rest = after;
                )+
                debug_assert!(rest.is_empty());
                Self { $($field),+ }
            }
        }
    };
}
pub(crate) use record;

#[cfg(test)]
pub(crate) mod testing {
    /// Two fields of different widths, so that a mixed-up layout shows.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) struct Pair {
        pub(crate) key: u64,
        pub(crate) value: u16,
    }
    super::record!(Pair, b"test", key: u64, value: u16);

    /// Numbers that look random.
    pub(crate) fn pairs(count: u64, seed: u64) -> Vec<Pair> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                Pair { key: (state >> 33) % 1000, value: (state >> 20) as u16 }
            })
            .collect()
    }
}
