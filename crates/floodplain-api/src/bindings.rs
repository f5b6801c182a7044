//! `bindings` and `replay`: where messages go, and decoding them again.

use crate::{
    body::{self, Json},
    message::pairs,
    openapi::{no_next, one_of},
    problem::Problem,
    request::Path,
    router::Api,
    time::Time,
};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::DateTime;
use floodplain_decode::{
    ColumnType, Field, Input, Outcome, Role, Row, Rows,
    schema::{Assignment, TableSchema},
};
use floodplain_history::{
    Handle, Raw,
    bindings::{self, BUILTIN, BindingError, Origin, v1},
    dedup::{Dedup, Id},
    jobs::{self, JobState, Replay},
    letters,
    route::{DefaultRoute, MESSAGES, Route as _},
};
use floodplain_log::{MessageRef, TELEMETRY};
use floodplain_types::{Position, Timestamp, validate_topic};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};
use utoipa::{ToSchema, openapi::Object};
use utoipa_axum::{router::OpenApiRouter, routes};

/// How long a change waits for the engine: it writes files first, and at a start decodes what was seen before.
const CHANGE_TIME_MAX: Duration = Duration::from_secs(30);
/// A body: the payload of a test, escaped.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Rows of a test that are shown.
const ROWS_MAX: usize = 100;

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(list_bindings))
        .routes(routes!(put_binding, delete_binding))
        .routes(routes!(test_binding))
        .routes(routes!(list_replays, replay))
}

pub(crate) fn history(api: &Api) -> Result<&Handle, Problem> {
    let tables = api.tables.as_ref();
    tables.map(|tables| &tables.handle).ok_or_else(Problem::elsewhere)
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

/// All bindings, in the order in which they are asked.
#[derive(Serialize, ToSchema)]
struct Bindings {
    bindings: Vec<Binding>,
    #[schema(schema_with = no_next)]
    next: (),
}

/// A binding, and what has happened to its messages since the start of the server.
#[derive(Serialize, ToSchema)]
struct Binding {
    #[serde(flatten)]
    wire: v1::Binding,
    /// Of the document of all bindings in which it last changed.
    version: u32,
    /// Messages that it took.
    matched: u64,
    /// Those of them with something that was refused.
    failed: u64,
    /// Messages, or rows where the id is a field, that repeat earlier ones.
    duplicates: u64,
    /// Whether it is the one for all that no other takes.
    builtin: bool,
    #[schema(schema_with = source)]
    source: &'static str,
}

fn source() -> Object {
    let from = "Where it comes from; only those of `api` can be changed here.";
    one_of(from, [Origin::Builtin, Origin::Config, Origin::Api].map(Origin::as_str))
}

impl From<&bindings::Binding> for Binding {
    fn from(binding: &bindings::Binding) -> Self {
        let (matched, failed) = binding.counts().get();
        Self {
            wire: binding.wire().clone(),
            version: binding.version(),
            matched,
            failed,
            duplicates: binding.counts().duplicate_count(),
            builtin: false,
            source: binding.origin().as_str(),
        }
    }
}

/// Which bindings there are
#[utoipa::path(get, path = "/api/v1/bindings",
    responses((status = 200, description = "in the order in which they are asked", body = Bindings), Problem))]
async fn list_bindings(State(api): State<Arc<Api>>) -> Result<Json<Bindings>, Problem> {
    let bindings = history(&api)?.bindings();
    let (matched, failed) = bindings.builtin().get();
    let builtin = Binding {
        wire: v1::Binding {
            name: BUILTIN.to_owned(),
            filter: "devices/+/+".to_owned(),
            stream: TELEMETRY.to_owned(),
            device_level: Some(2),
            table: v1::Table::Level(3),
            decoder: Map::from_iter([("format".to_owned(), "auto".into())]),
            time_field: None,
            key_columns: Vec::new(),
            class: None,
            retention: None,
            dedup: None,
        },
        version: 0,
        matched,
        failed,
        duplicates: 0,
        builtin: true,
        source: Origin::Builtin.as_str(),
    };
    let list = bindings.list().iter().map(|binding| Binding::from(&**binding));
    Ok(Json(Bindings { bindings: list.chain([builtin]).collect(), next: () }))
}

/// Adds a binding, or puts it into the place of the one of its name
#[utoipa::path(put, path = "/api/v1/bindings/{name}", request_body = v1::Binding,
    responses((status = 200, description = "what is published from now on is decoded by it", body = Binding), Problem))]
