//! Where the brokers of Apache Kafka are, as the configuration says it.

use crate::settings::{ConfigError, Settings};
use std::{path::PathBuf, time::Duration};

/// A cluster of brokers, and how to speak with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kafka {
    /// `host:port` of some brokers; the others are learned from them.
    pub brokers: Vec<String>,
    /// In front of the name of every topic.
    pub topic_prefix: String,
    /// Copies of each partition of new topics.
    pub replication: u16,
    /// How many copies must have a record before it is acknowledged.
    pub min_insync_replicas: u16,
    /// How long new topics keep records.
    pub retention: Duration,
    /// Shares of the work of folding.
    pub slots: u32,
    /// After so long without a sign of a server its shares go to others.
    pub session_timeout: Duration,
    /// Bytes that may wait for brokers before appends are refused.
    pub queue_bytes: u64,
    /// Newest records that stay in memory for live readers.
    pub tail_bytes: u64,
    pub tls: Option<KafkaTls>,
    pub sasl: Option<KafkaSasl>,
}

/// How connections to brokers are encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaTls {
    /// PEM file of the authorities; `None` for those of the machine.
    pub ca: Option<PathBuf>,
    /// PEM files of our own certificate and its key, where brokers ask for one.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Who we are to the brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaSasl {
    /// `plain`, `scram-sha-256` or `scram-sha-512`.
    pub mechanism: String,
    pub user: String,
    pub password_file: PathBuf,
}

impl Kafka {
    /// What the configuration says, if the log is to be on Kafka.
    pub(crate) fn of(settings: &Settings) -> Result<Option<Self>, ConfigError> {
        if settings.text("log.engine") != "kafka" {
            return Ok(None);
        }
        if !cfg!(feature = "kafka") {
            let without = "embedded: this program was built without Kafka; build it with --features kafka";
            return Err(settings.bad("log.engine", without));
        }
        let servers = settings.text("kafka.brokers");
        let has_port = |broker: &str| {
            broker.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        let brokers: Vec<_> = servers.split(',').map(|broker| broker.trim().to_owned()).collect();
        if !brokers.iter().all(|broker| has_port(broker)) {
            return Err(settings.bad("kafka.brokers", "HOST:PORT of some brokers, with commas between them"));
        }
        let word = |name| Some(settings.text(name)).filter(|word| *word != "none").unwrap_or_default().to_owned();
        let topic_prefix = word("kafka.topic_prefix");
        if !topic_prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
            return Err(settings.bad("kafka.topic_prefix", "none, or letters, digits, dots, lines and hyphens"));
        }
        let count = |name| u16::try_from(settings.count(name)).expect("the limits of its key are narrower");
        let (replication, min_insync_replicas) = (count("kafka.replication"), count("kafka.min_insync_replicas"));
        if min_insync_replicas > replication {
            return Err(settings.bad("kafka.min_insync_replicas", "at most kafka.replication"));
        }
        let tls = (settings.text("kafka.tls") == "on").then(|| KafkaTls {
            ca: settings.path_or_none("kafka.tls_ca"),
            certificate: settings.path_or_none("kafka.tls_certificate"),
            key: settings.path_or_none("kafka.tls_key"),
        });
        let sasl = match settings.text("kafka.sasl") {
            "none" => None,
            "plain" if tls.is_none() => {
                return Err(settings
                    .bad("kafka.sasl", "another word while kafka.tls is off: it would send the password as it is"));
            }
            mechanism => {
                let password_file = settings.path_or_none("kafka.password_file");
                let password_file = password_file
                    .ok_or_else(|| settings.bad("kafka.password_file", "a path, because kafka.sasl wants one"))?;
                Some(KafkaSasl { mechanism: mechanism.to_owned(), user: word("kafka.user"), password_file })
            }
        };
        Ok(Some(Self {
            brokers,
            topic_prefix,
            replication,
            min_insync_replicas,
            retention: settings.duration("log.retention"),
            slots: settings.count("kafka.slots"),
            session_timeout: settings.duration("kafka.session_timeout"),
            queue_bytes: settings.size("log.queue_size"),
            tail_bytes: settings.size("log.tail_size"),
            tls,
            sasl,
        }))
    }
}

/// A broker, as `doctor` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaBroker {
    pub id: i32,
    pub address: String,
    pub rack: Option<String>,
}

/// What decides what an acknowledgement means on a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaCluster {
    pub brokers: Vec<KafkaBroker>,
    /// Topics of this installation; none before a server has started.
    pub topics: usize,
    /// The fewest copies of any partition; those that new topics would have where there are none.
    pub replicas: usize,
    /// The fewest that are in sync now.
    pub in_sync: usize,
    /// The least `min.insync.replicas`.
    pub min_insync_replicas: u64,
    /// Topics that may lose messages to elect a leader.
    pub unclean: Vec<String>,
    /// Whether each message is synced before it is acknowledged (`flush.messages=1` everywhere).
    pub flushes: bool,
    /// Whether eligible leader replicas are on; `None` where that could not be asked.
    pub eligible_leader_replicas: Option<bool>,
}

