//! `POST /api/v1/sql`: one query, its rows as they come.

use crate::{body::read, openapi::Raw, problem::Problem, router::Api};
use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use floodplain_sql::{Encoder, Format};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa::ToSchema;

/// JSON escapes at most six times the text.
const ESCAPES: usize = 6;

/// A query.
#[derive(Deserialize, ToSchema)]
#[schema(as = Query)]
#[serde(deny_unknown_fields)]
struct Request {
    /// SQL that reads.
    query: String,
    /// Without it, the Accept header decides.
    format: Option<Wanted>,
}

/// How rows are written.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[schema(as = QueryFormat)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    Json,
    Csv,
    Arrow,
}

impl From<Wanted> for Format {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Json => Self::Json,
            Wanted::Csv => Self::Csv,
            Wanted::Arrow => Self::Arrow,
        }
    }
}

/// Rows, and what they cost.
#[derive(ToSchema)]
#[expect(dead_code, reason = "rows are written as they come, by floodplain-sql")]
struct QueryAnswer {
    columns: Vec<QueryColumn>,
    /// Each an object with a member for each column.
    rows: Vec<Map<String, Value>>,
    row_count: u64,
    /// For people.
    warnings: Vec<String>,
    stats: QueryStats,
    /// What ended the query behind its first rows.
    #[schema(nullable = false)]
    error: Option<Problem>,
}

/// A column of an answer.
#[derive(ToSchema)]
#[expect(dead_code, reason = "as above")]
struct QueryColumn {
    name: String,
    /// A type of Arrow, such as `Float64`.
    r#type: String,
}

/// What a query has cost.
#[derive(ToSchema)]
#[expect(dead_code, reason = "as above")]
struct QueryStats {
    /// Bytes of the log and of files.
    bytes_read: u64,
    elapsed_ms: u64,
}

/// Runs one query
// Dropped with the connection, and with it the query.
#[utoipa::path(post, path = "/api/v1/sql",
    request_body(content((String = "text/plain"), (Request = "application/json"))),
    responses(
        (status = 200, description = "rows as they come; an error behind the first rows is the member `error` at the end", content(
            (QueryAnswer = "application/json"), (String = "text/csv"), (inline(Raw) = "application/vnd.apache.arrow.stream"))),
        Problem))]
pub(crate) async fn sql(State(api): State<Arc<Api>>, headers: HeaderMap, body: Body) -> Response {
    match run(&api, &headers, body).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn run(api: &Api, headers: &HeaderMap, body: Body) -> Result<Response, Problem> {
    let max_bytes = api.sql.config().text_max_bytes;
    let body = read(body, max_bytes * ESCAPES + 1024, api.limits.body_time_max).await?;
    let (query, wanted) = parse(headers, &body)?;
    let format = match wanted {
        Some(format) => format,
        None => accepted(headers)?,
    };
    let result = api.sql.query(&query).await.map_err(|error| Problem::from(&error))?;
    let mut encoder = result.encode(format);
    // Most mistakes show before the first rows: then the status can still tell.
    let first = match encoder.next().await {
        Some(Ok(first)) => first,
        Some(Err(error)) => return Err(Problem::from(&error)),
        None => Bytes::new(),
    };
    let body = if encoder.is_done() { Body::from(first) } else { Body::from_stream(chunks(first, encoder)) };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    Ok(response)
}

/// The query, and the format if the body names one.
fn parse(headers: &HeaderMap, body: &[u8]) -> Result<(String, Option<Format>), Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, "bad_request", "the request is malformed", detail);
    match media_type.as_str() {
        "application/json" => {
            let request: Request = serde_json::from_slice(body).map_err(|error| {
                bad(format!("body is not {{\"query\": \"…\", \"format\": \"json\", \"csv\" or \"arrow\"}}: {error}"))
            })?;
            Ok((request.query, request.format.map(Format::from)))
        }
        // The last one is what `curl -d` says of whatever it sends.
        "" | "text/plain" | "application/sql" | "application/x-www-form-urlencoded" => {
            let query = std::str::from_utf8(body).map_err(|error| bad(format!("query is not UTF-8: {error}")))?;
            Ok((query.to_owned(), None))
        }
        other => {
            let detail = format!("body is {other}: send application/json or text/plain");
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "unknown body", detail))
        }
    }
}

/// The first format of `Accept` that we write; JSON if it does not matter.
fn accepted(headers: &HeaderMap) -> Result<Format, Problem> {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>();
    let accept = accept.join(",").to_ascii_lowercase();
    let mut types = accept.split(',').map(|item| item.split(';').next().unwrap_or_default().trim());
    let format = types.find_map(|media_type| match media_type {
        "" | "*/*" | "application/*" | "application/json" => Some(Format::Json),
        "text/*" | "text/csv" => Some(Format::Csv),
        "application/vnd.apache.arrow.stream" => Some(Format::Arrow),
        _ => None,
    });
    format.ok_or_else(|| {
        let detail = format!(
            "{accept} is not written here: accept application/json, text/csv or application/vnd.apache.arrow.stream"
        );
        Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", "unknown format", detail)
    })
}

/// `first`, then what `encoder` has still to say. An error in the middle becomes the end of the JSON; CSV and Arrow break off.
fn chunks(first: Bytes, encoder: Encoder) -> impl futures::Stream<Item = Result<Bytes, floodplain_sql::Error>> {
    futures::stream::unfold((Some(first), Some(encoder)), async |(first, encoder)| {
        if let Some(first) = first {
            return Some((Ok(first), (None, encoder)));
        }
        let mut encoder = encoder?;
        match encoder.next().await? {
            Ok(chunk) => Some((Ok(chunk), (None, Some(encoder)))),
            Err(error) => {
                let end = encoder.fail(&Problem::from(&error).to_json());
                if end.is_none() {
                    // What was handed on before is sent while this waits; with the error it would be dropped.
                    tokio::task::yield_now().await;
                }
                Some((end.ok_or(error), (None, None)))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_chooses() {
        for (accept, expected) in [
            ("", Some(Format::Json)),
            ("*/*", Some(Format::Json)),
            ("text/csv", Some(Format::Csv)),
            ("text/html, text/CSV;q=0.9, application/json;q=0.1", Some(Format::Csv)),
            ("application/json", Some(Format::Json)),
            ("application/vnd.apache.arrow.stream", Some(Format::Arrow)),
            ("image/png", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(accepted(&headers).ok(), expected, "{accept}");
        }
        assert_eq!(accepted(&HeaderMap::new()).ok(), Some(Format::Json));
    }
}
