//! A log that does what distributed engines do to their users, from a seed.

mod gap;
#[cfg(test)]
mod tests;

use floodplain_log::{
    Append, Batch, BatchBuilder, Completion, CompletionSink, Compression, FetchedRecord, HEADER_BYTES, InOrder, Log,
    Outcome, Partition, Read, ReadError, RecordRef, Refusal, Reply, RetentionSink, Stream, WatermarkSink,
};
use floodplain_types::{PartitionId, Position, StreamId};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

/// How often each adversity strikes, per 1,000 appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adversity {
    /// A marker that no reader sees takes a position before, between or after the batches.
    pub holes: u32,
    /// One of the batches has offsets that no record has, between its records or behind the last one.
    pub gaps: u32,
    /// The append is written twice.
    pub duplicates: u32,
    /// The outcome is [`Outcome::Unknown`]; by chance the records are there or not.
    pub unknown: u32,
    /// As on an engine that does not keep units whole: of an append with an unknown outcome a part of the batches may be there,
    /// but for what a fold emits, which goes through its owner's transaction; and of two appends the later one may end first,
    /// unless all partitions of the first one are among its own (with [`Self::late`]).
    pub torn: bool,
    /// Ownership of a partition is lost: this append and up to three more that touch it end as
    /// [`Refusal::Fenced`].
    pub fenced: u32,
    /// The append is refused for want of room in memory or on the disk, and with it what the same submitter
    /// appends before it has heard of that, if it wants its order kept.
    pub refused: u32,
    /// Whether completions and watermarks come late, each in its own time, so that a record may
    /// be acknowledged long before it can be read, or read before it is acknowledged.
    pub late: bool,
}

impl Adversity {
    /// Nothing: the log as it is.
    pub const NONE: Self =
        Self { holes: 0, gaps: 0, duplicates: 0, unknown: 0, torn: false, fenced: 0, refused: 0, late: false };
    /// Nothing but delay and holes: what code must bear without noticing.
    pub const MILD: Self = Self { holes: 200, gaps: 100, late: true, ..Self::NONE };
    /// Everything, often.
    pub const HARSH: Self = Self { duplicates: 50, unknown: 50, fenced: 20, refused: 30, ..Self::MILD };
}

/// What an [`AdverseLog`] has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Struck {
    pub holes: u64,
    pub gaps: u64,
    pub duplicates: u64,
    /// Appends with an unknown outcome that were written, and that were not.
    pub unknown_written: u64,
    pub unknown_lost: u64,
    /// Those of which a part was written.
    pub unknown_torn: u64,
    pub fenced: u64,
    pub refused: u64,
    /// Appends that ended before an earlier one.
    pub overtaken: u64,
    /// Appends that were refused because one before them was.
    pub after_refused: u64,
    /// Watermarks that were never told because a later one was.
    pub watermarks_skipped: u64,
}

/// Wraps a [`Log`] and makes it hard to use, within the contract.
///
/// Completions and watermarks arrive only when [`Self::pump`] is called (deterministic, for tests
/// that drive everything themselves) or by the thread of [`Self::start`]. Holes are records of its
/// own in the log below, so they are the same for every wrapper of that log; whoever reads the log
/// below directly sees them.
pub struct AdverseLog {
    inner: Arc<dyn Log>,
    shared: Arc<Shared>,
    /// One sink for all, so that the log below can group what it reports.
    tap: Arc<Tap>,
}

/// Shared with the sinks that the log below calls, which must not hold the log itself.
struct Shared {
    state: Mutex<State>,
    /// Signalled when something waits to be pumped.
    arrived: Condvar,
    late: bool,
    keeps_units_whole: bool,
}

struct State {
    adversity: Adversity,
    /// Decides what happens to appends.
    fate: SmallRng,
    /// Decides when things arrive; apart, so that timing does not change fate.
    delay: SmallRng,
    fenced: HashMap<Partition, u32>,
    /// Why nothing is taken any more.
    poisoned: Option<Arc<str>>,
    /// What each submitter with an order was or will be told of refusals, in this order: whether the log
    /// below made it.
    refusals: HashMap<u32, Vec<bool>>,
    pending: HashMap<u64, Pending>,
    next_tag: u64,
    completions: VecDeque<Ended>,
    advances: VecDeque<(Partition, Position)>,
    /// The watermark of each partition as users see it.
    visible: BTreeMap<Partition, Position>,
    watchers: Vec<Arc<dyn WatermarkSink>>,
    struck: Struck,
}

