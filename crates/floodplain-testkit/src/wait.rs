//! Waiting for what other threads do, with an end.

use floodplain_log::{Completion, CompletionSink, Outcome};
use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

const STEP: Duration = Duration::from_millis(1);
/// Half a minute: far beyond what anything here takes on a busy machine.
const STEPS_MAX: u32 = 30_000;

/// Calls `pump` until `condition` holds.
///
/// # Panics
/// If it does not hold after about half a minute.
pub fn wait_until(what: &str, pump: &dyn Fn(), condition: impl Fn() -> bool) {
    wait_at_most(STEP * STEPS_MAX, what, pump, condition);
}

/// As [`wait_until`], where it may take another time.
///
/// # Panics
/// If it does not hold after about `patience`.
pub fn wait_at_most(patience: Duration, what: &str, pump: &dyn Fn(), condition: impl Fn() -> bool) {
    for _ in 0..patience.as_millis() / STEP.as_millis() {
        if condition() {
            return;
        }
        pump();
        if condition() {
            return;
        }
        std::thread::park_timeout(STEP);
    }
    panic!("waited in vain: {what}");
}

/// Collects the ends of appends by their tags.
#[derive(Debug, Default)]
pub struct Outcomes {
    ended: Mutex<HashMap<u64, Outcome>>,
    arrived: Condvar,
}

impl Outcomes {
    /// An empty collection, to be given to the log as a sink.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Takes the end of the append with this tag, if it has come.
    pub fn take(&self, tag: u64) -> Option<Outcome> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).remove(&tag)
    }

    /// How many ends have come and were not taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes all ends that have come.
    #[must_use]
    pub fn take_all(&self) -> Vec<(u64, Outcome)> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).drain().collect()
    }

    /// Waits for the end of the append with this tag, calling `pump` meanwhile.
    ///
    /// # Panics
    /// If it has not come after about half a minute.
    pub fn wait(&self, tag: u64, pump: &dyn Fn()) -> Outcome {
        self.wait_at_most(tag, STEP * STEPS_MAX, pump)
    }

    /// As [`Self::wait`], where it may take another time.
    ///
    /// # Panics
    /// If it has not come after about `patience`.
    pub fn wait_at_most(&self, tag: u64, patience: Duration, pump: &dyn Fn()) -> Outcome {
        for _ in 0..patience.as_millis() / STEP.as_millis() {
            pump();
            let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            let (mut ended, _) = self
                .arrived
                .wait_timeout_while(ended, STEP, |ended| !ended.contains_key(&tag))
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(outcome) = ended.remove(&tag) {
                return outcome;
            }
        }
        panic!("append {tag} has not ended");
    }
}

impl CompletionSink for Outcomes {
    fn complete(&self, completions: Vec<Completion>) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        for Completion { tag, outcome } in completions {
            assert!(ended.insert(tag, outcome).is_none(), "append {tag} ended twice");
        }
        self.arrived.notify_all();
    }
}
