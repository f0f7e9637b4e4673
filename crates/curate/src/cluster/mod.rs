//! Where the rows of all shards are joined: in this process, or as DataFusion plans on Ballista over several machines.
//!
//! ```text
//! shard ─▶ rows.run ─▶ rows.parquet ─┐                      ┌─▶ part.parquet, one a task ─┐
//! shard ─▶ rows.run ─▶ rows.parquet ─┼─ coordinator: plan ──┼─▶ part.parquet              ├─▶ counted ─▶ decisions
//! shard ─▶ rows.run ─▶ rows.parquet ─┘  workers: its tasks  └─▶ part.parquet              ┘
//! ```
//!
//! Only hashes and numbers travel, text never does. Coordinator, workers and this process see the output folder under
//! one path; over the network go plans, the shuffled rows between workers and the names of the parts. A part counts
//! when the finished plan names it, so that what a killed worker leaves is never read. Without the feature `cluster`
//! there are none: reaching for one says how to build it.

#[cfg(not(feature = "cluster"))]
mod absent;
#[cfg(feature = "cluster")]
mod columns;
#[cfg(feature = "cluster")]
mod engine;
#[cfg(feature = "cluster")]
mod inside;
#[cfg(feature = "cluster")]
mod roles;
#[cfg(feature = "cluster")]
mod sink;

#[cfg(not(feature = "cluster"))]
pub use absent::{Cluster, Table, coordinate, work};
#[cfg(feature = "cluster")]
pub use engine::{Cluster, Table};
#[cfg(feature = "cluster")]
pub use roles::{coordinate, work};

use crate::global::GlobalError;
use std::path::PathBuf;

/// Where steps over the whole corpus join their rows.
#[derive(Debug, Default)]
pub enum Joins {
    /// In this process: sorted runs, merged.
    #[default]
    Here,
    Cluster(Cluster),
}

/// Why a role of a cluster cannot be taken or reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {address}: {message}")]
pub struct ClusterError {
    /// "reach the coordinator at".
    pub action: &'static str,
    /// HOST:PORT.
    pub address: String,
    pub message: String,
}

/// A process that runs tasks of plans.
#[derive(Clone, Debug)]
pub struct Worker {
    /// HOST:PORT.
    pub coordinator: String,
    /// What other workers reach this one at.
    pub host: String,
    /// Tasks at once; 0 for one a core.
    pub threads: usize,
    /// Bytes that the sorts and aggregates of all tasks may hold before they spill; 0 for seven tenths of the machine's.
    pub memory: u64,
    /// Where shuffled rows and spills lie; a folder of the system's for temporary files where there is none.
    pub scratch: Option<PathBuf>,
}

/// The law of conservation: every plan accounts for every row that went into it.
///
/// # Errors
/// When `found` differs from `expected`, with both and the relation's name.
pub(crate) fn conserve(
    relation: &'static str,
    found: u64,
    expected: u64,
    rule: &'static str,
) -> Result<(), GlobalError> {
    if found == expected {
        return Ok(());
    }
    Err(GlobalError::Unbalanced { relation, found, expected, rule })
}

#[cfg(test)]
#[cfg(feature = "cluster")]
pub(crate) mod tests;

#[cfg(test)]
mod account {
    use super::*;

    #[test]
    fn a_lost_row_is_told_with_its_relation_and_both_counts() {
        assert!(conserve("exact_copies", 3, 3, "are left of the keys").is_ok());
        let error = conserve("exact_copies", 2, 3, "are left of the keys").unwrap_err().to_string();
        for part in ["exact_copies", "has 2 rows", "but 3 are left of the keys", "nothing was decided"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
