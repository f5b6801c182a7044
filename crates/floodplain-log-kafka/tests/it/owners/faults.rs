//! Owners that die, freeze, and do not hear what became of a commit.

use super::{
    END_TXN, TXN_OFFSET_COMMIT, config_of_two_coordinators, group_coordinator,
    node::{Node, Process, owners_config, run_child},
    transaction_coordinator, written,
};
use crate::fixture::{Kafka, stream, values, wait_for};
use floodplain_fold::Fold as _;
use floodplain_log::{Append, BatchBuilder, Compression, Disk, Log as _, Outcome, Refusal, Slot, header};
use floodplain_log_kafka::{KafkaConfig, OwnersConfig};
use floodplain_testkit::{
    FaultDisk, batch_of,
    folding::{Driver, FoldStreams},
    kafka::{KafkaCluster, NodeId},
    owning::Ranges,
    wait_until,
};
use floodplain_types::{Class, Position};
use std::{sync::Arc, time::Duration};

/// Another process owns the only slot, has committed `first`, and is in the middle of a transaction with `open`.
struct Taken {
    config: KafkaConfig,
    owner: Process,
    successor: Arc<Node>,
}

/// When the connection to a broker is hurt, so that a transaction stops there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The group has the offsets, the owner does not know, and the commit is not sent.
    BeforeCommit,
    /// The commit is sent and does not arrive.
    CommitLost,
    /// The commit arrives, and its answer does not.
    AnswerLost,
}

impl Stop {
    fn set(self, cluster: &KafkaCluster, config: &KafkaConfig) -> NodeId {
        let broker = match self {
            Self::BeforeCommit => group_coordinator(cluster, config),
            Self::CommitLost | Self::AnswerLost => transaction_coordinator(cluster, config, 0),
        };
        match self {
            Self::BeforeCommit => cluster.mute_at(broker, TXN_OFFSET_COMMIT).unwrap(),
            Self::CommitLost => cluster.cut_at(broker, END_TXN).unwrap(),
            Self::AnswerLost => cluster.mute_at(broker, END_TXN).unwrap(),
        }
        broker
    }
}

/// Brings an owner to a stop, does `hurt` to it, lets the brokers be heard again, and waits for its successor.
fn take_over(kafka: &Kafka, test: &str, stop: Stop, hurt: impl FnOnce(&mut Process)) -> Taken {
    let cluster = kafka.cluster();
    let config = config_of_two_coordinators(kafka);
    // So long that brokers end no transaction by themselves: the next owner does.
    let owners = OwnersConfig { transaction_timeout: Duration::from_secs(60), ..owners_config(1) };
    let mut owner = Process::start(test, &config, &owners);
    owner.wait_for("gained 0");
    let successor = Node::open(config.clone(), owners);
    owner.order("commit first");
    assert_eq!(owner.wait_for("ended first "), "committed");
    let broker = stop.set(cluster, &config);
    owner.order("commit open");
    wait_until("the transaction stops", &|| (), || !cluster.waits(broker).unwrap());
    hurt(&mut owner);
    cluster.heal(broker).unwrap();
    assert!(successor.held.slots().is_empty(), "the other one was not missed yet");
    successor.wait_for_slots(1);
    Taken { config, owner, successor }
}

impl Taken {
    /// The successor commits once more; all that can be read then.
    fn all(&self) -> Vec<String> {
        let partition = stream(&self.successor.log, "a", 1).partition(0);
        let fence = self.successor.held.fence(Slot(0)).unwrap();
        let outcome = self.successor.commit_value(fence, partition, "after");
        let Outcome::Committed(positions) = outcome else { panic!("{outcome:?}") };
        wait_for(&self.successor.log, partition, positions[0].next());
        values(&self.successor.log, partition, Position::ZERO).into_iter().map(|(_, value)| value).collect()
    }

    /// Whether the owner has written what it has not committed.
    fn has_written_open(&self) -> bool {
        // What a rebalance has made it try again is there more than once.
        written(&self.config, &format!("{}default.a", self.config.topic_prefix)).iter().any(|value| value == "open")
    }
}

#[test]
fn an_owner_that_dies_in_a_transaction_leaves_nothing_of_it() {
    if run_child() {
        return;
    }
    let kafka = Kafka::take();
    let test = "owners::faults::an_owner_that_dies_in_a_transaction_leaves_nothing_of_it";
    let taken = take_over(&kafka, test, Stop::BeforeCommit, Process::kill);
    assert!(taken.has_written_open());
    assert_eq!(taken.all(), ["first", "after"]);
}

