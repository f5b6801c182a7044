//! The order of start and stop.

use crate::{
    Config, devices::TopicDevices, engine::Engine, fleet::Known, keeping::Keeping, postgres, ready, telemetry,
};
use floodplain_access::Registry;
use floodplain_api::{Api, Bound, Limits, MessageLimits, Messages, Node};
use floodplain_broker::seams::{Access, Bindings as _};
use floodplain_fold::Objects;
use floodplain_gateway::{Gateway, GatewayConfig, Run};
use floodplain_log::{DataStreams, DataStreamsError, Log, OsDisk, Refusal, Stream};
use floodplain_postgres::Entrance;
use floodplain_sql::Sql;
use floodplain_types::{Class, Clock as _, StreamId, StreamName, SystemClock, TenantId};
use metrics_exporter_prometheus::PrometheusHandle;
use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpSocket, runtime::Runtime, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

/// Threads of HTTP; a query has its own.
const HTTP_THREADS_MAX: usize = 2;

/// As the exporter's documentation advises.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Connections that wait to be accepted, as the standard library has it.
const BACKLOG: u32 = 128;

/// HTTP ends its answers within five seconds by itself.
const HTTP_DEADLINE: Duration = Duration::from_secs(7);

/// What the log gets to commit what is queued and to close. Beyond it, what was acknowledged is kept all the same.
const LOG_DEADLINE: Duration = Duration::from_secs(10);

