//! What readers and the engine share: the tables of the moment.

use crate::{
    Result,
    buffer::WindowBuffer,
    columns::Columns,
    file::FileEntry,
    latest,
    latest::indexer::Indexer,
    run::Run,
    snapshot::{FileHandle, TableSnapshot},
    window::Window,
};
use floodplain_log::Partition;
use floodplain_types::{Position, Timestamp};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// Shared by the engine's thread and all readers. The lock is held for a row, a seal or a snapshot, never over I/O.
#[derive(Debug)]
pub(crate) struct Shared {
    tables: Mutex<BTreeMap<String, Table>>,
    /// Before which position all records of a partition are decoded.
    pub(crate) decoded: watch::Sender<BTreeMap<Partition, Position>>,
    /// Before which position all rows of a partition are in files.
    pub(crate) replay_from: watch::Sender<BTreeMap<Partition, Position>>,
    /// Who makes indexes of latest values.
    pub(crate) indexer: Indexer,
}

#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) columns: Arc<Columns>,
    pub(crate) buffers: BTreeMap<Window, Buffer>,
    /// Rows of buffers whose files are not in the manifest yet.
    pub(crate) flushing: Vec<Run>,
    pub(crate) files: BTreeMap<String, Arc<FileHandle>>,
    pub(crate) dir: PathBuf,
    pub(crate) latest: latest::State,
}

#[derive(Debug)]
pub(crate) struct Buffer {
    pub(crate) rows: WindowBuffer,
    pub(crate) since: Timestamp,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            tables: Mutex::default(),
            decoded: watch::Sender::default(),
            replay_from: watch::Sender::default(),
            indexer: Indexer::default(),
        }
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
    pub(crate) fn new(columns: Arc<Columns>, dir: PathBuf) -> Self {
        Self {
            columns,
            buffers: BTreeMap::new(),
            flushing: Vec::new(),
            files: BTreeMap::new(),
            dir,
            latest: latest::State::default(),
        }
    }

    /// Goes over to a later schema.
    pub(crate) fn set_columns(&mut self, columns: &Arc<Columns>) -> Result<()> {
        for buffer in self.buffers.values_mut() {
            buffer.rows.set_columns(columns.clone())?;
        }
        self.latest.columns_changed(&self.columns, columns);
        self.columns = columns.clone();
        Ok(())
    }

    pub(crate) fn snapshot(&mut self) -> Result<TableSnapshot> {
        let mut runs = self.flushing.clone();
        for buffer in self.buffers.values_mut() {
            runs.extend_from_slice(buffer.rows.seal()?);
        }
        TableSnapshot::new(self.columns.clone(), self.files.values().cloned(), runs)
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
