//! Which slots this process owns at the moment.

use floodplain_log::{Fence, OwnerSink, Slot};
use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Kept by the engine, asked by the workers.
#[derive(Debug)]
pub(crate) struct Fences {
    /// By slot.
    owned: Mutex<Vec<Option<Fence>>>,
    gained: Condvar,
}

impl Fences {
    pub(crate) fn new(slots: u32) -> Self {
        Self { owned: Mutex::new(vec![None; slots as usize]), gained: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Fence>>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The proof that `slot` is owned, if it is.
    pub(crate) fn of(&self, slot: Slot) -> Option<Fence> {
        self.lock().get(slot.0 as usize).copied().flatten()
    }

    /// Blocks until `slot` is owned, for so long at most.
    pub(crate) fn wait_for(&self, slot: Slot, at_most: Duration) -> Option<Fence> {
        let of = |owned: &Vec<Option<Fence>>| owned.get(slot.0 as usize).copied().flatten();
        let waited = self.gained.wait_timeout_while(self.lock(), at_most, |owned| of(owned).is_none());
        of(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

impl OwnerSink for Fences {
    fn gained(&self, fence: Fence) {
        if let Some(owned) = self.lock().get_mut(fence.slot().0 as usize) {
            *owned = Some(fence);
        }
        self.gained.notify_all();
    }

    fn lost(&self, slot: Slot) {
        if let Some(owned) = self.lock().get_mut(slot.0 as usize) {
            *owned = None;
        }
    }
}
