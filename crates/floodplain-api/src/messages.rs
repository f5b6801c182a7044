//! The log as HTTP uses it: where messages are published to and followed from.

use crate::{
    message::Place,
    problem::Problem,
    tail::{Tail, TailLimits},
};
use axum::http::{HeaderMap, header};
use floodplain_log::{
    Append, BATCH_BYTES, Batch, BatchBuilder, Compression, DataStreams, Log, MessageRef, Outcome, Refusal,
};
use floodplain_sql::{Traffic, Unanswered};
use floodplain_types::{Class, Clock, DeviceId};
use metrics::Counter;
use std::{fmt, io, sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Publisher of what comes by HTTP, and its device where the topic names none.
pub(crate) const PUBLISHER: &str = "http";
/// Bytes of bodies that all requests hold together; who comes when it is full is refused.
const BODY_BYTES_MAX: usize = 64 << 20;
/// How long a question about devices waits until all messages are counted.
const COUNT_TIME_MAX: Duration = Duration::from_secs(5);
/// One permit of the body budget.
const PERMIT_BYTES: usize = 1 << 10;

/// What is known of a topic; the same as for messages that come by MQTT.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'t> {
    /// The device that it names, if it names one.
    pub device: Option<&'t str>,
    /// Number of the data stream that takes its messages.
    pub stream: u32,
    /// The least class that its messages get.
    pub class: Class,
}

/// What is known of a topic, by the topic alone.
pub type BoundOf = Arc<dyn Fn(&str) -> Bound<'_> + Send + Sync>;

/// What one message or subscriber may take.
#[derive(Debug, Clone, Copy)]
pub struct MessageLimits {
    /// Longest topic name or filter in bytes.
    pub topic_bytes_max: usize,
    /// Levels of a topic name or filter.
    pub topic_levels_max: usize,
    /// Longest payload of one message in bytes.
    pub payload_bytes_max: usize,
    /// How long an answer waits for the commit.
    pub commit_time_max: Duration,
    pub tail: TailLimits,
}

impl Default for MessageLimits {
    fn default() -> Self {
        Self {
            topic_bytes_max: 65_535,
            topic_levels_max: 256,
            payload_bytes_max: 900 << 10,
            commit_time_max: Duration::from_secs(10),
            tail: TailLimits::default(),
        }
    }
}

/// The streams of what devices publish, with a thread that reads their ends while somebody follows. Cheap to clone.
#[derive(Clone)]
pub struct Messages(Arc<Inner>);

struct Inner {
    log: Arc<dyn Log>,
    streams: DataStreams,
    clock: Arc<dyn Clock>,
    bound_of: BoundOf,
    limits: MessageLimits,
    tail: Tail,
    bodies: Arc<Semaphore>,
    received: Counter,
    received_bytes: Counter,
    refused: Counter,
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").field("streams", &self.0.streams).finish_non_exhaustive()
    }
}

/// One message to publish, with the device it is of.
#[derive(Debug)]
pub(crate) struct Publish<'a> {
    pub(crate) message: MessageRef<'a>,
    pub(crate) user_properties: &'a [(&'a str, &'a str)],
}

impl Messages {
    /// Publishes to and follows these streams.
    ///
    /// # Errors
    /// What the system says if it gives no thread.
    pub fn new(
        log: Arc<dyn Log>,
        streams: DataStreams,
        clock: Arc<dyn Clock>,
        bound_of: BoundOf,
        limits: MessageLimits,
    ) -> io::Result<Self> {
        let tail = Tail::start(log.clone(), streams.clone(), limits.tail)?;
        Ok(Self(Arc::new(Inner {
            log,
            streams,
            clock,
            bound_of,
            limits,
            tail,
            bodies: Arc::new(Semaphore::new(BODY_BYTES_MAX / PERMIT_BYTES)),
            received: metrics::counter!("floodplain_http_received_messages_total"),
            received_bytes: metrics::counter!("floodplain_http_received_bytes_total"),
            refused: metrics::counter!("floodplain_http_refused_publishes_total"),
        })))
    }

    pub(crate) fn limits(&self) -> &MessageLimits {
        &self.0.limits
    }

    pub(crate) fn streams(&self) -> &DataStreams {
        &self.0.streams
    }

    pub(crate) fn tail(&self) -> &Tail {
        &self.0.tail
    }

    /// Of the first `limit` devices behind `after`, by name, what the log holds of each: all that is committed now, and
    /// at most a million devices.
    ///
    /// # Errors
    /// [`Unanswered`] while the past of the log is still being read.
    ///
    /// # Cancel safety
    /// Only asks.
    pub async fn devices(&self, after: Option<&str>, limit: usize) -> Result<Vec<(String, Traffic)>, Unanswered> {
        self.counted().await?;
        Ok(self.tail().index(|index| index.devices_after(after, limit)))
    }

    /// What the log holds of one device.
    ///
    /// # Errors
    /// As [`Self::devices`].
    ///
    /// # Cancel safety
    /// Only asks.
    pub async fn traffic(&self, device: &str) -> Result<Option<Traffic>, Unanswered> {
        self.counted().await?;
        Ok(self.tail().index(|index| index.device(device)))
    }

