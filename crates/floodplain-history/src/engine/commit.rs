//! The engine and the log: folds that it reads, records that it appends.

use crate::{Error, Result};
use floodplain_fold::{Fold, Next, Runner, RunnerConfig, Snapshots};
use floodplain_log::{
    Append, BatchBuilder, Completion, CompletionSink, Compression, Disk, Log, Outcome, Partition, Refusal, Reply,
    WatermarkSink, header,
};
use floodplain_types::{Class, Position, Timestamp};
use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

/// How often a wait looks whether what it waits for has come unnoticed.
const LOOK: Duration = Duration::from_millis(100);

/// Wakes the engine when a watermark moves or an append ends.
#[derive(Debug, Default)]
pub struct Wake {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_awake: bool,
    /// The newest tag, and the end of its append.
    tag: u64,
    outcome: Option<Outcome>,
}

impl Wake {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.moved.notify_all();
        result
    }

    /// Ends the next [`Self::wait`].
    pub(crate) fn wake(&self) {
        self.with(|state| state.is_awake = true);
    }

    /// Waits until something has happened since the last call, at most so long.
    pub(crate) fn wait(&self, at_most: Duration) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.moved.wait_timeout_while(state, at_most, |state| !state.is_awake);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_awake = false;
    }
}

impl WatermarkSink for Wake {
    fn advanced(&self, _watermarks: &[(Partition, Position)]) {
        self.wake();
    }
}

impl CompletionSink for Wake {
    fn complete(&self, completions: Vec<Completion>) {
        self.with(|state| {
            for Completion { tag, outcome } in completions {
                if tag == state.tag {
                    state.outcome = Some(outcome);
                    state.is_awake = true;
                }
            }
        });
    }
}

/// A record that is to be appended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) partition: Partition,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    /// Its content type is JSON, and said to be.
    pub(super) is_json: bool,
}

/// Appends one record with class `all` and waits for its end; returns its position.
pub(super) fn append(
    log: &dyn Log,
    wake: &Arc<Wake>,
    partition: Partition,
    key: &[u8],
    value: &[u8],
    now: Timestamp,
) -> Result<Position> {
    append_unit(log, wake, &[Entry { partition, key, value, is_json: false }], now)
}

/// Appends records as one unit with class `all`, and waits until everybody sees them; returns the position of the first one.
pub(super) fn append_unit(log: &dyn Log, wake: &Arc<Wake>, entries: &[Entry<'_>], now: Timestamp) -> Result<Position> {
    let bytes = entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum::<usize>() as u64;
    let too_large = || Refusal::TooLarge { bytes, max_bytes: log.queue_capacity_bytes() };
    // Batches in the order of their first records.
    let mut builders: Vec<(Partition, BatchBuilder)> = Vec::new();
    for entry in entries {
        let known = builders.iter().position(|(partition, _)| *partition == entry.partition);
        let at = known.unwrap_or_else(|| {
            builders.push((entry.partition, BatchBuilder::new()));
            builders.len() - 1
        });
        let headers = entry.is_json.then_some((header::CONTENT_TYPE, b"application/json" as &[u8]));
        let pushed = builders[at].1.push(now.as_millis(), Some(entry.key), Some(entry.value), headers);
        pushed.map_err(|_| too_large())?;
    }
    let mut batches = Vec::with_capacity(builders.len());
    for (partition, mut builder) in builders {
        batches.push((partition, builder.finish(Compression::None).ok_or_else(too_large)?));
    }
    let tag = wake.with(|state| {
        (state.tag, state.outcome) = (state.tag + 1, None);
        state.tag
    });
    let partitions: Vec<Partition> = batches.iter().map(|(partition, _)| *partition).collect();
    let reply = Reply { sink: wake.clone(), tag };
    log.submit(Append { batches, class: Class::All }, Some(reply));
    let positions = loop {
        match wake.with(|state| state.outcome.take()) {
            Some(Outcome::Committed(positions)) => break positions,
            Some(Outcome::Refused(refusal)) => return Err(refusal.into()),
            Some(Outcome::Unknown) => return Err(Error::Unknown),
            None => wake.wait(LOOK),
        }
    };
    for (partition, position) in partitions.into_iter().zip(&positions) {
        // Its watermark may still be on its way.
        while log.watermark(partition) <= *position {
            wake.wait(LOOK);
        }
    }
    Ok(positions.first().copied().unwrap_or_default())
}

/// Opens a fold with its newest snapshot in `dir`.
pub(crate) fn open_fold<F: Fold + Default>(
    log: &dyn Log,
    disk: &Arc<dyn Disk>,
    dir: &Path,
    partition: Partition,
) -> Result<Runner<F>> {
    let id = log.partition_id(partition).ok_or(Refusal::UnknownPartition(partition))?;
    let snapshots = Snapshots::new(disk.clone(), dir, F::NAME, &id);
    let config = RunnerConfig { partition, id, outputs: Vec::new(), folds: None, snapshots };
    Runner::open(F::default(), config, log).map_err(|error| Error::Fold(error.into()))
}

/// Folds all that is committed.
pub(crate) fn fold<F: Fold>(log: &dyn Log, runner: &mut Runner<F>, now: Timestamp) -> Result<()> {
    loop {
        let folded = match runner.next(log, now) {
            Next::Read { partition, from, max_bytes } => match log.read(partition, from, max_bytes) {
                Ok(read) => runner.on_read(log, partition, from, Ok(&read)),
                Err(error) => runner.on_read(log, partition, from, Err(error)),
            },
            Next::Step => {
                runner.step();
                continue;
            }
            Next::Append(_) | Next::Idle => return Ok(()),
        };
        folded.map_err(|error| Error::Fold(error.into()))?;
    }
}

/// Folds until the record at `position`, which is committed, is folded.
pub(super) fn fold_past<F: Fold>(
    log: &dyn Log,
    wake: &Wake,
    runner: &mut Runner<F>,
    position: Position,
    now: Timestamp,
) -> Result<()> {
    loop {
        fold(log, runner, now)?;
        if runner.position() > position {
            return Ok(());
        }
        // Its watermark is still on its way.
        wake.wait(LOOK);
    }
}

pub(super) fn write_snapshot<F: Fold>(runner: &mut Runner<F>) -> Result<()> {
    if runner.bytes_since_snapshot() == 0 { Ok(()) } else { write_snapshot_anyway(runner) }
}

/// Also if nothing was folded since the last one.
pub(super) fn write_snapshot_anyway<F: Fold>(runner: &mut Runner<F>) -> Result<()> {
    runner.begin_snapshot(floodplain_types::Timestamp(0));
    let Some(snapshot) = runner.take_snapshot() else { return Ok(()) };
    runner.snapshots().write(&snapshot).map(drop).map_err(|error| Error::Fold(error.into()))
}
