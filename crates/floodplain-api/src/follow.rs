//! `GET /api/v1/topics/{filter}?follow` and `GET /api/v1/subscribe`: messages as they are committed.

use crate::{
    messages::Messages,
    problem::Problem,
    request::Query,
    retained::{self, Retained, RetainedSource},
    router::{Api, Sockets, Stop},
    tail::{Event, Follower},
    topics::{Topic, fits},
};
use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{
        State,
        ws::{
            CloseCode, CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code,
            rejection::WebSocketUpgradeRejection,
        },
    },
    http::{HeaderValue, header},
    response::Response,
};
use floodplain_access::{Caller, Registry};
use floodplain_sql::Unanswered;
use floodplain_types::validate_filter;
use serde::Deserialize;
use std::{
    collections::{HashSet, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

/// How often a stream says something, so that a dead client is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Bytes of one message from a WebSocket client: a list of filters.
const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Retained messages of which a follower knows that it has had them, should they come once more; beyond that they do.
const SENT_MAX: usize = 4096;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct FollowQuery {
    /// That it is there counts, not its value: `?follow`.
    #[param(required = true)]
    follow: Option<String>,
}

/// Whether whoever follows something may still do so: users and tokens can be removed meanwhile.
pub(crate) struct Right {
    registry: Registry,
    caller: Caller,
    checks: Interval,
}

impl Right {
    pub(crate) fn new(api: &Api, caller: Caller) -> Self {
        let every = api.limits.caller_check_every;
        let mut checks = tokio::time::interval_at(Instant::now() + every, every);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { registry: api.registry.clone(), caller, checks }
    }

    /// Waits until it is to be checked again.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn due(&mut self) {
        self.checks.tick().await;
    }

    /// A registry that does not answer takes nobody's right away.
    pub(crate) async fn holds(&self) -> bool {
        let known = self.registry.knows(&self.caller).await;
        known.inspect_err(|error| tracing::warn!(%error, "it is not known who may follow")).unwrap_or(true)
    }
}

/// Retained messages that a follower gets before what is committed from now on.
struct Before {
    messages: Messages,
    source: Option<Arc<dyn RetainedSource>>,
    /// Filters whose retained messages are due, and behind which topic.
    due: VecDeque<(String, Option<String>)>,
    ready: VecDeque<Retained>,
    /// Places of those that may come once more as they were committed.
    sent: HashSet<String>,
}

impl Before {
    fn new(api: &Api, filters: impl IntoIterator<Item = String>) -> Self {
        let due = filters.into_iter().map(|filter| (filter, None)).collect();
        let (messages, source) = (api.messages.clone(), api.retained.clone());
        Self { messages, source, due, ready: VecDeque::new(), sent: HashSet::new() }
    }

    fn is_due(&self) -> bool {
        !self.due.is_empty() || !self.ready.is_empty()
    }

    /// The next one as JSON; `None` if there are no more.
    async fn next(&mut self, follower: &Follower) -> Result<Option<String>, Unanswered> {
        loop {
            while let Some(retained) = self.ready.pop_front() {
                let Some((partition, position, json)) = retained::to_json(&self.messages, &retained) else { continue };
                if follower.is_new(partition, position) && self.sent.len() < SENT_MAX {
                    self.sent.extend(place_of(&json).map(str::to_owned));
                }
                return Ok(Some(json));
            }
            let (Some(source), Some((filter, after))) = (&self.source, self.due.pop_front()) else { return Ok(None) };
            let page = source.page(&filter, after.as_deref()).await?;
            self.ready = page.messages.into();
            if let Some(next) = page.next {
                self.due.push_front((filter, Some(next)));
            }
        }
    }

    /// Whether this message, as JSON, was sent as a retained one.
    fn has_sent(&mut self, json: &str) -> bool {
        !self.sent.is_empty() && place_of(json).is_some_and(|place| self.sent.remove(place))
    }
}

/// The position of a `MESSAGE`, which is its first member.
fn place_of(json: &str) -> Option<&str> {
    Some(json.strip_prefix(r#"{"position":""#)?.split_once('"')?.0)
}

/// Follows a topic filter from now on, as server-sent events
///
/// `event: message` with one Message each, the retained ones first; `event: skipped` with `{"count": n}` where the reader was too
/// slow for so many.
#[utoipa::path(get, path = "/api/v1/topics/{*topic}", params(Topic, FollowQuery),
    responses((status = 200, description = "until one of the two ends it", body = String, content_type = "text/event-stream"),
        Problem))]
pub(crate) async fn follow_topics(
    State(api): State<Arc<Api>>,
    Extension(Stop(stop)): Extension<Stop>,
    Extension(caller): Extension<Caller>,
    Topic(filter): Topic,
    Query(query): Query<FollowQuery>,
) -> Result<Response, Problem> {
    if query.follow.is_none() {
        let detail = "messages of a topic are followed (?follow); what was before is a question for SQL";
        return Err(Problem::of("follow_missing", detail));
    }
    check(&api, &filter)?;
    let follower = follow(&api, vec![filter.clone()])?;
    let stream = Stream { follower, stop, right: Right::new(&api, caller), before: Before::new(&api, [filter]) };
    // The first bytes go out at once: who has them hears everything from then on.
    let first = futures::stream::iter([Ok(Bytes::from_static(b": follows\n\n"))]);
    let events = futures::stream::unfold(stream, Stream::next);
    Ok(event_stream(Body::from_stream(futures::StreamExt::chain(first, events))))
}

struct Stream {
    follower: Follower,
    stop: CancellationToken,
    right: Right,
    before: Before,
}

impl Stream {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.before.is_due() {
            match self.before.next(&self.follower).await {
                Ok(Some(json)) => return Some((Ok(encode(Event::Message(json.into()))), self)),
                Ok(None) => {}
                Err(error) => {
                    // Whoever comes again gets them; to go on without them would look as if there were none.
                    tracing::warn!(%error, "a follower gets no retained messages");
                    return None;
                }
            }
        }
        loop {
            let chunk = tokio::select! {
                () = self.stop.cancelled() => return None,
                () = self.right.due() => {
                    if !self.right.holds().await {
                        return None;
                    }
                    continue;
                }
                event = self.follower.next() => {
                    if let Event::Message(json) = &event
                        && self.before.has_sent(json)
                    {
                        continue;
                    }
                    encode(event)
                }
                () = tokio::time::sleep(HEARTBEAT) => Bytes::from_static(b": still here\n\n"),
            };
            return Some((Ok(chunk), self));
        }
    }
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

/// A WebSocket, whose client says which filters it follows, and changes them as it likes
///
/// `{"subscribe": [filters]}` and `{"unsubscribe": [filters]}` are answered by `{"subscribed": [filters]}` or
/// `{"error": Problem}`; then `{"message": Message}` and `{"skipped": {"count": n}}` come.
#[utoipa::path(get, path = "/api/v1/subscribe",
    responses((status = 101, description = "the connection is a WebSocket (RFC 6455)"), Problem))]
