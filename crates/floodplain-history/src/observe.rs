//! Who wants to see each row as it is decoded.

use floodplain_decode::Row;
use floodplain_types::{Position, Timestamp};
use std::fmt;

/// A row, and where its message is.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    pub topic: &'a str,
    /// Index of the partition among those of all data streams: see [`floodplain_log::DataStreams`].
    pub partition: u32,
    pub position: Position,
    /// Number of the row among those of its record.
    pub number: u32,
    /// When the message was received.
    pub received: Timestamp,
    /// The time that the device gave, in the payload or beside it.
    pub time: Option<Timestamp>,
    pub row: &'a Row<'a>,
}

/// Sees every row of every table but that of messages, on the thread of history.
///
/// After a start rows come again, from [`crate::Handle::replay_from`] on: those that are in no file yet.
pub trait Observer: fmt::Debug + Send + Sync {
    /// Takes a row.
    fn row(&self, observed: &Observed<'_>);

    /// Makes durable what rows have caused, before any of them can be in a file. Often called with nothing to do.
    ///
    /// # Errors
    /// Why that is not possible now; history goes on when it is.
    fn settle(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}
