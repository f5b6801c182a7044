//! How appends end when the cluster does not answer.

use crate::fixture::{Kafka, append, open, stream, values, wait_for, write};
use floodplain_log::{Log, Outcome};
use floodplain_log_kafka::KafkaConfig;
use floodplain_testkit::batch_of;
use floodplain_types::{Class, Position};
use std::time::Duration;

/// Without an answer within the timeout the outcome is open; nothing stays queued, and it goes on.
#[test]
fn an_append_without_an_answer_is_unknown() {
    let kafka = Kafka::take();
    let cluster = kafka.cluster();
    let config = KafkaConfig { message_timeout: Duration::from_secs(3), ..kafka.config() };
    let log = open(config);
    let partition = stream(&log, "a", 1).partition(0);
    write(&log, partition, "before");
    // They write it, and we do not hear that.
    cluster.nodes().for_each(|node| cluster.mute(node).unwrap());
    for class in [Class::All, Class::Leader] {
        let batches = vec![(partition, batch_of(b"key", class.as_str().as_bytes(), 1))];
        assert_eq!(append(&log, class, batches), Outcome::Unknown, "{class}");
    }
    assert_eq!(log.queued_bytes(), 0, "permits are given back");
    cluster.nodes().for_each(|node| cluster.heal(node).unwrap());
    let after = write(&log, partition, "after");
    wait_for(&log, partition, after.next());
    let values: Vec<String> = values(&log, partition, Position::ZERO).into_iter().map(|(_, value)| value).collect();
    let certain: Vec<&String> = values.iter().filter(|value| !["all", "leader"].contains(&value.as_str())).collect();
    assert_eq!(certain, ["before", "after"]);
    let of = |class: &str| values.iter().filter(|value| *value == class).count();
    assert!(of("all") <= 1, "what is idempotent is not doubled: {values:?}");
}

/// A cluster that is not there is said within the timeout.
#[test]
fn opening_without_a_cluster_says_so() {
    let config = KafkaConfig { request_timeout: Duration::from_secs(1), ..KafkaConfig::new(["127.0.0.1:1"]) };
    let clock = crate::fixture::clock();
    let error = floodplain_log_kafka::KafkaLog::open(clock, config).unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}
