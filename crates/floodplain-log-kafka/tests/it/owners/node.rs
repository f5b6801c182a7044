//! A node that owns slots: in this process, or in one that is frozen and killed.

use crate::fixture::{open, say_what_is_wrong};
use floodplain_log::{Disk, Fence, Log, Outcome, OwnerSink, Owners, Partition, Refusal, Slot};
use floodplain_log_kafka::{KafkaConfig, KafkaLog, KafkaOwners, OwnersConfig};
use floodplain_testkit::{
    FaultDisk, batch_of,
    folding::{Driver, Drove, FoldStreams},
    owning::{self, Ranges},
    wait_until,
};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    ops::Deref,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

/// Set in the child process: where the cluster is, the prefix of its topics, how many slots there are, and how many
/// seconds a transaction may take.
const CHILD: &str = "FLOODPLAIN_TEST_OWNER";

/// Says what the process gains and loses.
#[derive(Debug)]
struct Speaks;

impl OwnerSink for Speaks {
    fn gained(&self, fence: Fence) {
        println!("owner gained {}", fence.slot().0);
    }

    fn lost(&self, slot: Slot) {
        println!("owner lost {}", slot.0);
    }
}

/// Short times, so that tests need not wait long.
pub(crate) fn owners_config(slots: u32) -> OwnersConfig {
    OwnersConfig {
        slots,
        session_timeout: Duration::from_secs(5),
        transaction_timeout: Duration::from_secs(5),
        spacing: Duration::from_millis(5),
        threads: 4,
        ..OwnersConfig::default()
    }
}

/// A node in this process.
#[derive(Debug)]
pub(crate) struct Node {
    // Dropped in this order.
    pub(crate) owners: Arc<KafkaOwners>,
    pub(crate) node: Arc<owning::Node>,
    pub(crate) log: Arc<KafkaLog>,
}

impl Deref for Node {
    type Target = owning::Node;

    fn deref(&self) -> &owning::Node {
        &self.node
    }
}

impl Node {
    pub(crate) fn open(config: KafkaConfig, owners: OwnersConfig) -> Arc<Self> {
        let log = open(KafkaConfig { producers: 1, ..config });
        let owners = KafkaOwners::open(&log, owners).unwrap();
        let node = owning::Node::new(
            Arc::clone(&log) as Arc<dyn Log>,
            Arc::clone(&owners) as Arc<dyn Owners>,
            Arc::new(|| ()),
        );
        Arc::new(Self { owners, node: Arc::new(node), log })
    }

    /// Commits one record.
    pub(crate) fn commit_value(&self, fence: Fence, partition: Partition, value: &str) -> Outcome {
        self.commit(fence, vec![(partition, batch_of(b"key", value.as_bytes(), 1))])
    }
}

/// A node in a process of its own, which does what it is told line by line.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// `None` when it was told to end.
    orders: Option<ChildStdin>,
    said: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts a child that runs the test of this name, which calls [`run_child`] first.
    pub(crate) fn start(test: &str, config: &KafkaConfig, owners: &OwnersConfig) -> Self {
        let OwnersConfig { slots, transaction_timeout, .. } = owners;
        let (servers, prefix) = (config.bootstrap_servers.join(","), &config.topic_prefix);
        let settings = format!("{servers} {prefix} {slots} {}", transaction_timeout.as_secs());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (lines, says) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if let Some((_, text)) = line.split_once("owner ") {
                    says.lock().unwrap().push(text.to_owned());
                }
            }
        });
        let orders = child.stdin.take();
        Self { child, orders, said }
    }

    pub(crate) fn order(&mut self, line: &str) {
        writeln!(self.orders.as_mut().unwrap(), "{line}").unwrap();
    }

    pub(crate) fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has said a line that begins so; the rest of it.
    pub(crate) fn wait_for(&self, start: &str) -> String {
        let find = || self.said.lock().unwrap().iter().find_map(|line| line.strip_prefix(start).map(str::to_owned));
        wait_until(&format!("the process says {start}"), &|| (), || find().is_some());
        find().unwrap()
    }

    /// SIGSTOP, and waits until it stands still.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
        let stat = format!("/proc/{}/stat", self.child.id());
        let is_stopped = || std::fs::read_to_string(&stat).unwrap().rsplit(") ").next().unwrap().starts_with('T');
        wait_until("the process stands still", &|| (), is_stopped);
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success(), "{signal}");
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Lets it end as a process should.
    pub(crate) fn end(&mut self) {
        self.orders = None;
        wait_until("the process ends", &|| (), || self.said.lock().unwrap().iter().any(|line| line == "ends"));
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop((self.child.kill(), self.child.wait()));
    }
}

/// Whether this process is such a child; then it has done what it was told.
pub(crate) fn run_child() -> bool {
    let Ok(settings) = std::env::var(CHILD) else { return false };
    say_what_is_wrong();
    let [servers, prefix, slots, timeout] = settings.split(' ').collect::<Vec<_>>()[..] else { panic!("{settings}") };
    let config = crate::fixture::config_at(servers, prefix);
    let transaction_timeout = Duration::from_secs(timeout.parse().unwrap());
    let owners = OwnersConfig { transaction_timeout, ..owners_config(slots.parse().unwrap()) };
    let node = Node::open(config, owners);
    node.owners.watch(Arc::new(Speaks));
    let mut ranges = None;
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            // To the first partition, as the owner of the first slot.
            ["commit", value] => {
                let partition = crate::fixture::stream(&node.log, "a", 1).partition(0);
                let tag = node
                    .begin(node.held.fence(Slot(0)).unwrap(), vec![(partition, batch_of(b"key", value.as_bytes(), 1))]);
                let (node, value) = (Arc::clone(&node), value.to_owned());
                std::thread::spawn(move || {
                    let text = match node.ended(tag) {
                        Outcome::Committed(_) => "committed".to_owned(),
                        Outcome::Unknown => "unknown".to_owned(),
                        Outcome::Refused(Refusal::Fenced) => "fenced".to_owned(),
                        Outcome::Refused(refusal) => refusal.to_string(),
                    };
                    println!("owner ended {value} {text}");
                });
            }
            ["range"] => ranges = Some(Ranges::start(&node.node)),
            ["fold"] => fold(&node),
            _ => panic!("{line}"),
        }
    }
    if let Some(ranges) = ranges {
        let acked = ranges.stop();
        println!("owner acked {acked:?}");
    }
    node.owners.close();
    println!("owner ends");
    true
}

/// Folds until the process is killed.
fn fold(node: &Node) {
    let disk: Arc<dyn Disk> = Arc::new(FaultDisk::new(1));
    let streams = FoldStreams::open(&*node.log, 1);
    let mut driver = Driver::new(node, &streams, 0, &disk);
    while driver.step() != Drove::Lost {}
}
