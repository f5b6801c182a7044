//! What readers and the engine share: the tables of the moment.

use crate::{
    Result,
    bindings::{Binding, BindingError, CurrentBindings},
    buffer::WindowBuffer,
    columns::Columns,
    engine::{Mark, Wake},
    file::FileEntry,
    jobs::{Jobs, Replay},
    latest,
    latest::indexer::Indexer,
    run::Run,
    schema::columns_of,
    snapshot::{FileHandle, TableSnapshot},
    table_rules::TableRules,
    window::Window,
};
use floodplain_decode::schema::TableSchema;
use floodplain_log::Partition;
use floodplain_types::Position;
use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{oneshot, watch};

/// Changes that may wait for the engine; more are refused.
const COMMANDS_MAX: usize = 16;

/// Shared by the engine's thread and all readers. The lock is held for a row, a seal or a snapshot, never over I/O.
#[derive(Debug)]
pub(crate) struct Shared {
    tables: Mutex<BTreeMap<String, Table>>,
    /// More do not make themselves.
    pub(crate) tables_max: usize,
    /// Before which position all records of a partition are decoded.
    pub(crate) decoded: watch::Sender<BTreeMap<Partition, Position>>,
    /// Before which position all rows of a partition are in files.
    pub(crate) replay_from: watch::Sender<BTreeMap<Partition, Position>>,
    /// Who makes indexes of latest values.
    pub(crate) indexer: Indexer,
    /// Those that decode what comes now.
    pub(crate) bindings: Arc<CurrentBindings>,
    pub(crate) jobs: watch::Sender<Arc<Jobs>>,
    /// What counts for tables now.
    pub(crate) rules: watch::Sender<Arc<TableRules>>,
    /// What the engine is asked to do; `None` once it has stopped.
    commands: Mutex<Option<VecDeque<Command>>>,
    wake: Arc<Wake>,
}

/// What the engine is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    Put(Box<Binding>, Reply<Arc<Binding>>),
    Remove(String, Reply<()>),
    Replay(Replay, Reply<String>),
    /// How old rows of a table may become.
    Retain(String, Option<Duration>, Reply<()>),
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, BindingError>>;

#[derive(Debug)]
pub(crate) struct Table {
    /// What [`Self::columns`] were made of.
    pub(crate) schema: Arc<TableSchema>,
    pub(crate) columns: Arc<Columns>,
    pub(crate) buffers: BTreeMap<Window, Buffer>,
    /// Rows of buffers whose files are not in the manifest yet.
    pub(crate) flushing: Vec<Run>,
    pub(crate) files: BTreeMap<String, Arc<FileHandle>>,
    /// Of these, and of those that were there before.
    pub(crate) overwritten_values: u64,
    pub(crate) dir: PathBuf,
    pub(crate) latest: latest::State,
}

#[derive(Debug)]
pub(crate) struct Buffer {
    pub(crate) rows: WindowBuffer,
    pub(crate) since: Mark,
    /// The first record of each partition that has rows here and is in no file. Of those that are decoded again, all are.
    pub(crate) first: BTreeMap<Arc<str>, Position>,
}

impl Shared {
    pub(crate) fn new(wake: Arc<Wake>, tables_max: usize) -> Self {
        Self {
            tables: Mutex::default(),
            tables_max,
            decoded: watch::Sender::default(),
            replay_from: watch::Sender::default(),
            indexer: Indexer::default(),
            bindings: Arc::default(),
            jobs: watch::Sender::default(),
            rules: watch::Sender::default(),
            commands: Mutex::new(Some(VecDeque::new())),
            wake,
        }
    }

    /// Asks the engine for something.
    pub(crate) fn command(&self, command: Command) -> Result<(), BindingError> {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = commands.as_mut().ok_or(BindingError::Stopped)?;
        if waiting.len() >= COMMANDS_MAX {
            return Err(BindingError::Busy);
        }
        waiting.push_back(command);
        drop(commands);
        self.wake.wake();
        Ok(())
    }

    pub(crate) fn next_command(&self) -> Option<Command> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.pop_front()
    }

    /// The engine does nothing any more: who waits for it hears that.
    pub(crate) fn close_commands(&self) {
        *self.commands.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A panic with the lock held leaves rows that are decoded again after a start: nothing is lost by going on.
    pub(crate) fn tables(&self) -> MutexGuard<'_, BTreeMap<String, Table>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshot(&self, table: &str) -> Result<Option<TableSnapshot>> {
        self.tables().get_mut(table).map(Table::snapshot).transpose()
    }
}

impl Table {
    pub(crate) fn new(name: &str, schema: &Arc<TableSchema>, dir: PathBuf) -> Result<Self> {
        Ok(Self {
            schema: schema.clone(),
            columns: Arc::new(columns_of(name, schema)?),
            buffers: BTreeMap::new(),
            flushing: Vec::new(),
            files: BTreeMap::new(),
            overwritten_values: 0,
            dir,
            latest: latest::State::default(),
        })
    }

    /// Goes over to a later schema.
    pub(crate) fn set_schema(&mut self, name: &str, schema: &Arc<TableSchema>) -> Result<()> {
        let columns = Arc::new(columns_of(name, schema)?);
        for buffer in self.buffers.values_mut() {
            buffer.rows.set_columns(columns.clone())?;
        }
        self.latest.columns_changed(&self.columns, &columns);
        (self.schema, self.columns) = (schema.clone(), columns);
        Ok(())
    }

    pub(crate) fn snapshot(&mut self) -> Result<TableSnapshot> {
        let mut runs = self.flushing.clone();
        for buffer in self.buffers.values_mut() {
            runs.extend_from_slice(buffer.rows.seal()?);
        }
        // Of one row the values of the newer decoder count, and else those of the newer file.
        let mut files: Vec<_> = self.files.values().cloned().collect();
        files.sort_by_key(|file| file.entry().facts.decoder_version);
        TableSnapshot::new(self.columns.clone(), files, runs)
    }

    pub(crate) fn add(&mut self, disk: &Arc<dyn floodplain_log::Disk>, entry: Arc<FileEntry>) {
        let handle = FileHandle::new(disk.clone(), &self.dir, entry.clone());
        self.files.insert(entry.name.clone(), Arc::new(handle));
    }
}

/// The folder of a table's files: its name, with what a file system might not take as `%` and two hex digits.
pub(crate) fn folder(table: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    let mut name = String::with_capacity(table.len());
    for byte in table.bytes() {
        if plain(byte) { name.push(byte.into()) } else { name.push_str(&format!("%{byte:02x}")) }
    }
    name
}
