//! Reads of what is no longer in memory.

use crate::{
    admin::{Admin, AdminError, At},
    config::KafkaConfig,
    metrics::Context,
    record::Encoder,
    tail::take,
    time::{Deadline, now},
    unit::{Shared, lock},
};
use floodplain_log::{Batch, BatchError, Partition};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

/// Least and most bytes that one question to the cluster brings: a question costs milliseconds.
const CHUNK_BYTES: (usize, usize) = (256 << 10, 4 << 20);
/// What is read for a single record, with some of its neighbours: the next one that is asked for may be among them.
const POINT_BYTES: usize = 16 << 10;
/// How long one call into librdkafka may take, so that deadlines are kept.
const STEP: Duration = Duration::from_millis(100);

/// Why the past could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PastError {
    /// The cluster has nothing at this offset any more.
    #[error("offset {0} is out of range")]
    OutOfRange(u64),
    #[error("no answer within {after:?} (last error: {last:?})")]
    Timeout { after: Duration, last: Option<String> },
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Batch(#[from] BatchError),
}

/// All that is committed from `from` to `next`.
#[derive(Debug)]
struct Chunk {
    partition: Partition,
    from: u64,
    next: u64,
    batches: Vec<Batch>,
    bytes: usize,
}

impl Chunk {
    fn holds(&self, partition: Partition, offset: u64) -> bool {
        self.partition == partition && (self.from..self.next).contains(&offset)
    }

    fn read(&self, from: u64, max_bytes: usize) -> (Vec<Batch>, u64) {
        let first = self.batches.partition_point(|batch| batch.base_offset() < from);
        let (batches, all) = take(self.batches[first..].iter(), max_bytes);
        let next = if all { self.next } else { batches.last().map_or(from, |last| last.base_offset() + 1) };
        (batches, next)
    }
}

/// Where to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'t> {
    pub(crate) partition: Partition,
    pub(crate) topic: &'t str,
    pub(crate) from: u64,
    /// The watermark: nothing at or behind it is read.
    pub(crate) end: u64,
}

/// Consumers that read single partitions for a moment, and what they have read ahead.
#[derive(Debug)]
pub(crate) struct Past {
    ranges: Pool,
    points: Pool,
    /// The newest chunk last. Bounded by bytes.
    chunks: Mutex<VecDeque<Arc<Chunk>>>,
    chunks_bytes_max: usize,
    timeout: Duration,
    shared: Arc<Shared>,
}

impl Past {
    pub(crate) fn open(config: &KafkaConfig, shared: &Arc<Shared>) -> io::Result<Self> {
        Ok(Self {
            ranges: Pool::open(config, "past", config.readers.max(1), CHUNK_BYTES.1 / 4)?,
            points: Pool::open(config, "point", 1, POINT_BYTES)?,
            chunks: Mutex::default(),
            chunks_bytes_max: usize::try_from(config.read_bytes).unwrap_or(usize::MAX),
            timeout: config.read_timeout,
            shared: Arc::clone(shared),
        })
    }

    /// Batches from `from` on, about `max_bytes` and at least one if there is one, and where to read on.
    pub(crate) fn read(
        &self,
        admin: &Admin,
        place: Place<'_>,
        max_bytes: usize,
    ) -> Result<(Vec<Batch>, u64), PastError> {
        if let Some(chunk) = self.ahead(place.partition, place.from) {
            return Ok(chunk.read(place.from, max_bytes));
        }
        let chunk = Arc::new(self.load(admin, &self.ranges, place, max_bytes.clamp(CHUNK_BYTES.0, CHUNK_BYTES.1))?);
        let read = chunk.read(place.from, max_bytes);
        // What was given whole will not be asked for again soon.
        if read.1 < chunk.next {
            self.keep(chunk);
        }
        Ok(read)
    }

