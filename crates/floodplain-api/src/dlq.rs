//! `dlq`: what was refused or not delivered, and decoding it again.

use crate::{
    bindings::{ReplayBegun, history, within},
    body::{self, Json},
    message::Place,
    openapi::one_of,
    problem::Problem,
    request::Query,
    router::Api,
    time::Time,
};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use floodplain_history::jobs::Replay;
use floodplain_log::{Log, Stream};
use floodplain_sql::Format;
use floodplain_types::{Position, StreamId, TenantId};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema, openapi::Object};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Different reasons that are counted.
const REASONS_MAX: u32 = 100;
/// Bytes of payloads in one answer; the rest are left out.
const PAYLOAD_BYTES_MAX: usize = 4 << 20;

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default().routes(routes!(list_dead_letters)).routes(routes!(replay_dead_letters))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// How many there are at most.
    #[serde(default)]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// `next` of the page before.
    #[serde(default)]
    after: String,
    /// Only those with this reason.
    #[serde(default)]
    reason: String,
    /// Only those of this binding.
    #[serde(default)]
    binding: String,
}

/// Some letters, newest first, and how many there are.
#[derive(Serialize, ToSchema)]
struct DeadLetters {
    entries: Vec<DeadLetter>,
    /// What to send as `after` for more; null: these were the last.
    #[schema(required)]
    next: Option<String>,
    /// By reason, of all that there are; at most 100 reasons.
    counts: Vec<LetterCount>,
}

/// Something that was refused or not delivered.
#[derive(Serialize, Deserialize, ToSchema)]
struct DeadLetter {
    id: String,
    #[schema(value_type = Time)]
    time: String,
    #[schema(schema_with = kind)]
    kind: String,
    /// Which part of the work refused it; null if it was not delivered.
    #[schema(required)]
    stage: Option<String>,
    /// For people, and to be asked for.
    #[serde(deserialize_with = "or_default")]
    reason: String,
    #[schema(required)]
    binding: Option<String>,
    #[schema(required)]
    topic: Option<String>,
    /// The device, or the client that did not get it.
    #[schema(required)]
    device: Option<String>,
    /// Where in the payload, counted from 0.
    #[schema(required)]
    byte_position: Option<u64>,
    /// Which line of the payload, counted from 1.
    #[schema(required)]
    line: Option<u64>,
    /// The version of the bindings that it was decoded by.
    #[schema(required)]
    decoder_version: Option<String>,
    /// When its message was decoded again.
    #[schema(value_type = Option<Time>, required)]
    replayed: Option<String>,
    /// How many messages, or parts of one, it is about.
    #[serde(deserialize_with = "or_default")]
    count: u64,
    #[serde(skip_serializing)]
    stream: Option<String>,
    #[serde(skip_serializing)]
    partition: Option<u32>,
    #[serde(skip_serializing)]
    from: Option<String>,
    /// Where the message is.
    #[serde(default)]
    #[schema(value_type = Option<Place<'_>>, required)]
    position: Option<String>,
    /// The payload, if it is UTF-8 and the log still has it.
    #[serde(default)]
    #[schema(required)]
    payload: Option<String>,
    /// The payload, if it is not UTF-8 and the log still has it: RFC 4648, section 4.
    #[serde(default)]
    #[schema(required)]
    payload_base64: Option<String>,
}

fn kind() -> Object {
    one_of(
        "whether a payload was refused (`decode`) or a session did not get messages (`session`)",
        ["decode", "session"],
    )
}

/// Letters of one reason.
#[derive(Serialize, Deserialize, ToSchema)]
struct LetterCount {
    #[serde(deserialize_with = "or_default")]
    reason: String,
    count: u64,
}

/// What every letter has; of a record that is none, SQL says null.
fn or_default<'d, T: Default + Deserialize<'d>, D: Deserializer<'d>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The columns that are answered as they are, and then those that are needed to find the message.
const COLUMNS: &str = "id, received AS time, coalesce(kind, 'session') AS kind, stage, reason, binding, topic, \
    coalesce(device, session) AS device, byte_position, line, decoder AS decoder_version, replayed, count, \
    stream, partition, \"from\"";

