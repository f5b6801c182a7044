//! What was appended and has not ended: one count for all records of a unit.

use crate::metrics::LogMetrics;
use floodplain_log::{Completion, CompletionSink, Outcome, Partition, Reply};
use floodplain_types::{Class, Position};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    mem,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

/// What a queued batch costs beside its records: here, in the queues of producers, as a completion.
const BATCH_COST: u64 = 400;
/// What a queued record costs inside librdkafka beside its bytes.
const RECORD_COST: u64 = 300;
/// The least offset of a batch of which none is known.
const NO_OFFSET: u64 = u64::MAX;

/// Bytes of the permit pool that a batch takes.
pub(crate) fn cost(bytes: usize, records: u32) -> u64 {
    BATCH_COST + bytes as u64 + RECORD_COST * u64::from(records)
}

/// The permit pool: what may be queued, in bytes.
#[derive(Debug)]
pub(crate) struct Permits {
    used: AtomicU64,
    capacity: u64,
}

impl Permits {
    pub(crate) fn new(capacity: u64) -> Self {
        Self { used: AtomicU64::new(0), capacity }
    }

    pub(crate) fn take(&self, bytes: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.capacity);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// 0 to 1.
    pub(crate) fn fill(&self) -> f64 {
        self.used() as f64 / self.capacity.max(1) as f64
    }
}

/// One batch of a unit that is under way.
#[derive(Debug)]
pub(crate) struct BatchEnd {
    pub(crate) partition: Partition,
    /// A position that no record of the batch is before.
    pub(crate) not_before: Position,
    least: AtomicU64,
    /// Behind the last record whose offset is known.
    end: AtomicU64,
}

/// A unit that is under way. It ends when all of its records have.
#[derive(Debug)]
pub(crate) struct Unit {
    /// Order of submission.
    seq: u64,
    class: Class,
    cost: u64,
    began: Instant,
    batches: Box<[BatchEnd]>,
    /// Records, and one for the submission itself.
    left: AtomicUsize,
    has_failed: AtomicBool,
    reply: Mutex<Option<Reply>>,
    shared: Arc<Shared>,
}

/// What all units need at their end.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) permits: Permits,
    pub(crate) metrics: LogMetrics,
    ended: Ended,
    next: AtomicU64,
}

impl Shared {
    pub(crate) fn new(capacity: u64, metrics: LogMetrics) -> Arc<Self> {
        Arc::new(Self { permits: Permits::new(capacity), metrics, ended: Ended::default(), next: AtomicU64::new(0) })
    }

    /// Tells sinks what ended until [`Self::close`], on the thread that calls it.
    pub(crate) fn tell(&self) {
        while let Some(ended) = self.ended.take() {
            deliver(ended);
        }
    }

    /// Everything before these positions can be read by who asks us.
    pub(crate) fn followed(&self, ends: impl Iterator<Item = (Partition, u64)>) {
        self.ended.followed(ends, &self.permits);
        self.metrics.queue_bytes.set(self.permits.used() as f64);
    }

    /// Lets [`Self::tell`] return once it has told everything.
    pub(crate) fn close(&self) {
        self.ended.close(&self.permits);
    }
}

impl Unit {
    /// A unit whose cost was taken from the permits. It does not end before [`Self::submitted`].
    pub(crate) fn new(
        shared: &Arc<Shared>,
        class: Class,
        cost: u64,
        batches: Vec<(Partition, Position)>,
        reply: Option<Reply>,
        began: Instant,
    ) -> Arc<Self> {
        let end = |(partition, not_before)| BatchEnd {
            partition,
            not_before,
            least: AtomicU64::new(NO_OFFSET),
            end: AtomicU64::new(0),
        };
        Arc::new(Self {
            seq: shared.next.fetch_add(1, Ordering::Relaxed),
            class,
            cost,
            began,
            batches: batches.into_iter().map(end).collect(),
            left: AtomicUsize::new(1),
            has_failed: AtomicBool::new(false),
            reply: Mutex::new(reply),
            shared: Arc::clone(shared),
        })
    }

    /// All of the unit is in the queues of producers.
    pub(crate) fn submitted(&self) {
        self.end_one();
    }

