//! Work that reads the disk, done on a thread that may block.

use crate::{
    ConnId,
    mailbox::{Mail, Mailbox},
};
use bytes::Bytes;
use floodplain_log::{FetchedRecord, Log, Partition, Read, ReadError, RecordRef};
use floodplain_types::Position;
use std::{
    collections::{HashSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

/// Threads for the jobs of one worker. Two of them are left for reads that folds wait for: those always go first.
pub const JOB_THREADS: usize = FETCHES_MAX + UPKEEP_MAX + 2;
/// Fetches for sessions at a time. What they bring is in memory until the worker takes it.
pub(crate) const FETCHES_MAX: usize = 4;
/// Backfills and snapshots at a time.
pub(crate) const UPKEEP_MAX: usize = 2;

/// What one step of a backfill reads.
const BACKFILL_BYTES: usize = 1 << 20;

/// Something to run off the worker's thread; its result comes back as mail.
#[derive(Debug)]
pub struct Job {
    pub(crate) work: Work,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) reply: Arc<Mailbox>,
}

#[derive(Debug)]
pub(crate) enum Work {
    /// Fetch records for a session that reads on.
    ///
    /// `index` is that of the partition among all data partitions, here and below.
    Fetch { conn: ConnId, index: u32, partition: Partition, refs: Vec<RecordRef> },
    /// Read records whose places in the file are not known: each batch that holds some of them once.
    ReadAt { conn: ConnId, index: u32, partition: Partition, positions: Vec<Position> },
    /// Read the log for an index that must know what lies before it.
    Backfill { index: u32, partition: Partition, from: Position },
    /// Read for the folds of a partition that are behind what memory holds.
    Read { reader: Partition, partition: Partition, from: Position, max_bytes: usize },
    /// Write a snapshot.
    Snapshot { snapshots: floodplain_fold::Snapshots, snapshot: Box<floodplain_fold::Snapshot> },
}

/// What waits for a thread, and how much has one. Reads for folds do not wait: there is one at a time for each partition.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    pub(crate) fetching: usize,
    /// Slots of connections whose sessions have something to fetch, each once. What it is, is decided when its turn comes,
    /// so a place in the line is all that waiting costs.
    line: VecDeque<u32>,
    in_line: HashSet<u32>,
    upkeep: usize,
    /// Backfills and snapshots: one for each fold.
    waiting: VecDeque<Work>,
}

impl Jobs {
    /// Puts a connection into the line; false if it is there already.
    pub(crate) fn line_up(&mut self, slot: u32) -> bool {
        let is_new = self.in_line.insert(slot);
        if is_new {
            self.line.push_back(slot);
        }
        is_new
    }

    /// Whose turn it is, if there is room for a fetch.
    pub(crate) fn next_in_line(&mut self) -> Option<u32> {
        if self.fetching >= FETCHES_MAX {
            return None;
        }
        let slot = self.line.pop_front()?;
        self.in_line.remove(&slot);
        Some(slot)
    }

    /// What is to run now.
    pub(crate) fn begin(&mut self, work: Work) -> Option<Work> {
        match &work {
            Work::Read { .. } => {}
            Work::Fetch { .. } | Work::ReadAt { .. } => self.fetching += 1,
            Work::Backfill { .. } | Work::Snapshot { .. } if self.upkeep == UPKEEP_MAX => {
                self.waiting.push_back(work);
                return None;
            }
            Work::Backfill { .. } | Work::Snapshot { .. } => self.upkeep += 1,
        }
        Some(work)
    }

    /// A job has ended; gives what was waiting for its thread.
    pub(crate) fn end(&mut self, result: &JobResult) -> Option<Work> {
        match result {
            JobResult::Read { .. } => None,
            JobResult::Fetched { .. } => {
                self.fetching -= 1;
                None
            }
            JobResult::Backfilled { .. } | JobResult::Snapshot => {
                self.upkeep -= 1;
                self.waiting.pop_front()
            }
        }
    }
}

/// What came of a job.
#[derive(Debug)]
pub(crate) enum JobResult {
    Fetched {
        conn: ConnId,
        partition: u32,
        /// How many bytes the log was asked for.
        bytes: u64,
        /// In the order in which they were asked for.
        found: Vec<Found>,
    },
    Backfilled {
        partition: u32,
        read: Result<Read, ReadError>,
    },
    Read {
        reader: Partition,
        partition: Partition,
        from: Position,
        read: Result<Read, ReadError>,
    },
    Snapshot,
}

/// What a record that was asked for turned out to be.
#[derive(Debug)]
pub(crate) enum Found {
    Record(FetchedRecord),
    /// Retention has passed it.
    Retention(Position),
    /// It lies where the log is damaged.
    Damage(Position),
    /// The disk did not give it, several times.
    Unreadable(Position),
}

/// How often a record is asked for that the disk does not give, and how long after the time before.
const FETCH_TRIES: usize = 3;
const FETCH_AGAIN: Duration = Duration::from_millis(50);

impl Job {
    /// Does the work. Blocks. The worker, which counts the jobs that run, gets its answer also where reading panics.
    pub fn run(self) {
        let result = match self.work {
            Work::Fetch { conn, index, partition, refs } => {
                let bytes = asked_bytes(&refs);
                let found = fetch(&*self.log, partition, &refs);
                JobResult::Fetched { conn, partition: index, bytes, found }
            }
            Work::ReadAt { conn, index, partition, positions } => {
                let (bytes, found) = read_all_at(&*self.log, partition, positions);
                JobResult::Fetched { conn, partition: index, bytes, found }
            }
            Work::Read { reader, partition, from, max_bytes } => {
                let read = guarded(|| self.log.read(partition, from, max_bytes));
                JobResult::Read { reader, partition, from, read }
            }
            Work::Backfill { index, partition, from } => {
                let read = guarded(|| self.log.read(partition, from, BACKFILL_BYTES));
                JobResult::Backfilled { partition: index, read }
            }
            Work::Snapshot { snapshots, snapshot } => {
                let written = catch_unwind(AssertUnwindSafe(|| snapshots.write(&snapshot)));
                if let Ok(Err(error)) = written {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "snapshot was not written; the next start replays more");
                }
                JobResult::Snapshot
            }
        };
        self.reply.post([Mail::JobDone(result)]);
    }
}

