//! `GET /api/v1/devices` and what is below it: which devices there are, and what is known of one.

use crate::{
    body::Json,
    message::{Message, Place},
    openapi::one_of,
    problem::Problem,
    recent,
    request::{Path, Query},
    router::Api,
    time::Time,
};
use axum::{extract::State, http::StatusCode};
use floodplain_history::latest;
use floodplain_log::{MessageRef, ReadError, Stream};
use floodplain_sql::{Device as Known, Fleet, Unanswered, letter_text};
use floodplain_types::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use std::{sync::Arc, time::Duration};
use utoipa::{IntoParams, ToSchema, openapi::Object};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Entries of a list where the request names no number, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// Devices that one request looks at: a search that finds little goes on with the next request.
const LOOKED_AT_MAX: usize = 20_000;
/// Devices that are asked for at once.
const PAGE: usize = 1000;
/// How long the answer waits for rows that are on their way into tables.
const DECODE_TIME_MAX: Duration = Duration::from_millis(500);
/// The table of messages as they came: no values of a device.
const MESSAGES: &str = "messages";

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(list_devices))
        .routes(routes!(get_device))
        .routes(routes!(device_messages))
        .routes(routes!(device_events))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// A part of the name, in any case.
    #[serde(default)]
    search: String,
    /// Only those that are, or are not.
    #[param(value_type = bool, required = false)]
    connected: Option<String>,
    /// `next` of the page before.
    after: Option<String>,
    /// How many there are at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitQuery {
    /// How many there are at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
}

/// Some devices, by name.
#[derive(Serialize, ToSchema)]
struct Devices {
    devices: Vec<Device>,
    /// What to send as `after` for more, null: these were the last. A page may be shorter than `limit` and still not be the last.
    #[schema(required)]
    next: Option<String>,
    /// How many match; only on the first page, and while they are not too many to be counted.
    #[schema(required)]
    total: Option<usize>,
}

/// A device that has sent a message, or is a client.
#[derive(Serialize, ToSchema)]
struct Device {
    device: String,
    connected: bool,
    #[schema(required)]
    first_seen: Option<Time>,
    #[schema(required)]
    last_seen: Option<Time>,
    /// Where its newest connection comes from: IP address and port.
    #[schema(required)]
    address: Option<String>,
    /// Such as `MQTT 5.0`.
    #[schema(required)]
    protocol: Option<&'static str>,
    /// Messages that the log holds.
    messages: u64,
    /// Bytes of their payloads.
    bytes: u64,
}

/// A device, its newest values and its session.
#[derive(Serialize, ToSchema)]
struct DeviceDetail {
    #[serde(flatten)]
    device: Device,
    /// Tables with values of the device.
    tables: Vec<String>,
    /// The newest value of each column of them.
    latest: Vec<LatestValues>,
    /// Null: there is none.
    #[schema(required)]
    session: Option<Session>,
}

/// The newest values in a table.
#[derive(Serialize, ToSchema)]
struct LatestValues {
    table: String,
    columns: Vec<LatestValue>,
}

/// The newest value of a column.
#[derive(Serialize, ToSchema)]
struct LatestValue {
    name: String,
    /// As in `columns` of the table.
    #[serde(rename = "type")]
    data_type: &'static str,
    time: Time,
    /// A boolean, a number or a text; null for a number that JSON has not.
    value: Value,
}

/// What the server keeps for a client of MQTT.
#[derive(Serialize, ToSchema)]
struct Session {
    client_id: String,
    /// Whether it outlives the connection.
    lasting: bool,
    /// How long it does; null: for ever.
    #[schema(required)]
    expiry_seconds: Option<u32>,
    /// The first 64.
    subscriptions: Vec<Subscription>,
    subscriptions_count: usize,
}

#[derive(Serialize, ToSchema)]
struct Subscription {
    /// A topic filter of MQTT.
    filter: String,
    /// 0, 1 or 2.
    qos: u8,
}

/// Messages, newest first.
#[derive(Serialize, ToSchema)]
struct DeviceMessages {
    #[schema(value_type = Vec<Message>)]
    messages: Vec<Box<RawValue>>,
}

