//! Which slots are ours, what waits for them, and which thread works on one.

use super::transaction::SlotProducer;
use crate::{catalog::OpenStream, time::now, unit::lock};
use ::metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use floodplain_log::{Batch, Completion, Fence, Outcome, OwnerSink, Partition, Refusal, Reply, Slot};
use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often the producer of a slot without work may say what it has to.
const TEND: Duration = Duration::from_secs(5);

/// Counters of ownership.
pub(crate) struct OwnersMetrics {
    pub(crate) slots_owned: Gauge,
    pub(crate) committed: Counter,
    pub(crate) aborted: Counter,
    pub(crate) unknown: Counter,
    /// Commits that came after ownership was gone, or whose producer was fenced.
    pub(crate) fenced: Counter,
    pub(crate) transaction_seconds: Histogram,
}

impl OwnersMetrics {
    fn new() -> Self {
        let ended = |outcome: &'static str| counter!("floodplain_log_kafka_transactions_total", "outcome" => outcome);
        Self {
            slots_owned: gauge!("floodplain_log_kafka_slots_owned"),
            committed: ended("committed"),
            aborted: ended("aborted"),
            unknown: ended("unknown"),
            fenced: counter!("floodplain_log_kafka_fencings_total"),
            transaction_seconds: histogram!("floodplain_log_kafka_transaction_duration_seconds"),
        }
    }
}

/// A unit that was admitted and has not ended. Bounded by permits, which each of them has.
#[derive(Debug)]
pub(crate) struct OwnedUnit {
    pub(crate) batches: Vec<(Partition, Arc<OpenStream>, Batch)>,
    pub(crate) bytes: u64,
    /// Permits that it has taken.
    pub(crate) cost: u64,
    pub(crate) reply: Reply,
}

/// What a thread is to do for a slot.
#[derive(Debug)]
pub(crate) enum Work {
    /// It was granted: get its producer ready.
    Start,
    /// These wait, in order.
    Commit(Vec<OwnedUnit>),
    /// Nothing waits.
    Tend,
    /// It is not ours any more.
    Drop,
}

/// A slot that one thread has for itself, until [`Slots::done`].
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) slot: u32,
    pub(crate) epoch: u64,
    pub(crate) work: Work,
    pub(crate) producer: Option<SlotProducer>,
}

/// Shared by the thread of the lease, those that run transactions, and whoever commits.
pub(crate) struct Slots {
    pub(crate) metrics: OwnersMetrics,
    spacing: Duration,
    unit_bytes_max: u64,
    table: Mutex<Table>,
    /// Something is due, or all is over.
    due: Condvar,
    /// A thread is done with a slot.
    idle: Condvar,
}

#[derive(Debug)]
struct Table {
    slots: Vec<State>,
    /// When to look at which slot.
    due: BTreeSet<(Instant, u32)>,
    watchers: Vec<Arc<dyn OwnerSink>>,
    epochs: u64,
    is_released: bool,
    is_closing: bool,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Held>,
    /// A thread works on it, and has its producer.
    is_busy: bool,
    producer: Option<SlotProducer>,
    due: Option<Instant>,
}

/// A slot that the group has given us.
#[derive(Debug)]
struct Held {
    epoch: u64,
    stage: Stage,
    queue: VecDeque<OwnedUnit>,
    /// No transaction begins earlier.
    not_before: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its producer is not there yet, and nobody was told.
    Starting,
    Ready,
    /// A broker says that it is another's, or it is being given back. Takes nothing more.
    Over {
        was_told: bool,
    },
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").finish_non_exhaustive()
    }
}

impl Slots {
    pub(crate) fn new(count: u32, spacing: Duration, unit_bytes_max: u64) -> Self {
        let table = Table {
            slots: (0..count).map(|_| State::default()).collect(),
            due: BTreeSet::new(),
            watchers: Vec::new(),
            epochs: 0,
            is_released: false,
            is_closing: false,
        };
        Self {
            metrics: OwnersMetrics::new(),
            spacing,
            unit_bytes_max,
            table: Mutex::new(table),
            due: Condvar::new(),
            idle: Condvar::new(),
        }
    }

    pub(crate) fn count(&self) -> u32 {
        lock(&self.table).slots.len() as u32
    }

    pub(crate) fn watch(&self, sink: Arc<dyn OwnerSink>) {
        let mut table = lock(&self.table);
        for (slot, state) in (0..).zip(&table.slots) {
            if let Some(held) = state.held.as_ref().filter(|held| held.stage == Stage::Ready) {
                sink.gained(Fence::new(Slot(slot), held.epoch));
            }
        }
        table.watchers.push(sink);
    }

