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
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const TOPIC: &str = "telemetry";
/// What takes some seconds here takes a minute on a machine that is busy otherwise.
const PATIENCE: Duration = Duration::from_secs(120);

/// One cluster at a time: two on two cores take their brokers for dead now and then.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

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

/// Writes records, 300 in a second, each once and with the acknowledgement of all replicas in sync, and calls `at_ack` with
/// the number of acknowledgements at each. A record is given up after `patience_s`. Returns the offsets and values that
/// were acknowledged.
fn write(bootstrap: &str, record_count: u32, patience_s: u32, mut at_ack: impl FnMut(usize)) -> Vec<(u64, String)> {
    let dir = tempfile::tempdir().unwrap();
    let settings = dir.path().join("producer.properties");
    let (request_ms, delivery_ms) = (patience_s * 500, patience_s * 1_000);
    let text = format!("request.timeout.ms={request_ms}\ndelivery.timeout.ms={delivery_ms}\nretries=0\n");
    fs::write(&settings, text).unwrap();
    let mut producer = KafkaJars::find().unwrap().tool("org.apache.kafka.tools.VerifiableProducer");
    producer.args(["--bootstrap-server", bootstrap, "--topic", TOPIC, "--acks", "-1", "--throughput", "300"]);
    producer.args(["--max-messages", &record_count.to_string(), "--command-config"]).arg(settings);
    let mut producer = Killed(producer.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut acks = Vec::new();
    for line in BufReader::new(producer.0.stdout.take().unwrap()).lines() {
        if let Some(ack) = acknowledged(&line.unwrap()) {
            acks.push(ack);
            at_ack(acks.len());
        }
    }
    assert!(producer.0.wait().unwrap().success());
    acks
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
    let _alone = alone();
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
    // Without the feature of eligible leader replicas the column says N/A.
    let has_elr = described.contains("Elr:") && !described.contains("N/A");
    assert!(described.contains("min.insync.replicas=2") && has_elr, "{described}");
    let before = partition(&cluster);
    let leader = before.leader.unwrap();
    assert!(described.contains(&format!("Leader: {leader}")), "{described}");
    assert_eq!((before.replicas.len(), before.in_sync.len()), (3, 3));

    // In the middle of writing the leader dies.
    let acks = write(&bootstrap, 2_000, 60, |ack_count| {
        if ack_count == 200 {
            cluster.kill(leader).unwrap();
            assert_eq!(cluster.pid(leader).unwrap(), None);
        }
    });
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
    let are_in_sync = |cluster: &KafkaCluster| Ok(cluster.topic(TOPIC)?[0].in_sync.len() == 3);
    cluster.wait_for("three replicas are in sync", PATIENCE, are_in_sync).unwrap();

    // A frozen broker loses what it led, and all is still there; when it goes on it is taken back.
    let frozen = partition(&cluster).leader.unwrap();
    cluster.freeze(frozen).unwrap();
    let is_out = |cluster: &KafkaCluster| Ok(!cluster.live_brokers()?.contains(&frozen));
    cluster.wait_for("the frozen broker is taken for dead", PATIENCE, is_out).unwrap();
    let is_led = |cluster: &KafkaCluster| Ok(cluster.topic(TOPIC)?[0].leader.is_some_and(|id| id != frozen));
    cluster.wait_for("another leads", PATIENCE, is_led).unwrap();
    let successor = partition(&cluster).leader.unwrap();
    assert_eq!(read_all(&cluster.address(successor).unwrap().to_string()), read);
    cluster.thaw(frozen).unwrap();
    cluster.wait_for("it is back", PATIENCE, are_in_sync).unwrap();

    let pids: Vec<u32> = all.iter().map(|id| cluster.pid(*id).unwrap().unwrap()).collect();
    assert!(pids.iter().all(|pid| is_running(*pid)));
    // Also a frozen broker.
    cluster.freeze(leader).unwrap();
    drop(cluster);
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "broker {pid} is left");
    }
}

/// Clients are cut off from a broker that the others see as well as ever.
#[test]
fn a_cut_broker_is_gone_for_its_clients_alone() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let options = KafkaOptions { proxied: true, ..KafkaOptions::default() };
    let cluster = KafkaCluster::start(&KafkaJars::find().unwrap(), 3, dir.path(), options).unwrap();
    let bootstrap = cluster.bootstrap();
    create_topic(&bootstrap);
    let leader = partition(&cluster).leader.unwrap();

    // What a mute broker takes is there, though nobody is told so.
    let mut acks = write(&bootstrap, 2_000, 4, |ack_count| {
        if ack_count == 20 {
            cluster.mute(leader).unwrap();
        }
    });
    assert!(acks.len() < 2_000, "the broker is mute");
    cluster.cut(leader).unwrap();
    assert_eq!(write(&bootstrap, 1, 4, |_| ()), []);
    let during = partition(&cluster);
    assert_eq!((during.leader, during.in_sync.len()), (Some(leader), 3), "the brokers see no cut");
    cluster.heal(leader).unwrap();
    let read = read_all(&bootstrap);
    assert!(read.len() > acks.len(), "{} read, {} acknowledged", read.len(), acks.len());
    let after = write(&bootstrap, 5, 30, |_| ());
    assert_eq!(after.len(), 5, "it is as before");
    acks.extend(after);
    let read = read_all(&bootstrap);
    assert!(acks.iter().all(|(offset, value)| read.get(offset) == Some(value)), "{acks:?} {read:?}");

    cluster.stop().unwrap();
    assert!(cluster.nodes().all(|id| cluster.pid(id).unwrap().is_none()));
}

/// However a test ends: here its process is killed, and can do nothing more.
#[test]
fn brokers_die_with_the_process_that_has_started_them() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kafka"));
    command.args(["run", "--brokers", "1", "--dir", dir.path().to_str().unwrap()]);
    let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut process = Killed(process);
    let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("bootstrap: 127.0.0.1:")));
    let pid = fs::read_to_string(dir.path().join("broker-1/pid")).unwrap().trim().parse().unwrap();
    assert!(is_running(pid));
    process.0.kill().unwrap();
    wait_until("the broker dies", &|| (), || !is_running(pid));
}
