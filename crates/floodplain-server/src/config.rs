//! The keys of the configuration, and what each part of the server is told.

use crate::{
    kafka::Kafka,
    settings::{ConfigError, Entry, Key, Kind, Origin, Setting, Settings, Sources},
    snapshots::Snapshots,
    telemetry,
};
use floodplain_broker::BrokerConfig;
use floodplain_history::{
    bindings::{self, Binding, BindingError},
    table_rules::parse_age,
};
use floodplain_log::{DataStreams, EmbeddedConfig, TELEMETRY};
use floodplain_postgres::{Tls, TlsError};
use floodplain_streams::rule::{Rule, v1};
use floodplain_types::{Class, StreamName};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Why a value fits its type.
const LIMITED: &str = "the limits of its key are narrower";

const CERTIFICATE: &str = "postgres.tls_certificate";
const KEY: &str = "postgres.tls_key";

/// Every key. The order is that of the guide; `config show` sorts by name.
pub static KEYS: &[Key] = &[
    Key {
        name: "data_dir",
        kind: Kind::Path,
        limits: None,
        default: "floodplain-data",
        help: "folder of everything that is kept; one server at a time",
    },
    Key {
        name: "workers",
        kind: Kind::Count,
        limits: Some(("0", "64")),
        default: "0",
        help: "threads that own connections and partitions; 0 is one per core",
    },
    Key {
        name: "mqtt.address",
        kind: Kind::Address,
        limits: None,
        default: "127.0.0.1:1883",
        help: "listener for MQTT 3.1.1 and 5.0; loopback only",
    },
    Key {
        name: "http.address",
        kind: Kind::Address,
        limits: None,
        default: "127.0.0.1:8080",
        help: "listener for the HTTP API, /metrics, /healthz and /readyz; loopback only",
    },
    Key {
        name: "postgres.address",
        kind: Kind::Address,
        limits: None,
        default: "127.0.0.1:5433",
        help: "listener for the PostgreSQL wire; loopback only",
    },
    Key {
        name: CERTIFICATE,
        kind: Kind::PathOrNone,
        limits: None,
        default: "none",
        help: "certificate chain of the PostgreSQL wire, in PEM, the server's own first; none is no TLS",
    },
    Key {
        name: KEY,
        kind: Kind::PathOrNone,
        limits: None,
        default: "none",
        help: "private key of that certificate, in PEM",
    },
    Key {
        name: "mqtt.packet_size_max",
        kind: Kind::Size,
        limits: Some(("1KiB", "7MiB")),
        default: "916KiB",
        help: "largest MQTT packet that is accepted",
    },
    Key {
        name: "mqtt.receive_maximum",
        kind: Kind::Count,
        limits: Some(("1", "65535")),
        default: "256",
        help: "QoS 1 and 2 messages that one client may have open",
    },
    Key {
        name: "mqtt.topic_size_max",
        kind: Kind::Size,
        limits: Some(("1B", "65535B")),
        default: "65535B",
        help: "longest topic name or filter",
    },
    Key {
        name: "mqtt.topic_levels_max",
        kind: Kind::Count,
        limits: Some(("1", "65535")),
        default: "256",
        help: "levels of a topic name or filter",
    },
    Key {
        name: "mqtt.subscriptions_max",
        kind: Kind::Count,
        limits: Some(("1", "1000000")),
        default: "10000",
        help: "subscriptions of one session",
    },
    Key {
        name: "mqtt.sessions_max",
        kind: Kind::Count,
        limits: Some(("1", "1000000000")),
        default: "4000000",
        help: "sessions that outlive their connection; each partition has its share",
    },
    Key {
        name: "mqtt.session_expiry_max",
        kind: Kind::Duration,
        limits: Some(("0s", "49710d")),
        default: "7d",
        help: "longest life of a session without a connection",
    },
    Key {
        name: "mqtt.connect_deadline",
        kind: Kind::Duration,
        limits: Some(("100ms", "1h")),
        default: "10s",
        help: "time from accept to CONNECT",
    },
    Key {
        name: "mqtt.partitions",
        kind: Kind::Count,
        limits: Some(("1", "4096")),
        default: "16",
        help: "partitions of a stream that is created; an existing one keeps its own",
    },
    Key {
        name: "mqtt.ack_class",
        kind: Kind::OneOf(&["leader", "all"]),
        limits: None,
        default: "all",
        help: "least promise behind an acknowledgement: leader survives a crash of the process, all a power cut",
    },
    Key {
        name: "log.engine",
        kind: Kind::OneOf(&["embedded", "kafka"]),
        limits: None,
        default: "embedded",
        help: "where the log is: in files of this machine, or on Apache Kafka; a program that is built with it can do both",
    },
    Key {
        name: "log.journal_size",
        kind: Kind::Size,
        limits: Some(("1MiB", "1GiB")),
        default: "64MiB",
        help: "length at which a journal file ends; at most a 32nd of the disk, and an eighth of log.retention_size",
    },
    Key {
        name: "log.tail_size",
        kind: Kind::Size,
        limits: Some(("1MiB", "64GiB")),
        default: "32MiB",
        help: "newest batches that stay in memory for live readers",
    },
    Key {
        name: "log.queue_size",
        kind: Kind::Size,
        limits: Some(("8MiB", "64GiB")),
        default: "64MiB",
        help: "bytes that wait for the disk before appends are refused",
    },
    Key {
        name: "log.reserve_size",
        kind: Kind::SizeOrAuto,
        limits: None,
        default: "auto",
        help: "free space below which appends are refused; auto is a 20th of the disk, at most 4GiB",
    },
    Key {
        name: "log.retention",
        kind: Kind::Duration,
        limits: Some(("1m", "36500d")),
        default: "7d",
        help: "age after which records are removed",
    },
    Key {
        name: "log.retention_size",
        kind: Kind::SizeOrAuto,
        limits: Some(("16MiB", "1000TiB")),
        default: "auto",
        help: "length of the log above which the oldest records are removed; auto is a fifth of the disk",
    },
    Key {
        name: "kafka.brokers",
        kind: Kind::Text,
        limits: None,
        default: "127.0.0.1:9092",
        help: "HOST:PORT of some brokers, with commas between them; the others are learned from them",
    },
    Key {
        name: "kafka.topic_prefix",
        kind: Kind::Text,
        limits: None,
        default: "none",
        help: "in front of the name of every topic, so that installations may share a cluster",
    },
    Key {
        name: "kafka.replication",
        kind: Kind::Count,
        limits: Some(("1", "32")),
        default: "3",
        help: "copies of each partition of new topics; 1 lets a single broker work",
    },
    Key {
        name: "kafka.min_insync_replicas",
        kind: Kind::Count,
        limits: Some(("1", "32")),
        default: "2",
        help: "copies that must have a record before it is acknowledged",
    },
    Key {
        name: "kafka.slots",
        kind: Kind::Count,
        limits: Some(("1", "4096")),
        default: "64",
        help: "shares of the work of folding; an installation keeps the number that it began with",
    },
    Key {
        name: "kafka.session_timeout",
        kind: Kind::Duration,
        limits: Some(("1s", "30m")),
        default: "10s",
        help: "silence after which a server's shares go to others; brokers set a minimum, usually 6s",
    },
    Key {
        name: "kafka.tls",
        kind: Kind::OneOf(&["off", "on"]),
        limits: None,
        default: "off",
        help: "whether connections to brokers are encrypted, and their certificates checked",
    },
    Key {
        name: "kafka.tls_ca",
        kind: Kind::PathOrNone,
        limits: None,
        default: "none",
        help: "authorities of the brokers' certificates, in PEM; none is those of the machine",
    },
    Key {
        name: "kafka.tls_certificate",
        kind: Kind::PathOrNone,
        limits: None,
        default: "none",
        help: "our certificate, in PEM, where brokers ask for one",
    },
    Key {
        name: "kafka.tls_key",
        kind: Kind::PathOrNone,
        limits: None,
        default: "none",
        help: "private key of that certificate, in PEM",
    },
    Key {
        name: "kafka.sasl",
        kind: Kind::OneOf(&["none", "plain", "scram-sha-256", "scram-sha-512"]),
        limits: None,
        default: "none",
        help: "how brokers are told who we are",
    },
    Key { name: "kafka.user", kind: Kind::Text, limits: None, default: "none", help: "name of the user for it" },
    Key {
        name: "kafka.password_file",
        kind: Kind::PathOrNone,
        limits: None,
        default: "none",
        help: "file that holds the password of that user",
    },
    Key {
        name: "snapshots.url",
        kind: Kind::Text,
        limits: None,
        default: "none",
        help: "where servers that share a log keep snapshots of folds: file:///FOLDER or s3://BUCKET/PREFIX; none is the data folder",
    },
    Key {
        name: "s3.endpoint",
        kind: Kind::Text,
        limits: None,
        default: "none",
        help: "URL of object storage that is not Amazon's; of this and the next three none is what AWS_* variables say",
    },
    Key { name: "s3.region", kind: Kind::Text, limits: None, default: "none", help: "its region" },
    Key { name: "s3.access_key_id", kind: Kind::Text, limits: None, default: "none", help: "name of our key there" },
    Key {
        name: "s3.secret_access_key_file",
        kind: Kind::PathOrNone,
        limits: None,
        default: "none",
        help: "file that holds the secret of that key",
    },
    Key {
        name: "s3.allow_http",
        kind: Kind::OneOf(&["off", "on"]),
        limits: None,
        default: "off",
        help: "whether s3.endpoint may be without TLS",
    },
    Key {
        name: "history.enabled",
        kind: Kind::OneOf(&["off", "on"]),
        limits: None,
        default: "on",
        help: "whether this server keeps tables and watches alerts; of the servers that share a log one does",
    },
    Key {
        name: "history.size_max",
        kind: Kind::SizeOrAuto,
        limits: Some(("16MiB", "1000TiB")),
        default: "auto",
        help: "bytes of the files of tables above which the oldest are removed; auto is three tenths of the disk",
    },
    Key {
        name: "sql.threads",
        kind: Kind::Count,
        limits: Some(("0", "256")),
        default: "0",
        help: "threads of one query; 0 is one per core",
    },
    Key {
        name: "sql.memory_max",
        kind: Kind::Size,
        limits: Some(("1MiB", "16TiB")),
        default: "256MiB",
        help: "memory that all running queries may take together",
    },
    Key {
        name: "sql.time_max",
        kind: Kind::Duration,
        limits: Some(("100ms", "1d")),
        default: "60s",
        help: "longest time of a query",
    },
    Key {
        name: "sql.rows_max",
        kind: Kind::Count,
        limits: Some(("1", "4294967295")),
        default: "1000000",
        help: "rows that a query may return",
    },
    Key {
        name: "tracing.level",
        kind: Kind::Text,
        limits: None,
        default: "info",
        help: "filter of the logs: error, warn, info, debug, trace, also per crate: info,floodplain_log=debug",
    },
    Key {
        name: "tracing.format",
        kind: Kind::OneOf(&["text", "json"]),
        limits: None,
        default: "text",
        help: "form of the logs on standard error",
    },
];

