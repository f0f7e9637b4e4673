//! The roles that outlive a command: the coordinator, which cuts plans into tasks, and workers, which run them. Both are
//! Ballista's, told of the one node that is ours.

use super::sink::Codec;
use super::{ClusterError, Worker};
use ballista_core::RuntimeProducer;
use ballista_core::config::TaskSchedulingPolicy;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_executor::runtime_cache::MemoryPoolPolicy;
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::SessionConfig;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};

/// Seconds without a word from a worker after which its tasks are given to others. A busy worker says something every
/// five.
const SILENCE: u64 = 15;
/// Seconds for which plans wait when the last worker is gone.
const WITHOUT_WORKERS: u64 = 120;
/// Bytes of a thread's stack: planners and plans recurse.
const STACK: usize = 32 << 20;

pub(super) fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().thread_stack_size(STACK).build()
}

fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host, port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
}

/// HOST and PORT.
pub(super) fn parse(action: &'static str, address: &str) -> Result<(String, u16), ClusterError> {
    let found = split(address).ok_or_else(|| ClusterError {
        action,
        address: address.to_owned(),
        message: "not HOST:PORT, as 127.0.0.1:50050".into(),
    })?;
    Ok((found.0.to_owned(), found.1))
}

/// Coordinates a cluster until the process ends.
///
/// # Errors
/// When nothing can listen at `listen`.
pub fn coordinate(listen: SocketAddr) -> Result<(), ClusterError> {
    let fault = |message: String| ClusterError {
        action: "coordinate a cluster at",
        address: listen.to_string(),
        message,
    };
    let config = SchedulerConfig {
        bind_host: listen.ip().to_string(),
        bind_port: listen.port(),
        external_host: listen.ip().to_string(),
        scheduling_policy: TaskSchedulingPolicy::PullStaged,
        executor_timeout_seconds: SILENCE,
        expire_dead_executor_interval_seconds: 2,
        no_executors_grace_period_seconds: WITHOUT_WORKERS,
        override_physical_codec: Some(Arc::new(Codec::default())),
        ..SchedulerConfig::default()
    };
    runtime().map_err(|error| fault(error.to_string()))?.block_on(async {
        let cluster =
            BallistaCluster::new_from_config(&config).await.map_err(|error| fault(error.to_string()))?;
        start_server(cluster, listen, Arc::new(config)).await.map_err(|error| fault(error.to_string()))
    })
}

/// Runs tasks until the process is asked to end.
///
/// # Errors
/// When the coordinator cannot be reached, or nothing can listen at the worker's address.
pub fn work(worker: &Worker) -> Result<(), ClusterError> {
    let action = "work for the coordinator at";
    let fault = |message: String| ClusterError { action, address: worker.coordinator.clone(), message };
    let (scheduler_host, scheduler_port) = parse(action, &worker.coordinator)?;
    let ip = resolve(&worker.host).map_err(|error| fault(format!("{}: {error}", worker.host)))?;
    let scratch = match &worker.scratch {
        Some(folder) => folder.clone(),
        None => std::env::temp_dir().join(format!("triax-worker-{}", std::process::id())),
    };
    std::fs::create_dir_all(&scratch)
        .map_err(|error| fault(format!("cannot create {}: {error}", scratch.display())))?;
    let (port, grpc_port) = free_ports(ip).map_err(|error| fault(format!("{ip}: {error}")))?;
    let config = ExecutorProcessConfig {
        bind_host: ip.to_string(),
        external_host: Some(worker.host.clone()),
        port,
        grpc_port,
        scheduler_host,
        scheduler_port,
        scheduler_connect_timeout_seconds: 30,
        vcores: worker.threads,
        task_scheduling_policy: TaskSchedulingPolicy::PullStaged,
        work_dir: Some(scratch.to_string_lossy().into_owned()),
        memory_pool_size: (worker.memory > 0).then_some(worker.memory),
        override_physical_codec: Some(Arc::new(Codec::default())),
        override_runtime_producer: Some(environment(&scratch)),
        ..ExecutorProcessConfig::default()
    };
    let done = runtime()
        .map_err(|error| fault(error.to_string()))?
        .block_on(start_executor_process(Arc::new(config)))
        .map_err(|error| fault(error.to_string()));
    if worker.scratch.is_none() {
        // Nobody reads shuffled rows of a worker that is gone; what cannot be removed is the system's temporary files.
        let _ = std::fs::remove_dir_all(&scratch);
    }
    done
}

/// Where tasks spill: to `scratch`, as much as its disk holds; by default 100 GB were the most.
pub(super) fn environment(scratch: &Path) -> RuntimeProducer {
    let scratch = scratch.to_owned();
    Arc::new(move |_| {
        std::fs::create_dir_all(&scratch)?;
        let builder = RuntimeEnvBuilder::new().with_temp_file_path(&scratch);
        builder.with_max_temp_directory_size(u64::MAX).build_arc()
    })
}

/// A task's part of `memory` bytes, by how many of the worker's threads it takes. Ballista divides a process's in this way.
pub(super) fn shares(memory: u64, threads: usize) -> MemoryPoolPolicy {
    let each = usize::try_from(memory).unwrap_or(usize::MAX) / threads.max(1);
    Arc::new(move |base: Arc<RuntimeEnv>, _: &SessionConfig, taken: u32| {
        let pool = FairSpillPool::new(each.saturating_mul(taken.max(1) as usize));
        RuntimeEnvBuilder::from_runtime_env(&base).with_memory_pool(Arc::new(pool)).build_arc()
    })
}

fn resolve(host: &str) -> std::io::Result<IpAddr> {
    let found = (host, 0).to_socket_addrs()?.next();
    found.map(|address| address.ip()).ok_or_else(|| std::io::Error::other("no such host"))
}

/// Two that nobody listens at now; nobody else on the machine asks for one so soon.
fn free_ports(ip: IpAddr) -> std::io::Result<(u16, u16)> {
    let (one, other) = (TcpListener::bind((ip, 0))?, TcpListener::bind((ip, 0))?);
    Ok((one.local_addr()?.port(), other.local_addr()?.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_address_is_refused() {
        assert_eq!(parse("reach", "node7:50050").unwrap(), ("node7".to_owned(), 50050));
        for wrong in ["node7", ":50050", "node7:", "node7:x", "node7:70000"] {
            let error = parse("reach the coordinator at", wrong).unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains("HOST:PORT"), "{error}");
        }
    }
}