/// An append that the log below has not ended.
struct Pending {
    reply: Reply,
    submitter: Option<u32>,
    /// Indices of markers and copies among the batches.
    hidden: Vec<usize>,
    unknown: bool,
    /// Where all of it goes; only where that decides what may end before it.
    partitions: BTreeSet<Partition>,
}

/// An append that has ended, and nobody was told.
struct Ended {
    reply: Reply,
    outcome: Outcome,
    /// See [`Pending::partitions`].
    partitions: BTreeSet<Partition>,
}

impl fmt::Debug for AdverseLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdverseLog")
            .field("inner", &self.inner)
            .field("adversity", &self.shared.state().adversity)
            .finish_non_exhaustive()
    }
}

const MARKER_KEY: &[u8] = b"\0adverse-hole";

fn marker() -> Batch {
    let mut builder = BatchBuilder::new();
    builder.push(0, Some(MARKER_KEY), None, []).expect("one small record fits");
    builder.finish(Compression::None).expect("one record was pushed")
}

fn is_marker(batch: &Batch) -> bool {
    batch.record_count() == 1
        && batch.as_bytes().len() < HEADER_BYTES + MARKER_KEY.len() + 16
        && batch
            .records()
            .is_ok_and(|records| records.iter().next().is_some_and(|r| r.is_ok_and(|r| r.key == Some(MARKER_KEY))))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what the log below reports.
struct Tap(Arc<Shared>);

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tap")
    }
}

impl CompletionSink for Tap {
    fn complete(&self, completions: Vec<Completion>) {
        let mut state = self.0.state();
        for Completion { tag, outcome } in completions {
            let Some(Pending { reply, submitter, hidden, unknown, partitions }) = state.pending.remove(&tag) else {
                continue;
            };
            let outcome = match outcome {
                Outcome::Committed(_) if unknown => Outcome::Unknown,
                Outcome::Committed(positions) => {
                    let real = positions.into_iter().enumerate().filter(|(i, _)| !hidden.contains(i));
                    Outcome::Committed(real.map(|(_, position)| position).collect())
                }
                Outcome::Refused(refusal) => {
                    state.note_refusal(submitter, true);
                    Outcome::Refused(refusal)
                }
                Outcome::Unknown => Outcome::Unknown,
            };
            state.completions.push_back(Ended { reply, outcome, partitions });
        }
        self.0.arrived.notify_all();
    }
}

impl WatermarkSink for Tap {
    fn advanced(&self, watermarks: &[(Partition, Position)]) {
        self.0.state().advances.extend(watermarks);
        self.0.arrived.notify_all();
    }
}

