//! Transactions of others: what they took back is not there, and their marks are holes.

use crate::fixture::{Kafka, open, stream, values, wait_for, write};
use floodplain_log::Log;
use floodplain_types::Position;
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use std::time::Duration;

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
    // Written and not committed: nothing at or behind it is.
    let ours = write(&log, partition, "ours");
    assert_eq!(ours, Position::new(0, 7));
    assert!(log.watermark(partition) <= Position::new(0, 6));
    producer.commit_transaction(PATIENCE).unwrap();
    wait_for(&log, partition, ours.next());

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
