//! Reading one partition of the log into batches of rows.

use super::{
    columns::{Columns, Row},
    plan::Unit,
    scope::Scope,
};
use datafusion::{
    arrow::array::RecordBatch,
    common::{DataFusionError, Result},
    physical_plan::metrics::Count,
};
use floodplain_log::{Log, MessageRef, Partition, ReadBatch, ReadError, Record};
use floodplain_types::Position;
use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::sync::mpsc::Sender;

/// How much is read from the log at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// How many warnings one query keeps; the rest is counted.
const WARNINGS_MAX: usize = 20;
/// How far the times of one partition may run backwards, or be from those of the log's index: a clock that is set back
/// by more hides rows from a query that asks for the time before.
const CLOCK_STEP_MS: i64 = 60_000;

/// What all scans of one query share.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Taken when a partition is first read, after the query started; the same for all scans of the query.
    watermarks: Mutex<HashMap<Partition, Position>>,
    warnings: Mutex<Vec<String>>,
    warnings_count: AtomicU64,
    /// Bytes of batches that were looked at.
    pub(crate) bytes_read: AtomicU64,
    /// Damaged ranges that were left out.
    pub(crate) damaged: AtomicU64,
    /// Set when all rows were handed on: a query that panics ends without it.
    pub(crate) completed: AtomicBool,
}

impl Snapshot {
    fn watermark(&self, log: &dyn Log, partition: Partition) -> Position {
        let mut watermarks = self.watermarks.lock().unwrap_or_else(PoisonError::into_inner);
        *watermarks.entry(partition).or_insert_with(|| log.watermark(partition))
    }

    fn warn(&self, warning: String) {
        self.warnings_count.fetch_add(1, Ordering::Relaxed);
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() < WARNINGS_MAX {
            warnings.push(warning);
        }
    }

    /// What is missing from the result, or odd in it.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let more = self.warnings_count.load(Ordering::Relaxed) - warnings.len() as u64;
        if more > 0 {
            warnings.push(format!("{more} more warnings"));
        }
        warnings
    }
}

/// Metrics of one scan, shown by `EXPLAIN ANALYZE`.
#[derive(Debug, Clone)]
pub(super) struct Counters {
    pub(super) bytes_read: Count,
    pub(super) records_decoded: Count,
    pub(super) output_rows: Count,
}

/// Whoever asked has gone away, or has all the rows that were asked for.
struct Enough;

enum Stop {
    Enough,
    Failed(DataFusionError),
}

impl From<Enough> for Stop {
    fn from(Enough: Enough) -> Self {
        Self::Enough
    }
}

/// Reads partitions one after another, and sends batches of rows. Blocks; belongs on a blocking thread.
pub(super) struct Reader {
    pub(super) log: Arc<dyn Log>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) scope: Arc<Scope>,
    pub(super) need_headers: bool,
    pub(super) need_columns: bool,
    pub(super) columns: Columns,
    /// Rows still wanted.
    pub(super) left: usize,
    pub(super) counters: Counters,
    pub(super) out: Sender<Result<RecordBatch>>,
}

