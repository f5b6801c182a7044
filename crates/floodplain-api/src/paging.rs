//! What requests for lists have in common.

use crate::{problem::Problem, request::Query};
use axum::{extract::FromRequestParts, http::request::Parts};
use floodplain_access::Page;
use serde::Deserialize;
use utoipa::IntoParams;

/// Which part of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Paging {
    /// How many there are at most.
    #[serde(default = "limit_default")]
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: u32,
    /// `next` of the page before.
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
        let Query(paging) = Query::<Self>::from_request_parts(parts, state).await?;
        if !(1..=1000).contains(&paging.limit) {
            return Err(Problem::of("limit_invalid", format!("limit is 1 to 1000, not {}", paging.limit)));
        }
        Ok(paging)
    }
}
