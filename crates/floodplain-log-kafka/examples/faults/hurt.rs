//! What can be done to a cluster, its writers and its owners.

use crate::campaign::{Campaign, PARTITIONS};
use anyhow::{Context as _, Result, ensure};
use floodplain_testkit::kafka::{KafkaCluster, NodeId};
use rand::{
    Rng as _,
    rngs::SmallRng,
    seq::{IndexedMutRandom as _, IndexedRandom as _},
};
use std::{
    fmt,
    time::{Duration, Instant},
};

/// How long a broker's answers may still be on their way when its process is gone.
const GRACE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(120);

/// What a broker does for others; each of the three does some of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Of a partition of the input.
    Leader,
    /// Has a copy of it.
    Follower,
    /// Leads the controllers.
    Controller,
    /// Of the owners.
    GroupCoordinator,
    /// Of a slot.
    TransactionCoordinator,
}

impl Role {
    const ALL: [Self; 5] =
        [Self::Leader, Self::Follower, Self::Controller, Self::GroupCoordinator, Self::TransactionCoordinator];

    fn node(self, cluster: &KafkaCluster, rng: &mut SmallRng) -> Result<NodeId> {
        let index = rng.random_range(0..PARTITIONS);
        let find = || -> Result<Option<NodeId>> {
            Ok(match self {
                Self::Leader => cluster.topic("default.input")?[index as usize].leader,
                Self::Follower => {
                    let partition = cluster.topic("default.input")?.swap_remove(index as usize);
                    partition.in_sync.into_iter().find(|node| Some(*node) != partition.leader)
                }
                Self::Controller => Some(cluster.controller()?),
                Self::GroupCoordinator => cluster.coordinator("__consumer_offsets", "floodplain-folds")?,
                Self::TransactionCoordinator => {
                    cluster.coordinator("__transaction_state", &format!("floodplain.slot.{index}"))?
                }
            })
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match find() {
                Ok(Some(node)) => return Ok(node),
                Err(error) if Instant::now() > deadline => return Err(error),
                _ => ensure!(Instant::now() < deadline, "there is no {self}"),
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Controller => "controller",
            Self::GroupCoordinator => "group coordinator",
            Self::TransactionCoordinator => "transaction coordinator",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// SIGKILL, and started again some time later.
    Kill(Role),
    /// SIGSTOP, SIGCONT.
    Freeze(Role),
    /// Connections of clients end, and there are no new ones.
    Cut(Role),
    /// Hears its clients, and they do not hear it.
    Mute(Role),
    /// Two are killed: nothing may be acknowledged.
    TwoGone,
    /// All are killed at once.
    RestartAll,
    OwnerKilled,
    OwnerFrozen,
    /// Another producer id; what was under way is sent again.
    WritersKilled,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(role) => write!(f, "kill {role}"),
            Self::Freeze(role) => write!(f, "freeze {role}"),
            Self::Cut(role) => write!(f, "cut {role}"),
            Self::Mute(role) => write!(f, "mute {role}"),
            Self::TwoGone => f.write_str("two brokers gone"),
            Self::RestartAll => f.write_str("restart of all"),
            Self::OwnerKilled => f.write_str("kill owner"),
            Self::OwnerFrozen => f.write_str("freeze owner"),
            Self::WritersKilled => f.write_str("kill writers"),
        }
    }
}

impl Fault {
    /// Each as often as it is to be drawn, of 100.
    fn all() -> impl Iterator<Item = (u32, Self)> {
        let of_role =
            |role| [(5, Self::Kill(role)), (4, Self::Freeze(role)), (3, Self::Cut(role)), (2, Self::Mute(role))];
        let others = [
            (6, Self::TwoGone),
            (4, Self::RestartAll),
            (8, Self::OwnerKilled),
            (6, Self::OwnerFrozen),
            (6, Self::WritersKilled),
        ];
        Role::ALL.into_iter().flat_map(of_role).chain(others)
    }

    pub(crate) fn names() -> impl Iterator<Item = String> {
        Self::all().map(|(_, fault)| fault.to_string())
    }

    /// One of those whose names have `only` in them.
    pub(crate) fn draw(rng: &mut SmallRng, only: &str) -> Self {
        let all: Vec<(u32, Self)> = Self::all().filter(|(_, fault)| fault.to_string().contains(only)).collect();
        all.choose_weighted(rng, |(weight, _)| *weight).expect("there is one, and all have weights").1
    }

    /// Whether it is one broker that dies or falls silent: then the other two go on.
    pub(crate) const fn is_of_one_broker(self) -> bool {
        matches!(self, Self::Kill(_) | Self::Freeze(_) | Self::Cut(_) | Self::Mute(_))
    }

    /// Hurts and mends; what was chosen, for the line that is printed.
    pub(crate) fn run(self, campaign: &mut Campaign, rng: &mut SmallRng) -> Result<String> {
        let mut random = |most: f64| Duration::from_secs_f64(rng.random_range(0.2..most));
        let cluster = &campaign.cluster;
        let wait = |time: Duration| {
            // The time is the fault: nothing is waited for.
            std::thread::sleep(time);
            format!("{:.1} s", time.as_secs_f64())
        };
        Ok(match self {
            Self::Kill(role) => {
                let time = random(15.0);
                let node = role.node(cluster, rng)?;
                cluster.kill(node)?;
                let waited = wait(time);
                cluster.launch(node)?;
                cluster.wait_until_ready()?;
                format!("broker {node}, {waited}")
            }
            Self::Freeze(role) => {
                let time = random(15.0);
                let node = role.node(cluster, rng)?;
                cluster.freeze(node)?;
                let waited = wait(time);
                cluster.thaw(node)?;
                format!("broker {node}, {waited}")
            }
            Self::Cut(role) | Self::Mute(role) => {
                let time = random(8.0);
                let node = role.node(cluster, rng)?;
                if matches!(self, Self::Cut(_)) {
                    cluster.cut(node)?
                } else {
                    cluster.mute(node)?
                }
                let waited = wait(time);
                cluster.heal(node)?;
                format!("broker {node}, {waited}")
            }
            Self::TwoGone => {
                let time = random(5.0) + GRACE;
                let mut nodes: Vec<NodeId> = cluster.nodes().collect();
                let left = nodes.remove(rng.random_range(0..nodes.len()));
                nodes.iter().try_for_each(|node| cluster.kill(*node))?;
                let gone = Instant::now() + GRACE;
                let waited = wait(time);
                let acked = campaign.load.acks_between(gone, Instant::now());
                campaign.acked_alone += acked;
                nodes.iter().try_for_each(|node| cluster.launch(*node))?;
                cluster.wait_until_ready()?;
                format!("broker {left} was left, {waited}, {acked} acknowledged")
            }
            Self::RestartAll => {
                let nodes: Vec<NodeId> = cluster.nodes().collect();
                nodes.iter().try_for_each(|node| cluster.kill(*node))?;
                nodes.iter().try_for_each(|node| cluster.launch(*node))?;
                cluster.wait_until_ready()?;
                String::new()
            }
            Self::OwnerKilled => {
                let time = random(5.0);
                let owner = campaign.owners.choose_mut(rng).context("there are owners")?;
                owner.kill()?;
                let waited = wait(time);
                owner.launch()?;
                waited
            }
            Self::OwnerFrozen => {
                let time = random(20.0);
                let owner = campaign.owners.choose_mut(rng).context("there are owners")?;
                owner.signal("-STOP")?;
                let waited = wait(time);
                owner.signal("-CONT")?;
                waited
            }
            Self::WritersKilled => {
                campaign.load.replace(campaign.open()?);
                String::new()
            }
        })
    }
}
