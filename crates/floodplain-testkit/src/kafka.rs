//! A real Apache Kafka on this machine: brokers that a test kills, freezes, cuts off and starts again.
//!
//! ```no_run
//! use floodplain_testkit::kafka::{KafkaCluster, KafkaJars, KafkaOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let options = KafkaOptions { proxied: true, ..KafkaOptions::default() };
//! let cluster = KafkaCluster::start(&KafkaJars::find()?, 3, dir.path(), options)?;
//! let client = format!("bootstrap.servers={}", cluster.bootstrap());
//! // ... a client makes the topic and writes ...
//! let leader = cluster.topic("telemetry")?[0].leader.ok_or("no leader")?;
//! cluster.kill(leader)?; // SIGKILL; `freeze` and `thaw` are SIGSTOP and SIGCONT
//! cluster.restart(leader)?; // with the same data, and waits until the others know it
//! cluster.cut(leader)?; // its clients are cut off, the brokers still see each other
//! cluster.heal(leader)?;
//! # Ok(())
//! # }
//! ```
//!
//! Every node is broker and controller in one JVM (KRaft). It has a listener for clients, one for the other brokers and
//! one for controllers; only the first is behind a [proxy](KafkaOptions::proxied). Calls block: within an async test they
//! belong into `spawn_blocking`. When the cluster is dropped, or the test's process ends however it ends, the brokers
//! are killed. What needs many seconds, they say in their logs: `<dir>/broker-<id>/log`.

mod ask;
mod config;
mod error;
mod jars;
mod ports;
mod process;
mod proxy;
mod wait;

pub use ask::KafkaPartition;
pub use error::Error;
pub use jars::KafkaJars;
pub(crate) use ports::hold;
pub(crate) use process::spawn_bound;

use config::Config;
use error::Result;
use ports::Ports;
use process::Process;
use proxy::{Proxy, Way};
use rustix::process::Signal;
use std::{
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How often ports are chosen anew, if others take them before the brokers do.
const CHOICES_OF_PORTS: u32 = 5;
/// News of a broker reach the others in milliseconds, and one that was away in a few seconds.
const AGREEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// A broker stops in a second or two where there is a majority of controllers to stop with.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Without a majority a controller gives up after 5 s, but the broker beside it after five minutes.
const LAST_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of a node, from 1 on: what Kafka calls `node.id` and names as a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub i32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What may differ between clusters.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// After so long without a sign of a broker the controller takes it for dead (`broker.session.timeout.ms`).
    pub session_timeout: Duration,
    /// How often a broker gives a sign (`broker.heartbeat.interval.ms`).
    pub heartbeat_interval: Duration,
    /// The heap of each JVM at most.
    pub heap_mib: u32,
    /// Compiles Java with the quick compiler alone: a third less CPU until the brokers are ready, slower at full load.
    pub quick_compiler: bool,
    /// Clients come through proxies, which [`KafkaCluster::cut`] and [`KafkaCluster::mute`] need.
    pub proxied: bool,
    /// The brokers outlive the cluster and this process; `false` wherever a test starts them.
    pub outlives_us: bool,
    /// How long a start may take.
    pub start_timeout: Duration,
    /// More lines of `server.properties`; they win over those that the harness writes.
    pub settings: Vec<(String, String)>,
}

impl KafkaOptions {
    /// As the guide on Kafka recommends: a dead broker is noticed after 6 s. One that led the controllers is missed by the others
    /// after 1 s, and not 2: the 6 s begin when another one leads.
    #[must_use]
    pub fn recommended() -> Self {
        let settings = [
            ("controller.quorum.fetch.timeout.ms", "1000"),
            ("controller.quorum.election.timeout.ms", "500"),
            ("controller.quorum.election.backoff.max.ms", "500"),
        ];
        Self {
            session_timeout: Duration::from_secs(6),
            heartbeat_interval: Duration::from_secs(2),
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            ..Self::default()
        }
    }
}

impl Default for KafkaOptions {
    /// For tests: a dead broker is noticed after 3 s.
    fn default() -> Self {
        Self {
            session_timeout: Duration::from_secs(3),
            heartbeat_interval: Duration::from_millis(500),
            heap_mib: 256,
            quick_compiler: true,
            proxied: false,
            outlives_us: false,
            start_timeout: Duration::from_secs(120),
            settings: Vec::new(),
        }
    }
}

