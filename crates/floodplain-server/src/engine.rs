//! The log that a server runs on: files of its own, or Apache Kafka.

use crate::{Config, StartError};
use floodplain_history::engine::LogRetention;
use floodplain_log::{AllSlots, Disk, Embedded, Log, OpenError, OsDisk, Owners};
#[cfg(feature = "kafka")]
use floodplain_log::{Fence, OwnerSink, Slot};
#[cfg(feature = "kafka")]
use floodplain_log_kafka::{KafkaLog, KafkaOwners, OwnersConfig};
use floodplain_types::SystemClock;
use std::sync::Arc;
#[cfg(feature = "kafka")]
use std::{
    collections::BTreeSet,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tracing::{error, info};

/// What is the same above [`Log`], and different below.
#[derive(Debug, Clone)]
pub(crate) enum Engine {
    Embedded(Arc<Embedded>),
    #[cfg(feature = "kafka")]
    /// With the lock of the data folder, which the embedded log takes by itself.
    Kafka(Arc<KafkaLog>, Arc<KafkaOwners>, Lock),
}

/// A folder is this process's alone, as long as this lives.
#[cfg(feature = "kafka")]
#[derive(Clone)]
pub(crate) struct Lock(#[expect(dead_code, reason = "it is held, not looked at")] Arc<dyn Send + Sync>);

#[cfg(feature = "kafka")]
impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lock").finish_non_exhaustive()
    }
}

#[cfg(feature = "kafka")]
fn lock(dir: &std::path::Path) -> Result<Lock, StartError> {
    let locked = OsDisk.create_dir_all(dir).and_then(|()| OsDisk.lock(&dir.join("lock")));
    let guard = locked.map_err(|source| StartError::DataDir { dir: dir.to_owned(), source })?;
    Ok(Lock(guard.into()))
}

impl Engine {
    pub(crate) fn open(config: &Config) -> Result<Self, StartError> {
        match &config.kafka {
            None => open_embedded(config).map(Self::Embedded),
            #[cfg(feature = "kafka")]
            Some(kafka) => {
                let lock = lock(&config.data_dir)?;
                let log = KafkaLog::open(Arc::new(SystemClock), kafka.into()).map_err(StartError::Kafka)?;
                let (slots, session_timeout) = (kafka.slots, kafka.session_timeout);
                let owners = OwnersConfig { slots, session_timeout, ..OwnersConfig::default() };
                let owners = KafkaOwners::open(&log, owners).map_err(StartError::Kafka)?;
                Owned::wait_for_all(&*owners)?;
                Ok(Self::Kafka(log, owners, lock))
            }
            #[cfg(not(feature = "kafka"))]
            Some(_) => Err(StartError::NoKafka),
        }
    }

    pub(crate) fn log(&self) -> Arc<dyn Log> {
        match self {
            Self::Embedded(log) => Arc::clone(log) as Arc<dyn Log>,
            #[cfg(feature = "kafka")]
            Self::Kafka(log, ..) => Arc::clone(log) as Arc<dyn Log>,
        }
    }

    /// Who says what this process may emit.
    pub(crate) fn owners(&self) -> Arc<dyn Owners> {
        match self {
            // One is enough where nobody shares them.
            Self::Embedded(log) => Arc::new(AllSlots::new(Arc::clone(log) as Arc<dyn Log>, 1)),
            #[cfg(feature = "kafka")]
            Self::Kafka(_, owners, _) => Arc::clone(owners) as Arc<dyn Owners>,
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
            Self::Kafka(log, owners, _) => {
                owners.close();
                log.close();
            }
        }
    }
}

/// Counts the slots that this process has.
#[cfg(feature = "kafka")]
#[derive(Debug, Default)]
struct Owned {
    slots: Mutex<BTreeSet<Slot>>,
    gained: Condvar,
}

#[cfg(feature = "kafka")]
impl Owned {
    /// Blocks until all slots are ours. Sessions could be shared with other servers, tables and alerts cannot yet.
    fn wait_for_all(owners: &dyn Owners) -> Result<(), StartError> {
        /// An owner that has died is missed after a while; one that lives keeps what it has.
        const OWNED_WITHIN: Duration = Duration::from_secs(45);
        let owned = Arc::new(Self::default());
        owners.watch(owned.clone());
        let all = owners.slots() as usize;
        let waits = |slots: &mut BTreeSet<Slot>| slots.len() < all;
        let waited = owned.gained.wait_timeout_while(owned.lock(), OWNED_WITHIN, waits);
        let (slots, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if slots.len() < all { Err(StartError::NotOwned { owned: slots.len(), all }) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(feature = "kafka")]
impl OwnerSink for Owned {
    fn gained(&self, fence: Fence) {
        self.lock().insert(fence.slot());
        self.gained.notify_all();
    }

    fn lost(&self, slot: Slot) {
        self.lock().remove(&slot);
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