/// What the runtime's threads get to end in; they have nothing left to do.
const RUNTIME_DEADLINE: Duration = Duration::from_secs(1);

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
    #[error("cannot open the log; is another server running on this data folder?")]
    LogLocked(#[source] floodplain_log::OpenError),
    #[error("cannot open the log")]
    Log(#[source] floodplain_log::OpenError),
    #[cfg(feature = "kafka")]
    #[error("cannot have the data folder {dir} for this server alone; is another one running on it?")]
    DataDir { dir: PathBuf, source: std::io::Error },
    #[cfg(feature = "kafka")]
    #[error("cannot open the log on kafka")]
    Kafka(#[source] floodplain_log_kafka::OpenError),
    #[cfg(feature = "kafka")]
    #[error(
        "another server that shares this log keeps the tables; stop it first, or start this one with `--set history.enabled=off`"
    )]
    TablesKept,
    #[error("cannot note in {dir} that this server has started")]
    Run { dir: PathBuf, source: std::io::Error },
    #[error("this program was built without kafka: build it with --features kafka")]
    NoKafka,
    #[error("cannot open stream {stream}")]
    Stream { stream: &'static str, source: Refusal },
    #[error("cannot open the streams of messages")]
    Data(#[source] DataStreamsError),
    #[error("cannot find out how large the disk is")]
    Space(#[source] std::io::Error),
    #[error("cannot open the history of tables")]
    History(#[source] floodplain_history::Error),
    #[error("cannot use the store of snapshots.url")]
    Snapshots(#[source] floodplain_object_store::OpenError),
    #[error("cannot use the folder {path} of snapshots.url: it must be there, and this server may write to it")]
    SnapshotsFolder { path: PathBuf, source: std::io::Error },
    #[error("cannot open alerts")]
    Alerts(#[source] floodplain_streams::Error),
    #[error("cannot start mqtt")]
    Mqtt(#[from] floodplain_gateway::Error),
    #[error("cannot open the registry of users")]
    Registry(#[source] floodplain_access::OpenError),
    #[error("cannot set up SQL")]
    Sql(#[source] floodplain_sql::Error),
    #[error("cannot listen at {address} for {what}; is another server running?")]
    Listen { what: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("cannot write the ready file {path}")]
    ReadyFile { path: PathBuf, source: std::io::Error },
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
}

/// A running server. Dropping it without [`Server::stop`] is like a crash: safe, but clients are
/// not told.
pub struct Server {
    addresses: Addresses,
    gateway: Gateway,
    http: JoinHandle<()>,
    http_stop: CancellationToken,
    /// Set first of all, so that `/readyz` says it while the rest still answers.
    stopping: Arc<AtomicBool>,
    tasks: TaskTracker,
    stop: CancellationToken,
    registry: Registry,
    keeping: Keeping,
    engine: Engine,
    signal: CancellationToken,
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
        // Handles of metrics are taken when a part starts, so the recorder comes before all of them.
        let metrics = telemetry::metrics();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.workers.clamp(1, HTTP_THREADS_MAX))
            .thread_name("floodplain-http")
            .enable_all()
            .build()
            .map_err(StartError::Runtime)?;
        // A port that is taken shows before the log is touched. Clients are let in when all is there.
        let http_socket = bind("http", config.http_address)?;
        let postgres_socket = bind("postgres", config.postgres_address)?;
        drop(bind("mqtt", config.mqtt_address)?);
        let engine = Engine::open(config)?;
        let log = engine.log();
        let registry_path = config.data_dir.join("registry.db");
        let registry = runtime.block_on(Registry::open(&registry_path, Arc::new(SystemClock)));
        let registry = registry.map_err(StartError::Registry)?;
        let streams = open_data(config, &*log)?;
        let snapshots = config.snapshots.open(&config.data_dir)?;
        let keeping = Keeping::open(config, &engine, &snapshots, &streams)?;
        let devices = TopicDevices { bindings: keeping.bindings(), streams: streams.clone() };
        let gateway = start_gateway(config, &engine, snapshots, devices.clone())?;
        let messages = start_messages(config, log.clone(), streams, devices)?;
        let fleet = Arc::new(Known::new(gateway.roster(), messages.clone(), keeping.alerts()));
        let sql = Sql::with_fleet(log.clone(), keeping.tables(), Some(fleet.clone()), config.sql.clone());
        let sql = sql.map_err(StartError::Sql)?;

        let guard = runtime.enter();
        let (http, http_listener) = listen("http", config.http_address, http_socket)?;
        let (postgres, postgres_listener) = listen("postgres", config.postgres_address, postgres_socket)?;
        let signal = signals();
        let (stop, http_stop, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let stopping = Arc::new(AtomicBool::new(false));
        let readiness = Arc::new(readiness(engine.clone(), Arc::clone(&stopping)));
        let queries = Arc::new(postgres::Queries(sql.clone()));
        let node = node(config, gateway.mqtt_address(), engine.clone());
        let metrics_handle = metrics.clone();
        let limits = Limits::default();
        let login = Arc::new(postgres::Users(registry.clone()));
        let entrance = Entrance { login, tls: config.postgres_tls.clone() };
        let api = Api {
            sql,
            registry: registry.clone(),
            messages,
            tables: keeping.tables(),
            fleet: Some(fleet.clone()),
            retained: Some(fleet),
            alerts: keeping.alerts(),
            node,
            metrics: metrics_handle,
            readiness,
            limits,
        };
        let http_task = runtime.spawn(floodplain_api::serve(http_listener, api, http_stop.clone()));
        tasks.spawn(floodplain_postgres::serve(postgres_listener, queries, entrance, stop.clone()));
        tasks.spawn(upkeep(metrics, stop.clone()));
        drop(guard);

        let addresses = Addresses { mqtt: gateway.mqtt_address(), http, postgres };
        info!(mqtt = %addresses.mqtt, %http, %postgres, "server accepts traffic");
        Ok(Self {
            addresses,
            gateway,
            http: http_task,
            http_stop,
            stopping,
            tasks,
            stop,
            registry,
            keeping,
            engine,
            signal,
            runtime,
        })
    }

    /// Where it listens; with the real ports where port 0 was asked for.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// While no user exists, says on standard error by which link the first one is made: as a line of the logs, or as plain
    /// text if the level of the logs leaves that line out. The link works once, and for this run only.
    pub fn announce_setup(&self) {
        let Some(token) = self.registry.setup_token() else { return };
        let link = format!("http://{}/setup#{}", self.addresses.http, token.reveal());
        if tracing::enabled!(tracing::Level::INFO) {
            info!(%link, "no user exists yet; the link makes the first one, once");
        } else {
            eprintln!("no user exists yet; this link makes the first one, once: {link}");
        }
    }

    /// Writes the ready file.
    ///
    /// # Errors
    /// [`StartError::ReadyFile`].
    pub fn write_ready_file(&self, path: &Path) -> Result<(), StartError> {
        ready::write(path, &self.addresses).map_err(|source| StartError::ReadyFile { path: path.to_owned(), source })
    }

    /// Waits for SIGTERM or SIGINT, for `limit` at most; whether one has come since the start. A second one ends the
    /// process at once.
    pub fn wait_for_signal(&self, limit: Option<Duration>) -> bool {
        self.runtime.block_on(async {
            match limit {
                Some(limit) => tokio::time::timeout(limit, self.signal.cancelled()).await.is_ok(),
                None => {
                    self.signal.cancelled().await;
                    true
                }
            }
        })
    }

    /// Stops in order, each step with a deadline of its own; whatever is acknowledged is kept.
    ///
    /// Clients come first, so that they are told while all behind them still works: MQTT 5.0
    /// clients get DISCONNECT 0x8B, acknowledgements under way are sent. Then HTTP ends, and with
    /// it queries, and the registry closes; the log commits what is queued and closes last.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Err(error) = self.gateway.stop() {
            error!(%error, "mqtt did not stop in order");
        }
        self.stop.cancel();
        self.http_stop.cancel();
        self.tasks.close();
        let ended = self.runtime.block_on(async {
            tokio::time::timeout(HTTP_DEADLINE, async {
                // A panic in there has been reported; it must not keep the log from closing.
                drop(self.http.await);
                self.tasks.wait().await;
                self.registry.close().await;
            })
            .await
        });
        if ended.is_err() {
            warn!("http had not ended at its deadline");
        }
        let (engine, keeping) = (self.engine.clone(), self.keeping);
        let closing = self.runtime.spawn_blocking(move || {
            keeping.stop();
            engine.close();
        });
        let closed = self.runtime.block_on(async { tokio::time::timeout(LOG_DEADLINE, closing).await });
        if closed.is_err() {
            error!("the log had not closed at its deadline; what was acknowledged is kept");
        }
        self.runtime.shutdown_timeout(RUNTIME_DEADLINE);
        match self.engine.poisoned() {
            None => info!("server has stopped"),
            Some(cause) => error!(%cause, "server has stopped with a poisoned log; what was acknowledged is kept"),
        }
    }
}

pub(crate) fn open_stream(log: &dyn Log, name: &'static str, partitions: u32) -> Result<Stream, StartError> {
    let stream = StreamName::new(name).expect("our stream names are valid");
    let id = StreamId { tenant: TenantId::default_tenant(), stream, generation: 0 };
    log.open_stream(&id, partitions).map_err(|source| StartError::Stream { stream: name, source })
}

/// The streams that take messages: those of the configuration, and those that the log has already.
fn open_data(config: &Config, log: &dyn Log) -> Result<DataStreams, StartError> {
    let (tenant, broker) = (TenantId::default_tenant(), &config.broker);
    let streams = DataStreams::open(log, &tenant, broker.partitions, &broker.streams).map_err(StartError::Data)?;
    for stream in &streams.list()[1..] {
        let is_declared = broker.streams.contains(&stream.id.stream);
        info!(stream = %stream.id.stream, is_declared, "stream takes messages");
    }
    Ok(streams)
}

fn start_gateway(
    config: &Config,
    engine: &Engine,
    snapshots: Arc<dyn Objects>,
    devices: TopicDevices,
) -> Result<Gateway, StartError> {
    let gateway =
        GatewayConfig { mqtt_address: config.mqtt_address, threads: config.workers, broker: config.broker.clone() };
    // Every address is a loopback one, so everybody is who they say they are.
    let access = Access { bindings: Box::new(devices), ..Access::open_loopback() };
    let (log, owners) = (engine.log(), engine.owners());
    let mut run = Run::new(&SystemClock);
    if log.is_shared() {
        let dir = &config.data_dir;
        run = run.noted(&OsDisk, dir).map_err(|source| StartError::Run { dir: dir.clone(), source })?;
    }
    Ok(Gateway::start(&gateway, access, log, owners, snapshots, run, Arc::new(SystemClock))?)
}

/// HTTP takes what MQTT takes, and finds the same device in a topic.
fn start_messages(
    config: &Config,
    log: Arc<dyn Log>,
    streams: DataStreams,
    devices: TopicDevices,
) -> Result<Messages, StartError> {
    let broker = &config.broker;
    let limits = MessageLimits {
        topic_bytes_max: broker.topic_bytes_max,
        topic_levels_max: broker.topic_levels_max,
        payload_bytes_max: broker.maximum_packet_size as usize,
        commit_time_max: broker.hold_max,
        ..MessageLimits::default()
    };
    // A closure's answer could not borrow from the topic alone.
    fn of(devices: TopicDevices, least: Class) -> impl Fn(&str) -> Bound<'_> {
        move |topic| {
            let bound = devices.bound(topic);
            Bound { device: bound.device, stream: bound.stream, class: bound.class.unwrap_or(least) }
        }
    }
    Messages::new(log, streams, Arc::new(SystemClock), Arc::new(of(devices, broker.ack_class)), limits)
        .map_err(StartError::Runtime)
}

/// What the overview says of this process.
fn node(config: &Config, mqtt_address: SocketAddr, engine: Engine) -> Node {
    Node {
        version: env!("CARGO_PKG_VERSION"),
        started: SystemClock.now(),
        workers: config.workers,
        mqtt_address,
        ack_class: config.broker.ack_class,
        data_dir: config.data_dir.clone(),
        disk: Arc::new(OsDisk),
        poisoned: Arc::new(move || engine.poisoned().map(|cause| cause.to_string())),
    }
}

fn readiness(engine: Engine, stopping: Arc<AtomicBool>) -> impl Fn() -> Result<(), String> {
    move || {
        if stopping.load(Ordering::Relaxed) {
            return Err("the server is stopping".to_owned());
        }
        match engine.poisoned() {
            Some(cause) => Err(format!("the log takes no more records until restart: {cause}")),
            None => Ok(()),
        }
    }
}

/// Takes the address; who connects is refused until [`listen`].
fn bind(what: &'static str, address: SocketAddr) -> Result<TcpSocket, StartError> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    bind().map_err(|source| StartError::Listen { what, address, source })
}

fn listen(
    what: &'static str,
    address: SocketAddr,
    socket: TcpSocket,
) -> Result<(SocketAddr, tokio::net::TcpListener), StartError> {
    let listen = || {
        let listener = socket.listen(BACKLOG)?;
        Ok((listener.local_addr()?, listener))
    };
    listen().map_err(|source| StartError::Listen { what, address, source })
}

/// Takes over SIGTERM and SIGINT: the first one cancels the token, a second one ends the process, which is safe.
fn signals() -> CancellationToken {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        warn!("signals cannot be taken over: they end the process at once, which is safe but tells no client");
        return token;
    };
    let first = token.clone();
    tokio::spawn(async move {
        loop {
            let signal = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if first.is_cancelled() {
                warn!(signal, "server ends at once, by a second signal");
                std::process::exit(1);
            }
            info!(signal, "server stops");
            first.cancel();
        }
    });
    token
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

#[cfg(test)]
mod tests {
    use super::*;
    use floodplain_log::{Append, Embedded, Outcome};
    use floodplain_testkit::{Fault, FaultDisk, Op, Rule, batch_of};

    #[test]
    fn a_server_that_stops_is_not_ready() {
        let folder = tempfile::tempdir().unwrap();
        let config = floodplain_log::EmbeddedConfig::new(folder.path());
        let (log, _) = Embedded::open(Arc::new(OsDisk), Arc::new(SystemClock), config).unwrap();
        let stopping = Arc::new(AtomicBool::new(false));
        let ready = readiness(Engine::Embedded(log), Arc::clone(&stopping));
        assert_eq!(ready(), Ok(()));
        stopping.store(true, Ordering::Relaxed);
        assert_eq!(ready(), Err("the server is stopping".to_owned()));
    }

    #[tokio::test]
    async fn a_server_whose_log_is_poisoned_is_not_ready() {
        let disk = FaultDisk::new(1);
        let config = floodplain_log::EmbeddedConfig::new("/data/log");
        let (log, _) = Embedded::open(Arc::new(disk.clone()), Arc::new(SystemClock), config).unwrap();
        let (tenant, stream) = (TenantId::default_tenant(), StreamName::new("telemetry").unwrap());
        let partition = log.open_stream(&StreamId { tenant, stream, generation: 0 }, 1).unwrap().partition(0);
        let append = async || {
            let batches = vec![(partition, batch_of(b"k", b"v", 0))];
            floodplain_log::append(&*log, Append { batches, class: Class::All }).await
        };
        let ready = readiness(Engine::Embedded(Arc::clone(&log)), Arc::default());
        assert!(matches!(append().await, Outcome::Committed(_)));
        assert_eq!(ready(), Ok(()));
        disk.fail(Rule::nth(1, Fault::Eio).of(Op::Sync).on_kind("log/journal"));
        assert_eq!(append().await, Outcome::Unknown);
        // Once it has refused something, it says so to all who ask.
        assert!(matches!(append().await, Outcome::Refused(Refusal::Poisoned { .. })));
        let reason = ready().unwrap_err();
        let cause = "the log takes no more records until restart: cannot sync journal ";
        assert!(reason.starts_with(cause) && reason.ends_with("(os error 5)"), "{reason}");
    }
}
