//! `bindings` and `replay`: where messages go, and decoding them again.

use crate::{
    body,
    paging::{Segment, rfc3339},
    problem::Problem,
    router::Api,
};
use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::{get, post, put},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::DateTime;
use floodplain_decode::{ColumnType, Field, Input, Outcome, Role, Row, Rows};
use floodplain_history::{
    Handle,
    bindings::{BUILTIN, Binding, BindingError, Origin},
    dedup::{Dedup, Id},
    jobs::{Job, Replay},
    route::{DefaultRoute, MESSAGES, Route as _},
};
use floodplain_log::MessageRef;
use floodplain_types::{Timestamp, validate_topic};
use serde_json::{Value, json};
use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

/// How long a change waits for the engine: it writes files first, and at a start decodes what was seen before.
const CHANGE_TIME_MAX: Duration = Duration::from_secs(30);
/// A body: the payload of a test, escaped.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Rows of a test that are shown.
const ROWS_MAX: usize = 100;

pub(crate) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/v1/bindings", get(list))
        .route("/api/v1/bindings/{name}", put(set).delete(remove))
        .route("/api/v1/bindings/test", post(test))
        .route("/api/v1/replay", get(jobs).post(replay))
}

pub(crate) fn history(api: &Api) -> Result<&Handle, Problem> {
    let tables = api.tables.as_ref();
    tables.map(|tables| &tables.handle).ok_or_else(|| BindingError::Stopped.into())
}

impl From<BindingError> for Problem {
    fn from(error: BindingError) -> Self {
        let code = match &error {
            BindingError::Invalid(_) => "binding_invalid",
            BindingError::NotBuilt(_) => "not_built",
            BindingError::Unknown(_) => "binding_unknown",
            BindingError::UnknownStream(_) => "stream_unknown",
            BindingError::UnknownTable(_) => "table_unknown",
            BindingError::ReadOnly { .. } => "binding_read_only",
            BindingError::TooMany(_) => "limit_reached",
            BindingError::ReplayRunning(_) => "replay_running",
            BindingError::Busy => "bindings_busy",
            BindingError::Stopped => "history_stopped",
        };
        Self::of(code, error.to_string())
    }
}

/// Waits for the engine, which goes on where the wait has ended.
pub(crate) async fn within<T>(change: impl Future<Output = Result<T, BindingError>>) -> Result<T, Problem> {
    let slow = |_| Problem::of("bindings_busy", "the change has not been made yet; it may still be");
    Ok(tokio::time::timeout(CHANGE_TIME_MAX, change).await.map_err(slow)??)
}

async fn list(State(api): State<Arc<Api>>) -> Result<Json<Value>, Problem> {
    let bindings = history(&api)?.bindings();
    let (matched, failed) = bindings.builtin().get();
    let builtin = json!({
        "name": BUILTIN, "filter": "devices/+/+", "stream": "telemetry", "device_level": 2, "table": { "level": 3 },
        "decoder": { "format": "auto" }, "time_field": null, "key_columns": [], "class": null, "retention": null,
        "dedup": null, "version": 0, "matched": matched, "failed": failed, "duplicates": 0, "builtin": true,
        "source": Origin::Builtin.as_str(),
    });
    let list: Vec<Value> = bindings.list().iter().map(|binding| to_json(binding)).chain([builtin]).collect();
    Ok(Json(json!({ "bindings": list, "next": null })))
}

async fn set(
    State(api): State<Arc<Api>>,
    Segment(name): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let value: Value = body::json_of(&headers, body, BODY_BYTES_MAX, api.limits.body_time_max).await?;
    let binding = Binding::declare(&name, value, Origin::Api)?;
    Ok(Json(to_json(&*within(history(&api)?.put_binding(binding)).await?)))
}

