//! Work that reads the disk, done on a thread that may block.

use crate::{
    ConnId,
    mailbox::{Mail, Mailbox},
};
use bytes::Bytes;
use floodplain_log::{FetchedRecord, Log, Partition, Read, ReadError, RecordRef};
use floodplain_types::Position;
use std::sync::Arc;

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
    Fetch { conn: ConnId, partition: Partition, refs: Vec<RecordRef> },
    /// Read one record whose place in the file is not known.
    ReadAt { conn: ConnId, partition: Partition, position: Position },
    /// Read the log for an index that must know what lies before it.
    Backfill { partition: Partition, from: Position },
    /// Write a snapshot.
    Snapshot { snapshots: floodplain_fold::Snapshots, snapshot: Box<floodplain_fold::Snapshot> },
}

/// What came of a job.
#[derive(Debug)]
pub(crate) enum JobResult {
    Fetched {
        conn: ConnId,
        partition: u32,
        asked: Vec<Position>,
        /// How many bytes were read.
        bytes: u64,
        records: Result<Vec<FetchedRecord>, ReadError>,
    },
    Backfilled {
        partition: u32,
        read: Result<Read, ReadError>,
    },
    Snapshot,
}

impl Job {
    /// Does the work. Blocks.
    pub fn run(self) {
        let result = match self.work {
            Work::Fetch { conn, partition, refs } => {
                let records = self.log.fetch(partition, &refs);
                let bytes = refs.iter().map(|reference| u64::from(reference.locator.len)).sum();
                let asked = refs.iter().map(|reference| reference.position).collect();
                JobResult::Fetched { conn, partition: partition.index, asked, bytes, records }
            }
            Work::ReadAt { conn, partition, position } => {
                let read = self.log.read(partition, position, 1);
                let bytes = read.iter().flat_map(|read| &read.batches).map(|b| b.batch.as_bytes().len() as u64).sum();
                let records = match read {
                    Ok(read) => Ok(find(&read, position).into_iter().collect()),
                    Err(ReadError::Trimmed { .. }) => Ok(Vec::new()),
                    Err(error) => Err(error),
                };
                JobResult::Fetched { conn, partition: partition.index, asked: vec![position], bytes, records }
            }
            Work::Backfill { partition, from } => {
                let read = self.log.read(partition, from, BACKFILL_BYTES);
                JobResult::Backfilled { partition: partition.index, read }
            }
            Work::Snapshot { snapshots, snapshot } => {
                if let Err(error) = snapshots.write(&snapshot) {
                    tracing::warn!(%error, "snapshot was not written; the next start replays more");
                }
                JobResult::Snapshot
            }
        };
        self.reply.post([Mail::JobDone(result)]);
    }
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
