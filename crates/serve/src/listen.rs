//! Connections: accepted one by one, with a time for their headers, and let end when the server is to stop.

use crate::Served;
use crate::core::Core;
use crate::keys::Keys;
use crate::limits::Limits;
use crate::router::{App, router};
use crate::template::Template;
use crate::vocabulary::Vocabulary;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// How often the flag to stop is looked at.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the chat template is wrong: {0}")]
    Template(String),
    #[error("cannot start the server's threads: {0}")]
    Threads(std::io::Error),
    #[error("the engine stopped by itself")]
    Engine,
}

/// Serves until `stop` is set, then lets requests under way end. `ready` hears the address once connections are
/// accepted.
///
/// # Errors
/// When the address is taken, the chat template is wrong, or the engine fails.
pub fn serve(
    served: Served,
    address: SocketAddr,
    keys: Option<Keys>,
    limits: Limits,
    stop: &AtomicBool,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let vocabulary = Arc::new(Vocabulary::new(served.tokenizer));
    let template = served.chat_template.clone().map(|source| Template::new(source, vocabulary.end_name()));
    let template = template.transpose().map_err(|error| ServeError::Template(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(ServeError::Threads)?;
    let (core, thread) = Core::start(served.engine, limits.queue);
    let app = Arc::new(App {
        core: Arc::clone(&core),
        vocabulary,
        name: served.name,
        template,
        chat_template: served.chat_template,
        keys,
        limits,
        started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        requests: AtomicU64::new(0),
    });
    let done = runtime.block_on(listen(address, &app, stop, ready));
    core.stop();
    runtime.shutdown_timeout(Duration::from_secs(1));
    let ended_well = thread.join().is_ok();
    done?;
    if ended_well { Ok(()) } else { Err(ServeError::Engine) }
}

async fn listen(
    address: SocketAddr,
    app: &Arc<App>,
    stop: &AtomicBool,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let fault = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(fault)?;
    ready(listener.local_addr().map_err(fault)?);
    let places = Arc::new(Semaphore::new(app.limits.connections));
    let connections = GracefulShutdown::new();
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(app.limits.arrival);
    let service = TowerToHyperService::new(router(Arc::clone(app)));
    let mut drained_by = None;
    loop {
        if drained_by.is_none() && stop.load(Ordering::Relaxed) {
            app.core.drain();
            drained_by = Some(Instant::now() + app.limits.drain);
        }
        // Until the texts under way have ended, others hear that the server is stopping.
        if drained_by.is_some_and(|by| app.core.jobs() == 0 || Instant::now() > by) || app.core.is_ended() {
            break;
        }
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let Ok((accepted, place)) = tokio::time::timeout(LOOK, accept).await else { continue };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, or a connection that has gone already.
            tokio::time::sleep(LOOK).await;
            continue;
        };
        // Tokens go out one by one.
        let _ = stream.set_nodelay(true);
        let connection = server.serve_connection(TokioIo::new(stream), service.clone());
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // A broken connection is its client's affair.
            let _ = connection.await;
            drop(place);
        });
    }
    let left = drained_by.map_or(Duration::ZERO, |by| by.saturating_duration_since(Instant::now()));
    // Answers that are made already still go out.
    let _ = tokio::time::timeout(left.max(Duration::from_secs(1)), connections.shutdown()).await;
    if app.core.is_ended() { Err(ServeError::Engine) } else { Ok(()) }
}
