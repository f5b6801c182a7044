//! Times as they are sent.

use chrono::{DateTime, SecondsFormat};
use floodplain_types::Timestamp;
use serde::{Serialize, Serializer};
use std::fmt;
use utoipa::ToSchema;

/// A time in UTC, RFC 3339: as many digits of the second as there are, nine at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, format = DateTime, examples("2026-11-26T11:05:07.123456Z"))]
pub(crate) struct Time(pub(crate) Timestamp);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&DateTime::from_timestamp_nanos(self.0.0).to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
