//! `POST /api/v1/topics/{topic}` and `GET /api/v1/topics`: publishing, and which topics there are.

use crate::{
    body::{self, Json},
    index::Page,
    message::Place,
    messages::Publish,
    openapi::{Raw, choice},
    problem::Problem,
    request::Query,
    router::Api,
};
use axum::{
    body::Body,
    extract::{FromRequestParts, Path, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use floodplain_log::MessageRef;
use floodplain_types::{Class, validate_topic};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema, openapi::Object};

/// Entries of a list where the request names no number, and at most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// The rest of the path.
#[derive(Debug, IntoParams)]
#[into_params(names("topic"), parameter_in = Path)]
pub(crate) struct Topic(
    /// Levels joined by slashes; `+` and `#` of a filter percent-encoded.
    pub(crate) String,
);

impl<S: Send + Sync> FromRequestParts<S> for Topic {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(topic)| Self(topic)).map_err(|error| Problem::of("topic_invalid", error.body_text()))
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublishQuery {
    /// The QoS of the message.
    #[param(minimum = 1, maximum = 2, default = 1)]
    qos: Option<u8>,
    /// Whether it becomes the retained message of its topic.
    #[serde(default)]
    #[param(default = false)]
    retain: bool,
    /// What the answer promises: that the message survives a crash of the program (`leader`) or a power cut (`all`).
    #[param(schema_with = class, required = false)]
    class: Option<String>,
}

fn class() -> Object {
    choice(Class::All.as_str(), [Class::Leader, Class::All].map(Class::as_str))
}

/// A message that is committed.
#[derive(Serialize, ToSchema)]
pub(crate) struct Published {
    #[schema(value_type = Place<'_>)]
    position: String,
}

/// Publishes the body; answers once it is committed
///
/// A client that goes away may still have published.
#[utoipa::path(post, path = "/api/v1/topics/{*topic}", params(Topic, PublishQuery),
    request_body(content = inline(Raw), content_type = "*/*", description = "the payload, whose Content-Type is kept"),
    responses((status = 200, description = "the message is committed", body = Published), Problem))]
pub(crate) async fn publish(
    State(api): State<Arc<Api>>,
    Topic(topic): Topic,
    Query(query): Query<PublishQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Published>, Problem> {
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
    Ok(Json(Published { position }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// The level below this topic; the first level without it.
    prefix: Option<String>,
    /// A flat list of topics that contain this text, instead of a level.
    search: Option<String>,
    /// `next` of the page before.
    after: Option<String>,
    /// How many there are at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
}

/// Which topics there are: one level of the tree, or those that contain a text
#[utoipa::path(get, path = "/api/v1/topics", params(ListQuery),
    responses((status = 200, description = "by name", body = Page), Problem))]
pub(crate) async fn list_topics(
    State(api): State<Arc<Api>>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page>, Problem> {
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
    Ok(Json(page))
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
