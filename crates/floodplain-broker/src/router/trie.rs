//! A tree of topic filters, one node per level.

use slab::Slab;
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

const ROOT: u32 = 0;
/// The level `+`.
const PLUS: u32 = 0;
/// The level `#`.
const HASH: u32 = 1;
/// A level of a topic that no filter names.
const UNKNOWN: u32 = u32::MAX;

/// Mixes pairs of small numbers that we hand out ourselves, so nobody outside can choose them.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }
    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(n)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

/// For maps whose keys we number ourselves.
pub(crate) type PairHash = BuildHasherDefault<PairHasher>;

#[derive(Debug)]
struct Node<T> {
    values: Vec<T>,
    parent: u32,
    level: u32,
    children: u32,
}

/// Values by topic filter, found by topic name.
///
/// Levels are kept once each, edges in one table: a filter costs its nodes (40 bytes each) and
/// its values, without a map per node. `#` is allowed in the last level only, which the parser of
/// MQTT checks.
#[derive(Debug)]
pub(crate) struct Trie<T> {
    levels: HashMap<Box<str>, (u32, u32)>,
    free_levels: Vec<u32>,
    next_level: u32,
    edges: HashMap<(u32, u32), u32, PairHash>,
    nodes: Slab<Node<T>>,
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node { values: Vec::new(), parent: ROOT, level: UNKNOWN, children: 0 });
        Self { levels: HashMap::new(), free_levels: Vec::new(), next_level: 2, edges: HashMap::default(), nodes }
    }
}

impl<T> Trie<T> {
    /// The values of `filter`, created empty if the filter is new.
    ///
    /// A filter whose values stay empty must be given to [`Self::prune`].
    pub(crate) fn entry(&mut self, filter: &str) -> &mut Vec<T> {
        let mut node = ROOT;
        for level in filter.split('/') {
            let known = self.level(level);
            if let Some(next) = known.and_then(|id| self.edges.get(&(node, id)).copied()) {
                node = next;
                continue;
            }
            let id = known.unwrap_or_else(|| self.new_level(level));
            self.hold_level(level);
            let child = self.nodes.insert(Node { values: Vec::new(), parent: node, level: id, children: 0 }) as u32;
            self.edges.insert((node, id), child);
            self.nodes[node as usize].children += 1;
            node = child;
        }
        &mut self.nodes[node as usize].values
    }

    /// The values of `filter`, if it is known.
    pub(crate) fn get_mut(&mut self, filter: &str) -> Option<&mut Vec<T>> {
        let node = self.find(filter)?;
        Some(&mut self.nodes[node as usize].values)
    }

    /// Removes the nodes of `filter` that hold nothing any more.
    pub(crate) fn prune(&mut self, filter: &str) {
        let Some(mut node) = self.find(filter) else { return };
        let names: Vec<&str> = filter.split('/').collect();
        for name in names.into_iter().rev() {
            let here = &self.nodes[node as usize];
            if node == ROOT || here.children > 0 || !here.values.is_empty() {
                return;
            }
            let gone = self.nodes.remove(node as usize);
            self.edges.remove(&(gone.parent, gone.level));
            self.release_level(name);
            self.nodes[gone.parent as usize].children -= 1;
            node = gone.parent;
        }
    }

    /// Calls `found` with every value whose filter matches `topic`.
    pub(crate) fn matches(&self, topic: &str, found: &mut impl FnMut(&T)) {
        // [MQTT-4.7.2-1]: a wildcard in the first level does not match `$...`.
        let system = topic.starts_with('$');
        self.descend(ROOT, Some(topic), system, found);
    }

