//! The engine: what its threads share, and the contract on top of them.

use crate::{
    admin::{Admin, At},
    catalog::{Bounds, Catalog, OpenStream, v1},
    config::KafkaConfig,
    follow::Follower,
    metrics::LogMetrics,
    past::{Past, PastError, Place},
    produce::{Item, Producers},
    record::{bytes_of, check, read_batch},
    tail::Tail,
    time::{Deadline, now},
    topic,
    unit::{Part, Shared, Unit, cost, lock},
};
use floodplain_log::{
    Append, Batch, BatchBuilder, Completion, CompletionSink, Compression, FetchedRecord, HEADER_BYTES, InOrder, Log,
    MAX_UNIT_BYTES, Outcome, Partition, Read, ReadError, RecordRef, Refusal, Reply, RetentionSink, Stream,
    WatermarkSink,
};
use floodplain_types::{Class, Clock, PartitionId, Position, StreamId};
use std::{
    collections::HashMap,
    error::Error,
    io,
    sync::{
        Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

/// What a batch of one record has in Kafka beside it, and our own bound of what headers of requests add.
const MESSAGE_OVERHEAD: u32 = HEADER_BYTES as u32 + 512;

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting is wrong, a file of secrets cannot be read, or a thread cannot be started.
    #[error("cannot start the clients of kafka")]
    Client(#[source] io::Error),
    /// The cluster does not answer, or not as it should.
    #[error("cannot {what} in kafka at {servers}")]
    Cluster { what: &'static str, servers: String, source: Box<dyn Error + Send + Sync> },
}

/// The log of many nodes, on Apache Kafka.
///
/// What it promises and where it differs from the embedded engine is in `docs/decisions/0011-log-on-kafka.md`.
/// Dropping it ends as [`Self::close`] does.
#[derive(Debug)]
pub struct KafkaLog {
    pub(crate) inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads of one log share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: KafkaConfig,
    pub(crate) shared: Arc<Shared>,
    pub(crate) admin: Admin,
    /// Where both are locked, the catalog first.
    pub(crate) tail: Mutex<Tail>,
    pub(crate) is_closing: AtomicBool,
    catalog: RwLock<Catalog>,
    /// Told when a stream came into the catalog, and when the log closes.
    grown: Condvar,
    grown_lock: Mutex<()>,
    producers: Producers,
    past: Past,
    clock: Arc<dyn Clock>,
    watchers: RwLock<Vec<Arc<dyn WatermarkSink>>>,
    retention_watchers: RwLock<Vec<Arc<dyn RetentionSink>>>,
    /// Of each submitter that keeps order, how many of its appends were refused.
    refused: Mutex<HashMap<u32, u64>>,
}

impl KafkaLog {
    /// Connects, reads which streams there are, and follows them.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was started then.
    pub fn open(clock: Arc<dyn Clock>, config: KafkaConfig) -> Result<Arc<Self>, OpenError> {
        let servers = config.bootstrap_servers.join(",");
        let cluster = |what: &'static str| {
            let servers = servers.clone();
            move |source: crate::admin::AdminError| OpenError::Cluster { what, servers, source: source.into() }
        };
        let admin = Admin::open(&config).map_err(OpenError::Client)?;
        let streams = format!("{}{}", config.topic_prefix, topic::STREAMS);
        let settings = topic::streams_settings(&config);
        admin
            .ensure_topic(&streams, 1, config.replication, &settings)
            .map_err(cluster("create the topic of streams"))?;
        let end = admin.offsets(&[(&streams, 0)], At::End).map_err(cluster("find the end of the topic of streams"))?;

        let shared = Shared::new(config.queue_bytes, LogMetrics::new());
        let inner = Arc::new(Inner {
            producers: Producers::open(&config, &shared).map_err(OpenError::Client)?,
            past: Past::open(&config, &shared).map_err(OpenError::Client)?,
            tail: Mutex::new(Tail::new(config.tail_bytes)),
            config,
            shared,
            admin,
            is_closing: AtomicBool::new(false),
            catalog: RwLock::default(),
            grown: Condvar::new(),
            grown_lock: Mutex::default(),
            clock,
            watchers: RwLock::default(),
            retention_watchers: RwLock::default(),
            refused: Mutex::default(),
        });
        // From here on dropping it ends what was started.
        let log = Arc::new(Self { inner: Arc::clone(&inner), threads: Mutex::default() });
        let teller = Arc::clone(&inner.shared);
        log.start("log-kafka-tell", move || teller.tell())?;
        let (ready, is_ready) = sync_channel(1);
        let follower = Follower::open(&inner.config, &inner).map_err(OpenError::Client)?;
        let end = end[0].unwrap_or(0);
        log.start("log-kafka-tail", move || follower.run(end, &ready))?;
        match is_ready.recv_timeout(inner.config.request_timeout * 3) {
            Ok(followed) => followed.map_err(cluster("follow the streams"))?,
            Err(error) => {
                let source = Box::new(error);
                return Err(OpenError::Cluster { what: "read the topic of streams", servers, source });
            }
        }
        let house = Arc::clone(&inner);
        log.start("log-kafka-house", move || house.keep_house())?;
        Ok(log)
    }

    fn start(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), OpenError> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run).map_err(OpenError::Client)?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Refuses new appends, waits for those under way as long as the configuration says, and ends all threads. What
    /// has no outcome by then is unknown.
    pub fn close(&self) {
        self.inner.is_closing.store(true, Ordering::Release);
        drop(lock(&self.inner.grown_lock));
        self.inner.grown.notify_all();
        self.inner.producers.close();
        self.inner.shared.close();
        for thread in lock(&self.threads).drain(..) {
            // It has said why, if it has panicked.
            drop(thread.join());
        }
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    pub(crate) fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream is there from now on.
    pub(crate) fn insert(&self, stream: Arc<OpenStream>) {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner).insert(stream);
        drop(lock(&self.grown_lock));
        self.grown.notify_all();
    }

    pub(crate) fn tell_watermarks(&self, watermarks: &[(Partition, Position)]) {
        let watchers = self.watchers.read().unwrap_or_else(PoisonError::into_inner).clone();
        watchers.iter().for_each(|watcher| watcher.advanced(watermarks));
    }

    fn stream(&self, partition: Partition) -> Option<Arc<OpenStream>> {
        self.catalog().get(partition.stream).filter(|stream| partition.index < stream.stream.partitions).cloned()
    }

    fn position(&self, partition: Partition, of: impl Fn(&Bounds) -> u64) -> Position {
        let catalog = self.catalog();
        let Some(stream) = catalog.get(partition.stream) else { return Position::ZERO };
        let offset = stream.bounds(partition.index).map_or(0, of);
        Position::new(stream.stream.id.generation, offset)
    }

    fn keep_house(&self) {
        while !self.is_closing.load(Ordering::Acquire) {
            self.admin.serve();
            if let Err(error) = self.refresh_starts() {
                tracing::info!(%error, "starts of partitions are not known for now");
            }
            let held = lock(&self.grown_lock);
            let is_open = |(): &mut ()| !self.is_closing.load(Ordering::Acquire);
            drop(self.grown.wait_timeout_while(held, self.config.starts_interval, is_open));
        }
    }

    /// Learns what retention took.
    fn refresh_starts(&self) -> Result<(), crate::admin::AdminError> {
        let streams = self.catalog().all().to_vec();
        let partitions: Vec<(&OpenStream, u32)> =
            streams.iter().flat_map(|stream| (0..stream.stream.partitions).map(|index| (&**stream, index))).collect();
        let names: Vec<(&str, u32)> = partitions.iter().map(|(stream, index)| (&*stream.topic, *index)).collect();
        let starts = self.admin.offsets(&names, At::Start)?;
        let starts = partitions.into_iter().zip(starts);
        self.move_starts(starts.filter_map(|((stream, index), start)| Some((stream, index, start?))));
        Ok(())
    }

    fn move_starts<'s>(&self, starts: impl Iterator<Item = (&'s OpenStream, u32, u64)>) {
        let mut passed = Vec::new();
        for (stream, index, start) in starts {
            if stream.bounds(index).is_some_and(|bounds| bounds.starts_at(start)) {
                let position = Position::new(stream.stream.id.generation, start);
                passed.push((stream.stream.partition(index), position));
            }
        }
        if passed.is_empty() {
            return;
        }
        self.shared.metrics.retained_partitions.increment(passed.len() as u64);
        let watchers = self.retention_watchers.read().unwrap_or_else(PoisonError::into_inner).clone();
        watchers.iter().for_each(|watcher| watcher.passed(&passed));
    }

    /// Queues an append, or answers at once.
    fn take(&self, append: Append, reply: Option<Reply>, order: Option<InOrder>) {
        let (outcome, reply) = if append.batches.is_empty() {
            // Nothing to write, so nothing to wait for.
            (Outcome::Committed(Vec::new()), reply)
        } else {
            match self.admit(&append, order) {
                Ok((streams, cost)) => return self.queue(append, &streams, cost, reply),
                Err(refusal) => {
                    self.shared.metrics.refused.increment(1);
                    if let Some(order) = order {
                        *lock(&self.refused).entry(order.submitter).or_default() += 1;
                    }
                    (Outcome::Refused(refusal), reply)
                }
            }
        };
        if let Some(Reply { sink, tag }) = reply {
            sink.complete(vec![Completion { tag, outcome }]);
        }
    }

    /// The streams of the batches and the permits that were taken for them. After this nothing is refused.
    pub(crate) fn admit(
        &self,
        append: &Append,
        order: Option<InOrder>,
    ) -> Result<(Vec<Arc<OpenStream>>, u64), Refusal> {
        if self.is_closing.load(Ordering::Acquire) {
            return Err(Refusal::Closing);
        }
        let mut streams = Vec::with_capacity(append.batches.len());
        for (partition, _) in &append.batches {
            streams.push(self.stream(*partition).ok_or(Refusal::UnknownPartition(*partition))?);
        }
        let bytes: u64 = append.batches.iter().map(|(_, batch)| batch.as_bytes().len() as u64).sum();
        if bytes > MAX_UNIT_BYTES {
            return Err(Refusal::TooLarge { bytes, max_bytes: MAX_UNIT_BYTES });
        }
        let mut cost = 0;
        for (_, batch) in &append.batches {
            cost += self.check_batch(batch)?;
        }
        if let Some(order) = order
            && lock(&self.refused).get(&order.submitter).is_some_and(|refused| order.refusals_seen < *refused)
        {
            return Err(Refusal::AfterRefused);
        }
        let permits = &self.shared.permits;
        if !permits.take(cost) {
            return Err(Refusal::Overloaded { capacity_bytes: permits.capacity() });
        }
        self.shared.metrics.queue_bytes.set(permits.used() as f64);
        Ok((streams, cost))
    }

    /// What the records of a batch cost while they are under way, once they are known to be what brokers take.
    fn check_batch(&self, batch: &Batch) -> Result<u64, Refusal> {
        let max_bytes = u64::from(self.config.max_message_bytes.saturating_sub(MESSAGE_OVERHEAD));
        let (mut largest, mut bytes) = (0, 0);
        let checked = check(batch, |record| {
            largest = largest.max(record.bytes.len() as u64);
            bytes += record.bytes.len();
        });
        if let Err(error) = checked {
            return Err(Refusal::Unavailable { cause: format!("records cannot be read: {error}").into() });
        }
        if largest > max_bytes {
            return Err(Refusal::TooLarge { bytes: largest, max_bytes });
        }
        Ok(cost(bytes, batch.record_count()))
    }

    fn queue(&self, append: Append, streams: &[Arc<OpenStream>], cost: u64, reply: Option<Reply>) {
        let Append { batches, class } = append;
        let places = batches.iter().zip(streams).map(|((partition, _), stream)| {
            let end = stream.bounds(partition.index).map_or(0, Bounds::end);
            (*partition, Position::new(stream.stream.id.generation, end))
        });
        let unit = Unit::new(&self.shared, class, cost, places.collect(), reply, now());
        let metrics = &self.shared.metrics;
        metrics.batches.increment(batches.len() as u64);
        for (idx, ((_, batch), stream)) in batches.into_iter().zip(streams).enumerate() {
            metrics.records.increment(u64::from(batch.record_count()));
            metrics.appended_bytes.increment(batch.as_bytes().len() as u64);
            let part = Part::new(&unit, idx, batch.record_count());
            self.producers.push(class, Item { part, topic: Arc::clone(&stream.topic), batch });
        }
        unit.submitted();
    }

    /// Writes the entry of a new stream and waits until it is read again.
    fn create(&self, id: &StreamId, partitions: u32) -> Result<Stream, Refusal> {
        let unavailable = |cause: String| Refusal::Unavailable { cause: cause.into() };
        let name = topic::name(&self.config.topic_prefix, id);
        if let Some(other) = self.catalog().by_topic(&name) {
            return Err(unavailable(format!("topic {name} is that of stream {}", other.stream.id)));
        }
        let partitions = if partitions == 0 { self.config.partitions_default } else { partitions };
        let settings = topic::stream_settings(&self.config, id);
        let made = self.admin.ensure_topic(&name, partitions, self.config.replication, &settings);
        let partitions = made.map_err(|error| unavailable(format!("cannot create topic {name}: {error}")))?;

        let mut builder = BatchBuilder::new();
        let entry = v1::Entry::encode(id, partitions);
        let pushed = builder.push(self.clock.now().as_millis(), Some(name.as_bytes()), Some(&entry), []);
        let batch = pushed.ok().and_then(|_| builder.finish(Compression::None)).expect("an entry is small");
        let topic: Arc<str> = format!("{}{}", self.config.topic_prefix, topic::STREAMS).into();
        let cost = self.check_batch(&batch)?;
        if !self.shared.permits.take(cost) {
            return Err(Refusal::Overloaded { capacity_bytes: self.shared.permits.capacity() });
        }
        let (ended, outcome) = sync_channel(1);
        let reply = Reply { sink: Arc::new(Once(ended)), tag: 0 };
        // No stream has this number; nothing asks for it before the end.
        let partition = Partition { stream: u32::MAX, index: 0 };
        // Whether it can be read is waited for below.
        self.shared.followed([(partition, u64::MAX)].into_iter());
        let unit = Unit::new(&self.shared, Class::All, cost, vec![(partition, Position::ZERO)], Some(reply), now());
        let part = Part::new(&unit, 0, 1);
        self.producers.push(Class::All, Item { part, topic, batch });
        unit.submitted();
        let deadline = Deadline::after(self.config.request_timeout);
        match outcome.recv_timeout(self.config.request_timeout) {
            Ok(Outcome::Committed(_)) => {}
            _ => return Err(unavailable(format!("the entry of stream {id} was not acknowledged in time"))),
        }
        let mut held = lock(&self.grown_lock);
        loop {
            if let Some(stream) = self.catalog().by_id(id) {
                return Ok(stream.stream.clone());
            }
            if self.is_closing.load(Ordering::Acquire) {
                return Err(Refusal::Closing);
            }
            let Some(left) = deadline.left() else {
                return Err(unavailable(format!("stream {id} was not found again in time")));
            };
            (held, _) = self.grown.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// From memory, if all of it is there.
    fn read_tail(&self, stream: &OpenStream, partition: Partition, from: Position, max_bytes: usize) -> Option<Read> {
        let generation = stream.stream.id.generation;
        let bounds = stream.bounds(partition.index)?;
        let tail = lock(&self.tail);
        let end = Position::new(generation, bounds.end());
        if from >= end {
            return Some(Read { next: from, ..Read::default() });
        }
        if from < Position::new(generation, bounds.start()) {
            return None;
        }
        let (batches, all) = tail.read(partition, from.offset, max_bytes)?;
        drop(tail);
        Some(read_of(generation, &batches, if all { Some(end.offset) } else { None }, from))
    }

    fn read(&self, partition: Partition, from: Position, max_bytes: usize) -> Result<Read, ReadError> {
        let stream = self.stream(partition).ok_or(ReadError::UnknownPartition(partition))?;
        let generation = stream.stream.id.generation;
        let bounds = stream.bounds(partition.index).ok_or(ReadError::UnknownPartition(partition))?;
        let start = Position::new(generation, bounds.start());
        if from < start {
            return Err(trimmed(&stream, partition, from, start));
        }
        if let Some(read) = self.read_tail(&stream, partition, from, max_bytes) {
            return Ok(read);
        }
        let place = Place { partition, topic: &stream.topic, from: from.offset, end: bounds.end() };
        match self.past.read(&self.admin, place, max_bytes) {
            Ok((batches, next)) => Ok(read_of(generation, &batches, Some(next), from)),
            Err(error) => Err(self.read_error(&stream, partition, from, error)),
        }
    }

    fn read_error(&self, stream: &OpenStream, partition: Partition, from: Position, error: PastError) -> ReadError {
        if let PastError::OutOfRange(_) = &error
            && let Ok(starts) = self.admin.offsets(&[(&stream.topic, partition.index)], At::Start)
            && let Some(start) = starts[0].filter(|start| *start > from.offset)
        {
            self.move_starts([(stream, partition.index, start)].into_iter());
            return trimmed(stream, partition, from, Position::new(from.generation, start));
        }
        let kind = match &error {
            PastError::Timeout { .. } => io::ErrorKind::TimedOut,
            PastError::OutOfRange(_) | PastError::Batch(_) => io::ErrorKind::InvalidData,
            PastError::Kafka(_) | PastError::Admin(_) => io::ErrorKind::Other,
        };
        let file = format!("{}/{}", stream.topic, partition.index);
        ReadError::Io { file, at: from.offset, source: io::Error::new(kind, error) }
    }

    fn fetch(&self, partition: Partition, refs: &[RecordRef]) -> Result<Vec<FetchedRecord>, ReadError> {
        let stream = self.stream(partition).ok_or(ReadError::UnknownPartition(partition))?;
        let bounds = stream.bounds(partition.index).ok_or(ReadError::UnknownPartition(partition))?;
        let generation = stream.stream.id.generation;
        let (start, end) = (bounds.start(), bounds.end());
        let mut found: HashMap<u64, Batch> = HashMap::with_capacity(refs.len());
        let mut missing: Vec<u64> = Vec::new();
        {
            let tail = lock(&self.tail);
            for reference in refs {
                let offset = reference.position.offset;
                if reference.position.generation != generation || !(start..end).contains(&offset) {
                    continue;
                }
                match tail.at(partition, offset) {
                    Some(Some(batch)) => drop(found.insert(offset, batch.clone())),
                    Some(None) => {}
                    None => missing.push(offset),
                }
            }
        }
        missing.sort_unstable();
        missing.dedup();
        if let Some(first) = missing.first() {
            let place = Place { partition, topic: &stream.topic, from: *first, end };
            match self.past.fetch(&self.admin, place, &missing) {
                Ok(batches) => found.extend(batches),
                Err(error) => {
                    let error = self.read_error(&stream, partition, Position::new(generation, *first), error);
                    // Retention has come between: ask for what is left.
                    return match error {
                        ReadError::Trimmed { .. } => self.fetch(partition, refs),
                        other => Err(other),
                    };
                }
            }
        }
        let fetched = |reference: &RecordRef| {
            let batch = found.get(&reference.position.offset)?;
            let base_timestamp_ms = batch.base_timestamp_ms();
            Some(FetchedRecord { position: reference.position, base_timestamp_ms, bytes: bytes_of(batch) })
        };
        let is_ours = |reference: &&RecordRef| reference.position.generation == generation;
        Ok(refs.iter().filter(is_ours).filter_map(fetched).collect())
    }

    fn position_at(&self, partition: Partition, time_ms: i64) -> Result<Position, ReadError> {
        let stream = self.stream(partition).ok_or(ReadError::UnknownPartition(partition))?;
        // Before the question: what comes meanwhile is behind it.
        let end = self.position(partition, Bounds::end);
        let found = self.admin.offsets(&[(&stream.topic, partition.index)], At::Time(time_ms)).map_err(|error| {
            let file = format!("{}/{}", stream.topic, partition.index);
            ReadError::Io { file, at: end.offset, source: io::Error::other(error) }
        })?;
        Ok(found[0].map_or(end, |offset| Position { offset: offset.min(end.offset), ..end }))
    }

    fn trim(&self, partition: Partition, before: Position) {
        let Some(stream) = self.stream(partition) else { return };
        let Some(bounds) = stream.bounds(partition.index) else { return };
        if before.generation != stream.stream.id.generation {
            return;
        }
        // Kafka refuses what is behind its end.
        let before = before.offset.min(bounds.end());
        if before <= bounds.start() {
            return;
        }
        match self.admin.delete_before(&stream.topic, partition.index, before) {
            Ok(start) => self.move_starts([(&*stream, partition.index, start)].into_iter()),
            Err(error) => tracing::warn!(%partition, before, %error, "records cannot be removed"),
        }
    }
}

fn read_of(generation: u32, batches: &[Batch], next: Option<u64>, from: Position) -> Read {
    let next = next.or_else(|| batches.last().map(|last| last.base_offset() + 1)).unwrap_or(from.offset);
    Read {
        batches: batches.iter().map(|batch| read_batch(generation, batch)).collect(),
        next: Position::new(generation, next),
        damaged: Vec::new(),
    }
}

fn trimmed(stream: &OpenStream, partition: Partition, from: Position, start: Position) -> ReadError {
    match stream.partition_id(partition.index) {
        Some(partition) => ReadError::Trimmed { partition, from, start },
        None => ReadError::UnknownPartition(partition),
    }
}

/// Hands one end to who waits for it.
#[derive(Debug)]
struct Once(SyncSender<Outcome>);

impl CompletionSink for Once {
    fn complete(&self, completions: Vec<Completion>) {
        for completion in completions {
            // Who waited may have gone.
            drop(self.0.try_send(completion.outcome));
        }
    }
}

impl Log for KafkaLog {
    fn open_stream(&self, id: &StreamId, partitions: u32) -> Result<Stream, Refusal> {
        let known = self.inner.catalog().by_id(id).map(|stream| stream.stream.clone());
        known.map_or_else(|| self.inner.create(id, partitions), Ok)
    }

    fn streams(&self) -> Vec<Stream> {
        self.inner.catalog().all().iter().map(|stream| stream.stream.clone()).collect()
    }

    fn partition_id(&self, partition: Partition) -> Option<PartitionId> {
        self.inner.stream(partition)?.partition_id(partition.index)
    }

    fn submit(&self, append: Append, reply: Option<Reply>) {
        self.inner.take(append, reply, None);
    }

    fn submit_in_order(&self, append: Append, reply: Reply, order: InOrder) {
        self.inner.take(append, Some(reply), Some(order));
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn keeps_units_whole(&self) -> bool {
        false
    }

    fn queued_bytes(&self) -> u64 {
        self.inner.shared.permits.used()
    }

    fn queue_capacity_bytes(&self) -> u64 {
        self.inner.shared.permits.capacity()
    }

    fn start(&self, partition: Partition) -> Position {
        self.inner.position(partition, Bounds::start)
    }

    fn watermark(&self, partition: Partition) -> Position {
        self.inner.position(partition, Bounds::end)
    }

    fn watch(&self, sink: Arc<dyn WatermarkSink>) {
        self.inner.watchers.write().unwrap_or_else(PoisonError::into_inner).push(sink);
    }

    fn watch_retention(&self, sink: Arc<dyn RetentionSink>) {
        self.inner.retention_watchers.write().unwrap_or_else(PoisonError::into_inner).push(sink);
    }

    fn read(&self, partition: Partition, from: Position, max_bytes: usize) -> Result<Read, ReadError> {
        self.inner.read(partition, from, max_bytes)
    }

    fn read_cached(&self, partition: Partition, from: Position, max_bytes: usize) -> Option<Read> {
        let stream = self.inner.stream(partition)?;
        self.inner.read_tail(&stream, partition, from, max_bytes)
    }

    fn fetch(&self, partition: Partition, refs: &[RecordRef]) -> Result<Vec<FetchedRecord>, ReadError> {
        self.inner.fetch(partition, refs)
    }

    fn position_at(&self, partition: Partition, time_ms: i64) -> Result<Position, ReadError> {
        self.inner.position_at(partition, time_ms)
    }

    fn trim(&self, partition: Partition, before: Position) {
        self.inner.trim(partition, before);
    }
}
