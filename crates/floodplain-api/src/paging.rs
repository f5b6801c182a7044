//! What requests for lists and for one thing of them have in common.

use crate::problem::Problem;
use axum::{
    extract::{FromRequestParts, Path, Query},
    http::request::Parts,
};
use chrono::{DateTime, SecondsFormat};
use floodplain_access::Page;
use floodplain_types::Timestamp;

/// `?limit=` (1 to 1000, 100 if it is not given) and `?after=`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Paging {
    #[serde(default = "limit_default")]
    limit: u32,
    #[serde(default)]
    after: String,
}

const fn limit_default() -> u32 {
    100
}

impl Paging {
    /// One more than is answered, to see whether there are more.
    pub(crate) fn page(&self) -> Page<'_> {
        Page { after: &self.after, limit: self.limit + 1 }
    }

    /// Takes off the one more; the key of the last that stays, if there are more.
    pub(crate) fn next<T>(&self, items: &mut Vec<T>, key: impl Fn(&T) -> String) -> Option<String> {
        let more = items.len() > self.limit as usize;
        items.truncate(self.limit as usize);
        items.last().filter(|_| more).map(key)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Paging {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(paging) = Query::<Self>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::of("query_invalid", rejection.body_text()))?;
        if !(1..=1000).contains(&paging.limit) {
            return Err(Problem::of("limit_invalid", format!("limit is 1 to 1000, not {}", paging.limit)));
        }
        Ok(paging)
    }
}

/// The one variable segment of the path.
#[derive(Debug)]
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(segment)| Self(segment)).map_err(|rejection| Problem::of("bad_request", rejection.body_text()))
    }
}

/// RFC 3339 in UTC, with as many digits of the second as there are.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    DateTime::from_timestamp_nanos(time.0).to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