/// The checked configuration of a server.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    pub mqtt_address: SocketAddr,
    pub http_address: SocketAddr,
    pub postgres_address: SocketAddr,
    pub postgres_tls: Option<Tls>,
    /// Threads that own connections and partitions, at least 1.
    pub workers: usize,
    /// In `data_dir/log`.
    pub log: EmbeddedConfig,
    /// The log is there instead.
    pub kafka: Option<Kafka>,
    /// Where snapshots of folds are.
    pub snapshots: Snapshots,
    pub broker: BrokerConfig,
    /// Whether this server keeps tables, and watches for alerts.
    pub history: bool,
    /// Bytes of the files of tables; `None` for three tenths of the disk.
    pub history_bytes_max: Option<u64>,
    /// Those of the file.
    pub bindings: Vec<Arc<Binding>>,
    /// How old rows of a table may become.
    pub retention: BTreeMap<String, Duration>,
    pub sql: floodplain_sql::Config,
    /// Alerts of the file.
    pub alerts: Vec<Rule>,
    /// Filter of the logs.
    pub tracing_level: String,
    /// `text` or `json`.
    pub tracing_format: String,
    settings: Settings,
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// [`ConfigError`] names the place and what would be right.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let settings = Settings::load(KEYS, sources)?;
        let threads = |name| match settings.count(name) {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count as usize,
        };
        let data_dir = PathBuf::from(&settings.get("data_dir").value);
        let level = settings.get("tracing.level");
        if telemetry::filter(&level.value).is_none() {
            let expected = "error, warn, info, debug, trace or off, also per crate: info,floodplain_log=debug";
            return Err(bad(level, expected));
        }
        let streams = settings.entries("streams", stream)?;
        if let [.., last] = &streams[..]
            && streams.len() >= DataStreams::MAX
        {
            let reason = format!("there may be {} of them beside telemetry", DataStreams::MAX - 1);
            return Err(settings.bad_entry("streams", last.as_str(), reason));
        }
        let bindings = settings.entries("bindings", |entry| {
            let binding = binding(entry)?;
            let is_there = |name: &str| name == TELEMETRY || streams.iter().any(|stream| stream.as_str() == name);
            if is_there(binding.stream()) {
                return Ok(binding);
            }
            Err(entry.bad(BindingError::UnknownStream(binding.stream().to_owned())))
        })?;
        let broker = BrokerConfig { streams, ..broker(&settings) };
        let history = settings.get("history.enabled").value == "on";
        let retention = settings.entries("tables", table)?;
        let alerts = settings.entries("alerts", alert)?;
        if !history {
            let binding = bindings.first().map(|binding| ("bindings", binding.name()));
            let table = retention.first().map(|(name, _)| ("tables", &**name));
            let alert = alerts.first().map(|rule| ("alerts", &*rule.name));
            if let Some((kind, name)) = binding.or(table).or(alert) {
                return Err(settings.bad_entry(
                    kind,
                    name,
                    "history.enabled is off: it is for the server that keeps tables".to_owned(),
                ));
            }
        }
        Ok(Self {
            log: log(&settings, &data_dir),
            kafka: Kafka::of(&settings)?,
            snapshots: Snapshots::of(&settings)?,
            broker,
            bindings,
            history,
            retention: retention.into_iter().collect(),
            history_bytes_max: settings.size_or_auto("history.size_max"),
            sql: sql(&settings, threads("sql.threads")),
            alerts,
            // A set of workers is a word of 64 bits in the broker.
            workers: threads("workers").min(64),
            data_dir,
            mqtt_address: loopback(&settings, "mqtt.address")?,
            http_address: loopback(&settings, "http.address")?,
            postgres_address: loopback(&settings, "postgres.address")?,
            postgres_tls: tls(&settings)?,
            tracing_level: settings.get("tracing.level").value.clone(),
            tracing_format: settings.get("tracing.format").value.clone(),
            settings,
        })
    }

    /// Every key with its value and its origin, by name.
    pub fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.settings.iter()
    }

    /// The file that was read, if any value came from one.
    #[must_use]
    pub fn file(&self) -> Option<&PathBuf> {
        self.settings.iter().find_map(|setting| match &setting.origin {
            Origin::File(path) => Some(path),
            _ => None,
        })
    }
}

