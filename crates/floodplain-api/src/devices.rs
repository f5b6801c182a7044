//! `GET /api/v1/devices` and what is below it: which devices there are, and what is known of one.

use crate::{
    message::{self, Place},
    paging::{Segment, rfc3339},
    problem::Problem,
    recent,
    router::Api,
};
use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use floodplain_history::latest::Value as Latest;
use floodplain_log::{MessageRef, ReadError, Stream};
use floodplain_sql::{Device, Fleet, Session, Unanswered, letter_text};
use floodplain_types::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

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

pub(crate) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/v1/devices", get(list))
        .route("/api/v1/devices/{device}", get(one))
        .route("/api/v1/devices/{device}/messages", get(messages))
        .route("/api/v1/devices/{device}/events", get(events))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    #[serde(default)]
    search: String,
    connected: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitQuery {
    limit: Option<usize>,
}

/// Devices by name: all, or those that contain a text or are connected.
async fn list(
    State(api): State<Arc<Api>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::of("query_invalid", error.body_text()))?;
    let limit = limited(query.limit)?;
    let connected = match query.connected.as_deref() {
        None | Some("") => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(other) => return Err(Problem::of("query_invalid", format!("connected is true or false, not {other:?}"))),
    };
    let fleet = fleet(&api)?;
    let search = query.search.to_lowercase();
    let wanted = |device: &Device| {
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
                    next = found.last().map(|device: &Device| device.device.clone());
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
    let rows = found.iter().map(row).collect::<Vec<_>>();
    Ok(Json(json!({ "devices": rows, "next": next, "total": total })).into_response())
}

/// One device, with its tables, the newest value of each of their columns, and its session.
async fn one(State(api): State<Arc<Api>>, Segment(device): Segment) -> Result<Response, Problem> {
    let found = known(&api, &device).await?;
    let Some(tables) = &api.tables else {
        let mut answer = row(&found);
        answer["tables"] = json!([]);
        answer["latest"] = json!([]);
        answer["session"] = session(&found);
        return Ok(Json(answer).into_response());
    };
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
    let answer = blocking(move || -> Result<Value, floodplain_history::Error> {
        let mut answer = row(&found);
        let (mut latest, mut names) = (Vec::new(), Vec::new());
        for table in handle.tables().into_iter().filter(|table| table != MESSAGES) {
            let columns = handle.latest_of(&table, &device)?;
            if columns.is_empty() {
                continue;
            }
            let column = |column: floodplain_history::latest::LatestValue| {
                json!({
                    "name": column.column,
                    "type": column.data_type,
                    "time": rfc3339(Timestamp(column.time_us.saturating_mul(1000))),
                    "value": match column.value {
                        Latest::Bool(value) => json!(value),
                        Latest::Int(value) => json!(value),
                        Latest::Float(value) => json!(value),
                        Latest::Text(value) => json!(value),
                    },
                })
            };
            latest.push(json!({ "table": table, "columns": columns.into_iter().map(column).collect::<Vec<_>>() }));
            names.push(table);
        }
        answer["tables"] = json!(names);
        answer["latest"] = json!(latest);
        answer["session"] = session(&found);
        Ok(answer)
    });
    let answer = answer.await?.map_err(|error| {
        tracing::error!(%error, cause = ?error, "the newest values of a device cannot be read");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "a fault of the server", error.to_string())
    })?;
    Ok(Json(answer).into_response())
}

/// The newest messages of a device.
async fn messages(
    State(api): State<Arc<Api>>,
    Segment(device): Segment,
    query: Result<Query<LimitQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let limit = limit_of(query)?;
    let last = known(&api, &device).await?.traffic.map(|traffic| traffic.last);
    let found = blocking(move || -> Result<Vec<(Timestamp, String)>, ReadError> {
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
                let json = message::to_json(Place::of(streams, index, position), received, &message);
                let bytes = json.len();
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
    let found: Vec<String> = found.into_iter().map(|(_, json)| json).collect();
    let body = format!("{{\"messages\":[{}]}}", found.join(","));
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response())
}

/// What happened to a device.
struct Event {
    time: Timestamp,
    kind: &'static str,
    detail: String,
}

/// The newest events of a device.
async fn events(
    State(api): State<Arc<Api>>,
    Segment(device): Segment,
    query: Result<Query<LimitQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let limit = limit_of(query)?;
    drop(known(&api, &device).await?);
    let fleet = fleet(&api)?;
    let events = blocking(move || -> Result<Vec<Event>, ReadError> {
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
                    let time = Timestamp::from_millis(batch.batch.timestamp_ms(record));
                    let detail = letter_text(record.value.unwrap_or_default());
                    let bytes = detail.len();
                    vec![(Event { time, kind: "dead_letter", detail }, bytes)]
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
    let event = |event: Event| json!({ "time": rfc3339(event.time), "kind": event.kind, "detail": event.detail });
    Ok(Json(json!({ "events": events.into_iter().map(event).collect::<Vec<_>>() })).into_response())
}

/// Tells what the records of `requests` say of a device. When the server starts, connections of earlier runs are gone,
/// for which they have no records of their own.
fn requests_of<'a>(
    device: &'a str,
    fleet: &'a dyn Fleet,
) -> impl FnMut(&floodplain_log::ReadBatch, &floodplain_log::Record<'_>, floodplain_types::Position) -> Vec<(Event, usize)>
+ 'a {
    let mut is_connected = false;
    move |batch, record, _| {
        if record.key.is_some_and(|key| key != device.as_bytes()) {
            return Vec::new();
        }
        let time = Timestamp::from_millis(batch.batch.timestamp_ms(record));
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
            events.push((Event { time, kind, detail }, bytes));
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
async fn known(api: &Api, device: &str) -> Result<Device, Problem> {
    let found = fleet(api)?.device(device).await?;
    found.ok_or_else(|| Problem::of("device_unknown", format!("no device {device:?} has been seen")))
}

fn fleet(api: &Api) -> Result<Arc<dyn Fleet>, Problem> {
    api.fleet.clone().ok_or_else(|| Problem::of("not_built", "this server knows no devices"))
}

fn is_connected(device: &Device) -> bool {
    device.client.as_ref().is_some_and(|client| client.connected)
}

/// What a list says. Which tables a device has is known only by its values, so that is for one device.
fn row(device: &Device) -> Value {
    let client = device.client.as_ref();
    json!({
        "device": device.device,
        "connected": is_connected(device),
        "first_seen": device.first_seen().map(rfc3339),
        "last_seen": device.last_seen().map(rfc3339),
        "address": client.and_then(|client| client.address.as_deref()),
        "protocol": client.and_then(|client| client.protocol),
        "messages": device.traffic.map_or(0, |traffic| traffic.messages),
        "bytes": device.traffic.map_or(0, |traffic| traffic.bytes),
    })
}

fn session(device: &Device) -> Value {
    let Some(client) = &device.client else { return Value::Null };
    let Some(Session { lasting, expiry_seconds, subscriptions, subscriptions_count }) = &client.session else {
        return Value::Null;
    };
    let filter = |(filter, qos): &(String, u8)| json!({ "filter": filter, "qos": qos });
    json!({
        "client_id": client.client_id,
        "lasting": lasting,
        "expiry_seconds": expiry_seconds,
        "subscriptions": subscriptions.iter().map(filter).collect::<Vec<_>>(),
        "subscriptions_count": subscriptions_count,
    })
}

fn limit_of(query: Result<Query<LimitQuery>, QueryRejection>) -> Result<usize, Problem> {
    let Query(query) = query.map_err(|error| Problem::of("query_invalid", error.body_text()))?;
    limited(query.limit)
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
