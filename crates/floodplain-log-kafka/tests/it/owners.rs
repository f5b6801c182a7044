//! Owners of slots: what they commit is there whole, and once they are replaced nothing of theirs is.

mod faults;
mod mock;
mod moves;
mod node;

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

fn coordinator(cluster: &KafkaCluster, topic: &str, name: &str) -> NodeId {
    let coordinator = || cluster.coordinator(topic, name).ok().flatten();
    wait_until("there is a coordinator", &|| (), || coordinator().is_some());
    coordinator().unwrap()
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
    let is_led_by_its_first = |topic: &&str| {
        let partitions = kafka.cluster().topic(topic);
        partitions.is_ok_and(|all| all.iter().all(|one| one.leader == one.replicas.first().copied()))
    };
    wait_until("whoever was away leads again", &|| (), || {
        ["__consumer_offsets", "__transaction_state"].iter().all(is_led_by_its_first)
    });
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
