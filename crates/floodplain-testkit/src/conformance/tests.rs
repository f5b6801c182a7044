//! The suite fails engines that break the contract, each in one way.

use super::{Harness, run};
use crate::ModelLog;
use floodplain_log::{
    Append, Completion, CompletionSink, FetchedRecord, Log, Outcome, Partition, Read, ReadError, RecordRef, Refusal,
    Reply, RetentionSink, Stream, WatermarkSink,
};
use floodplain_types::{Clock, ManualClock, PartitionId, Position, StreamId};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    ReadsFromTheNextBatch,
    ReadsWithoutLimit,
    ReadsNothingBehindAMegabyte,
    StopsBeforeTheEnd,
    SaysOtherPositions,
    WritesTwice,
    WritesHalfOfARefusedUnit,
    ReversesUnits,
    TellsWatermarksTwice,
    FetchesTheFirstRecordAlways,
    FetchesWithOtherTimes,
    ForgetsARecordInFetch,
    FindsTimesLate,
    TrimsTooMuch,
    TrimsSilently,
    ChangesPartitions,
    CachesOtherBytes,
    TakesAnything,
}

#[derive(Debug)]
struct Broken {
    inner: ModelLog,
    defect: Defect,
}

fn before(position: Position) -> Position {
    Position { offset: position.offset.saturating_sub(1), ..position }
}

/// Takes one from every position.
#[derive(Debug)]
struct Shift(Reply);

impl CompletionSink for Shift {
    fn complete(&self, completions: Vec<Completion>) {
        let shifted = completions.into_iter().map(|Completion { outcome, .. }| {
            let outcome = match outcome {
                Outcome::Committed(positions) => Outcome::Committed(positions.into_iter().map(before).collect()),
                other => other,
            };
            Completion { tag: self.0.tag, outcome }
        });
        self.0.sink.complete(shifted.collect());
    }
}

impl Broken {
    fn is(&self, defect: Defect) -> bool {
        self.defect == defect
    }
}

#[derive(Debug)]
struct Twice(Arc<dyn WatermarkSink>);

impl WatermarkSink for Twice {
    fn advanced(&self, watermarks: &[(Partition, Position)]) {
        self.0.advanced(watermarks);
        self.0.advanced(watermarks);
    }
}

impl Log for Broken {
    fn open_stream(&self, id: &StreamId, partitions: u32) -> Result<Stream, Refusal> {
        let mut stream = self.inner.open_stream(id, partitions)?;
        if self.is(Defect::ChangesPartitions) {
            stream.partitions = partitions;
        }
        Ok(stream)
    }

    fn streams(&self) -> Vec<Stream> {
        self.inner.streams()
    }

    fn partition_id(&self, partition: Partition) -> Option<PartitionId> {
        self.inner.partition_id(partition)
    }

    fn submit(&self, mut append: Append, reply: Option<Reply>) {
        if self.is(Defect::ReversesUnits) {
            append.batches.reverse();
        }
        if self.is(Defect::WritesTwice) {
            let again = Append { batches: append.batches.clone(), class: append.class };
            self.inner.submit(again, None);
        }
        if self.is(Defect::WritesHalfOfARefusedUnit) && append.batches.len() > 1 {
            let half = Append { batches: vec![append.batches[0].clone()], class: append.class };
            self.inner.submit(half, None);
        }
        if self.is(Defect::TakesAnything) {
            append.batches.retain(|(partition, _)| self.inner.partition_id(*partition).is_some());
        }
        let reply = reply.map(|reply| {
            if self.is(Defect::SaysOtherPositions) { Reply { sink: Arc::new(Shift(reply)), tag: 0 } } else { reply }
        });
        self.inner.submit(append, reply);
    }

    fn keeps_units_whole(&self) -> bool {
        self.inner.keeps_units_whole()
    }

    fn queued_bytes(&self) -> u64 {
        0
    }

    fn queue_capacity_bytes(&self) -> u64 {
        self.inner.queue_capacity_bytes()
    }

    fn start(&self, partition: Partition) -> Position {
        self.inner.start(partition)
    }

