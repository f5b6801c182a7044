//! Bodies of requests: read with a bound in length and time.

use crate::problem::Problem;
use axum::{
    body::{Body, Bytes},
    http::StatusCode,
};
use std::time::Duration;

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
