//! The newest committed batches, in memory, so that live readers never touch the disk.

use crate::{Batch, FastMap, Partition, ReadBatch};
use bytes::Bytes;
use floodplain_types::Position;
use std::collections::VecDeque;

/// What one batch costs here beyond its bytes: its places in two queues and in the map.
const ENTRY_COST: u64 = 320;

#[derive(Debug)]
struct TailBatch {
    base: u64,
    last: u64,
    at: u64,
    /// A slice of the buffer of its commit group.
    bytes: Bytes,
}

/// Bounded by bytes; the oldest batch goes first, whatever its partition.
#[derive(Debug)]
pub(crate) struct Tail {
    parts: FastMap<Partition, VecDeque<TailBatch>>,
    order: VecDeque<Partition>,
    cost: u64,
    limit: u64,
}

impl Tail {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { parts: FastMap::default(), order: VecDeque::new(), cost: 0, limit: limit_bytes }
    }

    /// Adds a committed batch; batches of one partition come in order and without gaps.
    pub(crate) fn push(&mut self, partition: Partition, base: u64, last: u64, at: u64, bytes: Bytes) {
        self.cost += bytes.len() as u64 + ENTRY_COST;
        self.parts.entry(partition).or_default().push_back(TailBatch { base, last, at, bytes });
        self.order.push_back(partition);
        while self.cost > self.limit {
            let Some(oldest) = self.order.pop_front() else { break };
            let Some(batches) = self.parts.get_mut(&oldest) else { continue };
            if let Some(gone) = batches.pop_front() {
                self.cost -= gone.bytes.len() as u64 + ENTRY_COST;
            }
            if batches.is_empty() {
                self.parts.remove(&oldest);
            }
        }
    }

    /// Batches from the one that holds `from`, or `None` if that one is not here any more.
    pub(crate) fn read(&self, partition: Partition, from: Position, max_bytes: usize) -> Option<Vec<ReadBatch>> {
        let batches = self.parts.get(&partition)?;
        let first = batches.partition_point(|batch| batch.last < from.offset);
        // A batch in front of the first one may hold `from`, or there may be a hole: the disk knows.
        if batches.get(first)?.base > from.offset && first == 0 {
            return None;
        }
        let mut left = max_bytes;
        let mut found = Vec::new();
        for batch in batches.range(first..) {
            if !found.is_empty() && batch.bytes.len() > left {
                break;
            }
            left = left.saturating_sub(batch.bytes.len());
            found.push(ReadBatch {
                base: Position::new(from.generation, batch.base),
                batch: Batch::trusted(batch.bytes.clone()),
                at: batch.at,
            });
        }
        Some(found)
    }

    /// The bytes at `at..at + len` of the partition's sequence, if they are here.
    pub(crate) fn bytes_at(&self, partition: Partition, at: u64, len: usize) -> Option<Bytes> {
        let batches = self.parts.get(&partition)?;
        let idx = batches.partition_point(|batch| batch.at <= at).checked_sub(1)?;
        let batch = &batches[idx];
        let start = usize::try_from(at - batch.at).ok()?;
        let end = start.checked_add(len)?;
        (end <= batch.bytes.len()).then(|| batch.bytes.slice(start..end))
    }
}