/// Read here, so that `config check` finds what would keep a server from starting.
fn tls(settings: &Settings) -> Result<Option<Tls>, ConfigError> {
    let (certificate, key) = match [CERTIFICATE, KEY].map(|name| settings.path_or_none(name)) {
        [None, None] => return Ok(None),
        [Some(certificate), Some(key)] => (certificate, key),
        [Some(_), None] => return Err(bad(settings.get(KEY), "a path, because postgres.tls_certificate has one")),
        [None, Some(_)] => return Err(bad(settings.get(CERTIFICATE), "a path, because postgres.tls_key has one")),
    };
    let read = |key, path: &Path| {
        std::fs::read(path).map_err(|source| ConfigError::ReadValue { key, path: path.to_owned(), source })
    };
    let tls = Tls::new(&read(CERTIFICATE, &certificate)?, &read(KEY, &key)?);
    tls.map(Some).map_err(|source| match source {
        TlsError::Key => ConfigError::Tls { key: KEY, path: key, source },
        TlsError::Certificate | TlsError::Unusable(_) => {
            ConfigError::Tls { key: CERTIFICATE, path: certificate, source }
        }
    })
}

fn log(settings: &Settings, data_dir: &Path) -> EmbeddedConfig {
    EmbeddedConfig {
        journal_bytes: settings.size("log.journal_size"),
        tail_bytes: settings.size("log.tail_size"),
        queue_bytes: settings.size("log.queue_size"),
        reserve_bytes: settings.size_or_auto("log.reserve_size"),
        retention_age: settings.duration("log.retention"),
        retention_bytes: settings.size_or_auto("log.retention_size"),
        // Longer than folds need to write down what they have replayed.
        retention_delay: Duration::from_secs(60),
        ..EmbeddedConfig::new(data_dir.join("log"))
    }
}