impl AdverseLog {
    /// Wraps `inner`. Nothing arrives until [`Self::pump`] is called.
    #[must_use]
    pub fn new(inner: Arc<dyn Log>, adversity: Adversity, seed: u64) -> Arc<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                adversity,
                fate: SmallRng::seed_from_u64(seed),
                delay: SmallRng::seed_from_u64(!seed),
                fenced: HashMap::new(),
                poisoned: None,
                refusals: HashMap::new(),
                pending: HashMap::new(),
                next_tag: 0,
                completions: VecDeque::new(),
                advances: VecDeque::new(),
                visible: BTreeMap::new(),
                watchers: Vec::new(),
                struck: Struck::default(),
            }),
            arrived: Condvar::new(),
            late: adversity.late,
            keeps_units_whole: !adversity.torn,
        });
        let tap = Arc::new(Tap(Arc::clone(&shared)));
        inner.watch(Arc::clone(&tap) as Arc<dyn WatermarkSink>);
        let log = Self { inner, shared, tap };
        for stream in log.inner.streams() {
            log.learn(&stream);
        }
        Arc::new(log)
    }

    /// Wraps `inner` and pumps from a thread until the log is dropped: for code that cannot pump.
    #[must_use]
    pub fn start(inner: Arc<dyn Log>, adversity: Adversity, seed: u64) -> Arc<Self> {
        let log = Self::new(inner, adversity, seed);
        let (shared, weak) = (Arc::clone(&log.shared), Arc::downgrade(&log));
        std::thread::Builder::new()
            .name("adverse-log".into())
            .spawn(move || pump_until_dropped(&shared, &weak))
            .expect("a test can start a thread");
        log
    }

    /// Lets some of what waits arrive, at least one thing of each kind, unless appends may overtake each other
    /// ([`Adversity::torn`]). Returns whether more waits.
    pub fn pump(&self) -> bool {
        self.shared.pump()
    }

    /// Waits until a log below that commits on a thread of its own has ended what it was given, and told of it: then
    /// [`Self::pump`] has all of that, and what comes next does not hang on who was faster.
    ///
    /// # Panics
    /// If it has not ended after half a minute.
    pub fn settle(&self) {
        const PATIENCE: Duration = Duration::from_secs(30);
        let is_under_way = |state: &mut State| {
            let mut told = state.visible.clone();
            for (partition, watermark) in &state.advances {
                let newest = told.entry(*partition).or_default();
                *newest = (*newest).max(*watermark);
            }
            !state.pending.is_empty() || told.iter().any(|(partition, told)| *told < self.inner.watermark(*partition))
        };
        let waited = self.shared.arrived.wait_timeout_while(self.shared.state(), PATIENCE, is_under_way);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        assert!(!timeout.timed_out(), "the log below has not ended what it was given");
    }

    /// What has been done to the users of this log so far.
    #[must_use]
    pub fn struck(&self) -> Struck {
        self.shared.state().struck
    }

    /// Strikes with another frequency from now on; when things arrive stays as it is.
    pub fn set_adversity(&self, adversity: Adversity) {
        self.shared.state().adversity = adversity;
    }

    /// Takes the ownership of a partition away until [`Self::release`].
    pub fn fence(&self, partition: Partition) {
        self.shared.state().fenced.insert(partition, u32::MAX);
    }

    /// Gives the ownership of a partition back.
    pub fn release(&self, partition: Partition) {
        self.shared.state().fenced.remove(&partition);
    }

    /// Takes nothing any more, as after a failed write or sync.
    pub fn poison(&self, cause: &str) {
        self.shared.state().poisoned = Some(cause.into());
    }

    fn take(&self, mut append: Append, reply: Option<Reply>, order: Option<InOrder>) {
        let mut state = self.shared.state();
        let adversity = state.adversity;
        let submitter = order.map(|order| order.submitter);
        let (mut hidden, mut is_unknown) = (Vec::new(), false);
        if !append.batches.is_empty() {
            let refusal = state.refusal(&append, order);
            is_unknown = refusal.is_none() && state.strikes(adversity.unknown);
            let is_lost = is_unknown && state.fate.random();
            state.struck.unknown_lost += u64::from(is_lost);
            if refusal.is_some() || is_lost {
                if refusal.is_some() {
                    state.note_refusal(submitter, false);
                }
                if let Some(reply) = reply {
                    let outcome = refusal.map_or(Outcome::Unknown, Outcome::Refused);
                    state.completions.push_back(Ended { reply, outcome, partitions: BTreeSet::new() });
                    self.shared.arrived.notify_all();
                }
                return;
            }
            state.struck.unknown_written += u64::from(is_unknown);
            if is_unknown && !self.shared.keeps_units_whole && !self.is_of_an_owner(&append) {
                state.keep_a_part(&mut append);
            }
            state.tear(&mut append, adversity.gaps);
            let copies = state.copies(&append, adversity.duplicates);
            hidden = state.punch(&mut append, adversity.holes);
            hidden.extend(append.batches.len()..append.batches.len() + copies.len());
            append.batches.extend(copies);
        }
        let reply = reply.map(|reply| {
            let tag = state.next_tag;
            state.next_tag += 1;
            let partitions = append.batches.iter().filter(|_| !self.shared.keeps_units_whole);
            let partitions = partitions.map(|(partition, _)| *partition).collect();
            state.pending.insert(tag, Pending { reply, submitter, hidden, unknown: is_unknown, partitions });
            Reply { sink: Arc::clone(&self.tap) as Arc<dyn CompletionSink>, tag }
        });
        let order = order.map(|order| state.order_below(order));
        drop(state);
        match (reply, order) {
            (Some(reply), Some(order)) => self.inner.submit_in_order(append, reply, order),
            (reply, _) => self.inner.submit(append, reply),
        }
    }

    /// Whether positions of a fold are among it.
    fn is_of_an_owner(&self, append: &Append) -> bool {
        let is_position =
            |partition| self.inner.partition_id(partition).is_some_and(|id| id.stream.stream.as_str() == "_folds");
        append.batches.iter().any(|(partition, _)| is_position(*partition))
    }

    fn learn(&self, stream: &Stream) {
        for index in 0..stream.partitions {
            let partition = stream.partition(index);
            // Asked first: what is committed in between is told by the tap.
            let watermark = self.inner.watermark(partition);
            self.shared.state().visible.entry(partition).or_insert(watermark);
        }
    }

    fn visible(&self, partition: Partition) -> Position {
        let known = self.shared.state().visible.get(&partition).copied();
        known.unwrap_or_else(|| self.inner.watermark(partition))
    }

    /// Hides markers and what is not to be seen yet.
    fn censor(read: Read, from: Position, visible: Position) -> Read {
        let next = read.next.min(visible).max(from);
        let batches = read.batches.into_iter().filter(|b| b.base < visible && !is_marker(&b.batch)).collect();
        let mut damaged = read.damaged;
        damaged.retain(|range| range.end <= next);
        Read { batches, next, damaged }
    }
}

