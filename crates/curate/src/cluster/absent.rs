//! What stands for clusters in a program that was built without them.

use super::{ClusterError, Worker};
use crate::global::GlobalError;
use crate::runs::Record;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// No cluster: reaching one says which feature has them.
#[derive(Debug)]
pub struct Cluster(Infallible);

/// No relation of one.
#[derive(Debug)]
pub struct Table(Infallible);

fn absent(action: &'static str, address: &str) -> ClusterError {
    let message = "this program was built without clusters; build it with them: \
                   cargo build --release --features cluster";
    ClusterError { action, address: address.to_owned(), message: message.into() }
}

impl Cluster {
    /// # Errors
    /// Always.
    pub fn connect(address: &str) -> Result<Self, ClusterError> {
        Err(absent("reach the coordinator at", address))
    }

    /// # Errors
    /// Always.
    pub fn standalone(_threads: usize, _memory: u64, _scratch: &Path) -> Result<Self, ClusterError> {
        Err(absent("start a cluster in", "this process"))
    }

    /// Writes a run's rows where plans read them.
    ///
    /// # Errors
    /// None: there is no value to call it on.
    pub fn share<R: Record>(&self, _: &Path) -> Result<(), GlobalError> {
        match self.0 {}
    }

    /// The rows of all shards.
    ///
    /// # Errors
    /// None: there is no value to call it on.
    pub fn table<R: Record>(&self, _: &'static str, _: &[PathBuf]) -> Result<Table, GlobalError> {
        match self.0 {}
    }

    /// Runs a plan.
    ///
    /// # Errors
    /// None: there is no value to call it on.
    pub fn relate(
        &self,
        _: &'static str,
        _: &str,
        _: (&str, &Table),
        _: &Path,
    ) -> Result<Table, GlobalError> {
        match self.0 {}
    }

    /// Reads a relation.
    ///
    /// # Errors
    /// None: there is no value to call it on.
    pub fn read<R: Record>(
        &self,
        _: &Table,
        _: &mut dyn FnMut(R) -> Result<(), GlobalError>,
    ) -> Result<(), GlobalError> {
        match self.0 {}
    }
}

impl Table {
    /// Rows in it.
    #[must_use]
    pub fn rows(&self) -> u64 {
        match self.0 {}
    }
}

/// # Errors
/// Always.
pub fn coordinate(listen: SocketAddr) -> Result<(), ClusterError> {
    Err(absent("coordinate a cluster at", &listen.to_string()))
}

/// # Errors
/// Always.
pub fn work(worker: &Worker) -> Result<(), ClusterError> {
    Err(absent("work for the coordinator at", &worker.coordinator))
}
