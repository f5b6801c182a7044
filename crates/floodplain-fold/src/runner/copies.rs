//! When and how the state is copied for a snapshot.

use super::{Known, Runner, Stage};
use crate::{Fold, Snapshot, SnapshotMeta};
use floodplain_types::Timestamp;
use std::time::Duration;

/// When a fold that has replayed something first writes a snapshot, after the start of the process.
pub(super) const SNAPSHOT_FIRST: Duration = Duration::from_secs(10);

/// How often it does so for each [`SNAPSHOT_BYTES`] of state.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(60);

const SNAPSHOT_BYTES: usize = 16 << 20;

impl<F: Fold> Runner<F> {
    /// Bytes of records folded since the last [`Self::begin_snapshot`].
    #[must_use]
    pub const fn bytes_since_snapshot(&self) -> u64 {
        self.bytes_since_snapshot
    }

    /// Whether a snapshot should be begun: between two records, after `every_bytes` of records, or in time, since retention does not wait
    /// for a fold with few records. A large state, which takes long to copy, is copied less often.
    ///
    /// `steady` counts from the start of the process.
    #[must_use]
    pub fn is_snapshot_due(&self, every_bytes: u64, steady: Timestamp) -> bool {
        let bytes = self.bytes_since_snapshot;
        let may_begin = self.stage == Stage::Whole && self.copying.is_none();
        may_begin && (bytes >= every_bytes || (bytes > 0 && steady >= self.snapshot_due))
    }

    /// Copies the state for a snapshot, whole. [`Self::take_snapshot`] gives it out once all outputs up to
    /// this point are committed: a state that is ahead of its outputs would lose them in a crash.
    ///
    /// `steady` counts from the start of the process. In the middle of a record there is no state to copy, and nothing
    /// happens.
    pub fn begin_snapshot(&mut self, steady: Timestamp) {
        if self.stage != Stage::Whole {
            return;
        }
        let mut state = Vec::new();
        self.fold.snapshot(&mut state);
        let meta = self.meta();
        self.copying = None;
        self.hold(Snapshot { meta, state }, steady);
    }

    /// Begins to copy the state as it is now; [`Self::copy_on`] does so part by part, while records are folded.
    pub fn begin_copy(&mut self) {
        if self.stage == Stage::Whole {
            self.fold.begin_copy();
            let room = self.state_len + self.state_len / 8;
            self.copying = Some(Snapshot { meta: self.meta(), state: Vec::with_capacity(room) });
            self.bytes_since_snapshot = 0;
        }
    }

    /// Whether a copy is begun and not done: call [`Self::copy_on`], the first time before anything else is folded.
    #[must_use]
    pub const fn is_copying(&self) -> bool {
        self.copying.is_some()
    }

    /// Copies about `max_bytes` more; gives how many there were. When it is done the copy is a snapshot that was begun
    /// when the copy began.
    ///
    /// `steady` counts from the start of the process.
    pub fn copy_on(&mut self, max_bytes: usize, steady: Timestamp) -> usize {
        let Some(mut copying) = self.copying.take() else { return 0 };
        let before = copying.state.len();
        let is_done = self.fold.copy_part(&mut copying.state, before.saturating_add(max_bytes));
        let len = copying.state.len() - before;
        if is_done {
            let since = self.bytes_since_snapshot;
            self.hold(copying, steady);
            self.bytes_since_snapshot = since;
        } else {
            self.copying = Some(copying);
        }
        len
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            fold: F::NAME.to_owned(),
            format: F::FORMAT,
            partition: self.config.id.to_string(),
            position: self.position,
            log_time: self.log_time,
            emitted: self.emitted,
            folds_from: self.folds_from,
        }
    }

    fn hold(&mut self, snapshot: Snapshot, steady: Timestamp) {
        self.snapshot_due = steady + SNAPSHOT_EVERY * (1 + (snapshot.state.len() / SNAPSHOT_BYTES) as u32);
        self.state_len = snapshot.state.len();
        self.held = Some(snapshot);
        self.bytes_since_snapshot = 0;
    }

    /// The snapshot that was begun, when it may be written: give it to [`Snapshots::write`](crate::Snapshots::write) on a
    /// thread that may block.
    pub fn take_snapshot(&mut self) -> Option<Snapshot> {
        let begun = self.held.as_ref()?.meta.position;
        let outputs_are_out = self.pending.front().is_none_or(|pending| pending.cause.position >= begun);
        let is_known = matches!(self.known, Known::Yes | Known::Followed);
        if outputs_are_out && is_known { self.held.take() } else { None }
    }
}
