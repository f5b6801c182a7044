//! The engine on its thread, and what readers ask.

use crate::{
    Lag, Result,
    bindings::{Binding, BindingError, Bindings, CurrentBindings},
    engine::{Engine, EngineConfig, Wake},
    jobs::{Jobs, Replay},
    route::Route,
    snapshot::TableSnapshot,
    summary::TableSummary,
    tables::{Command, Shared},
};
use floodplain_decode::schema::TableSchema;
use floodplain_log::{Disk, Log, Partition};
use floodplain_types::{Clock, Position};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::oneshot;
use tracing::{error, warn};

/// How long the engine rests when there is nothing to do and nothing wakes it: ages of buffers are looked at so often.
const IDLE: Duration = Duration::from_secs(1);
/// And after a failure.
const BACKOFF: Duration = Duration::from_millis(200);
/// How long a stop writes rows to files. The server waits a little longer before it gives up.
const STOP_FLUSH_MAX: Duration = Duration::from_secs(4);

/// History of one tenant: a thread that reads the log, and files.
///
/// Wiring: open it after the log and before the listeners, with the streams whose messages become tables, the
/// stream `state`, a stream of one partition for the manifest, what the log keeps ([`crate::engine::LogRetention`]), and a
/// folder of its own. A query takes [`Log::watermark`] of all partitions it reads when it starts, awaits
/// [`Handle::wait_decoded`] with them, takes [`Handle::snapshot`] of each table, and reads that on a thread that may
/// block. Stop it after the listeners and before the log.
#[derive(Debug)]
pub struct History {
    handle: Handle,
    stop: Arc<AtomicBool>,
    wake: Arc<Wake>,
    thread: Option<JoinHandle<()>>,
}

/// What readers ask; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    log: Arc<dyn Log>,
}

impl History {
    /// Reads what there is, then starts the engine. Blocks while it reads snapshots, schemas and the manifest.
    ///
    /// # Errors
    /// [`crate::Error`]: the disk, or a manifest that does not fit its schemas.
    pub fn open(
        config: EngineConfig,
        disk: Arc<dyn Disk>,
        log: Arc<dyn Log>,
        clock: Arc<dyn Clock>,
        route: Arc<dyn Route>,
    ) -> Result<Self> {
        let mut engine = Engine::open(config, disk, log.clone(), clock, route)?;
        let (shared, wake, stop) = (engine.shared().clone(), engine.wake().clone(), Arc::new(AtomicBool::new(false)));
        let stopping = stop.clone();
        let run = move || {
            while !stopping.load(Ordering::Acquire) {
                if let Err(error) = engine.write_due_snapshots() {
                    warn!(%error, "snapshot of history was not written");
                }
                match engine.step() {
                    Ok(true) => {}
                    Ok(false) => engine.wake().wait(IDLE),
                    // Somebody else writes the manifest. What would be tried again is not applied then either.
                    Err(error @ crate::Error::Manifest(_)) => {
                        error!(%error, "history has stopped: no rows are added before the next start");
                        metrics::counter!("floodplain_history_failures_total").increment(1);
                        engine.shared().close_commands();
                        return;
                    }
                    Err(error) => {
                        warn!(%error, cause = ?error, "history could not go on, it tries again");
                        metrics::counter!("floodplain_history_failures_total").increment(1);
                        engine.wake().wait(BACKOFF);
                    }
                }
            }
            engine.shared().close_commands();
            match engine.flush_within(STOP_FLUSH_MAX) {
                Ok(true) => {}
                Ok(false) => warn!("not all rows were written to files in time, the next start decodes the rest again"),
                Err(error) => warn!(%error, "rows were not written to files, the next start decodes them again"),
            }
            if let Err(error) = engine.write_snapshots() {
                warn!(%error, "snapshot of history was not written, the next start reads more of the log");
            }
        };
        let thread = std::thread::Builder::new()
            .name("history".to_owned())
            .spawn(run)
            .map_err(|source| crate::Error::Io { action: "start the thread of", path: "history".into(), source })?;
        Ok(Self { handle: Handle { shared, log }, stop, wake, thread: Some(thread) })
    }

    /// For readers.
    #[must_use]
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Whether rows are still added: not once somebody else has written the manifest, until the next start.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Stops the engine and waits for it. Rows in memory are written to files, so that the next start does not decode them
    /// again, but for what takes too long.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.handle.shared.indexer.stop();
        self.wake.wake();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            error!("thread of history has panicked");
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.end();
    }
}

