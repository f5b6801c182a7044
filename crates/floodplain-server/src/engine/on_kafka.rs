//! The log on Apache Kafka, and this server's part of the work on it.

use crate::{Kafka, StartError};
use floodplain_log::{Disk as _, Fence, OsDisk, OwnerSink, Owners, Slot};
use floodplain_log_kafka::{KafkaLog, KafkaOwners, OwnersConfig};
use floodplain_types::SystemClock;
use std::{
    collections::BTreeSet,
    fmt,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

#[derive(Clone)]
pub(crate) struct OnKafka {
    pub(crate) log: Arc<KafkaLog>,
    pub(crate) owners: Arc<KafkaOwners>,
    /// Of the data folder; the embedded log takes one by itself.
    _lock: Arc<dyn Send + Sync>,
}

impl fmt::Debug for OnKafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnKafka").field("log", &self.log).field("owners", &self.owners).finish_non_exhaustive()
    }
}

impl OnKafka {
    pub(crate) fn open(kafka: &Kafka, data_dir: &Path) -> Result<Self, StartError> {
        let locked = OsDisk.create_dir_all(data_dir).and_then(|()| OsDisk.lock(&data_dir.join("lock")));
        let lock = locked.map_err(|source| StartError::DataDir { dir: data_dir.to_owned(), source })?;
        let log = KafkaLog::open(Arc::new(SystemClock), kafka.into()).map_err(StartError::Kafka)?;
        let (slots, session_timeout) = (kafka.slots, kafka.session_timeout);
        let owners = OwnersConfig { slots, session_timeout, ..OwnersConfig::default() };
        let owners = KafkaOwners::open(&log, owners).map_err(StartError::Kafka)?;
        Owned::wait_for_all(&*owners)?;
        Ok(Self { log, owners, _lock: lock.into() })
    }
}

/// Counts the slots that this process has.
#[derive(Debug, Default)]
struct Owned {
    slots: Mutex<BTreeSet<Slot>>,
    gained: Condvar,
}

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

impl OwnerSink for Owned {
    fn gained(&self, fence: Fence) {
        self.lock().insert(fence.slot());
        self.gained.notify_all();
    }

    fn lost(&self, slot: Slot) {
        self.lock().remove(&slot);
    }
}
