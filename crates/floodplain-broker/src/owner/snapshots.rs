//! Snapshots of a worker's folds: copied a part at a time between other work, written elsewhere.

use crate::{Worker, jobs::Work};
use floodplain_fold::{Fold, Runner};
use floodplain_types::Timestamp;

/// State that is copied for snapshots in one turn: about a millisecond.
const SNAPSHOT_TURN_BYTES: usize = 512 << 10;

/// What is done about snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Snapshotting {
    /// Those that are due are begun, one after the other.
    Due,
    /// The one that is begun goes on.
    GoOn,
    /// All that is not in one yet is copied at once: the end has come.
    Last,
}

/// A round over all folds of a worker.
struct SnapshotRound {
    what: Snapshotting,
    every: u64,
    steady: Timestamp,
    left_bytes: usize,
    is_copying: bool,
    work: Vec<Work>,
}

impl SnapshotRound {
    fn look_at<F: Fold>(&mut self, runner: &mut Runner<F>) {
        match self.what {
            Snapshotting::Last if runner.is_copying() || runner.is_snapshot_due(1, self.steady) => {
                runner.begin_snapshot(self.steady);
            }
            Snapshotting::Due if self.left_bytes > 0 && !self.is_copying => {
                if runner.is_snapshot_due(self.every, self.steady) {
                    runner.begin_copy();
                }
            }
            Snapshotting::Last | Snapshotting::Due | Snapshotting::GoOn => {}
        }
        if runner.is_copying() && self.left_bytes > 0 {
            let len = runner.copy_on(self.left_bytes, self.steady);
            self.left_bytes = self.left_bytes.saturating_sub(len);
        }
        self.is_copying |= runner.is_copying();
        if let Some(snapshot) = runner.take_snapshot() {
            self.work.push(Work::Snapshot { snapshots: runner.snapshots().clone(), snapshot: Box::new(snapshot) });
        }
    }
}

impl Worker {
    /// The last snapshots before the end: retention may pass what is not in them before the next start. True the
    /// first time.
    pub(crate) fn last_snapshots(&mut self) -> bool {
        if std::mem::replace(&mut self.owner.has_last_snapshots, true) {
            return false;
        }
        self.snapshot_folds(Snapshotting::Last);
        self.owner.snapshots_running > 0
    }

    /// Copies states for snapshots, a part of one in a turn, and gives whole ones to be written.
    pub(super) fn snapshot_folds(&mut self, what: Snapshotting) {
        let mut round = SnapshotRound {
            what: if self.owner.is_copying && what == Snapshotting::Due { Snapshotting::GoOn } else { what },
            every: self.shared.config.snapshot_bytes,
            steady: self.steady,
            left_bytes: SNAPSHOT_TURN_BYTES,
            is_copying: false,
            work: Vec::new(),
        };
        for data in &mut self.owner.data {
            round.look_at(&mut data.retained);
            round.look_at(&mut data.waiting);
        }
        for requests in &mut self.owner.requests {
            round.look_at(&mut requests.sessions);
            round.look_at(&mut requests.presence);
        }
        let SnapshotRound { work, is_copying, .. } = round;
        self.owner.is_copying = is_copying;
        // There is more to do, and nothing else to wait for.
        self.owner.dirty |= is_copying;
        self.owner.snapshots_running += work.len();
        for work in work {
            self.run_job(work);
        }
    }
}