/// Brokers on loopback. Dropped, it kills them.
#[derive(Debug)]
pub struct KafkaCluster {
    jars: KafkaJars,
    options: KafkaOptions,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    dir: PathBuf,
    ports: Ports,
    proxy: Option<Proxy>,
    /// Shared by the threads of a test that hurt the cluster. `None` where nothing runs.
    process: Mutex<Option<Process>>,
    /// Whether it was told to stand still: then it answers nothing.
    is_frozen: AtomicBool,
}

impl KafkaCluster {
    /// Starts `brokers` nodes with their data in `dir`, and returns when each of them knows all.
    ///
    /// A folder that a cluster of as many nodes has left is taken on with its data, with its ports if they are still
    /// free, and with those of its brokers that still run.
    ///
    /// # Errors
    /// A broker does not start, or not in time; the error has the end of its log. Java is missing.
    pub fn start(jars: &KafkaJars, brokers: u32, dir: &Path, options: KafkaOptions) -> Result<Self> {
        Self::start_at(jars, brokers, dir, options, &mut |earlier| {
            earlier.filter(|ports| ports.hold()).map_or_else(Ports::choose, Ok)
        })
    }

    /// As [`Self::start`], with a choice of ports that is given what the node had before.
    fn start_at(
        jars: &KafkaJars,
        brokers: u32,
        dir: &Path,
        options: KafkaOptions,
        choose: &mut dyn FnMut(Option<Ports>) -> Result<Ports>,
    ) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io(dir))?;
        let dir = dir.canonicalize().map_err(Error::io(dir))?;
        let mut all = (1..).map(|number| (NodeId(number), node_dir(&dir, NodeId(number))));
        let dirs: Vec<(NodeId, PathBuf)> = all.by_ref().take(brokers as usize).collect();
        if all.next().is_some_and(|(_, dir)| config::ports(&dir).is_some()) {
            return Err(Error::Larger { dir, brokers });
        }
        dirs.iter().try_for_each(|(_, dir)| fs::create_dir_all(dir).map_err(Error::io(dir)))?;
        // What runs knows the ports of what does not.
        let are_ports_known = dirs.iter().any(|(_, dir)| Process::find(dir).is_some());
        let mut nodes = Vec::new();
        for (id, dir) in dirs {
            let ports = match config::ports(&dir) {
                Some(ports) if are_ports_known => ports,
                earlier => choose(earlier)?,
            };
            nodes.push(Node::new(id, dir, ports, options.proxied)?);
        }
        let mut cluster = Self { jars: jars.clone(), options, nodes };
        for choice in 1.. {
            let Err(error) = cluster.launch_all() else { break };
            let again = matches!(error, Error::PortTaken { .. }) && choice < CHOICES_OF_PORTS && !are_ports_known;
            cluster.nodes.iter().try_for_each(Node::end_ours)?;
            if !again {
                return Err(error);
            }
            for node in &mut cluster.nodes {
                *node = Node::new(node.id, node.dir.clone(), choose(None)?, cluster.options.proxied)?;
            }
        }
        Ok(cluster)
    }

    /// The cluster in `dir`, whether its brokers run or not, as somebody else has started it with
    /// [`KafkaOptions::outlives_us`]. It has no nodes if there never was one. Dropped, it leaves the brokers alone.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn attach(jars: &KafkaJars, dir: &Path) -> Result<Self> {
        let options = KafkaOptions { outlives_us: true, ..KafkaOptions::default() };
        let mut nodes = Vec::new();
        if dir.exists() {
            let dir = dir.canonicalize().map_err(Error::io(dir))?;
            for id in (1..).map(NodeId) {
                let dir = node_dir(&dir, id);
                let Some(ports) = config::ports(&dir) else { break };
                nodes.push(Node::new(id, dir, ports, false)?);
            }
        }
        Ok(Self { jars: jars.clone(), options, nodes })
    }

    /// Where clients find the cluster: `127.0.0.1:<port>,...`, through the proxies if there are any.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self.nodes.iter().map(|node| node.advertised().to_string()).collect();
        addresses.join(",")
    }

    /// Where clients find one broker, through its proxy if it has one. Clients of a cluster with a frozen broker start from
    /// another: the kernel accepts connections for the frozen one, and the first question waits for its answer.
    ///
    /// # Errors
    /// There is no such node.
    pub fn address(&self, id: NodeId) -> Result<SocketAddr> {
        Ok(self.node(id)?.advertised())
    }

    /// The numbers of all nodes, whether they run or not.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.iter().map(|node| node.id)
    }

    /// The process of a node, if it runs.
    ///
    /// # Errors
    /// There is no such node.
    pub fn pid(&self, id: NodeId) -> Result<Option<u32>> {
        Ok(self.node(id)?.process().as_ref().map(Process::pid))
    }

    /// The log of a node: what its JVM has printed since the folder is there.
    ///
    /// # Errors
    /// There is no such node.
    pub fn log_path(&self, id: NodeId) -> Result<PathBuf> {
        Ok(self.node(id)?.log_path())
    }

    /// Kills a broker: SIGKILL. Returns when its process is gone.
    ///
    /// # Errors
    /// There is no such node, or it does not run.
    pub fn kill(&self, id: NodeId) -> Result<()> {
        self.running(id)?.end(Signal::KILL)
    }

    /// Stops a broker in its tracks: SIGSTOP. Its sockets stay open, and take what the kernel has room for.
    ///
    /// # Errors
    /// There is no such node, or it does not run.
    pub fn freeze(&self, id: NodeId) -> Result<()> {
        let node = self.running(id)?;
        node.is_frozen.store(true, Ordering::Relaxed);
        node.signal(Signal::STOP)
    }

    /// Lets a frozen broker go on: SIGCONT. It does not know how long it was away.
    ///
    /// # Errors
    /// There is no such node, or it does not run.
    pub fn thaw(&self, id: NodeId) -> Result<()> {
        let node = self.running(id)?;
        node.signal(Signal::CONT)?;
        node.is_frozen.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Stops a broker in order: it hands its partitions over before it ends. Returns when its process is gone.
    ///
    /// # Errors
    /// There is no such node, it does not run, or does not end within a minute.
    pub fn shut_down(&self, id: NodeId) -> Result<()> {
        self.running(id)?.end(Signal::TERM)
    }

    /// Starts a broker that does not run, and returns at once. [`Self::wait_until_ready`] waits for it: so all of a
    /// cluster without a majority come back.
    ///
    /// # Errors
    /// There is no such node, it runs, or Java does not start.
    pub fn launch(&self, id: NodeId) -> Result<()> {
        let node = self.node(id)?;
        let mut process = node.process();
        if process.is_some() {
            return Err(Error::Runs { id });
        }
        let voters = self.nodes.iter().map(|node| (node.id, node.ports.controller)).collect();
        let config = Config { id, ports: node.ports.clone(), advertised: node.advertised(), voters, dir: &node.dir };
        config.write(&self.options)?;
        let mut java = self.jars.java(&self.options.jvm());
        java.arg("kafka.Kafka").arg(config.path());
        *process = Some(Process::spawn(java, &node.dir, self.options.outlives_us)?);
        node.is_frozen.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Starts a broker again with its data, after it was stopped in order if it runs. Returns when all that run know it.
    ///
    /// # Errors
    /// There is no such node, or it is not ready in time: it needs a majority of the nodes.
    pub fn restart(&self, id: NodeId) -> Result<()> {
        if self.node(id)?.process().is_some() {
            self.shut_down(id)?;
        }
        self.launch(id)?;
        self.wait_until_ready()
    }

    /// Waits until each broker that runs knows all that run, and they have a controller. None of them may be frozen.
    ///
    /// # Errors
    /// One ends, or they are not ready within [`KafkaOptions::start_timeout`]; the error has the end of a log.
    pub fn wait_until_ready(&self) -> Result<()> {
        let running: Vec<&Node> = self.nodes.iter().filter(|node| node.process().is_some()).collect();
        let ids: Vec<NodeId> = running.iter().map(|node| node.id).collect();
        let mut waits_for = None;
        let ready = wait::until(self.options.start_timeout, || {
            for node in &running {
                node.must_run()?;
            }
            waits_for = running.iter().find(|node| !ask::live_brokers(node.client()).is_ok_and(|live| live == ids));
            Ok(waits_for.is_none())
        })?;
        match waits_for {
            Some(node) if !ready => Err(Error::Late { id: node.id, log: node.log_tail() }),
            _ => Ok(()),
        }
    }

    /// What the brokers say of the partitions of a topic, by partition. Waits until all that answer say the same, since
    /// a broker that comes back knows the past for a while.
    ///
    /// # Errors
    /// No broker answers, there is no such topic, or they do not agree within half a minute.
    pub fn topic(&self, name: &str) -> Result<Vec<KafkaPartition>> {
        self.agreed(|client| ask::topic(client, name))
    }

    /// The broker that coordinates what has this name, if there is one at the moment: a group by `__consumer_offsets`, a
    /// transactional id by `__transaction_state`.
    ///
    /// # Errors
    /// As [`Self::topic`].
    pub fn coordinator(&self, topic: &str, name: &str) -> Result<Option<NodeId>> {
        let partitions = self.topic(topic)?;
        // Java's hash of a text; all names here are ASCII.
        let hash = name.bytes().fold(0_i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)));
        let count = partitions.len().max(1);
        Ok(partitions.get(hash.unsigned_abs() as usize % count).and_then(|partition| partition.leader))
    }

    /// The brokers that live in the eyes of the controller, as all that answer say. Waits as [`Self::topic`] does.
    ///
    /// # Errors
    /// No broker answers, or they do not agree within half a minute.
    pub fn live_brokers(&self) -> Result<Vec<NodeId>> {
        self.agreed(ask::live_brokers)
    }

    /// The node that leads the controllers.
    ///
    /// # Errors
    /// No broker answers, or there is none at the moment.
    pub fn controller(&self) -> Result<NodeId> {
        let mut error = Error::NoneRuns;
        for node in self.answering() {
            match ask::controller(node.client()) {
                Ok(answer) => return Ok(answer),
                Err(other) => error = other,
            }
        }
        Err(error)
    }

    /// Asks again and again until `condition` holds; an error counts as a no, since a cluster that was hurt has a
    /// moment without answers.
    ///
    /// # Errors
    /// It does not hold within `timeout`; the last error is part of the text.
    pub fn wait_for(&self, what: &str, timeout: Duration, condition: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let mut last = None;
        let holds = wait::until(timeout, || {
            let answer = condition(self);
            last = answer.as_ref().err().map(ToString::to_string);
            Ok(answer.unwrap_or_default())
        })?;
        let last = || last.map(|error| format!(" ({error})")).unwrap_or_default();
        if holds { Ok(()) } else { Err(Error::InVain { what: what.to_owned(), last: last() }) }
    }

    /// Cuts off the clients of a broker: their connections end, new ones are closed at once.
    ///
    /// # Errors
    /// There is no such node, or it has no proxy.
    pub fn cut(&self, id: NodeId) -> Result<()> {
        self.proxy(id)?.set(Way::Cut);
        Ok(())
    }

    /// Takes in all that clients send to a broker, but none of its answers gets out: what it acknowledges they never
    /// learn. Ends with [`Self::cut`] or [`Self::heal`], both of which end the connections.
    ///
    /// # Errors
    /// There is no such node, or it has no proxy.
    pub fn mute(&self, id: NodeId) -> Result<()> {
        self.proxy(id)?.set(Way::Mute);
        Ok(())
    }

    /// Waits for a request with this number of an API, as Kafka's protocol has them: a broker hears it, and is
    /// [muted](Self::mute) from then on.
    ///
    /// # Errors
    /// There is no such node, or it has no proxy.
    pub fn mute_at(&self, id: NodeId, api: i16) -> Result<()> {
        self.proxy(id)?.set(Way::MuteAt(api));
        Ok(())
    }

    /// Waits for such a request: a broker does not hear it, and is [cut off](Self::cut) from then on.
    ///
    /// # Errors
    /// There is no such node, or it has no proxy.
    pub fn cut_at(&self, id: NodeId, api: i16) -> Result<()> {
        self.proxy(id)?.set(Way::CutAt(api));
        Ok(())
    }

    /// Whether the request that [`Self::mute_at`] or [`Self::cut_at`] wait for is still to come.
    ///
    /// # Errors
    /// There is no such node, or it has no proxy.
    pub fn waits(&self, id: NodeId) -> Result<bool> {
        Ok(self.proxy(id)?.waits())
    }

    /// Lets clients through to a broker again.
    ///
    /// # Errors
    /// There is no such node, or it has no proxy.
    pub fn heal(&self, id: NodeId) -> Result<()> {
        self.proxy(id)?.set(Way::Open);
        Ok(())
    }

    /// Stops all brokers in order, as far as that goes: who is last waits for controllers that are gone, for minutes, and
    /// is killed instead, which loses nothing but makes its next start check its files. Takes 6 to 12 s; tests that have
    /// seen enough drop the cluster.
    ///
    /// # Errors
    /// A broker cannot be signalled.
    pub fn stop(&self) -> Result<()> {
        for node in &self.nodes {
            node.signal(Signal::CONT)?;
            node.is_frozen.store(false, Ordering::Relaxed);
            node.signal(Signal::TERM)?;
        }
        let running = || -> Result<usize> {
            let mut count = 0;
            for node in &self.nodes {
                count += usize::from(!node.has_ended()?);
            }
            Ok(count)
        };
        wait::until(STOP_TIMEOUT, || Ok(running()? <= self.nodes.len() / 2))?;
        wait::until(LAST_STOP_TIMEOUT, || Ok(running()? == 0))?;
        self.nodes.iter().try_for_each(|node| node.end(Signal::KILL))
    }

    /// Starts all that do not run, and waits until they are ready.
    fn launch_all(&self) -> Result<()> {
        self.format()?;
        for node in &self.nodes {
            if node.process().is_none() {
                self.launch(node.id)?;
            }
        }
        self.wait_until_ready()
    }

    /// Makes the data folders of nodes that have none. Kafka's tool makes the first; the others are like it but for the
    /// number: a JVM less for each. They draw their `directory.id` themselves when they start.
    fn format(&self) -> Result<()> {
        let is_formatted = |node: &Node| node.data().join("meta.properties").is_file();
        let Some(first) = self.nodes.first() else { return Ok(()) };
        if !is_formatted(first) {
            let voters = self.nodes.iter().map(|node| (node.id, node.ports.controller)).collect();
            let advertised = first.advertised();
            let config = Config { id: first.id, ports: first.ports.clone(), advertised, voters, dir: &first.dir };
            config.write(&self.options)?;
            let mut java = self.jars.java(&self.options.jvm());
            java.args(["kafka.tools.StorageTool", "format", "--cluster-id", config::CLUSTER_ID, "--config"]);
            let output = java.arg(config.path()).output().map_err(Error::java())?;
            if !output.status.success() {
                let text = [output.stdout, output.stderr].concat();
                return Err(Error::Format { output: String::from_utf8_lossy(&text).into_owned() });
            }
        }
        for node in self.nodes.iter().filter(|node| !is_formatted(node)) {
            config::format_like(&first.data(), &node.data(), node.id)?;
        }
        Ok(())
    }

    /// The brokers that can answer.
    fn answering(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.process().is_some() && !node.is_frozen.load(Ordering::Relaxed))
    }

    /// What all brokers answer that answer at all.
    fn agreed<T: PartialEq>(&self, ask: impl Fn(SocketAddr) -> Result<T>) -> Result<T> {
        let (mut agreed, mut error) = (None, Error::NoneRuns);
        wait::until(AGREEMENT_TIMEOUT, || {
            let mut answers = Vec::new();
            let mut are_all_answers = true;
            for node in self.answering() {
                match ask(node.client()) {
                    Ok(answer) => answers.push(answer),
                    Err(other) => {
                        // One that does not answer may be about to start, or to end; one that answers with an error counts.
                        are_all_answers &= !matches!(other, Error::Answer { .. });
                        error = other;
                    }
                }
            }
            if answers.is_empty() {
                return Ok(true);
            }
            if are_all_answers && answers.windows(2).all(|pair| pair[0] == pair[1]) {
                agreed = answers.pop();
                return Ok(true);
            }
            error = Error::InVain { what: "the brokers agree".to_owned(), last: String::new() };
            Ok(false)
        })?;
        agreed.ok_or(error)
    }

    fn node(&self, id: NodeId) -> Result<&Node> {
        self.nodes.iter().find(|node| node.id == id).ok_or(Error::NoNode { id })
    }

    fn running(&self, id: NodeId) -> Result<&Node> {
        let node = self.node(id)?;
        if node.process().is_some() { Ok(node) } else { Err(Error::RunsNot { id }) }
    }

    fn proxy(&self, id: NodeId) -> Result<&Proxy> {
        self.node(id)?.proxy.as_ref().ok_or(Error::NoProxy { id })
    }
}

