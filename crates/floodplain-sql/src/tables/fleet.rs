//! `sessions` and `devices`: asked page by page while the query runs, so that a large fleet is never in memory at once.

use crate::fleet::{Client, Device, Fleet, Unanswered};
use datafusion::{
    arrow::{
        array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
        datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    },
    catalog::{TableProvider, streaming::StreamingTable},
    common::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext},
    physical_plan::{stream::RecordBatchStreamAdapter, streaming::PartitionStream},
};
use floodplain_types::Timestamp;
use futures::stream::try_unfold;
use std::sync::Arc;

/// Rows that are asked for at once.
const PAGE: usize = 256;

#[derive(Debug, Clone, Copy)]
pub(super) enum Table {
    Sessions,
    Devices,
}

pub(super) fn table(table: Table, fleet: Arc<dyn Fleet>) -> Result<Arc<dyn TableProvider>> {
    let (text, flag, count) = (DataType::Utf8, DataType::Boolean, DataType::Int64);
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns = match table {
        Table::Sessions => vec![
            ("client_id", &text),
            ("device", &text),
            ("connected", &flag),
            ("since", &time),
            ("lasting", &flag),
            ("expiry_seconds", &count),
            ("subscriptions", &count),
            ("filters", &text),
            ("address", &text),
            ("protocol", &text),
        ],
        Table::Devices => vec![
            ("device", &text),
            ("connected", &flag),
            ("first_seen", &time),
            ("last_seen", &time),
            ("messages", &count),
            ("bytes", &count),
            ("address", &text),
            ("protocol", &text),
        ],
    };
    let fields = columns.into_iter().map(|(name, data_type)| Field::new(name, data_type.clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let pages = Arc::new(Pages { table, fleet, schema: Arc::clone(&schema) });
    Ok(Arc::new(StreamingTable::try_new(schema, vec![pages])?))
}

#[derive(Debug)]
struct Pages {
    table: Table,
    fleet: Arc<dyn Fleet>,
    schema: SchemaRef,
}

impl PartitionStream for Pages {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (table, fleet, schema) = (self.table, Arc::clone(&self.fleet), Arc::clone(&self.schema));
        let pages = try_unfold((fleet, schema, Some(None)), move |(fleet, schema, after)| async move {
            let Some(after): Option<Option<String>> = after else { return Ok(None) };
            let failed = |error: Unanswered| DataFusionError::External(Box::new(error));
            let (columns, count, last) = match table {
                Table::Sessions => {
                    let clients = fleet.clients(after.as_deref(), PAGE).await.map_err(failed)?;
                    (sessions(&clients), clients.len(), clients.last().map(|client| client.client_id.clone()))
                }
                Table::Devices => {
                    let found = fleet.devices(after.as_deref(), PAGE).await.map_err(failed)?;
                    (devices(&found), found.len(), found.last().map(|device| device.device.clone()))
                }
            };
            let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
            let next = last.filter(|_| count >= PAGE).map(Some);
            Ok(Some((batch, (fleet, schema, next))))
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), pages))
    }
}

pub(super) fn texts<'a, T>(rows: &'a [T], text: impl Fn(&'a T) -> Option<&'a str>) -> ArrayRef {
    Arc::new(rows.iter().map(text).collect::<StringArray>())
}

fn flags<'a, T>(rows: &'a [T], flag: impl Fn(&'a T) -> Option<bool>) -> ArrayRef {
    Arc::new(rows.iter().map(flag).collect::<BooleanArray>())
}

fn counts<'a, T>(rows: &'a [T], count: impl Fn(&'a T) -> Option<u64>) -> ArrayRef {
    Arc::new(rows.iter().map(|row| i64::try_from(count(row)?).ok()).collect::<Int64Array>())
}

pub(super) fn times<'a, T>(rows: &'a [T], time: impl Fn(&'a T) -> Option<Timestamp>) -> ArrayRef {
    let times: TimestampMicrosecondArray = rows.iter().map(|row| Some(time(row)?.0.div_euclid(1000))).collect();
    Arc::new(times.with_timezone("UTC"))
}

/// Those that have a session; the others are known as devices alone.
fn sessions(clients: &[Client]) -> Vec<ArrayRef> {
    let rows: Vec<_> = clients.iter().filter_map(|client| Some((client, client.session.as_ref()?))).collect();
    let filters: Vec<String> = rows
        .iter()
        .map(|(_, session)| {
            let filters: Vec<&str> = session.subscriptions.iter().map(|(filter, _)| filter.as_str()).collect();
            serde_json::json!(filters).to_string()
        })
        .collect();
    vec![
        texts(&rows, |(client, _)| Some(&client.client_id)),
        texts(&rows, |(client, _)| Some(&client.device)),
        flags(&rows, |(client, _)| Some(client.connected)),
        times(&rows, |(client, _)| client.since),
        flags(&rows, |(_, session)| Some(session.lasting)),
        counts(&rows, |(_, session)| session.expiry_seconds.map(u64::from)),
        counts(&rows, |(_, session)| Some(session.subscriptions_count as u64)),
        Arc::new(filters.iter().map(Some).collect::<StringArray>()),
        texts(&rows, |(client, _)| client.address.as_deref()),
        texts(&rows, |(client, _)| client.protocol),
    ]
}

fn devices(devices: &[Device]) -> Vec<ArrayRef> {
    let client = |device: &Device| device.client.as_ref().is_some_and(|client| client.connected);
    vec![
        texts(devices, |device| Some(&device.device)),
        flags(devices, |device| Some(client(device))),
        times(devices, Device::first_seen),
        times(devices, Device::last_seen),
        counts(devices, |device| Some(device.traffic.map_or(0, |traffic| traffic.messages))),
        counts(devices, |device| Some(device.traffic.map_or(0, |traffic| traffic.bytes))),
        texts(devices, |device| device.client.as_ref()?.address.as_deref()),
        texts(devices, |device| device.client.as_ref()?.protocol),
    ]
}