    /// The group has given us a slot.
    pub(crate) fn grant(&self, slot: u32) {
        let mut table = lock(&self.table);
        table.epochs += 1;
        let epoch = table.epochs;
        let Some(state) = table.slots.get_mut(slot as usize) else { return };
        state.held = Some(Held { epoch, stage: Stage::Starting, queue: VecDeque::new(), not_before: now() });
        self.schedule(&mut table, slot, now());
    }

    /// The group takes slots back, or has done so already. Waits, for `patience` at most, until what runs for them has
    /// ended; with none of it where they are lost anyway.
    pub(crate) fn revoke(&self, slots: &[u32], patience: Duration, give_back: impl Fn(u64)) {
        let mut table = lock(&self.table);
        let mut waiting = Vec::new();
        for slot in slots {
            let Some(Some(held)) = table.slots.get_mut(*slot as usize).map(|state| state.held.as_mut()) else {
                continue;
            };
            held.close();
            waiting.extend(held.queue.drain(..));
        }
        let is_any_busy = |table: &mut Table| slots.iter().any(|slot| table.is_busy(*slot));
        (table, _) = self.idle.wait_timeout_while(table, patience, is_any_busy).unwrap_or_else(PoisonError::into_inner);
        let mut told = Vec::new();
        for slot in slots {
            let Some(held) = table.slots.get_mut(*slot as usize).and_then(|state| state.held.take()) else { continue };
            if held.stage == (Stage::Over { was_told: true }) {
                told.push(Slot(*slot));
            }
            self.schedule(&mut table, *slot, now());
        }
        drop(table);
        // Units end before their slot is told as lost.
        for unit in waiting {
            give_back(unit.cost);
            self.metrics.fenced.increment(1);
            end(unit.reply, Outcome::Refused(Refusal::Fenced));
        }
        let table = lock(&self.table);
        for slot in told {
            table.watchers.iter().for_each(|watcher| watcher.lost(slot));
        }
        self.metrics.slots_owned.set(f64::from(table.ready()));
    }

    /// Queues a unit of the owner; gives it back where it is not the owner.
    pub(crate) fn push(&self, fence: Fence, unit: OwnedUnit) -> Result<(), (OwnedUnit, Refusal)> {
        let mut table = lock(&self.table);
        if table.is_released {
            return Err((unit, Refusal::Closing));
        }
        let Some(held) = table.held(fence.slot().0, fence.epoch()).filter(|held| held.stage == Stage::Ready) else {
            return Err((unit, Refusal::Fenced));
        };
        held.queue.push_back(unit);
        let at = held.not_before;
        self.schedule(&mut table, fence.slot().0, at);
        Ok(())
    }

    /// Whether this grant of the slot still stands, as far as we know.
    pub(crate) fn holds(&self, slot: u32, epoch: u64) -> bool {
        let mut table = lock(&self.table);
        table.held(slot, epoch).is_some_and(|held| !matches!(held.stage, Stage::Over { .. }))
    }

    /// The producer of the slot is there: tells who watches, unless the slot has gone meanwhile.
    pub(crate) fn ready(&self, slot: u32, epoch: u64) {
        let mut table = lock(&self.table);
        let Some(held) = table.held(slot, epoch).filter(|held| held.stage == Stage::Starting) else { return };
        held.stage = Stage::Ready;
        table.watchers.iter().for_each(|watcher| watcher.gained(Fence::new(Slot(slot), epoch)));
        self.metrics.slots_owned.set(f64::from(table.ready()));
    }

    /// A broker has said that the slot is another's: it takes nothing more until the group has said so, too.
    pub(crate) fn fenced(&self, slot: u32, epoch: u64) -> Vec<OwnedUnit> {
        let mut table = lock(&self.table);
        let Some(held) = table.held(slot, epoch) else { return Vec::new() };
        held.close();
        let waiting = held.queue.drain(..).collect();
        self.metrics.slots_owned.set(f64::from(table.ready()));
        waiting
    }

