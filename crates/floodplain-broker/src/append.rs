//! What one turn of a worker appends: one unit per class, and what waits for its end.

use crate::{ConnId, metrics::Metrics, publication::Publication};
use floodplain_log::{
    Append, BATCH_BYTES, Batch, BatchBuilder, BatchError, Compression, InOrder, Log, Outcome, Partition, Refusal, Reply,
};
use floodplain_types::{Class, Position, Timestamp};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Units held for a log that takes nothing, before no new session is let in.
const HELD_MAX: usize = 1024;
/// How long to wait before a refused unit is tried again.
const RETRY: Duration = Duration::from_millis(50);
/// A unit is closed when it holds this much, far below what engines accept.
const UNIT_BYTES: usize = 512 << 10;

/// What waits for the end of a unit.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Waiter {
    /// An acknowledgement in the connection's queue.
    Ack { conn: ConnId, seq: u32 },
    /// A CONNACK: the session's `Open`, at this place of the unit. Whoever has waited for too long is told so, and the log
    /// has to hear of the end all the same once it has the beginning.
    Open { conn: ConnId, partition: Partition, batch: u32, delta: u32, is_told: bool },
    /// A `Progress` of a session. Outbound QoS 2 goes on with the one that names its ids; no client waits for another one.
    Progress { conn: ConnId, seq: u32, is_awaited: bool },
}

/// Who has waited for too long.
#[derive(Debug, Default)]
pub(crate) struct Impatient {
    /// What they wait for may come yet.
    pub(crate) early: Vec<Waiter>,
    /// It does not.
    pub(crate) lost: Vec<Waiter>,
}

/// Publications of one batch, which their owner delivers once the batch is folded.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) base: Position,
    /// [`floodplain_log::Batch::checksum`].
    pub(crate) checksum: u32,
    /// `None` where they were too many to keep: then it stands for `batches` batches, and this is the last one.
    pub(crate) publications: Option<VecDeque<(u32, Arc<Publication>)>>,
    pub(crate) batches: u64,
    /// What they hold in memory, about.
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct Part {
    partition: Partition,
    builder: BatchBuilder,
    publications: VecDeque<(u32, Arc<Publication>)>,
}

#[derive(Debug, Default)]
struct Open {
    /// Parts are kept from turn to turn with their buffers; those in use come first.
    parts: Vec<Part>,
    used: usize,
    bytes: usize,
    unanswered: u64,
    waiters: Vec<Waiter>,
}

/// A unit that was given to the log.
#[derive(Debug)]
struct Submitted {
    /// Grows in the order of their making; a unit that is tried again keeps it.
    seq: u64,
    class: Class,
    batches: Vec<(Partition, Batch)>,
    publications: Vec<VecDeque<(u32, Arc<Publication>)>>,
    waiters: Vec<Waiter>,
    /// Messages of QoS 0.
    unanswered: u64,
    since: Timestamp,
    /// The unit that must be committed before this one is submitted, by its `seq`.
    after: Option<u64>,
}

/// How a unit ended, as far as the worker must know.
#[derive(Debug)]
pub(crate) enum End {
    /// Tell the waiters; live delivery comes with the fold.
    Committed { waiters: Vec<(Waiter, Position)>, sent: Vec<(Partition, Sent)> },
    /// It never fits: the waiters' connections must end.
    TooLarge { waiters: Vec<Waiter> },
    /// Nothing to do now.
    Quiet,
}

/// Where a record went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) batch: u32,
    pub(crate) delta: u32,
}

/// The appends of one worker.
#[derive(Debug)]
pub(crate) struct Appends {
    open: [Open; 3],
    /// What follows the unit of class `all`, see [`Self::push_after`].
    follows: Open,
    submitted: HashMap<u64, Submitted>,
    /// Units that follow one that is not committed yet, in order.
    following: VecDeque<Submitted>,
    /// Units that the log refused for now, and those made since: order is kept.
    held: VecDeque<Submitted>,
    /// Their acknowledgements are held although nothing is tried any more: the outcome is open, or
    /// the log takes nothing until restart.
    orphans: Vec<(Timestamp, Vec<Waiter>)>,
    next_tag: u64,
    next_seq: u64,
    /// The worker, as the log knows it, and what it has heard: the log keeps our order.
    order: InOrder,
    retry_at: Timestamp,
    /// The log has said that it takes nothing more.
    is_dead: bool,
    /// Others append, too, and the log does not say where records of class `none` are.
    is_shared: bool,
}

