//! Producers: which one takes a batch, how long it waits there, and how its records end.

use crate::{
    config::{KafkaConfig, millis},
    linger::Linger,
    metrics::Context,
    time::Deadline,
    unit::{Part, Shared, lock},
};
use floodplain_log::{Batch, Partition, Record};
use floodplain_types::Class;
use rdkafka::{
    ClientConfig, Message,
    config::FromClientConfigAndContext,
    error::KafkaError,
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, Producer, ProducerContext, PurgeConfig, ThreadedProducer},
    types::RDKafkaErrorCode,
};
use std::{
    collections::HashSet,
    io, mem,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

/// How long librdkafka itself waits for more records of a batch: long enough for a whole turn to be handed over.
const HAND_OVER_MS: &str = "0.5";
/// How long to wait before another try where the next one would fail, too.
const PAUSE: Duration = Duration::from_millis(20);
/// Least and most bytes of a batch: small pools have small batches.
const BATCH_BYTES: (u64, u64) = (16 << 10, 256 << 10);
/// Part of the pool that one batch may have, so that many partitions can fill theirs.
const BATCH_PART: u64 = 64;
/// How long the records of a producer that is given up may take to come back.
const PURGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A batch on its way to a producer.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) part: Arc<Part>,
    pub(crate) topic: Arc<str>,
    pub(crate) batch: Batch,
}

/// The producers of all classes.
#[derive(Debug)]
pub(crate) struct Producers {
    all: Vec<Lane>,
    leader: Lane,
    none: Lane,
}

impl Producers {
    pub(crate) fn open(config: &KafkaConfig, shared: &Arc<Shared>) -> io::Result<Self> {
        let lane = |class, number: Option<usize>| Lane::open(config, shared, class, number);
        Ok(Self {
            all: (0..config.producers.max(1))
                .map(|number| lane(Class::All, Some(number)))
                .collect::<io::Result<_>>()?,
            leader: lane(Class::Leader, None)?,
            none: lane(Class::None, None)?,
        })
    }

    /// Hands a batch to the producer of its class and partition; per partition the order of calls is kept.
    pub(crate) fn push(&self, class: Class, item: Item) {
        let lane = match class {
            Class::None => &self.none,
            Class::Leader => &self.leader,
            Class::All => &self.all[lane_of(item.part.partition(), self.all.len())],
        };
        lane.queue.push(item);
    }

    /// Ends all appends: what is not acknowledged in time is unknown.
    pub(crate) fn close(&self) {
        let lanes = || self.all.iter().chain([&self.leader, &self.none]);
        lanes().for_each(|lane| lane.queue.close());
        for lane in lanes() {
            if let Some(thread) = lock(&lane.thread).take() {
                // It has logged why, if it has panicked.
                drop(thread.join());
            }
        }
    }
}

fn lane_of(partition: Partition, lanes: usize) -> usize {
    (partition.stream as usize + partition.index as usize) % lanes
}

/// One producer with its thread.
#[derive(Debug)]
struct Lane {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Lane {
    fn open(config: &KafkaConfig, shared: &Arc<Shared>, class: Class, number: Option<usize>) -> io::Result<Self> {
        let kind = number.map_or_else(|| class.to_string(), |number| format!("{class}-{number}"));
        let client = producer_config(config, class, &kind)?;
        let queue = Arc::new(Queue::default());
        let budget = f64::from(config.requests_per_second) / config.producers.max(1) as f64;
        let mut sender = Sender {
            producer: None,
            client,
            kind: kind.clone(),
            shared: Arc::clone(shared),
            queue: Arc::clone(&queue),
            linger: Linger::new(config.linger, budget),
            batch_bytes: batch_bytes(config),
            close_timeout: config.close_timeout,
        };
        // Now, so that what is wrong with the settings is said at the start.
        sender.producer = Some(sender.create().map_err(io::Error::other)?);
        let thread = thread::Builder::new().name(format!("log-kafka-{kind}")).spawn(move || sender.run())?;
        Ok(Self { queue, thread: Mutex::new(Some(thread)) })
    }
}

fn batch_bytes(config: &KafkaConfig) -> u64 {
    (config.queue_bytes / BATCH_PART).clamp(BATCH_BYTES.0, BATCH_BYTES.1)
}

fn producer_config(config: &KafkaConfig, class: Class, kind: &str) -> io::Result<ClientConfig> {
    let mut client = config.client(kind)?;
    let mut set = |name: &str, value: &str| config.set(&mut client, name, value);
    match class {
        Class::All => {
            set("enable.idempotence", "true");
            set("acks", "all");
            set("max.in.flight.requests.per.connection", "5");
        }
        // Without idempotence only one request under way keeps the order over a retry.
        Class::Leader => {
            set("acks", "1");
            set("max.in.flight.requests.per.connection", "1");
        }
        // Nobody hears whether it arrived, so nobody tries again.
        Class::None => {
            set("acks", "0");
            set("retries", "0");
        }
    }
    set("linger.ms", HAND_OVER_MS);
    set("compression.type", "zstd");
    // Brokers stop waiting for other copies before we stop waiting for them.
    set("request.timeout.ms", &millis(config.socket_timeout * 4 / 5));
    set("message.timeout.ms", &millis(config.message_timeout));
    set("message.max.bytes", &config.max_message_bytes.to_string());
    set("batch.size", &batch_bytes(config).to_string());
    set("batch.num.messages", "100000");
    // Permits run out first: librdkafka counts less for a record than they do.
    set("queue.buffering.max.kbytes", &(config.queue_bytes / 1024 + 1024).to_string());
    set("queue.buffering.max.messages", "0");
    set("retry.backoff.ms", "50");
    Ok(client)
}

/// Batches that wait for their producer. Bounded by permits, which each of them has.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    items: Vec<Item>,
    bytes: u64,
    is_closing: bool,
}