/// Events, newest first.
#[derive(Serialize, ToSchema)]
struct DeviceEvents {
    events: Vec<DeviceEvent>,
}

/// What happened to a device.
#[derive(Serialize, ToSchema)]
struct DeviceEvent {
    time: Time,
    #[schema(schema_with = kind)]
    kind: &'static str,
    /// For people.
    detail: String,
}

fn kind() -> Object {
    let kinds = ["connected", "taken_over", "disconnected", "will", "subscribed", "unsubscribed", "dead_letter"];
    one_of("What happened.", kinds)
}

/// Which devices there are: all, or those that contain a text or are connected
#[utoipa::path(get, path = "/api/v1/devices", params(ListQuery),
    responses((status = 200, description = "by name", body = Devices), Problem))]
async fn list_devices(State(api): State<Arc<Api>>, Query(query): Query<ListQuery>) -> Result<Json<Devices>, Problem> {
    let limit = limited(query.limit)?;
    let connected = match query.connected.as_deref() {
        None | Some("") => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(other) => return Err(Problem::of("query_invalid", format!("connected is true or false, not {other:?}"))),
    };
    let fleet = fleet(&api)?;
    let search = query.search.to_lowercase();
    let wanted = |device: &Known| {
        (search.is_empty() || device.device.to_lowercase().contains(&search))
            && connected.is_none_or(|connected| is_connected(device) == connected)
    };
    let is_first = query.after.as_deref().is_none_or(str::is_empty);
    let mut after = query.after.filter(|after| !after.is_empty());
    let (mut found, mut count, mut looked_at) = (Vec::new(), 0, 0);
    let mut next = None;
    // The first page also counts those that do not fit on it.
    let total = loop {
        let page = fleet.devices(after.as_deref(), PAGE).await?;
        let is_last = page.len() < PAGE;
        looked_at += page.len();
        after = page.last().map(|device| device.device.clone());
        for device in page {
            if wanted(&device) {
                count += 1;
                if found.len() < limit {
                    found.push(device);
                } else if next.is_none() {
                    next = found.last().map(|device: &Known| device.device.clone());
                }
            }
        }
        if is_last {
            break is_first.then_some(count);
        }
        if looked_at >= LOOKED_AT_MAX || (!is_first && next.is_some()) {
            // Where the search stands, unless the page is full.
            next = next.or(after);
            break None;
        }
    };
    Ok(Json(Devices { devices: found.into_iter().map(Device::from).collect(), next, total }))
}

/// One device, with its newest values and its session
#[utoipa::path(get, path = "/api/v1/devices/{device}",
    params(("device" = String, Path, description = "percent-encoded, also the slashes in it")),
    responses((status = 200, description = "as it is now", body = DeviceDetail), Problem))]
async fn get_device(State(api): State<Arc<Api>>, Path(device): Path<String>) -> Result<Json<DeviceDetail>, Problem> {
    let mut found = known(&api, &device).await?;
    let session = found.client.as_mut().and_then(|client| {
        let session = client.session.take()?;
        let subscription = |(filter, qos)| Subscription { filter, qos };
        Some(Session {
            client_id: client.client_id.clone(),
            lasting: session.lasting,
            expiry_seconds: session.expiry_seconds,
            subscriptions: session.subscriptions.into_iter().map(subscription).collect(),
            subscriptions_count: session.subscriptions_count,
        })
    });
    let mut answer = DeviceDetail { device: found.into(), tables: Vec::new(), latest: Vec::new(), session };
    let Some(tables) = &api.tables else { return Ok(Json(answer)) };
    let handle = tables.handle.clone();
    let log = api.messages.log();
    let ends: Vec<_> = tables
        .inputs
        .iter()
        .map(|stream| stream.partition_of(device.as_bytes()))
        .map(|partition| (partition, log.watermark(partition)))
        .collect();
    // Values that are later than that are in the next answer.
    drop(handle.wait_decoded(&ends, DECODE_TIME_MAX).await);
    let answer = blocking(move || -> Result<DeviceDetail, floodplain_history::Error> {
        for table in handle.tables().into_iter().filter(|table| table != MESSAGES) {
            let columns = handle.latest_of(&table, &device)?;
            if columns.is_empty() {
                continue;
            }
            let column = |column: latest::LatestValue| LatestValue {
                name: column.column,
                data_type: column.data_type,
                time: Time(Timestamp(column.time_us.saturating_mul(1000))),
                value: match column.value {
                    latest::Value::Bool(value) => value.into(),
                    latest::Value::Int(value) => value.into(),
                    latest::Value::Float(value) => value.into(),
                    latest::Value::Text(value) => value.into(),
                },
            };
            answer
                .latest
                .push(LatestValues { table: table.clone(), columns: columns.into_iter().map(column).collect() });
            answer.tables.push(table);
        }
        Ok(answer)
    });
    let answer = answer.await?.map_err(|error| {
        tracing::error!(%error, cause = ?error, "the newest values of a device cannot be read");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "a fault of the server", error.to_string())
    })?;
    Ok(Json(answer))
}

