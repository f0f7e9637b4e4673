//! A coordinator and a worker inside this process, over the loopback interface. Ballista's own worker of this kind has no
//! bound of memory and leaves its shuffled rows among the system's temporary files.

use super::roles::{environment, shares};
use super::sink::Codec;
use arrow_flight::flight_service_server::FlightServiceServer;
use ballista_core::BALLISTA_PROTOCOL_VERSION;
use ballista_core::extension::SessionConfigExt as _;
use ballista_core::ids::new_instance_id;
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_core::serde::protobuf::ExecutorRegistration;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::scheduler::{ExecutorOperatingSystemSpecification, ExecutorSpecification};
use ballista_core::serde::{BallistaCodec, BallistaLogicalExtensionCodec};
use ballista_core::utils::{GrpcServerConfig, create_grpc_server, create_grpc_server_incoming};
use ballista_executor::execution_engine::DefaultExecutionEngine;
use ballista_executor::execution_loop::poll_loop;
use ballista_executor::executor::Executor;
use ballista_executor::flight_service::BallistaFlightService;
use ballista_executor::health::ExecutorHealth;
use ballista_executor::metrics::LoggingMetricsCollector;
use ballista_executor::runtime_cache::DefaultSessionRuntimeCache;
use ballista_scheduler::standalone::new_standalone_scheduler_with_builder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// Sessions whose footers of files are kept; there is one.
const SESSIONS: usize = 1;

/// Starts both and says where the coordinator listens. The worker runs `threads` tasks at once, whose sorts and
/// aggregates share `memory` bytes, and keeps what they spill and shuffle in `scratch`, which it makes when it needs it.
pub(super) async fn start(
    threads: usize,
    memory: u64,
    scratch: &Path,
) -> Result<SocketAddr, Box<dyn Error + Send + Sync>> {
    let state = |config: SessionConfig| -> datafusion::error::Result<SessionState> {
        Ok(SessionStateBuilder::new().with_default_features().with_config(config).build())
    };
    let config = SessionConfig::new_with_ballista();
    let codec: BallistaCodec<LogicalPlanNode, PhysicalPlanNode> =
        BallistaCodec::new(Arc::new(BallistaLogicalExtensionCodec::default()), Arc::new(Codec::default()));
    let producer = Arc::new(SessionConfig::new_with_ballista);
    let coordinator =
        new_standalone_scheduler_with_builder(Arc::new(state), producer.clone(), codec.clone()).await?;
    let client = SchedulerGrpcClient::connect(format!("http://localhost:{}", coordinator.port())).await?;

    // Listens for the rest of a cluster, of which there is none; rows on the worker's own disk are read there.
    let served = GrpcServerConfig::default();
    let incoming = create_grpc_server_incoming(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &served)?;
    let registration = ExecutorRegistration {
        id: new_instance_id(),
        host: Some("localhost".to_owned()),
        port: incoming.local_addr()?.port().into(),
        // Of workers that are told what to do; this one asks.
        grpc_port: 0,
        specification: Some(ExecutorSpecification::default().with_vcores(threads as u32).into()),
        os_info: Some(ExecutorOperatingSystemSpecification::default().into()),
        ballista_protocol_version: BALLISTA_PROTOCOL_VERSION,
    };
    let folder = scratch.to_string_lossy().into_owned();
    let shares = shares(memory, threads);
    let environment = environment(scratch);
    let runtime = {
        let (shares, environment) = (shares.clone(), environment.clone());
        Arc::new(move |config: &SessionConfig| shares(environment(config)?, config, 1))
    };
    let worker = Executor::new(
        registration,
        &folder,
        runtime,
        producer,
        Arc::new(BallistaFunctionRegistry::from(&state(config.clone())?)),
        Arc::new(LoggingMetricsCollector::default()),
        threads,
        Arc::new(DefaultExecutionEngine::new()),
    )
    .with_session_runtime_cache(Some(Arc::new(DefaultSessionRuntimeCache::new(
        environment,
        shares,
        SESSIONS,
    ))));
    let largest = config.ballista_grpc_client_max_message_size();
    let flights = FlightServiceServer::new(BallistaFlightService::new(folder))
        .max_decoding_message_size(largest)
        .max_encoding_message_size(largest);
    tokio::spawn(create_grpc_server(&served).add_service(flights).serve_with_incoming(incoming));
    tokio::spawn(poll_loop(client, Arc::new(worker), codec, None, None, ExecutorHealth::new()));
    Ok(coordinator)
}
