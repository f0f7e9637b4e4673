//! `triax cluster`: the roles beside `triax curate --cluster`.

use crate::arguments::{Cluster, Coordinator, Worker};
use crate::failure::{Failure, with_causes};
use triax_curate::cluster;

pub(crate) fn run(role: &Cluster) -> Result<(), Failure> {
    let done = match role {
        Cluster::Coordinator(Coordinator { listen }) => {
            eprintln!("coordinator at {listen}; triax cluster worker --coordinator {listen} joins it");
            cluster::coordinate(*listen)
        }
        Cluster::Worker(Worker { coordinator, host, threads, memory_mb, scratch }) => {
            eprintln!("worker at {host} for the coordinator at {coordinator}");
            cluster::work(&cluster::Worker {
                coordinator: coordinator.clone(),
                host: host.clone(),
                threads: *threads,
                memory: memory_mb.saturating_mul(1_000_000),
                scratch: scratch.clone(),
            })
        }
    };
    done.map_err(|error| Failure::run(with_causes(&error)))
}
