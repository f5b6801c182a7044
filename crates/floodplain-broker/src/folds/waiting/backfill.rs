//! Filling in the front of lists from the log.

use super::{PER_FILTER_MAX, Packed, ROOM, TOTAL_MAX, who_gives};
use crate::router::PairHash;
use floodplain_fold::DedupWindow;
use floodplain_types::Position;
use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
};

/// One walk through the log for all lists that were short when it began. Holds as many postings as the index may.
#[derive(Debug)]
pub(super) struct Backfill {
    /// Where to read on.
    pub(super) next: Position,
    pub(super) until: Position,
    /// By list.
    gaps: HashMap<u32, Gap, PairHash>,
    total: usize,
    seen: DedupWindow,
}

/// The part of a list that is being looked for.
#[derive(Debug)]
pub(super) struct Gap {
    pub(super) list: u32,
    /// All that matches from here on is in `postings`.
    pub(super) from: Position,
    pub(super) until: Position,
    pub(super) postings: VecDeque<Packed>,
    /// First, last and number of those that were too many.
    pub(super) dropped: Option<(Position, Position, u64)>,
}

impl Gap {
    fn drop_oldest(&mut self, count: usize) -> usize {
        let count = count.min(self.postings.len());
        let mut gone = self.postings.drain(..count);
        let Some(first) = gone.next().map(|posting| posting.position()) else { return 0 };
        let last = gone.next_back().map_or(first, |posting| posting.position());
        drop(gone);
        let (first, before) = self.dropped.map_or((first, 0), |(first, _, count)| (first, count));
        self.dropped = Some((first, last, before + count as u64));
        self.from = last.next();
        count
    }
}

impl Backfill {
    /// A walk for these gaps: list, wanted from, known from. `None` without gaps.
    pub(super) fn new(gaps: Vec<(u32, Position, Position)>, keeps_units_whole: bool) -> Option<Self> {
        let next = gaps.iter().map(|(_, from, _)| *from).min()?;
        let until = gaps.iter().map(|(_, _, until)| *until).max()?;
        let gap = |(list, from, until)| (list, Gap { list, from, until, postings: VecDeque::new(), dropped: None });
        let gaps = gaps.into_iter().map(gap).collect();
        Some(Self { next, until, gaps, total: 0, seen: crate::folds::dedup_window(keeps_units_whole) })
    }

    /// Whether this is no copy of a record that was seen on this walk.
    pub(super) fn is_new(&mut self, key: &[u8], id: &str) -> bool {
        self.seen.is_new(key, id.as_bytes())
    }

    fn gap(&mut self, list: u32, position: Position) -> Option<&mut Gap> {
        self.gaps.get_mut(&list).filter(|gap| (gap.from..gap.until).contains(&position))
    }

    pub(super) fn wants(&mut self, list: u32, position: Position) -> bool {
        self.gap(list, position).is_some()
    }

    pub(super) fn add(&mut self, list: u32, posting: Packed) {
        let Some(gap) = self.gap(list, posting.position()) else { return };
        gap.postings.push_back(posting);
        let too_many = if gap.postings.len() > PER_FILTER_MAX { PER_FILTER_MAX / 16 } else { 0 };
        let dropped = gap.drop_oldest(too_many);
        self.total = self.total + 1 - dropped;
        if self.total <= TOTAL_MAX {
            return;
        }
        crate::work::done(self.gaps.len());
        let mut lists: Vec<_> = self.gaps.values().map(|gap| (gap.postings.len(), gap.list)).collect();
        lists.sort_unstable();
        for (list, count) in who_gives(lists.into_iter(), self.total - (TOTAL_MAX - ROOM)) {
            if let Some(gap) = self.gaps.get_mut(&list) {
                self.total -= gap.drop_oldest(count);
            }
        }
    }

    /// Whether some of `lost` is missing in a list.
    pub(super) fn is_missing(&self, list: u32, lost: &Range<Position>) -> bool {
        self.gaps.get(&list).is_some_and(|gap| gap.from < lost.end && lost.start < gap.until)
    }

    /// The list is gone; its number may be given to another.
    pub(super) fn forget(&mut self, list: u32) {
        self.total -= self.gaps.remove(&list).map_or(0, |gap| gap.postings.len());
    }

    /// What was found.
    pub(super) fn finish(self) -> Vec<Gap> {
        let mut gaps: Vec<Gap> = self.gaps.into_values().collect();
        gaps.sort_unstable_by_key(|gap| gap.list);
        gaps
    }
}
