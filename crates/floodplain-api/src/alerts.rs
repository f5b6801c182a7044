//! `alerts`: rules, who fires, and what a rule would say now.

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
use floodplain_sql::Format;
use floodplain_streams::{
    Alert, Alerts, Error,
    rule::{Condition, Rule, v1},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Devices that a test names.
const DEVICES_MAX: usize = 1_000;

pub(crate) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/v1/alerts", get(list))
        .route("/api/v1/alerts/test", post(test))
        .route("/api/v1/alerts/{name}", put(set).delete(remove))
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
    let Some(alerts) = api.alerts.clone() else { return Err(Problem::of("not_built", "this server has no alerts")) };
    match tokio::task::spawn_blocking(move || work(&alerts)).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Problem::of("alerts_failed", "the work on alerts broke off")),
    }
}

async fn list(State(api): State<Arc<Api>>) -> Result<Json<Value>, Problem> {
    let alerts = blocking(&api, |alerts| Ok(alerts.list())).await?;
    Ok(Json(json!({ "alerts": alerts.iter().map(to_json).collect::<Vec<_>>() })))
}

async fn set(
    State(api): State<Arc<Api>>,
    Segment(name): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let rule = rule(&api, &headers, body).await?;
    if *rule.name != *name {
        return Err(Problem::of(
            "alert_invalid",
            format!("name is {:?} in the body and {name:?} in the path", rule.name),
        ));
    }
    let alert = blocking(&api, |alerts| alerts.put(rule)).await?;
    Ok(Json(to_json(&alert)))
}

async fn remove(State(api): State<Arc<Api>>, Segment(name): Segment) -> Result<StatusCode, Problem> {
    blocking(&api, move |alerts| alerts.delete(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes nothing, and tells nobody.
async fn test(State(api): State<Arc<Api>>, headers: HeaderMap, body: Body) -> Result<Json<Value>, Problem> {
    let rule = rule(&api, &headers, body).await?;
    let would_fire = match &rule.condition {
        Condition::Silent { .. } => {
            let silent = blocking(&api, move |alerts| alerts.silent_now(&rule, DEVICES_MAX)).await?;
            let silent = silent.into_iter();
            silent.map(|one| json!({ "device": one.device, "value": null, "time": rfc3339(one.heard) })).collect()
        }
        Condition::Above { table, column, limit } => {
            beyond(&api, &rule, table, column, &format!("> {limit:?}")).await?
        }
        Condition::Below { table, column, limit } => {
            beyond(&api, &rule, table, column, &format!("< {limit:?}")).await?
        }
    };
    Ok(Json(json!({ "would_fire": would_fire })))
}

async fn rule(api: &Api, headers: &HeaderMap, body: Body) -> Result<Rule, Problem> {
    let alert: v1::Alert = body::json(headers, body, api.limits.body_time_max).await?;
    Ok(Rule::try_from(alert)?)
}

/// The newest values of the column that are beyond the limit.
async fn beyond(api: &Api, rule: &Rule, table: &str, column: &str, is_beyond: &str) -> Result<Vec<Value>, Problem> {
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
    let Value::Array(mut rows) = answer["rows"].take() else { return Ok(Vec::new()) };
    rows.retain(|row| row["device"].as_str().is_some_and(|device| rule.is_for(device)));
    rows.truncate(DEVICES_MAX);
    Ok(rows)
}

fn to_json(alert: &Alert) -> Value {
    let firing = alert.firing.iter();
    let firing = firing.map(|one| json!({ "device": &*one.device, "since": rfc3339(one.since), "value": one.value }));
    let last = alert.last_webhook.as_ref();
    let last = last.map(|last| json!({ "time": rfc3339(last.time), "status": last.status, "error": last.error }));
    let mut json = serde_json::to_value(v1::Alert::from(&alert.kept.rule)).unwrap_or_default();
    json["origin"] = json!(alert.kept.origin);
    json["firing"] = firing.collect();
    json["firing_count"] = json!(alert.firing_count);
    json["fired_total"] = json!(alert.fired);
    json["last_webhook"] = json!(last);
    json
}
