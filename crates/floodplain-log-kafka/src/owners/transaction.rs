//! The producer of one slot, and one try to commit units with it.

use super::{
    OwnersConfig,
    group::{Membership, TxnError},
    lease::Lease,
    slots::OwnedUnit,
};
use crate::{
    config::{KafkaConfig, millis},
    metrics::Context,
    produce::headers,
    time::Deadline,
};
use floodplain_types::Position;
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, Statistics, TopicPartitionList,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};
use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// The least offset of a batch of which none is known.
const NO_OFFSET: u64 = u64::MAX;
/// How long one poll for room in the queue of a producer may take.
const ROOM: Duration = Duration::from_millis(10);

/// How much later than it should an answer of librdkafka may come.
const ANSWER: Duration = Duration::from_secs(1);

/// Settings of the producers of slots.
pub(crate) fn producer_config(config: &KafkaConfig, owners: &OwnersConfig) -> io::Result<ClientConfig> {
    let mut client = config.client("owner")?;
    let mut set = |name: &str, value: &str| config.set(&mut client, name, value);
    let timeout = owners.transaction_timeout;
    set("transaction.timeout.ms", &millis(timeout));
    // librdkafka wants both within the time of a transaction.
    set("message.timeout.ms", &millis(timeout));
    set("socket.timeout.ms", &millis(config.socket_timeout.min(timeout / 2)));
    set("request.timeout.ms", &millis(config.socket_timeout.min(timeout / 2) * 4 / 5));
    // A unit is there whole when it is sent.
    set("linger.ms", "0");
    set("compression.type", "zstd");
    set("message.max.bytes", &config.max_message_bytes.to_string());
    set("batch.num.messages", "100000");
    set("queue.buffering.max.messages", "0");
    set("retry.backoff.ms", "50");
    // There is one for each slot: their metrics would have no closed set of labels.
    set("statistics.interval.ms", "0");
    Ok(client)
}

/// Where a batch was written.
#[derive(Debug)]
struct Place {
    least: AtomicU64,
    /// A record of it was not written, or nobody knows where.
    has_failed: AtomicBool,
}

/// How a try ended.
#[derive(Debug)]
pub(crate) enum Tried {
    /// With the positions of all batches of all units.
    Committed(Vec<Vec<Position>>),
    /// Nothing of it is or will be visible, and it may be tried once more.
    Again { keep_producer: bool, cause: TxnError },
    /// Nothing of it is or will be visible, and the slot is another's.
    Fenced,
    /// The commit was sent, and what became of it is not known.
    Unknown(TxnError),
}

/// A transactional producer. Dropping it takes a moment.
pub(crate) struct SlotProducer {
    /// Shared with a thread that waits for an answer, see [`Self::send_offsets`].
    producer: Arc<BaseProducer<Ends>>,
    slot: u32,
    /// The number of the newest transaction that was committed.
    number: i64,
}

impl fmt::Debug for SlotProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotProducer").field("slot", &self.slot).field("number", &self.number).finish_non_exhaustive()
    }
}

impl SlotProducer {
    /// Ends what an owner before has left open, and keeps it from committing. Only for who was granted the slot: it
    /// would fence the rightful owner. So the coordinator of the group is asked first: who was frozen since does not
    /// know that it has been replaced. Blocks.
    pub(crate) fn open(
        client: &ClientConfig,
        prefix: &str,
        slot: u32,
        lease: &Lease,
        timeout: Duration,
    ) -> Result<Self, TxnError> {
        lease.check()?;
        let mut client = client.clone();
        client.set("transactional.id", format!("{prefix}floodplain.slot.{slot}"));
        let of = |error: KafkaError| TxnError::of(&error);
        let producer = BaseProducer::from_config_and_context(&client, Ends(Context::new("owner"))).map_err(of)?;
        producer.init_transactions(timeout).map_err(of)?;
        let number = lease.committed(slot).map_err(of)?;
        Ok(Self { producer: Arc::new(producer), slot, number })
    }

