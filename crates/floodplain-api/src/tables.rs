//! `tables`: what there is of each table, and how old its rows may become.

use crate::{
    bindings::{history, within},
    body::Json,
    openapi::one_of,
    problem::Problem,
    request::Path,
    router::Api,
    time::Time,
};
use axum::extract::State;
use floodplain_history::{
    TableSummary,
    bindings::BUILTIN,
    table_rules::{self, Source},
};
use floodplain_types::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{ToSchema, openapi::Object};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default().routes(routes!(list_tables)).routes(routes!(set_table))
}

/// All tables, by name.
#[derive(Serialize, ToSchema)]
struct Tables {
    tables: Vec<Table>,
}

/// A table, by what is known without reading its files.
#[derive(Serialize, ToSchema)]
struct Table {
    table: String,
    columns: Vec<TableColumn>,
    /// Rows before those with one key become one.
    rows: u64,
    files: u64,
    /// Bytes of the files.
    bytes: u64,
    /// The earliest event time; null while there are no rows.
    #[schema(required)]
    from: Option<Time>,
    /// The latest event time; null while there are no rows.
    #[schema(required)]
    to: Option<Time>,
    /// Values of files that newer ones of the same key have replaced.
    overwritten_values: u64,
    /// How old its rows may become, such as `30d`; null: there is no limit.
    #[schema(required)]
    retention: Option<String>,
    #[schema(schema_with = source, required)]
    retention_source: Option<&'static str>,
    /// The binding that has rows in it; of several the one whose rows may become the oldest.
    binding: String,
}

/// A column of a table.
#[derive(Serialize, ToSchema)]
struct TableColumn {
    name: String,
    /// A type of Arrow, such as `Float64`, `Int64`, `Utf8`, `Boolean` or `Timestamp`.
    #[serde(rename = "type")]
    data_type: &'static str,
    #[schema(schema_with = role)]
    role: &'static str,
}

fn role() -> Object {
    one_of("What its values are.", ["value", "key", "attribute", "system"])
}

fn source() -> Object {
    let sources = [Source::Table, Source::Config, Source::Binding].map(|source| Some(source.as_str()));
    one_of("Who says it; of the three the first that says something counts.", sources.into_iter().chain([None]))
}

/// Which tables there are
#[utoipa::path(get, path = "/api/v1/tables", responses((status = 200, description = "by name", body = Tables), Problem))]
async fn list_tables(State(api): State<Arc<Api>>) -> Result<Json<Tables>, Problem> {
    let Some(tables) = &api.tables else {
        return Err(Problem::elsewhere());
    };
    let handle = tables.handle.clone();
    let summaries = tokio::task::spawn_blocking(move || handle.summaries()).await;
    let summaries = summaries.map_err(|error| Problem::of("internal", error.to_string()))?;
    Ok(Json(Tables { tables: summaries.into_iter().map(Table::from).collect() }))
}

impl From<TableSummary> for Table {
    fn from(table: TableSummary) -> Self {
        let time = |us: i64| Time(Timestamp(us.saturating_mul(1000)));
        let columns = table.columns.into_iter();
        let retention = table.rule.retention;
        Self {
            table: table.table,
            columns: columns
                .map(|column| TableColumn { name: column.name, data_type: column.data_type, role: column.role })
                .collect(),
            rows: table.rows,
            files: table.files,
            bytes: table.bytes,
            from: table.times.map(|times| time(times.min_us)),
            to: table.times.map(|times| time(times.max_us)),
            overwritten_values: table.overwritten_values,
            retention: retention.map(|(keep, _)| table_rules::age(keep)),
            retention_source: retention.map(|(_, source)| source.as_str()),
            binding: table.rule.binding.unwrap_or_else(|| BUILTIN.to_owned()),
        }
    }
}

/// What is set for a table.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TableSettings {
    /// How old its rows may become, such as `30d` or `12h`; null leaves it to the configuration and to bindings.
    // Said, if only as null: an empty object changes nothing, and says nothing.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required)]
    retention: Option<String>,
}

/// Sets how old rows of a table may become
#[utoipa::path(patch, path = "/api/v1/tables/{table}",
    responses((status = 200, description = "it is stored", body = Table), Problem))]
async fn set_table(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Json(TableSettings { retention }): Json<TableSettings>,
) -> Result<Json<Table>, Problem> {
    let keep = retention.as_deref().map(table_rules::parse_age).transpose();
    let keep = keep.map_err(|error| Problem::of("bad_request", error))?;
    let history = history(&api)?;
    within(history.set_retention(&name, keep)).await?;
    let table = history.summary(&name);
    table
        .map(|table| Json(table.into()))
        .ok_or_else(|| Problem::of("table_unknown", format!("there is no table {name:?}")))
}
