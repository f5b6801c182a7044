//! `POST /api/v1/topics/{topic}` and `GET /api/v1/topics`: publishing, and which topics there are.

use crate::{body, messages::Publish, problem::Problem, router::Api};
use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State, rejection::PathRejection, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use floodplain_log::MessageRef;
use floodplain_types::{Class, validate_topic};
use serde::Deserialize;
use std::sync::Arc;

/// Entries of a list where the request names no number, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublishQuery {
    qos: Option<u8>,
    #[serde(default)]
    retain: bool,
    class: Option<String>,
}

/// Publishes the body; answers once it is committed.
///
/// # Cancel safety
/// A client that goes away may still have published.
pub(crate) async fn publish(
    State(api): State<Arc<Api>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<PublishQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let Path(topic) = path.map_err(|error| Problem::of("topic_invalid", error.body_text()))?;
    let Query(query) = query.map_err(|error| Problem::of("query_invalid", error.body_text()))?;
    let limits = api.messages.limits();
    fits(&topic, limits.topic_bytes_max, limits.topic_levels_max)?;
    validate_topic(&topic).map_err(|error| Problem::of("topic_invalid", error.to_string()))?;
    let qos = match query.qos.unwrap_or(1) {
        qos @ (1 | 2) => qos,
        0 => {
            let detail = "what is answered after the commit has qos 1 or 2; qos 0 promises nothing";
            return Err(Problem::of("qos_invalid", detail));
        }
        qos => return Err(Problem::of("qos_invalid", format!("qos is 1 or 2, not {qos}"))),
    };
    // A client may ask for more than the topic has, not for less.
    let class = match query.class.as_deref() {
        None | Some("all") => Class::All,
        Some("leader") => Class::Leader.max(api.messages.least_class(&topic)),
        Some(other) => {
            return Err(Problem::of("class_invalid", format!("class is all or leader, not {other:?}")));
        }
    };
    let content_type = match headers.get(header::CONTENT_TYPE) {
        None => None,
        Some(value) => {
            let text = value.to_str().map_err(|error| Problem::of("content_type_invalid", error.to_string()))?;
            // What curl writes where nobody said anything.
            (text != "application/x-www-form-urlencoded").then_some(text)
        }
    };
    let max_bytes = limits.payload_bytes_max;
    let _room = api.messages.admit(&headers, max_bytes, 1)?;
    let payload = body::read(body, max_bytes, api.limits.body_time_max).await?;
    let now = api.messages.clock().now();
    let message = MessageRef {
        topic: &topic,
        payload: &payload,
        key: api.messages.device(&topic).as_bytes(),
        qos,
        retain: query.retain,
        content_type,
        publisher: Some(crate::messages::PUBLISHER),
        // Of two retained messages from two partitions the later counts, and a millisecond is long.
        ingest_time_ns: query.retain.then_some(now.0),
        ..MessageRef::default()
    };
    let position = api.messages.publish(&[Publish { message, user_properties: &[] }], class).await?;
    Ok(Json(serde_json::json!({ "position": position })).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    prefix: Option<String>,
    search: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

/// One level of the tree of topics, or a list of those that contain a text.
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::of("query_invalid", error.body_text()))?;
    let limit = query.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::of("limit_invalid", format!("limit is 1 to {LIMIT_MAX}, not {limit}")));
    }
    let ask = move || {
        api.messages.tail().index(|index| {
            let after = query.after.as_deref().filter(|after| !after.is_empty());
            match query.search.as_deref().filter(|search| !search.is_empty()) {
                Some(search) => index.search(search, after, limit),
                None => index.level(query.prefix.as_deref(), after, limit),
            }
        })
    };
    // Goes over all topics, and the reader of the log may hold them.
    let page = tokio::task::spawn_blocking(ask).await.map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "a fault of the server", error.to_string())
    })?;
    Ok(Json(page).into_response())
}

/// Whether a topic name or filter is within the limits.
pub(crate) fn fits(topic: &str, bytes_max: usize, levels_max: usize) -> Result<(), Problem> {
    if topic.len() > bytes_max {
        return Err(Problem::of("topic_invalid", format!("topic has {} bytes, the limit is {bytes_max}", topic.len())));
    }
    let levels = topic.split('/').count();
    if levels > levels_max {
        return Err(Problem::of("topic_invalid", format!("topic has {levels} levels, the limit is {levels_max}")));
    }
    Ok(())
}
