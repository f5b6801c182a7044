//! What clients of InfluxDB expect beside `/write`: its errors, `/ping`, and the `CREATE DATABASE` that they begin with.

use crate::{body, problem::Problem, router::Api};
use axum::{
    body::Body,
    extract::{Query, State},
    http::{HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};
use utoipa::{
    IntoParams, IntoResponses, ToResponse, ToSchema,
    openapi::{self, Content, Ref, RefOr, ResponseBuilder},
};

/// Bytes of the body of `/query`.
const QUERY_BYTES_MAX: usize = 64 << 10;

/// As InfluxDB 1.x has them in the address; an Authorization header comes first.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct User {
    /// The user, if no Authorization header names one.
    #[param(required = false)]
    u: String,
    /// The password.
    #[serde(default)]
    p: String,
}

/// What `u` and `p` of InfluxDB 1.x say, as clients say it in the header.
pub(crate) fn authorization(uri: &Uri) -> Option<HeaderValue> {
    let Query(User { u, p }) = Query::try_from_uri(uri).ok()?;
    format!("Basic {}", STANDARD.encode(format!("{u}:{p}"))).try_into().ok()
}

/// A line that was not written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct BadLine {
    /// Counted from 1: where it begins. Not known of lines that can be read and have no place.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) line: Option<u32>,
    /// Why, for people.
    pub(crate) message: String,
}

/// An error in the form of InfluxDB: `error` is what 1.x has, `code` and `message` what 2.x has.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InfluxError {
    #[serde(skip)]
    pub(crate) status: StatusCode,
    code: &'static str,
    message: String,
    error: String,
    /// The first 100 that were not written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lines: Vec<BadLine>,
    /// In seconds, where the client is to come again.
    #[serde(skip)]
    retry_after: u16,
}

/// Whether clients of InfluxDB ask here.
pub(crate) fn is_path(path: &str) -> bool {
    ["/write", "/api/v2/write", "/query"].contains(&path)
}

impl<'r> ToResponse<'r> for InfluxError {
    fn response() -> (&'r str, RefOr<openapi::Response>) {
        let content = Content::new(Some(Ref::from_schema_name("InfluxError")));
        let description = "what went wrong, in the form of InfluxDB; with status 400 the good lines are committed, and the bad \
                           ones kept; 503 comes with Retry-After";
        let response = ResponseBuilder::new().description(description).content("application/json", content);
        ("InfluxError", response.build().into())
    }
}

/// For whatever is not said otherwise; who may not write hears so before anybody looks at the path.
impl IntoResponses for InfluxError {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let names = [("401", "Problem"), ("403", "Problem"), ("default", "InfluxError")];
        names.map(|(status, name)| (status.to_owned(), Ref::from_response_name(name).into())).into()
    }
}

impl InfluxError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let code = match status {
            StatusCode::BAD_REQUEST => "invalid",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported media type",
            StatusCode::PAYLOAD_TOO_LARGE => "request too large",
            StatusCode::SERVICE_UNAVAILABLE => "unavailable",
            _ => "internal error",
        };
        let message = message.into();
        Self { status, code, error: message.clone(), message, lines: Vec::new(), retry_after: 1 }
    }

    /// What is to be sent again is 503: Telegraf throws away what any other status of 4xx answers, 429 and 408, too.
    pub(crate) fn of(problem: &Problem) -> Self {
        let status = match problem.status() {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => StatusCode::SERVICE_UNAVAILABLE,
            status => status,
        };
        Self { retry_after: problem.retry_after().unwrap_or(1), ..Self::new(status, problem.to_text()) }
    }

    /// With the lines that it is about.
    pub(crate) fn with_lines(mut self, lines: Vec<BadLine>) -> Self {
        self.lines = lines;
        self
    }
}

impl From<Problem> for InfluxError {
    fn from(problem: Problem) -> Self {
        Self::of(&problem)
    }
}

impl IntoResponse for InfluxError {
    fn into_response(self) -> Response {
        let body = serde_json::to_string(&self).expect("an error holds only texts and numbers");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after));
        }
        response
    }
}

/// Answers clients of InfluxDB, with the header by which they know whom they speak to
#[utoipa::path(get, path = "/ping", responses((status = 204, description = "the server is there")))]
pub(crate) async fn ping() -> Response {
    let version = HeaderValue::from_static(concat!("floodplain-", env!("CARGO_PKG_VERSION")));
    (StatusCode::NO_CONTENT, [(HeaderName::from_static("x-influxdb-version"), version)]).into_response()
}

#[derive(Debug, Deserialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
pub(crate) struct InfluxQuery {
    /// The statement; in the address or in the body.
    #[serde(default)]
    q: String,
}

/// CREATE DATABASE, with which clients of InfluxDB 1.x begin; changes nothing
#[utoipa::path(post, path = "/query", params(InfluxQuery, User),
    request_body(content = InfluxQuery, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, description = "there is one database, whatever its name", body = Object), InfluxError))]
pub(crate) async fn influx_query(State(api): State<Arc<Api>>, uri: Uri, body: Body) -> Result<Response, InfluxError> {
    let form = body::read(body, QUERY_BYTES_MAX, api.limits.body_time_max).await?;
    // A form is written as the query of an address is, which is where the statement may be, too.
    let form = std::str::from_utf8(&form).ok().and_then(|form| format!("/?{form}").parse::<Uri>().ok());
    let statement = |uri: &Uri| Query::<InfluxQuery>::try_from_uri(uri).map(|Query(query)| query.q).unwrap_or_default();
    let statements = [statement(&uri), form.as_ref().map(statement).unwrap_or_default()];
    let is_create = |statement: &String| {
        let mut words = statement.split_ascii_whitespace();
        let mut is_next = |word: &str| words.next().is_some_and(|next| next.eq_ignore_ascii_case(word));
        is_next("CREATE") && is_next("DATABASE") && !statement.contains(';')
    };
    if !statements.iter().any(is_create) {
        let message =
            "of InfluxQL only CREATE DATABASE is understood: ask in SQL, at POST /api/v1/sql or on the PostgreSQL wire";
        return Err(InfluxError::new(StatusCode::BAD_REQUEST, message));
    }
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((json, r#"{"results":[{"statement_id":0}]}"#).into_response())
}
