//! Index pages that stay in memory, so that whoever reads one record after the other does not read a page for each.

use super::page::PAGE;
use crate::FastMap;
use bytes::Bytes;
use metrics::Counter;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where a page is: the segment, by [`super::Segment::id`], and the byte of its file.
pub(super) type Place = (u64, u64);

/// Pages that were read and checked, as many as have room: of those that nobody has asked for again, the oldest goes first.
///
/// Shared by all readers of a log. Pages of a segment that is not in use any more are asked for by nobody, and go in their turn.
#[derive(Debug)]
pub(crate) struct PageCache {
    pages_max: usize,
    kept: Mutex<Kept>,
    /// Bytes of pages that were not here.
    read_bytes: Counter,
}

#[derive(Debug, Default)]
struct Kept {
    slots: Vec<Slot>,
    by_place: FastMap<Place, usize>,
    /// The slot that is looked at next when room is needed.
    hand: usize,
}

#[derive(Debug)]
struct Slot {
    place: Place,
    page: Bytes,
    /// Somebody has asked for it since the hand came by.
    is_used: bool,
}

impl PageCache {
    /// A cache of at most `bytes`, which counts what it does not save.
    pub(crate) fn new(bytes: u64, read_bytes: Counter) -> Self {
        let pages_max = usize::try_from(bytes / PAGE as u64).unwrap_or(usize::MAX);
        Self { pages_max, kept: Mutex::default(), read_bytes }
    }

    /// Nothing is left half done by a panic here, at worst a page that is read once more.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, place: Place) -> Option<Bytes> {
        let mut kept = self.kept();
        let idx = *kept.by_place.get(&place)?;
        let slot = kept.slots.get_mut(idx)?;
        slot.is_used = true;
        Some(slot.page.clone())
    }

    /// Keeps a page that was read and is what it should be.
    pub(super) fn put(&self, place: Place, page: &Bytes) {
        self.read_bytes.increment(PAGE as u64);
        let mut kept = self.kept();
        if self.pages_max == 0 || kept.by_place.contains_key(&place) {
            return;
        }
        let Kept { slots, by_place, hand } = &mut *kept;
        let slot = Slot { place, page: page.clone(), is_used: false };
        if slots.len() < self.pages_max {
            by_place.insert(place, slots.len());
            slots.push(slot);
            return;
        }
        while std::mem::take(&mut slots[*hand].is_used) {
            *hand = (*hand + 1) % self.pages_max;
        }
        by_place.remove(&slots[*hand].place);
        by_place.insert(place, *hand);
        slots[*hand] = slot;
        *hand = (*hand + 1) % self.pages_max;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: u8) -> Bytes {
        vec![number; PAGE].into()
    }

    #[test]
    fn pages_that_are_asked_for_stay() {
        let cache = PageCache::new(4 * PAGE as u64 + 1, Counter::noop());
        for number in 0..100 {
            cache.put((1, u64::from(number)), &page(number));
            assert!(cache.get((1, 0)).is_some_and(|found| found == page(0)), "page {number} came in");
            assert!(cache.kept().slots.len() <= 4 && cache.kept().by_place.len() <= 4);
        }
        let kept: Vec<_> = (0..100).filter(|number| cache.get((1, *number)).is_some()).collect();
        assert_eq!(kept, [0, 97, 98, 99]);
        assert!(kept.iter().all(|number| cache.get((1, *number)) == Some(page(*number as u8))));
        assert_eq!(cache.get((2, 0)), None, "another segment has pages of its own");
    }

    #[test]
    fn a_cache_without_room_keeps_nothing() {
        let cache = PageCache::new(PAGE as u64 - 1, Counter::noop());
        cache.put((1, 0), &page(0));
        assert_eq!(cache.get((1, 0)), None);
    }
}
