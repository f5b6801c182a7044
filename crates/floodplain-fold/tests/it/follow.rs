//! Several processes fold one partition, and one of them at a time emits.

use crate::{
    replay::{disk, model},
    support::{Streams, Sums, outputs, records, reference, write},
};
use floodplain_fold::{Next, Runner, RunnerError};
use floodplain_log::{Append, Fence, Log, Outcome, Refusal, Reply, Slot};
use floodplain_testkit::Outcomes;
use floodplain_types::Timestamp;
use proptest::prelude::*;

const NODES: usize = 3;

/// A process that folds.
struct Node {
    runner: Runner<Sums>,
    /// And by which ownership.
    under_way: Option<(Append, Fence)>,
}

impl Node {
    const fn new(runner: Runner<Sums>) -> Self {
        Self { runner, under_way: None }
    }

    /// One step; false if there was nothing to do. What it has under way ends with the next step, as refused if it owns no
    /// more as it did.
    fn step(&mut self, log: &dyn Log, owned: Option<Fence>) -> bool {
        if let Some((append, by)) = self.under_way.take() {
            if owned != Some(by) {
                let refused = self.runner.on_outcome(Outcome::Refused(Refusal::Fenced));
                assert!(matches!(refused, Err(RunnerError::Fenced { .. })));
                return true;
            }
            let outcomes = Outcomes::new();
            log.submit(append, Some(Reply { sink: outcomes.clone(), tag: 0 }));
            self.runner.on_outcome(outcomes.take(0).unwrap()).unwrap();
            return true;
        }
        self.runner.owned_by(owned);
        match self.runner.next(log, Timestamp::from_millis(77_777_777_777)) {
            Next::Append(append) => self.under_way = Some((append, self.runner.fence().unwrap())),
            Next::Read { partition, from, .. } => {
                let read = log.read(partition, from, 1).unwrap();
                self.runner.on_read(log, partition, from, Ok(&read)).unwrap();
            }
            Next::Step => self.runner.step(),
            Next::Idle => return false,
        }
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whoever_emits_the_outputs_appear_once(
        records in records(40),
        // Who owns, and who makes how many steps meanwhile.
        turns in prop::collection::vec((0..NODES, prop::collection::vec((0..NODES, 1_usize..12), 1..6)), 1..30),
    ) {
        let log = model();
        let streams = Streams::open(&log);
        let disks: Vec<_> = (0..NODES).map(|_| disk()).collect();
        let runner = |at: usize| streams.runner(&log, &disks[at]);
        let mut nodes: Vec<Node> = (0..NODES).map(|at| Node::new(runner(at))).collect();
        let mut parts = records.chunks(records.len().div_ceil(turns.len()));
        let (mut owner, mut epoch, mut restarts) = (0, 1, 0);
        for (at, (next, steps)) in turns.iter().enumerate() {
            if let Some(part) = parts.next() {
                write(&log, streams.input.partition(0), part);
            }
            for (node, count) in steps {
                for _ in 0..*count {
                    nodes[*node].step(&log, (*node == owner).then(|| Fence::new(Slot(0), epoch)));
                }
            }
            // Snapshots of who only follows are as good as any.
            if at % 3 == 0 {
                let node = &mut nodes[at % NODES];
                node.runner.begin_snapshot(Timestamp(0));
                if let Some(snapshot) = node.runner.take_snapshot() {
                    node.runner.snapshots().write(&snapshot).unwrap();
                }
            }
            if at % 7 == 6 {
                restarts += 1;
                let at = restarts % NODES;
                nodes[at] = Node::new(runner(at));
            }
            (owner, epoch) = (*next, epoch + 1);
        }
        for part in parts {
            write(&log, streams.input.partition(0), part);
        }
        while (0..NODES).filter(|at| nodes[*at].step(&log, (*at == owner).then(|| Fence::new(Slot(0), epoch)))).count() > 0 {}
        let (expected, state) = reference(&log, &streams);
        prop_assert_eq!(outputs(&log, &streams), expected);
        for node in &nodes {
            prop_assert!(node.runner.is_settled());
            prop_assert_eq!(node.runner.fold(), &state);
        }
    }
}

/// The state of a process that only follows goes on while nobody emits, up to a bound.
#[test]
fn outputs_that_nobody_emits_are_bounded() {
    let log = model();
    let streams = Streams::open(&log);
    let input = streams.input.partition(0);
    let mut node = Node::new(streams.runner(&log, &disk()));
    let large: Vec<_> = (0..30_000).map(|_| (0, crate::support::Ask::Emit(4), 1)).collect();
    write(&log, input, &large);
    while node.step(&log, None) {}
    let stopped = node.runner.position();
    assert!(stopped > log.start(input) && stopped < log.watermark(input), "{stopped}");
    while node.step(&log, Some(Fence::new(Slot(0), 1))) {}
    assert_eq!(node.runner.position(), log.watermark(input));
    assert_eq!(outputs(&log, &streams), reference(&log, &streams).0);
}

/// Who follows lets go of what the owner has emitted.
#[test]
fn who_follows_keeps_no_more_than_the_owner_is_behind() {
    let log = model();
    let streams = Streams::open(&log);
    let input = streams.input.partition(0);
    let disks = [disk(), disk()];
    let mut nodes = disks.each_ref().map(|disk| Node::new(streams.runner(&log, disk)));
    let fence = Fence::new(Slot(0), 1);
    let large: Vec<_> = (0..30_000).map(|_| (0, crate::support::Ask::Emit(4), 1)).collect();
    write(&log, input, &large);
    while [nodes[0].step(&log, Some(fence)), nodes[1].step(&log, None)] != [false; 2] {}
    assert_eq!(nodes.map(|node| node.runner.position()), [log.watermark(input); 2]);
}