    async fn counted(&self) -> Result<(), Unanswered> {
        if self.tail().caught_up(COUNT_TIME_MAX).await {
            return Ok(());
        }
        Err(Unanswered("what the log holds is still being counted: try again in a moment".to_owned()))
    }

    pub(crate) fn log(&self) -> &Arc<dyn Log> {
        &self.0.log
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    /// The device of a message: what the topic names, or else the publisher.
    pub(crate) fn device<'t>(&self, topic: &'t str) -> &'t str {
        (self.0.bound_of)(topic).device.filter(|device| device.len() <= DeviceId::MAX_BYTES).unwrap_or(PUBLISHER)
    }

    /// The least class that messages to this topic get.
    pub(crate) fn least_class(&self, topic: &str) -> Class {
        (self.0.bound_of)(topic).class
    }

    /// Room for a body, given back when the permit goes: `factor` times what it says it has, or else `max_bytes`.
    ///
    /// # Errors
    /// 413 if it says that it has more than `max_bytes`; 503 while the log is half full, or other bodies take all the room.
    pub(crate) fn admit(
        &self,
        headers: &HeaderMap,
        max_bytes: usize,
        factor: usize,
    ) -> Result<OwnedSemaphorePermit, Problem> {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let bytes = length.map_or(max_bytes, |length| usize::try_from(length).unwrap_or(usize::MAX));
        if bytes > max_bytes {
            let detail = format!("body may have {max_bytes} bytes: it has {bytes}");
            return Err(Problem::of("body_too_large", detail));
        }
        let busy = |detail: &str| {
            self.0.refused.increment(1);
            Problem::of("overloaded", detail)
        };
        if self.0.log.queued_bytes() > self.0.log.queue_capacity_bytes() / 2 {
            return Err(busy("the log has more to write than half of its queue: try again"));
        }
        let permits = u32::try_from((bytes * factor).div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        Arc::clone(&self.0.bodies)
            .try_acquire_many_owned(permits)
            .map_err(|_| busy("other requests take all the memory for bodies: try again"))
    }

    /// Appends the messages as one unit, all or none, and waits for the commit; the place of the first.
    ///
    /// # Errors
    /// 503 with what the sender may do; `commit_unknown` if it cannot be told whether they are stored.
    ///
    /// # Cancel safety
    /// A dropped call may still append.
    pub(crate) async fn publish(&self, messages: &[Publish<'_>], class: Class) -> Result<String, Problem> {
        let streams = &self.0.streams;
        let now_ms = self.0.clock.now().as_millis();
        let mut builders: Vec<(u32, BatchBuilder)> = Vec::new();
        for Publish { message, user_properties } in messages {
            let partition = streams.index_of_key((self.0.bound_of)(message.topic).stream, message.key);
            let write = |builder: &mut BatchBuilder| message.write(builder, now_ms, user_properties.iter().copied());
            let last = builders.iter_mut().rfind(|(of, _)| *of == partition);
            if last.is_some_and(|(_, builder)| write(builder).is_ok()) {
                continue;
            }
            let mut builder = BatchBuilder::limited(BATCH_BYTES);
            write(&mut builder).map_err(|error| too_large(&error.to_string()))?;
            builders.push((partition, builder));
        }
        let first = builders.first().map_or(0, |(partition, _)| *partition);
        let batches: Vec<_> = builders
            .iter_mut()
            .filter_map(|(partition, builder)| {
                let batch: Option<Batch> = builder.finish(Compression::None);
                batch.map(|batch| (streams.partition(*partition), batch))
            })
            .collect();
        let append = floodplain_log::append(&*self.0.log, Append { batches, class });
        let outcome = tokio::time::timeout(self.0.limits.commit_time_max, append).await.unwrap_or(Outcome::Unknown);
        let bases = match outcome {
            Outcome::Committed(bases) => bases,
            Outcome::Refused(refusal) => {
                self.0.refused.increment(1);
                return Err(refused(&refusal));
            }
            Outcome::Unknown => {
                let detail = "the message may or may not be stored: to send it again may store it twice";
                return Err(Problem::of("commit_unknown", detail));
            }
        };
        self.0.received.increment(messages.len() as u64);
        self.0.received_bytes.increment(messages.iter().map(|publish| publish.message.payload.len() as u64).sum());
        let position = bases.first().copied().unwrap_or_default();
        Ok(Place::of(streams, first, position).to_string())
    }
}

fn too_large(detail: &str) -> Problem {
    Problem::of("message_too_large", detail)
}

pub(crate) fn refused(refusal: &Refusal) -> Problem {
    let detail = refusal.to_string();
    match refusal {
        Refusal::Overloaded { .. } | Refusal::Behind { .. } | Refusal::AfterRefused | Refusal::Unavailable { .. } => {
            Problem::of("overloaded", detail)
        }
        Refusal::DiskFull { .. } => Problem::of("disk_full", detail),
        Refusal::Poisoned { .. } => Problem::of("log_poisoned", detail),
        Refusal::Closing => Problem::of("stopping", detail),
        Refusal::UnknownPartition(_) | Refusal::Fenced => Problem::of("not_owner", detail),
        Refusal::TooLarge { .. } => too_large(&detail),
    }
}
