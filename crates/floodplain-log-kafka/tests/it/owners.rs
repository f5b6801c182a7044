//! Owners of slots: what they commit is there whole, and once they are replaced nothing of theirs is.

mod faults;
mod folding;
mod mock;
mod moves;
mod node;
mod ranges;

use crate::fixture::Kafka;
use floodplain_log_kafka::KafkaConfig;
use floodplain_testkit::{
    kafka::{KafkaCluster, NodeId},
    wait_until,
};
use node::{Node, owners_config};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};
use std::{sync::Once, time::Duration};

/// Numbers of APIs in Kafka's protocol.
const END_TXN: i16 = 26;
const TXN_OFFSET_COMMIT: i16 = 28;

/// The broker that coordinates what has this name: a group by `__consumer_offsets`, a transactional id by
/// `__transaction_state`.
fn coordinator(cluster: &KafkaCluster, topic: &str, name: &str) -> NodeId {
    let hash = name.bytes().fold(0_i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)));
    let leader = || {
        let partitions = cluster.topic(topic).ok()?;
        partitions[hash.unsigned_abs() as usize % partitions.len()].leader
    };
    wait_until("there is a coordinator", &|| (), || leader().is_some());
    leader().unwrap()
}

fn group_coordinator(cluster: &KafkaCluster, config: &KafkaConfig) -> NodeId {
    coordinator(cluster, "__consumer_offsets", &format!("{}floodplain-folds", config.topic_prefix))
}

fn transaction_coordinator(cluster: &KafkaCluster, config: &KafkaConfig, slot: u32) -> NodeId {
    coordinator(cluster, "__transaction_state", &format!("{}floodplain.slot.{slot}", config.topic_prefix))
}

/// Settings where the coordinator of the group and that of the first slot are two brokers.
fn config_of_two_coordinators(kafka: &Kafka) -> KafkaConfig {
    // Both topics are made when somebody first needs a coordinator.
    static ARE_MADE: Once = Once::new();
    ARE_MADE.call_once(|| Node::open(kafka.config(), owners_config(1)).wait_for_slots(1));
    (0..100)
        .map(|_| kafka.config())
        .find(|config| {
            group_coordinator(kafka.cluster(), config) != transaction_coordinator(kafka.cluster(), config, 0)
        })
        .expect("partitions of both topics have different leaders")
}

/// What is written in the first partition of a topic, committed or not.
fn written(config: &KafkaConfig, topic: &str) -> Vec<String> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", config.bootstrap_servers.join(","))
        .set("group.id", "nobody")
        .set("isolation.level", "read_uncommitted")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    let mut values = Vec::new();
    loop {
        match consumer.poll(Duration::from_secs(30)).expect("there is an end") {
            Ok(message) => values.push(String::from_utf8(message.payload().unwrap_or_default().to_vec()).unwrap()),
            Err(rdkafka::error::KafkaError::PartitionEOF(_)) => return values,
            Err(error) => panic!("{error}"),
        }
    }
}
