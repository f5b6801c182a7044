//! The log on Apache Kafka: streams are topics, any number of nodes write and read them.
//!
//! `KafkaLog` keeps the contract of [`floodplain_log::Log`]; where Kafka keeps it otherwise than the embedded engine,
//! `docs/decisions/0011-log-on-kafka.md` says how. `KafkaOwners` shares the folding of it among nodes, see
//! `docs/decisions/0012-owners-on-kafka.md`. librdkafka and its OpenSSL are built with the feature `kafka` alone;
//! without it there is nothing here.
#![cfg(feature = "kafka")]

mod config;
mod kafka;

mod catalog;
mod topic;

mod linger;
mod produce;
mod unit;

mod follow;
mod past;
mod record;
mod tail;

mod owners;
mod role;

mod admin;
mod inspect;
mod metrics;
mod time;

pub use config::{KafkaConfig, Sasl, SaslMechanism, Security, Tls};
pub use inspect::{Broker, Cluster, Topic, inspect};
pub use kafka::{KafkaLog, OpenError};
pub use owners::{KafkaOwners, OwnersConfig};
pub use role::KafkaRole;
