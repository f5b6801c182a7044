//! `dlq`: what was refused or not delivered, and decoding it again.

use crate::{
    bindings::{history, within},
    body,
    problem::Problem,
    router::Api,
};
use axum::{
    Json, Router,
    body::Body,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use floodplain_history::jobs::Replay;
use floodplain_log::{Log, Stream};
use floodplain_sql::Format;
use floodplain_types::Position;
use serde_json::{Map, Value, json};
use std::{sync::Arc, time::Duration};

/// Different reasons that are counted.
const REASONS_MAX: u32 = 100;
/// How long an answer waits for decoding.
const DECODE_TIME_MAX: Duration = Duration::from_secs(1);
/// Bytes of payloads in one answer; the rest are left out.
const PAYLOAD_BYTES_MAX: usize = 4 << 20;

pub(crate) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/api/v1/dlq", get(list)).route("/api/v1/dlq/replay", post(replay))
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    after: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    binding: String,
}

/// The columns that are answered as they are, and then those that are needed to find the message.
const COLUMNS: &str = "id, received AS time, coalesce(kind, 'session') AS kind, stage, reason, binding, topic, \
    coalesce(device, session) AS device, byte_position, line, decoder AS decoder_version, replayed, count, \
    stream, partition, \"from\"";

async fn list(
    State(api): State<Arc<Api>>,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(asked) = asked.map_err(|rejection| Problem::of("query_invalid", rejection.body_text()))?;
    let limit = asked.limit.unwrap_or(100);
    if !(1..=1000).contains(&limit) {
        return Err(Problem::of("limit_invalid", format!("limit is 1 to 1000, not {limit}")));
    }
    if let Some(tables) = &api.tables {
        let log = api.messages.log();
        let partitions = tables.inputs.iter().flat_map(|stream| (0..stream.partitions).map(|at| stream.partition(at)));
        let wanted: Vec<_> = partitions.map(|partition| (partition, log.watermark(partition))).collect();
        // Letters of what was acknowledged before; where decoding is far behind, SQL refuses.
        drop(tables.handle.wait_decoded(&wanted, DECODE_TIME_MAX).await);
    }
    let mut conditions = vec!["true".to_owned()];
    for (column, wanted) in [("reason", &asked.reason), ("binding", &asked.binding)] {
        if !wanted.is_empty() {
            conditions.push(format!("{column} = {}", quoted(wanted)));
        }
    }
    if let Some((time, id)) = asked.after.split_once('~') {
        let (time, id) = (quoted(time), quoted(id));
        conditions.push(format!("(received < {time} OR (received = {time} AND id < {id}))"));
    }
    let query = format!(
        "SELECT {COLUMNS} FROM dlq WHERE {} ORDER BY received DESC, id DESC LIMIT {}",
        conditions.join(" AND "),
        limit + 1
    );
    let mut entries = objects(&api, &query).await?;
    let is_more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    let text = |entry: &Map<String, Value>, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let next = entries.last().filter(|_| is_more).map(|last| format!("{}~{}", text(last, "time"), text(last, "id")));
    let log = api.messages.log().clone();
    let streams = api.tables.as_ref().map(|tables| tables.inputs.clone()).unwrap_or_default();
    // Payloads may be on the disk.
    let entries = tokio::task::spawn_blocking(move || {
        let mut bytes = 0;
        entries.into_iter().map(|entry| complete(&*log, &streams, entry, &mut bytes)).collect::<Vec<_>>()
    });
    let entries = entries.await.map_err(|error| Problem::of("internal", error.to_string()))?;
    let query = format!(
        "SELECT reason, count(*) AS count FROM dlq GROUP BY reason ORDER BY count DESC, reason LIMIT {REASONS_MAX}"
    );
    let counts = objects(&api, &query).await?;
    Ok(Json(json!({ "entries": entries, "next": next, "counts": counts })))
}

/// A text in SQL.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The rows of a query, each as an object.
async fn objects(api: &Api, query: &str) -> Result<Vec<Map<String, Value>>, Problem> {
    let result = api.sql.query(query).await.map_err(|error| Problem::from(&error))?;
    let (mut encoder, mut text) = (result.encode(Format::Json), Vec::new());
    while let Some(chunk) = encoder.next().await {
        text.extend_from_slice(&chunk.map_err(|error| Problem::from(&error))?);
    }
    let mut answer: Value =
        serde_json::from_slice(&text).map_err(|error| Problem::of("internal", error.to_string()))?;
    let Value::Array(rows) = answer["rows"].take() else { return Ok(Vec::new()) };
    let object = |row| if let Value::Object(row) = row { row } else { Map::new() };
    Ok(rows.into_iter().map(object).collect())
}

/// Adds the message: its position, and its payload while the log has it.
fn complete(log: &dyn Log, streams: &[Stream], mut entry: Map<String, Value>, bytes: &mut usize) -> Map<String, Value> {
    let (stream, partition) = (entry.remove("stream"), entry.remove("partition"));
    let from = entry.remove("from").and_then(|from| from.as_str()?.parse::<Position>().ok());
    let stream = stream.as_ref().and_then(Value::as_str).unwrap_or_default();
    let index = partition.and_then(|index| u32::try_from(index.as_u64()?).ok());
    let (mut position, mut payload) = (Value::Null, None);
    if let (Some(index), Some(from)) = (index, from) {
        position = json!(format!("{stream}/{index}/{}/{}", from.generation, from.offset));
        if entry["kind"] == "decode" && *bytes < PAYLOAD_BYTES_MAX {
            payload = message(log, streams, stream, index, from);
        }
    }
    *bytes += payload.as_ref().map_or(0, Vec::len);
    let text = payload.as_ref().and_then(|payload| std::str::from_utf8(payload).ok());
    let base64 = payload.as_ref().filter(|_| text.is_none()).map(|payload| STANDARD.encode(payload));
    entry.insert("position".to_owned(), position);
    entry.insert("payload".to_owned(), json!(text));
    entry.insert("payload_base64".to_owned(), json!(base64));
    entry
}

fn message(log: &dyn Log, streams: &[Stream], stream: &str, index: u32, at: Position) -> Option<Vec<u8>> {
    let stream = streams.iter().find(|known| known.id.stream.as_str() == stream && index < known.partitions)?;
    let read = log.read(stream.partition(index), at, 1).ok()?;
    for batch in &read.batches {
        let records = batch.batch.records().ok()?;
        let found = records.iter().map_while(Result::ok).find(|record| batch.position(record) == at);
        if let Some(record) = found {
            return Some(record.value.unwrap_or_default().to_vec());
        }
    }
    None
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Again {
    ids: Option<Vec<String>>,
    reason: Option<String>,
}

async fn replay(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let Again { ids, reason } = body::json_of(&headers, body, 1 << 20, api.limits.body_time_max).await?;
    let job = within(history(&api)?.replay(Replay::Letters { ids, reason })).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "job": job }))))
}
