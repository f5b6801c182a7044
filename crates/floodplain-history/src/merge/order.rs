//! Which rows come out, in which order, and of which rows each is made.

use super::{Keep, MergeStats, gather::Source};
use crate::{
    Result,
    columns::{Columns, Heads, text},
};
use std::{collections::HashMap, ops::Range};

/// Rows that come out.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// For each row that comes out, the newest source row of it.
    pub(super) newest: Vec<u32>,
    /// The rows that are made of several, by their place in `newest`.
    pub(super) made: Vec<Made>,
    /// Source rows of those in `made`, oldest first.
    pub(super) members: Vec<u32>,
    pub(super) stats: MergeStats,
}

/// A row that is made of several.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) at: usize,
    /// In [`Plan::members`].
    pub(super) of: Range<usize>,
}

impl Plan {
    fn push(&mut self, rows: &[u32]) {
        let (Some(&newest), at) = (rows.last(), self.newest.len()) else { return };
        if rows.len() > 1 {
            let from = self.members.len();
            self.members.extend_from_slice(rows);
            self.made.push(Made { at, of: from..self.members.len() });
        }
        self.newest.push(newest);
    }
}

/// Decides what comes out of `source`.
pub(super) fn plan(columns: &Columns, source: &Source<'_>, keep: Keep) -> Result<Plan> {
    let heads = source.heads()?;
    let rows = heads.time.len();
    let order = order(&heads);
    let mut plan = Plan { newest: Vec::with_capacity(rows), ..Plan::default() };
    let mut group = Group::default();
    let mut from = 0;
    while from < rows {
        let first = order[from] as usize;
        let mut to = from + 1;
        while to < rows && heads.is_same_key(first, order[to] as usize) {
            to += 1;
        }
        if to == from + 1 {
            plan.newest.push(order[from]);
            plan.stats.merged_rows += 1;
        } else {
            group.take(&order[from..to], &heads, source, columns, keep, &mut plan)?;
        }
        from = to;
    }
    plan.stats.rows_in = rows as u64;
    plan.stats.rows_out = plan.newest.len() as u64;
    Ok(plan)
}

/// Space for the work on the rows of one key.
#[derive(Debug, Default)]
struct Group {
    alone: Vec<u32>,
    shared: Vec<u32>,
}

impl Group {
    /// `rows` of one key in the order of their `_seq`.
    fn take(
        &mut self,
        rows: &[u32],
        heads: &Heads<'_>,
        source: &Source<'_>,
        columns: &Columns,
        keep: Keep,
        plan: &mut Plan,
    ) -> Result<()> {
        let same_seq = |a: &u32, b: &u32| heads.seq(*a as usize) == heads.seq(*b as usize);
        if !rows.iter().any(|&row| heads.is_append(row as usize)) {
            plan.stats.merged_rows += 1;
            let versions = count(rows, same_seq, source, columns, plan)?;
            if keep == Keep::Newest || versions == 1 {
                plan.push(rows);
            } else {
                rows.chunk_by(same_seq).for_each(|rows| plan.push(rows));
            }
            return Ok(());
        }
        self.alone.clear();
        self.shared.clear();
        for rows in rows.chunk_by(same_seq) {
            let is_append = |row: &&u32| heads.is_append(**row as usize);
            if rows.iter().all(|row| is_append(&row)) {
                self.alone.extend(rows);
            } else {
                // A record that was decoded again is one row, and has a key if one of the two says so: that is the newest.
                self.shared.extend(rows.iter().filter(is_append));
                self.shared.extend(rows.iter().filter(|row| !is_append(row)));
            }
        }
        let alone = self.alone.chunk_by(same_seq);
        plan.stats.merged_rows += alone.clone().count() as u64 + u64::from(!self.shared.is_empty());
        plan.stats.duplicates += (self.alone.len() - alone.clone().count()) as u64;
        count(&self.shared, same_seq, source, columns, plan)?;
        // What comes out stays in the order of `_seq`: of rows with one key, too, there is one order.
        let mut out: Vec<&[u32]> = alone.collect();
        match keep {
            Keep::Versions => out.extend(self.shared.chunk_by(same_seq)),
            Keep::Newest => out.extend((!self.shared.is_empty()).then_some(&self.shared[..])),
        }
        out.sort_by_key(|rows| rows.last().map(|&row| heads.seq(row as usize)));
        out.into_iter().for_each(|rows| plan.push(rows));
        Ok(())
    }
}

