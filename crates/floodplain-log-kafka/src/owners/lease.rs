//! The consumer whose assignment is ownership. It reads nothing: the topic has no records.

use super::{
    group::{Membership, TxnError},
    slots::Slots,
};
use crate::{
    config::{KafkaConfig, millis},
    metrics::Context,
    time::Deadline,
    topic,
    unit::Shared,
};
use rdkafka::{
    Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};
use std::{io, sync::Arc, time::Duration};

/// How long one poll may take, so that a release is noticed.
const STEP: Duration = Duration::from_millis(100);

/// The lease consumer. Shared by the thread that polls it and those that run transactions.
pub(crate) struct Lease {
    pub(crate) topic: String,
    /// A topic that is always there and that the group does not subscribe.
    other_topic: String,
    consumer: BaseConsumer<Context<Grants>>,
    timeout: Duration,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Lease {
    pub(crate) fn open(
        config: &KafkaConfig,
        session_timeout: Duration,
        patience: Duration,
        slots: &Arc<Slots>,
        shared: &Arc<Shared>,
    ) -> io::Result<Self> {
        let topic = format!("{}{}", config.topic_prefix, topic::SLOTS);
        let mut client = config.client("lease")?;
        let mut set = |name: &str, value: &str| config.set(&mut client, name, value);
        set("group.id", &format!("{}floodplain-folds", config.topic_prefix));
        // Who keeps a slot over a rebalance is not interrupted.
        set("partition.assignment.strategy", "cooperative-sticky");
        set("session.timeout.ms", &millis(session_timeout));
        set("heartbeat.interval.ms", &millis(session_timeout / 4));
        set("enable.auto.commit", "false");
        set("enable.auto.offset.store", "false");
        // Committed offsets of a transaction that is not decided are waited for.
        set("isolation.level", "read_committed");
        set("auto.offset.reset", "latest");
        let grants = Grants { topic: topic.clone(), patience, slots: Arc::clone(slots), shared: Arc::clone(shared) };
        let context = Context::with("lease", grants);
        let consumer = BaseConsumer::from_config_and_context(&client, context).map_err(io::Error::other)?;
        let other_topic = format!("{}{}", config.topic_prefix, topic::STREAMS);
        Ok(Self { topic, other_topic, consumer, timeout: config.request_timeout })
    }

    /// Joins the group and follows what it assigns until all is released; then leaves it.
    pub(crate) fn run(&self, slots: &Slots) {
        if let Err(error) = self.consumer.subscribe(&[&self.topic]) {
            tracing::error!(%error, "cannot join the group of owners");
            return;
        }
        while !slots.is_released() {
            self.poll();
        }
        self.consumer.unsubscribe();
        let deadline = Deadline::after(self.timeout);
        while self.consumer.assignment().is_ok_and(|list| list.count() > 0) && deadline.left().is_some() {
            self.poll();
        }
    }

    /// Rebalances come as callbacks of this, and there are no records.
    fn poll(&self) {
        if let Some(Err(error)) = self.consumer.poll(STEP) {
            if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
                tracing::error!(%error, "the group of owners cannot be followed any more");
            } else {
                tracing::debug!(%error, "the group of owners cannot be followed for now");
            }
        }
    }

    /// Our place in the group as it is now, if we have one.
    pub(crate) fn membership(&self) -> Option<Membership> {
        Membership::of(self.consumer.client())
    }

    /// Asks the coordinator whether we are a member: commits an offset that nobody reads. Blocks.
    ///
    /// Where the answer is no, the client learns it at once, not with its next heartbeat.
    pub(crate) fn check(&self) -> Result<(), TxnError> {
        let mut list = TopicPartitionList::with_capacity(1);
        let add = list.add_partition_offset(&self.other_topic, 0, Offset::Offset(0));
        let committed = add.and_then(|()| self.consumer.commit(&list, CommitMode::Sync));
        committed.map_err(|error| TxnError::of(&error))
    }

    /// The number of the newest transaction of a slot that was committed, 0 if there was none. Blocks.
    pub(crate) fn committed(&self, slot: u32) -> Result<i64, KafkaError> {
        let list = self.offset_list(slot, Offset::Invalid)?;
        let found = self.consumer.committed_offsets(list, self.timeout)?;
        let element = found.find_partition(&self.topic, slot as i32);
        let element = element.ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownPartition))?;
        element.error()?;
        Ok(match element.offset() {
            Offset::Offset(number) => number,
            _ => 0,
        })
    }

    /// An offset of a slot's partition.
    pub(crate) fn offset_list(&self, slot: u32, offset: Offset) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.topic, slot as i32, offset)?;
        Ok(list)
    }
}

/// Takes what the group assigns, on the thread that polls.
struct Grants {
    topic: String,
    patience: Duration,
    slots: Arc<Slots>,
    shared: Arc<Shared>,
}

impl Grants {
    fn slots_of(&self, list: &TopicPartitionList) -> Vec<u32> {
        let ours = |topic: &str| topic == self.topic;
        let elements = list.elements();
        elements.iter().filter(|one| ours(one.topic())).filter_map(|one| u32::try_from(one.partition()).ok()).collect()
    }

    fn assign(&self, consumer: &BaseConsumer<Context<Self>>, list: &TopicPartitionList) {
        let slots = self.slots_of(list);
        if slots.is_empty() {
            // It still has to be answered: the group waits for that.
            return drop(consumer.incremental_assign(list));
        }
        // From the start, which needs no question, and paused: there is nothing to fetch. What is committed for these
        // partitions counts transactions.
        let mut from = TopicPartitionList::with_capacity(slots.len());
        for slot in &slots {
            if let Err(error) = from.add_partition_offset(&self.topic, *slot as i32, Offset::Offset(0)) {
                tracing::error!(slot, %error, "slot cannot be taken");
                return;
            }
        }
        if let Err(error) = consumer.incremental_assign(&from) {
            tracing::error!(?slots, %error, "slots cannot be taken");
            return;
        }
        if let Err(error) = consumer.pause(&from) {
            tracing::debug!(%error, "the topic of slots is read");
        }
        tracing::info!(?slots, "slots are granted");
        slots.iter().for_each(|slot| self.slots.grant(*slot));
    }

    fn unassign(&self, consumer: &BaseConsumer<Context<Self>>, list: &TopicPartitionList) {
        let slots = self.slots_of(list);
        let is_lost = consumer.assignment_lost();
        tracing::info!(?slots, is_lost, "slots are given up");
        // What runs for a slot that is lost is refused by brokers; there is no use in waiting for that.
        let patience = if is_lost { Duration::ZERO } else { self.patience };
        self.slots.revoke(&slots, patience, |cost| self.shared.permits.give_back(cost));
        if consumer.incremental_unassign(list).is_err()
            && let Err(error) = consumer.unassign()
        {
            tracing::error!(%error, "slots cannot be given up");
        }
    }
}

impl ConsumerContext for Context<Grants> {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.takes.assign(consumer, list);
        } else {
            self.takes.unassign(consumer, list);
        }
    }
}
