//! Errors of transactions that a healthy broker does not make.

use super::node::{Node, owners_config};
use crate::fixture::{stream, values, wait_for};
use floodplain_log::{Outcome, Partition, Refusal};
use floodplain_log_kafka::{KafkaConfig, OwnersConfig};
use floodplain_types::Position;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use std::{sync::Arc, time::Duration};

struct Mock {
    // Dropped in this order.
    node: Arc<Node>,
    cluster: MockCluster<'static, DefaultProducerContext>,
    recorder: PrometheusRecorder,
    partition: Partition,
}

impl Mock {
    fn start() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        for topic in ["_floodplain.streams", "_floodplain.slots", "default.a"] {
            cluster.create_topic(topic, 1, 1).unwrap();
        }
        let config = KafkaConfig { producers: 1, ..KafkaConfig::development([cluster.bootstrap_servers()]) };
        let recorder = PrometheusBuilder::new().build_recorder();
        let owners = OwnersConfig { session_timeout: Duration::from_secs(6), ..owners_config(1) };
        let node = metrics::with_local_recorder(&recorder, || Node::open(config, owners));
        node.wait_for_slots(1);
        let partition = stream(&node.log, "a", 1).partition(0);
        Self { node, cluster, recorder, partition }
    }

    fn commit(&self, value: &str) -> Outcome {
        self.node.commit_value(self.node.held.fences()[0], self.partition, value)
    }

    fn aborted(&self) -> u64 {
        let start = "floodplain_log_kafka_transactions_total{outcome=\"aborted\"} ";
        let text = self.recorder.handle().render();
        text.lines().find_map(|line| line.strip_prefix(start)?.parse().ok()).unwrap_or(0)
    }

    fn values(&self, last: &Outcome) -> Vec<String> {
        let Outcome::Committed(positions) = last else { panic!("{last:?}") };
        wait_for(&self.node.log, self.partition, positions[0].next());
        values(&self.node.log, self.partition, Position::ZERO).into_iter().map(|(_, value)| value).collect()
    }
}

/// Whatever comes before the commit is certain: the unit is tried again, with the producer or with a new one.
#[test]
fn errors_before_the_commit_are_tried_again() {
    let check = |api, error, aborts| {
        let mock = Mock::start();
        assert!(matches!(mock.commit("before"), Outcome::Committed(_)));
        mock.cluster.request_errors(api, &[error]);
        let hurt = mock.commit("hurt");
        assert!(matches!(hurt, Outcome::Committed(_)), "{error:?}: {hurt:?}");
        // More than once where the mock does not know the epoch after one that librdkafka has skipped.
        assert_eq!(mock.aborted() > 0, aborts, "{error:?}");
        let after = mock.commit("after");
        // The mock shows what was aborted, too.
        let values = mock.values(&after);
        assert_eq!(values.iter().filter(|value| *value != "hurt").collect::<Vec<_>>(), ["before", "after"]);
        assert_eq!(mock.node.held.told(), ["gained 0"], "{error:?}: the owner stays the owner");
    };
    // Each mock takes its time; they take it together.
    std::thread::scope(|scope| {
        for (api, error, aborts) in [
            // Fatal to the producer.
            (RDKafkaApiKey::Produce, RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, true),
            (RDKafkaApiKey::AddPartitionsToTxn, RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED, true),
            (RDKafkaApiKey::AddOffsetsToTxn, RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, true),
            // To be aborted.
            (RDKafkaApiKey::TxnOffsetCommit, RDKafkaRespErr::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION, true),
            (RDKafkaApiKey::Produce, RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD, true),
            // librdkafka repeats these by itself.
            (RDKafkaApiKey::TxnOffsetCommit, RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, false),
            (RDKafkaApiKey::EndTxn, RDKafkaRespErr::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS, false),
        ] {
            scope.spawn(move || check(api, error, aborts));
        }
    });
}

#[test]
fn who_is_no_member_is_refused_until_the_group_says_otherwise() {
    let mock = Mock::start();
    let unknown = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID;
    mock.cluster.request_errors(RDKafkaApiKey::TxnOffsetCommit, &[unknown]);
    assert_eq!(mock.commit("refused"), Outcome::Refused(Refusal::Fenced));
    assert_eq!(mock.aborted(), 1);
    assert_eq!(mock.commit("again"), Outcome::Refused(Refusal::Fenced), "by the same fence never more");
}

/// An error of the commit itself leaves open whether the broker has heard it.
#[test]
fn an_error_of_the_commit_is_unknown_and_the_next_one_goes_on() {
    for error in [RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN] {
        let mock = Mock::start();
        mock.cluster.request_errors(RDKafkaApiKey::EndTxn, &[error]);
        assert_eq!(mock.commit("open"), Outcome::Unknown, "{error:?}");
        let after = mock.commit("after");
        assert!(mock.values(&after).contains(&"after".to_owned()));
        assert_eq!(mock.node.held.told(), ["gained 0"]);
    }
}
