//! Work that reads the disk, done on a thread that may block.

use crate::{ConnId, mailbox::{Mail, Mailbox}};
use floodplain_log::{FetchedRecord, Log, Partition, ReadError, RecordRef};
use std::sync::Arc;

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
    /// Write a snapshot.
    Snapshot { snapshots: floodplain_fold::Snapshots, snapshot: Box<floodplain_fold::Snapshot> },
}

/// What came of a job.
#[derive(Debug)]
pub(crate) enum JobResult {
    Fetched { conn: ConnId, partition: u32, refs: Vec<RecordRef>, records: Result<Vec<FetchedRecord>, ReadError> },
    Snapshot,
}

impl Job {
    /// Does the work. Blocks.
    pub fn run(self) {
        let result = match self.work {
            Work::Fetch { conn, partition, refs } => {
                let records = self.log.fetch(partition, &refs);
                JobResult::Fetched { conn, partition: partition.index, refs, records }
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
