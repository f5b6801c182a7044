//! Retained messages, which the broker knows and HTTP asks for.

use crate::{
    message::{self, Place},
    messages::Messages,
};
use bytes::Bytes;
use floodplain_log::{MessageRef, Record};
use floodplain_sql::Unanswered;
use floodplain_types::{Position, Timestamp};
use std::fmt;

/// A retained message.
#[derive(Debug, Clone)]
pub struct Retained {
    /// Index of its partition among all data partitions.
    pub partition: u32,
    pub position: Position,
    /// For [`Record::parse`].
    pub record: Bytes,
    /// What the record's timestamp delta adds to, in milliseconds since 1970.
    pub base_timestamp_ms: i64,
}

/// A part of the retained messages of a filter, by topic.
#[derive(Debug, Default)]
pub struct RetainedPage {
    pub messages: Vec<Retained>,
    /// Ask for more behind this topic; none if these were the last.
    pub next: Option<String>,
}

/// Whoever knows what is retained.
#[async_trait::async_trait]
pub trait RetainedSource: fmt::Debug + Send + Sync {
    /// Some of the retained messages that match `filter`, all that was committed before this call among them.
    ///
    /// # Errors
    /// [`Unanswered`].
    async fn page(&self, filter: &str, after: Option<&str>) -> Result<RetainedPage, Unanswered>;
}

/// `MESSAGE`, and where it is.
pub(crate) fn to_json(messages: &Messages, retained: &Retained) -> Option<(u32, Position, String)> {
    let record = Record::parse(&retained.record).ok()?;
    let message = MessageRef::parse(&record).ok()?;
    let received = Timestamp::from_millis(retained.base_timestamp_ms.saturating_add(record.timestamp_delta_ms));
    let received = message.ingest_time_ns.map_or(received, Timestamp);
    let (partition, position) = (retained.partition, retained.position);
    let place = Place::of(messages.streams(), partition, position);
    Some((partition, position, message::to_json(place, received, &message)))
}