    /// The batches of single records, in the order of `offsets`; none where there is no such record.
    pub(crate) fn fetch(
        &self,
        admin: &Admin,
        place: Place<'_>,
        offsets: &[u64],
    ) -> Result<Vec<(u64, Batch)>, PastError> {
        let mut found = Vec::with_capacity(offsets.len());
        let mut chunk: Option<Arc<Chunk>> = None;
        for offset in offsets {
            if !chunk.as_ref().is_some_and(|chunk| chunk.holds(place.partition, *offset)) {
                chunk = Some(match self.ahead(place.partition, *offset) {
                    Some(chunk) => chunk,
                    None => Arc::new(self.load(admin, &self.points, Place { from: *offset, ..place }, POINT_BYTES)?),
                });
            }
            let batches = chunk.as_ref().map(|chunk| chunk.batches.as_slice()).unwrap_or_default();
            if let Ok(at) = batches.binary_search_by_key(offset, Batch::base_offset) {
                found.push((*offset, batches[at].clone()));
            }
        }
        Ok(found)
    }

    fn ahead(&self, partition: Partition, offset: u64) -> Option<Arc<Chunk>> {
        lock(&self.chunks).iter().rev().find(|chunk| chunk.holds(partition, offset)).map(Arc::clone)
    }

    fn keep(&self, chunk: Arc<Chunk>) {
        let mut chunks = lock(&self.chunks);
        // A reader that goes on leaves its last chunk behind.
        chunks.retain(|old| old.partition != chunk.partition || old.next != chunk.from);
        chunks.push_back(chunk);
        let mut bytes: usize = chunks.iter().map(|chunk| chunk.bytes).sum();
        while bytes > self.chunks_bytes_max {
            bytes -= chunks.pop_front().map_or(bytes, |gone| gone.bytes);
        }
    }

    fn load(&self, admin: &Admin, pool: &Pool, place: Place<'_>, bytes: usize) -> Result<Chunk, PastError> {
        let began = now();
        let mut reader = pool.take((place.partition, place.from));
        let loaded = reader.load(admin, place, bytes, self.timeout);
        if loaded.is_err() {
            reader.stop();
        }
        pool.give_back(reader);
        self.shared.metrics.past_reads.increment(1);
        self.shared.metrics.past_read_seconds.record(began.elapsed());
        loaded
    }
}

/// Consumers that wait for work.
#[derive(Debug)]
struct Pool {
    /// The one that was used last is the last.
    idle: Mutex<Vec<Reader>>,
    returned: Condvar,
}

impl Pool {
    fn open(config: &KafkaConfig, kind: &str, count: usize, fetch_bytes: usize) -> io::Result<Self> {
        let client = consumer_config(config, kind, fetch_bytes)?;
        let readers = (0..count).map(|_| Reader::open(&client, kind)).collect::<io::Result<_>>()?;
        Ok(Self { idle: Mutex::new(readers), returned: Condvar::new() })
    }

    /// The one that stands there, if any does, or the one that was idle longest.
    fn take(&self, at: (Partition, u64)) -> Reader {
        let idle = lock(&self.idle);
        let mut idle = self.returned.wait_while(idle, |idle| idle.is_empty()).unwrap_or_else(PoisonError::into_inner);
        let chosen = idle.iter().position(|reader| reader.at == Some(at)).unwrap_or(0);
        idle.remove(chosen)
    }

    fn give_back(&self, reader: Reader) {
        lock(&self.idle).push(reader);
        self.returned.notify_one();
    }
}

/// Settings of every consumer here. None of them is a member of a group: the id is only demanded.
pub(crate) fn consumer_base(config: &KafkaConfig, kind: &str) -> io::Result<ClientConfig> {
    let mut client = config.client(kind)?;
    let mut set = |name: &str, value: &str| config.set(&mut client, name, value);
    set("group.id", &format!("{}-{kind}", config.client_id));
    set("enable.auto.commit", "false");
    set("enable.auto.offset.store", "false");
    set("isolation.level", "read_committed");
    set("check.crcs", "true");
    // The defaults wait half a second and more wherever there is nothing to do at once.
    set("fetch.error.backoff.ms", "50");
    set("fetch.queue.backoff.ms", "5");
    Ok(client)
}

