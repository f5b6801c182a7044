//! What the broker derives from the log: sessions, presence, retained messages, and the index of
//! what waits for sessions that sleep.
//!
//! All are [`floodplain_fold::Fold`]s: they see records and log time, and nothing else. What the
//! workers have to know at once (a session has ended, a filter is wanted) is left for them as
//! [`Change`]s, which are no part of a fold's state.

mod describe;
mod events;
mod letter;
mod positions;
mod presence;
mod retained;
mod session;
mod waiting;

#[cfg(test)]
mod feed;
#[cfg(test)]
mod losses;

pub use describe::{Happening, protocol};
pub(crate) use events::Gone;
pub use events::{
    Close, CloseReason, Event, NEVER_EXPIRES, Open, Outbound, OutboundState, PartitionProgress, Progress, RunId,
    Subscription, Will,
};
pub(crate) use letter::letter_content_type;
pub use letter::{Letter, Letters, StreamNames};
pub use positions::Positions;
pub use presence::{Presence, PresenceFold};
pub use retained::{Candidate, RetainedFold, RetainedPage, RetainedRecord, Stamp, newest};
pub use session::{Change, EndReason, Ended, Session, SessionFold, Subscribed};
pub use waiting::{Interest, Lost, LostReason, Posting, WaitingIndex, WaitingPage};

/// What a fold remembers of dedup ids: 262,144 in all. Of a client, or a device, as many as may have come since a record that the
/// engine writes again. Where the log may have a message without its [`Event::Received`], all that a client has open may come
/// again: mostly no more than that (`mqtt.receive_maximum` is 256 by default).
fn dedup_window(keeps_units_whole: bool) -> floodplain_fold::DedupWindow {
    floodplain_fold::DedupWindow::new(if keeps_units_whole { 64 } else { 1024 }, 1 << 18)
}

/// The first stream of devices' messages.
pub use floodplain_log::TELEMETRY;
/// What outputs call the data streams, by number: their names are not known when a fold is compiled.
pub const DATA: [&str; floodplain_log::DataStreams::MAX] = [
    TELEMETRY, "data 1", "data 2", "data 3", "data 4", "data 5", "data 6", "data 7", "data 8", "data 9", "data 10",
    "data 11", "data 12", "data 13", "data 14", "data 15",
];
/// The stream of requests, which sessions are folded from.
pub const REQUESTS: &str = "requests";
/// The stream of what could not be delivered.
pub const DLQ: &str = "dlq";
/// The stream of the positions of folds.
pub const FOLDS: &str = "_folds";