/// Counts duplicates and overwritten values among rows that become one; returns how many versions there are.
fn count(
    rows: &[u32],
    same_seq: impl Fn(&u32, &u32) -> bool + Copy,
    source: &Source<'_>,
    columns: &Columns,
    plan: &mut Plan,
) -> Result<usize> {
    let versions = rows.chunk_by(same_seq).count();
    plan.stats.duplicates += (rows.len() - versions) as u64;
    if versions > 1 {
        let versions: Vec<&[u32]> = rows.chunk_by(same_seq).collect();
        plan.stats.overwritten_values += source.overwritten(&versions, columns)?;
    }
    Ok(versions)
}

/// All rows by (device, key columns, time, `_time_ns`, `_seq`), and else as they came.
///
/// Rows are counted into their series, and only a series whose rows did not come in order is sorted.
fn order(heads: &Heads<'_>) -> Vec<u32> {
    let rows = heads.time.len();
    if (1..rows).all(|i| is_ordered(heads, i - 1, i)) {
        return (0..rows as u32).collect();
    }
    let (ranks, series) = series(heads);
    let mut ends = vec![0_usize; series];
    ranks.iter().for_each(|&rank| ends[rank as usize] += 1);
    let mut at = 0;
    for end in &mut ends {
        (*end, at) = (at, at + *end);
    }
    let mut order = vec![0_u32; rows];
    for (row, &rank) in ranks.iter().enumerate() {
        let end = &mut ends[rank as usize];
        order[*end] = row as u32;
        *end += 1;
    }
    let mut from = 0;
    for end in ends {
        let one = &mut order[from..end];
        let key = |row: &u32| {
            let row = *row as usize;
            (heads.time[row], heads.time_ns[row], heads.seq(row))
        };
        // Devices mostly send in order, so looking first is cheaper.
        if !one.is_sorted_by_key(key) {
            one.sort_by_cached_key(key);
        }
        from = end;
    }
    order
}

fn is_ordered(heads: &Heads<'_>, i: usize, j: usize) -> bool {
    heads.compare_keys(i, heads, j).then_with(|| heads.seq(i).cmp(&heads.seq(j))).is_le()
}

/// For each row the rank of its (device, key columns), and how many there are.
fn series(heads: &Heads<'_>) -> (Vec<u32>, usize) {
    let rows = heads.time.len();
    let (mut ranks, mut count) = Ids::of(rows, |row| text(heads.device, row)).ranked();
    for key in 0..heads.key_count() {
        let (of_key, keys) = Ids::of(rows, |row| heads.key(key, row)).ranked();
        if keys > 1 {
            let pair = |row: usize| (ranks[row], of_key[row]);
            let ids = Ids::of(ranks.len(), pair);
            (ranks, count) = ids.ranked();
        }
    }
    (ranks, count)
}

/// Different values, numbered as they were met.
struct Ids<T> {
    by_row: Vec<u32>,
    values: Vec<T>,
}

impl<T: Copy + Ord + std::hash::Hash> Ids<T> {
    fn of(rows: usize, value: impl Fn(usize) -> T) -> Self {
        let (mut by_row, mut values) = (Vec::with_capacity(rows), Vec::<T>::new());
        let mut known: HashMap<T, u32> = HashMap::new();
        // Devices take turns, or one sends many rows: who came after this one the last time comes
        // again, and nothing needs to be hashed.
        let (mut after, mut last): (Vec<u32>, u32) = (Vec::new(), 0);
        for row in 0..rows {
            let value = value(row);
            let guess = after.get(last as usize).copied().unwrap_or(0);
            let id = if values.get(guess as usize) == Some(&value) {
                guess
            } else if values.get(last as usize) == Some(&value) {
                last
            } else {
                let id = *known.entry(value).or_insert(values.len() as u32);
                if id as usize == values.len() {
                    values.push(value);
                    after.push(id);
                }
                id
            };
            if let Some(next) = after.get_mut(last as usize) {
                *next = id;
            }
            by_row.push(id);
            last = id;
        }
        Self { by_row, values }
    }

    /// The same numbers in the order of the values.
    fn ranked(mut self) -> (Vec<u32>, usize) {
        let mut sorted: Vec<u32> = (0..self.values.len() as u32).collect();
        sorted.sort_unstable_by_key(|&id| self.values[id as usize]);
        let mut rank = vec![0; sorted.len()];
        sorted.iter().enumerate().for_each(|(at, &id)| rank[id as usize] = at as u32);
        self.by_row.iter_mut().for_each(|id| *id = rank[*id as usize]);
        (self.by_row, sorted.len())
    }
}
