//! The cluster is what it says: three brokers of Apache Kafka, as Kafka's own tools see them.
//!
//! Needs a JDK (17 or later) on the path and Kafka's jars in `$FLOODPLAIN_TEST_TOOLS/kafka`
//! (default `~/.cache/floodplain/tools`); `cargo xtask tools` puts them there.

use floodplain_testkit::{
    kafka::{KafkaCluster, KafkaJars, KafkaOptions, KafkaPartition, NodeId},
    wait_until,
};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Stdio},
};

const TOPIC: &str = "telemetry";
const RECORDS: usize = 3_000;

/// Runs one of Kafka's tools and returns what it prints.
fn tool(class: &str, args: &[&str]) -> String {
    let output = KafkaJars::find().unwrap().tool(&format!("org.apache.kafka.tools.{class}")).args(args).output();
    let output = output.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{class} {args:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

fn create_topic(bootstrap: &str) {
    let topic = ["--create", "--topic", TOPIC, "--partitions", "1", "--replication-factor", "3"];
    tool("TopicCommand", &[&["--bootstrap-server", bootstrap], &topic[..]].concat());
}

/// All records from the start, by offset.
fn read_all(bootstrap: &str) -> BTreeMap<u64, String> {
    let offsets = tool("GetOffsetShell", &["--bootstrap-server", bootstrap, "--topic", TOPIC]);
    let end = offsets.trim().rsplit(':').next().unwrap();
    let args = ["--topic", TOPIC, "--partition", "0", "--offset", "earliest", "--max-messages", end];
    let format = ["--formatter-property", "print.offset=true"];
    let args = [&["--bootstrap-server", bootstrap][..], &args, &format].concat();
    let printed = tool("consumer.ConsoleConsumer", &args);
    let records = printed.lines().filter_map(|line| line.strip_prefix("Offset:")?.split_once('\t'));
    records.map(|(offset, value)| (offset.parse().unwrap(), value.to_owned())).collect()
}

/// What a line of `VerifiableProducer` says of an acknowledged record: its offset and value.
fn acknowledged(line: &str) -> Option<(u64, String)> {
    let field = |name: &str| {
        let (_, rest) = line.split_once(&format!("\"{name}\":"))?;
        Some(rest.split([',', '}']).next()?.trim_matches('"').to_owned())
    };
    let is_ack = field("name")? == "producer_send_success";
    is_ack.then(|| Some((field("offset")?.parse().ok()?, field("value")?))).flatten()
}

fn partition(cluster: &KafkaCluster) -> KafkaPartition {
    cluster.topic(TOPIC).unwrap().remove(0)
}

fn is_running(pid: u32) -> bool {
    // What is dead and not waited for has no command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// Kills a process of ours that a failed test leaves.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn what_was_acknowledged_outlives_the_leader() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    // The brokers live as long as the cluster, not as long as the thread that has started them.
    let start = move || KafkaCluster::start(&KafkaJars::find().unwrap(), 3, &path, KafkaOptions::default());
    let cluster = std::thread::spawn(start).join().unwrap().unwrap();
    let bootstrap = cluster.bootstrap();
    let all: Vec<NodeId> = cluster.nodes().collect();
    assert_eq!(all, [1, 2, 3].map(NodeId));
    assert_eq!(cluster.live_brokers().unwrap(), all);
    assert!(all.contains(&cluster.controller().unwrap()));

    create_topic(&bootstrap);
    let described = tool("TopicCommand", &["--bootstrap-server", &bootstrap, "--describe", "--topic", TOPIC]);
    assert!(described.contains("min.insync.replicas=2") && described.contains("Elr:"), "{described}");
    let before = partition(&cluster);
    let leader = before.leader.unwrap();
    assert!(described.contains(&format!("Leader: {leader}")), "{described}");
    assert_eq!((before.replicas.len(), before.in_sync.len()), (3, 3));

    // In the middle of writing the leader dies.
    let mut producer = KafkaJars::find().unwrap().tool("org.apache.kafka.tools.VerifiableProducer");
    producer.args(["--bootstrap-server", &bootstrap, "--topic", TOPIC, "--acks", "-1", "--throughput", "500"]);
    producer.args(["--max-messages", &RECORDS.to_string()]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut producer = Killed(producer.spawn().unwrap());
    let mut acks = Vec::new();
    for line in BufReader::new(producer.0.stdout.take().unwrap()).lines() {
        let Some(ack) = acknowledged(&line.unwrap()) else { continue };
        acks.push(ack);
        if acks.len() == 200 {
            cluster.kill(leader).unwrap();
            assert_eq!(cluster.pid(leader).unwrap(), None);
        }
    }
    assert!(producer.0.wait().unwrap().success());
    let after = partition(&cluster);
    let successor = after.leader.unwrap();
    assert!(successor != leader && !after.in_sync.contains(&leader), "{after:?}");
    assert!(acks.len() > 1_000, "{} acknowledged: most of them by the successor", acks.len());
    let read = read_all(&bootstrap);
    for (offset, value) in &acks {
        assert_eq!(read.get(offset), Some(value), "offset {offset} was acknowledged");
    }

    // It comes back with what it had, and gets what it missed.
    cluster.restart(leader).unwrap();
    assert_eq!(cluster.live_brokers().unwrap(), all);
    wait_until("three replicas are in sync", &|| (), || partition(&cluster).in_sync.len() == 3);

    // A frozen broker loses what it led, and all is still there; when it goes on it is taken back.
    let frozen = partition(&cluster).leader.unwrap();
    cluster.freeze(frozen).unwrap();
    let other = all.iter().find(|id| **id != frozen).unwrap();
    let asked = || cluster.live_brokers().is_ok_and(|live| !live.contains(&frozen) && live.contains(other));
    wait_until("the frozen broker is taken for dead", &|| (), asked);
    assert_eq!(read_all(&bootstrap), read);
    cluster.thaw(frozen).unwrap();
    wait_until("it is back", &|| (), || partition(&cluster).in_sync.len() == 3);

    let pids: Vec<u32> = all.iter().map(|id| cluster.pid(*id).unwrap().unwrap()).collect();
    assert!(pids.iter().all(|pid| is_running(*pid)));
    // Also a frozen broker.
    cluster.freeze(leader).unwrap();
    drop(cluster);
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "broker {pid} is left");
    }
}
