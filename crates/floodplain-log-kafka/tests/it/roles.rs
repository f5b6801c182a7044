//! What one process at a time does.

use crate::fixture::Kafka;
use floodplain_log_kafka::{KafkaLog, KafkaRole};
use floodplain_testkit::wait_until;
use floodplain_types::SystemClock;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};
use std::{sync::Arc, time::Duration};

const SESSION: Duration = Duration::from_secs(6);
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_role_stays_with_whoever_has_it_and_goes_on_when_it_is_given_up() {
    let kafka = Kafka::share();
    let config = kafka.config();
    let open = || KafkaLog::open(Arc::new(SystemClock), config.clone()).unwrap();
    let (log, other_log) = (open(), open());
    let ask = |log: &KafkaLog, name: &str| KafkaRole::ask(log, name, SESSION).unwrap();
    let first = ask(&log, "tables");
    assert!(first.wait(LONG), "nobody else wants it");
    let second = ask(&other_log, "tables");
    assert!(ask(&other_log, "something-else").wait(LONG), "another role is free");
    let brokers = config.bootstrap_servers.join(",");
    let asks: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let group = format!("{}floodplain-tables", config.topic_prefix);
    let members = || asks.fetch_group_list(Some(&group), LONG).unwrap().groups().first().map(|one| one.members().len());
    wait_until("both are in the group", &|| (), || members() == Some(2));
    assert!(first.wait(Duration::ZERO) && !second.wait(SESSION), "it stays where it is");
    drop(first);
    assert!(second.wait(LONG), "the next one has it");
}
