//! Slots that move in order, and what an owner commits while nothing is wrong.

use super::node::{Node, Process, owners_config, run_child};
use crate::fixture::{Kafka, stream, values, wait_for};
use floodplain_log::{Fence, Outcome, Owners as _, Refusal, Slot};
use floodplain_log_kafka::{KafkaConfig, OwnersConfig};
use floodplain_testkit::{batch_of, owning::Ranges, wait_until};
use floodplain_types::Position;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn units_of_an_owner_are_there_whole_and_in_order() {
    let kafka = Kafka::share();
    let config = kafka.config();
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    // Two units share a transaction.
    let owners = OwnersConfig { transaction_bytes: 300, ..owners_config(1) };
    let node = metrics::with_local_recorder(&recorder, || Node::open(config, owners));
    let stream = stream(&node.log, "a", 2);
    let partitions = [stream.partition(0), stream.partition(1)];
    node.wait_for_slots(1);
    let fence = node.held.fences()[0];
    let unit = |i: usize| {
        let batch = |half: usize| batch_of(b"key", format!("{i}.{half}").as_bytes(), 1);
        vec![(partitions[0], batch(0)), (partitions[1], batch(1))]
    };
    let tags: Vec<u64> = (0..20).map(|i| node.begin(fence, unit(i))).collect();
    let mut expected = [Vec::new(), Vec::new()];
    for (i, tag) in tags.into_iter().enumerate() {
        let Outcome::Committed(positions) = node.ended(tag) else { panic!("{i}") };
        for half in 0..2 {
            expected[half].push((positions[half], format!("{i}.{half}")));
        }
    }
    for half in 0..2 {
        wait_for(&node.log, partitions[half], expected[half][19].0.next());
        assert_eq!(
            values(&node.log, partitions[half], Position::ZERO),
            expected[half],
            "with the offsets that were told"
        );
    }
    let count = |name: &str| -> f64 {
        let text = recorder.handle().render();
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("{name} is not in\n{text}"))
    };
    let transactions = count("floodplain_log_kafka_transactions_total{outcome=\"committed\"}");
    assert!((10.0..=20.0).contains(&transactions), "two at most share a transaction: {transactions}");
    assert_eq!(count("floodplain_log_kafka_slots_owned"), 1.0);
    assert_eq!(count("floodplain_log_kafka_transaction_duration_seconds_count"), transactions);

    // What cannot be taken is refused at once.
    assert_eq!(node.commit(fence, Vec::new()), Outcome::Committed(Vec::new()));
    let other = Fence::new(Slot(0), fence.epoch() + 1);
    assert_eq!(node.commit(other, unit(20)), Outcome::Refused(Refusal::Fenced));
    assert_eq!(node.commit(Fence::new(Slot(1), fence.epoch()), unit(20)), Outcome::Refused(Refusal::Fenced));
    assert_eq!(count("floodplain_log_kafka_fencings_total"), 2.0);
    node.owners.release();
    node.wait_for_slots(0);
    assert!(matches!(node.commit(fence, unit(20)), Outcome::Refused(Refusal::Closing | Refusal::Fenced)));
    assert_eq!(floodplain_log::Log::queued_bytes(&*node.log), 0, "permits are given back");
    assert_eq!(node.held.told(), ["gained 0", "lost 0"]);
    assert_eq!(count("floodplain_log_kafka_slots_owned"), 0.0);
}

