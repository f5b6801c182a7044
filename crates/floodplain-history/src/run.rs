//! Sorted rows in memory: what a buffer has sealed, read like a file.

use crate::{
    Result,
    columns::{Columns, Heads},
    filter::{Filter, TimeRange},
    merge::{self, MergeStats},
};
use arrow::{array::RecordBatch, compute::filter_record_batch};
use std::sync::Arc;

/// Rows sorted by key and `_seq`, all versions of them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Run {
    columns: Arc<Columns>,
    batches: Arc<[RecordBatch]>,
    stats: MergeStats,
    overwritten_values: u64,
    times: TimeRange,
    bytes: usize,
}

impl Run {
    /// Sorts rows; `None` if there are none.
    ///
    /// # Errors
    /// Those of [`merge::sort`].
    pub fn new(columns: &Arc<Columns>, batches: &[RecordBatch]) -> Result<Option<Self>> {
        let sorted = merge::sort(columns, batches)?;
        if sorted.batches.is_empty() {
            return Ok(None);
        }
        let (mut min, mut max) = (i64::MAX, i64::MIN);
        for batch in &sorted.batches {
            for &time in Heads::whole(columns, batch)?.time {
                (min, max) = (min.min(time), max.max(time));
            }
        }
        let bytes = sorted.batches.iter().map(RecordBatch::get_array_memory_size).sum();
        let (columns, batches, stats) = (columns.clone(), sorted.batches.into(), sorted.stats);
        let (overwritten_values, times) = (stats.overwritten_values, TimeRange::new(min, max));
        Ok(Some(Self { columns, batches, stats, overwritten_values, times, bytes }))
    }

    /// The rows of several runs as one.
    ///
    /// # Errors
    /// Those of [`merge::sort`].
    pub fn join(columns: &Arc<Columns>, runs: &[Self]) -> Result<Option<Self>> {
        let mut batches = Vec::new();
        for run in runs {
            batches.extend_from_slice(&run.upcast(columns)?.batches);
        }
        let joined = Self::new(columns, &batches)?;
        Ok(joined.map(|joined| joined.with_count(runs.iter().map(Self::overwritten_values).sum())))
    }

    /// Knows what was counted before.
    fn with_count(self, counted: u64) -> Self {
        Self { overwritten_values: self.overwritten_values.max(counted), ..self }
    }

    /// The rows with the columns of a later version of the schema.
    ///
    /// # Errors
    /// Those of [`Columns::upcast`].
    pub fn upcast(&self, columns: &Arc<Columns>) -> Result<Self> {
        if self.columns == *columns {
            return Ok(self.clone());
        }
        let every: Vec<usize> = (0..columns.schema().fields().len()).collect();
        let batches: Vec<_> = self.batches.iter().map(|batch| columns.upcast(batch, &every)).collect::<Result<_>>()?;
        let key_ids = |columns: &Columns| columns.keys().iter().map(|&key| columns.field_id(key)).collect::<Vec<_>>();
        if key_ids(&self.columns) != key_ids(columns) {
            // A column has become a key: there is another order, and rows that were one are no more.
            let sorted = Self::new(columns, &batches)?.unwrap_or_else(|| self.clone());
            return Ok(sorted.with_count(self.overwritten_values));
        }
        Ok(Self { columns: columns.clone(), batches: batches.into(), ..self.clone() })
    }

    /// The columns of its rows.
    #[must_use]
    pub const fn columns(&self) -> &Arc<Columns> {
        &self.columns
    }

    /// Its rows, in batches of at most [`merge::BATCH_ROWS`].
    #[must_use]
    pub fn batches(&self) -> &[RecordBatch] {
        &self.batches
    }

    /// What was found when it was sorted.
    #[must_use]
    pub const fn stats(&self) -> &MergeStats {
        &self.stats
    }

    /// How many values were overwritten by others of its rows. Not fewer than were found in the runs that it was joined of, though
    /// two of them had the same rows, decoded twice.
    #[must_use]
    pub const fn overwritten_values(&self) -> u64 {
        self.overwritten_values
    }

    /// Number of rows, with all versions.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.stats.rows_out
    }

    /// About what it takes in memory.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Event times of its rows.
    #[must_use]
    pub const fn times(&self) -> TimeRange {
        self.times
    }

    /// Whether no two of its rows become one.
    #[must_use]
    pub const fn is_merged(&self) -> bool {
        self.stats.merged_rows == self.stats.rows_out
    }

    /// Least and greatest device.
    pub(crate) fn devices(&self) -> Result<(&str, &str)> {
        let (Some(first), Some(last)) = (self.batches.first(), self.batches.last()) else { return Ok(("", "")) };
        let (first, last) = (Heads::whole(&self.columns, first)?, Heads::whole(&self.columns, last)?);
        Ok((first.device.value(0), last.device.value(last.time.len() - 1)))
    }

    /// The rows of one batch that match, with the columns `projection`; `None` if there are none.
    pub(crate) fn matching(&self, batch: usize, projection: &[usize], filter: &Filter) -> Result<Option<RecordBatch>> {
        let batch = &self.batches[batch];
        let heads = Heads::whole(&self.columns, batch)?;
        let (first, last) = (heads.device.value(0), heads.device.value(batch.num_rows() - 1));
        if !filter.devices.overlaps(first, last) {
            return Ok(None);
        }
        let arrays = projection.iter().map(|&column| batch.column(column).clone()).collect();
        let rows = self.columns.batch(self.columns.projected(projection), arrays, batch.num_rows())?;
        if filter.covers(self.times) {
            return Ok(Some(rows));
        }
        let matches = filter.matches(heads.device, heads.time);
        let rows = filter_record_batch(&rows, &matches).map_err(|error| self.columns.failed("filter", error))?;
        Ok((rows.num_rows() > 0).then_some(rows))
    }
}
