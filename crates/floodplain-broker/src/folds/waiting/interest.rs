//! Which session folds want what of an index.

use super::WaitingIndex;
use crate::folds::Positions;
use floodplain_types::{Position, TopicFilter};
use std::collections::{BTreeMap, BTreeSet};

/// What all partitions of `requests` want of one data partition.
///
/// Each source (an index of a partition of `requests`) tells its filters once after its replay,
/// and then each change. A filter leaves the index when its last source drops it, and postings
/// leave it when all sources have passed them.
#[derive(Debug)]
pub struct Interest {
    partition: u32,
    /// Filter, source, position from which on the source needs it.
    filters: BTreeMap<TopicFilter, BTreeMap<u32, Position>>,
}

impl Interest {
    /// Nothing is wanted yet of this data partition, known by its index among all.
    #[must_use]
    pub const fn new(partition: u32) -> Self {
        Self { partition, filters: BTreeMap::new() }
    }

    /// A session of `source` waits for `filter` from `start` on. `position` is where the index is.
    pub fn wanted(
        &mut self,
        index: &mut WaitingIndex,
        position: Position,
        source: u32,
        filter: &TopicFilter,
        start: &Positions,
    ) {
        let from = start.get(self.partition);
        let sources = match self.filters.get_mut(filter) {
            Some(sources) => sources,
            None => self.filters.entry(filter.clone()).or_default(),
        };
        let lowest = sources.entry(source).or_insert(from);
        *lowest = (*lowest).min(from);
        index.add_filter(filter, from, position);
    }

    /// No session of `source` waits for `filter` any more.
    pub fn dropped(&mut self, index: &mut WaitingIndex, source: u32, filter: &TopicFilter) {
        let Some(sources) = self.filters.get_mut(filter) else { return };
        sources.remove(&source);
        if sources.is_empty() {
            self.filters.remove(filter);
            index.remove_filter(filter.as_str());
        }
    }

    /// The lowest positions that the sessions of `source` still need, as
    /// [`crate::folds::SessionFold::scan_lowest`] gives them: trims the index.
    pub fn lowest(&mut self, index: &mut WaitingIndex, source: u32, lowest: &[(TopicFilter, Positions)]) {
        for (filter, positions) in lowest {
            let Some(sources) = self.filters.get_mut(filter) else { continue };
            let Some(known) = sources.get_mut(&source) else { continue };
            let from = positions.get(self.partition);
            *known = (*known).max(from);
            index.needed(filter.as_str(), from);
            if let Some(below) = sources.values().min() {
                index.trim(filter.as_str(), *below);
            }
        }
    }

    /// All sources have told their filters: what else the index remembers from before the restart
    /// is wanted by nobody.
    pub fn settle(&self, index: &mut WaitingIndex) {
        let wanted: BTreeSet<&TopicFilter> = self.filters.keys().collect();
        let gone: Vec<_> = index.filters().filter(|filter| !wanted.contains(filter)).cloned().collect();
        for filter in gone {
            index.remove_filter(filter.as_str());
        }
    }
}