fn pump_until_dropped(shared: &Shared, log: &Weak<AdverseLog>) {
    const TICK: Duration = Duration::from_millis(1);
    while log.strong_count() > 0 {
        let state = shared.state();
        let idle = state.completions.is_empty() && state.advances.is_empty();
        // The wait is the delay that this log is for; what arrives meanwhile ends it early only
        // when nothing waited before.
        let wait = if idle { 50 * TICK } else { TICK };
        drop(shared.arrived.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner));
        shared.pump();
    }
}

impl Shared {
    fn pump(&self) -> bool {
        let (replies, advances, watchers, more) = {
            let mut state = self.state();
            let late = self.late;
            let state = &mut *state;
            let mut some = |waiting: usize| {
                if late && waiting > 1 { state.delay.random_range(1..=waiting) } else { waiting }
            };
            let (completions, advances) = (some(state.completions.len()), some(state.advances.len()));
            let mut replies: Vec<_> = state.completions.drain(..completions).collect();
            if late && !self.keeps_units_whole {
                replies = state.overtaking(replies);
            }
            let mut newest: BTreeMap<Partition, Position> = BTreeMap::new();
            for (partition, watermark) in state.advances.drain(..advances) {
                if let Some(earlier) = newest.insert(partition, watermark) {
                    state.struck.watermarks_skipped += 1;
                    // Of two threads that append, the one with the later record may be the first to tell.
                    newest.insert(partition, watermark.max(earlier));
                }
            }
            newest.retain(|partition, watermark| {
                let visible = state.visible.entry(*partition).or_default();
                let grows = *watermark > *visible;
                *visible = (*visible).max(*watermark);
                grows
            });
            let more = !state.completions.is_empty() || !state.advances.is_empty();
            (replies, newest.into_iter().collect::<Vec<_>>(), state.watchers.clone(), more)
        };
        // One call per run of completions of one sink, without a lock: sinks may do as they like.
        let mut replies = replies.into_iter().peekable();
        while let Some(Ended { reply: Reply { sink, tag }, outcome, .. }) = replies.next() {
            let mut group = vec![Completion { tag, outcome }];
            while let Some(Ended { reply, outcome, .. }) = replies.next_if(|next| Arc::ptr_eq(&next.reply.sink, &sink))
            {
                group.push(Completion { tag: reply.tag, outcome });
            }
            sink.complete(group);
        }
        if !advances.is_empty() {
            watchers.iter().for_each(|watcher| watcher.advanced(&advances));
        }
        more
    }
}

