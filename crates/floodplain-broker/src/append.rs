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
    /// Outbound QoS 2 that may go on: the `Progress` that names its ids.
    Outbound { conn: ConnId, seq: u32 },
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
    submitted: HashMap<u64, Submitted>,
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
}

impl Appends {
    pub(crate) fn new(worker: u32) -> Self {
        Self {
            open: Default::default(),
            submitted: HashMap::new(),
            held: VecDeque::new(),
            orphans: Vec::new(),
            next_tag: UNIT_TAGS,
            next_seq: 0,
            order: InOrder { submitter: worker, refusals_seen: 0 },
            retry_at: Timestamp(0),
            is_dead: false,
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
        let open = &mut self.open[slot(class)];
        let mut idx = match open.parts[..open.used].iter().rposition(|part| part.partition == partition) {
            Some(idx) => idx,
            None => open.part(partition),
        };
        let mut before = open.parts[idx].builder.len_bytes();
        let mut written = write(&mut open.parts[idx].builder);
        if let Err(BatchError::Full) = written {
            idx = open.part(partition);
            before = 0;
            written = write(&mut open.parts[idx].builder);
        }
        // A batch that was begun for it is the last one.
        open.used -= usize::from(open.parts[idx].builder.is_empty());
        let delta = written?;
        let part = &mut open.parts[idx];
        open.bytes += part.builder.len_bytes() - before;
        if let Some(publication) = publication {
            part.publications.push_back((delta, publication));
        }
        Ok(Place { batch: idx as u32, delta })
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
        self.open.iter().any(|open| open.bytes >= UNIT_BYTES)
    }

    /// The number that no unit has yet: [`Self::oldest`] reaches it once all that was made by now has ended.
    pub(crate) fn mark(&self) -> u64 {
        self.next_seq
    }

    /// Whether all units with smaller tags have ended.
    pub(crate) fn is_idle(&self) -> bool {
        self.submitted.is_empty() && self.held.is_empty() && self.open.iter().all(|open| open.used == 0)
    }

    /// Whether something has gathered that was not submitted.
    pub(crate) fn is_open(&self) -> bool {
        self.open.iter().any(|open| open.used > 0)
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
        let units = self.submitted.values().chain(self.held.front());
        units.map(|unit| unit.seq).min().unwrap_or(self.next_seq)
    }

    /// Submits what this turn has collected, after what was held before.
    pub(crate) fn submit(&mut self, log: &dyn Log, reply: &Arc<dyn floodplain_log::CompletionSink>, now: Timestamp) {
        // Events of sessions are class `all`, but for `Received`, which goes with its message: so a
        // lower class of the same turn must lie before them.
        for class in CLASSES {
            if let Some(unit) = self.close(class, now) {
                self.held.push_back(unit);
            }
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

    fn close(&mut self, class: Class, now: Timestamp) -> Option<Submitted> {
        let open = &mut self.open[slot(class)];
        if open.used == 0 && open.waiters.is_empty() {
            return None;
        }
        let mut batches = Vec::with_capacity(open.used);
        let mut publications = Vec::with_capacity(open.used);
        for part in &mut open.parts[..open.used] {
            if let Some(batch) = part.builder.finish(Compression::None) {
                batches.push((part.partition, batch));
                publications.push(std::mem::take(&mut part.publications));
            }
        }
        let unit = Submitted {
            seq: self.next_seq,
            class,
            batches,
            publications,
            waiters: std::mem::take(&mut open.waiters),
            unanswered: open.unanswered,
            since: now,
        };
        self.next_seq += 1;
        (open.used, open.bytes, open.unanswered) = (0, 0, 0);
        Some(unit)
    }

    /// Takes the end of a unit.
    pub(crate) fn ended(&mut self, tag: u64, outcome: Outcome, now: Timestamp, metrics: &Metrics) -> End {
        let Some(unit) = self.submitted.remove(&tag) else { return End::Quiet };
        if matches!(outcome, Outcome::Refused(_)) {
            self.order.refusals_seen += 1;
        }
        match outcome {
            Outcome::Committed(bases) => {
                let place = |waiter: &Waiter| match waiter {
                    Waiter::Open { batch, .. } => bases.get(*batch as usize).copied().unwrap_or_default(),
                    _ => Position::ZERO,
                };
                let waiters = unit.waiters.into_iter().map(|waiter| (place(&waiter), waiter));
                let waiters = waiters.map(|(position, waiter)| (waiter, position)).collect();
                let sent = unit.batches.iter().zip(unit.publications).zip(&bases);
                let sent = sent.map(|(((partition, batch), publications), base)| {
                    let bytes = batch.as_bytes().len() + publications.len() * size_of::<Publication>();
                    (*partition, Sent { base: *base, publications: Some(publications), batches: 1, bytes })
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
                let later = self.held.iter().position(|held| held.seq > unit.seq).unwrap_or(self.held.len());
                self.held.insert(later, unit);
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

    /// Whether the log has made us hold anything: then no publisher is read.
    pub(crate) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes the waiters who have waited for longer than `patience`. Their units stay, and are
    /// appended when there is room: what nobody waits for any more may be stored, not lost.
    pub(crate) fn impatient(&mut self, now: Timestamp, patience: Duration) -> Impatient {
        let late = |since: Timestamp| now.since(since) > patience;
        let mut impatient = Impatient::default();
        for unit in self.held.iter_mut().chain(self.submitted.values_mut()).filter(|unit| late(unit.since)) {
            unit.waiters.retain_mut(|waiter| {
                let was_told = match waiter {
                    Waiter::Open { is_told, .. } => std::mem::replace(is_told, true),
                    _ => false,
                };
                impatient.early.extend((!was_told).then_some(*waiter));
                matches!(waiter, Waiter::Open { .. })
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
