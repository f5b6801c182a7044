//! Where the cluster is, how to speak with it, and how much memory that may take.

use rdkafka::ClientConfig;
use std::{collections::BTreeMap, io, path::PathBuf, time::Duration};

/// How the brokers are reached and know us. By default neither encrypted nor authenticated.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// Encrypts connections and checks the brokers' certificates and names.
    pub tls: Option<Tls>,
    /// Authenticates with a user name.
    pub sasl: Option<Sasl>,
}

/// TLS by the OpenSSL inside librdkafka.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// PEM file of the authorities that brokers' certificates come from; those of the machine if absent.
    pub ca_file: Option<PathBuf>,
    /// PEM file of our own certificate and its chain, where brokers ask for one.
    pub certificate_file: Option<PathBuf>,
    /// PEM file of the key to it.
    pub key_file: Option<PathBuf>,
    /// File that holds the password of the key.
    pub key_password_file: Option<PathBuf>,
}

/// How a user name is proved. GSSAPI (Kerberos) is not built in: it would need Cyrus SASL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslMechanism {
    /// The password itself: only together with TLS.
    Plain,
    ScramSha256,
    ScramSha512,
}

impl SaslMechanism {
    fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// A user of the cluster.
#[derive(Debug, Clone)]
pub struct Sasl {
    pub mechanism: SaslMechanism,
    pub username: String,
    /// File that holds the password; white space at its end does not count.
    pub password_file: PathBuf,
}

/// The cluster, and what this node takes and asks of it.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// `host:port` of some brokers; the others are learned from them.
    pub bootstrap_servers: Vec<String>,
    /// TLS and SASL.
    pub security: Security,
    /// What brokers' logs and quotas call us.
    pub client_id: String,
    /// In front of every topic name, so that installations may share a cluster. Letters, digits, `_`, `-` and `.`.
    pub topic_prefix: String,

    /// Partitions of a new stream that asks for 0.
    pub partitions_default: u32,
    /// Copies of each partition of new topics. 3 for production; 1 lets a single broker work.
    pub replication: u16,
    /// How many copies must have a record before class `all` acknowledges it: 2 of 3.
    pub min_insync_replicas: u16,
    /// How long new topics keep records; [`None`] for ever. What is older must be in history by then.
    pub retention: Option<Duration>,
    /// Largest batch that brokers take (`max.message.bytes` of new topics).
    pub max_message_bytes: u32,

    /// After so long without an answer a broker is given up, and what it was asked goes to the next leader. A broker that
    /// freezes holds its partitions up for so long: librdkafka's own default is a minute.
    pub socket_timeout: Duration,
    /// How long a question to the cluster may take: metadata, offsets, new topics.
    pub request_timeout: Duration,
    /// How long a read of the past may take.
    pub read_timeout: Duration,
    /// After so long the outcome of an append is unknown. Longer than any deadline of admission, which acts first and
    /// does not tell Kafka.
    pub message_timeout: Duration,
    /// How long closing waits for appends that are under way.
    pub close_timeout: Duration,

    /// Producers of class `all`; a partition always has the same one. Each has a connection to every broker.
    pub producers: usize,
    /// Least and most time that records wait for others of their batch.
    pub linger: (Duration, Duration),
    /// Produce requests a second that lingering keeps to while it can: one request carries one partition.
    pub requests_per_second: u32,

    /// Bytes that may be queued, records and what they cost beside: the permit pool. Beyond it appends are refused.
    pub queue_bytes: u64,
    /// Bytes of the newest records that stay in memory for live readers.
    pub tail_bytes: u64,
    /// Bytes of old records that were read ahead.
    pub read_bytes: u64,
    /// Consumers that read the past, each with connections of its own.
    pub readers: usize,

    /// How often librdkafka's statistics become metrics.
    pub statistics_interval: Duration,
    /// How often the starts of all partitions are asked for, to learn what retention took.
    pub starts_interval: Duration,
    /// Settings of librdkafka that win over ours, for clusters that need something special.
    pub properties: BTreeMap<String, String>,
}