fn broker(settings: &Settings) -> BrokerConfig {
    BrokerConfig {
        partitions: settings.count("mqtt.partitions"),
        ack_class: if settings.get("mqtt.ack_class").value == "leader" { Class::Leader } else { Class::All },
        maximum_packet_size: settings.size("mqtt.packet_size_max").try_into().expect(LIMITED),
        receive_maximum: settings.count("mqtt.receive_maximum").try_into().expect(LIMITED),
        topic_bytes_max: settings.size("mqtt.topic_size_max").try_into().expect(LIMITED),
        topic_levels_max: settings.count("mqtt.topic_levels_max").try_into().expect(LIMITED),
        subscriptions_max: settings.count("mqtt.subscriptions_max").try_into().expect(LIMITED),
        sessions_max: settings.count("mqtt.sessions_max").try_into().expect(LIMITED),
        session_expiry_max: settings.duration("mqtt.session_expiry_max"),
        connect_deadline: settings.duration("mqtt.connect_deadline"),
        ..BrokerConfig::default()
    }
}

fn sql(settings: &Settings, threads: usize) -> floodplain_sql::Config {
    floodplain_sql::Config {
        threads,
        memory_max_bytes: settings.size("sql.memory_max").try_into().expect(LIMITED),
        time_max: settings.duration("sql.time_max"),
        rows_max: u64::from(settings.count("sql.rows_max")),
        ..floodplain_sql::Config::default()
    }
}

