//! The command line of `triax cluster`.

use clap::{Args, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Cut plans into tasks and give them to workers
    Coordinator(Coordinator),
    /// Run tasks
    Worker(Worker),
}

#[derive(Debug, Args)]
pub(crate) struct Coordinator {
    /// Where workers and `curate --cluster` find it; whoever can reach it can run plans
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:50050")]
    pub(crate) listen: SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct Worker {
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50050")]
    pub(crate) coordinator: String,
    /// What other workers and `curate --cluster` reach this one at
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Tasks at once; 0 for one a core
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Megabytes that sorts and aggregates may hold before they spill; 0 for seven tenths of the machine's
    #[arg(long, default_value_t = 0)]
    pub(crate) memory_mb: u64,
    /// Where shuffled rows lie; by default a folder among the system's temporary files
    #[arg(long)]
    pub(crate) scratch: Option<PathBuf>,
}
