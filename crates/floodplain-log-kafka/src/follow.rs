//! The thread that follows the ends of all partitions: watermarks, the memory of the newest records, new streams.

use crate::{
    admin::{AdminError, At},
    catalog::{OpenStream, v1},
    config::KafkaConfig,
    kafka::Inner,
    metrics::Context,
    past::consumer_base,
    record::Encoder,
    topic,
    unit::lock,
};
use floodplain_log::{Batch, Partition};
use floodplain_types::{Position, StreamId};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer},
    message::BorrowedMessage,
};
use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, atomic::Ordering, mpsc::SyncSender},
    time::Duration,
};

/// How long to wait for a record before looking at other things.
const STEP: Duration = Duration::from_millis(100);
/// Records and bytes that become visible together, at most.
const TURN: (usize, usize) = (4_000, 1 << 20);
/// Part of the memory for the newest records that may wait inside librdkafka.
const QUEUE_PART: u64 = 8;

pub(crate) struct Follower {
    consumer: BaseConsumer<Context>,
    inner: Arc<Inner>,
    encoder: Encoder,
    /// The topic of streams, and where to read on in it.
    streams: (String, u64),
    by_topic: HashMap<Arc<str>, Arc<OpenStream>>,
    /// Entries that were read and whose partitions are not followed yet.
    entries: Vec<(StreamId, u32)>,
    /// Records that were read in this turn.
    turn: Vec<(Arc<OpenStream>, u32, Batch)>,
    turn_bytes: usize,
    /// Partitions that have given records again.
    rewound: HashSet<Partition>,
}

