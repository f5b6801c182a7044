//! What only one of the processes that share a log does.

use crate::{KafkaLog, OpenError, config::millis, metrics::Context, topic};
use rdkafka::{
    TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    types::RDKafkaRespErr,
};
use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How long one poll may take, so that the end is noticed.
const STEP: Duration = Duration::from_millis(100);

/// A role that one process at a time has: the member of a consumer group to whom the one partition of a topic is assigned. It stays
/// with whoever has it; who has died, or has been frozen for the session timeout, loses it to another that asks.
///
/// Unlike a slot it fences nothing: who wakes up may act on it for a moment although another has it. Dropping it gives it up.
#[derive(Debug)]
pub struct KafkaRole {
    held: Arc<Held>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl KafkaRole {
    /// Asks for the role `name` of this log's installation.
    ///
    /// # Errors
    /// [`OpenError::Client`]; nothing was started then.
    pub fn ask(log: &KafkaLog, name: &str, session_timeout: Duration) -> Result<Self, OpenError> {
        let config = &log.inner.config;
        let open = || {
            let mut client = config.client("role")?;
            let mut set = |name: &str, value: &str| config.set(&mut client, name, value);
            set("group.id", &format!("{}floodplain-{name}", config.topic_prefix));
            set("partition.assignment.strategy", "cooperative-sticky");
            set("session.timeout.ms", &millis(session_timeout));
            set("heartbeat.interval.ms", &millis(session_timeout / 4));
            set("enable.auto.commit", "false");
            let held = Arc::new(Held::default());
            let context = Context::with("role", Arc::clone(&held));
            let consumer = BaseConsumer::from_config_and_context(&client, context).map_err(io::Error::other)?;
            // It has one partition, and is there.
            let topic = format!("{}{}", config.topic_prefix, topic::STREAMS);
            consumer.subscribe(&[&topic]).map_err(io::Error::other)?;
            let stop = Arc::new(AtomicBool::new(false));
            let stopping = Arc::clone(&stop);
            let poll = move || {
                while !stopping.load(Ordering::Acquire) {
                    if let Some(Err(error)) = consumer.poll(STEP) {
                        tracing::debug!(%error, "the group of a role cannot be followed for now");
                    }
                }
            };
            let thread = thread::Builder::new().name("log-kafka-role".to_owned()).spawn(poll)?;
            Ok(Self { held, stop, thread: Some(thread) })
        };
        open().map_err(OpenError::Client)
    }

    /// Blocks until the role is ours, at most so long; whether it is.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> bool {
        let waited = self.held.gained.wait_timeout_while(self.held.lock(), limit, |is_ours| !*is_ours);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Drop for KafkaRole {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // The group learns it as the consumer is closed.
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Whether it is ours.
#[derive(Debug, Default)]
struct Held {
    is_ours: Mutex<bool>,
    gained: Condvar,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_ours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConsumerContext for Context<Arc<Held>> {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let is_granted = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let answered = if is_granted {
            // Paused before anything is fetched: nobody reads it here.
            consumer.incremental_assign(list).and_then(|()| consumer.pause(list))
        } else {
            consumer.incremental_unassign(list)
        };
        if let Err(error) = answered {
            tracing::error!(%error, is_granted, "the group of a role cannot be answered");
        }
        if list.count() > 0 {
            tracing::info!(is_granted, "a role has changed hands");
            *self.takes.lock() = is_granted;
            self.takes.gained.notify_all();
        }
    }
}
