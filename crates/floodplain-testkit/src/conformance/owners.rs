//! What owners may rely on: nobody else commits for their slot, and what they commit is there whole.

use super::{Case, Harness, batch};
use crate::{
    fault_disk::FaultDisk,
    folding::{Driver, Drove, FoldStreams},
    owning::{Node, Ranges},
    wait::wait_until,
};
use floodplain_fold::StateHash;
use floodplain_log::{BatchBuilder, Compression, Disk, Fence, Outcome, Partition, Refusal, Slot, header, slot_of};
use floodplain_types::{Class, TenantId};
use std::{sync::Arc, time::Duration};

pub(super) const ALL: &[Case] = &[
    ("units of an owner are there whole and in order", units_of_an_owner),
    ("no range has two owners", ranges),
    ("outputs are there once wherever the owner dies", an_owner_dies_between_any_two_steps),
    ("a snapshot spares a replay, which emits nothing", snapshots),
];

fn units_of_an_owner(h: Harness) {
    let Some(node) = h.node(1).filter(|_| h.exact) else { return };
    let stream = h.stream("a", 2);
    let partitions = [stream.partition(0), stream.partition(1)];
    node.wait_for_slots(1);
    let fence = node.held.fences()[0];
    let unit = |i: usize| -> Vec<(Partition, _)> {
        (0..2).map(|half| (partitions[half], batch(&[format!("{i}.{half}")], Compression::None, 1))).collect()
    };
    let tags: Vec<u64> = (0..20).map(|i| node.begin(fence, unit(i))).collect();
    let mut expected = [Vec::new(), Vec::new()];
    for (i, tag) in tags.into_iter().enumerate() {
        let Outcome::Committed(positions) = node.ended(tag) else { panic!("unit {i}") };
        for half in 0..2 {
            expected[half].push((positions[half], format!("{i}.{half}")));
        }
    }
    for half in 0..2 {
        h.wait_for(partitions[half], expected[half][19].0.next());
        let read = h.read(partitions[half], h.log.start(partitions[half]), 1 << 20);
        let read: Vec<_> = read.into_iter().map(|seen| (seen.position, seen.value)).collect();
        assert_eq!(read, expected[half], "where it was said to be");
    }
    assert_eq!(node.commit(fence, Vec::new()), Outcome::Committed(Vec::new()));
    assert_eq!(node.commit(Fence::new(Slot(1), fence.epoch()), unit(20)), Outcome::Refused(Refusal::Fenced));
    node.owners.release();
    node.wait_for_slots(0);
    assert!(matches!(node.commit(fence, unit(20)), Outcome::Refused(Refusal::Closing | Refusal::Fenced)));
    assert_eq!(node.held.told(), ["gained 0", "lost 0"]);
    wait_until("the queue is empty", &*h.pump, || node.log.queued_bytes() == 0);
}

/// Where slots are shared a second process takes half of them, and gives them back.
fn ranges(h: Harness) {
    const SLOTS: u32 = 16;
    const HALF: usize = SLOTS as usize / 2;
    let Some(first) = h.node(SLOTS) else { return };
    let is_shared = h.owning.as_ref().is_some_and(|owning| owning.is_shared);
    first.wait_for_slots(SLOTS as usize);
    let by_first = Ranges::start(&first);
    by_first.goes_on(SLOTS as usize, "all slots go on");
    let mut acked = Vec::new();
    if is_shared {
        let second = h.node(SLOTS).expect("they are shared");
        let by_second = Ranges::start(&second);
        first.wait_for_slots(HALF);
        second.wait_for_slots(HALF);
        by_first.goes_on(HALF, "what stays goes on");
        by_second.goes_on(HALF, "what has moved goes on");
        let stayed = |slot: &Slot| !first.held.told().contains(&format!("lost {}", slot.0));
        assert!(first.held.slots().iter().all(stayed), "who keeps a slot is not told of the others");
        acked = by_second.stop();
        second.owners.release();
        first.wait_for_slots(SLOTS as usize);
        by_first.goes_on(SLOTS as usize, "all slots go on with the first");
    }
    acked.extend(by_first.stop());
    let count = Ranges::check(&first, &acked, h.exact);
    if h.exact {
        assert_eq!(count, acked.len(), "nothing was unknown");
    } else {
        assert!(count >= acked.len());
    }
}