    fn end_one(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.end();
        }
    }

    fn end(&self) {
        let outcome = self.outcome();
        let metrics = &self.shared.metrics;
        if outcome == Outcome::Unknown {
            metrics.unknown.increment(1);
        } else {
            metrics.appends.increment(1);
        }
        metrics.append_seconds.record(self.began.elapsed());
        if let Some(reply) = lock(&self.reply).take() {
            // Readers see what all copies have, and the other classes do not wait for these.
            let is_to_be_read = self.class == Class::All && outcome != Outcome::Unknown;
            let ends = self.batches.iter().filter(|_| is_to_be_read);
            let ends = ends.map(|batch| (batch.partition, batch.end.load(Ordering::Acquire)));
            self.shared.ended.push((self.seq, reply, outcome), self.cost, ends, &self.shared.permits);
        } else {
            self.shared.permits.give_back(self.cost);
        }
        metrics.queue_bytes.set(self.shared.permits.used() as f64);
    }

    fn outcome(&self) -> Outcome {
        if self.has_failed.load(Ordering::Acquire) {
            return Outcome::Unknown;
        }
        let mut positions = Vec::with_capacity(self.batches.len());
        for batch in &self.batches {
            match batch.least.load(Ordering::Acquire) {
                // Brokers say no offset for what they do not acknowledge.
                NO_OFFSET if self.class == Class::None => positions.push(batch.not_before),
                // Written, and we do not know where.
                NO_OFFSET => return Outcome::Unknown,
                offset => positions.push(Position { offset, ..batch.not_before }),
            }
        }
        Outcome::Committed(positions)
    }
}

/// A batch of a unit, as producers know it: each of its records holds one.
#[derive(Debug)]
pub(crate) struct Part {
    unit: Arc<Unit>,
    idx: usize,
}

impl Part {
    /// Counts the records in.
    pub(crate) fn new(unit: &Arc<Unit>, idx: usize, records: u32) -> Arc<Self> {
        unit.left.fetch_add(records as usize, Ordering::AcqRel);
        Arc::new(Self { unit: Arc::clone(unit), idx })
    }

    pub(crate) fn partition(&self) -> Partition {
        self.unit.batches[self.idx].partition
    }

    /// A record is where it was promised to be; at this offset, if one is known.
    pub(crate) fn done(&self, offset: Option<u64>) {
        if let Some(offset) = offset {
            let batch = &self.unit.batches[self.idx];
            batch.least.fetch_min(offset, Ordering::AcqRel);
            batch.end.fetch_max(offset + 1, Ordering::AcqRel);
        }
        self.unit.end_one();
    }

    /// Nobody knows where a record is; whether this is the first one of its unit.
    pub(crate) fn failed(&self) -> bool {
        let is_first = !self.unit.has_failed.swap(true, Ordering::AcqRel);
        self.unit.end_one();
        is_first
    }
}

type End = (u64, Reply, Outcome);

/// Ends that were not told yet: as many as there are units at most, and those are bounded by permits.
///
/// What is committed is told once it can be read here, since whoever is told may ask for it at once: a client that
/// subscribes, or asks SQL, finds what was acknowledged before. Brokers tell producers and consumers at the same moment,
/// and the consumer may be the later one. Permits go back first, so that who is told has room for the next unit.
#[derive(Debug, Default)]
struct Ended {
    state: Mutex<EndedState>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct EndedState {
    ends: Vec<End>,
    /// Where the consumer is that follows the ends.
    followed: HashMap<Partition, u64>,
    /// What it has not read yet, by the end of a batch.
    unread: BTreeMap<(Partition, u64), Vec<Arc<Unread>>>,
    is_closing: bool,
}

/// The end of a unit some of whose batches were not read yet.
#[derive(Debug)]
struct Unread {
    end: Mutex<Option<End>>,
    cost: u64,
    /// Batches.
    left: AtomicUsize,
}

impl Ended {
    /// `ends` are those of the batches of the unit. Gives `cost` back once nothing is waited for.
    fn push(&self, end: End, cost: u64, ends: impl Iterator<Item = (Partition, u64)>, permits: &Permits) {
        let mut state = lock(&self.state);
        let is_unread = |(partition, end): &(Partition, u64)| state.followed.get(partition).is_none_or(|at| at < end);
        let unread: Vec<_> = if state.is_closing { Vec::new() } else { ends.filter(is_unread).collect() };
        if unread.is_empty() {
            permits.give_back(cost);
            state.ends.push(end);
            return self.wake(&state);
        }
        let left = AtomicUsize::new(unread.len());
        let unit = Arc::new(Unread { end: Mutex::new(Some(end)), cost, left });
        for key in unread {
            state.unread.entry(key).or_default().push(Arc::clone(&unit));
        }
    }

    fn followed(&self, ends: impl Iterator<Item = (Partition, u64)>, permits: &Permits) {
        let mut state = lock(&self.state);
        for (partition, end) in ends {
            state.followed.insert(partition, end);
            while let Some(entry) = state.unread.range((partition, 0)..=(partition, end)).next() {
                let key = *entry.0;
                state.tell_read(key, permits);
            }
        }
        self.wake(&state);
    }

