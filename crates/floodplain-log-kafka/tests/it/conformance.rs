//! The suite of the contract.

use crate::fixture::{Kafka, clock};
use floodplain_log_kafka::{KafkaConfig, KafkaLog};
use floodplain_testkit::conformance::{self, Harness};
use floodplain_types::{Clock, ManualClock};
use std::{any::Any, sync::Arc, time::Duration};

fn harness(config: KafkaConfig, clock: Arc<ManualClock>, keep: Box<dyn Any>) -> Harness {
    let log = KafkaLog::open(Arc::clone(&clock) as Arc<dyn Clock>, config.clone()).unwrap();
    let again = Arc::clone(&clock);
    Harness {
        log,
        clock,
        pump: Box::new(|| ()),
        // A healthy cluster: nothing is unknown, and what is idempotent is not doubled.
        exact: true,
        orders_classes: false,
        reopen: Some(Box::new(move |keep| harness(config, again, keep))),
        keep,
    }
}

#[test]
fn kafka_keeps_the_contract() {
    let kafka = Kafka::take();
    // Small enough that the cases miss the memory.
    conformance::run(&|| {
        let config = KafkaConfig { tail_bytes: 8 << 10, queue_bytes: 4 << 20, ..kafka.config() };
        // Nobody is given up for being slow on a busy machine: that would leave outcomes open.
        let config = KafkaConfig { socket_timeout: Duration::from_secs(60), ..config };
        harness(config, clock(), Box::new(()))
    });
}