impl Follower {
    pub(crate) fn open(config: &KafkaConfig, inner: &Arc<Inner>) -> io::Result<Self> {
        let mut client = consumer_base(config, "tail")?;
        let mut set = |name: &str, value: &str| config.set(&mut client, name, value);
        // Retention may pass a reader that was cut off for long; then it goes on at the first record that is left.
        set("auto.offset.reset", "earliest");
        // New partitions wait for the request that is under way.
        set("fetch.wait.max.ms", "100");
        set("queued.max.messages.kbytes", &(config.tail_bytes / QUEUE_PART / 1024).clamp(64, 1 << 16).to_string());
        let consumer =
            BaseConsumer::from_config_and_context(&client, Context::new("tail")).map_err(io::Error::other)?;
        let streams = (format!("{}{}", config.topic_prefix, topic::STREAMS), 0);
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&streams.0, 0, Offset::Beginning).map_err(io::Error::other)?;
        consumer.assign(&list).map_err(io::Error::other)?;
        Ok(Self {
            consumer,
            inner: Arc::clone(inner),
            encoder: Encoder::default(),
            streams,
            by_topic: HashMap::new(),
            entries: Vec::new(),
            turn: Vec::new(),
            turn_bytes: 0,
            rewound: HashSet::new(),
        })
    }

    /// Reads the streams that there are, says so, and follows them until the log is closed.
    pub(crate) fn run(mut self, streams_end: u64, ready: &SyncSender<Result<(), AdminError>>) {
        while self.streams.1 < streams_end && !self.is_closing() {
            self.poll_once(STEP);
        }
        let followed = self.follow_new();
        let is_followed = followed.is_ok();
        if ready.send(followed).is_err() || !is_followed {
            return;
        }
        while !self.is_closing() {
            let mut wait = STEP;
            while self.turn.len() < TURN.0 && self.turn_bytes < TURN.1 && self.poll_once(wait) {
                wait = Duration::ZERO;
            }
            self.publish();
            if let Err(error) = self.follow_new() {
                tracing::warn!(%error, "a new stream cannot be followed yet");
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.inner.is_closing.load(Ordering::Acquire)
    }

    /// Whether there may be more at once.
    fn poll_once(&mut self, wait: Duration) -> bool {
        let Self { consumer, encoder, streams, by_topic, entries, turn, turn_bytes, .. } = self;
        let message = match consumer.poll(wait) {
            None => return false,
            Some(Err(error)) => {
                tracing::debug!(%error, "the end of the log cannot be followed for now");
                return false;
            }
            Some(Ok(message)) => message,
        };
        if let Some(stream) = by_topic.get(message.topic()) {
            match encoder.encode(&message) {
                Ok(batch) => {
                    *turn_bytes += batch.as_bytes().len();
                    turn.push((Arc::clone(stream), message.partition() as u32, batch));
                }
                Err(error) => {
                    let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
                    tracing::error!(topic, partition, offset, %error, "record cannot be kept");
                }
            }
        } else if message.topic() == streams.0 {
            streams.1 = u64::try_from(message.offset()).map_or(streams.1, |offset| offset + 1);
            take_entry(&message, entries);
        }
        true
    }

    /// Puts what was read into memory, moves watermarks, and tells who watches.
    fn publish(&mut self) {
        if self.turn.is_empty() {
            return;
        }
        let mut advanced: HashMap<Partition, Position> = HashMap::new();
        {
            // The memory and the watermarks change together: whoever reads up to a watermark finds all of it.
            let mut tail = lock(&self.inner.tail);
            for (stream, index, batch) in self.turn.drain(..) {
                let Some(bounds) = stream.bounds(index) else { continue };
                let partition = stream.stream.partition(index);
                let offset = batch.base_offset();
                if offset < bounds.end() {
                    self.inner.shared.metrics.rewound.increment(1);
                    if self.rewound.insert(partition) {
                        let end = bounds.end();
                        tracing::error!(%partition, offset, end, "kafka has lost committed records");
                    }
                    continue;
                }
                tail.push(partition, batch);
                bounds.ends_at(offset + 1);
                advanced.insert(partition, Position::new(stream.stream.id.generation, offset + 1));
            }
        }
        self.turn_bytes = 0;
        if !advanced.is_empty() {
            let advanced: Vec<_> = advanced.into_iter().collect();
            self.inner.tell_watermarks(&advanced);
            self.inner.shared.followed(advanced.into_iter().map(|(partition, to)| (partition, to.offset)));
        }
    }

    /// Follows the partitions of all streams that were read and are not followed yet.
    fn follow_new(&mut self) -> Result<(), AdminError> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let mut new: Vec<Arc<OpenStream>> = Vec::new();
        {
            let catalog = self.inner.catalog();
            for (id, partitions) in &self.entries {
                if catalog.by_id(id).is_some() || new.iter().any(|stream| *stream.stream.id == *id) {
                    continue;
                }
                let stream = catalog.next(new.len(), id, *partitions, &self.inner.config.topic_prefix);
                let taken =
                    |topic: &str| catalog.by_topic(topic).is_some() || new.iter().any(|new| *new.topic == *topic);
                if taken(&stream.topic) {
                    tracing::error!(stream = %id, topic = %stream.topic, "the topic of a stream is that of another one");
                    continue;
                }
                new.push(stream);
            }
        }
        let partitions: Vec<(&str, u32)> =
            new.iter().flat_map(|stream| (0..stream.stream.partitions).map(|index| (&*stream.topic, index))).collect();
        let starts = self.inner.admin.offsets(&partitions, At::Start)?;
        let ends = self.inner.admin.offsets(&partitions, At::End)?;
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        let mut offsets = starts.into_iter().zip(ends);
        for stream in &new {
            for (index, bounds) in (0..).zip(&stream.bounds) {
                let (start, end) = offsets.next().unwrap_or_default();
                let (start, end) = (start.unwrap_or(0), end.unwrap_or(0));
                bounds.starts_at(start);
                bounds.ends_at(end);
                lock(&self.inner.tail).follow(stream.stream.partition(index), end);
                let from = Offset::Offset(i64::try_from(end).unwrap_or(i64::MAX));
                list.add_partition_offset(&stream.topic, index as i32, from)?;
            }
        }
        if list.count() > 0 {
            self.consumer.incremental_assign(&list)?;
        }
        self.entries.clear();
        for stream in new {
            self.by_topic.insert(Arc::clone(&stream.topic), Arc::clone(&stream));
            self.inner.insert(stream);
        }
        Ok(())
    }
}

fn take_entry(message: &BorrowedMessage<'_>, entries: &mut Vec<(StreamId, u32)>) {
    match v1::Entry::decode(message.payload().unwrap_or_default()) {
        Ok(entry) => entries.push(entry),
        Err(error) => {
            tracing::error!(offset = message.offset(), error, "an entry of the topic of streams cannot be read");
        }
    }
}
