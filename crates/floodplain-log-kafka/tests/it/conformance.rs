//! The suite that all engines run.

use crate::fixture::{Kafka, clock};
use floodplain_log::{Log, Owners};
use floodplain_log_kafka::{KafkaConfig, KafkaLog, KafkaOwners, OwnersConfig};
use floodplain_testkit::{
    conformance::{self, Fault, Harness, Load, Owning},
    kafka::{KafkaCluster, NodeId},
    wait_at_most, wait_until,
};
use floodplain_types::{Clock, ManualClock};
use std::{any::Any, sync::Arc, time::Duration};

fn harness(cluster: &'static KafkaCluster, config: KafkaConfig, clock: Arc<ManualClock>) -> Harness {
    let open = |config: &KafkaConfig, clock: &Arc<ManualClock>| {
        KafkaLog::open(Arc::clone(clock) as Arc<dyn Clock>, config.clone()).unwrap()
    };
    let log = open(&config, &clock);
    let [again, next] = [(config.clone(), Arc::clone(&clock)), (config.clone(), Arc::clone(&clock))];
    let theirs = (config, Arc::clone(&clock));
    let join = move |slots| -> (Arc<dyn Log>, Arc<dyn Owners>) {
        let log = open(&theirs.0, &theirs.1);
        let owners = KafkaOwners::open(&log, owners_config(slots)).unwrap();
        (log, owners)
    };
    Harness {
        // Of a healthy cluster nothing is unknown, and what is idempotent is not doubled.
        exact: true,
        orders_classes: false,
        reopen: Some(Box::new(move |_| harness(cluster, again.0, again.1))),
        crash: Some(Box::new(move |log, _| {
            // What it has under way is heard by brokers, or not, and it does not learn which.
            let stopped = stop(cluster);
            drop(log);
            drop(stopped);
            harness(cluster, next.0, next.1)
        })),
        stop: Some(Box::new(move || stop(cluster))),
        owning: Some(Owning { join: Box::new(join), is_shared: true }),
        ..Harness::new(log, clock)
    }
}

fn owners_config(slots: u32) -> OwnersConfig {
    OwnersConfig {
        session_timeout: Duration::from_secs(5),
        spacing: Duration::from_millis(5),
        ..OwnersConfig { slots, ..OwnersConfig::default() }
    }
}

