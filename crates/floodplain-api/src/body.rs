//! Bodies of requests, bounded in bytes and time.

use crate::problem::Problem;
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode, header},
};
use std::time::Duration;

/// How much memory the body may take: what it says it has, or else `max_bytes`.
///
/// # Errors
/// 413 if it says that it has more.
pub(crate) fn announced(headers: &HeaderMap, max_bytes: usize) -> Result<usize, Problem> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match length {
        None => Ok(max_bytes),
        Some(length) => usize::try_from(length)
            .ok()
            .filter(|length| *length <= max_bytes)
            .ok_or_else(|| too_large(max_bytes, &format!("it has {length}"))),
    }
}

pub(crate) async fn read(body: Body, max_bytes: usize, time_max: Duration) -> Result<Bytes, Problem> {
    let read = tokio::time::timeout(time_max, axum::body::to_bytes(body, max_bytes)).await;
    let slow =
        |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_body", "the request took too long", "body is incomplete");
    // axum wraps the error of the limit; what else can fail is the connection, which reads no answer.
    read.map_err(slow)?.map_err(|error| too_large(max_bytes, &error.to_string()))
}

fn too_large(max_bytes: usize, reason: &str) -> Problem {
    let detail = format!("body may have {max_bytes} bytes: {reason}");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the request is too large", detail)
}
