//! RFC 9457: what went wrong, for programs and for people.

use crate::codes;
use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use floodplain_sql::Error;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::{
    IntoResponses, ToResponse, ToSchema,
    openapi::{self, Content, Ref, RefOr, ResponseBuilder},
};

/// What went wrong, as RFC 9457 has it. Codes are explained by `floodplain errors`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The kind of problem: `urn:floodplain:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(examples("urn:floodplain:problem:sql_syntax"))]
    kind: String,
    /// What the code means, for people.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What happened this time, for people.
    detail: String,
    /// For programs; never changes its meaning.
    #[schema(examples("sql_syntax"))]
    code: &'static str,
    /// Where in the query the mistake is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    position: Option<Place>,
    /// When to come again, in seconds; sent as `Retry-After`.
    #[serde(skip)]
    retry_after: Option<u16>,
}

/// A place in the text of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = QueryPlace)]
struct Place {
    /// Counted from 1.
    line: u64,
    /// Counted from 1.
    column: u64,
}

impl<'r> ToResponse<'r> for Problem {
    fn response() -> (&'r str, RefOr<openapi::Response>) {
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        let response = ResponseBuilder::new()
            .description("what went wrong; 503 comes with Retry-After")
            .content("application/problem+json", content);
        ("Problem", response.build().into())
    }
}

/// For whatever is not said otherwise.
impl IntoResponses for Problem {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        [("default".to_owned(), Ref::from_response_name("Problem").into())].into()
    }
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        let kind = format!("urn:floodplain:problem:{code}");
        Self { kind, title, status: status.as_u16(), detail: detail.into(), code, position: None, retry_after: None }
    }

    /// The problem that [`crate::CODES`] has under `code`.
    ///
    /// # Panics
    /// If it has none; a test compares the two.
    pub(crate) fn of(code: &'static str, detail: impl Into<String>) -> Self {
        let entry = codes::find(code).unwrap_or_else(|| panic!("{code} is not in the table of codes"));
        let status = StatusCode::from_u16(entry.status).expect("the table has valid statuses");
        Self::new(status, entry.code, entry.title, detail)
    }

    /// Tables and alerts are another server's.
    pub(crate) fn elsewhere() -> Self {
        Self::of("kept_elsewhere", "another server of this log keeps tables and alerts: history.enabled is off")
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// In seconds.
    pub(crate) const fn retry_after(&self) -> Option<u16> {
        self.retry_after
    }

    /// For protocols with errors of their own.
    pub(crate) fn to_text(&self) -> String {
        format!("{}: {}", self.title, self.detail)
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a problem holds only texts and numbers")
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        use StatusCode as S;
        let (status, code, title) = match error {
            Error::Syntax { .. } => (S::BAD_REQUEST, "sql_syntax", "the query is not SQL"),
            Error::Invalid { .. }
            | Error::UnknownTable { .. }
            | Error::UnknownColumn { .. }
            | Error::UnknownFunction { .. } => (S::BAD_REQUEST, "sql_invalid", "the query does not fit the tables"),
            Error::ReadOnly { .. } => (S::FORBIDDEN, "sql_read_only", "queries only read"),
            Error::TooLong { .. } => (S::PAYLOAD_TOO_LARGE, "sql_too_long", "the query is too long"),
            Error::TooComplex { .. } => (S::PAYLOAD_TOO_LARGE, "sql_too_complex", "the query is too complex"),
            Error::Execution { .. } => (S::UNPROCESSABLE_ENTITY, "sql_execution", "a value cannot be computed"),
            Error::Rows { .. } => (S::UNPROCESSABLE_ENTITY, "sql_row_limit", "the result is too large"),
            Error::Time { .. } => (S::GATEWAY_TIMEOUT, "sql_time_limit", "the query took too long"),
            Error::Memory { .. } => (S::INSUFFICIENT_STORAGE, "sql_memory_limit", "the query needs too much memory"),
            Error::Busy { .. } => (S::SERVICE_UNAVAILABLE, "sql_busy", "too many queries"),
            Error::Stopping => (S::SERVICE_UNAVAILABLE, "stopping", "the server is stopping"),
            Error::Lag { .. } => (S::SERVICE_UNAVAILABLE, "sql_lag", "the tables are behind the log"),
            Error::Log { .. } => (S::INTERNAL_SERVER_ERROR, "log_read", "the log cannot be read"),
            Error::Internal { .. } => (S::INTERNAL_SERVER_ERROR, "internal", "a fault of the server"),
        };
        let position = error.location().map(|at| Place { line: at.line, column: at.column });
        Self { position, ..Self::new(status, code, title, error.to_string()) }
    }
}

impl From<floodplain_access::Error> for Problem {
    fn from(error: floodplain_access::Error) -> Self {
        use floodplain_access::Error as E;
        let code = match &error {
            E::NameInvalid { .. } => "name_invalid",
            E::PasswordWeak { .. } => "password_weak",
            E::UserExists { .. } => "user_exists",
            E::UserUnknown { .. } => "user_unknown",
            E::LastAdmin { .. } => "last_admin",
            E::TokenUnknown { .. } => "token_unknown",
            E::ExpiryPast => "expiry_invalid",
            E::TooMany { .. } => "limit_reached",
            E::SetupDone => "setup_done",
            E::SetupTokenWrong => "setup_token_wrong",
            E::SetupNeeded => "setup_needed",
            E::LoginFailed => "login_failed",
            E::SlowDown { .. } => "login_slow_down",
            E::Busy => "login_busy",
            E::Database(cause) | E::Random(cause) => {
                tracing::error!(error = %cause, "the registry of users failed");
                "registry_failed"
            }
        };
        let retry_after = match &error {
            E::SlowDown { retry_after } => Some(u16::try_from(retry_after.as_secs()).unwrap_or(u16::MAX).max(1)),
            _ => None,
        };
        Self { retry_after, ..Self::of(code, error.to_string()) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_json()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §15.5.2 wants one. Not Basic, which works too: a browser would ask in a window of its own.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"floodplain\""));
        }
        let busy = self.status == StatusCode::SERVICE_UNAVAILABLE;
        if let Some(seconds) = self.retry_after.or(busy.then_some(1)) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