    /// The next slot with something to do; `None` at the end.
    pub(crate) fn take(&self) -> Option<Job> {
        let mut table = lock(&self.table);
        loop {
            let time = now();
            match table.due.first().copied() {
                Some((at, slot)) if at <= time => {
                    table.due.pop_first();
                    table.slots[slot as usize].due = None;
                    return Some(self.job(&mut table, slot, time));
                }
                Some((at, _)) => {
                    let wait = at.duration_since(time);
                    (table, _) = self.due.wait_timeout(table, wait).unwrap_or_else(PoisonError::into_inner);
                }
                None if table.is_closing => return None,
                None => table = self.due.wait(table).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn job(&self, table: &mut Table, slot: u32, time: Instant) -> Job {
        let state = &mut table.slots[slot as usize];
        state.is_busy = true;
        let producer = state.producer.take();
        let (epoch, work) = match &mut state.held {
            None => (0, Work::Drop),
            Some(held) => match held.stage {
                Stage::Starting => (held.epoch, Work::Start),
                Stage::Over { .. } => (held.epoch, Work::Tend),
                Stage::Ready => {
                    let (mut units, mut bytes) = (Vec::new(), 0);
                    while let Some(unit) = held.queue.front() {
                        bytes += unit.bytes;
                        if !units.is_empty() && bytes > self.unit_bytes_max {
                            break;
                        }
                        units.extend(held.queue.pop_front());
                    }
                    if units.is_empty() {
                        (held.epoch, Work::Tend)
                    } else {
                        held.not_before = time + self.spacing;
                        (held.epoch, Work::Commit(units))
                    }
                }
            },
        };
        Job { slot, epoch, work, producer }
    }

    /// The slot may be worked on by others; `again` is when at the latest.
    pub(crate) fn done(&self, slot: u32, epoch: u64, producer: Option<SlotProducer>, again: Option<Duration>) {
        let mut table = lock(&self.table);
        let state = &mut table.slots[slot as usize];
        state.is_busy = false;
        let has_producer = producer.is_some();
        state.producer = producer;
        let at = match &state.held {
            // It has gone meanwhile.
            None => has_producer.then(now),
            // And was granted again.
            Some(held) if held.epoch != epoch => Some(now()),
            Some(held) if held.stage == Stage::Ready && !held.queue.is_empty() => Some(held.not_before),
            Some(_) => Some(now() + again.unwrap_or(TEND)),
        };
        if let Some(at) = at {
            self.schedule(&mut table, slot, at);
        }
        self.idle.notify_all();
    }

    /// No slot is granted any more.
    pub(crate) fn release(&self) {
        lock(&self.table).is_released = true;
    }

    pub(crate) fn is_released(&self) -> bool {
        lock(&self.table).is_released
    }

    pub(crate) fn close(&self) {
        lock(&self.table).is_closing = true;
        self.due.notify_all();
    }

    fn schedule(&self, table: &mut Table, slot: u32, at: Instant) {
        let state = &mut table.slots[slot as usize];
        // Who works on it now schedules it when done.
        if state.is_busy {
            return;
        }
        if let Some(due) = state.due {
            if due <= at {
                return;
            }
            table.due.remove(&(due, slot));
        }
        state.due = Some(at);
        table.due.insert((at, slot));
        self.due.notify_one();
    }
}

impl Held {
    fn close(&mut self) {
        if !matches!(self.stage, Stage::Over { .. }) {
            self.stage = Stage::Over { was_told: self.stage == Stage::Ready };
        }
    }
}

impl Table {
    fn held(&mut self, slot: u32, epoch: u64) -> Option<&mut Held> {
        self.slots.get_mut(slot as usize)?.held.as_mut().filter(|held| held.epoch == epoch)
    }

    fn is_busy(&self, slot: u32) -> bool {
        self.slots.get(slot as usize).is_some_and(|state| state.is_busy)
    }

    fn ready(&self) -> u32 {
        let is_ready = |state: &&State| state.held.as_ref().is_some_and(|held| held.stage == Stage::Ready);
        self.slots.iter().filter(is_ready).count() as u32
    }
}

/// Tells one end.
pub(crate) fn end(reply: Reply, outcome: Outcome) {
    let Reply { sink, tag } = reply;
    sink.complete(vec![Completion { tag, outcome }]);
}

/// Tells the ends of units that shared a transaction: one call for each sink where they follow each other.
pub(crate) fn end_all(ends: Vec<(Reply, Outcome)>) {
    let mut ends = ends.into_iter().peekable();
    while let Some((Reply { sink, tag }, outcome)) = ends.next() {
        let mut completions = vec![Completion { tag, outcome }];
        while let Some((reply, outcome)) = ends.next_if(|(reply, _)| Arc::ptr_eq(&reply.sink, &sink)) {
            completions.push(Completion { tag: reply.tag, outcome });
        }
        sink.complete(completions);
    }
}