fn wakes(test: &str, stop: Stop, may_say: &[&str], expected: &[&str]) {
    let kafka = Kafka::take();
    let mut taken = take_over(&kafka, test, stop, |owner| owner.freeze());
    assert!(taken.has_written_open());
    assert_eq!(taken.all(), expected);
    taken.owner.thaw();
    let said = taken.owner.wait_for("ended open ");
    assert!(may_say.contains(&said.as_str()), "{said}");
    // It still has the fence, and may not have heard from the group.
    taken.owner.order("commit late");
    assert_eq!(taken.owner.wait_for("ended late "), "fenced");
    taken.owner.wait_for("lost 0");
    let after: Vec<&str> = expected.iter().copied().chain(["after"]).collect();
    assert_eq!(taken.all(), after, "the rightful owner goes on");
    assert_eq!(taken.successor.held.told(), ["gained 0"], "and was not disturbed");
    // Whoever was frozen is a member again.
    taken.successor.owners.close();
    wait_until("the slot comes back", &|| (), || {
        taken.owner.said().iter().filter(|line| *line == "gained 0").count() == 2
    });
    taken.owner.order("commit back");
    assert_eq!(taken.owner.wait_for("ended back "), "committed");
    taken.owner.end();
}

#[test]
fn a_frozen_owner_that_wakes_before_its_commit_is_refused() {
    if !run_child() {
        let test = "owners::faults::a_frozen_owner_that_wakes_before_its_commit_is_refused";
        wakes(test, Stop::BeforeCommit, &["fenced"], &["first", "after"]);
    }
}

/// Whether it says so depends on what it sees first: that it is fenced, or that its time is up. It is refused by the next.
#[test]
fn a_frozen_owner_whose_commit_was_lost_is_refused() {
    if !run_child() {
        let test = "owners::faults::a_frozen_owner_whose_commit_was_lost_is_refused";
        wakes(test, Stop::CommitLost, &["fenced", "unknown"], &["first", "after"]);
    }
}

/// It cannot know: the successor has gone on from there.
#[test]
fn a_frozen_owner_whose_commit_was_heard_says_unknown() {
    if !run_child() {
        let test = "owners::faults::a_frozen_owner_whose_commit_was_heard_says_unknown";
        wakes(test, Stop::AnswerLost, &["unknown"], &["first", "open", "after"]);
    }
}

/// The owner stays the owner, and finds out by what it reads behind its next commit.
#[test]
fn a_commit_without_an_answer_is_unknown_and_decided_by_the_next_one() {
    let kafka = Kafka::take();
    let cluster = kafka.cluster();
    for (stop, expected) in
        [(Stop::AnswerLost, vec!["first", "open", "after"]), (Stop::CommitLost, vec!["first", "after"])]
    {
        let config = config_of_two_coordinators(&kafka);
        // Nobody else, so nobody is missed.
        let node =
            Node::open(config.clone(), OwnersConfig { session_timeout: Duration::from_secs(25), ..owners_config(1) });
        let partition = stream(&node.log, "a", 1).partition(0);
        node.wait_for_slots(1);
        let fence = node.held.fences()[0];
        assert!(matches!(node.commit_value(fence, partition, "first"), Outcome::Committed(_)));
        let broker = stop.set(cluster, &config);
        let open = node.begin(fence, vec![(partition, batch_of(b"key", b"open", 1))]);
        wait_until("the transaction stops", &|| (), || !cluster.waits(broker).unwrap());
        assert_eq!(node.ended(open), Outcome::Unknown, "{stop:?}");
        let after = node.begin(fence, vec![(partition, batch_of(b"key", b"after", 1))]);
        cluster.heal(broker).unwrap();
        let outcome = node.ended(after);
        let Outcome::Committed(positions) = outcome else { panic!("{stop:?}: {outcome:?}") };
        wait_for(&node.log, partition, positions[0].next());
        let values: Vec<String> =
            values(&node.log, partition, Position::ZERO).into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, expected, "{stop:?}");
        assert_eq!(node.held.told(), ["gained 0"]);
    }
}