impl Handle {
    pub(crate) const fn new(shared: Arc<Shared>, log: Arc<dyn Log>) -> Self {
        Self { shared, log }
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Names of all tables.
    #[must_use]
    pub fn tables(&self) -> Vec<String> {
        self.shared.tables().keys().cloned().collect()
    }

    /// What there is of each table, by name. Sorts what is in buffers and not sorted yet, some milliseconds for each table;
    /// reads no file.
    #[must_use]
    pub fn summaries(&self) -> Vec<TableSummary> {
        // Rows go on coming between one table and the next.
        self.tables().iter().filter_map(|name| self.summary(name)).collect()
    }

    /// The same of one table; `None` if there is none of this name.
    #[must_use]
    pub fn summary(&self, table: &str) -> Option<TableSummary> {
        let rules = self.shared.rules.borrow().clone();
        self.shared.tables().get_mut(table).map(|table| TableSummary::of(table, &rules))
    }

    /// Which columns a table has, and which fields go to them; without any, if there is none of this name yet.
    #[must_use]
    pub fn schema(&self, table: &str) -> Arc<TableSchema> {
        self.shared.tables().get(table).map(|table| table.schema.clone()).unwrap_or_default()
    }

    /// Whether a table may be made, or is there: its name is none of the server's, and there are not too many.
    #[must_use]
    pub fn may_have_table(&self, table: &str) -> bool {
        let (bindings, tables) = (self.bindings(), self.shared.tables());
        bindings.may_have_table(table, self.shared.tables_max, |name| tables.contains_key(name), tables.len())
    }

    /// How old rows of a table may become.
    #[must_use]
    pub fn retention(&self, table: &str) -> Option<Duration> {
        self.shared.rules.borrow().retention(table)
    }

    /// Bytes of all files.
    #[must_use]
    pub fn files_bytes(&self) -> u64 {
        self.shared.tables().values().flat_map(|table| table.files.values()).map(|file| file.entry().bytes).sum()
    }

    /// A table as it is now, buffers and files, each row once; `None` if there is none of this name.
    /// Sorts what is in buffers and not sorted yet, some milliseconds; reads no file.
    ///
    /// # Errors
    /// Those of [`TableSnapshot::new`].
    pub fn snapshot(&self, table: &str) -> Result<Option<TableSnapshot>> {
        self.shared.snapshot(table)
    }

    /// The bindings that decode what comes now.
    #[must_use]
    pub fn bindings(&self) -> Arc<Bindings> {
        self.shared.bindings.get()
    }

    /// Whether these are the bindings that decode what comes now. Takes no lock.
    #[must_use]
    pub fn is_current(&self, bindings: &Bindings) -> bool {
        self.shared.bindings.are(bindings)
    }

    /// The bindings of each moment.
    #[must_use]
    pub fn current_bindings(&self) -> Arc<CurrentBindings> {
        self.shared.bindings.clone()
    }

    /// Adds a binding, or puts it into the place of the one of its name. Messages that are published once this has returned
    /// are decoded by it; the change is in the log.
    ///
    /// # Errors
    /// [`BindingError`]; nothing has changed.
    ///
    /// # Cancel safety
    /// A dropped call may still change the bindings.
    pub async fn put_binding(&self, binding: Binding) -> Result<Arc<Binding>, BindingError> {
        let (reply, answer) = oneshot::channel();
        self.shared.command(Command::Put(Box::new(binding), reply))?;
        answer.await.map_err(|_| BindingError::Stopped)?
    }

    /// Removes a binding. What it has decoded stays.
    ///
    /// # Errors
    /// [`BindingError`]; nothing has changed.
    ///
    /// # Cancel safety
    /// A dropped call may still remove it.
    pub async fn remove_binding(&self, name: &str) -> Result<(), BindingError> {
        let (reply, answer) = oneshot::channel();
        self.shared.command(Command::Remove(name.to_owned(), reply))?;
        answer.await.map_err(|_| BindingError::Stopped)?
    }

    /// Begins to decode messages again by the bindings of now, and returns the name of the job. It goes on after a restart.
    ///
    /// # Errors
    /// [`BindingError`]; nothing has begun.
    ///
    /// # Cancel safety
    /// A dropped call may still begin the job.
    pub async fn replay(&self, replay: Replay) -> Result<String, BindingError> {
        let (reply, answer) = oneshot::channel();
        self.shared.command(Command::Replay(replay, reply))?;
        answer.await.map_err(|_| BindingError::Stopped)?
    }

    /// Sets how old rows of a table may become; `None` leaves it to the configuration and to bindings.
    ///
    /// # Errors
    /// [`BindingError`]; nothing has changed.
    ///
    /// # Cancel safety
    /// A dropped call may still set it.
    pub async fn set_retention(&self, table: &str, retention: Option<Duration>) -> Result<(), BindingError> {
        let (reply, answer) = oneshot::channel();
        self.shared.command(Command::Retain(table.to_owned(), retention, reply))?;
        answer.await.map_err(|_| BindingError::Stopped)?
    }

    /// The jobs that decode messages again, with their progress.
    #[must_use]
    pub fn jobs(&self) -> Arc<Jobs> {
        self.shared.jobs.borrow().clone()
    }

    /// Before which position all records of a partition are decoded: their rows are in snapshots.
    #[must_use]
    pub fn decoded(&self, partition: Partition) -> Position {
        self.shared.decoded.borrow().get(&partition).copied().unwrap_or_default()
    }

    /// From which record on a partition is needed at the next start, because its rows are in no file.
    #[must_use]
    pub fn replay_from(&self, partition: Partition) -> Position {
        self.shared.replay_from.borrow().get(&partition).copied().unwrap_or_default()
    }

    /// Waits until all records before `watermarks` are decoded, so that a query sees what was acknowledged before
    /// it began. Partitions that history does not read count as decoded.
    ///
    /// # Errors
    /// [`Lag`] after `timeout`, naming a partition that is behind.
    pub async fn wait_decoded(&self, watermarks: &[(Partition, Position)], timeout: Duration) -> Result<(), Lag> {
        let mut decoded = self.shared.decoded.subscribe();
        let behind = |decoded: &std::collections::BTreeMap<Partition, Position>| {
            let is_behind = |(partition, wanted): &&(Partition, Position)| {
                decoded.get(partition).is_some_and(|position| position < wanted)
            };
            watermarks.iter().find(is_behind).copied()
        };
        let wait = async { decoded.wait_for(|decoded| behind(decoded).is_none()).await.map(drop) };
        // The sender is in `self.shared`, so only time ends the wait without an answer.
        drop(tokio::time::timeout(timeout, wait).await);
        let Some((partition, wanted)) = behind(&self.shared.decoded.borrow()) else { return Ok(()) };
        let Some(id) = self.log.partition_id(partition) else { return Ok(()) };
        Err(Lag { partition: id, decoded: self.decoded(partition), wanted, waited: timeout })
    }
}