/// What was refused or not delivered, newest first
#[utoipa::path(get, path = "/api/v1/dlq", params(Asked),
    responses((status = 200, description = "entries, and how many there are by reason", body = DeadLetters), Problem))]
async fn list_dead_letters(
    State(api): State<Arc<Api>>,
    Query(asked): Query<Asked>,
) -> Result<Json<DeadLetters>, Problem> {
    let limit = asked.limit.unwrap_or(100);
    if !(1..=1000).contains(&limit) {
        return Err(Problem::of("limit_invalid", format!("limit is 1 to 1000, not {limit}")));
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
    let mut entries: Vec<DeadLetter> = rows(&api, &query).await?;
    let is_more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    let next = entries.last().filter(|_| is_more).map(|last| format!("{}~{}", last.time, last.id));
    let log = api.messages.log().clone();
    // Payloads may be on the disk.
    let entries = tokio::task::spawn_blocking(move || {
        let (streams, mut bytes) = (log.streams(), 0);
        entries.iter_mut().for_each(|entry| complete(&*log, &streams, entry, &mut bytes));
        entries
    });
    let entries = entries.await.map_err(|error| Problem::of("internal", error.to_string()))?;
    let query = format!(
        "SELECT reason, count(*) AS count FROM dlq GROUP BY reason ORDER BY count DESC, reason LIMIT {REASONS_MAX}"
    );
    let counts = rows(&api, &query).await?;
    Ok(Json(DeadLetters { entries, next, counts }))
}

/// A text in SQL.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The rows of a query.
async fn rows<T: DeserializeOwned>(api: &Api, query: &str) -> Result<Vec<T>, Problem> {
    #[derive(Deserialize)]
    struct Answer<T> {
        rows: Vec<T>,
    }
    let result = api.sql.query(query).await.map_err(|error| Problem::from(&error))?;
    let (mut encoder, mut text) = (result.encode(Format::Json), Vec::new());
    while let Some(chunk) = encoder.next().await {
        text.extend_from_slice(&chunk.map_err(|error| Problem::from(&error))?);
    }
    let answer: Answer<T> =
        serde_json::from_slice(&text).map_err(|error| Problem::of("internal", error.to_string()))?;
    Ok(answer.rows)
}

/// Adds the message: its position, and its payload while the log has it.
fn complete(log: &dyn Log, streams: &[Stream], entry: &mut DeadLetter, bytes: &mut usize) {
    let from = entry.from.as_ref().and_then(|from| from.parse::<Position>().ok());
    let (Some(partition), Some(position)) = (entry.partition, from) else { return };
    let stream = entry.stream.as_deref().unwrap_or_default();
    entry.position = Some(Place { stream, partition, position }.to_string());
    if entry.kind != "decode" || *bytes >= PAYLOAD_BYTES_MAX {
        return;
    }
    let Some(payload) = message(log, streams, stream, partition, position) else { return };
    *bytes += payload.len();
    match String::from_utf8(payload) {
        Ok(text) => entry.payload = Some(text),
        Err(error) => entry.payload_base64 = Some(STANDARD.encode(error.as_bytes())),
    }
}

fn message(log: &dyn Log, streams: &[Stream], stream: &str, index: u32, at: Position) -> Option<Vec<u8>> {
    let tenant = TenantId::default_tenant();
    let is_it = |id: &StreamId| id.tenant == tenant && id.stream.as_str() == stream && id.generation == at.generation;
    let stream = streams.iter().find(|known| is_it(&known.id) && index < known.partitions)?;
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

/// Which letters: those that are named, those with a reason, or all.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Letters {
    #[schema(max_items = 1000)]
    ids: Option<Vec<String>>,
    reason: Option<String>,
}

/// Decodes the messages of letters again, by the bindings of now
#[utoipa::path(post, path = "/api/v1/dlq/replay", request_body = Letters,
    responses((status = 202, description = "it has begun", body = ReplayBegun), Problem))]
async fn replay_dead_letters(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<ReplayBegun>), Problem> {
    let Letters { ids, reason } = body::json_of(&headers, body, 1 << 20, api.limits.body_time_max).await?;
    let job = within(history(&api)?.replay(Replay::Letters { ids, reason })).await?;
    Ok((StatusCode::ACCEPTED, Json(ReplayBegun { job })))
}
