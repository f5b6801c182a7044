//! A server over a small log, and a client that says exactly what it is told.

use floodplain_access::Registry;
use floodplain_api::{Api, Bound, Limits, MessageLimits, Messages, Node, serve};
use floodplain_log::{Append, BatchBuilder, Compression, Log, MessageRef};
use floodplain_sql::{Config, Sql};
use floodplain_testkit::{AdverseLog, Adversity, FaultDisk, ModelLog};
use floodplain_types::{Class, ManualClock, StreamId, StreamName, TenantId, Timestamp};
use metrics_exporter_prometheus::PrometheusBuilder;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Never ends by itself.
pub(crate) const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b \
                                  WHERE a.value % 7 = b.value % 11";

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) sql: Sql,
    /// What is published goes through here; queries read the log below.
    pub(crate) log: Arc<AdverseLog>,
    /// Unclaimed at first, so that whoever is on this machine may do everything.
    pub(crate) registry: Registry,
    pub(crate) clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
    /// What `/readyz` answers.
    pub(crate) reason: Arc<Mutex<Option<String>>>,
    pub(crate) stop: CancellationToken,
    pub(crate) running: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        Self::limited(config, Limits::default()).await
    }

    pub(crate) async fn limited(config: Config, limits: Limits) -> Self {
        Self::of(config, limits, MessageLimits::default()).await
    }

    pub(crate) async fn of(config: Config, limits: Limits, message_limits: MessageLimits) -> Self {
        Self::changed(config, limits, message_limits, |_, _| {}).await
    }

    /// With an interface that is not quite the usual one; `change` gets the log, too.
    pub(crate) async fn changed(
        config: Config,
        limits: Limits,
        message_limits: MessageLimits,
        change: impl FnOnce(&mut Api, Arc<dyn Log>),
    ) -> Self {
        // Before anything takes its counters.
        let metrics = recorder();
        let now = Timestamp::from_millis(1_795_251_600_000);
        let clock = Arc::new(ManualClock::new(now));
        let log = ModelLog::new(clock.clone());
        let (tenant, stream) = (TenantId::default_tenant(), StreamName::new("telemetry").unwrap());
        let stream = log.open_stream(&StreamId { tenant, stream, generation: 0 }, 2).unwrap();
        for n in 1..=3 {
            let (key, payload) = (format!("d-{n}"), format!(r#"{{"n":{n}}}"#));
            let (key, payload) = (key.as_bytes(), payload.as_bytes());
            let mut message = MessageRef::default();
            (message.topic, message.key, message.payload) = ("t/x", key, payload);
            let mut builder = BatchBuilder::new();
            message.write(&mut builder, now.as_millis(), [].into_iter()).unwrap();
            let batch = builder.finish(Compression::None).unwrap();
            log.submit(Append { batches: vec![(stream.partition_of(key), batch)], class: Class::All }, None);
        }
        let model: Arc<dyn Log> = Arc::new(log);
        let log = AdverseLog::start(model.clone(), Adversity::NONE, 1);
        let sql = Sql::new(model, Config { threads: 2, ..config }).unwrap();
        let node = Node {
            version: "0.0.0",
            started: now,
            workers: 2,
            mqtt_address: ([127, 0, 0, 1], 1883).into(),
            ack_class: Class::All,
            data_dir: "/data".into(),
            disk: Arc::new(FaultDisk::new(1)),
            poisoned: Arc::new(|| None),
        };
        let messages =
            Messages::new(log.clone(), stream.into(), clock.clone(), Arc::new(bound_of), message_limits).unwrap();
        let reason = Arc::new(Mutex::new(None::<String>));
        let readiness = Arc::clone(&reason);
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(&folder.path().join("registry.db"), clock.clone()).await.unwrap();
        let mut api = Api {
            sql: sql.clone(),
            messages,
            tables: None,
            fleet: None,
            retained: None,
            alerts: None,
            node,
            registry: registry.clone(),
            metrics,
            readiness: Arc::new(move || readiness.lock().unwrap().clone().map_or(Ok(()), Err)),
            limits,
        };
        change(&mut api, log.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(serve(listener, api, stop.clone()));
        Self { address, sql, log, registry, clock, _folder: folder, reason, stop, running }
    }

    /// Sends bytes and reads until the server closes.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The server may answer and close before it has read everything.
        drop(stream.write_all(bytes).await);
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
        drop(read.expect("an answer within half a minute"));
        Answer::parse(&answer)
    }

    /// One request with the usual headers and `headers`, which end in CR LF each.
    pub(crate) async fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let (address, length) = (self.address, body.len());
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}");
        self.raw(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes()).await
    }

    /// Waits until so many queries run.
    pub(crate) async fn running_becomes(&self, count: usize) {
        let wait = async {
            while self.sql.running() != count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        assert!(waited.is_ok(), "{} queries run, not {count}", self.sql.running());
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "", "").await
    }

    pub(crate) async fn query(&self, query: &str) -> Answer {
        self.request("POST", "/api/v1/sql", "Content-Type: text/plain\r\n", query).await
    }
}

fn bound_of(topic: &str) -> Bound<'_> {
    let device = topic.strip_prefix("devices/").and_then(|rest| rest.split_once('/'));
    let class = if topic.starts_with("quick/") { Class::Leader } else { Class::All };
    Bound { device: device.map(|(device, _)| device), stream: 0, class }
}

/// One recorder for the process: the `metrics` facade takes no second one.
fn recorder() -> metrics_exporter_prometheus::PrometheusHandle {
    static RECORDER: std::sync::OnceLock<metrics_exporter_prometheus::PrometheusHandle> = std::sync::OnceLock::new();
    RECORDER.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap()).clone()
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    pub(crate) raw_head: String,
    pub(crate) body: String,
    /// Whether the body came to its end.
    pub(crate) whole: bool,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, rest) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let (raw_head, head) = (head.to_owned(), head.to_ascii_lowercase());
        let (body, whole) =
            if head.contains("transfer-encoding: chunked") { unchunk(rest) } else { (rest.to_owned(), true) };
        Self { status, head, raw_head, body, whole }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that this is a problem, as RFC 9457 has it.
    pub(crate) fn assert_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.head.contains("content-type: application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!((&problem["code"], &problem["status"]), (&code.into(), &status.into()), "{self:?}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{self:?}");
    }
}

fn unchunk(mut rest: &str) -> (String, bool) {
    let mut body = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap_or(0);
        if length == 0 {
            return (body, true);
        }
        let Some(chunk) = after.get(..length) else { return (body + after, false) };
        body.push_str(chunk);
        rest = after.get(length + 2..).unwrap_or_default();
    }
    (body, false)
}
