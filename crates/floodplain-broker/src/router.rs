//! Who gets a message: a tree of filters per worker, one shared table of workers, both cached by topic.

mod routes;
mod trie;

pub(crate) use routes::{Routes, WorkerSet};

use std::{collections::HashMap, rc::Rc};
pub(crate) use trie::{PairHash, Trie};

/// Topics whose subscribers a worker remembers; when full the memory is cleared and fills again.
const CACHED_TOPICS_MAX: usize = 16_384;
/// Longer topics are looked up each time: this and their number bound the cache.
pub(crate) const CACHED_TOPIC_BYTES_MAX: usize = 512;
/// Matches remembered over all cached topics, which bounds the cache in bytes (16 bytes each).
const CACHED_MATCHES_MAX: usize = 1 << 20;

/// What a subscription asks for, as its SUBSCRIBE said (MQTT 5.0 §3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    /// Subscription Identifier; 0 for none.
    pub(crate) id: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    slot: u32,
    wanted: Wanted,
}

/// One connection that gets a message, its overlapping subscriptions merged.
#[derive(Debug, Clone)]
pub(crate) struct Match {
    /// The connection's slot in its worker.
    pub(crate) slot: u32,
    /// Highest QoS of all matching subscriptions [MQTT-3.3.4-2].
    pub(crate) qos: u8,
    pub(crate) retain_as_published: bool,
    /// Some matching subscription has No Local: the publisher's own messages need [`Router::match_one`].
    pub(crate) no_local: bool,
    /// All subscription ids [MQTT-3.3.4-4]; `None` if there are none.
    pub(crate) ids: Option<Rc<[u32]>>,
}

#[derive(Debug)]
struct Cached {
    routes_epoch: u64,
    workers: WorkerSet,
    local_epoch: u64,
    local: Rc<[Match]>,
}

/// The subscriptions of the connections of one worker.
#[derive(Debug)]
pub(crate) struct Router {
    worker: u8,
    trie: Trie<Entry>,
    /// Subscriptions in the tree.
    count: usize,
    epoch: u64,
    cache: HashMap<Box<str>, Cached>,
    cached_matches: usize,
    scratch: Vec<Entry>,
}

impl Router {
    pub(crate) fn new(worker: u8) -> Self {
        Self {
            worker,
            trie: Trie::default(),
            count: 0,
            epoch: 1,
            cache: HashMap::new(),
            cached_matches: 0,
            scratch: Vec::new(),
        }
    }

    /// Subscribes a connection, replacing its subscription to the same filter [MQTT-3.8.4-3].
    pub(crate) fn subscribe(&mut self, routes: &Routes, slot: u32, filter: &str, wanted: Wanted) {
        self.epoch += 1;
        let entries = self.trie.entry(filter);
        match entries.iter_mut().find(|entry| entry.slot == slot) {
            Some(entry) => entry.wanted = wanted,
            None => {
                if entries.is_empty() {
                    // Most filters have one subscriber: a vector would start with room for four.
                    entries.reserve_exact(1);
                }
                entries.push(Entry { slot, wanted });
                self.count += 1;
                routes.add(filter, self.worker);
            }
        }
    }

    /// How many subscriptions there are.
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    /// Ends a connection's subscription to exactly this filter [MQTT-3.10.4-1].
    pub(crate) fn unsubscribe(&mut self, routes: &Routes, slot: u32, filter: &str) {
        let Some(entries) = self.trie.get_mut(filter) else { return };
        let Some(i) = entries.iter().position(|entry| entry.slot == slot) else { return };
        entries.swap_remove(i);
        self.count -= 1;
        self.epoch += 1;
        if entries.is_empty() {
            self.trie.prune(filter);
        }
        routes.remove(filter, self.worker);
    }

    /// The workers that want `topic`, and this worker's own connections that do.
    pub(crate) fn find(&mut self, routes: &Routes, topic: &str) -> (WorkerSet, Rc<[Match]>) {
        let routes_epoch = routes.epoch();
        if let Some(hit) = self.cache.get(topic)
            && hit.routes_epoch == routes_epoch
            && hit.local_epoch == self.epoch
        {
            return (hit.workers, hit.local.clone());
        }
        let workers = routes.workers(topic);
        let local = self.match_all(topic);
        if topic.len() > CACHED_TOPIC_BYTES_MAX {
            return (workers, local);
        }
        if self.cache.len() >= CACHED_TOPICS_MAX || self.cached_matches >= CACHED_MATCHES_MAX {
            self.cache.clear();
            self.cached_matches = 0;
        }
        let cached = Cached { routes_epoch, workers, local_epoch: self.epoch, local: local.clone() };
        self.cached_matches += local.len();
        match self.cache.get_mut(topic) {
            Some(old) => {
                self.cached_matches = self.cached_matches.saturating_sub(old.local.len());
                *old = cached;
            }
            None => drop(self.cache.insert(topic.into(), cached)),
        }
        (workers, local)
    }

