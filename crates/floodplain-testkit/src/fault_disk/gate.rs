//! Calls that take as long as a test wants.

use super::{FaultDisk, Op, Rule, State};
use std::{
    fmt,
    path::Path,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

/// Far beyond what any thread needs to arrive on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A closed gate as the disk knows it.
pub(super) struct Closed {
    id: u64,
    rule: Rule,
    /// Callers that stand before it now.
    waiting: u64,
}

/// A closed gate: calls that it covers wait until it is dropped, without an effect so far.
pub struct Gate {
    disk: FaultDisk,
    id: u64,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("id", &self.id).finish_non_exhaustive()
    }
}

impl FaultDisk {
    /// Lets reads, writes, syncs or folder syncs (`op`) on files of this [`super::file_kind`] wait.
    #[must_use]
    pub fn close_gate(&self, op: Op, kind: &str) -> Gate {
        debug_assert!(matches!(op, Op::Read | Op::Write | Op::Sync | Op::SyncDir), "{op:?} does not wait");
        let mut state = self.state();
        state.gates_made += 1;
        let id = state.gates_made;
        // Only what it covers counts, no fault comes of it.
        let rule = Rule::nth(1, super::Fault::Eio).of(op).on_kind(kind);
        state.gates.push(Closed { id, rule, waiting: 0 });
        Gate { disk: self.clone(), id }
    }

    /// The state of the disk, as soon as no gate is closed for this call. A power cut opens all.
    pub(super) fn pass(&self, op: Op, path: &Path) -> MutexGuard<'_, State> {
        let mut state = self.state();
        loop {
            if state.faults.is_frozen() {
                return state;
            }
            let Some(gate) = state.gates.iter_mut().find(|gate| gate.rule.covers(op, path)) else { return state };
            let id = gate.id;
            gate.waiting += 1;
            self.0.gates.notify_all();
            state = self.0.gates.wait(state).unwrap_or_else(PoisonError::into_inner);
            if let Some(gate) = state.gates.iter_mut().find(|gate| gate.id == id) {
                gate.waiting -= 1;
            }
        }
    }

    /// Wakes those who wait at gates, to look again.
    pub(super) fn wake(&self) {
        self.0.gates.notify_all();
    }
}

impl Gate {
    /// Waits until a call stands before the gate.
    ///
    /// # Panics
    /// If none has come after half a minute.
    pub fn wait_for_a_call(&self) {
        let nobody = |state: &mut State| !state.gates.iter().any(|gate| gate.id == self.id && gate.waiting > 0);
        let state = self.disk.state();
        let waited = self.disk.0.gates.wait_timeout_while(state, PATIENCE, nobody);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        assert!(!timeout.timed_out(), "no call has come to the gate");
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.disk.state().gates.retain(|gate| gate.id != self.id);
        self.disk.wake();
    }
}