impl Queue {
    fn push(&self, item: Item) {
        let mut state = lock(&self.state);
        let was = state.bytes;
        state.bytes += item.batch.as_bytes().len() as u64;
        state.items.push(item);
        // The sender sleeps on an empty queue, and lingers until there is a batch's worth.
        if state.items.len() == 1 || (was < BATCH_BYTES.1 && state.bytes >= BATCH_BYTES.1) {
            self.changed.notify_one();
        }
    }

    fn close(&self) {
        lock(&self.state).is_closing = true;
        self.changed.notify_all();
    }

    /// All that waits, once there is something and it has lingered; `None` at the end.
    fn take(&self, linger: impl FnOnce() -> Duration, enough_bytes: u64) -> Option<Vec<Item>> {
        let state = lock(&self.state);
        let is_idle = |state: &mut QueueState| state.items.is_empty() && !state.is_closing;
        let state = self.changed.wait_while(state, is_idle).unwrap_or_else(PoisonError::into_inner);
        let lingers = |state: &mut QueueState| state.bytes < enough_bytes && !state.is_closing;
        let waited = self.changed.wait_timeout_while(state, linger(), lingers);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.bytes = 0;
        let items = mem::take(&mut state.items);
        (!items.is_empty()).then_some(items)
    }
}

type OurProducer = ThreadedProducer<Context<Deliveries>>;

/// The thread of a lane.
struct Sender {
    /// Absent only while it is replaced.
    producer: Option<OurProducer>,
    client: ClientConfig,
    kind: String,
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    linger: Linger,
    batch_bytes: u64,
    close_timeout: Duration,
}

impl Sender {
    fn create(&self) -> Result<OurProducer, KafkaError> {
        let is_acknowledged = self.client.get("acks") != Some("0");
        let context = Context::with(&self.kind, Deliveries { is_acknowledged });
        OurProducer::from_config_and_context(&self.client, context)
    }

    fn run(mut self) {
        loop {
            let wait = self.linger.wait(self.shared.permits.fill());
            let lingered = || {
                self.shared.metrics.linger_seconds.record(wait);
                wait
            };
            let Some(items) = self.queue.take(lingered, self.batch_bytes) else { break };
            let partitions: HashSet<Partition> = items.iter().map(|item| item.part.partition()).collect();
            self.linger.observe(partitions.len());
            for item in items {
                self.send_batch(&item);
            }
        }
        if let Some(producer) = self.producer.take() {
            if let Err(error) = producer.flush(self.close_timeout) {
                tracing::warn!(client = %self.kind, %error, "appends have no known outcome at the end");
            }
            give_up(&producer, &self.kind);
        }
    }

    fn send_batch(&mut self, item: &Item) {
        let partition = item.part.partition();
        let sent = item.batch.records().map(|records| {
            let mut left = item.batch.record_count();
            for record in &records {
                let Ok(record) = record else { break };
                let time_ms = item.batch.timestamp_ms(&record);
                self.send(&item.part, &item.topic, partition.index, time_ms, &record);
                left -= 1;
            }
            left
        });
        // They were checked when they were submitted: this is a defect, and nobody may wait for ever.
        let left = sent.unwrap_or(item.batch.record_count());
        if left > 0 {
            tracing::error!(%partition, left, "records of a batch cannot be read");
        }
        for _ in 0..left {
            item.part.failed();
        }
    }