    fn descend(&self, node: u32, rest: Option<&str>, system: bool, found: &mut impl FnMut(&T)) {
        if !system && let Some(any) = self.edges.get(&(node, HASH)) {
            // Also when no level is left: `a/#` matches its parent `a`.
            self.nodes[*any as usize].values.iter().for_each(&mut *found);
        }
        let Some(rest) = rest else {
            if node != ROOT {
                self.nodes[node as usize].values.iter().for_each(found);
            }
            return;
        };
        if self.nodes[node as usize].children == 0 {
            return;
        }
        let (level, rest) = match rest.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (rest, None),
        };
        if !system && let Some(plus) = self.edges.get(&(node, PLUS)) {
            self.descend(*plus, rest, false, found);
        }
        if let Some(id) = self.level(level)
            && let Some(child) = self.edges.get(&(node, id))
        {
            self.descend(*child, rest, false, found);
        }
    }

    fn find(&self, filter: &str) -> Option<u32> {
        let mut node = ROOT;
        for level in filter.split('/') {
            node = *self.edges.get(&(node, self.level(level)?))?;
        }
        Some(node)
    }

    fn level(&self, level: &str) -> Option<u32> {
        match level {
            "+" => Some(PLUS),
            "#" => Some(HASH),
            other => self.levels.get(other).map(|(id, _)| *id),
        }
    }

    fn new_level(&mut self, level: &str) -> u32 {
        let id = self.free_levels.pop().unwrap_or_else(|| {
            self.next_level += 1;
            self.next_level - 1
        });
        self.levels.insert(level.into(), (id, 0));
        id
    }

    fn hold_level(&mut self, level: &str) {
        if let Some((_, users)) = self.levels.get_mut(level) {
            *users += 1;
        }
    }

    fn release_level(&mut self, level: &str) {
        if let Some((id, users)) = self.levels.get_mut(level) {
            *users -= 1;
            if *users == 0 {
                self.free_levels.push(*id);
                self.levels.remove(level);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use floodplain_types::filter_matches;
    use proptest::prelude::*;

    fn matched(trie: &Trie<usize>, topic: &str) -> Vec<usize> {
        let mut all = Vec::new();
        trie.matches(topic, &mut |value| all.push(*value));
        all.sort_unstable();
        all
    }

    fn level() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("a"), Just("b"), Just(""), Just("$x")]
    }

    fn filter() -> impl Strategy<Value = String> {
        let part = prop_oneof![3 => level(), 1 => Just("+")];
        (prop::collection::vec(part, 1..5), any::<bool>()).prop_map(|(parts, hash)| {
            let mut filter = parts.join("/");
            if hash {
                filter.push_str("/#");
            }
            if filter.is_empty() { "#".to_owned() } else { filter }
        })
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_the_rule_matches(
            filters in prop::collection::vec(filter(), 1..20),
            removed in prop::collection::vec(any::<bool>(), 20),
            topics in prop::collection::vec(prop::collection::vec(level(), 1..5), 1..10),
        ) {
            let mut trie = Trie::default();
            for (i, filter) in filters.iter().enumerate() {
                trie.entry(filter).push(i);
            }
            for (i, filter) in filters.iter().enumerate().filter(|(i, _)| removed[*i]) {
                trie.get_mut(filter).unwrap().retain(|value| *value != i);
                trie.prune(filter);
            }
            for topic in topics.iter().map(|levels| levels.join("/")).filter(|topic| !topic.is_empty()) {
                let expected: Vec<usize> = filters.iter().enumerate()
                    .filter(|(i, filter)| !removed[*i] && filter_matches(filter, &topic))
                    .map(|(i, _)| i).collect();
                prop_assert_eq!(matched(&trie, &topic), expected, "{}", topic);
            }
        }
    }

    #[test]
    fn an_emptied_tree_holds_nothing() {
        let mut trie = Trie::default();
        for filter in ["a/b/c", "a/+/#", "#", "x"] {
            trie.entry(filter).push(0);
        }
        for filter in ["a/b/c", "a/+/#", "#", "x"] {
            trie.get_mut(filter).unwrap().clear();
            trie.prune(filter);
        }
        assert_eq!((trie.nodes.len(), trie.edges.len(), trie.levels.len()), (1, 0, 0));
    }
}