impl Kafka {
    /// Asks the cluster what it is. Blocks.
    ///
    /// # Errors
    /// What keeps it from answering, in words.
    pub fn inspect(&self) -> Result<KafkaCluster, String> {
        #[cfg(not(feature = "kafka"))]
        return Err("this program was built without kafka: build it with --features kafka".to_owned());
        #[cfg(feature = "kafka")]
        {
            use std::error::Error as _;
            let found = floodplain_log_kafka::inspect(&self.into());
            let found = found.map_err(|error| match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            })?;
            let topics = &found.topics;
            let brokers = found.brokers.into_iter();
            Ok(KafkaCluster {
                brokers: brokers
                    .map(|broker| KafkaBroker { id: broker.id, address: broker.address, rack: broker.rack })
                    .collect(),
                topics: topics.len(),
                replicas: topics.iter().map(|topic| topic.replicas).min().unwrap_or(usize::from(self.replication)),
                in_sync: topics.iter().map(|topic| topic.in_sync).min().unwrap_or(usize::from(self.replication)),
                min_insync_replicas: topics
                    .iter()
                    .map(|topic| topic.min_insync_replicas)
                    .min()
                    .unwrap_or(u64::from(self.min_insync_replicas)),
                unclean: topics
                    .iter()
                    .filter(|topic| topic.unclean_leader_election)
                    .map(|topic| topic.name.clone())
                    .collect(),
                flushes: !topics.is_empty() && topics.iter().all(|topic| topic.flush_messages == 1),
                eligible_leader_replicas: found.eligible_leader_replicas,
            })
        }
    }
}

#[cfg(feature = "kafka")]
impl From<&Kafka> for floodplain_log_kafka::KafkaConfig {
    fn from(kafka: &Kafka) -> Self {
        use floodplain_log_kafka::{Sasl, SaslMechanism, Security, Tls};
        let tls = kafka.tls.clone().map(|KafkaTls { ca, certificate, key }| Tls {
            ca_file: ca,
            certificate_file: certificate,
            key_file: key,
            key_password_file: None,
        });
        let sasl = kafka.sasl.clone().map(|KafkaSasl { mechanism, user, password_file }| Sasl {
            mechanism: match &*mechanism {
                "plain" => SaslMechanism::Plain,
                "scram-sha-256" => SaslMechanism::ScramSha256,
                _ => SaslMechanism::ScramSha512,
            },
            username: user,
            password_file,
        });
        Self {
            security: Security { tls, sasl },
            topic_prefix: kafka.topic_prefix.clone(),
            replication: kafka.replication,
            min_insync_replicas: kafka.min_insync_replicas,
            retention: Some(kafka.retention),
            queue_bytes: kafka.queue_bytes,
            tail_bytes: kafka.tail_bytes,
            ..Self::new(kafka.brokers.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, Sources};

    fn load(settings: &[(&str, &str)]) -> Result<Config, String> {
        let flag = |(key, value): &(&str, &str)| ("--set".to_owned(), (*key).to_owned(), (*value).to_owned());
        let flags = [("log.engine", "kafka")].iter().chain(settings).map(flag).collect();
        Config::load(&Sources { flags, ..Sources::default() }).map_err(|error| error.to_string())
    }

    #[cfg(not(feature = "kafka"))]
    #[test]
    fn a_program_without_kafka_says_so() {
        let error = load(&[]).unwrap_err();
        assert!(error.contains("build it with --features kafka"), "{error}");
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn each_wrong_setting_is_named() {
        let kafka = load(&[("kafka.brokers", "a:1, b:2"), ("kafka.topic_prefix", "x-")]).unwrap().kafka.unwrap();
        assert_eq!((&kafka.brokers[..], &*kafka.topic_prefix), (&["a:1".to_owned(), "b:2".to_owned()][..], "x-"));
        assert!(kafka.tls.is_none() && kafka.sasl.is_none());
        for (settings, named) in [
            (&[("kafka.brokers", "a")][..], "kafka.brokers"),
            (&[("kafka.topic_prefix", "a/b")], "kafka.topic_prefix"),
            (&[("kafka.replication", "1")], "kafka.min_insync_replicas"),
            (&[("kafka.sasl", "plain")], "kafka.sasl"),
            (&[("kafka.sasl", "scram-sha-256")], "kafka.password_file"),
        ] {
            let error = load(settings).unwrap_err();
            assert!(error.contains(named), "{settings:?}: {error}");
        }
    }
}
