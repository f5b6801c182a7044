//! The log as alerts use it, on threads that may block: append and wait, fold what is there.

use crate::{Error, Result};
use floodplain_fold::{Fold, Next, Objects, Runner, RunnerConfig, Snapshots};
use floodplain_log::{
    Append, Batch, Completion, CompletionSink, Log, Outcome, Partition, Refusal, Reply, WatermarkSink,
};
use floodplain_types::{Class, Position, Timestamp};
use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    time::Duration,
};

/// How often a wait looks whether what it waits for has come unnoticed.
const LOOK: Duration = Duration::from_millis(5);

/// Wakes the thread of alerts.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    state: Mutex<State>,
    moved: Condvar,
    /// Whether new messages are a reason.
    pub(crate) listens: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    is_awake: bool,
    is_stopping: bool,
}

impl Wake {
    pub(crate) fn wake(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_awake = true;
        self.moved.notify_all();
    }

    pub(crate) fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_stopping = true;
        self.moved.notify_all();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_stopping
    }

    /// Waits for `rest` in any case, and then until something happens, at most until `at_most` is over.
    pub(crate) fn wait(&self, rest: Duration, at_most: Duration) {
        let lock = |state| self.moved.wait_timeout_while(state, rest, |state: &mut State| !state.is_stopping);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = lock(state).unwrap_or_else(PoisonError::into_inner).0;
        let more = at_most.saturating_sub(rest);
        let waited = self.moved.wait_timeout_while(state, more, |state| !state.is_awake && !state.is_stopping);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_awake = false;
    }
}

impl WatermarkSink for Wake {
    fn advanced(&self, _watermarks: &[(Partition, Position)]) {
        if self.listens.load(Ordering::Relaxed) {
            self.wake();
        }
    }
}

/// Takes the end of one append.
#[derive(Debug)]
struct Once(SyncSender<Outcome>);

impl CompletionSink for Once {
    fn complete(&self, completions: Vec<Completion>) {
        for Completion { outcome, .. } in completions {
            // Nobody waits any more only if the waiting thread is gone.
            drop(self.0.try_send(outcome));
        }
    }
}

/// Appends with class `all` and waits for the end; the positions of the first records of the batches.
pub(crate) fn append(log: &dyn Log, batches: Vec<(Partition, Batch)>) -> Result<Vec<Position>> {
    let (sender, receiver) = sync_channel(1);
    log.submit(Append { batches, class: Class::All }, Some(Reply { sink: Arc::new(Once(sender)), tag: 0 }));
    match receiver.recv() {
        Ok(Outcome::Committed(positions)) => Ok(positions),
        Ok(Outcome::Refused(refusal)) => Err(refusal.into()),
        // A log that drops the sink says nothing more.
        Ok(Outcome::Unknown) | Err(_) => Err(Error::Open),
    }
}

/// Opens a fold with its newest snapshot.
pub(crate) fn open<F: Fold + Default>(
    log: &dyn Log,
    snapshots: &Arc<dyn Objects>,
    partition: Partition,
) -> Result<Runner<F>> {
    let id = log.partition_id(partition).ok_or(Refusal::UnknownPartition(partition))?;
    let snapshots = Snapshots::of(snapshots.clone(), &format!("alerts/{}", F::NAME), &id);
    let config = RunnerConfig { partition, id, outputs: Vec::new(), folds: None, snapshots };
    Runner::open(F::default(), config, log).map_err(|error| Error::Fold(error.into()))
}

/// Folds what one read brings, or a step of it; `false` if the fold is at the watermark.
pub(crate) fn fold_some<F: Fold>(log: &dyn Log, runner: &mut Runner<F>, now: Timestamp) -> Result<bool> {
    let folded = match runner.next(log, now) {
        Next::Read { partition, from, max_bytes } => match log.read(partition, from, max_bytes) {
            Ok(read) => runner.on_read(log, partition, from, Ok(&read)),
            Err(error) => runner.on_read(log, partition, from, Err(error)),
        },
        Next::Step => {
            runner.step();
            return Ok(true);
        }
        Next::Append(_) | Next::Idle => return Ok(false),
    };
    folded.map(|_| true).map_err(|error| Error::Fold(error.into()))
}

/// Folds until the record at `position`, which is committed, is folded.
pub(crate) fn fold_past<F: Fold>(
    log: &dyn Log,
    runner: &mut Runner<F>,
    position: Position,
    now: Timestamp,
) -> Result<()> {
    while runner.position() <= position {
        if !fold_some(log, runner, now)? {
            // Its watermark is still on its way.
            std::thread::sleep(LOOK);
        }
    }
    Ok(())
}

/// Takes a snapshot if there is something new; writing it is for when no lock is held.
pub(crate) fn snapshot<F: Fold>(runner: &mut Runner<F>) -> Option<(Snapshots, floodplain_fold::Snapshot)> {
    if runner.bytes_since_snapshot() == 0 {
        return None;
    }
    runner.begin_snapshot(Timestamp(0));
    Some((runner.snapshots().clone(), runner.take_snapshot()?))
}
