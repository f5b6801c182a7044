//! Which workers have a subscriber for a topic.

use super::trie::Trie;
use std::sync::{
    PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

/// A set of workers, one bit each; hence at most 64 workers.
pub(crate) type WorkerSet = u64;

/// The filters that have a subscriber, and on which workers.
///
/// Shared by all workers. A worker asks it once per topic and remembers the answer for as long as
/// [`Self::epoch`] stands still. The lock is taken alone, never inside another one.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    filters: RwLock<Trie<(u8, u32)>>,
    epoch: AtomicU64,
}

impl Routes {
    /// Counts one more subscription of `worker` to `filter`.
    pub(crate) fn add(&self, filter: &str, worker: u8) {
        let mut filters = self.filters.write().unwrap_or_else(PoisonError::into_inner);
        let workers = filters.entry(filter);
        match workers.iter_mut().find(|(w, _)| *w == worker) {
            Some((_, count)) => *count += 1,
            None => {
                workers.reserve_exact(1);
                workers.push((worker, 1));
                // Inside the lock: whoever sees the new epoch sees the new filter.
                self.epoch.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Takes one subscription of `worker` to `filter` back.
    pub(crate) fn remove(&self, filter: &str, worker: u8) {
        let mut filters = self.filters.write().unwrap_or_else(PoisonError::into_inner);
        let Some(workers) = filters.get_mut(filter) else { return };
        let Some(i) = workers.iter().position(|(w, _)| *w == worker) else { return };
        workers[i].1 -= 1;
        if workers[i].1 == 0 {
            workers.swap_remove(i);
            if workers.is_empty() {
                filters.prune(filter);
            }
            self.epoch.fetch_add(1, Ordering::Release);
        }
    }

    /// Changes whenever an answer of [`Self::workers`] may have changed.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The workers that have a subscriber for `topic`.
    pub(crate) fn workers(&self, topic: &str) -> WorkerSet {
        let filters = self.filters.read().unwrap_or_else(PoisonError::into_inner);
        let mut set = 0;
        filters.matches(topic, &mut |(worker, _)| set |= 1 << worker);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_counted_per_filter() {
        let routes = Routes::default();
        routes.add("a/#", 0);
        routes.add("a/b", 1);
        let before = routes.epoch();
        routes.add("a/b", 1);
        assert_eq!(routes.epoch(), before, "a second subscriber changes no route");
        assert_eq!(routes.workers("a/b"), 0b11);
        routes.remove("a/b", 1);
        assert_eq!(routes.workers("a/b"), 0b11);
        routes.remove("a/b", 1);
        assert_eq!(routes.workers("a/b"), 0b01);
        assert_ne!(routes.epoch(), before);
    }
}
