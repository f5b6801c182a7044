//! Rows of one key become one row; and before that, rows come into the order of their keys.
//!
//! The key of a row is (device, key columns, time, `_time_ns`). What a table shows is a function of
//! the *set* of its rows, a row being known by its key and its `_seq`: in each column the newest
//! value by `_seq` that is not null. That function cannot be computed piece by piece, because a
//! merged row does not tell which of its values is how old. So files and buffers keep every version
//! of a row ([`sort`]), and only readers merge ([`sort_merge`]). Then it does not matter how rows
//! came to be in which file, in which order, and how often: a record that is decoded long after its
//! successors still finds its place among them.

mod gather;
mod order;
mod rest;

use crate::{Result, columns::Columns};
use arrow::array::RecordBatch;

/// Batches that leave here have at most so many rows: small enough for a cache, large enough for kernels.
pub const BATCH_ROWS: usize = 8192;

/// What was found while rows were sorted or merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MergeStats {
    pub rows_in: u64,
    pub rows_out: u64,
    /// Rows that were there before, with the same key and the same `_seq`: redelivery and replay.
    pub duplicates: u64,
    /// Rows that a reader sees: different keys, and each row without a time of its own.
    pub merged_rows: u64,
    /// How often, within one key and in the order of `_seq`, a value (or a field of `_rest`) was
    /// followed by a different one that was not null.
    pub overwritten_values: u64,
}

/// Sorted rows in batches of at most [`BATCH_ROWS`].
#[derive(Debug, Clone)]
pub struct Merged {
    pub batches: Vec<RecordBatch>,
    pub stats: MergeStats,
}

/// Sorts rows by key and `_seq`, and drops those that are there twice. For files and buffers.
///
/// Where rows of one `_seq` differ, because their record was decoded again, the values of the later
/// batch win, column by column where they are not null.
///
/// # Errors
/// [`crate::Error::Schema`] if a batch does not have exactly these columns; [`crate::Error::Compute`]
/// if a column would pass 2 GiB.
pub fn sort(columns: &Columns, batches: &[RecordBatch]) -> Result<Merged> {
    run(columns, batches, Keep::Versions)
}

/// Sorts rows by key and makes one of those that share it: in each column the newest value by
/// `_seq` that is not null, `_seq` and `_received` of the newest row, the fields of `_rest` one by one.
///
/// Rows without a time of their own (`time` equals `_received`) share nothing: each `_seq` is a row. One that has the `_seq`
/// of another row of its key, which has a time of its own, is that row, decoded again.
/// Memory: about twice that of the batches.
///
/// # Errors
/// Like [`sort`].
pub fn sort_merge(columns: &Columns, batches: &[RecordBatch]) -> Result<Merged> {
    run(columns, batches, Keep::Newest)
}

impl MergeStats {
    /// Adds what was found in other rows of other keys.
    pub(crate) fn add(&mut self, other: &Self) {
        self.rows_in += other.rows_in;
        self.rows_out += other.rows_out;
        self.duplicates += other.duplicates;
        self.merged_rows += other.merged_rows;
        self.overwritten_values += other.overwritten_values;
    }
}

/// What of the rows of one key comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Versions,
    Newest,
}

fn run(columns: &Columns, batches: &[RecordBatch], keep: Keep) -> Result<Merged> {
    let every: Vec<usize> = (0..columns.schema().fields().len()).collect();
    run_projected(columns, &every, batches, keep)
}

/// [`sort`] or [`sort_merge`] for batches that have only the columns `projection`, among them all that
/// the key and the version need.
pub(crate) fn run_projected(
    columns: &Columns,
    projection: &[usize],
    batches: &[RecordBatch],
    keep: Keep,
) -> Result<Merged> {
    let schema = columns.projected(projection);
    if let Some(batch) = batches.iter().find(|batch| *batch.schema_ref() != schema) {
        return Err(columns.mismatch(format!("batch has columns {:?}", batch.schema_ref().fields())));
    }
    let source = gather::Source::new(columns, projection, schema, batches)?;
    let plan = order::plan(columns, &source, keep)?;
    let batches = source.gather(&plan, BATCH_ROWS)?;
    Ok(Merged { batches, stats: plan.stats })
}
