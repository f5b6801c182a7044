//! The newest committed records, in memory, so that live readers never wait for the cluster.

use bytes::Bytes;
use floodplain_log::{Batch, Partition};
use std::collections::{HashMap, VecDeque};

/// What one batch costs here beyond its bytes: its places in two queues, its buffer's own.
const ENTRY_COST: u64 = 120;

#[derive(Debug, Default)]
struct Part {
    /// All that is committed at or behind this offset is here.
    from: u64,
    batches: VecDeque<Batch>,
}

/// Bounded by bytes; the oldest batch goes first, whatever its partition.
#[derive(Debug)]
pub(crate) struct Tail {
    parts: HashMap<Partition, Part>,
    order: VecDeque<Partition>,
    cost: u64,
    limit: u64,
}

fn cost(bytes: &Bytes) -> u64 {
    bytes.len() as u64 + ENTRY_COST
}

impl Tail {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self { parts: HashMap::new(), order: VecDeque::new(), cost: 0, limit: limit_bytes }
    }

    /// A partition is followed from `from` on.
    pub(crate) fn follow(&mut self, partition: Partition, from: u64) {
        self.parts.insert(partition, Part { from, batches: VecDeque::new() });
    }

    /// Adds the next committed batch of a partition that is followed. There may be a hole before it.
    pub(crate) fn push(&mut self, partition: Partition, batch: Batch) {
        let Some(part) = self.parts.get_mut(&partition) else { return };
        self.cost += cost(batch.as_bytes());
        part.batches.push_back(batch);
        self.order.push_back(partition);
        while self.cost > self.limit {
            let Some(oldest) = self.order.pop_front() else { break };
            let Some(part) = self.parts.get_mut(&oldest) else { continue };
            if let Some(gone) = part.batches.pop_front() {
                self.cost -= cost(gone.as_bytes());
                part.from = gone.base_offset() + 1;
            }
        }
    }

    /// Batches at or behind `from`, about `max_bytes` of them and at least one if there is one, and whether these are
    /// all; `None` if something behind `from` is not here.
    pub(crate) fn read(&self, partition: Partition, from: u64, max_bytes: usize) -> Option<(Vec<Batch>, bool)> {
        let part = self.parts.get(&partition).filter(|part| part.from <= from)?;
        let first = part.batches.partition_point(|batch| batch.base_offset() < from);
        Some(take(part.batches.range(first..), max_bytes))
    }

    /// The batch of the record with this offset: the outer `None` if it may be elsewhere.
    pub(crate) fn at(&self, partition: Partition, offset: u64) -> Option<Option<&Batch>> {
        let part = self.parts.get(&partition).filter(|part| part.from <= offset)?;
        let at = part.batches.partition_point(|batch| batch.base_offset() < offset);
        Some(part.batches.get(at).filter(|batch| batch.base_offset() == offset))
    }
}

/// The first of `batches`, about `max_bytes` and at least one, and whether these are all.
pub(crate) fn take<'b>(batches: impl Iterator<Item = &'b Batch>, max_bytes: usize) -> (Vec<Batch>, bool) {
    let (mut found, mut left) = (Vec::new(), max_bytes);
    for batch in batches {
        let len = batch.as_bytes().len();
        if !found.is_empty() && len > left {
            return (found, false);
        }
        left = left.saturating_sub(len);
        found.push(batch.clone());
    }
    (found, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use floodplain_testkit::batch_of;

    const P: Partition = Partition { stream: 0, index: 0 };
    const Q: Partition = Partition { stream: 0, index: 1 };

    fn batch(offset: u64) -> Batch {
        batch_of(b"k", &[7; 100], 1).with_base_offset(offset)
    }

    fn offsets(read: Option<(Vec<Batch>, bool)>) -> Option<(Vec<u64>, bool)> {
        read.map(|(batches, all)| (batches.iter().map(Batch::base_offset).collect(), all))
    }

    #[test]
    fn it_knows_what_it_has_and_what_it_has_not() {
        let one = cost(batch(0).as_bytes());
        let mut tail = Tail::new(3 * one);
        tail.follow(P, 10);
        tail.push(Q, batch(1));
        assert_eq!((offsets(tail.read(P, 9, 99)), offsets(tail.read(Q, 1, 99))), (None, None));
        assert_eq!(offsets(tail.read(P, 10, 99)), Some((vec![], true)));
        for offset in [10, 11, 15] {
            tail.push(P, batch(offset));
        }
        assert_eq!(offsets(tail.read(P, 10, 10_000)), Some((vec![10, 11, 15], true)));
        // From inside a hole, and with little room.
        assert_eq!(offsets(tail.read(P, 12, 10_000)), Some((vec![15], true)));
        assert_eq!(offsets(tail.read(P, 10, 0)), Some((vec![10], false)));
        assert_eq!(offsets(tail.read(P, 16, 0)), Some((vec![], true)));
        // The oldest goes, whoever comes.
        tail.follow(Q, 0);
        tail.push(Q, batch(0));
        assert_eq!(offsets(tail.read(P, 10, 10_000)), None);
        assert_eq!(offsets(tail.read(P, 11, 10_000)), Some((vec![11, 15], true)));
        assert!(tail.at(P, 10).is_none());
        assert!(tail.at(P, 11).unwrap().is_some() && tail.at(P, 12).unwrap().is_none());
    }

    #[test]
    fn one_that_is_larger_than_all_of_it_does_not_stay() {
        let mut tail = Tail::new(10);
        tail.follow(P, 0);
        tail.push(P, batch(0));
        assert_eq!((offsets(tail.read(P, 0, 99)), tail.cost, tail.order.len()), (None, 0, 0));
        assert_eq!(offsets(tail.read(P, 1, 99)), Some((vec![], true)));
    }
}