impl Reader {
    pub(super) fn run(mut self, units: &[Unit]) -> Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        match units.iter().try_for_each(|unit| self.partition(unit)) {
            Ok(()) | Err(Stop::Enough) if !self.columns.is_empty() => match self.flush() {
                Ok(()) | Err(Stop::Enough) => Ok(()),
                Err(Stop::Failed(error)) => Err(error),
            },
            Ok(()) | Err(Stop::Enough) => Ok(()),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn partition(&mut self, unit: &Unit) -> Result<(), Stop> {
        let end = self.snapshot.watermark(&*self.log, unit.partition);
        let (Some(offsets), Some(received)) = (self.scope.offsets(), self.scope.received()) else { return Ok(()) };
        let generation = unit.id.generation;
        let mut at = self.log.start(unit.partition).max(Position::new(generation, *offsets.start()));
        if *received.start() > i64::MIN {
            let first_ms = received.start().div_euclid(1_000_000).saturating_sub(CLOCK_STEP_MS);
            let by_time = self.log.position_at(unit.partition, first_ms);
            at = at.max(by_time.map_err(failed)?);
        }
        let last = Position::new(generation, *offsets.end());
        while at < end && at <= last {
            if self.out.is_closed() {
                return Err(Stop::Enough);
            }
            match self.log.read(unit.partition, at, CHUNK_BYTES) {
                Ok(read) => {
                    for lost in read.damaged.iter().filter(|lost| lost.start < end && lost.start <= last) {
                        self.lost(unit, lost.start, lost.end.min(end), "the log is damaged");
                    }
                    for batch in &read.batches {
                        if batch.base >= end || batch.base > last || is_after(batch, &received) {
                            return Ok(());
                        }
                        self.batch(unit, batch, at..=last, end)?;
                    }
                    // An engine that has nothing to give below the watermark has nothing more to give.
                    if read.next <= at {
                        return Ok(());
                    }
                    at = read.next;
                }
                // Retention went past while we were reading: what is gone is gone.
                Err(ReadError::Trimmed { start, .. }) if start > at => at = start,
                Err(ref error @ ReadError::Corrupt { next, .. }) if next > at => {
                    self.lost(unit, at, next.min(end), &error.to_string());
                    at = next;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    fn batch(
        &mut self,
        unit: &Unit,
        batch: &ReadBatch,
        wanted: RangeInclusive<Position>,
        end: Position,
    ) -> Result<(), Stop> {
        let bytes = batch.batch.as_bytes().len();
        self.snapshot.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        self.counters.bytes_read.add(bytes);
        let last = Position::new(batch.base.generation, batch.base.offset + u64::from(batch.batch.last_offset_delta()));
        let whole = wanted.contains(&batch.base) && wanted.contains(&last) && last < end;
        if whole && !self.need_columns && !self.scope.looks_at_records() {
            let rows = (batch.batch.record_count() as usize).min(self.left);
            self.columns.push_empty(rows);
            return self.count(rows);
        }
        let records = match batch.batch.records() {
            Ok(records) => records,
            Err(error) => {
                self.left_out(unit, batch, &error);
                return Ok(());
            }
        };
        for record in &records {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    self.left_out(unit, batch, &error);
                    return Ok(());
                }
            };
            self.counters.records_decoded.add(1);
            let position = batch.position(&record);
            if wanted.contains(&position) && position < end && self.scope.has_device(record.key) {
                self.record(unit, batch, &record, position)?;
            }
        }
        Ok(())
    }

    fn lost(&self, unit: &Unit, from: Position, until: Position, why: &str) {
        self.snapshot.damaged.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}/{}", unit.id, unit.index);
        tracing::warn!(partition = %name, %from, %until, why, "query leaves out a damaged range");
        self.snapshot.warn(format!("{why}; rows of {name} between {from} and {until} are missing"));
    }

    fn left_out(&self, unit: &Unit, batch: &ReadBatch, error: &floodplain_log::BatchError) {
        self.snapshot.damaged.fetch_add(1, Ordering::Relaxed);
        let (id, index, base) = (&unit.id, unit.index, batch.base);
        self.snapshot.warn(format!("{error}; rows of {id}/{index} in the batch at {base} are missing"));
    }

    fn record(&mut self, unit: &Unit, batch: &ReadBatch, record: &Record<'_>, position: Position) -> Result<(), Stop> {
        let ms = batch.batch.timestamp_ms(record);
        // Records that are no messages (written by a Kafka client, or our own) have their row all the same.
        let message =
            if self.need_headers || self.scope.looks_at_times() { MessageRef::parse(record).ok() } else { None };
        let received_ns = received_ns(ms, message.as_ref());
        if !self.scope.received().is_some_and(|range| range.contains(&received_ns)) {
            return Ok(());
        }
        if self.need_columns {
            let (stream, partition) = (&*unit.id, unit.index);
            self.columns.push(&Row { stream, partition, position, received_ns, record, message: message.as_ref() });
        } else {
            self.columns.push_empty(1);
        }
        self.count(1)
    }

    fn count(&mut self, rows: usize) -> Result<(), Stop> {
        self.counters.output_rows.add(rows);
        self.left -= rows;
        if self.left == 0 {
            return Err(Stop::Enough);
        }
        if self.columns.is_full() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        let batch = self.columns.finish().map_err(|error| Stop::Failed(error.into()))?;
        // Waits while the operators above are busy; fails once nobody is left.
        self.out.blocking_send(Ok(batch)).map_err(|_| Enough)?;
        Ok(())
    }
}

/// Nanoseconds where the sender's header agrees with the record's own milliseconds.
fn received_ns(ms: i64, message: Option<&MessageRef<'_>>) -> i64 {
    let exact = message.and_then(|message| message.ingest_time_ns).filter(|ns| ns.div_euclid(1_000_000) == ms);
    exact.unwrap_or_else(|| ms.saturating_mul(1_000_000))
}

/// Whether all that follows was ingested after the wanted time.
fn is_after(batch: &ReadBatch, received: &RangeInclusive<i64>) -> bool {
    let last_ms = received.end().div_euclid(1_000_000).saturating_add(CLOCK_STEP_MS);
    batch.batch.base_timestamp_ms() > last_ms
}

fn failed(error: ReadError) -> Stop {
    Stop::Failed(DataFusionError::External(Box::new(error)))
}