/// librdkafka may wait for minutes for a coordinator that is dead; other slots and the next unit must not.
#[test]
fn owners_go_on_while_the_coordinator_of_the_group_is_dead() {
    const SLOTS: u32 = 4;
    let kafka = Kafka::take();
    let cluster = kafka.cluster();
    let config = config_of_two_coordinators(&kafka);
    let node = Node::open(config.clone(), owners_config(SLOTS));
    let ranges = {
        node.wait_for_slots(SLOTS as usize);
        Ranges::start(&node.node)
    };
    ranges.goes_on(SLOTS as usize, "all slots go on");
    let coordinator = group_coordinator(cluster, &config);
    cluster.kill(coordinator).unwrap();
    // Twice: there is time for a transaction that hangs, and for the next owner of its slot.
    for _ in 0..2 {
        ranges.goes_on(1, "some slot goes on");
    }
    ranges.goes_on(SLOTS as usize, "all slots go on without it");
    cluster.restart(coordinator).unwrap();
    ranges.goes_on(SLOTS as usize, "all slots go on with it");
    let acked = ranges.stop();
    node.wait_for_slots(SLOTS as usize);
    assert!(Ranges::check(&node, &acked, false) >= acked.len());
}

/// A unit that cannot be written is refused while it is certain, and may be tried again.
#[test]
fn a_transaction_that_does_not_come_to_its_commit_is_refused() {
    let kafka = Kafka::take();
    let cluster = kafka.cluster();
    let config = kafka.config();
    let owners = OwnersConfig { transaction_timeout: Duration::from_secs(2), ..owners_config(1) };
    let node = Node::open(config, owners);
    let partition = stream(&node.log, "a", 1).partition(0);
    node.wait_for_slots(1);
    let fence = node.held.fences()[0];
    assert!(matches!(node.commit_value(fence, partition, "first"), Outcome::Committed(_)));
    cluster.nodes().for_each(|node| cluster.cut(node).unwrap());
    let outcome = node.commit_value(fence, partition, "open");
    assert!(matches!(outcome, Outcome::Refused(Refusal::Unavailable { .. } | Refusal::Fenced)), "{outcome:?}");
    cluster.nodes().for_each(|node| cluster.heal(node).unwrap());
    wait_until("it owns the slot", &|| (), || !node.held.slots().is_empty());
    wait_until("it commits again", &|| (), || {
        let fence = node.held.fence(Slot(0)).unwrap();
        matches!(node.commit_value(fence, partition, "after"), Outcome::Committed(_))
    });
    let read = || values(&node.log, partition, Position::ZERO).into_iter().map(|(_, value)| value).collect::<Vec<_>>();
    wait_until("it can be read", &|| (), || read().iter().any(|value| value == "after"));
    assert!(!read().contains(&"open".to_owned()), "{:?}", read());
}

/// Outputs once, and the same state, whoever folds.
#[test]
fn a_runner_that_is_killed_is_taken_over() {
    if run_child() {
        return;
    }
    let kafka = Kafka::share();
    let config = kafka.config();
    let mut owner = Process::start("owners::faults::a_runner_that_is_killed_is_taken_over", &config, &owners_config(1));
    owner.wait_for("gained 0");
    let node = Node::open(config, owners_config(1));
    let streams = FoldStreams::open(&*node.log, 1);
    let input = streams.input.partition(0);
    // The device repeats every tenth: it has not heard that it was taken.
    let record = |i: u32| {
        let mut builder = BatchBuilder::new();
        let id = (i - i.min(u32::from(i % 10 == 9))).to_string();
        let headers = [(header::DEDUP_ID, id.as_bytes())];
        builder.push(i64::from(i), Some(&[(id.len() % 7) as u8]), Some(id.as_bytes()), headers).unwrap();
        vec![(input, builder.finish(Compression::None).unwrap())]
    };
    for i in 0..400_u32 {
        node.log.submit(Append { batches: record(i), class: Class::All }, None);
    }
    wait_for(&node.log, input, Position::new(0, 400));
    owner.order("fold");
    let emitted = || streams.found(&*node.log).len();
    wait_until("it has emitted some", &|| (), || emitted() > 60);
    owner.kill();
    assert!(emitted() < 360, "not all");
    // More comes while nobody folds.
    for i in 400..500 {
        crate::fixture::append(&node.log, Class::All, record(i));
    }
    node.wait_for_slots(1);
    let disk: Arc<dyn Disk> = Arc::new(FaultDisk::new(1));
    let mut driver = Driver::new(&node, &streams, 0, &disk);
    let (expected, fold) = streams.expected(&*node.log, 0);
    assert_eq!(expected.len(), 450);
    assert_eq!(driver.settle(), Some(fold.state_hash()), "the state that a replay gives");
    wait_until("all can be read", &|| (), || emitted() >= 450);
    streams.check(&*node.log, true);
}