async fn remove(State(api): State<Arc<Api>>, Segment(name): Segment) -> Result<StatusCode, Problem> {
    within(history(&api)?.remove_binding(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn to_json(binding: &Binding) -> Value {
    let (matched, failed) = binding.counts().get();
    let mut value = binding.to_json();
    value["version"] = binding.version().into();
    value["matched"] = matched.into();
    value["failed"] = failed.into();
    value["duplicates"] = binding.counts().duplicate_count().into();
    value["builtin"] = false.into();
    value["source"] = binding.origin().as_str().into();
    value
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    binding: Option<Value>,
    topic: String,
    device: Option<String>,
    payload: Option<String>,
    payload_base64: Option<String>,
    content_type: Option<String>,
    #[serde(default)]
    user_properties: Vec<(String, String)>,
}

/// What would become of a message. Nothing is stored.
async fn test(State(api): State<Arc<Api>>, headers: HeaderMap, body: Body) -> Result<Json<Value>, Problem> {
    static DEFAULT: LazyLock<DefaultRoute> = LazyLock::new(DefaultRoute::default);
    let test: Test = body::json_of(&headers, body, BODY_BYTES_MAX, api.limits.body_time_max).await?;
    let bad = |detail: String| Problem::of("bad_request", detail);
    validate_topic(&test.topic).map_err(|error| bad(error.to_string()))?;
    let payload = match (test.payload, test.payload_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(text)) => {
            STANDARD.decode(&text).map_err(|error| bad(format!("payload_base64 is no base64: {error}")))?
        }
        _ => return Err(bad("give payload or payload_base64".to_owned())),
    };
    let device = test.device.as_deref().unwrap_or_else(|| api.messages.device(&test.topic));
    let content_type = test.content_type.as_deref();
    let (topic, key) = (test.topic.as_str(), device.as_bytes());
    let message = MessageRef { topic, payload: &payload, key, content_type, ..MessageRef::default() };
    let declared = test.binding.map(|mut value| {
        let name =
            value.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()).unwrap_or("new").to_owned();
        value["name"] = json!(name);
        Binding::declare(&name, value, Origin::Api)
    });
    let declared = declared.transpose()?;
    let bindings = history(&api)?.bindings();
    let bound = match &declared {
        Some(binding) => match binding.target(topic, key) {
            Some(target) => Some((binding, target)),
            None => {
                let reason = format!("topic {topic:?} is none of this binding: its filter or its levels do not fit");
                let failure = json!({ "stage": "route", "reason": reason, "byte_position": null, "line": null });
                let (name, rows): (_, [(); 0]) = (binding.name(), []);
                let answer =
                    json!({ "binding": name, "device": device, "table": null, "rows": rows, "failure": failure });
                return Ok(Json(answer));
            }
        },
        None => bindings.target(&message),
    };
    let name = bound.map_or(BUILTIN, |(binding, _)| binding.name());
    let is_declared = bound.is_some_and(|(binding, _)| binding.is_declared());
    let raw = |failure: Value| {
        let payload = String::from_utf8_lossy(&payload);
        let field = |name: &str, value: &str| json!({ "name": name, "role": "value", "type": "Utf8", "value": value });
        let fields = [field("topic", topic), field("payload", &payload)];
        let row = json!({ "table": MESSAGES, "device": device, "time": null, "id": null, "fields": fields });
        json!({ "binding": name, "device": device, "table": MESSAGES, "rows": [row], "failure": failure })
    };
    let Some(target) = bound.map(|(_, target)| target).or_else(|| DEFAULT.target(&message)) else {
        return Ok(Json(raw(Value::Null)));
    };
    let mut buffer = Rows::new();
    let input = Input { payload: &payload, content_type, device: target.device, table: target.table };
    let Outcome::Rows(decoded) = target.decoder.decode(&input, &mut buffer) else { return Ok(Json(raw(Value::Null))) };
    let failure = decoded.failures().first().map_or(Value::Null, |failure| {
        json!({ "stage": failure.stage.as_str(), "reason": failure.reason, "byte_position": failure.byte_position,
            "line": failure.line })
    });
    if !failure.is_null() && !is_declared && decoded.rows().len() == 0 {
        return Ok(Json(raw(failure)));
    }
    let dedup = bound.and_then(|(binding, _)| binding.dedup());
    let rows: Vec<Value> = decoded
        .rows()
        .take(ROWS_MAX)
        .map(|row| {
            let fields: Vec<Value> = row.fields().map(|field| field_json(&field)).collect();
            let id = dedup.and_then(|dedup| id_of(dedup, &test.user_properties, &row));
            let time = row.time().map(rfc3339);
            json!({ "table": row.table(), "device": row.device(), "time": time, "id": id, "fields": fields })
        })
        .collect();
    let (device, table) = (target.device, target.table);
    Ok(Json(json!({ "binding": name, "device": device, "table": table, "rows": rows, "failure": failure })))
}

/// What a repeat of a row is known by.
fn id_of(dedup: &Dedup, properties: &[(String, String)], row: &Row<'_>) -> Option<String> {
    if let Id::Property(wanted) = &dedup.id {
        return properties.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    }
    let mut text = String::new();
    dedup.of_row(row, &mut text).then_some(text)
}

fn field_json(field: &Field<'_>) -> Value {
    let role = match field.role {
        Role::Value => "value",
        Role::Key => "key",
        Role::Attribute => "attribute",
    };
    let data_type = match field.value.column_type() {
        Some(ColumnType::Bool) => "Boolean",
        Some(ColumnType::Int64) => "Int64",
        Some(ColumnType::Float64) => "Float64",
        Some(ColumnType::Text) => "Utf8",
        Some(ColumnType::Bytes) => "Binary",
        Some(ColumnType::List(_)) => "List",
        None => "Rest",
    };
    let mut text = String::new();
    field.value.write_json(&mut text);
    let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    json!({ "name": field.name, "role": role, "type": data_type, "value": value })
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    binding: Option<String>,
    stream: Option<String>,
    from: Option<String>,
    to: Option<String>,
}

async fn replay(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let Range { binding, stream, from, to } = body::json(&headers, body, api.limits.body_time_max).await?;
    let replay = Replay::Range { binding, stream, from: time(from.as_deref())?, to: time(to.as_deref())? };
    let job = within(history(&api)?.replay(replay)).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "job": job }))))
}

fn time(text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let time = DateTime::parse_from_rfc3339(text).ok().and_then(|time| time.timestamp_nanos_opt());
    let bad = || Problem::of("bad_request", format!("{text:?} is no time such as 2026-11-26T11:05:07Z"));
    time.map(|time| Some(Timestamp(time))).ok_or_else(bad)
}

/// The jobs, newest first.
async fn jobs(State(api): State<Arc<Api>>) -> Result<Json<Value>, Problem> {
    let jobs = history(&api)?.jobs();
    let jobs: Vec<Value> = jobs.list().iter().rev().map(job_json).collect();
    Ok(Json(json!({ "jobs": jobs, "next": null })))
}

fn job_json(job: &Job) -> Value {
    let (kind, binding) = match &job.replay {
        Replay::Range { binding, .. } => ("range", binding.as_deref()),
        Replay::Letters { .. } => ("dlq", None),
    };
    let progress = job.progress;
    json!({
        "job": job.name, "kind": kind, "binding": binding, "state": job.state.as_str(), "records": progress.records,
        "total": progress.total, "rows": progress.rows, "failed": progress.failed, "started": rfc3339(job.started),
        "ended": job.ended.map(rfc3339),
    })
}