/// What has panicked, which is a fault of ours, is as if the disk had failed.
fn guarded<T>(read: impl FnOnce() -> Result<T, ReadError>) -> Result<T, ReadError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        let source = std::io::Error::other("reading it has panicked");
        Err(ReadError::Io { file: "the log".to_owned(), at: 0, source })
    })
}

/// What these references lead to. Records of one compressed batch lead to the same bytes.
fn asked_bytes(refs: &[RecordRef]) -> u64 {
    let mut last = None;
    let distinct =
        refs.iter().map(|reference| reference.locator).filter(|locator| last.replace(*locator) != Some(*locator));
    distinct.map(|locator| u64::from(locator.len_bytes())).sum()
}

/// Fetches records; where the disk fails, one by one, so that each costs itself alone.
fn fetch(log: &dyn Log, partition: Partition, refs: &[RecordRef]) -> Vec<Found> {
    match guarded(|| log.fetch(partition, refs)) {
        Ok(records) => {
            let mut records = records.into_iter().peekable();
            let start = log.start(partition);
            let found = |RecordRef { position, .. }: &RecordRef| match records.next_if(|r| r.position == *position) {
                Some(record) => Found::Record(record),
                None if *position < start => Found::Retention(*position),
                None => Found::Damage(*position),
            };
            refs.iter().map(found).collect()
        }
        Err(error) if refs.len() > 1 => {
            tracing::warn!(%error, "records that a session waits for cannot be read together");
            refs.iter().flat_map(|reference| fetch(log, partition, std::slice::from_ref(reference))).collect()
        }
        Err(_) => refs.iter().map(|reference| fetch_again(log, partition, reference)).collect(),
    }
}

fn fetch_again(log: &dyn Log, partition: Partition, reference: &RecordRef) -> Found {
    for _ in 1..FETCH_TRIES {
        std::thread::sleep(FETCH_AGAIN);
        match guarded(|| log.fetch(partition, std::slice::from_ref(reference))) {
            Ok(records) => match records.into_iter().next() {
                Some(record) => return Found::Record(record),
                None => return Found::Damage(reference.position),
            },
            Err(error) => tracing::error!(%error, "a record that a session waits for cannot be read"),
        }
    }
    Found::Unreadable(reference.position)
}

/// Reads records, each batch once for all that it holds; gives the bytes that were read.
fn read_all_at(log: &dyn Log, partition: Partition, mut positions: Vec<Position>) -> (u64, Vec<Found>) {
    positions.sort_unstable();
    positions.dedup();
    let (mut bytes, mut all) = (0, Vec::with_capacity(positions.len()));
    let mut left = positions.into_iter().peekable();
    while let Some(position) = left.next() {
        let (read, found) = read_at(log, partition, position);
        all.push(found);
        let Some(read) = read else { continue };
        bytes += read.batches.iter().map(|batch| batch.batch.as_bytes().len() as u64).sum::<u64>();
        // What was read is whole up to there: what is not in it is not in the log.
        while let Some(position) = left.next_if(|position| *position < read.next) {
            all.push(find(&read, position).map_or(Found::Damage(position), Found::Record));
        }
    }
    (bytes, all)
}

fn read_at(log: &dyn Log, partition: Partition, position: Position) -> (Option<Read>, Found) {
    for _ in 0..FETCH_TRIES {
        match guarded(|| log.read(partition, position, 1)) {
            Ok(read) => {
                let found = find(&read, position).map_or(Found::Damage(position), Found::Record);
                return (Some(read), found);
            }
            Err(ReadError::Trimmed { .. }) => return (None, Found::Retention(position)),
            Err(ReadError::Corrupt { .. }) => return (None, Found::Damage(position)),
            Err(error) => tracing::error!(%error, "a record that a session waits for cannot be read"),
        }
        std::thread::sleep(FETCH_AGAIN);
    }
    (None, Found::Unreadable(position))
}

fn find(read: &Read, position: Position) -> Option<FetchedRecord> {
    for batch in &read.batches {
        let Ok(records) = batch.batch.records() else { continue };
        for record in records.iter().map_while(Result::ok) {
            if batch.position(&record) == position {
                let base_timestamp_ms = batch.batch.timestamp_ms(&record).saturating_sub(record.timestamp_delta_ms);
                return Some(FetchedRecord {
                    position,
                    base_timestamp_ms,
                    bytes: Bytes::copy_from_slice(record.bytes),
                });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use floodplain_log::Locator;

    #[test]
    fn what_several_records_lie_in_is_asked_for_once() {
        let reference = |offset, at, len| RecordRef {
            position: Position::new(0, offset),
            base_timestamp_ms: 0,
            locator: Locator { at, len, crc: 7 },
        };
        let whole = 500 | Locator::WHOLE_BATCH;
        let refs = [reference(0, 10, 30), reference(1, 40, 30), reference(2, 90, whole), reference(3, 90, whole)];
        assert_eq!(asked_bytes(&refs), 30 + 30 + 500);
        assert_eq!(asked_bytes(&refs[3..]), 500);
    }
}
