//! The files that a node starts from.

use super::{
    KafkaOptions, NodeId,
    error::{Error, Result},
    ports::Ports,
};
use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Clusters of ours never meet, so all have one id: 16 bytes in base64.
pub(super) const CLUSTER_ID: &str = "Zmxvb2RwbGFpbi10ZXN0MQ";

/// What the properties of one node are made of.
#[derive(Debug)]
pub(super) struct Config<'a> {
    pub(super) id: NodeId,
    pub(super) ports: Ports,
    /// Where clients are told to go.
    pub(super) advertised: SocketAddr,
    /// All nodes, with the ports of their controllers.
    pub(super) voters: Vec<(NodeId, u16)>,
    pub(super) dir: &'a Path,
}

impl Config<'_> {
    pub(super) fn path(&self) -> PathBuf {
        path(self.dir)
    }

    pub(super) fn write(&self, options: &KafkaOptions) -> Result<()> {
        let text: String = self.properties(options).iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        fs::write(self.path(), text).map_err(Error::io(&self.path()))
    }

    fn properties(&self, options: &KafkaOptions) -> BTreeMap<String, String> {
        let Ports { client, broker, controller, .. } = &self.ports;
        let voters: Vec<String> = self.voters.iter().map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
        // Three copies of which two count, as in production; a smaller cluster has as many as it can.
        let replicas = self.voters.len().min(3).to_string();
        let min_isr = self.voters.len().min(2).to_string();
        // Enough for tests, and a cluster is ready sooner; the default of 50 is for many groups.
        let partitions = "4";
        let listeners = format!("CLIENT://127.0.0.1:{client},BROKER://127.0.0.1:{broker}");
        let ours: [(&str, &str); 29] = [
            ("process.roles", "broker,controller"),
            ("node.id", &self.id.to_string()),
            ("controller.quorum.voters", &voters.join(",")),
            ("listeners", &format!("{listeners},CONTROLLER://127.0.0.1:{controller}")),
            ("advertised.listeners", &format!("CLIENT://{},BROKER://127.0.0.1:{broker}", self.advertised)),
            ("listener.security.protocol.map", "CLIENT:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT"),
            ("inter.broker.listener.name", "BROKER"),
            ("controller.listener.names", "CONTROLLER"),
            ("log.dirs", &self.dir.join("data").display().to_string()),
            ("broker.session.timeout.ms", &options.session_timeout.as_millis().to_string()),
            ("broker.heartbeat.interval.ms", &options.heartbeat_interval.as_millis().to_string()),
            ("auto.create.topics.enable", "false"),
            ("unclean.leader.election.enable", "false"),
            ("default.replication.factor", &replicas),
            ("min.insync.replicas", &min_isr),
            ("offsets.topic.replication.factor", &replicas),
            ("offsets.topic.num.partitions", partitions),
            ("transaction.state.log.replication.factor", &replicas),
            ("transaction.state.log.min.isr", &min_isr),
            ("transaction.state.log.num.partitions", partitions),
            ("share.coordinator.state.topic.replication.factor", &replicas),
            ("share.coordinator.state.topic.min.isr", &min_isr),
            ("share.coordinator.state.topic.num.partitions", partitions),
            ("group.initial.rebalance.delay.ms", "0"),
            // The default of 128 MiB is half of the heap, and is filled at the start.
            ("log.cleaner.dedupe.buffer.size", "4194304"),
            ("num.network.threads", "2"),
            ("num.io.threads", "4"),
            ("background.threads", "4"),
            // A broker that is killed leaves its page cache to the kernel; nothing of ours cuts the power of brokers.
            ("num.recovery.threads.per.data.dir", "1"),
        ];
        let mut properties: BTreeMap<String, String> =
            ours.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        properties.extend(options.settings.iter().cloned());
        properties
    }
}

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("server.properties")
}

/// The ports that a node had when it was last started.
pub(super) fn ports(dir: &Path) -> Option<Ports> {
    let text = fs::read_to_string(path(dir)).ok()?;
    let listeners = text.lines().find_map(|line| line.strip_prefix("listeners="))?;
    let ports: Vec<u16> = listeners.split(',').filter_map(|one| one.rsplit(':').next()?.parse().ok()).collect();
    Some(Ports::new(ports.try_into().ok()?))
}

/// Makes the data folder of another node of the cluster: the same initial metadata, another number.
pub(super) fn format_like(first: &Path, data: &Path, id: NodeId) -> Result<()> {
    fs::create_dir_all(data).map_err(Error::io(data))?;
    let checkpoint = data.join("bootstrap.checkpoint");
    fs::copy(first.join("bootstrap.checkpoint"), &checkpoint).map_err(Error::io(&checkpoint))?;
    let meta = data.join("meta.properties");
    fs::write(&meta, format!("version=1\ncluster.id={CLUSTER_ID}\nnode.id={id}\n")).map_err(Error::io(&meta))
}
