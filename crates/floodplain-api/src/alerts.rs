//! `alerts`: rules, who fires, and what a rule would say now.

use crate::{body::Json, problem::Problem, request::Path, router::Api, time::Time};
use axum::{extract::State, http::StatusCode};
use floodplain_sql::Format;
use floodplain_streams::{
    Alerts, Error, Silent,
    rule::{Condition, Rule, v1},
    rules::Origin,
};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Devices that a test names.
const DEVICES_MAX: usize = 1_000;

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(list_alerts))
        .routes(routes!(test_alert))
        .routes(routes!(set_alert, remove_alert))
}

/// All alerts, by name.
#[derive(Serialize, ToSchema)]
struct AlertList {
    alerts: Vec<Alert>,
}

/// An alert, and for whom it fires.
#[derive(Serialize, ToSchema)]
struct Alert {
    #[serde(flatten)]
    rule: v1::Alert,
    origin: Origin,
    /// At most 1000, by device.
    firing: Vec<Firing>,
    /// For how many devices it fires.
    firing_count: usize,
    /// How often it began to fire.
    fired_total: u64,
    /// The last try to tell its webhook, since the start of the server.
    #[schema(required)]
    last_webhook: Option<WebhookCall>,
}

/// A device for which an alert fires.
#[derive(Serialize, ToSchema)]
struct Firing {
    device: String,
    since: Time,
    /// By which it began to; null for `silent`.
    #[schema(required)]
    value: Option<f64>,
}

/// A try to tell a webhook.
#[derive(Serialize, ToSchema)]
struct WebhookCall {
    time: Time,
    /// The HTTP status of its answer; null: there was none.
    #[schema(required)]
    status: Option<u16>,
    /// Why it was not told; null: it was.
    #[schema(required)]
    error: Option<String>,
}

/// What a rule would say now.
#[derive(Serialize, ToSchema)]
struct TestedAlert {
    /// At most 1000, by device.
    would_fire: Vec<WouldFire>,
}

/// A device for which a rule would fire.
#[derive(Serialize, Deserialize, ToSchema)]
struct WouldFire {
    device: String,
    /// The newest value of the column; null for `silent`.
    #[schema(value_type = Option<f64>, required)]
    value: Option<Number>,
    /// When that was, or the last message.
    #[schema(value_type = Option<Time>, required)]
    time: Option<String>,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Invalid(_) => "alert_invalid",
            Error::Unknown { .. } => "alert_unknown",
            Error::FromConfig { .. } => "alert_from_config",
            Error::TooMany => "alerts_full",
            Error::Behind => "alerts_behind",
            Error::Open => "commit_unknown",
            Error::Refused(refusal) => return crate::messages::refused(refusal),
            Error::Fold(cause) => {
                tracing::error!(error = %cause, "alerts cannot be read");
                "alerts_failed"
            }
            Error::Thread(_) => "alerts_failed",
        };
        Self::of(code, error.to_string())
    }
}

/// Does what blocks while the log commits.
async fn blocking<T: Send + 'static>(
    api: &Api,
    work: impl FnOnce(&Alerts) -> Result<T, Error> + Send + 'static,
) -> Result<T, Problem> {
    let Some(alerts) = api.alerts.clone() else { return Err(Problem::elsewhere()) };
    match tokio::task::spawn_blocking(move || work(&alerts)).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Problem::of("alerts_failed", "the work on alerts broke off")),
    }
}

/// Alerts, and for whom they fire
#[utoipa::path(get, path = "/api/v1/alerts", responses((status = 200, description = "by name", body = AlertList), Problem))]
async fn list_alerts(State(api): State<Arc<Api>>) -> Result<Json<AlertList>, Problem> {
    let alerts = blocking(&api, |alerts| Ok(alerts.list())).await?;
    Ok(Json(AlertList { alerts: alerts.into_iter().map(Alert::from).collect() }))
}

/// Makes an alert, or changes the one with this name; stored when it is answered
#[utoipa::path(put, path = "/api/v1/alerts/{name}",
    responses((status = 200, description = "as it is now", body = Alert), Problem))]