impl KafkaConfig {
    /// The defaults for production: 3 copies, 2 of them acknowledged, 24 hours.
    #[must_use]
    pub fn new<S: Into<String>>(bootstrap_servers: impl IntoIterator<Item = S>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            bootstrap_servers: bootstrap_servers.into_iter().map(Into::into).collect(),
            security: Security::default(),
            client_id: "floodplain".to_owned(),
            topic_prefix: String::new(),
            partitions_default: 16,
            replication: 3,
            min_insync_replicas: 2,
            retention: Some(Duration::from_hours(24)),
            max_message_bytes: 1 << 20,
            socket_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(15),
            read_timeout: Duration::from_secs(30),
            message_timeout: Duration::from_secs(120),
            close_timeout: Duration::from_secs(10),
            producers: cores.clamp(1, 4),
            linger: (Duration::from_millis(2), Duration::from_millis(25)),
            requests_per_second: 4_000,
            queue_bytes: 64 << 20,
            tail_bytes: 32 << 20,
            read_bytes: 16 << 20,
            readers: 2,
            statistics_interval: Duration::from_secs(5),
            starts_interval: Duration::from_secs(10),
            properties: BTreeMap::new(),
        }
    }

    /// The same for one broker on this machine: one copy of everything.
    #[must_use]
    pub fn development<S: Into<String>>(bootstrap_servers: impl IntoIterator<Item = S>) -> Self {
        Self { replication: 1, min_insync_replicas: 1, ..Self::new(bootstrap_servers) }
    }

    /// Settings that all clients share; `kind` is added to the client id.
    pub(crate) fn client(&self, kind: &str) -> io::Result<ClientConfig> {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.bootstrap_servers.join(","));
        client.set("client.id", format!("{}-{kind}", self.client_id));
        // The default of 10 s lengthens every outage.
        client.set("reconnect.backoff.max.ms", "1000");
        client.set("socket.keepalive.enable", "true");
        client.set("socket.nagle.disable", "true");
        client.set("socket.timeout.ms", millis(self.socket_timeout));
        // Leaders that have moved are found before the old one is given up.
        client.set("topic.metadata.refresh.interval.ms", millis(self.socket_timeout / 2));
        client.set("allow.auto.create.topics", "false");
        client.set("statistics.interval.ms", millis(self.statistics_interval));
        let Security { tls, sasl } = &self.security;
        let protocol = match (tls, sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        client.set("security.protocol", protocol);
        if let Some(tls) = tls {
            client.set("ssl.endpoint.identification.algorithm", "https");
            for (name, path) in [
                ("ssl.ca.location", &tls.ca_file),
                ("ssl.certificate.location", &tls.certificate_file),
                ("ssl.key.location", &tls.key_file),
            ] {
                if let Some(path) = path {
                    client.set(name, path.display().to_string());
                }
            }
            if let Some(path) = &tls.key_password_file {
                client.set("ssl.key.password", secret(path)?);
            }
        }
        if let Some(sasl) = sasl {
            client.set("sasl.mechanism", sasl.mechanism.as_str());
            client.set("sasl.username", &sasl.username);
            client.set("sasl.password", secret(&sasl.password_file)?);
        }
        for (name, value) in &self.properties {
            client.set(name, value);
        }
        Ok(client)
    }

    /// A setting of ours that [`Self::properties`] does not give otherwise.
    pub(crate) fn set(&self, client: &mut ClientConfig, name: &str, value: impl Into<String>) {
        if !self.properties.contains_key(name) {
            client.set(name, value.into());
        }
    }
}

pub(crate) fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

fn secret(path: &PathBuf) -> io::Result<String> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_becomes_settings_and_secrets_stay_in_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, "s3cret \n").unwrap();
        let mut config = KafkaConfig::new(["a:1", "b:2"]);
        assert_eq!(config.client("x").unwrap().get("security.protocol"), Some("plaintext"));
        config.security = Security {
            tls: Some(Tls { ca_file: Some("/ca.pem".into()), key_password_file: Some(path.clone()), ..Tls::default() }),
            sasl: Some(Sasl {
                mechanism: SaslMechanism::ScramSha512,
                username: "node".to_owned(),
                password_file: path.clone(),
            }),
        };
        assert!(!format!("{config:?}").contains("s3cret"));
        config.properties.insert("ssl.endpoint.identification.algorithm".to_owned(), "none".to_owned());
        let client = config.client("x").unwrap();
        for (name, value) in [
            ("bootstrap.servers", "a:1,b:2"),
            ("client.id", "floodplain-x"),
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", "/ca.pem"),
            ("ssl.key.password", "s3cret"),
            ("ssl.endpoint.identification.algorithm", "none"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "node"),
            ("sasl.password", "s3cret"),
        ] {
            assert_eq!(client.get(name), Some(value), "{name}");
        }
        std::fs::remove_file(&path).unwrap();
        let error = config.client("x").unwrap_err().to_string();
        assert!(error.contains("password"), "{error}");
    }

    /// What is asked of librdkafka is in this build of it.
    #[test]
    fn tls_and_sasl_are_built_in() {
        let folder = tempfile::tempdir().unwrap();
        let password_file = folder.path().join("password");
        std::fs::write(&password_file, "x").unwrap();
        for mechanism in [SaslMechanism::Plain, SaslMechanism::ScramSha256, SaslMechanism::ScramSha512] {
            let mut config = KafkaConfig::new(["127.0.0.1:1"]);
            let sasl = Sasl { mechanism, username: "x".to_owned(), password_file: password_file.clone() };
            config.security = Security { tls: Some(Tls::default()), sasl: Some(sasl) };
            let made: Result<rdkafka::producer::BaseProducer, _> = config.client("x").unwrap().create();
            made.map(drop).unwrap();
        }
        for codec in ["zstd", "gzip", "snappy", "lz4"] {
            let mut client = KafkaConfig::new(["127.0.0.1:1"]).client("x").unwrap();
            client.set("compression.type", codec);
            let made: Result<rdkafka::producer::BaseProducer, _> = client.create();
            made.map(drop).unwrap();
        }
    }
}