impl Drop for KafkaCluster {
    fn drop(&mut self) {
        if self.options.outlives_us {
            return;
        }
        // First all signals, then all waits.
        for node in &self.nodes {
            drop(node.signal(Signal::KILL));
        }
        for node in &self.nodes {
            drop(node.end(Signal::KILL));
        }
    }
}

impl KafkaOptions {
    /// The flags of the JVM.
    fn jvm(&self) -> Vec<String> {
        let mut flags = vec![format!("-Xmx{}m", self.heap_mib)];
        if self.quick_compiler {
            flags.push("-XX:TieredStopAtLevel=1".to_owned());
        }
        flags
    }
}

/// Where a node has its configuration, log, pid and data.
fn node_dir(dir: &Path, id: NodeId) -> PathBuf {
    dir.join(format!("broker-{id}"))
}

impl Node {
    /// A node with the process that runs for it, if there is one.
    fn new(id: NodeId, dir: PathBuf, ports: Ports, proxied: bool) -> Result<Self> {
        let proxy = proxied.then(|| Proxy::start(ports.client)).transpose()?;
        let process = Mutex::new(Process::find(&dir));
        Ok(Self { id, dir, ports, proxy, process, is_frozen: AtomicBool::new(false) })
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn log_path(&self) -> PathBuf {
        process::log_path(&self.dir)
    }

    fn log_tail(&self) -> String {
        self.process().as_ref().map(|process| process.log_tail(&self.dir)).unwrap_or_default()
    }

    /// The listener for clients itself, which no cut hides from us.
    fn client(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.client).into()
    }