async fn put_binding(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Binding>, Problem> {
    let value: Value = body::json_of(&headers, body, BODY_BYTES_MAX, api.limits.body_time_max).await?;
    let binding = bindings::Binding::declare(&name, value, Origin::Api)?;
    Ok(Json(Binding::from(&*within(history(&api)?.put_binding(binding)).await?)))
}

/// Removes a binding; its rows stay
#[utoipa::path(delete, path = "/api/v1/bindings/{name}", responses((status = 204, description = "done"), Problem))]
async fn delete_binding(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    within(history(&api)?.remove_binding(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A message that is not published, and how it is decoded.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TestOfBinding {
    /// A binding that is not stored. Null: those that are decide.
    #[schema(value_type = Option<v1::Binding>)]
    binding: Option<Value>,
    topic: String,
    /// Who publishes it; if it is null, what the topic names.
    device: Option<String>,
    /// Its payload, if that is UTF-8.
    payload: Option<String>,
    /// Its payload, if that is not UTF-8: RFC 4648, section 4.
    payload_base64: Option<String>,
    content_type: Option<String>,
    #[serde(default)]
    #[schema(schema_with = pairs, required = false)]
    user_properties: Vec<(String, String)>,
}

/// What would become of a message.
#[derive(Serialize, ToSchema)]
struct Tested {
    /// The binding that takes it.
    binding: String,
    device: String,
    /// Null: it is none of the binding.
    #[schema(required)]
    table: Option<String>,
    /// At most 100.
    rows: Vec<TestedRow>,
    /// Null: there is none.
    #[schema(required)]
    failure: Option<Failure>,
}

/// A row that a message would become.
#[derive(Serialize, ToSchema)]
struct TestedRow {
    table: String,
    device: String,
    /// Null: the time at which it comes.
    #[schema(required)]
    time: Option<Time>,
    /// What repeats are known by, if the binding looks for them.
    #[schema(required)]
    id: Option<String>,
    fields: Vec<TestedField>,
    /// What has no column, as `_rest` would have it. Null: there is nothing.
    #[schema(required, value_type = Option<Value>)]
    rest: Option<Box<RawValue>>,
}

/// A value of a row.
#[derive(Serialize, ToSchema)]
struct TestedField {
    name: String,
    role: FieldRole,
    /// The column of the table that takes it, which may have another name. Null: it goes to `_rest`.
    #[schema(required)]
    column: Option<String>,
    /// `Boolean`, `Int64`, `Float64`, `Utf8`, `Binary`, `List`; that of the column, if there is one. `Rest` is what no column can hold.
    #[serde(rename = "type")]
    data_type: &'static str,
    value: Value,
}

impl TestedField {
    fn text(name: &str, value: &str) -> Self {
        let column = Some(name.to_owned());
        Self { name: name.to_owned(), role: FieldRole::Value, column, data_type: "Utf8", value: value.into() }
    }
}

/// What a field is: a value, a part of the key of its row, or said of it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum FieldRole {
    Value,
    Key,
    Attribute,
}

/// Why a payload, or a part of it, was refused.
#[derive(Serialize, ToSchema)]
struct Failure {
    /// Which part of the work.
    stage: &'static str,
    /// For people.
    reason: String,
    /// Where in the payload, counted from 0.
    #[schema(required)]
    byte_position: Option<usize>,
    /// Which line of the payload, counted from 1.
    #[schema(required)]
    line: Option<u32>,
}

/// What would become of a message; nothing is stored
#[utoipa::path(post, path = "/api/v1/bindings/test", request_body = TestOfBinding,
    responses((status = 200, description = "rows, or why there are none", body = Tested), Problem))]
async fn test_binding(State(api): State<Arc<Api>>, headers: HeaderMap, body: Body) -> Result<Json<Tested>, Problem> {
    static DEFAULT: LazyLock<DefaultRoute> = LazyLock::new(DefaultRoute::default);
    let test: TestOfBinding = body::json_of(&headers, body, BODY_BYTES_MAX, api.limits.body_time_max).await?;
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
        bindings::Binding::declare(&name, value, Origin::Api)
    });
    let declared = declared.transpose()?;
    let bindings = history(&api)?.bindings();
    let bound = match &declared {
        Some(binding) => match binding.target(topic, key) {
            Some(target) => Some((binding, target)),
            None => {
                let reason = format!("topic {topic:?} is none of this binding: its filter or its levels do not fit");
                let failure = Some(Failure { stage: "route", reason, byte_position: None, line: None });
                let (binding, device) = (binding.name().to_owned(), device.to_owned());
                return Ok(Json(Tested { binding, device, table: None, rows: Vec::new(), failure }));
            }
        },
        None => bindings.target(&message),
    };
    let name = bound.map_or(BUILTIN, |(binding, _)| binding.name());
    let is_declared = bound.is_some_and(|(binding, _)| binding.is_declared());
    let tested = |device: &str, table: &str, rows, failure| {
        let (binding, device, table) = (name.to_owned(), device.to_owned(), Some(table.to_owned()));
        Ok(Json(Tested { binding, device, table, rows, failure }))
    };
    let raw = |failure: Option<Failure>| {
        let refused = failure.as_ref().filter(|failure| failure.stage != TABLE);
        let raw = Raw::of(&message, refused.map(|failure| failure.reason.as_str()));
        let fields = vec![TestedField::text("topic", topic), TestedField::text(raw.column, &raw.payload)];
        let (table, owner) = (MESSAGES.to_owned(), device.to_owned());
        let rest = raw.rest.and_then(|rest| RawValue::from_string(rest.into_owned()).ok());
        tested(device, MESSAGES, vec![TestedRow { table, device: owner, time: None, id: None, fields, rest }], failure)
    };
    let Some(target) = bound.map(|(_, target)| target).or_else(|| DEFAULT.target(&message)) else {
        return raw(None);
    };
    let mut buffer = Rows::new();
    let input = Input { payload: &payload, content_type, device: target.device, table: target.table };
    let Outcome::Rows(decoded) = target.decoder.decode(&input, &mut buffer) else { return raw(None) };
    let failure = decoded.failures().first().map(|failure| Failure {
        stage: failure.stage.as_str(),
        reason: failure.reason.clone(),
        byte_position: Some(failure.byte_position),
        line: failure.line,
    });
    if failure.is_some() && !is_declared && decoded.rows().len() == 0 {
        return raw(failure);
    }
    let (handle, now) = (history(&api)?, api.messages.clock().now());
    let may_have = |table: &str| {
        declared.as_ref().is_some_and(|binding| binding.table() == Some(table)) || handle.may_have_table(table)
    };
    if let Some(row) = decoded.rows().find(|row| !may_have(row.table())) {
        let reason =
            format!("table {:?} may not be made: its name is the server's, or there are too many", row.table());
        return raw(Some(Failure { stage: TABLE, reason, byte_position: None, line: None }));
    }
    let is_too_old = |row: &Row<'_>| {
        let age = row.time().map(|time| now.since(time));
        age.zip(handle.retention(row.table())).is_some_and(|(age, keep)| age > keep)
    };
    let too_old = || {
        let reason = format!("a row is older than its table keeps rows: {}", letters::OLDER_THAN_RETENTION);
        Failure { stage: "retention", reason, byte_position: None, line: None }
    };
    let failure = failure.or_else(|| decoded.rows().any(|row| is_too_old(&row)).then(too_old));
    let rows = || decoded.rows().filter(|row| !is_too_old(row)).take(ROWS_MAX);
    let schemas = schemas(handle, rows);
    let dedup = bound.and_then(|(binding, _)| binding.dedup());
    let mut assignment = Assignment::new();
    let row = |row: Row<'_>| {
        let schema = &schemas[row.table()];
        schema.assign(&row, NOWHERE, &mut assignment);
        TestedRow {
            table: row.table().to_owned(),
            device: row.device().to_owned(),
            time: row.time().map(Time),
            id: dedup.and_then(|dedup| id_of(dedup, &test.user_properties, &row)),
            fields: assignment.fields(&row).map(|(field, placed)| TestedField::new(&field, placed, schema)).collect(),
            rest: assignment.rest().and_then(|rest| RawValue::from_string(rest.to_owned()).ok()),
        }
    };
    tested(target.device, target.table, rows().map(row).collect(), failure)
}