    fn close(&self, permits: &Permits) {
        let mut state = lock(&self.state);
        state.is_closing = true;
        // They are committed, and nobody reads on.
        while let Some(key) = state.unread.keys().next().copied() {
            state.tell_read(key, permits);
        }
        self.arrived.notify_all();
    }

    /// The teller sleeps only when there is nothing.
    fn wake(&self, state: &EndedState) {
        if !state.ends.is_empty() {
            self.arrived.notify_one();
        }
    }

    fn take(&self) -> Option<Vec<End>> {
        let state = lock(&self.state);
        let waits = |state: &mut EndedState| state.ends.is_empty() && !state.is_closing;
        let mut state = self.arrived.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        let ends = mem::take(&mut state.ends);
        (!ends.is_empty()).then_some(ends)
    }
}

impl EndedState {
    /// These batches were read: units that wait for nothing else are told.
    fn tell_read(&mut self, key: (Partition, u64), permits: &Permits) {
        for unit in self.unread.remove(&key).unwrap_or_default() {
            if unit.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                permits.give_back(unit.cost);
                self.ends.extend(lock(&unit.end).take());
            }
        }
    }
}

/// One call for each sink, with its ends in the order of submission.
fn deliver(mut ends: Vec<End>) {
    ends.sort_by_key(|(seq, ..)| *seq);
    let mut sinks: HashMap<*const (), usize> = HashMap::new();
    let mut told: VecDeque<(Arc<dyn CompletionSink>, Vec<Completion>)> = VecDeque::new();
    for (_, Reply { sink, tag }, outcome) in ends {
        let at = *sinks.entry(Arc::as_ptr(&sink).cast()).or_insert_with(|| {
            told.push_back((sink, Vec::new()));
            told.len() - 1
        });
        told[at].1.push(Completion { tag, outcome });
    }
    for (sink, completions) in told {
        sink.complete(completions);
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use floodplain_testkit::Outcomes;

    fn stopwatch() -> Instant {
        crate::time::now()
    }

    fn unit(shared: &Arc<Shared>, sink: &Arc<Outcomes>, class: Class, tag: u64) -> Arc<Unit> {
        assert!(shared.permits.take(100));
        let sink = Arc::clone(sink) as Arc<dyn CompletionSink>;
        let batches = (0..2).map(|index| (Partition { stream: 0, index }, Position::new(3, 40))).collect();
        Unit::new(shared, class, 100, batches, Some(Reply { sink, tag }), stopwatch())
    }

    #[test]
    fn a_unit_ends_with_its_last_record_and_knows_its_first_offsets() {
        let (shared, sink) = (Shared::new(1_000, LogMetrics::new()), Outcomes::new());
        let told = |_: &Shared| {
            deliver(mem::take(&mut lock(&shared.ended.state).ends));
            sink.take(1)
        };
        let follow = |index, end| shared.followed([(Partition { stream: 0, index }, end)].into_iter());
        follow(0, 51);
        let first = unit(&shared, &sink, Class::All, 1);
        let (a, b) = (Part::new(&first, 0, 2), Part::new(&first, 1, 1));
        a.done(Some(50));
        a.done(Some(51));
        b.done(Some(60));
        assert_eq!((told(&shared), shared.permits.used()), (None, 100), "not all was submitted");
        first.submitted();
        follow(1, 61);
        assert_eq!((told(&shared), shared.permits.used()), (None, 100), "not all can be read");
        follow(0, 52);
        assert_eq!(told(&shared), Some(Outcome::Committed(vec![Position::new(3, 50), Position::new(3, 60)])));
        assert_eq!(shared.permits.used(), 0);

        let unknown = unit(&shared, &sink, Class::All, 1);
        let (a, b) = (Part::new(&unknown, 0, 1), Part::new(&unknown, 1, 1));
        unknown.submitted();
        assert!(a.failed());
        b.done(Some(61));
        assert_eq!(told(&shared), Some(Outcome::Unknown), "one of two is not known");

        for (class, expected) in [
            (Class::None, Outcome::Committed(vec![Position::new(3, 40), Position::new(3, 40)])),
            (Class::Leader, Outcome::Unknown),
        ] {
            let unheard = unit(&shared, &sink, class, 1);
            let (a, b) = (Part::new(&unheard, 0, 1), Part::new(&unheard, 1, 1));
            unheard.submitted();
            a.done(None);
            b.done(None);
            assert_eq!(told(&shared), Some(expected), "{class}");
        }
        assert_eq!(shared.permits.used(), 0);
    }

    #[test]
    fn permits_are_given_once() {
        let permits = Permits::new(10);
        assert!(permits.take(6) && !permits.take(5) && permits.take(4) && !permits.take(1));
        permits.give_back(6);
        assert!(permits.take(6) && !permits.take(u64::MAX));
    }
}