/// The newest messages of a device
#[utoipa::path(get, path = "/api/v1/devices/{device}/messages",
    params(("device" = String, Path, description = "percent-encoded, also the slashes in it"), LimitQuery),
    responses((status = 200, description = "newest first, 4 MiB at most", body = DeviceMessages), Problem))]
async fn device_messages(
    State(api): State<Arc<Api>>,
    Path(device): Path<String>,
    Query(query): Query<LimitQuery>,
) -> Result<Json<DeviceMessages>, Problem> {
    let limit = limited(query.limit)?;
    let last = known(&api, &device).await?.traffic.map(|traffic| traffic.last);
    let found = blocking(move || -> Result<Vec<(Timestamp, Box<RawValue>)>, ReadError> {
        let (log, streams) = (api.messages.log(), api.messages.streams());
        let (Some(last), device) = (last, device.as_str()) else { return Ok(Vec::new()) };
        let look = |index: u32| {
            move |batch: &floodplain_log::ReadBatch, record: &floodplain_log::Record<'_>, position| {
                if record.key != Some(device.as_bytes()) {
                    return Vec::new();
                }
                let Ok(message) = MessageRef::parse(record) else { return Vec::new() };
                let received = Timestamp::from_millis(batch.batch.timestamp_ms(record));
                let received = message.ingest_time_ns.map_or(received, Timestamp);
                let json = Message::new(Place::of(streams, index, position), received, &message);
                let json = serde_json::value::to_raw_value(&json).expect("a message holds only texts and numbers");
                let bytes = json.get().len();
                vec![((received, json), bytes)]
            }
        };
        let mut found = Vec::new();
        for number in 0..streams.list().len() as u32 {
            let index = streams.index_of_key(number, device.as_bytes());
            found.extend(recent::newest(&**log, streams.partition(index), last, limit, || look(index))?);
        }
        // Those of one time stay in the order of their stream.
        found.sort_by_key(|(received, _)| std::cmp::Reverse(*received));
        found.truncate(limit);
        Ok(found)
    });
    let found = found.await?.map_err(|error| unread(&error))?;
    Ok(Json(DeviceMessages { messages: found.into_iter().map(|(_, json)| json).collect() }))
}

/// What happened to a device
#[utoipa::path(get, path = "/api/v1/devices/{device}/events",
    params(("device" = String, Path, description = "percent-encoded, also the slashes in it"), LimitQuery),
    responses((status = 200, description = "newest first", body = DeviceEvents), Problem))]
async fn device_events(
    State(api): State<Arc<Api>>,
    Path(device): Path<String>,
    Query(query): Query<LimitQuery>,
) -> Result<Json<DeviceEvents>, Problem> {
    let limit = limited(query.limit)?;
    drop(known(&api, &device).await?);
    let fleet = fleet(&api)?;
    let events = blocking(move || -> Result<Vec<DeviceEvent>, ReadError> {
        let log = &**api.messages.log();
        let now = api.messages.clock().now();
        let mut events = Vec::new();
        if let Some(requests) = sibling(&api, "requests") {
            events = recent::newest(log, requests.partition_of(device.as_bytes()), now, limit, || {
                requests_of(&device, &*fleet)
            })?;
        }
        if let Some(dlq) = sibling(&api, "dlq") {
            let letters = || {
                |batch: &floodplain_log::ReadBatch, record: &floodplain_log::Record<'_>, _| {
                    if record.key != Some(device.as_bytes()) {
                        return Vec::new();
                    }
                    let time = Time(Timestamp::from_millis(batch.batch.timestamp_ms(record)));
                    let detail = letter_text(record.value.unwrap_or_default());
                    let bytes = detail.len();
                    vec![(DeviceEvent { time, kind: "dead_letter", detail }, bytes)]
                }
            };
            events.extend(recent::newest(log, dlq.partition_of(device.as_bytes()), now, limit, letters)?);
        }
        // Those of one time stay in the order of their stream.
        events.sort_by_key(|event| std::cmp::Reverse(event.time));
        events.truncate(limit);
        Ok(events)
    });
    let events = events.await?.map_err(|error| unread(&error))?;
    Ok(Json(DeviceEvents { events }))
}

