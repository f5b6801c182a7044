//! Copying a state in parts, as it was when the copy began, while it changes.

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    ops::Bound::{self, Excluded, Unbounded},
};

/// The copy of one ordered map of a state.
///
/// What is not copied yet may change: the fold calls [`Self::touch`] before it changes an entry, and the entry's bytes
/// are kept as they were. So the copy costs the owner's thread a part at a time, and memory for what changes meanwhile.
#[derive(Debug, Clone)]
pub struct Copying<K> {
    /// What stands before the entries; empty once it is copied.
    head: Vec<u8>,
    is_done: bool,
    /// Everything up to this key is copied.
    done: Option<K>,
    /// Entries behind it that have changed: their bytes when the copy began, `None` if they were not there.
    before: BTreeMap<K, Option<Vec<u8>>>,
}

impl<K: Ord + Clone> Copying<K> {
    /// Begins a copy; `head` stands before the entries.
    #[must_use]
    pub const fn new(head: Vec<u8>) -> Self {
        Self { head, is_done: false, done: None, before: BTreeMap::new() }
    }

    /// Call it before the entry of `key` changes, comes or goes. `entry` appends its bytes as they are now; it is `None`
    /// if there is no entry. `own` makes the key that is kept.
    pub fn touch<Q: Ord + ?Sized>(&mut self, key: &Q, own: impl FnOnce() -> K, entry: Option<impl FnOnce(&mut Vec<u8>)>)
    where
        K: Borrow<Q>,
    {
        let is_copied = self.is_done || self.done.as_ref().is_some_and(|done| done.borrow() >= key);
        if is_copied || self.before.contains_key(key) {
            return;
        }
        let bytes = entry.map(|entry| {
            let mut bytes = Vec::new();
            entry(&mut bytes);
            bytes
        });
        self.before.insert(own(), bytes);
    }

    /// Appends entries until `out` has `max_len` bytes, and the entry that goes beyond; true when all are there, and from
    /// then on.
    ///
    /// `from` gives the entries of the map as it is now, from a bound on; `put` appends one.
    pub fn part<'m, V, I: Iterator<Item = (&'m K, V)>>(
        &mut self,
        from: impl FnOnce(Bound<&K>) -> I,
        put: impl Fn(&mut Vec<u8>, &K, V),
        out: &mut Vec<u8>,
        max_len: usize,
    ) -> bool
    where
        K: 'm,
    {
        if self.is_done {
            return true;
        }
        out.append(&mut self.head);
        let mut entries = from(self.done.as_ref().map_or(Unbounded, Excluded)).peekable();
        let mut last: Option<&K> = None;
        while out.len() < max_len {
            let entry = entries.peek().map(|(key, _)| *key);
            let first = self.before.first_key_value().map(|(key, _)| key);
            if first.is_some_and(|first| entry.is_none_or(|entry| first <= entry)) {
                if first == entry {
                    entries.next();
                }
                if let Some((key, bytes)) = self.before.pop_first() {
                    out.extend_from_slice(&bytes.unwrap_or_default());
                    (self.done, last) = (Some(key), None);
                }
                continue;
            }
            let Some((key, value)) = entries.next() else {
                self.is_done = true;
                return true;
            };
            put(out, key, value);
            last = Some(key);
        }
        if let Some(last) = last {
            self.done = Some(last.clone());
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(out: &mut Vec<u8>, key: &u8, value: &u8) {
        out.extend([*key, *value]);
    }

    fn whole(map: &BTreeMap<u8, u8>) -> Vec<u8> {
        let mut out = b"head".to_vec();
        map.iter().for_each(|(key, value)| put(&mut out, key, value));
        out
    }

    proptest! {
        #[test]
        fn a_copy_in_parts_is_of_the_moment_it_began(
            start in prop::collection::btree_map(0_u8..40, any::<u8>(), 0..30),
            changes in prop::collection::vec((0_u8..40, prop::option::of(any::<u8>()), 0_usize..12), 0..60),
        ) {
            let (mut map, expected) = (start.clone(), whole(&start));
            let (mut copying, mut out, mut is_done) = (Copying::new(b"head".to_vec()), Vec::new(), false);
            for (key, value, len) in changes {
                if !is_done && len > 0 {
                    let max_len = out.len() + len;
                    is_done = copying.part(|from| map.range((from, Unbounded)), put, &mut out, max_len);
                }
                copying.touch(&key, || key, map.get(&key).map(|value| move |out: &mut Vec<u8>| put(out, &key, value)));
                match value {
                    Some(value) => drop(map.insert(key, value)),
                    None => drop(map.remove(&key)),
                }
            }
            if !is_done {
                prop_assert!(copying.part(|from| map.range((from, Unbounded)), put, &mut out, usize::MAX));
            }
            prop_assert_eq!(out, expected);
        }
    }
}