/// Three processes that are frozen and killed all the time: whatever happens, no range is taken twice.
#[test]
fn two_owners_never_commit_the_same_range() {
    if run_child() {
        return;
    }
    const SLOTS: u32 = 16;
    const TEST: &str = "owners::moves::two_owners_never_commit_the_same_range";
    let kafka = Kafka::share();
    let config = kafka.config();
    let node = Node::open(config.clone(), owners_config(SLOTS));
    node.wait_for_slots(SLOTS as usize);
    let ranges = Ranges::start(&node.node);
    let start = || {
        let mut process = Process::start(TEST, &config, &owners_config(SLOTS));
        process.order("range");
        process.wait_for("gained");
        process
    };
    let (mut killed, mut frozen) = (start(), start());
    let has_more = |process: &Process, what: &str, count: usize| {
        process.said().iter().filter(|line| line.starts_with(what)).count() > count
    };
    // A slot that is granted and not started yet is lost without a word.
    let owns = |process: &Process| {
        let said = process.said();
        let count = |what: &str| said.iter().filter(|line| line.starts_with(what)).count();
        count("gained") > count("lost")
    };
    for round in 0..3 {
        wait_until("who is about to be frozen owns something", &|| (), || owns(&frozen));
        let losses = frozen.said().iter().filter(|line| line.starts_with("lost")).count();
        let slots = node.held.slots().len();
        frozen.freeze();
        killed.kill();
        wait_until("the node that is left takes over", &|| (), || node.held.slots().len() == SLOTS as usize);
        assert!(slots < SLOTS as usize);
        frozen.thaw();
        wait_until("who was frozen learns that", &|| (), || has_more(&frozen, "lost", losses));
        killed = start();
        wait_until(&format!("all own something in round {round}"), &|| (), || node.held.slots().len() < SLOTS as usize);
    }
    frozen.end();
    killed.end();
    node.wait_for_slots(SLOTS as usize);
    let mut acked = ranges.stop();
    for process in [&frozen, &killed] {
        let text = process.wait_for("acked ");
        let numbers: Vec<u64> =
            text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
        acked.extend(numbers.chunks(3).map(|range| (range[0] as u32, range[1], range[2])));
    }
    let count = Ranges::check(&node, &acked, true);
    println!("{count} ranges, {} of them acknowledged to who is left", acked.len());
    assert!(count >= acked.len());
}

/// Case 5 of the conformance suite: the coordinator looks at member and generation, and at nothing else of the group.
#[test]
fn offsets_of_topics_outside_the_subscription_commit_under_the_lease_group() {
    let kafka = Kafka::share();
    let config = kafka.config();
    let prefix = config.topic_prefix.clone();
    let node = Node::open(config, owners_config(1));
    let input = stream(&node.log, "input", 2).partition(1);
    node.wait_for_slots(1);
    node.owners.release();
    node.wait_for_slots(0);
    // Another member, by hand.
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.cluster().bootstrap())
        .set("group.id", format!("{prefix}floodplain-folds"))
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "5000")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    consumer.subscribe(&[&format!("{prefix}_floodplain.slots")]).unwrap();
    let poll = || drop(consumer.poll(Duration::from_millis(50)));
    wait_until("it is a member", &poll, || consumer.assignment().unwrap().count() == 1);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.cluster().bootstrap())
        .set("transactional.id", format!("{prefix}by-hand"))
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    let topic = format!("{prefix}default.input");
    let commit = |offset: i64, commits: bool| {
        producer.begin_transaction().unwrap();
        let record = BaseRecord::<(), str>::to(&topic).partition(1).payload("x");
        producer.send(record).map_err(|(error, _)| error).unwrap();
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&topic, 1, Offset::Offset(offset)).unwrap();
        let membership = consumer.group_metadata().unwrap();
        producer.send_offsets_to_transaction(&offsets, &membership, PATIENCE).unwrap();
        if commits {
            producer.commit_transaction(PATIENCE).unwrap();
        } else {
            producer.flush(PATIENCE).unwrap();
            producer.abort_transaction(PATIENCE).unwrap();
        }
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&topic, 1);
        let committed = consumer.committed_offsets(asked, PATIENCE).unwrap();
        committed.find_partition(&topic, 1).unwrap().offset()
    };
    assert_eq!(commit(7, true), Offset::Offset(7));
    assert_eq!(commit(9, false), Offset::Offset(7), "with the transaction or not at all");
    wait_for(&node.log, input, Position::new(0, 1));
    drop(consumer);
    // The next owner goes on.
    let next = Node::open(KafkaConfig { topic_prefix: prefix, ..kafka.config() }, owners_config(1));
    next.wait_for_slots(1);
    let outcome = next.commit_value(next.held.fences()[0], input, "y");
    assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
}
