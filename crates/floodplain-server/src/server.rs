//! The order of start and stop.

use crate::{Config, postgres, ready, telemetry};
use metrics_exporter_prometheus::PrometheusHandle;
use std::{
    fmt,
    net::{SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};
use tokio::runtime::Runtime;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

/// Threads of HTTP; the work of a query is done by the query pool.
const HTTP_THREADS_MAX: usize = 2;

/// As the exporter's documentation advises.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Answers under way get this long once stopping has begun.
const HTTP_DEADLINE: Duration = Duration::from_secs(5);

/// Where the server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub mqtt: SocketAddr,
    pub http: SocketAddr,
    pub postgres: SocketAddr,
}

impl Addresses {
    /// The content of the ready file.
    #[must_use]
    pub fn to_json(&self) -> String {
        format!(r#"{{"mqtt": "{}", "http": "{}", "postgres": "{}"}}"#, self.mqtt, self.http, self.postgres)
    }
}

/// Why the server did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen at {address} for {what}; is another server running?")]
    Listen { what: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("cannot write the ready file {path}")]
    ReadyFile { path: std::path::PathBuf, source: std::io::Error },
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
}

/// A running server. Dropping it without [`Server::stop`] is like a crash: safe, but clients are
/// not told.
pub struct Server {
    addresses: Addresses,
    stop: CancellationToken,
    tasks: TaskTracker,
    runtime: Runtime,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Server {
    /// Starts all parts in order and returns once traffic is accepted.
    ///
    /// # Errors
    /// [`StartError`] names the part that failed.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let metrics = telemetry::metrics();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.workers.clamp(1, HTTP_THREADS_MAX))
            .thread_name("floodplain-http")
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let guard = runtime.enter();

        let (mqtt, _mqtt_listener) = bind("mqtt", config.mqtt_address)?;
        let (http, _http_listener) = bind("http", config.http_address)?;
        let (postgres, postgres_listener) = bind("postgres", config.postgres_address)?;
        tasks.spawn(postgres::run(postgres_listener, stop.clone()));
        tasks.spawn(upkeep(metrics, stop.clone()));
        drop(guard);

        let addresses = Addresses { mqtt, http, postgres };
        info!(%mqtt, %http, %postgres, "server accepts traffic");
        Ok(Self { addresses, stop, tasks, runtime })
    }

    /// Where it listens; with the real ports where port 0 was asked for.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Writes the ready file.
    ///
    /// # Errors
    /// [`StartError::ReadyFile`].
    pub fn write_ready_file(&self, path: &Path) -> Result<(), StartError> {
        ready::write(path, &self.addresses).map_err(|source| StartError::ReadyFile { path: path.to_owned(), source })
    }

    /// Waits for SIGTERM or SIGINT.
    pub fn wait_for_signal(&self) {
        use tokio::signal::unix::{SignalKind, signal};
        self.runtime.block_on(async {
            let (Ok(mut terminate), Ok(mut interrupt)) =
                (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
            else {
                // Without handlers a signal ends the process at once, which is safe.
                std::future::pending::<()>().await;
                return;
            };
            let signal = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            info!(signal, "server stops");
        });
    }

    /// Stops in the reverse order; whatever is acknowledged is kept.
    pub fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        let ended = self.runtime.block_on(async { tokio::time::timeout(HTTP_DEADLINE, self.tasks.wait()).await });
        if ended.is_err() {
            warn!(open = self.tasks.len(), "requests were still open at the deadline");
        }
        self.runtime.shutdown_timeout(Duration::from_secs(1));
        info!("server has stopped");
    }
}

fn bind(what: &'static str, address: SocketAddr) -> Result<(SocketAddr, tokio::net::TcpListener), StartError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok((listener.local_addr()?, tokio::net::TcpListener::from_std(listener)?))
    };
    bind().map_err(|source| StartError::Listen { what, address, source })
}

/// Merges histogram samples now and then, so that memory stays small while nobody asks for metrics.
async fn upkeep(metrics: &'static PrometheusHandle, stop: CancellationToken) {
    let mut interval = tokio::time::interval(METRICS_UPKEEP);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = interval.tick() => metrics.run_upkeep(),
        }
    }
}