    fn watermark(&self, partition: Partition) -> Position {
        self.inner.watermark(partition)
    }

    fn watch(&self, sink: Arc<dyn WatermarkSink>) {
        let twice = self.is(Defect::TellsWatermarksTwice);
        self.inner.watch(if twice { Arc::new(Twice(sink)) } else { sink });
    }

    fn watch_retention(&self, sink: Arc<dyn RetentionSink>) {
        self.inner.watch_retention(sink);
    }

    fn read(&self, partition: Partition, from: Position, max_bytes: usize) -> Result<Read, ReadError> {
        let max_bytes = if self.is(Defect::ReadsWithoutLimit) { usize::MAX } else { max_bytes };
        let mut read = match self.inner.read(partition, from, max_bytes) {
            Err(ReadError::Trimmed { start, .. }) if self.is(Defect::TrimsSilently) => {
                return self.inner.read(partition, start, max_bytes);
            }
            other => other?,
        };
        match self.defect {
            Defect::ReadsFromTheNextBatch => read.batches.retain(|batch| batch.base >= from),
            Defect::ReadsNothingBehindAMegabyte if max_bytes > 1 << 20 => read.batches.clear(),
            Defect::StopsBeforeTheEnd if read.batches.is_empty() => read.next = from,
            Defect::StopsBeforeTheEnd => read.next = read.batches[0].base,
            _ => {}
        }
        Ok(read)
    }

    fn read_cached(&self, partition: Partition, from: Position, max_bytes: usize) -> Option<Read> {
        let from = if self.is(Defect::CachesOtherBytes) { self.inner.start(partition) } else { from };
        self.inner.read_cached(partition, from, max_bytes)
    }

    fn fetch(&self, partition: Partition, refs: &[RecordRef]) -> Result<Vec<FetchedRecord>, ReadError> {
        let mut fetched = self.inner.fetch(partition, refs)?;
        match self.defect {
            Defect::FetchesTheFirstRecordAlways => {
                let first = fetched.first().map(|first| first.bytes.clone()).unwrap_or_default();
                fetched.iter_mut().for_each(|record| record.bytes = first.clone());
            }
            Defect::FetchesWithOtherTimes => fetched.iter_mut().for_each(|record| record.base_timestamp_ms += 1),
            Defect::ForgetsARecordInFetch => drop(fetched.pop()),
            _ => {}
        }
        Ok(fetched)
    }

    fn position_at(&self, partition: Partition, time_ms: i64) -> Result<Position, ReadError> {
        let found = self.inner.position_at(partition, time_ms)?;
        Ok(if self.is(Defect::FindsTimesLate) { found.next() } else { found })
    }

    fn trim(&self, partition: Partition, before: Position) {
        let all = self.inner.watermark(partition);
        self.inner.trim(partition, if self.is(Defect::TrimsTooMuch) { all } else { before });
    }
}

#[test]
fn each_defect_is_found() {
    use Defect as D;
    for defect in [
        D::ReadsFromTheNextBatch,
        D::ReadsWithoutLimit,
        D::ReadsNothingBehindAMegabyte,
        D::StopsBeforeTheEnd,
        D::SaysOtherPositions,
        D::WritesTwice,
        D::WritesHalfOfARefusedUnit,
        D::ReversesUnits,
        D::TellsWatermarksTwice,
        D::FetchesTheFirstRecordAlways,
        D::FetchesWithOtherTimes,
        D::ForgetsARecordInFetch,
        D::FindsTimesLate,
        D::TrimsTooMuch,
        D::TrimsSilently,
        D::ChangesPartitions,
        D::CachesOtherBytes,
        D::TakesAnything,
    ] {
        let engine = || {
            let clock = Arc::new(ManualClock::default());
            let inner = ModelLog::new(Arc::clone(&clock) as Arc<dyn Clock>);
            let log = Arc::new(Broken { inner, defect });
            Harness::new(log, clock)
        };
        assert!(catch_unwind(AssertUnwindSafe(|| run(&engine))).is_err(), "{defect:?} passes");
    }
}