/// The stage of what has no table of its own.
const TABLE: &str = "table";
/// Where a message is that is in no log.
const NOWHERE: Position = Position::new(0, 0);

/// The schemas of all tables of these rows, with the columns that they would add.
fn schemas<'r, I: Iterator<Item = Row<'r>>>(history: &Handle, rows: impl Fn() -> I) -> BTreeMap<String, TableSchema> {
    let (mut schemas, mut assignment) = (BTreeMap::<String, TableSchema>::new(), Assignment::new());
    // A change may call for another one: an integer column becomes one of floats.
    loop {
        let mut is_changed = false;
        for row in rows() {
            let schema = || (*history.schema(row.table())).clone();
            let schema = schemas.entry(row.table().to_owned()).or_insert_with(schema);
            schema.assign(&row, NOWHERE, &mut assignment);
            for change in assignment.changes() {
                is_changed |= schema.apply(change);
            }
        }
        if !is_changed {
            return schemas;
        }
    }
}

/// What a repeat of a row is known by.
fn id_of(dedup: &Dedup, properties: &[(String, String)], row: &Row<'_>) -> Option<String> {
    if let Id::Property(wanted) = &dedup.id {
        return properties.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    }
    let mut text = String::new();
    dedup.of_row(row, &mut text).then_some(text)
}

