//! How appends end when the cluster does not answer.

use crate::fixture::{Kafka, append, open, stream, values, wait_for, write};
use floodplain_log::{Append, CompletionSink, InOrder, Log, Outcome, Refusal, Reply};
use floodplain_log_kafka::KafkaConfig;
use floodplain_testkit::{Outcomes, batch_of, wait_until};
use floodplain_types::{Class, Position};
use std::{sync::Arc, time::Duration};

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

/// `none` and a full queue do not wait for the cluster; what is refused stays in order.
#[test]
fn a_cluster_that_is_away_fills_the_queue_and_order_is_kept() {
    let kafka = Kafka::take();
    let cluster = kafka.cluster();
    let log = open(KafkaConfig { queue_bytes: 64 << 10, ..kafka.config() });
    let partition = stream(&log, "a", 1).partition(0);
    write(&log, partition, "before");
    cluster.nodes().for_each(|node| cluster.cut(node).unwrap());

    let outcomes = Outcomes::new();
    let mut refusals_seen = 0;
    let submit = |tag: u64, len: usize, refusals_seen: u64| {
        let value = format!("{tag} {}", "x".repeat(len));
        let batches = vec![(partition, batch_of(b"key", value.as_bytes(), 1))];
        let reply = Reply { sink: Arc::clone(&outcomes) as Arc<dyn CompletionSink>, tag };
        log.submit_in_order(Append { batches, class: Class::All }, reply, InOrder { submitter: 1, refusals_seen });
        match outcomes.take(tag) {
            None => None,
            Some(Outcome::Refused(refusal)) => Some(refusal),
            Some(other) => panic!("{other:?}"),
        }
    };
    let mut taken = Vec::new();
    let refused = loop {
        let tag = taken.len() as u64;
        match submit(tag, 10_000, refusals_seen) {
            None => taken.push(tag),
            Some(refusal) => break (tag, refusal),
        }
    };
    assert_eq!(refused.1, Refusal::Overloaded { capacity_bytes: 64 << 10 });
    assert!(taken.len() >= 4 && log.queued_bytes() <= log.queue_capacity_bytes());
    // It would fit, and must not overtake the one before it.
    assert_eq!(submit(100, 1, refusals_seen), Some(Refusal::AfterRefused));
    refusals_seen += 2;
    assert_eq!(submit(101, 1, refusals_seen), None, "after both were heard");

    cluster.nodes().for_each(|node| cluster.heal(node).unwrap());
    wait_until("the queue is empty", &|| (), || log.queued_bytes() == 0);
    for tag in taken.iter().copied().chain([101]) {
        assert!(matches!(outcomes.wait(tag, &|| ()), Outcome::Committed(_)), "{tag}");
    }
    let last = write(&log, partition, "last");
    wait_for(&log, partition, last.next());
    let values = values(&log, partition, Position::ZERO).into_iter().map(|(_, value)| value);
    let tags: Vec<String> = values.map(|value| value.split(' ').next().unwrap().to_owned()).collect();
    let expected = taken.iter().map(u64::to_string);
    let expected: Vec<String> =
        ["before".to_owned()].into_iter().chain(expected).chain(["101".to_owned(), "last".to_owned()]).collect();
    assert_eq!(tags, expected);
}

/// A cluster that is not there is said within the timeout.
#[test]
fn opening_without_a_cluster_says_so() {
    let config = KafkaConfig { request_timeout: Duration::from_secs(1), ..KafkaConfig::new(["127.0.0.1:1"]) };
    let clock = crate::fixture::clock();
    let error = floodplain_log_kafka::KafkaLog::open(clock, config).unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}
