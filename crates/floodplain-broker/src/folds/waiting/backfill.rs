//! Filling in the front of lists from the log.

use super::Packed;
use floodplain_types::Position;
use std::ops::Range;

/// One walk through the log for all lists that were short when it began.
#[derive(Debug)]
pub(super) struct Backfill {
    /// Where to read on.
    pub(super) next: Position,
    pub(super) until: Position,
    gaps: Vec<Gap>,
}

#[derive(Debug)]
struct Gap {
    list: u32,
    from: Position,
    until: Position,
    postings: Vec<Packed>,
}

impl Backfill {
    /// A walk for these gaps: list, wanted from, known from. `None` without gaps.
    pub(super) fn new(gaps: Vec<(u32, Position, Position)>) -> Option<Self> {
        let next = gaps.iter().map(|(_, from, _)| *from).min()?;
        let until = gaps.iter().map(|(_, _, until)| *until).max()?;
        let gaps = gaps.into_iter().map(|(list, from, until)| Gap { list, from, until, postings: Vec::new() });
        Some(Self { next, until, gaps: gaps.collect() })
    }

    fn gap(&mut self, list: u32, position: Position) -> Option<&mut Gap> {
        self.gaps.iter_mut().find(|gap| gap.list == list && (gap.from..gap.until).contains(&position))
    }

    pub(super) fn wants(&mut self, list: u32, position: Position) -> bool {
        self.gap(list, position).is_some()
    }

    pub(super) fn add(&mut self, list: u32, posting: Packed) {
        if let Some(gap) = self.gap(list, posting.position()) {
            gap.postings.push(posting);
        }
    }

    /// Whether some of `lost` is missing in a list.
    pub(super) fn is_missing(&self, list: u32, lost: &Range<Position>) -> bool {
        self.gaps.iter().any(|gap| gap.list == list && gap.from < lost.end && lost.start < gap.until)
    }

    /// The list is gone; its number may be given to another.
    pub(super) fn forget(&mut self, list: u32) {
        self.gaps.retain(|gap| gap.list != list);
    }

    /// List, known from, postings.
    pub(super) fn finish(self) -> impl Iterator<Item = (u32, Position, Vec<Packed>)> {
        self.gaps.into_iter().map(|gap| (gap.list, gap.from, gap.postings))
    }
}