/// One of `[[streams]]`: the name of a data stream beside `telemetry`.
fn stream(entry: &Entry<'_>) -> Result<StreamName, ConfigError> {
    if entry.name.is_empty() {
        return Err(entry.bad("it needs a name"));
    }
    entry.has_only(&["name"])?;
    let name = StreamName::new(entry.name).map_err(|error| entry.bad(error))?;
    DataStreams::check_name(&name).map_err(|reason| entry.bad(reason))?;
    Ok(name)
}

/// One of `[[alerts]]`.
fn alert(entry: &Entry<'_>) -> Result<Rule, ConfigError> {
    let alert: Result<v1::Alert, toml::de::Error> = entry.value.clone().try_into();
    let alert = alert.map_err(|error| entry.bad(error.message()))?;
    Rule::try_from(alert).map_err(|error| entry.bad(error))
}

/// One of `[[bindings]]`: its members are those of the API.
fn binding(entry: &Entry<'_>) -> Result<Arc<Binding>, ConfigError> {
    let json = serde_json::to_value(entry.value).map_err(|error| entry.bad(error))?;
    let binding = Binding::declare(entry.name, json, bindings::Origin::Config);
    binding.map(Arc::new).map_err(|error| entry.bad(error))
}

/// One of `[[tables]]`: its name, and how old its rows may become.
fn table(entry: &Entry<'_>) -> Result<(String, Duration), ConfigError> {
    entry.has_only(&["name", "retention"])?;
    if entry.name.is_empty() {
        return Err(entry.bad("it needs a name"));
    }
    let retention = entry.value.get("retention").and_then(toml::Value::as_str);
    let retention = retention.ok_or_else(|| entry.bad("it needs a retention such as \"30d\""))?;
    Ok((entry.name.to_owned(), parse_age(retention).map_err(|error| entry.bad(error))?))
}

/// There is no identity and no policy yet, so nobody but this machine may connect.
fn loopback(settings: &Settings, name: &'static str) -> Result<SocketAddr, ConfigError> {
    let address = settings.address(name);
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(bad(settings.get(name), "a loopback address: other machines may connect once identities and TLS are built"))
}