/// Tells what the records of `requests` say of a device. When the server starts, connections of earlier runs are gone,
/// for which they have no records of their own.
fn requests_of<'a>(
    device: &'a str,
    fleet: &'a dyn Fleet,
) -> impl FnMut(
    &floodplain_log::ReadBatch,
    &floodplain_log::Record<'_>,
    floodplain_types::Position,
) -> Vec<(DeviceEvent, usize)>
+ 'a {
    let mut is_connected = false;
    move |batch, record, _| {
        if record.key.is_some_and(|key| key != device.as_bytes()) {
            return Vec::new();
        }
        let time = Time(Timestamp::from_millis(batch.batch.timestamp_ms(record)));
        let mut events = Vec::new();
        for happening in fleet.happenings(record.value.unwrap_or_default()) {
            let (kind, detail) = match happening.kind {
                "server_started" if is_connected => ("disconnected", "the server died".to_owned()),
                "server_started" => continue,
                kind => (kind, happening.detail),
            };
            match kind {
                "connected" => is_connected = true,
                "disconnected" => is_connected = false,
                _ => {}
            }
            let bytes = detail.len();
            events.push((DeviceEvent { time, kind, detail }, bytes));
        }
        events
    }
}

/// Another stream of the same tenant.
fn sibling(api: &Api, name: &str) -> Option<Stream> {
    let id = &api.messages.streams().telemetry().id;
    let streams: Vec<Stream> = api.messages.log().streams();
    streams.into_iter().find(|stream| {
        stream.id.tenant == id.tenant && stream.id.stream.as_str() == name && stream.id.generation == id.generation
    })
}

/// The device, if it has ever been seen.
async fn known(api: &Api, device: &str) -> Result<Known, Problem> {
    let found = fleet(api)?.device(device).await?;
    found.ok_or_else(|| Problem::of("device_unknown", format!("no device {device:?} has been seen")))
}

fn fleet(api: &Api) -> Result<Arc<dyn Fleet>, Problem> {
    api.fleet.clone().ok_or_else(|| Problem::of("not_built", "this server knows no devices"))
}

fn is_connected(device: &Known) -> bool {
    device.client.as_ref().is_some_and(|client| client.connected)
}

// Which tables a device has is known only by its values, so that is for one device.
impl From<Known> for Device {
    fn from(device: Known) -> Self {
        let (first_seen, last_seen) = (device.first_seen().map(Time), device.last_seen().map(Time));
        let connected = is_connected(&device);
        let (address, protocol) = device.client.map(|client| (client.address, client.protocol)).unwrap_or_default();
        let traffic = device.traffic.unwrap_or_default();
        let (messages, bytes) = (traffic.messages, traffic.bytes);
        Self { device: device.device, connected, first_seen, last_seen, address, protocol, messages, bytes }
    }
}

fn limited(limit: Option<usize>) -> Result<usize, Problem> {
    match limit.unwrap_or(LIMIT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        limit => Err(Problem::of("limit_invalid", format!("limit is 1 to {LIMIT_MAX}, not {limit}"))),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "a fault of the server", error.to_string())
    })
}

fn unread(error: &ReadError) -> Problem {
    tracing::error!(%error, "the newest records of a device cannot be read");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "log_read", "the log cannot be read", error.to_string())
}

impl From<Unanswered> for Problem {
    fn from(error: Unanswered) -> Self {
        Self::of("unanswered", error.to_string())
    }
}
