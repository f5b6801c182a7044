//! `GET /api/v1/topics/{filter}?follow` and `GET /api/v1/subscribe`: messages as they are committed.

use crate::{
    problem::Problem,
    router::{Api, Stop},
    tail::{Event, Follower},
    topics::fits,
};
use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderValue, header},
    response::Response,
};
use floodplain_types::validate_filter;
use serde::Deserialize;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often a stream says something, so that a dead client is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Bytes of one message from a WebSocket client: a list of filters.
const REQUEST_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FollowQuery {
    follow: Option<String>,
}

/// Server-sent events: `message` with one `MESSAGE`, `skipped` with how many the reader was too slow for.
pub(crate) async fn events(
    State(api): State<Arc<Api>>,
    Extension(Stop(stop)): Extension<Stop>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<FollowQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Path(filter) = path.map_err(|error| Problem::of("topic_invalid", error.body_text()))?;
    let Query(query) = query.map_err(|error| Problem::of("query_invalid", error.body_text()))?;
    if query.follow.is_none() {
        let detail = "messages of a topic are followed (?follow); what was before is a question for SQL";
        return Err(Problem::of("follow_missing", detail));
    }
    check(&api, &filter)?;
    let follower = follow(&api, vec![filter])?;
    let next = move |(follower, stop): (Follower, CancellationToken)| async move {
        let chunk = tokio::select! {
            () = stop.cancelled() => return None,
            event = follower.next() => encode(event),
            () = tokio::time::sleep(HEARTBEAT) => Bytes::from_static(b": still here\n\n"),
        };
        Some((Ok::<_, Infallible>(chunk), (follower, stop)))
    };
    // The first bytes go out at once: who has them hears everything from then on.
    let first = futures::stream::iter([Ok(Bytes::from_static(b": follows\n\n"))]);
    let events = futures::stream::unfold((follower, stop), next);
    Ok(event_stream(Body::from_stream(futures::StreamExt::chain(first, events))))
}

/// An answer of server-sent events (WHATWG HTML §9.2).
pub(crate) fn event_stream(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

fn encode(event: Event) -> Bytes {
    match event {
        // JSON of one line.
        Event::Message(json) => format!("event: message\ndata: {json}\n\n"),
        Event::Skipped(count) => format!("event: skipped\ndata: {{\"count\":{count}}}\n\n"),
    }
    .into()
}

fn check(api: &Api, filter: &str) -> Result<(), Problem> {
    let limits = api.messages.limits();
    fits(filter, limits.topic_bytes_max, limits.topic_levels_max)?;
    if filter.starts_with("$share/") {
        return Err(Problem::of("topic_invalid", "followers share nothing: leave $share/{group}/ out"));
    }
    validate_filter(filter).map_err(|error| Problem::of("topic_invalid", error.to_string()))
}

fn follow(api: &Api, filters: Vec<String>) -> Result<Follower, Problem> {
    api.messages.tail().follow(filters).ok_or_else(|| {
        let detail = format!("{} followers are here already: try again", api.messages.limits().tail.followers_max);
        Problem::of("followers_full", detail)
    })
}

/// What a WebSocket client may say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Request {
    Subscribe(Vec<String>),
    Unsubscribe(Vec<String>),
}

/// A WebSocket (RFC 6455) whose client says which filters it follows, and changes them as it likes.
pub(crate) async fn subscribe(
    State(api): State<Arc<Api>>,
    Extension(Stop(stop)): Extension<Stop>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|error| Problem::of("websocket_needed", error.body_text()))?;
    let follower = follow(&api, Vec::new())?;
    let upgrade = upgrade.max_message_size(REQUEST_BYTES_MAX).max_frame_size(REQUEST_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| serve(api, follower, socket, stop)))
}

async fn serve(api: Arc<Api>, follower: Follower, mut socket: WebSocket, stop: CancellationToken) {
    loop {
        let answer = tokio::select! {
            () = stop.cancelled() => {
                let frame = CloseFrame { code: close_code::AWAY, reason: "the server is stopping".into() };
                drop(socket.send(Message::Close(Some(frame))).await);
                return;
            }
            event = follower.next() => match event {
                Event::Message(json) => format!("{{\"message\":{json}}}"),
                Event::Skipped(count) => format!("{{\"skipped\":{{\"count\":{count}}}}}"),
            },
            asked = socket.recv() => match asked {
                Some(Ok(Message::Text(text))) => match change(&api, &follower, &text) {
                    Ok(answer) => answer,
                    Err(problem) => format!("{{\"error\":{}}}", problem.to_json()),
                },
                Some(Ok(Message::Binary(_))) => {
                    format!("{{\"error\":{}}}", Problem::of("request_invalid", "requests are texts of JSON").to_json())
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
            () = tokio::time::sleep(HEARTBEAT) => {
                if socket.send(Message::Ping(Bytes::new())).await.is_err() {
                    return;
                }
                continue;
            }
        };
        // The socket itself ends a client that takes nothing for too long.
        if socket.send(Message::Text(answer.into())).await.is_err() {
            return;
        }
    }
}

/// All filters of a request, or none.
fn change(api: &Api, follower: &Follower, text: &str) -> Result<String, Problem> {
    let request = serde_json::from_str(text).map_err(|error| Problem::of("request_invalid", error.to_string()))?;
    match request {
        Request::Subscribe(filters) => {
            filters.iter().try_for_each(|filter| check(api, filter))?;
            let max = api.messages.limits().tail.filters_max;
            follower.filters(|followed| {
                let mut next = followed.clone();
                next.extend(filters);
                next.sort_unstable();
                next.dedup();
                if next.len() > max {
                    return Err(Problem::of("filters_full", format!("{} filters, the limit is {max}", next.len())));
                }
                *followed = next;
                Ok(serde_json::json!({ "subscribed": followed }).to_string())
            })
        }
        Request::Unsubscribe(filters) => Ok(follower.filters(|followed| {
            followed.retain(|filter| !filters.contains(filter));
            serde_json::json!({ "subscribed": followed }).to_string()
        })),
    }
}
