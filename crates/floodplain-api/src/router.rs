//! Which path leads where.

use crate::{
    access, alerts, bindings, console, devices, dlq, follow, influx, login,
    messages::Messages,
    openapi::{self, DOCUMENT},
    origin,
    overview::{self, Node, Samples},
    problem::Problem,
    retained::RetainedSource,
    sql, tables, tokens, topics, users, write,
};
use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use floodplain_access::Registry;
use floodplain_sql::{Fleet, Sql, Tables};
use floodplain_streams::Alerts;
use metrics::Counter;
use metrics_exporter_prometheus::PrometheusHandle;
use std::{fmt, sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use utoipa::OpenApi as _;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Whether the server can do its work; asked by `/readyz`.
pub trait Readiness: Send + Sync {
    /// # Errors
    /// The reason why not, for people: a poisoned log, or a server that stops.
    fn ready(&self) -> Result<(), String>;
}

impl<F: Fn() -> Result<(), String> + Send + Sync> Readiness for F {
    fn ready(&self) -> Result<(), String> {
        self()
    }
}

/// What one client may take from the others.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more wait in the system's queue until one ends.
    pub connections_max: usize,
    /// How long the head of a request may take, and how long a connection may be silent between two requests.
    pub head_time_max: Duration,
    /// How long the body of a request may take.
    pub body_time_max: Duration,
    /// How long a client may take nothing of its answer; then the connection ends, and its query.
    pub stall_time_max: Duration,
    /// How often it is looked whether somebody who follows something may still do so.
    pub caller_check_every: Duration,
    /// How long a WebSocket client may take to answer that it is closed.
    pub close_time_max: Duration,
    /// How long requests and WebSockets under way get once stopping has begun.
    pub stop_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let time = Duration::from_secs(30);
        Self {
            connections_max: 512,
            head_time_max: time,
            body_time_max: time,
            stall_time_max: time,
            caller_check_every: Duration::from_secs(5),
            close_time_max: Duration::from_secs(2),
            stop_time_max: Duration::from_secs(5),
        }
    }
}

/// What the HTTP interface is made of.
#[derive(Clone)]
pub struct Api {
    pub sql: Sql,
    pub messages: Messages,
    pub tables: Option<Tables>,
    /// Knows devices and their sessions.
    pub fleet: Option<Arc<dyn Fleet>>,
    /// Knows what is retained; without it followers begin with what is committed.
    pub retained: Option<Arc<dyn RetainedSource>>,
    pub alerts: Option<Alerts>,
    pub node: Node,
    /// Knows who may come in.
    pub registry: Registry,
    /// Renders what `/metrics` answers.
    pub metrics: PrometheusHandle,
    pub readiness: Arc<dyn Readiness>,
    pub limits: Limits,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("sql", &self.sql).finish_non_exhaustive()
    }
}

/// Ends answers that have no end of their own.
#[derive(Debug, Clone)]
pub(crate) struct Stop(pub(crate) CancellationToken);

/// Connections that speak HTTP no more: a stop waits for them, too.
#[derive(Debug, Clone)]
pub(crate) struct Sockets {
    pub(crate) tasks: TaskTracker,
    /// Ends them at the deadline.
    pub(crate) cut: CancellationToken,
}

/// All that the API is: each route comes with its description.
pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(openapi::Document::openapi())
        .merge(login::routes())
        .merge(users::routes())
        .merge(tokens::routes())
        .merge(alerts::routes())
        .routes(routes!(topics::list_topics))
        .routes(routes!(follow::follow_topics, topics::publish))
        .routes(routes!(follow::subscribe))
        .merge(devices::routes())
        .routes(routes!(overview::overview))
        .merge(tables::routes())
        .routes(routes!(sql::sql))
        .merge(bindings::routes())
        .merge(dlq::routes())
        .routes(routes!(openapi))
        .merge(write::routes())
        .routes(routes!(influx::influx_query))
        .routes(routes!(influx::ping))
        .routes(routes!(metrics))
        .routes(routes!(healthz))
        .routes(routes!(readyz))
}

pub(crate) fn router(api: Api, stop: CancellationToken, sockets: Sockets) -> Router {
    let counters = Arc::new(Counters::new());
    let followers_max = api.messages.limits().tail.followers_max;
    let api = Arc::new(api);
    Router::from(routes())
        // Files of the console are no interface.
        .route("/", get(console::index))
        .route("/setup", get(console::index))
        .route("/a/{name}", get(console::asset))
        .route("/icon.svg", get(console::icon))
        .route("/licenses.txt", get(console::licenses))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(Extension(Samples::new(followers_max)))
        .layer(Extension(Stop(stop)))
        .layer(Extension(sockets))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), access::check))
        .layer(middleware::from_fn(origin::check))
        .layer(middleware::from_fn(move |request, next| finish(Arc::clone(&counters), request, next)))
        .with_state(api)
}

/// Metrics for Prometheus
#[utoipa::path(get, path = "/metrics",
    responses((status = 200, description = "text format 0.0.4", body = String, content_type = "text/plain"), Problem))]
async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, content_type)], api.metrics.render()).into_response()
}

/// Whether the process answers
#[utoipa::path(get, path = "/healthz",
    responses((status = 200, description = "it does", body = String, content_type = "text/plain")))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether traffic is accepted
#[utoipa::path(get, path = "/readyz",
    responses((status = 200, description = "it is", body = String, content_type = "text/plain"),
        (status = 503, response = Problem)))]
async fn readyz(State(api): State<Arc<Api>>) -> Response {
    match api.readiness.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => {
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", "the server is not ready", reason);
            problem.into_response()
        }
    }
}

async fn unknown(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here", format!("unknown path {}", uri.path()))
}

/// This document
#[utoipa::path(get, path = "/api/v1/openapi.json", responses((status = 200, description = "OpenAPI 3.1", body = Object), Problem))]
async fn openapi() -> Response {
    let content_type = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, content_type)], DOCUMENT.as_str()).into_response()
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let detail = format!("{} does not take {method}", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the method does not fit", detail)
}

/// Answers by class of status.
struct Counters([Counter; 4]);

impl Counters {
    fn new() -> Self {
        Self(
            ["2xx", "3xx", "4xx", "5xx"]
                .map(|status| metrics::counter!("floodplain_http_requests_total", "status" => status)),
        )
    }
}

async fn finish(counters: Arc<Counters>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let class = usize::from(response.status().as_u16() / 100).clamp(2, 5) - 2;
    counters.0[class].increment(1);
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
