//! Transactions of others: what they took back is not there, and their marks are holes.

use crate::fixture::{Kafka, open, stream, values};
use floodplain_log::{Append, CompletionSink, Log, Outcome, Reply};
use floodplain_testkit::{Outcomes, batch_of, wait_until};
use floodplain_types::{Class, Position};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use std::{sync::Arc, time::Duration};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn only_what_was_committed_is_read_and_marks_are_holes() {
    let kafka = Kafka::share();
    let config = kafka.config();
    let topic = format!("{}default.state", config.topic_prefix);
    let log = open(config.clone());
    let partition = stream(&log, "state", 1).partition(0);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.cluster().bootstrap())
        .set("transactional.id", &topic)
        // Where it is asked for the end.
        .set("isolation.level", "read_uncommitted")
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    let send = |value: &str| {
        let record = BaseRecord::<(), str>::to(&topic).partition(0).payload(value);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    };
    producer.begin_transaction().unwrap();
    ["a", "b"].into_iter().for_each(send);
    producer.commit_transaction(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    ["never", "seen"].into_iter().for_each(send);
    producer.flush(PATIENCE).unwrap();
    producer.abort_transaction(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    ["c"].into_iter().for_each(send);
    producer.flush(PATIENCE).unwrap();
    // Written and not committed: nothing at or behind it can be read, so what is behind it is not acknowledged yet.
    let outcomes = Outcomes::new();
    let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
    let batches = vec![(partition, batch_of(b"key", b"ours", 1))];
    log.submit(Append { batches, class: Class::All }, Some(Reply { sink, tag: 0 }));
    let end = || producer.client().fetch_watermarks(&topic, 0, PATIENCE).unwrap().1;
    wait_until("ours is written", &|| (), || end() == 8);
    assert!(log.watermark(partition) <= Position::new(0, 6));
    assert_eq!(outcomes.waiting(), 0, "who reads does not find it");
    producer.commit_transaction(PATIENCE).unwrap();
    let ours = Position::new(0, 7);
    assert_eq!(outcomes.wait(0, &|| ()), Outcome::Committed(vec![ours]));
    assert_eq!(log.watermark(partition), ours.next());

    let expected = [(0, "a"), (1, "b"), (6, "c"), (7, "ours")];
    let expected = expected.map(|(offset, value)| (Position::new(0, offset), value.to_owned()));
    assert_eq!(values(&log, partition, Position::ZERO), expected);
    drop(log);
    // From the cluster, from every offset; the end is a hole, too.
    let log = open(config);
    let partition = stream(&log, "state", 1).partition(0);
    assert_eq!(log.watermark(partition), Position::new(0, 9), "behind the mark");
    for offset in 0..9 {
        let from = Position::new(0, offset);
        let left: Vec<_> = expected.iter().filter(|(position, _)| *position >= from).cloned().collect();
        assert_eq!(values(&log, partition, from), left, "from {offset}");
    }
}
