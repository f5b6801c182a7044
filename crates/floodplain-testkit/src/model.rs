//! The contract of the log as the least code that keeps it.

use floodplain_log::{
    Append, Batch, BatchBuilder, Completion, Compression, FetchedRecord, Log, Outcome, Partition, Read, ReadBatch,
    ReadError, RecordRef, Refusal, Reply, RetentionSink, Stream, WatermarkSink,
};
use floodplain_types::{Clock, PartitionId, Position, StreamId};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A [`Log`] in memory that commits each append before `submit` returns, on the caller's thread.
///
/// The reference that engines are compared with, and a fast, deterministic log for tests of what
/// sits above one. Clones are the same log, so a test can "restart" what uses it.
#[derive(Debug, Clone)]
pub struct ModelLog {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
}

const CAPACITY_BYTES: u64 = 4 << 20;

#[derive(Debug, Default)]
struct State {
    streams: Vec<Stream>,
    partitions: HashMap<Partition, Part>,
    watchers: Vec<Arc<dyn WatermarkSink>>,
    retention_watchers: Vec<Arc<dyn RetentionSink>>,
}

#[derive(Debug, Default)]
struct Part {
    /// Each with its ingest time in milliseconds since 1970.
    batches: Vec<(i64, ReadBatch)>,
    start: u64,
    end: u64,
    end_bytes: u64,
}

impl ModelLog {
    /// An empty log.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { state: Arc::default(), clock }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(&self, batches: Vec<(Partition, Batch)>) -> (Outcome, Vec<(Partition, Position)>) {
        let bytes: u64 = batches.iter().map(|(_, batch)| batch.as_bytes().len() as u64).sum();
        if bytes > CAPACITY_BYTES {
            return (Outcome::Refused(Refusal::TooLarge { bytes, max_bytes: CAPACITY_BYTES }), Vec::new());
        }
        let now_ms = self.clock.now().as_millis();
        let mut state = self.state();
        if let Some((unknown, _)) = batches.iter().find(|(partition, _)| !state.partitions.contains_key(partition)) {
            return (Outcome::Refused(Refusal::UnknownPartition(*unknown)), Vec::new());
        }
        let (mut positions, mut advanced) = (Vec::new(), Vec::<(Partition, Position)>::new());
        for (partition, batch) in batches {
            let generation = state.generation(partition);
            let part = state.partitions.entry(partition).or_default();
            let base = Position::new(generation, part.end);
            let batch = batch.with_base_offset(part.end);
            part.end += u64::from(batch.last_offset_delta()) + 1;
            let at = part.end_bytes;
            part.end_bytes += batch.as_bytes().len() as u64;
            part.batches.push((now_ms, ReadBatch { base, batch, at }));
            positions.push(base);
            advanced.retain(|(other, _)| *other != partition);
            advanced.push((partition, Position::new(generation, part.end)));
        }
        (Outcome::Committed(positions), advanced)
    }
}

impl State {
    fn generation(&self, partition: Partition) -> u32 {
        self.streams.get(partition.stream as usize).map_or(0, |stream| stream.id.generation)
    }

    fn part(&self, partition: Partition) -> Result<&Part, ReadError> {
        self.partitions.get(&partition).ok_or(ReadError::UnknownPartition(partition))
    }

    fn id(&self, partition: Partition) -> Option<PartitionId> {
        let stream = self.streams.get(partition.stream as usize)?;
        (partition.index < stream.partitions)
            .then(|| PartitionId { stream: (*stream.id).clone(), index: partition.index })
    }
}

impl Part {
    fn end_of(&self, i: usize) -> u64 {
        self.batches.get(i + 1).map_or(self.end, |(_, next)| next.base.offset)
    }
}

impl Log for ModelLog {
    fn open_stream(&self, id: &StreamId, partitions: u32) -> Result<Stream, Refusal> {
        let mut state = self.state();
        if let Some(stream) = state.streams.iter().find(|stream| *stream.id == *id) {
            return Ok(stream.clone());
        }
        let number = state.streams.len() as u32;
        let stream = Stream { id: Arc::new(id.clone()), number, partitions };
        for index in 0..partitions {
            state.partitions.insert(stream.partition(index), Part::default());
        }
        state.streams.push(stream.clone());
        Ok(stream)
    }

    fn streams(&self) -> Vec<Stream> {
        self.state().streams.clone()
    }

    fn partition_id(&self, partition: Partition) -> Option<PartitionId> {
        self.state().id(partition)
    }

    fn submit(&self, append: Append, reply: Option<Reply>) {
        let (outcome, advanced) = self.commit(append.batches);
        let watchers = self.state().watchers.clone();
        if !advanced.is_empty() {
            watchers.iter().for_each(|watcher| watcher.advanced(&advanced));
        }
        if let Some(Reply { sink, tag }) = reply {
            sink.complete(vec![Completion { tag, outcome }]);
        }
    }