impl State {
    fn strikes(&mut self, per_thousand: u32) -> bool {
        per_thousand > 0 && self.fate.random_range(0..1000) < per_thousand
    }

    fn note_refusal(&mut self, submitter: Option<u32>, by_the_log_below: bool) {
        if let Some(submitter) = submitter {
            self.refusals.entry(submitter).or_default().push(by_the_log_below);
        }
    }

    /// Why the append is refused, if it is.
    fn refusal(&mut self, append: &Append, order: Option<InOrder>) -> Option<Refusal> {
        if let Some(cause) = &self.poisoned {
            return Some(Refusal::Poisoned { cause: Arc::clone(cause) });
        }
        let is_behind_one = order.is_some_and(|InOrder { submitter, refusals_seen }| {
            self.refusals.get(&submitter).is_some_and(|refusals| refusals_seen < refusals.len() as u64)
        });
        if is_behind_one {
            self.struck.after_refused += 1;
            return Some(Refusal::AfterRefused);
        }
        if self.is_fenced(append, self.adversity.fenced) {
            return Some(Refusal::Fenced);
        }
        if !self.strikes(self.adversity.refused) {
            return None;
        }
        self.struck.refused += 1;
        Some(if self.fate.random() {
            Refusal::Overloaded { capacity_bytes: 0 }
        } else {
            Refusal::DiskFull { free_bytes: 0, reserve_bytes: 1 }
        })
    }

    /// The same order in the words of the log below, which knows its own refusals only.
    fn order_below(&self, order: InOrder) -> InOrder {
        let refusals = self.refusals.get(&order.submitter).map_or(&[][..], Vec::as_slice);
        let seen = usize::try_from(order.refusals_seen).unwrap_or(usize::MAX).min(refusals.len());
        let refusals_seen = refusals[..seen].iter().filter(|by_the_log_below| **by_the_log_below).count() as u64;
        InOrder { refusals_seen, ..order }
    }

    /// Tears a gap into one batch, by chance.
    fn tear(&mut self, append: &mut Append, gaps: u32) {
        if !self.strikes(gaps) {
            return;
        }
        let idx = self.fate.random_range(0..append.batches.len());
        let batch = &mut append.batches[idx].1;
        let (at, width) = (self.fate.random_range(1..=batch.record_count()), self.fate.random_range(1..=3));
        if let Some(torn) = gap::with_gap(batch, at, width) {
            *batch = torn;
            self.struck.gaps += 1;
        }
    }

    /// Leaves out some of the batches, by chance: one at least is written.
    fn keep_a_part(&mut self, append: &mut Append) {
        let count = append.batches.len();
        let (written, mut at) = (self.fate.random_range(0..count), 0..);
        append.batches.retain(|_| at.next() == Some(written) || self.fate.random());
        self.struck.unknown_torn += u64::from(append.batches.len() < count);
    }

    /// Leaves some of those for another time, by chance: before they end, others do that do not touch all of their partitions.
    fn overtaking(&mut self, ended: Vec<Ended>) -> Vec<Ended> {
        let (mut told, mut left) = (Vec::new(), VecDeque::<Ended>::new());
        for one in ended {
            let is_slow = one.partitions.len() > 1 && self.delay.random_ratio(3, 4);
            if is_slow || left.iter().any(|left| left.partitions.is_subset(&one.partitions)) {
                left.push_back(one);
            } else {
                self.struck.overtaken += u64::from(!left.is_empty());
                told.push(one);
            }
        }
        left.into_iter().rev().for_each(|one| self.completions.push_front(one));
        told
    }

    /// Whether one of the partitions is not owned (any more).
    fn is_fenced(&mut self, append: &Append, fenced: u32) -> bool {
        if self.strikes(fenced) {
            let victim = append.batches[self.fate.random_range(0..append.batches.len())].0;
            let appends = self.fate.random_range(1..=4);
            self.fenced.entry(victim).or_insert(appends);
        }
        let mut hit = false;
        for (partition, _) in &append.batches {
            if let Some(left) = self.fenced.get_mut(partition) {
                hit = true;
                if *left != u32::MAX {
                    *left -= 1;
                }
                if *left == 0 {
                    self.fenced.remove(partition);
                }
            }
        }
        self.struck.fenced += u64::from(hit);
        hit
    }

