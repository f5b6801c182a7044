//! Brokers die, freeze and fall silent under load: what class `all` acknowledged is there, once, in the order of its
//! writers.

use crate::fixture::{Kafka, open, stream, wait_for, write};
use floodplain_log::{Append, CompletionSink, Log, Outcome, Partition, Reply};
use floodplain_log_kafka::{KafkaConfig, KafkaLog};
use floodplain_testkit::{
    Copies, History, Outcomes, Stamp, batch_of,
    kafka::{KafkaCluster, NodeId},
    wait_until,
};
use floodplain_types::{Class, Clock as _, SystemClock};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

const PARTITIONS: u32 = 3;
const WRITERS: u32 = 4;
/// Appends of one writer that are under way at once.
const WINDOW: usize = 8;

/// What writers have been told so far.
#[derive(Debug, Default)]
struct Load {
    history: History,
    /// Acknowledged, by partition.
    acked: [AtomicU64; PARTITIONS as usize],
    unknown: AtomicU64,
    stops: AtomicBool,
}

impl Load {
    /// Writes to all partitions in turn until it is stopped. What is unknown is not tried again.
    fn write(&self, log: &KafkaLog, partitions: &[Partition], writer: u32) {
        let outcomes = Outcomes::new();
        let mut under_way: VecDeque<(u64, usize, Stamp)> = VecDeque::new();
        let mut next = 0;
        loop {
            let stops = self.stops.load(Ordering::Relaxed);
            if stops && under_way.is_empty() {
                return;
            }
            if under_way.len() == WINDOW || stops {
                let (tag, at, stamp) = under_way.pop_front().unwrap();
                match outcomes.wait(tag, &|| ()) {
                    Outcome::Committed(_) => {
                        self.history.ok(&stamp);
                        self.acked[at].fetch_add(1, Ordering::Relaxed);
                    }
                    Outcome::Unknown => {
                        self.history.unknown(&stamp);
                        self.unknown.fetch_add(1, Ordering::Relaxed);
                    }
                    Outcome::Refused(refusal) => panic!("there is room: {refusal}"),
                }
                continue;
            }
            let at = next as usize % partitions.len();
            let stamp = Stamp::new(&format!("w{writer}p{at}"), next);
            // The time of now: what brokers know of a producer expires by the time of its records.
            let batches = vec![(partitions[at], batch_of(b"key", &stamp.payload(100), SystemClock.now().as_millis()))];
            self.history.invoke(&stamp);
            let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
            log.submit(Append { batches, class: Class::All }, Some(Reply { sink, tag: next }));
            under_way.push_back((next, at, stamp));
            next += 1;
        }
    }

    /// Waits until every partition has acknowledged some more.
    fn goes_on(&self, when: &str) {
        let before: Vec<u64> = self.acked.iter().map(|acked| acked.load(Ordering::Relaxed)).collect();
        wait_until(when, &|| (), || {
            self.acked.iter().zip(&before).all(|(now, before)| now.load(Ordering::Relaxed) > before + 50)
        });
    }
}

fn leader(cluster: &KafkaCluster, topic: &str) -> NodeId {
    let leads = || cluster.topic(topic).ok().and_then(|partitions| partitions[0].leader);
    wait_until("there is a leader", &|| (), || leads().is_some());
    leads().unwrap()
}

fn all_in_sync(cluster: &KafkaCluster, topic: &str) {
    let in_sync = || cluster.topic(topic).is_ok_and(|all| all.iter().all(|one| one.in_sync.len() == 3));
    wait_until("all copies are in sync", &|| (), in_sync);
}

#[test]
fn what_was_acknowledged_survives_brokers() {
    let kafka = Kafka::take();
    let cluster = kafka.cluster();
    // Of a frozen leader no more is waited for than until it has a successor.
    let config = KafkaConfig { socket_timeout: Duration::from_secs(4), ..kafka.config() };
    let topic = format!("{}default.telemetry", config.topic_prefix);
    let log = open(config.clone());
    let partitions: Vec<Partition> = {
        let stream = stream(&log, "telemetry", PARTITIONS);
        (0..PARTITIONS).map(|index| stream.partition(index)).collect()
    };
    let load = Load::default();
    std::thread::scope(|scope| {
        let _stops = StopsAtEnd(&load);
        for writer in 0..WRITERS {
            let (load, log, partitions) = (&load, &log, &partitions);
            scope.spawn(move || load.write(log, partitions, writer));
        }
        load.goes_on("the load runs");

        let killed = leader(cluster, &topic);
        cluster.kill(killed).unwrap();
        load.goes_on("the successors of a killed leader acknowledge");
        cluster.restart(killed).unwrap();
        all_in_sync(cluster, &topic);

        // It writes, and its acknowledgements are lost: what is tried again must not be there twice.
        let muted = leader(cluster, &topic);
        cluster.mute(muted).unwrap();
        let others = load.acked.iter().map(|acked| acked.load(Ordering::Relaxed)).sum::<u64>();
        std::thread::park_timeout(Duration::from_millis(500));
        cluster.heal(muted).unwrap();
        load.goes_on("a leader is heard again");
        assert!(load.history.acked() > others);

        let frozen = leader(cluster, &topic);
        cluster.freeze(frozen).unwrap();
        load.goes_on("the successors of a frozen leader acknowledge");
        cluster.thaw(frozen).unwrap();
        all_in_sync(cluster, &topic);

        for node in cluster.nodes() {
            cluster.kill(node).unwrap();
        }
        for node in cluster.nodes() {
            cluster.launch(node).unwrap();
        }
        cluster.wait_until_ready().unwrap();
        load.goes_on("a cluster that was killed whole comes back");
    });
    all_in_sync(cluster, &topic);

    // Whatever was still under way somewhere is before these.
    let ends: Vec<_> = partitions.iter().map(|partition| write(&log, *partition, "end").next()).collect();
    let unknown = load.unknown.load(Ordering::Relaxed);
    for (name, reader) in [("the writer", log), ("another node", open(KafkaConfig { tail_bytes: 1 << 20, ..config }))] {
        let mut payloads = Vec::new();
        for (partition, end) in partitions.iter().zip(&ends) {
            wait_for(&reader, *partition, *end);
            let values = crate::fixture::values(&reader, *partition, reader.start(*partition));
            payloads.extend(values.into_iter().map(|(_, value)| value.into_bytes()).filter(|value| value != b"end"));
        }
        let report = load.history.check(payloads.iter().map(Vec::as_slice), Copies::PerAttempt);
        println!("{name}: {report}, {unknown} unknown");
        report.assert_clean(name);
        assert_eq!(report.duplicates, 0, "nothing was tried twice");
    }
}

/// Also when the test fails: the writers would write for ever.
struct StopsAtEnd<'l>(&'l Load);

impl Drop for StopsAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stops.store(true, Ordering::Relaxed);
    }
}