    /// Lets the client say what it has to.
    pub(crate) fn serve(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Writes units and commits them, if this process `holds` the slot. Blocks.
    pub(crate) fn commit(
        &mut self,
        units: &[OwnedUnit],
        lease: &Lease,
        timeout: Duration,
        holds: impl Fn() -> bool,
    ) -> Tried {
        let again = |cause: TxnError| Tried::Again { keep_producer: false, cause };
        if let Err(error) = self.producer.begin_transaction() {
            return again(TxnError::of(&error));
        }
        let places = match self.send(units) {
            Ok(places) => places,
            Err(error) => return self.abort(error, timeout),
        };
        if let Err(error) = self.producer.flush(timeout) {
            return self.abort(TxnError::of(&error), timeout);
        }
        let failed = |place: &Arc<Place>| place.has_failed.load(Ordering::Acquire);
        if places.iter().flatten().any(failed) {
            return self.abort(self.failure(), timeout);
        }
        // The membership first: while this grant stood, it was that of the owner. Whoever is put out of the group hears
        // of it before a new membership can be had.
        let membership = lease.membership();
        if !holds() {
            self.abort(code(RDKafkaErrorCode::IllegalGeneration), timeout);
            return Tried::Fenced;
        }
        let number = self.number + 1;
        let sent = match (membership, lease.offset_list(self.slot, Offset::Offset(number))) {
            (None, _) => Err(code(RDKafkaErrorCode::IllegalGeneration)),
            (_, Err(error)) => Err(TxnError::of(&error)),
            (Some(membership), Ok(offsets)) => match self.send_offsets(membership, offsets, timeout) {
                Some(sent) => sent,
                None => return again(code(RDKafkaErrorCode::OperationTimedOut)),
            },
        };
        if let Err(error) = sent {
            return self.abort(error, timeout);
        }
        let commit = |left| self.producer.commit_transaction(left).map_err(|error| TxnError::of(&error));
        match repeated(timeout, commit) {
            Ok(()) => {
                self.number = number;
                Tried::Committed(positions(units, &places))
            }
            // The coordinator has another epoch, so it has ended this transaction; what it has become is in the offset
            // that was part of it. A later owner counts on from there.
            Err(error) if error.is_producer_fenced() => match lease.committed(self.slot) {
                Ok(committed) if committed < number => again(error),
                _ => Tried::Unknown(error),
            },
            // Whatever is said now, the request may have arrived before.
            Err(error) => Tried::Unknown(error),
        }
    }

    /// Makes the offsets part of the transaction. `None` where there is no answer: then the producer is of no use any
    /// more, and what it has begun is not committed, since nobody asks it to.
    ///
    /// librdkafka knows the timeout, but looks at it only when a connection changes its state. Where the coordinator of
    /// the group dies it may then take minutes until there is an answer; nothing can be asked of the producer before.
    fn send_offsets(
        &self,
        membership: Membership,
        offsets: TopicPartitionList,
        timeout: Duration,
    ) -> Option<Result<(), TxnError>> {
        let (answer, answered) = mpsc::sync_channel(1);
        let producer = Arc::clone(&self.producer);
        let call = move || {
            let sent = repeated(timeout, |left| membership.send_offsets(producer.client(), &offsets, left));
            // First, since who waits may then be the last one to have it.
            drop(producer);
            // Nobody waits for what comes too late.
            answer.try_send(sent).ok();
        };
        if let Err(error) = thread::Builder::new().name("log-kafka-offsets".to_owned()).spawn(call) {
            tracing::error!(slot = self.slot, %error, "cannot start a thread for a transaction");
            return None;
        }
        match answered.recv_timeout(timeout + ANSWER) {
            Ok(sent) => Some(sent),
            Err(_) => {
                tracing::warn!(slot = self.slot, "group's coordinator does not answer, and the producer is given up");
                None
            }
        }
    }

    /// Why records were not written, as far as the producer as a whole knows.
    fn failure(&self) -> TxnError {
        match self.producer.client().fatal_error() {
            Some((code, _)) => TxnError { code, is_fatal: true, is_retriable: false, requires_abort: false },
            None => TxnError { requires_abort: true, ..code(RDKafkaErrorCode::MessageTimedOut) },
        }
    }

    fn send(&self, units: &[OwnedUnit]) -> Result<Vec<Vec<Arc<Place>>>, TxnError> {
        let mut places = Vec::with_capacity(units.len());
        for unit in units {
            let mut of_unit = Vec::with_capacity(unit.batches.len());
            for (partition, stream, batch) in &unit.batches {
                let place = Arc::new(Place { least: AtomicU64::new(NO_OFFSET), has_failed: AtomicBool::new(false) });
                let unreadable = |_| code(RDKafkaErrorCode::InvalidRecord);
                for record in &batch.records().map_err(unreadable)? {
                    let record = record.map_err(unreadable)?;
                    let mut message =
                        BaseRecord::<[u8], [u8], Arc<Place>>::with_opaque_to(&stream.topic, Arc::clone(&place))
                            .partition(i32::try_from(partition.index).unwrap_or(i32::MAX))
                            .timestamp(batch.timestamp_ms(&record));
                    message.key = record.key;
                    message.payload = record.value;
                    message.headers = headers(&record);
                    while let Err((error, unsent)) = self.producer.send(message) {
                        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                            return Err(TxnError { requires_abort: true, ..TxnError::of(&error) });
                        }
                        message = unsent;
                        self.producer.poll(ROOM);
                    }
                }
                of_unit.push(place);
            }
            places.push(of_unit);
        }
        Ok(places)
    }