fn bad(setting: &Setting, expected: &str) -> ConfigError {
    let (value, origin) = (setting.value.clone(), setting.origin.clone());
    ConfigError::BadValue { key: setting.key.name, value, origin, expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_name_every_key_once() {
        let config = Config::load(&Sources::default()).unwrap();
        assert_eq!(config.mqtt_address, "127.0.0.1:1883".parse().unwrap());
        assert_eq!(config.http_address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(config.postgres_address, "127.0.0.1:5433".parse().unwrap());
        assert!(config.workers > 0);
        assert_eq!(config.settings().count(), KEYS.len());
        for key in KEYS {
            assert!(!key.help.is_empty() && key.name == key.name.to_lowercase(), "{}", key.name);
        }
    }

    #[test]
    fn what_the_keys_default_to_is_what_the_parts_default_to() {
        let config = Config::load(&Sources::default()).unwrap();
        let retention_delay = config.log.retention_delay;
        let expected =
            EmbeddedConfig { retention_delay, ..EmbeddedConfig::new(Path::new("floodplain-data").join("log")) };
        assert_eq!(format!("{:?}", config.log), format!("{expected:?}"));
        assert_eq!(format!("{:?}", config.broker), format!("{:?}", BrokerConfig::default()));
        assert_eq!(config.sql, floodplain_sql::Config::default());
    }

    #[test]
    fn what_would_break_a_server_is_no_configuration() {
        let load = |key: &str, value: &str| {
            let flags = vec![("--set".to_owned(), key.to_owned(), value.to_owned())];
            Config::load(&Sources { flags, ..Sources::default() })
        };
        for key in KEYS {
            for value in key.limits.into_iter().flat_map(|(min, max)| [min, max]) {
                load(key.name, value).unwrap_or_else(|error| panic!("{error}"));
            }
        }
        for (key, value) in [
            ("workers", "65"),
            ("mqtt.packet_size_max", "0B"),
            ("mqtt.packet_size_max", "8MiB"),
            ("mqtt.receive_maximum", "0"),
            ("mqtt.receive_maximum", "65536"),
            ("mqtt.topic_size_max", "64KiB"),
            ("mqtt.topic_levels_max", "0"),
            ("mqtt.subscriptions_max", "0"),
            ("mqtt.sessions_max", "0"),
            ("mqtt.session_expiry_max", "50000d"),
            ("history.size_max", "1MiB"),
            ("mqtt.connect_deadline", "0s"),
            ("mqtt.partitions", "0"),
            ("mqtt.partitions", "4000000000"),
            ("log.journal_size", "0B"),
            ("log.tail_size", "0B"),
            ("log.queue_size", "4MiB"),
            ("log.retention", "0s"),
            ("log.retention_size", "0B"),
            ("sql.threads", "257"),
            ("sql.memory_max", "0B"),
            ("sql.time_max", "0s"),
            ("sql.rows_max", "0"),
        ] {
            let error = load(key, value).unwrap_err().to_string();
            let (min, max) = KEYS.iter().find(|known| known.name == key).unwrap().limits.unwrap();
            assert!(error.ends_with(&format!(", from {min} to {max}")), "{error}");
        }
        let queue = KEYS.iter().find(|key| key.name == "log.queue_size").unwrap().limits.unwrap().0;
        assert!(crate::parse_size(queue) >= Some(floodplain_log::MAX_UNIT_BYTES), "an append must fit into the queue");
    }

    #[test]
    fn alerts_of_the_file_are_checked() {
        let load = |text: &str| {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("floodplain.toml");
            std::fs::write(&file, text).unwrap();
            Config::load(&Sources { file: Some(file), ..Sources::default() })
        };
        let hot = "[[alerts]]\nname = \"hot\"\nkind = \"above\"\ntable = \"engine\"\ncolumn = \"oil\"\nvalue = 120\n";
        let quiet = "[[alerts]]\nname = \"quiet\"\nkind = \"silent\"\nminutes = 5\ndevices = \"truck-*\"\n";
        let config = load(&format!("{hot}{quiet}[log]\nretention = \"1d\"\n")).unwrap();
        assert_eq!(config.alerts.iter().map(|rule| &*rule.name).collect::<Vec<_>>(), ["hot", "quiet"]);
        for (text, says) in [
            (format!("{hot}{hot}"), "alert \"hot\" of"),
            (hot.replace("above", "over"), "unknown variant"),
            (hot.replace("oil", ""), "column has"),
            (format!("{hot}webhok = \"http://secret\"\n"), "unknown field `webhok`"),
            (format!("{hot}webhook = \"secret\"\n"), "webhook is a URL"),
            ("[[alerts]]\nkind = \"silent\"\n".to_owned(), "alert number 1 of"),
            ("alerts = 1\n".to_owned(), "unknown key"),
            ("[alerts]\nname = \"x\"\n".to_owned(), "unknown key"),
        ] {
            let error = load(&text).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn bindings_and_tables_of_the_file_are_checked_like_alerts() {
        let load = |text: &str| {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("floodplain.toml");
            std::fs::write(&file, text).unwrap();
            Config::load(&Sources { file: Some(file), ..Sources::default() })
        };
        let roads = "[[bindings]]\nname = \"roads\"\nfilter = \"roads/+\"\ntable = { name = \"traffic\" }\n";
        let engine = "[[tables]]\nname = \"engine\"\nretention = \"30d\"\n";
        let config = load(&format!("{roads}{engine}")).unwrap();
        let (name, origin) = (config.bindings[0].name(), config.bindings[0].origin());
        assert_eq!((config.bindings.len(), name, origin), (1, "roads", bindings::Origin::Config));
        assert_eq!(config.retention, [("engine".to_owned(), Duration::from_secs(30 * 86_400))].into());
        for (text, says) in [
            (format!("{roads}{roads}"), "binding \"roads\" of"),
            (format!("{roads}{roads}"), "another one has this name"),
            (roads.replace("roads/+", "roads+"), "wildcard does not fill its level"),
            (roads.replace("name = \"roads\"\n", ""), "binding number 1 of"),
            (roads.replace("name = \"roads\"\n", ""), "is no name of a binding"),
            ("bindings = 1\n".to_owned(), "unknown key \"bindings\""),
            (format!("{engine}{engine}"), "another one has this name"),
            (engine.replace("30d", "ever"), "table \"engine\" of"),
            (engine.replace("retention", "retentoin"), "unknown key \"retentoin\"; the nearest is \"retention\""),
            ("tables = 1\n".to_owned(), "unknown key"),
        ] {
            let error = load(&text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_server_without_tables_declares_nothing_of_them() {
        let load = |text: &str| {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("floodplain.toml");
            std::fs::write(&file, format!("[history]\nenabled = \"off\"\n{text}")).unwrap();
            Config::load(&Sources { file: Some(file), ..Sources::default() })
        };
        assert!(!load("").unwrap().history);
        for (text, says) in [
            (
                "[[bindings]]\nname = \"roads\"\nfilter = \"roads/+\"\ntable = { name = \"traffic\" }\n",
                "binding \"roads\" of",
            ),
            ("[[tables]]\nname = \"engine\"\nretention = \"30d\"\n", "table \"engine\" of"),
            ("[[alerts]]\nname = \"quiet\"\nkind = \"silent\"\nminutes = 5\ndevices = \"*\"\n", "alert \"quiet\" of"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("history.enabled is off"), "{text}: {error}");
        }
    }

    #[test]
    fn streams_of_the_file_are_checked() {
        let load = |text: &str| {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("floodplain.toml");
            std::fs::write(&file, text).unwrap();
            Config::load(&Sources { file: Some(file), ..Sources::default() })
        };
        let two = "[[streams]]\nname = \"fast\"\n[[streams]]\nname = \"raw-2\"\n";
        let bound = "[[bindings]]\nname = \"b\"\nfilter = \"f/#\"\nstream = \"fast\"\ntable = { name = \"t\" }\n";
        let config = load(&format!("{two}{bound}")).unwrap();
        assert_eq!(config.broker.streams.iter().map(StreamName::as_str).collect::<Vec<_>>(), ["fast", "raw-2"]);
        let many: String = (0..16).map(|n| format!("[[streams]]\nname = \"s{n}\"\n")).collect();
        for (text, says) in [
            (format!("{two}{two}"), "stream \"fast\" of"),
            (two.replace("fast", "dlq"), "one of the server's own"),
            (two.replace("fast", "Fast"), "no name for a stream"),
            (format!("{two}retention = \"1d\"\n"), "unknown key \"retention\"; the nearest is \"name\""),
            ("[[streams]]\n".to_owned(), "stream number 1 of"),
            (many, "there may be 15 of them"),
            ("streams = 1\n".to_owned(), "unknown key \"streams\""),
            (bound.to_owned(), "there is no stream \"fast\": declare it under [[streams]]"),
        ] {
            let error = load(&text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn listening_beyond_this_machine_is_refused() {
        let flags = vec![("--mqtt-address".to_owned(), "mqtt.address".to_owned(), "0.0.0.0:1883".to_owned())];
        let error = Config::load(&Sources { flags, ..Sources::default() }).unwrap_err().to_string();
        assert!(error.contains("must be a loopback address"), "{error}");
    }

    #[test]
    fn a_level_that_would_log_nothing_is_refused() {
        let load = |level: &str| {
            let flags = vec![("--set".to_owned(), "tracing.level".to_owned(), level.to_owned())];
            Config::load(&Sources { flags, ..Sources::default() })
        };
        for level in ["info", "warn,floodplain_log=debug", "off"] {
            load(level).unwrap();
        }
        for level in ["inof", "info,floodplain_log=loud", ""] {
            assert!(matches!(load(level), Err(ConfigError::BadValue { .. })), "{level}");
        }
    }
}
