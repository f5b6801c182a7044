//! Who may fold what: slots, their owners, and the append that only an owner can make.

use crate::{Append, Completion, Log, Outcome, Refusal, Reply};
use floodplain_types::{TenantId, murmur2};
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The unit of ownership: all partitions that [`slot_of`] gives this number have one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}", self.0)
    }
}

/// The slot of partition `index` of every stream of `tenant`: `((murmur2(tenant) & 0x7fffffff) + index) mod slots`.
///
/// The hash is that of record keys. Partitions with one index have one owner in all streams of a tenant, those with
/// different ones are spread, and so are tenants that have one partition each. All nodes must agree on `slots`, at least 1.
#[must_use]
pub fn slot_of(tenant: &TenantId, index: u32, slots: u32) -> Slot {
    debug_assert!(slots > 0);
    let hash = u64::from(murmur2(tenant.as_str().as_bytes()) & 0x7fff_ffff);
    Slot(((hash + u64::from(index)) % u64::from(slots.max(1))) as u32)
}

/// Proof that a slot was given to this process; it says nothing once the slot has gone on to another owner.
///
/// Only the engine that made it understands the epoch, and it never gives the same one twice in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    slot: Slot,
    epoch: u64,
}

impl Fence {
    /// For engines.
    #[must_use]
    pub const fn new(slot: Slot, epoch: u64) -> Self {
        Self { slot, epoch }
    }

    /// The slot that is owned.
    #[must_use]
    pub const fn slot(self) -> Slot {
        self.slot
    }

    /// For engines.
    #[must_use]
    pub const fn epoch(self) -> u64 {
        self.epoch
    }
}

/// Learns which slots this process owns; usually the mailbox of a thread.
///
/// Called on a thread of the engine, under its locks: it must neither block nor call back.
pub trait OwnerSink: Send + Sync + fmt::Debug {
    /// The slot is ours from now on, until [`Self::lost`]. Nothing that an owner before had under way can still become
    /// visible, so what is read behind a first commit of ours is the whole truth.
    fn gained(&self, fence: Fence);

    /// The slot is another's, or soon will be: drop what was derived for it. Units that are under way still end, and
    /// those that were not begun are refused.
    fn lost(&self, slot: Slot);
}

/// Shares the work of folding among processes: each slot has at most one owner that can commit.
pub trait Owners: Send + Sync + fmt::Debug {
    /// How many slots there are; never changes.
    fn slots(&self) -> u32;

    /// Tells `sink` which slots are owned, and from then on what is gained and lost.
    fn watch(&self, sink: Arc<dyn OwnerSink>);

    /// Appends as the owner: the batches become visible together or not at all, and only if `fence` is that of the
    /// newest owner of its slot. Whoever emits puts its position record into the unit. Returns at once.
    ///
    /// Units of one slot are committed in the order in which they were given; which of the slot's partitions they write
    /// to is not checked. The unit has the promise of class `all`, whatever its class says.
    ///
    /// Ends as [`Outcome::Committed`] with the position of each batch; as [`Outcome::Refused`], and nothing of it will ever be
    /// visible, with [`Refusal::Fenced`] when ownership is gone; or as [`Outcome::Unknown`]: then what a later commit with
    /// the same fence finds written before its own records is all that will come.
    fn commit(&self, fence: Fence, append: Append, reply: Reply);

    /// Gives up all slots and takes no more, so that others need not wait until this process is missed. Returns at
    /// once; each slot is told as lost.
    fn release(&self);
}

/// Ownership where there is one process: every slot is its own from the start, and a commit is an append.
#[derive(Debug)]
pub struct AllSlots {
    log: Arc<dyn Log>,
    slots: u32,
    state: Mutex<AllState>,
}

/// Shared by the threads that watch, commit and release.
#[derive(Debug, Default)]
struct AllState {
    watchers: Vec<Arc<dyn OwnerSink>>,
    is_released: bool,
}

impl AllSlots {
    /// Owns `slots` slots of `log`, which must keep units whole: the embedded engine.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, slots: u32) -> Self {
        Self { log, slots: slots.max(1), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, AllState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Owners for AllSlots {
    fn slots(&self) -> u32 {
        self.slots
    }

    fn watch(&self, sink: Arc<dyn OwnerSink>) {
        let mut state = self.state();
        if !state.is_released {
            (0..self.slots).for_each(|slot| sink.gained(Fence::new(Slot(slot), 0)));
        }
        state.watchers.push(sink);
    }

    fn commit(&self, fence: Fence, append: Append, reply: Reply) {
        let is_owned = !self.state().is_released && fence.slot.0 < self.slots;
        if is_owned {
            self.log.submit(append, Some(reply));
        } else {
            let outcome = Outcome::Refused(Refusal::Fenced);
            reply.sink.complete(vec![Completion { tag: reply.tag, outcome }]);
        }
    }

    fn release(&self) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.is_released, true) {
            for sink in &state.watchers {
                (0..self.slots).for_each(|slot| sink.lost(Slot(slot)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
