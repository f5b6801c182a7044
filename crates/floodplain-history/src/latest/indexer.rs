//! Makes indexes in the background, one after another, and answers from them.

use super::{Index, LatestValue, Page, ROWS_PER_TURN, State, latest_schema};
use crate::{
    Handle, Result,
    columns::Columns,
    filter::{Devices, Filter, TimeRange},
    snapshot::TableSnapshot,
    tables::Shared,
};
use arrow::{array::RecordBatch, datatypes::SchemaRef};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use tracing::warn;

/// Shared by all who ask, and the thread that works while tables are wanted.
#[derive(Debug, Default)]
pub(crate) struct Indexer {
    work: Mutex<Work>,
    is_stopping: AtomicBool,
    /// Of all indexes.
    bytes: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Work {
    wanted: BTreeSet<String>,
    is_running: bool,
    builds: u64,
}

impl Indexer {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the work that is under way, soon.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }
}

/// Has an index made. Its files are read by a thread of its own.
fn want(shared: &Arc<Shared>, table: &str) {
    let mut work = shared.indexer.work();
    work.wanted.insert(table.to_owned());
    if work.is_running || shared.indexer.is_stopping() {
        return;
    }
    let mine = shared.clone();
    let thread = std::thread::Builder::new().name("history-latest".to_owned()).spawn(move || run(&mine));
    // Without it scans answer; the next question tries again.
    work.is_running = thread.inspect_err(|error| warn!(%error, "no thread for an index of latest values")).is_ok();
}

fn run(shared: &Arc<Shared>) {
    loop {
        let (table, number) = {
            let mut work = shared.indexer.work();
            let table = work.wanted.pop_first().filter(|_| !shared.indexer.is_stopping());
            let Some(table) = table else {
                work.is_running = false;
                return;
            };
            work.builds += 1;
            (table, work.builds)
        };
        if let Err(error) = build(shared, &table, number) {
            warn!(table, %error, "the index of latest values was not made: scans answer");
            let mut tables = shared.tables();
            if let Some(table) = tables.get_mut(&table).filter(|table| is_building(&table.latest, number)) {
                table.latest = State::Unasked;
            }
        }
    }
}

fn is_building(state: &State, number: u64) -> bool {
    matches!(state, State::Building(of, _) if *of == number)
}

/// Rows that come from now on are put into the index as they come; those that are there are read.
fn build(shared: &Arc<Shared>, name: &str, number: u64) -> Result<()> {
    let snapshot = {
        let mut tables = shared.tables();
        let Some(table) = tables.get_mut(name).filter(|table| matches!(table.latest, State::Unasked)) else {
            return Ok(());
        };
        let snapshot = table.snapshot()?;
        table.latest = State::Building(number, Index::new(&shared.indexer.bytes));
        snapshot
    };
    let columns = snapshot.columns().clone();
    let all: Vec<usize> = (0..columns.schema().fields().len()).collect();
    for rows in snapshot.scan(&all, &Filter::ALL)? {
        let rows = rows?;
        for from in (0..rows.num_rows()).step_by(ROWS_PER_TURN) {
            let part = rows.slice(from, ROWS_PER_TURN.min(rows.num_rows() - from));
            let mut tables = shared.tables();
            let Some(table) = tables.get_mut(name).filter(|table| is_building(&table.latest, number)) else {
                // What it was for has changed. Whoever asks next begins again.
                return Ok(());
            };
            if let Some(index) = table.latest.index_mut() {
                index.add_scanned(&columns, &part, false)?;
            }
            table.latest.bound();
        }
        if shared.indexer.is_stopping() {
            return Ok(());
        }
    }
    let mut tables = shared.tables();
    if let Some(table) = tables.get_mut(name).filter(|table| is_building(&table.latest, number))
        && let State::Building(_, index) = std::mem::take(&mut table.latest)
    {
        table.latest = State::Ready(index);
    }
    Ok(())
}

/// The newest values of devices, from the index.
#[derive(Debug)]
pub struct LatestRows {
    /// Of [`latest_schema`].
    pub schema: SchemaRef,
    pub rows: Vec<RecordBatch>,
    /// Devices that are not among the rows and have to be scanned.
    pub unsure: BTreeSet<Box<str>>,
}

impl Handle {
    /// The newest value of each column, of each of `devices` and set of key columns, as `columns` of the table has them;
    /// `None` while a scan has to answer: the first question has the index made. Takes milliseconds for thousands of
    /// devices, reads no file.
    ///
    /// # Errors
    /// [`crate::Error`] if Arrow does not take the rows.
    pub fn latest(&self, columns: &Columns, devices: &Devices) -> Result<Option<LatestRows>> {
        let shared = self.shared();
        let (mut rows, mut after, mut unsure) = (Vec::new(), None::<Box<[u8]>>, None);
        loop {
            let page: Page = {
                let tables = shared.tables();
                let Some(table) = tables.get(columns.table()) else { return Ok(None) };
                let State::Ready(index) = &table.latest else {
                    let is_unasked = matches!(table.latest, State::Unasked);
                    drop(tables);
                    if is_unasked {
                        want(shared, columns.table());
                    }
                    return Ok(None);
                };
                let known = unsure.get_or_insert_with(|| index.unsure(devices));
                // What was in an earlier page and is unsure now would come twice.
                if *known != index.unsure(devices) {
                    return Ok(None);
                }
                index.page(columns, devices, after.as_deref())?
            };
            rows.push(page.rows);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok(Some(LatestRows { schema: latest_schema(columns), rows, unsure: unsure.unwrap_or_default() }))
    }

    /// The newest value of each column of a device, of all its key columns together. Reads files of the device where no
    /// index tells: blocks.
    ///
    /// # Errors
    /// Those of reading.
    pub fn latest_of(&self, table: &str, device: &str) -> Result<Vec<LatestValue>> {
        let shared = self.shared();
        let snapshot: TableSnapshot = {
            let mut tables = shared.tables();
            let Some(table) = tables.get_mut(table) else { return Ok(Vec::new()) };
            if let State::Ready(index) = &table.latest
                && let Some(values) = index.values(&table.columns, device)
            {
                return Ok(values);
            }
            table.snapshot()?
        };
        want(shared, table);
        let columns = snapshot.columns().clone();
        let all: Vec<usize> = (0..columns.schema().fields().len()).collect();
        let mut index = Index::new(&Arc::default());
        for rows in snapshot.scan(&all, &Filter { time: TimeRange::ALL, devices: Devices::only([device]) })? {
            index.add_scanned(&columns, &rows?, true)?;
        }
        Ok(index.values(&columns, device).unwrap_or_default())
    }
}