/// Tags of units below this belong to others (the runners of folds).
pub(crate) const UNIT_TAGS: u64 = 1 << 32;

fn slot(class: Class) -> usize {
    match class {
        Class::None => 0,
        Class::Leader => 1,
        Class::All => 2,
    }
}

const CLASSES: [Class; 3] = [Class::None, Class::Leader, Class::All];

impl Open {
    /// A further batch for `partition`.
    fn part(&mut self, partition: Partition) -> usize {
        if self.used == self.parts.len() {
            let builder = BatchBuilder::limited(BATCH_BYTES);
            self.parts.push(Part { partition, builder, publications: VecDeque::new() });
        }
        self.parts[self.used].partition = partition;
        self.used += 1;
        self.used - 1
    }

    /// What has gathered, as the unit with this number, if there is anything.
    fn close(&mut self, class: Class, seq: u64, now: Timestamp) -> Option<Submitted> {
        if self.used == 0 && self.waiters.is_empty() {
            return None;
        }
        let mut batches = Vec::with_capacity(self.used);
        let mut publications = Vec::with_capacity(self.used);
        for part in &mut self.parts[..self.used] {
            if let Some(batch) = part.builder.finish(Compression::None) {
                batches.push((part.partition, batch));
                publications.push(std::mem::take(&mut part.publications));
            }
        }
        let waiters = std::mem::take(&mut self.waiters);
        let unanswered = self.unanswered;
        (self.used, self.bytes, self.unanswered) = (0, 0, 0);
        Some(Submitted { seq, class, batches, publications, waiters, unanswered, since: now, after: None })
    }

    /// Adds a record.
    fn push(
        &mut self,
        partition: Partition,
        write: impl Fn(&mut BatchBuilder) -> Result<u32, BatchError>,
        publication: Option<Arc<Publication>>,
    ) -> Result<Place, BatchError> {
        let mut idx = match self.parts[..self.used].iter().rposition(|part| part.partition == partition) {
            Some(idx) => idx,
            None => self.part(partition),
        };
        let mut before = self.parts[idx].builder.len_bytes();
        let mut written = write(&mut self.parts[idx].builder);
        if let Err(BatchError::Full) = written {
            idx = self.part(partition);
            before = 0;
            written = write(&mut self.parts[idx].builder);
        }
        // A batch that was begun for it is the last one.
        self.used -= usize::from(self.parts[idx].builder.is_empty());
        let delta = written?;
        let part = &mut self.parts[idx];
        self.bytes += part.builder.len_bytes() - before;
        if let Some(publication) = publication {
            part.publications.push_back((delta, publication));
        }
        Ok(Place { batch: idx as u32, delta })
    }
}

impl Appends {
    pub(crate) fn new(worker: u32, is_shared: bool) -> Self {
        Self {
            open: Default::default(),
            follows: Open::default(),
            submitted: HashMap::new(),
            following: VecDeque::new(),
            held: VecDeque::new(),
            orphans: Vec::new(),
            next_tag: UNIT_TAGS,
            next_seq: 0,
            order: InOrder { submitter: worker, refusals_seen: 0 },
            retry_at: Timestamp(0),
            is_dead: false,
            is_shared,
        }
    }

    /// Adds a record to this turn's unit of `class`.
    ///
    /// # Errors
    /// A record that is too large for a batch; nothing was added.
    pub(crate) fn push(
        &mut self,
        class: Class,
        partition: Partition,
        write: impl Fn(&mut BatchBuilder) -> Result<u32, BatchError>,
        publication: Option<Arc<Publication>>,
    ) -> Result<Place, BatchError> {
        self.open[slot(class)].push(partition, write, publication)
    }

    /// Adds a record to the unit of class `all` that is submitted once this turn's unit of class `all` is committed, for a
    /// log that does not keep units whole.
    ///
    /// # Errors
    /// A record that is too large for a batch; nothing was added.
    pub(crate) fn push_after(
        &mut self,
        partition: Partition,
        write: impl Fn(&mut BatchBuilder) -> Result<u32, BatchError>,
        publication: Option<Arc<Publication>>,
    ) -> Result<Place, BatchError> {
        self.follows.push(partition, write, publication)
    }

    /// Lets `waiter` wait for the unit of [`Self::push_after`].
    pub(crate) fn wait_after(&mut self, waiter: Waiter) {
        self.follows.waiters.push(waiter);
    }

