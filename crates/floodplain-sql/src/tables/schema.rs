//! Which tables one query finds.

use super::{
    alerts, events,
    fleet::{self, Table},
    provider::HistoryTable,
    system,
};
use crate::fleet::Fleet;
use datafusion::{
    catalog::{SchemaProvider, TableProvider},
    common::{DataFusionError, Result},
};
use floodplain_history::{Handle, Lag, columns::Columns};
use floodplain_log::{Log, Partition, Stream};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::OnceCell;

/// How long a query waits for decoding to reach what was acknowledged before it.
const LAG_MAX: Duration = Duration::from_secs(1);

/// The tables of history, for [`crate::Sql::with_tables`].
#[derive(Debug, Clone)]
pub struct Tables {
    pub handle: Handle,
    /// The streams whose messages become rows.
    pub inputs: Vec<Stream>,
}

/// The schema `public` as one query sees it: a table that it names twice is the same both times.
#[derive(Debug)]
pub(crate) struct PublicSchema {
    records: Arc<dyn TableProvider>,
    log: Arc<dyn Log>,
    tables: Option<Tables>,
    fleet: Option<Arc<dyn Fleet>>,
    /// Of whoever asked: its threads have the priority of the server's other work.
    caller: tokio::runtime::Handle,
    decoded: OnceCell<Result<(), Lag>>,
    found: Mutex<HashMap<String, Found>>,
}

/// A table of payloads.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) table: Arc<dyn TableProvider>,
    pub(super) columns: Arc<Columns>,
}

/// The log itself.
const RECORDS: &str = "records";
/// What is there where somebody knows the fleet.
const FLEET: [&str; 3] = ["devices", "events", "sessions"];

impl PublicSchema {
    pub(crate) fn new(
        records: Arc<dyn TableProvider>,
        log: Arc<dyn Log>,
        tables: Option<Tables>,
        fleet: Option<Arc<dyn Fleet>>,
        caller: tokio::runtime::Handle,
    ) -> Self {
        Self { records, log, tables, fleet, caller, decoded: OnceCell::new(), found: Mutex::default() }
    }

    /// Waits, once, until everything that is committed now is decoded.
    async fn wait(&self) -> Result<()> {
        let Some(tables) = &self.tables else { return Ok(()) };
        let wait = async || {
            let partitions = tables.inputs.iter().flat_map(|stream| {
                let partition = move |index| -> (Partition, _) {
                    let partition = stream.partition(index);
                    (partition, self.log.watermark(partition))
                };
                (0..stream.partitions).map(partition)
            });
            tables.handle.wait_decoded(&partitions.collect::<Vec<_>>(), LAG_MAX).await
        };
        let decoded = self.decoded.get_or_init(wait).await;
        decoded.clone().map_err(|lag| DataFusionError::External(Box::new(lag)))
    }
}

#[async_trait::async_trait]
impl SchemaProvider for PublicSchema {
    fn table_names(&self) -> Vec<String> {
        let tables = self.tables.as_ref().map(|tables| tables.handle.tables());
        let of_fleet = self.fleet.iter().flat_map(|_| FLEET);
        let own = [RECORDS].into_iter().chain(system::NAMES).chain(of_fleet).map(str::to_owned);
        own.chain(tables.unwrap_or_default()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match name {
            "events" => self.of_fleet(|fleet| events::events(Arc::clone(&self.records), fleet)),
            "sessions" => self.of_fleet(|fleet| fleet::table(Table::Sessions, fleet)),
            "devices" => self.of_fleet(|fleet| fleet::table(Table::Devices, fleet)),
            RECORDS => Ok(Some(Arc::clone(&self.records))),
            "alerts" => {
                let inputs = self.tables.as_ref().map_or(&[][..], |tables| &tables.inputs);
                alerts::alerts(Arc::clone(&self.records), inputs, self.fleet.clone()).map(Some)
            }
            "dlq" => {
                // Letters of decoders are written when their messages are decoded.
                self.wait().await?;
                system::dlq(Arc::clone(&self.records)).map(Some)
            }
            "streams" => system::streams(&*self.log).map(Some),
            "tables" => {
                self.wait().await?;
                let Some(Tables { handle, .. }) = self.tables.clone() else { return system::tables(&[]).map(Some) };
                let summaries = self.blocking(move || Ok(handle.summaries())).await?;
                system::tables(&summaries).map(Some)
            }
            _ => Ok(self.history(name).await?.map(|found| found.table)),
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        name == RECORDS
            || system::NAMES.contains(&name)
            || (self.fleet.is_some() && FLEET.contains(&name))
            || self.tables.as_ref().is_some_and(|tables| spelling(tables.handle.tables(), name).is_some())
    }
}

impl PublicSchema {
    fn of_fleet(
        &self,
        make: impl FnOnce(Arc<dyn Fleet>) -> Result<Arc<dyn TableProvider>>,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        self.fleet.clone().map(make).transpose()
    }

    /// Rows are sorted under a lock that decoding waits for: a thread that gives way to everybody must not hold it.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> floodplain_history::Result<T> + Send + 'static,
    ) -> Result<T> {
        let done = self.caller.spawn_blocking(work).await.map_err(|error| DataFusionError::External(error.into()))?;
        done.map_err(|error| DataFusionError::External(error.into()))
    }

    pub(super) fn handle(&self) -> Option<&Handle> {
        self.tables.as_ref().map(|tables| &tables.handle)
    }

    /// A table of payloads.
    pub(super) async fn history(&self, name: &str) -> Result<Option<Found>> {
        let Some(tables) = &self.tables else { return Ok(None) };
        self.wait().await?;
        if let Some(found) = self.found.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(Some(found.clone()));
        }
        let (handle, asked) = (tables.handle.clone(), name.to_owned());
        let take = move || match spelling(handle.tables(), &asked) {
            Some(name) => handle.snapshot(&name),
            None => Ok(None),
        };
        let Some(snapshot) = self.blocking(take).await? else { return Ok(None) };
        let columns = snapshot.columns().clone();
        let table: Arc<dyn TableProvider> = Arc::new(HistoryTable::new(snapshot));
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(found.entry(name.to_owned()).or_insert(Found { table, columns }).clone()))
    }
}

/// The name as it is spelled: as asked for, or else the only one that differs in case alone, since SQL writes names
/// without quotes in lower case.
fn spelling(names: Vec<String>, asked: &str) -> Option<String> {
    let mut alike: Vec<String> = names.into_iter().filter(|name| name.eq_ignore_ascii_case(asked)).collect();
    match alike.iter().position(|name| name == asked) {
        Some(exact) => Some(alike.swap_remove(exact)),
        None if alike.len() == 1 => alike.pop(),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_other_case_if_there_is_one() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(spelling(names(&["Engine", "oil"]), "engine").as_deref(), Some("Engine"));
        assert_eq!(spelling(names(&["Engine", "engine"]), "engine").as_deref(), Some("engine"));
        assert_eq!(spelling(names(&["Engine", "ENGINE"]), "engine"), None);
        assert_eq!(spelling(names(&["oil"]), "engine"), None);
    }
}
