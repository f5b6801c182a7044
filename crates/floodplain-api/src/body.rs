//! Bodies of requests, read with a bound in length and time, and JSON, also as an answer.

use crate::{problem::Problem, router::Api};
use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{sync::Arc, time::Duration};

/// Names, a password, a role: nothing that is sent as such JSON is long.
const JSON_BYTES_MAX: usize = 16 << 10;

pub(crate) async fn read(body: Body, max_bytes: usize, time_max: Duration) -> Result<Bytes, Problem> {
    let read = tokio::time::timeout(time_max, axum::body::to_bytes(body, max_bytes)).await;
    let slow =
        |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_body", "the request took too long", "body is incomplete");
    read.map_err(slow)?.map_err(|error| {
        // axum wraps the error of the limit; what else can fail is the connection, which reads no answer.
        let detail = format!("body may have {max_bytes} bytes: {error}");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the request is too large", detail)
    })
}

/// A JSON document: a small one of a request, or an answer.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        json_of(&parts.headers, body, JSON_BYTES_MAX, api.limits.body_time_max).await.map(Self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// A JSON document of at most so many bytes. Other media types are refused: a foreign page could send them without asking first.
pub(crate) async fn json_of<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
    max_bytes: usize,
    time_max: Duration,
) -> Result<T, Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(Problem::of("unsupported_media_type", "send the body as application/json"));
    }
    let body = read(body, max_bytes, time_max).await?;
    // The message names fields and places, and quotes no value of a field that is known.
    serde_json::from_slice(&body)
        .map_err(|error| Problem::of("bad_request", format!("the body is not as it should be: {error}")))
}