pub(crate) async fn subscribe(
    State(api): State<Arc<Api>>,
    Extension(Stop(stop)): Extension<Stop>,
    Extension(Sockets { tasks, cut }): Extension<Sockets>,
    Extension(caller): Extension<Caller>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|error| Problem::of("websocket_needed", error.body_text()))?;
    let follower = follow(&api, Vec::new())?;
    let upgrade = upgrade.max_message_size(REQUEST_BYTES_MAX).max_frame_size(REQUEST_BYTES_MAX);
    let right = Right::new(&api, caller);
    // Taken while the request is still one of those that a stop waits for.
    let token = tasks.token();
    Ok(upgrade.on_upgrade(async move |mut socket| {
        let followed = async {
            if let Some((code, reason)) = serve(&api, &follower, right, &mut socket, stop).await {
                close(&mut socket, code, reason, api.limits.close_time_max).await;
            }
        };
        tokio::select! {
            () = followed => {}
            () = cut.cancelled() => {}
        }
        drop(token);
    }))
}

/// Says why it ends, and lets the client end the connection (RFC 6455 §7.1.1): closed with something unread in it, it would
/// be reset, and the client might not learn why.
async fn close(socket: &mut WebSocket, code: CloseCode, reason: &'static str, time_max: Duration) {
    let closed = async {
        let frame = CloseFrame { code, reason: reason.into() };
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    if tokio::time::timeout(time_max, closed).await.is_err() {
        tracing::debug!("a websocket client did not answer that it is closed");
    }
}

/// Returns what the client is to be closed with, if it is still there.
async fn serve(
    api: &Api,
    follower: &Follower,
    mut right: Right,
    socket: &mut WebSocket,
    stop: CancellationToken,
) -> Option<(CloseCode, &'static str)> {
    let mut before = Before::new(api, []);
    loop {
        if before.is_due() && !stop.is_cancelled() {
            let text = match before.next(follower).await {
                Ok(Some(json)) => format!("{{\"message\":{json}}}"),
                Ok(None) => continue,
                Err(error) => format!("{{\"error\":{}}}", Problem::from(error).to_json()),
            };
            if socket.send(Message::Text(text.into())).await.is_err() {
                return None;
            }
            continue;
        }
        let answer = tokio::select! {
            () = stop.cancelled() => return Some((close_code::AWAY, "the server is stopping")),
            () = right.due() => {
                if right.holds().await {
                    continue;
                }
                return Some((close_code::POLICY, "the user or token was removed"));
            }
            event = follower.next() => match event {
                Event::Message(json) if before.has_sent(&json) => continue,
                Event::Message(json) => format!("{{\"message\":{json}}}"),
                Event::Skipped(count) => format!("{{\"skipped\":{{\"count\":{count}}}}}"),
            },
            asked = socket.recv() => match asked {
                Some(Ok(Message::Text(text))) => match change(api, follower, &mut before, &text) {
                    Ok(answer) => answer,
                    Err(problem) => format!("{{\"error\":{}}}", problem.to_json()),
                },
                Some(Ok(Message::Binary(_))) => {
                    format!("{{\"error\":{}}}", Problem::of("request_invalid", "requests are texts of JSON").to_json())
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            },
            () = tokio::time::sleep(HEARTBEAT) => {
                if socket.send(Message::Ping(Bytes::new())).await.is_err() {
                    return None;
                }
                continue;
            }
        };
        // The socket itself ends a client that takes nothing for too long.
        if socket.send(Message::Text(answer.into())).await.is_err() {
            return None;
        }
    }
}

/// All filters of a request, or none.
fn change(api: &Api, follower: &Follower, before: &mut Before, text: &str) -> Result<String, Problem> {
    let request = serde_json::from_str(text).map_err(|error| Problem::of("request_invalid", error.to_string()))?;
    match request {
        Request::Subscribe(filters) => {
            filters.iter().try_for_each(|filter| check(api, filter))?;
            let max = api.messages.limits().tail.filters_max;
            follower.filters(|followed| {
                let mut next = followed.clone();
                let new: Vec<_> = filters.iter().filter(|filter| !followed.contains(filter)).cloned().collect();
                next.extend(filters);
                next.sort_unstable();
                next.dedup();
                if next.len() > max {
                    return Err(Problem::of("filters_full", format!("{} filters, the limit is {max}", next.len())));
                }
                *followed = next;
                before.due.extend(new.into_iter().map(|filter| (filter, None)));
                Ok(serde_json::json!({ "subscribed": followed }).to_string())
            })
        }
        Request::Unsubscribe(filters) => Ok(follower.filters(|followed| {
            followed.retain(|filter| !filters.contains(filter));
            serde_json::json!({ "subscribed": followed }).to_string()
        })),
    }
}
