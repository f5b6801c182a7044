//! Nodes that own slots, and how to see that no two of them own the same.

mod ranges;

pub use ranges::{Range, Ranges};

use crate::wait::{Outcomes, wait_until};
use floodplain_log::{Append, Batch, CompletionSink, Fence, Log, Outcome, OwnerSink, Owners, Partition, Reply, Slot};
use floodplain_types::Class;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// What a node owns, and what it was told.
#[derive(Debug, Default)]
pub struct Held {
    slots: Mutex<BTreeMap<Slot, Fence>>,
    /// The newest fence of each slot, whether it was lost or not.
    newest: Mutex<BTreeMap<Slot, Fence>>,
    told: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Held {
    /// The slots that are owned now.
    #[must_use]
    pub fn slots(&self) -> Vec<Slot> {
        lock(&self.slots).keys().copied().collect()
    }

    /// Their fences.
    #[must_use]
    pub fn fences(&self) -> Vec<Fence> {
        lock(&self.slots).values().copied().collect()
    }

    /// The newest fence of a slot, also one that was lost.
    #[must_use]
    pub fn fence(&self, slot: Slot) -> Option<Fence> {
        lock(&self.newest).get(&slot).copied()
    }

    /// `gained 3`, `lost 3`: all that was told, in order.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        lock(&self.told).clone()
    }
}

impl OwnerSink for Held {
    fn gained(&self, fence: Fence) {
        let before = lock(&self.slots).insert(fence.slot(), fence);
        assert_eq!(before, None, "gained twice");
        lock(&self.newest).insert(fence.slot(), fence);
        lock(&self.told).push(format!("gained {}", fence.slot().0));
    }

    fn lost(&self, slot: Slot) {
        assert!(lock(&self.slots).remove(&slot).is_some(), "lost what was not gained");
        lock(&self.told).push(format!("lost {}", slot.0));
    }
}

/// A log with what its process owns of it.
pub struct Node {
    // Dropped in this order.
    pub owners: Arc<dyn Owners>,
    pub log: Arc<dyn Log>,
    pub held: Arc<Held>,
    /// Lets things go on; called again and again while something is waited for.
    pub pump: Arc<dyn Fn() + Send + Sync>,
    /// How long a commit may take until it has ended.
    pub patience: Duration,
    outcomes: Arc<Outcomes>,
    tags: AtomicU64,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("owners", &self.owners).field("held", &self.held).finish_non_exhaustive()
    }
}

impl Node {
    /// A node that knows from now on what it owns.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, owners: Arc<dyn Owners>, pump: Arc<dyn Fn() + Send + Sync>) -> Self {
        let held = Arc::new(Held::default());
        owners.watch(Arc::clone(&held) as Arc<dyn OwnerSink>);
        let patience = Duration::from_secs(30);
        Self { owners, log, held, pump, patience, outcomes: Outcomes::new(), tags: AtomicU64::new(0) }
    }

    /// Waits until it owns so many slots.
    ///
    /// # Panics
    /// If it does not after about half a minute.
    pub fn wait_for_slots(&self, count: usize) {
        wait_until(&format!("{count} slots are owned"), &*self.pump, || self.held.slots().len() == count);
    }

    /// Begins a commit: what to give to [`Self::ended`].
    pub fn begin(&self, fence: Fence, batches: Vec<(Partition, Batch)>) -> u64 {
        let tag = self.tags.fetch_add(1, Ordering::Relaxed);
        let sink = Arc::clone(&self.outcomes) as Arc<dyn CompletionSink>;
        self.owners.commit(fence, Append { batches, class: Class::All }, Reply { sink, tag });
        tag
    }

    /// Waits for the end of a commit.
    pub fn ended(&self, tag: u64) -> Outcome {
        self.outcomes.wait_at_most(tag, self.patience, &*self.pump)
    }

    /// Commits and waits for the end.
    pub fn commit(&self, fence: Fence, batches: Vec<(Partition, Batch)>) -> Outcome {
        self.ended(self.begin(fence, batches))
    }
}
