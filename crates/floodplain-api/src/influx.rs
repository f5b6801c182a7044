//! What clients of InfluxDB expect beside `/write`: its errors, and `/ping`.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// A line that was not written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct BadLine {
    /// Counted from 1: where it begins. Not known of lines that can be read and have no place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<u32>,
    pub(crate) message: String,
}

/// An error in the form of InfluxDB: `error` is what 1.x has, `code` and `message` what 2.x has.
#[derive(Debug, Serialize)]
pub(crate) struct InfluxError {
    #[serde(skip)]
    pub(crate) status: StatusCode,
    code: &'static str,
    message: String,
    error: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lines: Vec<BadLine>,
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
        Self { status, code, error: message.clone(), message, lines: Vec::new() }
    }

    /// With the lines that it is about.
    pub(crate) fn with_lines(mut self, lines: Vec<BadLine>) -> Self {
        self.lines = lines;
        self
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
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// 204, with the header by which clients know whom they speak to.
pub(crate) async fn ping() -> Response {
    let version = HeaderValue::from_static(concat!("floodplain-", env!("CARGO_PKG_VERSION")));
    (StatusCode::NO_CONTENT, [(HeaderName::from_static("x-influxdb-version"), version)]).into_response()
}
