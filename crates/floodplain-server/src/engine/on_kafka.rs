//! The log on Apache Kafka, and this server's part of the work on it.

use crate::{Kafka, StartError};
use floodplain_log::{Disk as _, Fence, OsDisk, OwnerSink, Owners, Slot};
use floodplain_log_kafka::{KafkaLog, KafkaOwners, KafkaRole, OwnersConfig};
use floodplain_types::SystemClock;
use std::{
    fmt,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tracing::info;

#[derive(Clone)]
pub(crate) struct OnKafka {
    pub(crate) log: Arc<KafkaLog>,
    pub(crate) owners: Arc<KafkaOwners>,
    /// That the tables are kept here.
    tables: Arc<Mutex<Option<KafkaRole>>>,
    /// Of the data folder; the embedded log takes one by itself.
    _lock: Arc<dyn Send + Sync>,
}

impl fmt::Debug for OnKafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnKafka").field("log", &self.log).field("owners", &self.owners).finish_non_exhaustive()
    }
}

impl OnKafka {
    /// `is_keeper` is whether this server shall keep the tables.
    pub(crate) fn open(kafka: &Kafka, data_dir: &Path, is_keeper: bool) -> Result<Self, StartError> {
        let locked = OsDisk.create_dir_all(data_dir).and_then(|()| OsDisk.lock(&data_dir.join("lock")));
        let lock = locked.map_err(|source| StartError::DataDir { dir: data_dir.to_owned(), source })?;
        let log = KafkaLog::open(Arc::new(SystemClock), kafka.into()).map_err(StartError::Kafka)?;
        let (slots, session_timeout) = (kafka.slots, kafka.session_timeout);
        let owners = OwnersConfig { slots, session_timeout, ..OwnersConfig::default() };
        let owners = KafkaOwners::open(&log, owners).map_err(StartError::Kafka)?;
        // Who has died, or was stopped a moment ago, is missed by then.
        let patience = session_timeout + Duration::from_secs(20);
        let tables = is_keeper.then(|| KafkaRole::ask(&log, "tables", session_timeout)).transpose();
        let tables = tables.map_err(StartError::Kafka)?;
        if tables.as_ref().is_some_and(|role| !role.wait(patience)) {
            return Err(StartError::TablesKept);
        }
        Share::wait(&*owners, patience);
        Ok(Self { log, owners, tables: Arc::new(Mutex::new(tables)), _lock: lock.into() })
    }

    /// Gives up what is ours, commits what is queued, and ends. Blocks.
    pub(crate) fn close(&self) {
        drop(self.tables.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.owners.close();
        self.log.close();
    }
}

/// Whether this process has a part of the work.
#[derive(Debug, Default)]
struct Share {
    is_there: Mutex<bool>,
    gained: Condvar,
}

impl Share {
    /// Blocks until a slot is ours, at most so long: clients may come meanwhile, but what they are sent waits for an owner.
    fn wait(owners: &dyn Owners, limit: Duration) {
        let share = Arc::new(Self::default());
        owners.watch(share.clone());
        let waited = share.gained.wait_timeout_while(share.lock(), limit, |is_there| !*is_there);
        if !*waited.unwrap_or_else(PoisonError::into_inner).0 {
            info!("other servers do all of the work for now");
        }
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_there.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OwnerSink for Share {
    fn gained(&self, _fence: Fence) {
        *self.lock() = true;
        self.gained.notify_all();
    }

    fn lost(&self, _slot: Slot) {}
}
