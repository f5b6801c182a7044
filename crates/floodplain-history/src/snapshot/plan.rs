//! Which sources have to be read together.
//!
//! Sources that share no device or no time have no versions of one row. So the table falls into parts:
//! sources that overlap, directly or by others between them. Files of more than a day (rows whose clocks were ahead)
//! would tie days together; parts with such files are cut at the days of the others.

use crate::filter::{Filter, TimeRange};
use std::collections::BTreeSet;

const DAY_US: i64 = 24 * 60 * 60 * 1_000_000;

/// What is known of a source without reading it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent<'a> {
    pub(super) times: TimeRange,
    pub(super) min_device: &'a str,
    pub(super) max_device: &'a str,
    pub(super) is_merged: bool,
}

impl Extent<'_> {
    fn overlaps(&self, other: &Self) -> bool {
        !self.times.intersection(other.times).is_empty()
            && self.min_device <= other.max_device
            && other.min_device <= self.max_device
    }

    fn is_within_a_day(&self) -> bool {
        self.times.min_us.div_euclid(DAY_US) == self.times.max_us.div_euclid(DAY_US)
    }
}

/// Sources to be read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    /// In the order in which they were given.
    pub(super) sources: Vec<usize>,
    /// Rows of other times are in other units.
    pub(super) times: TimeRange,
    pub(super) merges: bool,
}

/// The units that have rows which match, by time.
pub(super) fn plan(extents: &[Extent<'_>], filter: &Filter) -> Vec<Unit> {
    let wanted = |at: &usize| {
        let extent = &extents[*at];
        filter.overlaps(extent.times, extent.min_device, extent.max_device)
    };
    let wanted: Vec<usize> = (0..extents.len()).filter(wanted).collect();
    let mut units = Vec::new();
    for sources in components(extents, &wanted) {
        if sources.len() > 1 && sources.iter().any(|&at| !extents[at].is_within_a_day()) {
            for times in days(extents, &sources) {
                units.extend(within(extents, &sources, times.intersection(filter.time)));
            }
        } else {
            units.push(unit(extents, sources, TimeRange::ALL));
        }
    }
    let start = |unit: &Unit| {
        let first = unit.sources.iter().map(|&at| extents[at].times.min_us).min();
        unit.times.min_us.max(first.unwrap_or(i64::MAX))
    };
    units.sort_by_key(start);
    units
}

fn unit(extents: &[Extent<'_>], sources: Vec<usize>, times: TimeRange) -> Unit {
    let merges = sources.len() > 1 || sources.iter().any(|&at| !extents[at].is_merged);
    Unit { sources, times, merges }
}

/// The units of some sources within some times.
fn within(extents: &[Extent<'_>], sources: &[usize], times: TimeRange) -> Vec<Unit> {
    let clipped: Vec<Extent<'_>> =
        extents.iter().map(|extent| Extent { times: extent.times.intersection(times), ..*extent }).collect();
    let sources: Vec<usize> = sources.iter().copied().filter(|&at| !clipped[at].times.is_empty()).collect();
    components(&clipped, &sources).into_iter().map(|sources| unit(&clipped, sources, times)).collect()
}

/// All times, cut where a day begins or ends that has a source of its own.
fn days(extents: &[Extent<'_>], sources: &[usize]) -> Vec<TimeRange> {
    let mut starts = BTreeSet::from([i64::MIN]);
    for extent in sources.iter().map(|&at| &extents[at]).filter(|extent| extent.is_within_a_day()) {
        let day = extent.times.min_us.div_euclid(DAY_US);
        starts.extend([day.saturating_mul(DAY_US), day.saturating_add(1).saturating_mul(DAY_US)]);
    }
    let starts: Vec<i64> = starts.into_iter().collect();
    let range = |(i, &min_us): (usize, &i64)| {
        let max_us = starts.get(i + 1).map_or(i64::MAX, |next| next - 1);
        TimeRange::new(min_us, max_us)
    };
    starts.iter().enumerate().map(range).collect()
}

/// Sources that overlap, or are tied together by others, each in the given order.
fn components(extents: &[Extent<'_>], sources: &[usize]) -> Vec<Vec<usize>> {
    let mut by_time: Vec<usize> = (0..sources.len()).collect();
    by_time.sort_by_key(|&i| extents[sources[i]].times.min_us);
    let mut parent: Vec<usize> = (0..sources.len()).collect();
    fn root(parent: &mut [usize], mut i: usize) -> usize {
        while parent[i] != i {
            parent[i] = parent[parent[i]];
            i = parent[i];
        }
        i
    }
    let mut open: Vec<usize> = Vec::new();
    for &i in &by_time {
        let extent = &extents[sources[i]];
        open.retain(|&other| extents[sources[other]].times.max_us >= extent.times.min_us);
        for &other in &open {
            if extent.overlaps(&extents[sources[other]]) {
                let (a, b) = (root(&mut parent, i), root(&mut parent, other));
                parent[a.max(b)] = a.min(b);
            }
        }
        open.push(i);
    }
    let mut components: Vec<Vec<usize>> = vec![Vec::new(); sources.len()];
    for (i, &source) in sources.iter().enumerate() {
        components[root(&mut parent, i)].push(source);
    }
    components.retain(|component| !component.is_empty());
    components
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Devices, times in hours, whether it is merged.
    fn check(sources: &[(&str, &str, i64, i64, bool)], expected: &[(&[usize], bool)]) {
        let hour = 3_600_000_000;
        let extents: Vec<Extent<'_>> = sources
            .iter()
            .map(|&(min_device, max_device, from, to, is_merged)| Extent {
                times: TimeRange::new(from * hour, to * hour - 1),
                min_device,
                max_device,
                is_merged,
            })
            .collect();
        let units = plan(&extents, &Filter::ALL);
        let found: Vec<(&[usize], bool)> = units.iter().map(|unit| (&unit.sources[..], unit.merges)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_does_not_overlap_is_read_alone() {
        check(&[], &[]);
        check(&[("a", "z", 2, 4, true), ("a", "z", 0, 2, true)], &[(&[1], false), (&[0], false)]);
        check(&[("a", "m", 0, 2, true), ("n", "z", 0, 2, false)], &[(&[0], false), (&[1], true)]);
        check(&[("a", "m", 0, 2, true), ("m", "z", 0, 2, true)], &[(&[0, 1], true)]);
    }

    #[test]
    fn others_tie_together() {
        let ties = [("a", "b", 0, 2, true), ("y", "z", 0, 2, true), ("a", "z", 1, 3, true), ("c", "d", 5, 6, true)];
        check(&ties, &[(&[0, 1, 2], true), (&[3], false)]);
    }

    #[test]
    fn a_wrong_clock_does_not_tie_days_together() {
        let days =
            [("a", "z", 0, 24, true), ("a", "z", 24, 48, true), ("a", "z", 20, 2000, true), ("a", "z", 96, 98, true)];
        check(&days, &[(&[0, 2], true), (&[1, 2], true), (&[2], false), (&[2, 3], true), (&[2], false)]);
    }
}