    /// Lets `waiter` wait for this turn's unit of `class`.
    pub(crate) fn wait(&mut self, class: Class, waiter: Waiter) {
        self.open[slot(class)].waiters.push(waiter);
    }

    /// Counts a message of this turn's unit of class `none` that nobody waits for.
    pub(crate) fn unanswered(&mut self) {
        self.open[slot(Class::None)].unanswered += 1;
    }

    /// Whether the unit of some class is so large that it should go now.
    pub(crate) fn is_full(&self) -> bool {
        self.opens().any(|open| open.bytes >= UNIT_BYTES)
    }

    /// The number that no unit has yet: [`Self::oldest`] reaches it once all that was made by now has ended.
    pub(crate) fn mark(&self) -> u64 {
        self.next_seq
    }

    /// Whether all units with smaller tags have ended.
    pub(crate) fn is_idle(&self) -> bool {
        let nothing_waits = self.submitted.is_empty() && self.held.is_empty() && self.following.is_empty();
        nothing_waits && !self.is_open()
    }

    /// Whether something has gathered that was not submitted.
    pub(crate) fn is_open(&self) -> bool {
        self.opens().any(|open| open.used > 0)
    }

    fn opens(&self) -> impl Iterator<Item = &Open> {
        self.open.iter().chain([&self.follows])
    }

    /// Whether the log takes nothing more until restart.
    pub(crate) const fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// Whether so much is held that new sessions must wait outside.
    pub(crate) fn is_crowded(&self) -> bool {
        self.held.len() >= HELD_MAX
    }

    /// The oldest unit that has not ended.
    pub(crate) fn oldest(&self) -> u64 {
        let units = self.submitted.values().chain(self.held.front()).chain(self.following.front());
        units.map(|unit| unit.seq).min().unwrap_or(self.next_seq)
    }

    /// Submits what this turn has collected, after what was held before.
    pub(crate) fn submit(&mut self, log: &dyn Log, reply: &Arc<dyn floodplain_log::CompletionSink>, now: Timestamp) {
        // Events of sessions are class `all`, but for a `Received` that goes with its message: so a
        // lower class of the same turn must lie before them.
        for class in CLASSES {
            let seq = self.next_seq;
            if let Some(unit) = self.open[slot(class)].close(class, seq, now) {
                self.held.push_back(unit);
                self.next_seq += 1;
            }
        }
        // What it follows is in the unit of class `all`, which was closed last.
        if let Some(mut unit) = self.follows.close(Class::All, self.next_seq, now) {
            unit.after = self.next_seq.checked_sub(1);
            self.next_seq += 1;
            self.following.push_back(unit);
        }
        if now < self.retry_at {
            return;
        }
        let capacity = log.queue_capacity_bytes();
        while let Some(unit) = self.held.pop_front() {
            // A refusal costs a round, and refuses what comes behind it, too: do not provoke one.
            if log.queued_bytes() > capacity - capacity / 4 {
                self.held.push_front(unit);
                break;
            }
            let append = Append { batches: unit.batches.clone(), class: unit.class };
            let tag = self.next_tag;
            self.next_tag += 1;
            self.submitted.insert(tag, unit);
            log.submit_in_order(append, Reply { sink: reply.clone(), tag }, self.order);
        }
    }

