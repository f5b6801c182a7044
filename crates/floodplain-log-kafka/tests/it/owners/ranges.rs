//! Owners that take ranges of an input one after the other, and a checker of what they have taken.

use super::node::Node;
use crate::fixture::{stream, values, wait_for, write};
use floodplain_log::{Fence, Outcome, Refusal};
use floodplain_testkit::batch_of;
use floodplain_types::Position;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Slot, first and end of a range.
pub(crate) type Range = (u32, u64, u64);

/// A node's work: as a runner does it, for each slot that it owns.
#[derive(Debug)]
pub(crate) struct Ranges {
    stops: Arc<AtomicBool>,
    acked: Arc<Mutex<Vec<Range>>>,
    thread: JoinHandle<()>,
}

impl Ranges {
    pub(crate) fn start(node: &Arc<Node>) -> Self {
        let (stops, acked) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (node, stop, ack) = (Arc::clone(node), Arc::clone(&stops), Arc::clone(&acked));
        let thread = std::thread::spawn(move || {
            let mut running: Vec<(Fence, JoinHandle<()>)> = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                for fence in node.held.fences() {
                    if running.iter().all(|(other, _)| *other != fence) {
                        let (node, stop, ack) = (Arc::clone(&node), Arc::clone(&stop), Arc::clone(&ack));
                        let work = move || while own(&node, fence, &stop, &ack) {};
                        running.push((fence, std::thread::spawn(work)));
                    }
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
            for (_, thread) in running {
                thread.join().unwrap();
            }
        });
        Self { stops, acked, thread }
    }

    pub(crate) fn acked(&self) -> Vec<Range> {
        self.acked.lock().unwrap().clone()
    }

    /// Ends the work; all that was acknowledged.
    pub(crate) fn stop(self) -> Vec<Range> {
        self.stops.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.acked.lock().unwrap().clone()
    }
}

/// Finds out how far others have come, and goes on from there. Whether to begin anew.
fn own(node: &Node, fence: Fence, stops: &AtomicBool, acked: &Mutex<Vec<Range>>) -> bool {
    let slot = fence.slot().0;
    let slots = floodplain_log::Owners::slots(&*node.owners);
    let (ranges, out) =
        (stream(&node.log, "ranges", slots).partition(slot), stream(&node.log, "out", slots).partition(slot));
    let until = match node.commit_value(fence, ranges, "fence") {
        Outcome::Committed(positions) => positions[0].next(),
        other => return goes_on(&other),
    };
    wait_for(&node.log, ranges, until);
    let found = values(&node.log, ranges, Position::ZERO);
    let ends = found.iter().filter(|(position, _)| *position < until).filter_map(|(_, value)| parse(value));
    let mut next = ends.map(|(_, end)| end).max().unwrap_or(0);
    while !stops.load(Ordering::Relaxed) {
        let value = format!("{next} {}", next + 3);
        let batch = || batch_of(b"key", value.as_bytes(), 1);
        match node.commit(fence, vec![(out, batch()), (ranges, batch())]) {
            Outcome::Committed(_) => {
                acked.lock().unwrap().push((slot, next, next + 3));
                next += 3;
            }
            other => return goes_on(&other),
        }
    }
    false
}

fn goes_on(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Refused(Refusal::Fenced | Refusal::Closing) => false,
        Outcome::Unknown | Outcome::Refused(Refusal::Unavailable { .. }) => true,
        other => panic!("{other:?}"),
    }
}

fn parse(value: &str) -> Option<(u64, u64)> {
    let (first, end) = value.split_once(' ')?;
    Some((first.parse().unwrap(), end.parse().unwrap()))
}

/// Each slot's ranges follow each other from 0 on, what was acknowledged is among them, and outputs are those of the
/// ranges. How many there are.
pub(crate) fn check(node: &Node, acked: &[Range]) -> usize {
    let slots = floodplain_log::Owners::slots(&*node.owners);
    let mut all: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
    for slot in 0..slots {
        let read = |name| {
            let partition = stream(&node.log, name, slots).partition(slot);
            // Whatever was still under way somewhere is before this.
            let end = write(&node.log, partition, "end");
            wait_for(&node.log, partition, end.next());
            let read = values(&node.log, partition, Position::ZERO);
            read.into_iter().filter_map(|(_, value)| parse(&value)).collect::<Vec<_>>()
        };
        let ranges = read("ranges");
        let mut next = 0;
        for (first, end) in &ranges {
            assert_eq!(*first, next, "slot {slot}: a range is missing, or two owners have taken it: {ranges:?}");
            next = *end;
        }
        assert_eq!(read("out"), ranges, "slot {slot}: outputs are those of its ranges");
        all.insert(slot, ranges);
    }
    for (slot, first, end) in acked {
        assert!(all[slot].contains(&(*first, *end)), "slot {slot}: {first} to {end} was acknowledged");
    }
    all.values().map(Vec::len).sum()
}
