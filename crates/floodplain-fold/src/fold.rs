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

/// Items of work in one step: looking at a session, a timer, a client. Some milliseconds of the owner's thread.
pub const STEP_ITEMS: usize = 1024;
/// Bytes of outputs after which a step does no further item. One item may go beyond it.
pub const STEP_BYTES: usize = 256 << 10;

/// Where a fold puts its outputs. The order counts: it is part of what must replay alike.
///
/// Counts at the same time what the step has done, see [`Self::spend`].
#[derive(Debug)]
pub struct Outputs {
    pub(crate) items: Vec<Output>,
    /// Items of work that this step may still do.
    left: usize,
    /// Bytes of outputs that it may still make.
    left_bytes: usize,
}

impl Default for Outputs {
    fn default() -> Self {
        Self { items: Vec::new(), left: STEP_ITEMS, left_bytes: STEP_BYTES }
    }
}

impl Outputs {
    /// Adds a record.
    pub fn push(&mut self, output: Output) {
        self.left_bytes = self.left_bytes.saturating_sub(output.len_bytes());
        self.items.push(output);
    }

    /// Takes one item of work out of what the step may do. False: the step has done enough, the item is for the next.
    #[must_use]
    pub fn spend(&mut self) -> bool {
        if self.left == 0 || self.left_bytes == 0 {
            return false;
        }
        self.left -= 1;
        true
    }

    /// Begins a step with at most so many items of work.
    pub(crate) fn begin_step(&mut self, items: usize) {
        (self.left, self.left_bytes) = (items.max(1), STEP_BYTES);
    }

    /// Whether the step has done enough.
    pub(crate) const fn is_spent(&self) -> bool {
        self.left == 0 || self.left_bytes == 0
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
///
/// # What bounds a step
/// The owner folds on the thread that serves its connections, so no call may take long. [`Self::apply`],
/// [`Self::on_time`] and [`Self::go_on`] may do what concerns the one client, topic or device of the record; whatever
/// concerns many of them (all connections of a run that is over, all sessions with a filter, all timers that are due)
/// is done item by item, each after [`Outputs::spend`] has said yes: [`STEP_ITEMS`] items, or [`STEP_BYTES`] of outputs
/// and the item that goes beyond. What is left is for the next step: the fold keeps where it is, the owner serves others,
/// waits for outputs if many are on their way, and comes back before the next record.
///
/// Where a step ends must not show: the state after a record, and the outputs of a record in their order, are the same
/// in however many steps it was folded. Snapshots are taken between records, so what a fold keeps of work that it has
/// begun is no part of them, and a crash in the middle folds the record again from its beginning, its outputs numbered
/// as before.
pub trait Fold: fmt::Debug + Send {
    /// Short lower-case name: part of folder names, metric labels and dedup ids.
    const NAME: &'static str;
    /// Version of the snapshot's bytes.
    const FORMAT: u16;
    /// Whether the fold ever adds outputs. One that does not needs no positions in the log.
    const EMITS: bool;

    /// Folds one record, or its first part if [`Self::has_more`] says so then.
    fn apply(&mut self, input: &Input<'_>, out: &mut Outputs);

    /// Whether the record that was applied last has left work for [`Self::go_on`].
    fn has_more(&self) -> bool {
        false
    }

    /// Does a further part of the record that was applied last: at least one item. Called until [`Self::has_more`] is
    /// false, with nothing else in between.
    fn go_on(&mut self, out: &mut Outputs) {
        let _ = out;
    }

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
    /// ended for that record. `position` is the position of that record. Called again with the same arguments while
    /// [`Self::next_timer`] is at or before `now`: each call must do something about that, at least one item.
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

    /// Begins to copy the state as it is now, for [`Self::copy_part`]; a copy that is not done is dropped.
    fn begin_copy(&mut self) {}

    /// Appends a part of what [`Self::snapshot`] would have when the copy began, until `out` has `max_len` bytes (one
    /// entry may go beyond); true when that is all. In between records are folded.
    ///
    /// To copy 40 to 60 MiB at once takes 40 to 100 ms, half a MiB about one
    /// (`cargo bench -p floodplain-broker --bench folds -- snapshots`).
    /// A fold whose state is never large does it at once, as here; the first part is asked for before anything changes.
    fn copy_part(&mut self, out: &mut Vec<u8>, max_len: usize) -> bool {
        let _ = max_len;
        self.snapshot(out);
        true
    }

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

/// Folds one record whole, in however many steps that takes: what a [`crate::Runner`] does, without one.
///
/// `input.log_time` must be that of the record.
pub fn fold_whole<F: Fold>(fold: &mut F, input: &Input<'_>, out: &mut Outputs) {
    fold_in_steps(fold, input, out, STEP_ITEMS);
}

/// Like [`fold_whole`] in steps of so many items instead of [`STEP_ITEMS`]: nothing may come out differently.
pub fn fold_in_steps<F: Fold>(fold: &mut F, input: &Input<'_>, out: &mut Outputs, items: usize) {
    while fold.next_timer().is_some_and(|timer| timer <= input.log_time) {
        out.begin_step(items);
        fold.on_time(input.log_time, input.position, out);
    }
    out.begin_step(items);
    fold.apply(input, out);
    while fold.has_more() {
        out.begin_step(items);
        fold.go_on(out);
    }
}
