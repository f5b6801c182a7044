//! Composition: reads the configuration, starts the parts in order, stops them in the reverse one.
//!
//! Start: logs and metrics, the log's recovery, the registry of users, alerts, the folds and the MQTT listener, HTTP, the address
//! of the PostgreSQL wire, the ready file. A listener accepts traffic only when all that it needs
//! is there. This is the only crate that knows all the others.

mod alerts;
mod config;
mod devices;
mod engine;
mod fleet;
mod kafka;
mod keeping;
mod postgres;
mod ready;
mod server;
mod settings;
mod snapshots;
mod telemetry;
mod units;

pub use config::{Config, KEYS};
/// What the codes of problems mean.
pub use floodplain_api::{CODES, Code, find_code};
/// The promise behind an acknowledgement, as in `mqtt.ack_class`.
pub use floodplain_types::Class;
pub use kafka::{Kafka, KafkaBroker, KafkaCluster, KafkaSasl, KafkaTls};
pub use server::{Addresses, Server, StartError};
pub use settings::{ConfigError, Key, Kind, Origin, Setting, Sources};
pub use snapshots::Snapshots;
pub use telemetry::{log_start_error, start_logs};
pub use units::{format_size, parse_duration, parse_size};