async fn set_alert(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Json(rule): Json<v1::Alert>,
) -> Result<Json<Alert>, Problem> {
    let rule = Rule::try_from(rule)?;
    if *rule.name != *name {
        return Err(Problem::of(
            "alert_invalid",
            format!("name is {:?} in the body and {name:?} in the path", rule.name),
        ));
    }
    let alert = blocking(&api, |alerts| alerts.put(rule)).await?;
    Ok(Json(alert.into()))
}

/// Removes an alert; what it fires for ends
#[utoipa::path(delete, path = "/api/v1/alerts/{name}", responses((status = 204, description = "done"), Problem))]
async fn remove_alert(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    blocking(&api, move |alerts| alerts.delete(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// For whom a rule would fire by current values; changes nothing, and tells nobody
#[utoipa::path(post, path = "/api/v1/alerts/test",
    responses((status = 200, description = "at most 1000 devices, by name", body = TestedAlert), Problem))]
async fn test_alert(State(api): State<Arc<Api>>, Json(rule): Json<v1::Alert>) -> Result<Json<TestedAlert>, Problem> {
    let rule = Rule::try_from(rule)?;
    let would_fire = match &rule.condition {
        Condition::Silent { .. } => {
            let silent = blocking(&api, move |alerts| alerts.silent_now(&rule, DEVICES_MAX)).await?;
            let would_fire = |silent: Silent| {
                let time = Time(silent.heard).to_string();
                WouldFire { device: silent.device, value: None, time: Some(time) }
            };
            silent.into_iter().map(would_fire).collect()
        }
        Condition::Above { table, column, limit } => {
            beyond(&api, &rule, table, column, &format!("> {limit:?}")).await?
        }
        Condition::Below { table, column, limit } => {
            beyond(&api, &rule, table, column, &format!("< {limit:?}")).await?
        }
    };
    Ok(Json(TestedAlert { would_fire }))
}

/// The newest values of the column that are beyond the limit.
async fn beyond(api: &Api, rule: &Rule, table: &str, column: &str, is_beyond: &str) -> Result<Vec<WouldFire>, Problem> {
    let (table, column) = (table.replace('\'', "''"), column.replace('"', "\"\""));
    // Of infinities and NaN, which is greater than all others here, no rule says anything.
    let query = format!(
        "SELECT device, \"{column}\" AS value, time FROM latest('{table}') \
         WHERE \"{column}\" {is_beyond} AND abs(\"{column}\") < 'Infinity'::double ORDER BY device LIMIT 10000"
    );
    let failed = |error: floodplain_sql::Error| Problem::from(&error);
    let mut encoder = api.sql.query(&query).await.map_err(failed)?.encode(Format::Json);
    let mut json = Vec::new();
    while let Some(chunk) = encoder.next().await {
        json.extend_from_slice(&chunk.map_err(failed)?);
    }
    let internal = |error: serde_json::Error| Problem::of("alerts_failed", format!("the rows cannot be read: {error}"));
    let mut answer: Value = serde_json::from_slice(&json).map_err(internal)?;
    let Value::Array(rows) = answer["rows"].take() else { return Ok(Vec::new()) };
    let rows = rows.into_iter().filter_map(|row| serde_json::from_value::<WouldFire>(row).ok());
    Ok(rows.filter(|row| rule.is_for(&row.device)).take(DEVICES_MAX).collect())
}

impl From<floodplain_streams::Alert> for Alert {
    fn from(alert: floodplain_streams::Alert) -> Self {
        let firing = alert.firing.into_iter();
        let last = alert.last_webhook;
        Self {
            rule: (&alert.kept.rule).into(),
            origin: alert.kept.origin,
            firing: firing
                .map(|one| Firing { device: one.device.to_string(), since: Time(one.since), value: one.value })
                .collect(),
            firing_count: alert.firing_count,
            fired_total: alert.fired,
            last_webhook: last.map(|last| WebhookCall {
                time: Time(last.time),
                status: last.status,
                error: last.error,
            }),
        }
    }
}
