//! What a fold is.

use crate::wire::WireError;
use floodplain_log::{ReadBatch, Record, RecordRef};
use floodplain_types::{Position, Timestamp};
use std::{fmt, ops::Range};

/// A committed record as a fold sees it.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Index of the partition within its stream.
    pub partition: u32,
    pub position: Position,
    /// The greatest timestamp of the partition up to and including this record: the only time a
    /// fold knows. It never goes back, even where the clocks of the writers did.
    pub log_time: Timestamp,
    pub record: &'a Record<'a>,
    /// The batch that holds the record, for its own timestamp and its reference.
    pub batch: &'a ReadBatch,
}

impl Input<'_> {
    /// The record's own ingest time, as the writer stamped it, to the millisecond.
    #[must_use]
    pub fn ingest_time(&self) -> Timestamp {
        Timestamp::from_millis(self.batch.batch.timestamp_ms(self.record))
    }

    /// Where to fetch this record later without its neighbours.
    #[must_use]
    pub fn reference(&self) -> RecordRef {
        self.batch.record_ref(self.record)
    }

    /// The value of the first header with this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.record.headers().map_while(Result::ok).find(|(n, _)| *n == name).and_then(|(_, value)| value)
    }

    /// The dedup id (`fp.x`), if the writer gave one.
    #[must_use]
    pub fn dedup_id(&self) -> Option<&[u8]> {
        self.header("fp.x")
    }
}

/// One record that a fold wants appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Name of the stream, among those the runner was opened with.
    pub stream: &'static str,
    /// Decides the partition.
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
    /// The runner adds `fp.x`, so an output must not have it.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Output {
    /// About how many bytes the record will have.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        // 80 is what lengths, deltas and the dedup id take.
        self.key.len() + self.value.as_ref().map_or(0, Vec::len) + headers + 80
    }
}

/// Where a fold puts its outputs. The order counts: it is part of what must replay alike.
#[derive(Debug, Default)]
pub struct Outputs {
    pub(crate) items: Vec<Output>,
}

impl Outputs {
    /// Adds a record.
    pub fn push(&mut self, output: Output) {
        self.items.push(output);
    }

    /// How many records were added in this step.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing was added in this step.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What was added; for tests of folds without a runner.
    pub fn drain(&mut self) -> impl Iterator<Item = Output> + '_ {
        self.items.drain(..)
    }
}

/// Why records are gone before a fold has seen them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Retention has passed the fold.
    Retention,
    /// The log is damaged.
    Damage,
}

/// Fingerprint of a fold's state: equal states have equal snapshot bytes, and so equal hashes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateHash(pub u128);

impl StateHash {
    /// XXH3 of 128 bits: fast, and no defence against someone who wants a collision.
    #[must_use]
    pub fn of(snapshot: &[u8]) -> Self {
        Self(twox_hash::XxHash3_128::oneshot(snapshot))
    }
}

impl fmt::Debug for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for StateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why the state of a snapshot could not be taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Written by a newer version of this program, or by one that is too old.
    #[error("snapshot has format {found} of this fold, this program reads up to {newest}")]
    Format { found: u16, newest: u16 },
    /// The bytes do not decode.
    #[error("snapshot does not decode: {0}")]
    Wire(#[from] WireError),
}

/// A deterministic state machine over the records of one partition.
///
/// The same records give the same state and the same outputs, in the same order, on every
/// machine and every day. So an implementation reads no clock, draws no random number, and
/// iterates over nothing whose order is not fixed (a `HashMap`) where that order could be seen in
/// the state, the snapshot or the outputs. Input that makes no sense is skipped, not an error:
/// it is in the log and will be there at each replay.
pub trait Fold: fmt::Debug + Send {
    /// Short lower-case name: part of folder names, metric labels and dedup ids.
    const NAME: &'static str;
    /// Version of the snapshot's bytes.
    const FORMAT: u16;
    /// Whether the fold ever adds outputs. One that does not needs no positions in the log.
    const EMITS: bool;

    /// Folds one record.
    fn apply(&mut self, input: &Input<'_>, out: &mut Outputs);

    /// When [`Self::on_time`] wants to be called, in log time.
    ///
    /// Log time moves by records alone. The owner compares this with the wall clock and appends a
    /// record that only says that time has passed (a tick) when nothing else does.
    fn next_timer(&self) -> Option<Timestamp> {
        None
    }

    /// Log time has reached `now`, which is at or after [`Self::next_timer`].
    ///
    /// Called before the record that moved the time is applied, so what ended at its time has
    /// ended for that record. `position` is the position of that record. Afterwards
    /// [`Self::next_timer`] must be later than `now` or `None`.
    fn on_time(&mut self, now: Timestamp, position: Position, out: &mut Outputs) {
        let _ = (now, position, out);
    }

    /// The records of this range are gone from the log, and the fold did not see them.
    ///
    /// For telling those who wait for them; the state must not depend on it, since a replay may find less.
    fn missed(&mut self, lost: &Range<Position>, loss: Loss) {
        let _ = (lost, loss);
    }

    /// Appends the whole state in its one canonical form: equal states, equal bytes.
    fn snapshot(&self, out: &mut Vec<u8>);

    /// Replaces the state by one that [`Self::snapshot`] wrote in this or an earlier format.
    ///
    /// # Errors
    /// [`RestoreError`]; the state is then undefined and must not be used.
    fn restore(&mut self, format: u16, bytes: &[u8]) -> Result<(), RestoreError>;

    /// Hash of the snapshot's bytes.
    fn state_hash(&self) -> StateHash {
        let mut bytes = Vec::new();
        self.snapshot(&mut bytes);
        StateHash::of(&bytes)
    }
}
