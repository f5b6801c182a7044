//! Errors that a healthy broker does not make, by librdkafka's own mock of a cluster: it says what it is told to, and
//! proves nothing about durability.

use crate::fixture::{append, open, stream, values, wait_for, write};
use floodplain_log::{Log, Outcome};
use floodplain_log_kafka::KafkaConfig;
use floodplain_testkit::batch_of;
use floodplain_types::{Class, Position};
use rdkafka::{
    mocking::MockCluster,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

/// A broker that has lost the sequence of a producer is fatal to the producer, not to the log.
#[test]
fn a_producer_that_fails_for_good_is_replaced() {
    let cluster = MockCluster::new(1).unwrap();
    for topic in ["_floodplain.streams", "default.a"] {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    let config = KafkaConfig { producers: 1, ..KafkaConfig::development([cluster.bootstrap_servers()]) };
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let log = metrics::with_local_recorder(&recorder, || open(config));
    let replaced = |count: u32| {
        let text = recorder.handle().render();
        assert!(text.contains(&format!("floodplain_log_kafka_fatal_errors_total {count}\n")), "{text}");
    };
    let partition = stream(&log, "a", 1).partition(0);
    write(&log, partition, "before");
    replaced(0);
    let lost = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    cluster.request_errors(RDKafkaApiKey::Produce, &[lost]);
    let outcome = append(&log, Class::All, vec![(partition, batch_of(b"key", b"lost", 1))]);
    assert_eq!(outcome, Outcome::Unknown);
    assert_eq!(log.queued_bytes(), 0);
    let after = write(&log, partition, "after");
    replaced(1);
    wait_for(&log, partition, after.next());
    let values: Vec<String> = values(&log, partition, Position::ZERO).into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, ["before", "after"]);
}

/// What passes is tried again by the producer, and nobody hears of it.
#[test]
fn errors_that_pass_are_not_heard_of() {
    let cluster = MockCluster::new(1).unwrap();
    for topic in ["_floodplain.streams", "default.a"] {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    let log = open(KafkaConfig { producers: 1, ..KafkaConfig::development([cluster.bootstrap_servers()]) });
    let partition = stream(&log, "a", 1).partition(0);
    for (i, error) in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
    ]
    .into_iter()
    .enumerate()
    {
        cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
        let position = write(&log, partition, &i.to_string());
        assert_eq!(position, Position::new(0, i as u64));
    }
}
