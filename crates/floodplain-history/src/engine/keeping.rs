//! What the log may forget, and how soon: rows are in files, and states written down, well before.
//!
//! The log waits for nobody. So rows stay in memory for a part of the time that it keeps them, and for a part of the bytes
//! that it keeps behind them, whatever the limits of memory are.

use super::{Engine, Source};
use crate::{Result, tables::Buffer};
use floodplain_types::Timestamp;
use std::{fmt, sync::Arc, time::Duration};

/// Of what the log keeps, so much may pass before rows are in files, and again before states are written down. There are
/// two snapshots, the older one for the case that the newer one is damaged; the rest is for what takes longer than it should.
const PART: u32 = 4;
/// How often states are written down if nothing else says it.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(60);
/// And the first time after a start, when a state may be old: retention of the log leaves a minute for that.
const SNAPSHOT_FIRST: Duration = Duration::from_secs(10);
/// Rows of records from before the start are in files so soon: the log may be about to forget them, too.
const OLD_ROWS_AGE: Duration = Duration::from_secs(20);

/// How long the log keeps what it has.
#[derive(Clone)]
pub struct LogRetention {
    pub age: Duration,
    /// Its length.
    pub bytes: u64,
    /// How many bytes were appended since some moment.
    pub appended_bytes: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl fmt::Debug for LogRetention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogRetention").field("age", &self.age).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// A moment, by the clock and by the bytes that the log had.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Mark {
    at: Timestamp,
    appended_bytes: u64,
}

impl Engine {
    pub(super) fn mark(&self) -> Mark {
        let retention = self.config.log_retention.as_ref();
        Mark { at: self.now(), appended_bytes: retention.map_or(0, |retention| (retention.appended_bytes)()) }
    }

    /// Whether from one mark to the other so much time has passed, or as much of what the log keeps as may pass.
    fn has_passed(&self, from: Mark, to: Mark, age: Duration) -> bool {
        let retention = self.config.log_retention.as_ref();
        let (age_max, bytes_max) =
            retention.map_or((Duration::MAX, u64::MAX), |kept| (kept.age / PART, kept.bytes / u64::from(PART)));
        to.at.since(from.at) >= age.min(age_max) || to.appended_bytes.saturating_sub(from.appended_bytes) >= bytes_max
    }

    /// Whether the rows of a buffer should be in a file by now.
    pub(super) fn is_old(&self, buffer: &Buffer, now: Mark) -> bool {
        let is_of_before =
            |source: &Source| buffer.first.get(&source.name).is_some_and(|position| *position < source.seen_until);
        let age = self.config.flush_age;
        self.has_passed(buffer.since, now, age)
            || (self.has_passed(buffer.since, now, OLD_ROWS_AGE) && self.sources.iter().any(is_of_before))
    }

    /// Writes snapshots, if it is time for them: see [`Self::write_snapshots`]. Call it between the steps.
    ///
    /// # Errors
    /// Those of [`Self::write_snapshots`]; it is tried again after a while.
    pub fn write_due_snapshots(&mut self) -> Result<()> {
        let now = self.mark();
        let (since, every) = match self.snapshots {
            (opened, false) => (opened, SNAPSHOT_FIRST),
            (last, true) => (last, SNAPSHOT_EVERY),
        };
        if !self.has_passed(since, now, every) {
            return Ok(());
        }
        self.snapshots = (now, true);
        self.write_snapshots()
    }
}
