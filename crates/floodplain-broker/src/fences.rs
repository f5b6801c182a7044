//! Which slots this process owns at the moment.

use floodplain_log::{Fence, OwnerSink, Slot};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Kept by the engine, asked by the workers.
#[derive(Debug)]
pub(crate) struct Fences {
    /// By slot.
    owned: Mutex<Vec<Option<Fence>>>,
}

impl Fences {
    pub(crate) fn new(slots: u32) -> Self {
        Self { owned: Mutex::new(vec![None; slots as usize]) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Fence>>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The proof that `slot` is owned, if it is.
    pub(crate) fn of(&self, slot: Slot) -> Option<Fence> {
        self.lock().get(slot.0 as usize).copied().flatten()
    }
}

impl OwnerSink for Fences {
    fn gained(&self, fence: Fence) {
        if let Some(owned) = self.lock().get_mut(fence.slot().0 as usize) {
            *owned = Some(fence);
        }
    }

    fn lost(&self, slot: Slot) {
        if let Some(owned) = self.lock().get_mut(slot.0 as usize) {
            *owned = None;
        }
    }
}
