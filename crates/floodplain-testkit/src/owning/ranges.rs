//! Owners that take ranges of an input one after the other, and a checker of what they have taken.

use super::Node;
use crate::{
    batch_of,
    folding::each,
    wait::{wait_at_most, wait_until},
};
use floodplain_log::{Fence, Log, Outcome, Refusal, Stream};
use floodplain_types::{Position, StreamId, StreamName, TenantId};
use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// How long it may take until another range is taken: a dead owner has to be missed before.
const PATIENCE: Duration = Duration::from_secs(120);

/// Slot, first and end of a range.
pub type Range = (u32, u64, u64);

/// A node's work: as a runner does it, for each slot that it owns.
#[derive(Debug)]
pub struct Ranges {
    stops: Arc<AtomicBool>,
    acked: Arc<Mutex<Vec<Range>>>,
    thread: JoinHandle<()>,
}

impl Ranges {
    /// Begins to take ranges for whatever slots the node owns.
    #[must_use]
    pub fn start(node: &Arc<Node>) -> Self {
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
                thread.join().expect("it has said what is wrong");
            }
        });
        Self { stops, acked, thread }
    }

    /// What was acknowledged so far.
    #[must_use]
    pub fn acked(&self) -> Vec<Range> {
        self.acked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until each of so many slots has acknowledged some more.
    pub fn goes_on(&self, slots: usize, when: &str) {
        let before = self.acked().len();
        wait_at_most(PATIENCE, when, &|| (), || {
            let acked = self.acked();
            acked[before..].iter().map(|range| range.0).collect::<HashSet<u32>>().len() >= slots
        });
    }

    /// Ends the work; all that was acknowledged.
    #[must_use]
    pub fn stop(self) -> Vec<Range> {
        self.stops.store(true, Ordering::Relaxed);
        self.thread.join().expect("it has said what is wrong");
        self.acked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Each slot's ranges follow each other from 0 on, what was acknowledged is among them, and outputs are those of the
    /// ranges. How many there are.
    ///
    /// # Panics
    /// If it is not so. A log that is not `exact` may have doubled records.
    #[must_use]
    pub fn check(node: &Node, acked: &[Range], exact: bool) -> usize {
        let slots = node.owners.slots();
        let mut all: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
        for slot in 0..slots {
            let fence = node.held.fence(floodplain_log::Slot(slot)).expect("the node owns all in the end");
            let read = |name: &str| {
                let partition = stream(&*node.log, name, slots).partition(slot);
                // Whatever was still under way somewhere is before this.
                let end = loop {
                    match node.commit(fence, vec![(partition, batch_of(b"key", b"end", 1))]) {
                        Outcome::Committed(positions) => break positions[0].next(),
                        other => assert!(goes_on(&other, exact), "{other:?}"),
                    }
                };
                wait_until("the end can be read", &*node.pump, || node.log.watermark(partition) >= end);
                let mut ranges = values(&*node.log, name, slots, slot);
                if !exact {
                    ranges.dedup_by(|later, earlier| later.1 == earlier.1);
                }
                ranges.into_iter().filter_map(|(_, value)| parse(&value)).collect::<Vec<_>>()
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
}

fn stream(log: &dyn Log, name: &str, partitions: u32) -> Stream {
    let (tenant, stream) = (TenantId::default_tenant(), StreamName::new(name).expect("names of tests are fine"));
    log.open_stream(&StreamId { tenant, stream, generation: 0 }, partitions).expect("a healthy log opens streams")
}

fn values(log: &dyn Log, name: &str, partitions: u32, index: u32) -> Vec<(Position, String)> {
    let mut values = Vec::new();
    each(log, &stream(log, name, partitions), index, |batch, record| {
        let value = String::from_utf8(record.value.unwrap_or_default().to_vec()).expect("we wrote text");
        values.push((batch.position(record), value));
    });
    values
}

/// Finds out how far others have come, and goes on from there. Whether to begin anew.
fn own(node: &Node, fence: Fence, stops: &AtomicBool, acked: &Mutex<Vec<Range>>) -> bool {
    let (slot, slots) = (fence.slot().0, node.owners.slots());
    let partition = |name: &str| stream(&*node.log, name, slots).partition(slot);
    let (ranges, out) = (partition("ranges"), partition("out"));
    let is_ours = || node.held.fences().contains(&fence);
    let until = match node.commit(fence, vec![(ranges, batch_of(b"key", b"fence", 1))]) {
        Outcome::Committed(positions) => positions[0].next(),
        other => return goes_on(&other, !is_ours()) && !stops.load(Ordering::Relaxed),
    };
    wait_until("the fence can be read", &*node.pump, || node.log.watermark(ranges) >= until);
    let found = values(&*node.log, "ranges", slots, slot);
    let ends = found.iter().filter(|(position, _)| *position < until).filter_map(|(_, value)| parse(value));
    let mut next = ends.map(|(_, end)| end).max().unwrap_or(0);
    while !stops.load(Ordering::Relaxed) {
        let value = format!("{next} {}", next + 3);
        let batch = || batch_of(b"key", value.as_bytes(), 1);
        match node.commit(fence, vec![(out, batch()), (ranges, batch())]) {
            Outcome::Committed(_) => {
                acked.lock().unwrap_or_else(PoisonError::into_inner).push((slot, next, next + 3));
                next += 3;
            }
            other => return goes_on(&other, !is_ours()),
        }
    }
    false
}

/// Whether who ended so asks how far it has come, and goes on. Who was refused for being no owner, and is none, does not.
fn goes_on(outcome: &Outcome, is_over: bool) -> bool {
    match outcome {
        Outcome::Refused(Refusal::Fenced | Refusal::Closing) if is_over => false,
        Outcome::Refused(Refusal::Fenced | Refusal::Closing) => {
            // Soon it is told as lost, or ours again.
            std::thread::park_timeout(Duration::from_millis(1));
            true
        }
        Outcome::Unknown
        | Outcome::Refused(Refusal::Unavailable { .. } | Refusal::Overloaded { .. } | Refusal::DiskFull { .. }) => true,
        other => panic!("{other:?}"),
    }
}

fn parse(value: &str) -> Option<(u64, u64)> {
    let (first, end) = value.split_once(' ')?;
    Some((first.parse().ok()?, end.parse().ok()?))
}