    /// The batches once more, by chance. They go with the first ones, so that neither is there without the other.
    fn copies(&mut self, append: &Append, duplicates: u32) -> Vec<(Partition, Batch)> {
        /// Far below what one append may have.
        const MAX_BYTES: usize = 1 << 20;
        let bytes: usize = append.batches.iter().map(|(_, batch)| batch.as_bytes().len()).sum();
        if !self.strikes(duplicates) || bytes > MAX_BYTES {
            return Vec::new();
        }
        self.struck.duplicates += 1;
        append.batches.clone()
    }

    /// Puts a marker among the batches, by chance, and says where.
    fn punch(&mut self, append: &mut Append, holes: u32) -> Vec<usize> {
        if !self.strikes(holes) {
            return Vec::new();
        }
        self.struck.holes += 1;
        let partition = append.batches[self.fate.random_range(0..append.batches.len())].0;
        let at = self.fate.random_range(0..=append.batches.len());
        append.batches.insert(at, (partition, marker()));
        vec![at]
    }
}

impl Log for AdverseLog {
    fn open_stream(&self, id: &StreamId, partitions: u32) -> Result<Stream, Refusal> {
        let stream = self.inner.open_stream(id, partitions)?;
        self.learn(&stream);
        Ok(stream)
    }

    fn streams(&self) -> Vec<Stream> {
        self.inner.streams()
    }

    fn partition_id(&self, partition: Partition) -> Option<PartitionId> {
        self.inner.partition_id(partition)
    }

    fn submit(&self, append: Append, reply: Option<Reply>) {
        self.take(append, reply, None);
    }

    fn submit_in_order(&self, append: Append, reply: Reply, order: InOrder) {
        self.take(append, Some(reply), Some(order));
    }

    fn keeps_units_whole(&self) -> bool {
        self.shared.keeps_units_whole
    }

    fn queued_bytes(&self) -> u64 {
        self.inner.queued_bytes()
    }

    fn queue_capacity_bytes(&self) -> u64 {
        self.inner.queue_capacity_bytes()
    }

    fn start(&self, partition: Partition) -> Position {
        self.inner.start(partition)
    }

    fn watermark(&self, partition: Partition) -> Position {
        self.visible(partition)
    }

    fn watch(&self, sink: Arc<dyn WatermarkSink>) {
        self.shared.state().watchers.push(sink);
    }

    fn watch_retention(&self, sink: Arc<dyn RetentionSink>) {
        self.inner.watch_retention(sink);
    }

    fn read(&self, partition: Partition, from: Position, max_bytes: usize) -> Result<Read, ReadError> {
        let visible = self.visible(partition);
        let mut at = from;
        loop {
            let read = Self::censor(self.inner.read(partition, at, max_bytes)?, at, visible);
            // Behind markers there may be more: a read gives at least one batch if there is one.
            if !read.batches.is_empty() || read.next >= visible || read.next <= at {
                return Ok(read);
            }
            at = read.next;
        }
    }

    fn read_cached(&self, partition: Partition, from: Position, max_bytes: usize) -> Option<Read> {
        // A cache may always have been too small.
        if self.shared.state().delay.random_ratio(1, 4) {
            return None;
        }
        let visible = self.visible(partition);
        let mut at = from;
        loop {
            let read = Self::censor(self.inner.read_cached(partition, at, max_bytes)?, at, visible);
            if !read.batches.is_empty() || read.next >= visible || read.next <= at {
                return Some(read);
            }
            at = read.next;
        }
    }

    fn fetch(&self, partition: Partition, refs: &[RecordRef]) -> Result<Vec<FetchedRecord>, ReadError> {
        self.inner.fetch(partition, refs)
    }

    fn position_at(&self, partition: Partition, time_ms: i64) -> Result<Position, ReadError> {
        self.inner.position_at(partition, time_ms)
    }

    fn trim(&self, partition: Partition, before: Position) {
        self.inner.trim(partition, before);
    }
}