impl TestedField {
    /// `placed` is its column in the schema, and the value there.
    fn new(field: &Field<'_>, placed: Option<(usize, floodplain_decode::Value<'_>)>, schema: &TableSchema) -> Self {
        let role = match field.role {
            Role::Value => FieldRole::Value,
            Role::Key => FieldRole::Key,
            Role::Attribute => FieldRole::Attribute,
        };
        let column = placed.map(|(at, _)| &schema.columns()[at]);
        let value = placed.map_or(field.value, |(_, value)| value);
        let data_type = match column.map(|column| column.column_type).or_else(|| value.column_type()) {
            Some(ColumnType::Bool) => "Boolean",
            Some(ColumnType::Int64) => "Int64",
            Some(ColumnType::Float64) => "Float64",
            Some(ColumnType::Text) => "Utf8",
            Some(ColumnType::Bytes) => "Binary",
            Some(ColumnType::List(_)) => "List",
            None => "Rest",
        };
        let mut text = String::new();
        value.write_json(&mut text);
        let value = serde_json::from_str(&text).unwrap_or(Value::Null);
        let column = column.map(|column| column.name.clone());
        Self { name: field.name.to_owned(), role, column, data_type, value }
    }
}

/// Which messages are decoded again: all, or those that fit what is named.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReplayRange {
    /// Only those of this binding.
    binding: Option<String>,
    /// Only those of this stream.
    stream: Option<String>,
    /// Only those received at this time or later.
    #[schema(format = DateTime)]
    from: Option<String>,
    /// Only those received before this time.
    #[schema(format = DateTime)]
    to: Option<String>,
}

/// A replay that has begun.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReplayBegun {
    /// As in the list of replays.
    pub(crate) job: String,
}

/// Decodes messages again, by the bindings of now
#[utoipa::path(post, path = "/api/v1/replay",
    responses((status = 202, description = "it has begun", body = ReplayBegun), Problem))]
async fn replay(
    State(api): State<Arc<Api>>,
    Json(ReplayRange { binding, stream, from, to }): Json<ReplayRange>,
) -> Result<(StatusCode, Json<ReplayBegun>), Problem> {
    let replay = Replay::Range { binding, stream, from: time(from.as_deref())?, to: time(to.as_deref())? };
    let job = within(history(&api)?.replay(replay)).await?;
    Ok((StatusCode::ACCEPTED, Json(ReplayBegun { job })))
}

fn time(text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let time = DateTime::parse_from_rfc3339(text).ok().and_then(|time| time.timestamp_nanos_opt());
    let bad = || Problem::of("bad_request", format!("{text:?} is no time such as 2026-11-26T11:05:07Z"));
    time.map(|time| Some(Timestamp(time))).ok_or_else(bad)
}

/// Replays, newest first.
#[derive(Serialize, ToSchema)]
struct Jobs {
    jobs: Vec<Job>,
    #[schema(schema_with = no_next)]
    next: (),
}

/// A replay: messages are decoded again.
#[derive(Serialize, ToSchema)]
struct Job {
    job: String,
    kind: JobKind,
    /// The binding that was named.
    #[schema(required)]
    binding: Option<String>,
    #[schema(schema_with = state)]
    state: &'static str,
    /// Messages, or letters, that were looked at.
    records: u64,
    /// About how many there were when it began.
    total: u64,
    /// Rows that were written, also such as were there before.
    rows: u64,
    /// Messages that were refused again, or that the log does not have any more.
    failed: u64,
    started: Time,
    /// Null: it runs.
    #[schema(required)]
    ended: Option<Time>,
}

/// What is decoded again: messages by stream, binding and time (`range`), or those of dead letters (`dlq`).
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum JobKind {
    Range,
    Dlq,
}

fn state() -> Object {
    one_of("Whether it has ended.", [JobState::Running, JobState::Done].map(JobState::as_str))
}

impl From<&jobs::Job> for Job {
    fn from(job: &jobs::Job) -> Self {
        let (kind, binding) = match &job.replay {
            Replay::Range { binding, .. } => (JobKind::Range, binding.clone()),
            Replay::Letters { .. } => (JobKind::Dlq, None),
        };
        let jobs::Progress { records, total, rows, failed } = job.progress;
        let (started, ended) = (Time(job.started), job.ended.map(Time));
        Self {
            job: job.name.clone(),
            kind,
            binding,
            state: job.state.as_str(),
            records,
            total,
            rows,
            failed,
            started,
            ended,
        }
    }
}

/// Which replays there are, newest first
#[utoipa::path(get, path = "/api/v1/replay", responses((status = 200, description = "the last 50", body = Jobs), Problem))]
async fn list_replays(State(api): State<Arc<Api>>) -> Result<Json<Jobs>, Problem> {
    let jobs = history(&api)?.jobs();
    Ok(Json(Jobs { jobs: jobs.list().iter().rev().map(Job::from).collect(), next: () }))
}