    /// Takes the end of a unit.
    pub(crate) fn ended(&mut self, tag: u64, outcome: Outcome, now: Timestamp, metrics: &Metrics) -> End {
        let Some(unit) = self.submitted.remove(&tag) else { return End::Quiet };
        if matches!(outcome, Outcome::Refused(_)) {
            self.order.refusals_seen += 1;
        }
        self.follow(unit.seq, &outcome);
        match outcome {
            Outcome::Committed(bases) => {
                let place = |waiter: &Waiter| match waiter {
                    Waiter::Open { batch, .. } => bases.get(*batch as usize).copied().unwrap_or_default(),
                    _ => Position::ZERO,
                };
                let waiters = unit.waiters.into_iter().map(|waiter| (place(&waiter), waiter));
                let waiters = waiters.map(|(position, waiter)| (waiter, position)).collect();
                // What has no place of its own cannot be known when it is read.
                let is_placed = unit.class != Class::None || !self.is_shared;
                let sent = unit.batches.iter().zip(unit.publications).zip(&bases).filter(|_| is_placed);
                let sent = sent.map(|(((partition, batch), publications), base)| {
                    let bytes = batch.as_bytes().len() + publications.len() * size_of::<Publication>();
                    let checksum = batch.checksum();
                    (*partition, Sent { base: *base, checksum, publications: Some(publications), batches: 1, bytes })
                });
                let sent = sent.collect();
                End::Committed { waiters, sent }
            }
            Outcome::Refused(
                Refusal::Overloaded { .. }
                | Refusal::Behind { .. }
                | Refusal::AfterRefused
                | Refusal::DiskFull { .. }
                | Refusal::Unavailable { .. },
            ) => {
                metrics.appends_refused.increment(1);
                // Held: the clients hear nothing until there is room again. QoS 0 does not wait.
                self.retry_at = now + RETRY;
                if unit.class == Class::None && unit.waiters.is_empty() {
                    metrics.dropped_log_refused.increment(unit.unanswered);
                    return End::Quiet;
                }
                self.hold(unit);
                End::Quiet
            }
            Outcome::Refused(Refusal::TooLarge { .. }) => {
                metrics.appends_refused.increment(1);
                metrics.dropped_log_refused.increment(unit.unanswered);
                End::TooLarge { waiters: unit.waiters }
            }
            Outcome::Refused(
                refusal
                @ (Refusal::Poisoned { .. } | Refusal::UnknownPartition(_) | Refusal::Fenced | Refusal::Closing),
            ) => {
                if !self.is_dead && matches!(refusal, Refusal::Poisoned { .. } | Refusal::Closing) {
                    tracing::error!(%refusal, "nothing is acknowledged any more");
                    self.is_dead = true;
                }
                metrics.appends_refused.increment(1);
                metrics.dropped_log_refused.increment(unit.unanswered);
                self.orphans.push((unit.since, unit.waiters));
                End::Quiet
            }
            Outcome::Unknown => {
                metrics.appends_unknown.increment(1);
                metrics.dropped_log_unknown.increment(unit.unanswered);
                self.orphans.push((unit.since, unit.waiters));
                End::Quiet
            }
        }
    }

    /// Keeps a unit until the next [`Self::submit`], in its place.
    fn hold(&mut self, unit: Submitted) {
        let later = self.held.iter().position(|held| held.seq > unit.seq).unwrap_or(self.held.len());
        self.held.insert(later, unit);
    }

    /// The unit with the number `seq` has ended: lets go what follows it.
    fn follow(&mut self, seq: u64, outcome: &Outcome) {
        let Some(at) = self.following.iter().position(|unit| unit.after == Some(seq)) else { return };
        match outcome {
            Outcome::Committed(_) => self.following[at].after = None,
            // It is tried again.
            Outcome::Refused(
                Refusal::Overloaded { .. }
                | Refusal::Behind { .. }
                | Refusal::AfterRefused
                | Refusal::DiskFull { .. }
                | Refusal::Unavailable { .. },
            ) => {}
            Outcome::Refused(_) | Outcome::Unknown => {
                if let Some(unit) = self.following.remove(at) {
                    self.orphans.push((unit.since, unit.waiters));
                }
            }
        }
        // In order: a client's messages must not overtake each other.
        while let Some(unit) = self.following.pop_front_if(|unit| unit.after.is_none()) {
            self.hold(unit);
        }
    }

    /// Whether the log has made us hold anything: then no publisher is read.
    pub(crate) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes the waiters who have waited for longer than `patience`. Their units stay, and are
    /// appended when there is room: what nobody waits for any more may be stored, not lost.
    pub(crate) fn impatient(&mut self, now: Timestamp, patience: Duration) -> Impatient {
        let late = |since: Timestamp| now.since(since) > patience;
        let mut impatient = Impatient::default();
        let units = self.held.iter_mut().chain(self.submitted.values_mut()).chain(&mut self.following);
        for unit in units.filter(|unit| late(unit.since)) {
            unit.waiters.retain_mut(|waiter| {
                let (is_impatient, stays) = match waiter {
                    Waiter::Open { is_told, .. } => (!std::mem::replace(is_told, true), true),
                    Waiter::Progress { is_awaited, .. } => (*is_awaited, !*is_awaited),
                    Waiter::Ack { .. } => (true, false),
                };
                impatient.early.extend(is_impatient.then_some(*waiter));
                stays
            });
        }
        self.orphans.retain_mut(|(since, orphans)| {
            if late(*since) {
                impatient.lost.append(orphans);
            }
            !orphans.is_empty()
        });
        impatient
    }
}