/// Nobody hears from brokers until it is dropped.
fn stop(cluster: &'static KafkaCluster) -> Box<dyn Any> {
    struct Muted(&'static KafkaCluster);
    impl Drop for Muted {
        fn drop(&mut self) {
            self.0.nodes().for_each(|node| self.0.heal(node).unwrap());
        }
    }
    cluster.nodes().for_each(|node| cluster.mute(node).unwrap());
    Box::new(Muted(cluster))
}

/// Small enough that the cases miss the memory.
fn config(kafka: &Kafka) -> KafkaConfig {
    KafkaConfig {
        tail_bytes: 8 << 10,
        queue_bytes: 4 << 20,
        // Nobody is given up for being slow on a busy machine: that would leave outcomes open.
        socket_timeout: Duration::from_secs(60),
        // Who closes a log has heard of all that it wants to hear of.
        close_timeout: Duration::from_millis(200),
        ..kafka.config()
    }
}

#[test]
fn kafka_keeps_the_contract() {
    let kafka = Kafka::share();
    conformance::run_cases(conformance::CONTRACT, &|| harness(kafka.cluster(), config(&kafka), clock()));
}

#[test]
fn owners_on_kafka_keep_the_contract() {
    let kafka = Kafka::share();
    conformance::run_cases(conformance::OWNERS, &|| harness(kafka.cluster(), config(&kafka), clock()));
}

/// What class `all` acknowledged is there, once, in the order of its writers, whatever happens to brokers.
#[test]
fn kafka_keeps_the_contract_while_it_is_hurt() {
    let kafka = Kafka::take();
    conformance::run_cases(conformance::FAULTS, &|| {
        // Of a frozen leader no more is waited for than until it has a successor.
        let config = KafkaConfig { socket_timeout: Duration::from_secs(4), ..config(&kafka) };
        let topic = format!("{}default.telemetry", config.topic_prefix);
        let (faults, disasters) = (faults(kafka.cluster(), &topic), disasters(kafka.cluster(), &topic));
        Harness { faults, disasters, ..harness(kafka.cluster(), config, clock()) }
    });
}

fn leader(cluster: &KafkaCluster, topic: &str) -> NodeId {
    let leads = || cluster.topic(topic).ok().and_then(|partitions| partitions[0].leader);
    wait_until("there is a leader", &|| (), || leads().is_some());
    leads().unwrap()
}

fn all_in_sync(cluster: &KafkaCluster, topic: &str) {
    const PATIENCE: Duration = Duration::from_secs(120);
    let in_sync = || cluster.topic(topic).is_ok_and(|all| all.iter().all(|one| one.in_sync.len() == 3));
    wait_at_most(PATIENCE, "all copies are in sync", &|| (), in_sync);
}

/// The time is the fault: nothing is waited for.
const MOMENT: Duration = Duration::from_millis(1_500);

fn fault(topic: &str, name: &'static str, hurt: impl Fn(&Load, &str) + 'static) -> Fault {
    let topic = topic.to_owned();
    (name, Box::new(move |load| hurt(load, &topic)))
}

fn faults(cluster: &'static KafkaCluster, topic: &str) -> Vec<Fault> {
    vec![
        fault(topic, "a leader is killed", |load, topic| {
            let killed = leader(cluster, topic);
            cluster.kill(killed).unwrap();
            load.goes_on("its successors acknowledge");
            cluster.restart(killed).unwrap();
            all_in_sync(cluster, topic);
        }),
        // It writes, and its acknowledgements are lost: what is tried again must not be there twice.
        fault(topic, "a leader is not heard", |load, topic| {
            let muted = leader(cluster, topic);
            let before = load.acked();
            cluster.mute(muted).unwrap();
            std::thread::park_timeout(MOMENT / 3);
            cluster.heal(muted).unwrap();
            load.goes_on("it is heard again");
            assert!(load.acked() > before);
        }),
        fault(topic, "a follower is cut off", |_, topic| {
            let leader = leader(cluster, topic);
            let cut = cluster.nodes().find(|node| *node != leader).unwrap();
            cluster.cut(cut).unwrap();
            std::thread::park_timeout(MOMENT / 3);
            cluster.heal(cut).unwrap();
        }),
        fault(topic, "a leader is frozen", |load, topic| {
            let frozen = leader(cluster, topic);
            cluster.freeze(frozen).unwrap();
            load.goes_on("its successors acknowledge");
            cluster.thaw(frozen).unwrap();
            all_in_sync(cluster, topic);
        }),
    ]
}

/// librdkafka may send again under the next epoch what a cluster has that was killed whole.
fn disasters(cluster: &'static KafkaCluster, topic: &str) -> Vec<Fault> {
    vec![fault(topic, "the controller is killed, then the others", |load, topic| {
        let controller = cluster.controller().unwrap();
        cluster.kill(controller).unwrap();
        load.goes_on("two brokers are enough");
        let left: Vec<NodeId> = cluster.nodes().filter(|node| *node != controller).collect();
        cluster.kill(left[0]).unwrap();
        // What was acknowledged before may still be on its way.
        std::thread::park_timeout(MOMENT);
        let acked = load.acked();
        std::thread::park_timeout(MOMENT);
        assert_eq!(load.acked(), acked, "one broker of three acknowledges nothing");
        cluster.kill(left[1]).unwrap();
        cluster.nodes().for_each(|node| cluster.launch(node).unwrap());
        cluster.wait_until_ready().unwrap();
        load.goes_on("a cluster that was killed whole comes back");
        all_in_sync(cluster, topic);
    })]
}
