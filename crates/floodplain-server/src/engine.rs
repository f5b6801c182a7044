//! The log that a server runs on: files of its own, or Apache Kafka.

#[cfg(feature = "kafka")]
mod on_kafka;

use crate::{Config, StartError};
use floodplain_history::engine::LogRetention;
use floodplain_log::{AllSlots, Disk, Embedded, Log, OpenError, OsDisk, Owners};
use floodplain_types::SystemClock;
use std::sync::Arc;
use tracing::{error, info};

/// What is the same above [`Log`], and different below.
#[derive(Debug, Clone)]
pub(crate) enum Engine {
    Embedded(Arc<Embedded>),
    #[cfg(feature = "kafka")]
    Kafka(on_kafka::OnKafka),
}

impl Engine {
    pub(crate) fn open(config: &Config) -> Result<Self, StartError> {
        match &config.kafka {
            None => open_embedded(config).map(Self::Embedded),
            #[cfg(feature = "kafka")]
            Some(kafka) => on_kafka::OnKafka::open(kafka, &config.data_dir, config.history).map(Self::Kafka),
            #[cfg(not(feature = "kafka"))]
            Some(_) => Err(StartError::NoKafka),
        }
    }

    pub(crate) fn log(&self) -> Arc<dyn Log> {
        match self {
            Self::Embedded(log) => Arc::clone(log) as Arc<dyn Log>,
            #[cfg(feature = "kafka")]
            Self::Kafka(kafka) => Arc::clone(&kafka.log) as Arc<dyn Log>,
        }
    }

    /// Who says what this process may emit.
    pub(crate) fn owners(&self) -> Arc<dyn Owners> {
        match self {
            // One is enough where nobody shares them.
            Self::Embedded(log) => Arc::new(AllSlots::new(Arc::clone(log) as Arc<dyn Log>, 1)),
            #[cfg(feature = "kafka")]
            Self::Kafka(kafka) => Arc::clone(&kafka.owners) as Arc<dyn Owners>,
        }
    }

    /// How long the log keeps what it has.
    pub(crate) fn retention(&self, config: &Config) -> LogRetention {
        match self {
            Self::Embedded(log) => {
                let (age, bytes, log) = (config.log.retention_age, log.retention_bytes(), Arc::clone(log));
                LogRetention { age, bytes, appended_bytes: Arc::new(move || log.appended_bytes()) }
            }
            // By age alone: brokers count bytes by partition, and only if they are told to.
            #[cfg(feature = "kafka")]
            Self::Kafka(..) => {
                LogRetention { age: config.log.retention_age, bytes: u64::MAX, appended_bytes: Arc::new(|| 0) }
            }
        }
    }

    /// Why nothing more is taken until restart.
    pub(crate) fn poisoned(&self) -> Option<Arc<str>> {
        match self {
            Self::Embedded(log) => log.poisoned(),
            // Whatever brokers do, they may do better later.
            #[cfg(feature = "kafka")]
            Self::Kafka(..) => None,
        }
    }

    /// Commits what is queued, and ends. Blocks.
    pub(crate) fn close(&self) {
        match self {
            Self::Embedded(log) => log.close(),
            #[cfg(feature = "kafka")]
            Self::Kafka(kafka) => kafka.close(),
        }
    }
}

fn open_embedded(config: &Config) -> Result<Arc<Embedded>, StartError> {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let (log, report) =
        Embedded::open(disk, Arc::new(SystemClock), config.log.clone()).map_err(|error| match error {
            OpenError::Locked { .. } => StartError::LogLocked(error),
            other => StartError::Log(other),
        })?;
    let elapsed_ms = u64::try_from(report.duration.as_millis()).unwrap_or(u64::MAX);
    info!(
        elapsed_ms,
        scanned_bytes = report.scanned_bytes,
        groups = report.groups,
        torn = report.torn.len(),
        "log is open"
    );
    for range in &report.corrupt {
        error!(file = %range.file, bytes = ?range.bytes, "log is damaged here; acknowledged records are missing");
    }
    Ok(log)
}