    /// Ends a transaction whose commit was not sent, so nothing of it can become visible, whatever comes of this.
    fn abort(&self, cause: TxnError, timeout: Duration) -> Tried {
        if cause.is_not_member() {
            // The successor ends the transaction. Asking for it here would only cost time.
            return Tried::Fenced;
        }
        // librdkafka would wait for records that are under way; a new producer ends the transaction as well.
        let may_abort = !cause.is_fatal && self.producer.in_flight_count() == 0;
        let abort = |left| self.producer.abort_transaction(left).map_err(|error| TxnError::of(&error));
        let keep_producer = may_abort && repeated(timeout, abort).is_ok();
        Tried::Again { keep_producer, cause }
    }
}

fn code(code: RDKafkaErrorCode) -> TxnError {
    TxnError { code, is_fatal: false, is_retriable: false, requires_abort: false }
}

/// Repeats a call while it may be repeated and there is time.
fn repeated(timeout: Duration, call: impl Fn(Duration) -> Result<(), TxnError>) -> Result<(), TxnError> {
    let deadline = Deadline::after(timeout);
    let mut left = timeout;
    loop {
        match call(left) {
            Err(error) if error.is_retriable => left = deadline.left().ok_or(error)?,
            other => return other,
        }
    }
}

fn positions(units: &[OwnedUnit], places: &[Vec<Arc<Place>>]) -> Vec<Vec<Position>> {
    let of_unit = |(unit, places): (&OwnedUnit, &Vec<Arc<Place>>)| {
        let generations = unit.batches.iter().map(|(_, stream, _)| stream.stream.id.generation);
        let offsets = places.iter().map(|place| place.least.load(Ordering::Acquire));
        generations.zip(offsets).map(|(generation, offset)| Position::new(generation, offset)).collect()
    };
    units.iter().zip(places).map(of_unit).collect()
}

/// Takes the ends of records.
struct Ends(Context);

impl ClientContext for Ends {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.0.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            // A successor does this to us; the transaction says it, too.
            Some(RDKafkaErrorCode::Fenced | RDKafkaErrorCode::Fatal) => {
                tracing::info!(%error, reason, "producer of a slot is of no use any more");
            }
            _ => self.0.error(error, reason),
        }
    }
}

impl ProducerContext for Ends {
    type DeliveryOpaque = Arc<Place>;

    fn delivery(&self, result: &DeliveryResult<'_>, place: Arc<Place>) {
        match result.as_ref().map(|message| u64::try_from(message.offset())) {
            Ok(Ok(offset)) => drop(place.least.fetch_min(offset, Ordering::AcqRel)),
            // Written, and the broker does not say where: tried once more it will.
            Ok(Err(_)) => place.has_failed.store(true, Ordering::Release),
            Err((error, _)) => {
                tracing::debug!(%error, "record of a transaction was not written");
                place.has_failed.store(true, Ordering::Release);
            }
        }
    }
}