    /// Where the broker says that its clients find it.
    fn advertised(&self) -> SocketAddr {
        self.proxy.as_ref().map_or_else(|| self.client(), Proxy::address)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.process().as_ref().map_or(Ok(()), |process| process.signal(signal))
    }

    /// Whether no process is left. One that has ended is forgotten.
    fn has_ended(&self) -> Result<bool> {
        let mut process = self.process();
        let Some(running) = process.as_mut() else { return Ok(true) };
        let has_ended = running.end()?.is_some();
        if has_ended {
            *process = None;
            process::forget(&self.dir);
        }
        Ok(has_ended)
    }

    /// Kills the process if it is a child of ours.
    fn end_ours(&self) -> Result<()> {
        let is_ours = matches!(*self.process(), Some(Process::Child(..)));
        if is_ours { self.end(Signal::KILL) } else { Ok(()) }
    }

    /// Ends the process, if there is one, and waits until it is gone.
    fn end(&self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        if wait::until(STOP_TIMEOUT, || self.has_ended())? {
            return Ok(());
        }
        let log = self.log_tail();
        self.signal(Signal::KILL)?;
        wait::until(STOP_TIMEOUT, || self.has_ended())?;
        Err(Error::EndsNot { id: self.id, log })
    }

    /// Fails if the process has ended by itself.
    fn must_run(&self) -> Result<()> {
        let mut process = self.process();
        let Some(running) = process.as_mut() else { return Err(Error::RunsNot { id: self.id }) };
        let Some(how) = running.end()? else { return Ok(()) };
        let (id, log) = (self.id, running.log_tail(&self.dir));
        *process = None;
        process::forget(&self.dir);
        Err(if log.contains("Address already in use") {
            Error::PortTaken { id, log }
        } else {
            Error::Ended { id, how, log }
        })
    }
}

#[cfg(test)]
mod tests;
