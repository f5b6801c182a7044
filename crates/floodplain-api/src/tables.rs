//! `tables`: what there is of each table, and how old its rows may become.

use crate::{
    bindings::{history, within},
    body,
    paging::{Segment, rfc3339},
    problem::Problem,
    router::Api,
};
use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::HeaderMap,
    routing::{get, patch},
};
use floodplain_history::{TableSummary, bindings::BUILTIN, table_rules};
use floodplain_types::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) fn routes() -> Router<Arc<Api>> {
    Router::new().route("/api/v1/tables", get(list)).route("/api/v1/tables/{table}", patch(set))
}

async fn list(State(api): State<Arc<Api>>) -> Result<Json<Value>, Problem> {
    let Some(tables) = &api.tables else {
        return Err(Problem::of("not_built", "this server keeps no tables"));
    };
    let handle = tables.handle.clone();
    let summaries = tokio::task::spawn_blocking(move || handle.summaries()).await;
    let summaries = summaries.map_err(|error| Problem::of("internal", error.to_string()))?;
    let tables: Vec<Value> = summaries.into_iter().map(to_json).collect();
    Ok(Json(json!({ "tables": tables })))
}

fn to_json(table: TableSummary) -> Value {
    let time = |us: i64| rfc3339(Timestamp(us.saturating_mul(1000)));
    let columns = table.columns.into_iter();
    let columns = columns.map(|column| json!({ "name": column.name, "type": column.data_type, "role": column.role }));
    let retention = table.rule.retention;
    json!({
        "table": table.table,
        "columns": columns.collect::<Vec<_>>(),
        "rows": table.rows,
        "files": table.files,
        "bytes": table.bytes,
        "from": table.times.map(|times| time(times.min_us)),
        "to": table.times.map(|times| time(times.max_us)),
        "overwritten_values": table.overwritten_values,
        "retention": retention.map(|(keep, _)| table_rules::age(keep)),
        "retention_source": retention.map(|(_, source)| source.as_str()),
        "binding": table.rule.binding.as_deref().unwrap_or(BUILTIN),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Said, if only as null: an empty object changes nothing, and says nothing.
    #[serde(deserialize_with = "Option::deserialize")]
    retention: Option<String>,
}

async fn set(
    State(api): State<Arc<Api>>,
    Segment(name): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let Settings { retention } = body::json(&headers, body, api.limits.body_time_max).await?;
    let keep = retention.as_deref().map(table_rules::parse_age).transpose();
    let keep = keep.map_err(|error| Problem::of("bad_request", error))?;
    let history = history(&api)?;
    within(history.set_retention(&name, keep)).await?;
    let table = history.summary(&name);
    table
        .map(|table| Json(to_json(table)))
        .ok_or_else(|| Problem::of("table_unknown", format!("there is no table {name:?}")))
}