fn consumer_config(config: &KafkaConfig, kind: &str, fetch_bytes: usize) -> io::Result<ClientConfig> {
    let mut client = consumer_base(config, kind)?;
    let mut set = |name: &str, value: &str| config.set(&mut client, name, value);
    set("enable.partition.eof", "true");
    set("auto.offset.reset", "error");
    // A partition that is assigned must wait for the request that is under way, which waits for records of the last one.
    set("fetch.wait.max.ms", "10");
    set("fetch.message.max.bytes", &fetch_bytes.to_string());
    set("queued.max.messages.kbytes", &(fetch_bytes / 1024).max(1).to_string());
    Ok(client)
}

struct Reader {
    consumer: BaseConsumer<Context>,
    encoder: Encoder,
    /// The next record that it will give: who reads on finds it fetched already. It fetches no more than its queue
    /// holds, and stands nowhere once it has met the end, where it would ask for more all the time.
    at: Option<(Partition, u64)>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    fn open(client: &ClientConfig, kind: &str) -> io::Result<Self> {
        let consumer = BaseConsumer::from_config_and_context(client, Context::new(kind)).map_err(io::Error::other)?;
        Ok(Self { consumer, encoder: Encoder::default(), at: None })
    }

    fn stop(&mut self) {
        self.at = None;
        if let Err(error) = self.consumer.unassign() {
            tracing::warn!(%error, "a reader of the past cannot stop");
        }
    }

    fn assign(&mut self, topic: &str, index: u32, offset: u64) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(1);
        let offset = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
        list.add_partition_offset(topic, index as i32, offset)?;
        self.consumer.assign(&list)
    }

    fn load(
        &mut self,
        admin: &Admin,
        place: Place<'_>,
        bytes_max: usize,
        timeout: Duration,
    ) -> Result<Chunk, PastError> {
        let Place { partition, topic, from, end } = place;
        let deadline = Deadline::after(timeout);
        let (mut next, mut bytes, mut batches) = (from, 0, Vec::new());
        let (mut last, mut end_is_known) = (None, false);
        if self.at != Some((partition, from)) {
            self.assign(topic, partition.index, from)?;
        }
        while next < end && bytes < bytes_max {
            let Some(left) = deadline.left() else { return Err(PastError::Timeout { after: timeout, last }) };
            match self.consumer.poll(left.min(STEP)) {
                None => {}
                Some(Ok(message)) => {
                    let offset = u64::try_from(message.offset()).unwrap_or(0);
                    if message.topic() != topic || message.partition() != partition.index as i32 || offset < next {
                        continue;
                    }
                    if offset >= end {
                        // It is taken from the queue: going on from here would miss it.
                        next = end;
                        break;
                    }
                    let batch = self.encoder.encode(&message)?;
                    bytes += batch.as_bytes().len();
                    batches.push(batch);
                    next = offset + 1;
                }
                // Nothing more below the end that the broker knew. After a change of leaders that may be less than
                // what we know: only then holes up to the watermark are certain.
                Some(Err(KafkaError::PartitionEOF(index))) if index == partition.index as i32 => {
                    if end_is_known {
                        next = end;
                        break;
                    }
                    let stable = admin.offsets(&[(topic, partition.index)], At::End)?;
                    end_is_known = stable[0].is_some_and(|stable| stable >= end);
                    self.assign(topic, partition.index, next)?;
                }
                Some(Err(error)) => match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                        return Err(PastError::OutOfRange(next));
                    }
                    // Brokers come back, leaders move: the deadline decides.
                    _ => last = Some(error.to_string()),
                },
            }
        }
        if next < end {
            self.at = Some((partition, next));
        } else {
            self.stop();
        }
        Ok(Chunk { partition, from, next, batches, bytes })
    }
}
