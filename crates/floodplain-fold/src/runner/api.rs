//! What a runner is given, what it asks for, and how it fails.

use crate::{Emitted, SnapshotError, Snapshots};
use floodplain_log::{Append, Partition, ReadError, Refusal, Stream};
use floodplain_types::{PartitionId, Position};

/// Where a runner reads, and where its outputs go.
#[derive(Debug)]
pub struct RunnerConfig {
    pub partition: Partition,
    /// The lasting name of `partition`.
    pub id: PartitionId,
    /// The streams that the fold's outputs name.
    pub outputs: Vec<(&'static str, Stream)>,
    /// Stream `_folds`, which takes the positions; needed by folds that emit.
    pub folds: Option<Stream>,
    pub snapshots: Snapshots,
}

/// What the caller is to do now.
#[derive(Debug)]
pub enum Next {
    /// Submit this unit and give its end to [`Runner::on_outcome`](crate::Runner::on_outcome). No other unit comes before that.
    Append(Append),
    /// Read this (cached or not) and give the answer to [`Runner::on_read`](crate::Runner::on_read).
    Read { partition: Partition, from: Position, max_bytes: usize },
    /// Call [`Runner::step`](crate::Runner::step): a record has more to do than one step may. Serve others before, if there are any.
    Step,
    /// Nothing, until a watermark moves or an append ends.
    Idle,
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Folded {
    /// Records that were folded, replayed ones included.
    pub records: u64,
    /// A range that is gone unread: retention has passed the fold. It has been logged and counted.
    pub lost: Option<(Position, Position)>,
}

/// How an append of the runner ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The outputs are in the log, once.
    Committed,
    /// Nothing was written; [`Runner::next`](crate::Runner::next) gives the unit again. Wait a little before asking.
    Retry(Refusal),
    /// Open; [`Runner::next`](crate::Runner::next) now gives what is needed to find out.
    Unknown,
}

/// Why a runner could not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A snapshot cannot be read, or is from a newer version.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The log has lost records that were committed. Nothing is repaired by guessing.
    #[error(
        "fold {fold} of {partition} has seen {seen}, but the log ends at {watermark}: restore the log, or remove the snapshots {place} to fold what is left"
    )]
    LogBehind { fold: &'static str, partition: PartitionId, seen: Position, watermark: Position, place: String },
    /// A snapshot of something else is there.
    #[error("snapshot in {place} is of {found}, not of {expected}: move it to where it belongs, or away")]
    Foreign { place: String, found: String, expected: String },
    /// The fold emits, but there is no stream for its positions.
    #[error("fold {0} emits and needs the stream of positions")]
    NoFoldsStream(&'static str),
}

/// Why a runner cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// Another process owns the partition now.
    #[error("ownership of {partition} was lost")]
    Fenced { partition: PartitionId },
    /// The log accepts nothing any more, or never this: poisoned, closing, or an output that is too large.
    #[error("outputs of fold {fold} of {partition} cannot be appended")]
    Append { fold: &'static str, partition: PartitionId, source: Refusal },
    /// The disk or the bytes failed; the same read may be tried again.
    #[error("fold {fold} of {partition} cannot read")]
    Read { fold: &'static str, partition: PartitionId, source: Box<ReadError> },
    /// Like [`OpenError::LogBehind`], found in `_folds`.
    #[error("fold {fold} of {partition} has emitted up to {emitted}, but the log ends at {watermark}: restore the log")]
    LogBehind { fold: &'static str, partition: PartitionId, emitted: Emitted, watermark: Position },
}