/// Records of devices that repeat some of them.
fn fill(h: &Harness, streams: &FoldStreams, ids: std::ops::Range<u64>) {
    let input = streams.input.partition(0);
    for id in ids {
        for _ in 0..1 + u64::from(id % 5 == 0) {
            let mut builder = BatchBuilder::new();
            let (key, value) = ([(id % 7) as u8], id.to_string());
            builder.push(1, Some(&key), Some(value.as_bytes()), [(header::DEDUP_ID, value.as_bytes())]).expect("small");
            let position = h.append(Class::All, &[(input, builder.finish(Compression::None).expect("one record"))])[0];
            h.wait_for(input, position.next());
        }
    }
}

/// The state behind [`fill`] of 0 to 60: the same on every engine, wherever it has put the records and however often.
const STATE: StateHash = StateHash(0xdd30_0ea6_8134_cf0c_4d0f_de17_a5a6_d962);

fn owner(h: &Harness) -> Option<(Arc<Node>, FoldStreams)> {
    let node = h.node(1)?;
    let streams = FoldStreams::open(&*h.log, 1);
    node.wait_for_slots(1);
    assert_eq!(slot_of(&TenantId::default_tenant(), 0, 1), Slot(0));
    Some((node, streams))
}

/// Brings a runner to the end, however often it is refused.
fn settle(h: &Harness, node: &Node, streams: &FoldStreams, disk: &Arc<dyn Disk>) -> StateHash {
    loop {
        let mut driver = Driver::new(node, streams, 0, disk);
        if let Some(state) = driver.settle() {
            return state;
        }
        // An adverse log takes ownership away for a moment.
        assert!(!h.exact, "the slot is ours");
    }
}

/// Waits until all outputs can be read, and compares them with those of a replay.
fn check(h: &Harness, node: &Node, streams: &FoldStreams) {
    let expected = streams.expected(&*h.log, 0).0.len();
    wait_until("all outputs can be read", &*h.pump, || streams.found(&*node.log).len() >= expected);
    streams.check(&*node.log, h.exact);
}

/// One runner after the other, each of which comes a step further before it dies: with its next step begun.
fn an_owner_dies_between_any_two_steps(h: Harness) {
    let Some((node, streams)) = owner(&h) else { return };
    fill(&h, &streams, 0..60);
    let nothing = || -> Arc<dyn Disk> { Arc::new(FaultDisk::new(1)) };
    for steps in 0.. {
        let disk = nothing();
        let mut driver = Driver::new(&node, &streams, 0, &disk);
        let (mut done, mut is_done) = (0, false);
        while done < steps && !is_done {
            match driver.step() {
                Drove::On => done += 1,
                Drove::Lost => break,
                // To wait is no step: how often it is asked meanwhile depends on the engine.
                Drove::Idle => {
                    is_done = driver.runner().is_settled();
                    std::thread::park_timeout(Duration::from_millis(1));
                }
            }
        }
        if is_done {
            break;
        }
        driver.die();
    }
    assert_eq!(settle(&h, &node, &streams, &nothing()), STATE);
    check(&h, &node, &streams);
}

fn snapshots(h: Harness) {
    let Some((node, streams)) = owner(&h) else { return };
    let disk: Arc<dyn Disk> = Arc::new(FaultDisk::new(1));
    fill(&h, &streams, 0..40);
    let at = loop {
        let mut driver = Driver::new(&node, &streams, 0, &disk);
        if driver.settle().is_some() {
            break driver.snapshot().expect("all outputs are out");
        }
        assert!(!h.exact, "the slot is ours");
    };
    fill(&h, &streams, 40..60);
    // A runner that knows the log alone, then one that knows the snapshot: neither says anything again.
    let nothing: Arc<dyn Disk> = Arc::new(FaultDisk::new(2));
    assert_eq!(settle(&h, &node, &streams, &nothing), STATE);
    check(&h, &node, &streams);
    assert_eq!(streams.runner(&*node.log, 0, &disk).position(), at);
    assert_eq!(settle(&h, &node, &streams, &disk), STATE);
    check(&h, &node, &streams);
    // What is in the snapshot may go.
    let said = streams.found(&*node.log);
    h.log.trim(streams.input.partition(0), at);
    assert_eq!(settle(&h, &node, &streams, &disk), STATE);
    let mut now = streams.found(&*node.log);
    if !h.exact {
        now.truncate(said.len());
    }
    assert_eq!(now, said);
}