    fn keeps_units_whole(&self) -> bool {
        true
    }

    fn queued_bytes(&self) -> u64 {
        0
    }

    fn queue_capacity_bytes(&self) -> u64 {
        CAPACITY_BYTES
    }

    fn start(&self, partition: Partition) -> Position {
        let state = self.state();
        Position::new(state.generation(partition), state.partitions.get(&partition).map_or(0, |part| part.start))
    }

    fn watermark(&self, partition: Partition) -> Position {
        let state = self.state();
        Position::new(state.generation(partition), state.partitions.get(&partition).map_or(0, |part| part.end))
    }

    fn watch(&self, sink: Arc<dyn WatermarkSink>) {
        self.state().watchers.push(sink);
    }

    fn watch_retention(&self, sink: Arc<dyn RetentionSink>) {
        self.state().retention_watchers.push(sink);
    }

    fn read(&self, partition: Partition, from: Position, max_bytes: usize) -> Result<Read, ReadError> {
        let state = self.state();
        let part = state.part(partition)?;
        let generation = state.generation(partition);
        let start = Position::new(generation, part.start);
        if from < start {
            let partition = state.id(partition).ok_or(ReadError::UnknownPartition(partition))?;
            return Err(ReadError::Trimmed { partition, from, start });
        }
        let first = (0..part.batches.len()).find(|i| part.end_of(*i) > from.offset).unwrap_or(part.batches.len());
        let (mut batches, mut bytes) = (Vec::new(), 0);
        let mut next = from.max(Position::new(generation, part.end));
        for i in first..part.batches.len() {
            let batch = &part.batches[i].1;
            bytes += batch.batch.as_bytes().len();
            if bytes > max_bytes && !batches.is_empty() {
                next = batch.base;
                break;
            }
            batches.push(batch.clone());
        }
        Ok(Read { batches, next, damaged: Vec::new() })
    }

    fn read_cached(&self, partition: Partition, from: Position, max_bytes: usize) -> Option<Read> {
        self.read(partition, from, max_bytes).ok()
    }

    fn fetch(&self, partition: Partition, refs: &[RecordRef]) -> Result<Vec<FetchedRecord>, ReadError> {
        let state = self.state();
        let part = state.part(partition)?;
        let mut fetched = Vec::new();
        for reference in refs {
            let holds = |batch: &&(i64, ReadBatch)| {
                let last = batch.1.base.offset + u64::from(batch.1.batch.last_offset_delta());
                (batch.1.base.offset..=last).contains(&reference.position.offset)
            };
            let Some((_, batch)) = part.batches.iter().find(holds) else { continue };
            let records = batch.batch.records().expect("committed batches are sound");
            let record = records.iter().flatten().find(|record| batch.position(record) == reference.position);
            fetched.extend(record.map(|record| FetchedRecord {
                position: reference.position,
                base_timestamp_ms: batch.record_ref(&record).base_timestamp_ms,
                bytes: record.bytes.to_vec().into(),
            }));
        }
        Ok(fetched)
    }

    fn position_at(&self, partition: Partition, time_ms: i64) -> Result<Position, ReadError> {
        let state = self.state();
        let part = state.part(partition)?;
        let found = part.batches.iter().find(|(ingested, _)| *ingested >= time_ms);
        Ok(found.map_or(Position::new(state.generation(partition), part.end), |(_, batch)| batch.base))
    }

    fn trim(&self, partition: Partition, before: Position) {
        let (watchers, passed) = {
            let mut state = self.state();
            let generation = state.generation(partition);
            let Some(part) = state.partitions.get_mut(&partition) else { return };
            let was = part.start;
            while let Some((_, first)) = part.batches.first() {
                let end = first.base.offset + u64::from(first.batch.last_offset_delta()) + 1;
                if end > before.offset {
                    break;
                }
                part.start = end;
                part.batches.remove(0);
            }
            let passed = (part.start > was).then(|| (partition, Position::new(generation, part.start)));
            (state.retention_watchers.clone(), passed)
        };
        if let Some(passed) = passed {
            watchers.iter().for_each(|watcher| watcher.passed(&[passed]));
        }
    }
}

/// A batch of one record with this payload, keyed, for tests that need no more.
///
/// # Panics
/// If the payload is larger than a batch may be.
#[must_use]
pub fn batch_of(key: &[u8], payload: &[u8], time_ms: i64) -> Batch {
    let mut builder = BatchBuilder::new();
    builder.push(time_ms, Some(key), Some(payload), []).expect("tests write small records");
    builder.finish(Compression::None).expect("one record was pushed")
}
