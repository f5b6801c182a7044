//! Questions and orders to the cluster that are no records.

use crate::{config::KafkaConfig, metrics::Context, time::Deadline};
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use std::{
    io,
    pin::pin,
    sync::Arc,
    task::{Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

/// How long to wait before a question is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// Why the cluster has not done what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    #[error("{0}")]
    Kafka(#[from] KafkaError),
    /// The cluster has answered for one topic or partition.
    #[error("{what}: {code}")]
    Refused { what: String, code: RDKafkaErrorCode },
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// What is asked of offsets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum At {
    /// The first offset that can be read.
    Start,
    /// The last stable offset.
    End,
    /// The first offset whose time is not before this one, in milliseconds since 1970.
    Time(i64),
}

/// The client for questions.
pub(crate) struct Admin {
    admin: AdminClient<Context>,
    /// Reads nothing: only consumers may ask for offsets.
    lookup: BaseConsumer<Context>,
    timeout: Duration,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Admin {
    pub(crate) fn open(config: &KafkaConfig) -> io::Result<Self> {
        let admin = AdminClient::from_config_and_context(&config.client("admin")?, Context::new("admin"));
        let lookup = BaseConsumer::from_config_and_context(&config.client("lookup")?, Context::new("lookup"));
        let (admin, lookup) = (admin.map_err(io::Error::other)?, lookup.map_err(io::Error::other)?);
        Ok(Self { admin, lookup, timeout: config.request_timeout })
    }

    /// Lets the clients say what they have to.
    pub(crate) fn serve(&self) {
        while self.lookup.poll(Duration::ZERO).is_some() {}
    }

    /// Creates a topic if there is none of this name. How many partitions it has, once all of them have a leader.
    pub(crate) fn ensure_topic(
        &self,
        name: &str,
        partitions: u32,
        replication: u16,
        settings: &[(&'static str, String)],
    ) -> Result<u32, AdminError> {
        let deadline = Deadline::after(self.timeout);
        if let Some(partitions) = self.partitions(name, deadline)? {
            return Ok(partitions);
        }
        let replication = TopicReplication::Fixed(i32::from(replication));
        let mut topic = NewTopic::new(name, i32::try_from(partitions).unwrap_or(i32::MAX), replication);
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(self.timeout)).request_timeout(Some(self.timeout));
        for result in block_on(self.admin.create_topics([&topic], &options))? {
            match result {
                // Or by another node, at the same time.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(AdminError::Refused { what: topic, code }),
            }
        }
        loop {
            if let Some(partitions) = self.partitions(name, deadline)? {
                return Ok(partitions);
            }
            self.pause(deadline)?;
        }
    }

    /// How many partitions a topic has; `None` if there is none, or not yet everywhere.
    fn partitions(&self, name: &str, deadline: Deadline) -> Result<Option<u32>, AdminError> {
        loop {
            let left = deadline.left().ok_or(AdminError::Timeout(self.timeout))?;
            let metadata = self.lookup.fetch_metadata(Some(name), left)?;
            let topic = metadata.topics().iter().find(|topic| topic.name() == name);
            let Some(topic) = topic else { return Ok(None) };
            match topic.error().map(RDKafkaErrorCode::from) {
                None => {}
                Some(RDKafkaErrorCode::UnknownTopicOrPartition) => return Ok(None),
                Some(RDKafkaErrorCode::LeaderNotAvailable) => {
                    self.pause(deadline)?;
                    continue;
                }
                Some(code) => return Err(AdminError::Refused { what: name.to_owned(), code }),
            }
            if !topic.partitions().is_empty() && topic.partitions().iter().all(|partition| partition.leader() >= 0) {
                return Ok(Some(topic.partitions().len() as u32));
            }
            self.pause(deadline)?;
        }
    }

    fn pause(&self, deadline: Deadline) -> Result<(), AdminError> {
        let left = deadline.left().ok_or(AdminError::Timeout(self.timeout))?;
        thread::park_timeout(PAUSE.min(left));
        Ok(())
    }

    /// An offset of each of these partitions; `None` where there is none behind the time. Asks again until leaders
    /// are there.
    pub(crate) fn offsets(&self, partitions: &[(&str, u32)], at: At) -> Result<Vec<Option<u64>>, AdminError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let deadline = Deadline::after(self.timeout);
        loop {
            let left = deadline.left().ok_or(AdminError::Timeout(self.timeout))?;
            match self.offsets_once(partitions, at, left) {
                Ok(offsets) => return Ok(offsets),
                Err(error) if passes(&error) && self.pause(deadline).is_ok() => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn offsets_once(
        &self,
        partitions: &[(&str, u32)],
        at: At,
        timeout: Duration,
    ) -> Result<Vec<Option<u64>>, AdminError> {
        let time = match at {
            At::Start => Offset::Beginning,
            At::End => Offset::End,
            // Below zero are names of other things.
            At::Time(ms) => Offset::Offset(ms.max(0)),
        };
        let mut times = TopicPartitionList::with_capacity(partitions.len());
        for (topic, index) in partitions {
            times.add_partition_offset(topic, *index as i32, time)?;
        }
        let offsets = self.lookup.offsets_for_times(times, timeout)?;
        let mut found = Vec::with_capacity(partitions.len());
        for (topic, index) in partitions {
            let what = || format!("{topic}/{index}");
            let element = offsets.find_partition(topic, *index as i32);
            let element = element.ok_or_else(|| AdminError::Refused { what: what(), code: RDKafkaErrorCode::Fail })?;
            if let Err(error) = element.error() {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                return Err(AdminError::Refused { what: what(), code });
            }
            found.push(match element.offset() {
                Offset::Offset(offset) => Some(u64::try_from(offset).unwrap_or(0)),
                _ => None,
            });
        }
        Ok(found)
    }

    /// Removes what is before an offset: the first that is left.
    pub(crate) fn delete_before(&self, topic: &str, index: u32, offset: u64) -> Result<u64, AdminError> {
        let mut offsets = TopicPartitionList::with_capacity(1);
        let before = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
        offsets.add_partition_offset(topic, index as i32, before)?;
        let options = AdminOptions::new().operation_timeout(Some(self.timeout)).request_timeout(Some(self.timeout));
        let left = block_on(self.admin.delete_records(&offsets, &options))?;
        let what = || format!("{topic}/{index}");
        let element = left.find_partition(topic, index as i32);
        let element = element.ok_or_else(|| AdminError::Refused { what: what(), code: RDKafkaErrorCode::Fail })?;
        if let Err(error) = element.error() {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
            return Err(AdminError::Refused { what: what(), code });
        }
        match element.offset() {
            Offset::Offset(start) => Ok(u64::try_from(start).unwrap_or(0)),
            _ => Ok(offset),
        }
    }
}

/// Whether the cluster may answer otherwise in a moment.
fn passes(error: &AdminError) -> bool {
    let code = match error {
        AdminError::Kafka(error) => error.rdkafka_error_code(),
        AdminError::Refused { code, .. } => Some(*code),
        AdminError::Timeout(_) => None,
    };
    matches!(
        code,
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::OffsetNotAvailable
                | RDKafkaErrorCode::FencedLeaderEpoch
                | RDKafkaErrorCode::UnknownLeaderEpoch
                | RDKafkaErrorCode::ReplicaNotAvailable
                | RDKafkaErrorCode::KafkaStorageError
                | RDKafkaErrorCode::BrokerNotAvailable
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::RequestTimedOut
        )
    )
}

/// Waits for an answer of the admin client, whose own timeout ends it.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        thread::park();
    }
}