    fn match_all(&mut self, topic: &str) -> Rc<[Match]> {
        let mut entries = std::mem::take(&mut self.scratch);
        entries.clear();
        self.trie.matches(topic, &mut |entry| entries.push(*entry));
        entries.sort_by_key(|entry| entry.slot);
        let merged = entries.chunk_by(|a, b| a.slot == b.slot).filter_map(|same| merge(same.iter())).collect();
        self.scratch = entries;
        merged
    }

    /// What one connection gets of its own message: subscriptions with No Local left out [MQTT-3.8.3-3].
    pub(crate) fn match_one(&self, topic: &str, slot: u32) -> Option<Match> {
        let mut entries = Vec::new();
        self.trie.matches(topic, &mut |entry| {
            if entry.slot == slot && !entry.wanted.no_local {
                entries.push(*entry);
            }
        });
        merge(entries.iter())
    }
}

fn merge<'a>(entries: impl Iterator<Item = &'a Entry>) -> Option<Match> {
    let mut ids: Vec<u32> = Vec::new();
    let mut merged: Option<Match> = None;
    for Entry { slot, wanted } in entries {
        let m =
            merged.get_or_insert(Match { slot: *slot, qos: 0, retain_as_published: false, no_local: false, ids: None });
        m.qos = m.qos.max(wanted.qos);
        m.retain_as_published |= wanted.retain_as_published;
        m.no_local |= wanted.no_local;
        if wanted.id != 0 && !ids.contains(&wanted.id) {
            ids.push(wanted.id);
        }
    }
    if let Some(m) = merged.as_mut().filter(|_| !ids.is_empty()) {
        ids.sort_unstable();
        m.ids = Some(ids.into());
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    const QOS0: Wanted = Wanted { qos: 0, no_local: false, retain_as_published: false, id: 0 };

    #[test]
    fn overlapping_subscriptions_give_one_copy() {
        let routes = Routes::default();
        let mut router = Router::new(0);
        router.subscribe(&routes, 3, "a/#", Wanted { qos: 1, id: 9, ..QOS0 });
        router.subscribe(&routes, 3, "a/+", Wanted { qos: 2, id: 4, ..QOS0 });
        router.subscribe(&routes, 5, "a/b", QOS0);
        let (workers, found) = router.find(&routes, "a/b");
        assert_eq!((workers, found.len()), (1, 2));
        assert_eq!((found[0].slot, found[0].qos, found[0].ids.as_deref()), (3, 2, Some(&[4, 9][..])));
        assert_eq!((found[1].slot, found[1].qos, found[1].ids.as_deref()), (5, 0, None));
    }

    #[test]
    fn a_changed_subscription_is_seen_through_the_cache() {
        let routes = Routes::default();
        let mut router = Router::new(1);
        assert_eq!(router.find(&routes, "t").1.len(), 0);
        router.subscribe(&routes, 7, "t", QOS0);
        assert_eq!(router.find(&routes, "t").1[0].qos, 0);
        router.subscribe(&routes, 7, "t", Wanted { qos: 1, ..QOS0 });
        assert_eq!(router.find(&routes, "t").1[0].qos, 1);
        router.unsubscribe(&routes, 7, "t");
        assert_eq!((router.find(&routes, "t").0, router.find(&routes, "t").1.len()), (0, 0));
    }

    #[test]
    fn no_local_leaves_out_only_its_own_filters() {
        let routes = Routes::default();
        let mut router = Router::new(0);
        router.subscribe(&routes, 1, "t", Wanted { no_local: true, qos: 2, ..QOS0 });
        assert!(router.match_one("t", 1).is_none());
        router.subscribe(&routes, 1, "+", Wanted { qos: 1, ..QOS0 });
        assert_eq!(router.match_one("t", 1).map(|m| m.qos), Some(1));
    }
}
