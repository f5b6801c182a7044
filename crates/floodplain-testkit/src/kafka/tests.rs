//! What needs a view from inside. Needs a JDK and Kafka's jars, as `tests/it/kafka.rs` does.

use super::*;
use std::net::TcpListener;

/// Others may take a port between our choice and the broker's start.
#[test]
fn other_ports_are_chosen_when_one_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut choices = 0;
    let mut choose = |earlier: Option<Ports>| {
        assert!(earlier.is_none(), "the folder is new");
        choices += 1;
        let mut ports = Ports::choose()?;
        if choices == 1 {
            ports.client = taken.local_addr().unwrap().port();
        }
        Ok(ports)
    };
    let jars = KafkaJars::find().unwrap();
    let cluster = KafkaCluster::start_at(&jars, 1, dir.path(), KafkaOptions::default(), &mut choose).unwrap();
    assert_eq!(cluster.live_brokers().unwrap(), [NodeId(1)]);
    assert_eq!(cluster.controller().unwrap(), NodeId(1));
    assert_eq!(choices, 2);
}

/// While a broker is down nobody gets its ports by chance, and it can listen there again.
#[test]
fn held_ports_are_free_for_the_broker_alone() {
    let ports = Ports::choose().unwrap();
    let numbers = [ports.client, ports.broker, ports.controller];
    let others: Vec<Ports> = (0..50).map(|_| Ports::choose().unwrap()).collect();
    for other in &others {
        assert!(!numbers.contains(&other.client) && !numbers.contains(&other.broker));
    }
    // As Kafka listens.
    let broker = TcpListener::bind((Ipv4Addr::LOCALHOST, ports.client)).unwrap();
    assert!(!ports.hold(), "somebody listens");
    drop(broker);
    assert!(ports.hold());
}