    fn send(&mut self, part: &Arc<Part>, topic: &str, partition: u32, time_ms: i64, record: &Record<'_>) {
        let mut message = BaseRecord::<[u8], [u8], Arc<Part>>::with_opaque_to(topic, Arc::clone(part))
            .partition(i32::try_from(partition).unwrap_or(i32::MAX))
            .timestamp(time_ms);
        message.key = record.key;
        message.payload = record.value;
        message.headers = headers(record);
        while let Err((error, unsent)) = self.producer().send(message) {
            message = unsent;
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::Fatal) => self.replace(),
                // A defect of the permits: they should have run out. Waiting keeps the order.
                Some(RDKafkaErrorCode::QueueFull) => self.pause(),
                _ => {
                    if part.failed() {
                        tracing::error!(client = %self.kind, topic, partition, %error, "record was refused by the client");
                    }
                    return;
                }
            }
        }
    }

    fn producer(&mut self) -> &OurProducer {
        loop {
            if self.producer.is_some() {
                // The loop is for the borrow checker: this is `if let Some(producer) = &self.producer`.
                break;
            }
            match self.create() {
                Ok(producer) => self.producer = Some(producer),
                Err(error) => {
                    tracing::error!(client = %self.kind, %error, "cannot create a kafka producer");
                    self.pause();
                }
            }
        }
        self.producer.as_ref().expect("the loop ends with one")
    }

    fn pause(&self) {
        let state = lock(&self.queue.state);
        drop(self.queue.changed.wait_timeout_while(state, PAUSE, |_| true));
    }

    /// After a fatal error a producer takes nothing more. What it has is unknown: a new one must not try it again,
    /// since the old one's requests may still arrive.
    fn replace(&mut self) {
        let Some(producer) = self.producer.take() else { return };
        let cause = producer.client().fatal_error().map(|(code, reason)| format!("{code}: {reason}"));
        tracing::warn!(client = %self.kind, cause, "kafka producer has failed for good and is replaced");
        self.shared.metrics.fatal.increment(1);
        give_up(&producer, &self.kind);
    }
}

/// Lets all records of a producer end, as unknown.
fn give_up(producer: &OurProducer, kind: &str) {
    producer.purge(PurgeConfig::default().queue().inflight());
    let deadline = Deadline::after(PURGE_TIMEOUT);
    while producer.in_flight_count() > 0 && deadline.left().is_some() {
        producer.poll(Duration::from_millis(10));
    }
    let left = producer.in_flight_count();
    if left > 0 {
        tracing::error!(client = kind, left, "records of a kafka producer have not ended");
    }
}

pub(crate) fn headers(record: &Record<'_>) -> Option<OwnedHeaders> {
    let mut headers: Option<OwnedHeaders> = None;
    for header in record.headers() {
        // Checked at submission.
        let Ok((key, value)) = header else { break };
        headers = Some(headers.unwrap_or_default().insert(Header { key, value }));
    }
    headers
}

/// Takes the ends of records.
struct Deliveries {
    /// Brokers answer in this class.
    is_acknowledged: bool,
}

impl ProducerContext for Context<Deliveries> {
    type DeliveryOpaque = Arc<Part>;

    fn delivery(&self, result: &DeliveryResult<'_>, part: Arc<Part>) {
        match result {
            Ok(message) => {
                let offset = u64::try_from(message.offset()).ok();
                if offset.is_none() && self.takes.is_acknowledged {
                    let (topic, partition) = (message.topic(), message.partition());
                    tracing::warn!(topic, partition, "append is written, and the broker does not say where");
                }
                part.done(offset);
            }
            // Also what the broker refused for certain: others of the unit may be there.
            Err((error, message)) => {
                if part.failed() {
                    let (topic, partition) = (message.topic(), message.partition());
                    tracing::warn!(topic, partition, %error, "append has no known outcome");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_has_one_producer() {
        let lanes: Vec<usize> = (0..8).map(|index| lane_of(Partition { stream: 3, index }, 4)).collect();
        assert_eq!(lanes, [3, 0, 1, 2, 3, 0, 1, 2]);
    }

    #[test]
    fn classes_are_settings() {
        let mut config = KafkaConfig::new(["127.0.0.1:1"]);
        config.properties.insert("compression.type".to_owned(), "lz4".to_owned());
        for (class, acks, in_flight) in
            [(Class::All, "all", Some("5")), (Class::Leader, "1", Some("1")), (Class::None, "0", None)]
        {
            let client = producer_config(&config, class, "x").unwrap();
            assert_eq!(client.get("acks"), Some(acks));
            assert_eq!(client.get("max.in.flight.requests.per.connection"), in_flight);
            assert_eq!(client.get("enable.idempotence").is_some(), class == Class::All);
            assert_eq!(client.get("compression.type"), Some("lz4"), "what the user says wins");
            let made: Result<rdkafka::producer::BaseProducer, _> = client.create();
            made.map(drop).unwrap();
        }
    }
}
