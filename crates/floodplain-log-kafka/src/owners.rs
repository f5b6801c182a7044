//! Ownership by a consumer group, and commits of owners as transactions.
//!
//! `docs/decisions/0012-owners-on-kafka.md` says why it is as it is.

mod group;
mod lease;
mod slots;
mod transaction;

use crate::{
    kafka::{Inner, KafkaLog, OpenError},
    time::{Deadline, now},
    topic,
    unit::lock,
};
use floodplain_log::{Append, Fence, Outcome, OwnerSink, Owners, Refusal, Reply};
use floodplain_types::Position;
use lease::Lease;
use rdkafka::ClientConfig;
use slots::{Job, OwnedUnit, Slots, Work, end, end_all};
use std::{
    fmt,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};
use transaction::{SlotProducer, Tried, producer_config};

/// How long to wait before another try where the next one would fail, too.
const PAUSE: Duration = Duration::from_millis(50);

/// How slots are shared, and what a transaction may take.
#[derive(Debug, Clone)]
pub struct OwnersConfig {
    /// Slots of a new installation; one that is there keeps its own number.
    pub slots: u32,
    /// After so long without a sign of an owner its slots go to others.
    pub session_timeout: Duration,
    /// After so long a broker ends a transaction that nobody ends. Each call of one may take as long.
    pub transaction_timeout: Duration,
    /// Transactions of one slot begin so far apart at least; what comes meanwhile shares the next one.
    pub spacing: Duration,
    /// Bytes of batches that share a transaction, at most; a unit that is larger has its own.
    pub transaction_bytes: u64,
    /// Threads that run transactions, each one at a time.
    pub threads: usize,
}

impl Default for OwnersConfig {
    /// For production.
    fn default() -> Self {
        Self {
            slots: 64,
            session_timeout: Duration::from_secs(10),
            transaction_timeout: Duration::from_secs(10),
            spacing: Duration::from_millis(20),
            transaction_bytes: 1 << 20,
            threads: 8,
        }
    }
}

/// Shares slots with the other nodes of the cluster. Dropping it ends as [`Self::close`] does.
#[derive(Debug)]
pub struct KafkaOwners {
    state: Arc<State>,
    lease: Mutex<Option<JoinHandle<()>>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

/// Shared by the threads of one node's ownership.
struct State {
    log: Arc<Inner>,
    config: OwnersConfig,
    client: ClientConfig,
    slots: Arc<Slots>,
    lease: Lease,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Settings of clients have passwords.
        f.debug_struct("State").field("config", &self.config).field("lease", &self.lease).finish_non_exhaustive()
    }
}

impl KafkaOwners {
    /// Joins the group of owners of this log's installation.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was started then.
    pub fn open(log: &KafkaLog, config: OwnersConfig) -> Result<Arc<Self>, OpenError> {
        let inner = Arc::clone(&log.inner);
        let name = format!("{}{}", inner.config.topic_prefix, topic::SLOTS);
        let settings = topic::slots_settings(&inner.config);
        let count = inner.admin.ensure_topic(&name, config.slots.max(1), inner.config.replication, &settings);
        let count = count.map_err(|source| OpenError::Cluster {
            what: "create the topic of slots",
            servers: inner.config.bootstrap_servers.join(","),
            source: source.into(),
        })?;
        if count != config.slots {
            tracing::info!(count, asked = config.slots, "the topic of slots has another number of them");
        }
        let slots = Arc::new(Slots::new(count, config.spacing, config.transaction_bytes));
        // One round of calls is what a transaction may need until it has ended.
        let patience = config.transaction_timeout * 3;
        let lease = Lease::open(&inner.config, config.session_timeout, patience, &slots, &inner.shared);
        let lease = lease.map_err(OpenError::Client)?;
        let client = producer_config(&inner.config, &config).map_err(OpenError::Client)?;
        let threads = config.threads.max(1);
        let state = Arc::new(State { log: inner, config, client, slots, lease });
        // From here on dropping it ends what was started.
        let owners = Arc::new(Self { state, lease: Mutex::default(), workers: Mutex::default() });
        for number in 0..threads {
            let state = Arc::clone(&owners.state);
            let worker = thread::Builder::new().name(format!("log-kafka-own-{number}")).spawn(move || state.work());
            lock(&owners.workers).push(worker.map_err(OpenError::Client)?);
        }
        let state = Arc::clone(&owners.state);
        let polls =
            thread::Builder::new().name("log-kafka-lease".to_owned()).spawn(move || state.lease.run(&state.slots));
        *lock(&owners.lease) = Some(polls.map_err(OpenError::Client)?);
        Ok(owners)
    }

    /// Gives up all slots, waits until what runs for them has ended, leaves the group, and ends all threads.
    pub fn close(&self) {
        let state = &self.state;
        state.slots.release();
        if let Some(thread) = lock(&self.lease).take() {
            // It has said why, if it has panicked.
            drop(thread.join());
        }
        // The group has taken them; only where it could not be followed is there something left.
        let all: Vec<u32> = (0..state.slots.count()).collect();
        state.slots.revoke(&all, state.config.transaction_timeout, |cost| state.log.shared.permits.give_back(cost));
        state.slots.close();
        for thread in lock(&self.workers).drain(..) {
            drop(thread.join());
        }
    }
}

impl Drop for KafkaOwners {
    fn drop(&mut self) {
        self.close();
    }
}

impl Owners for KafkaOwners {
    fn slots(&self) -> u32 {
        self.state.slots.count()
    }

    fn watch(&self, sink: Arc<dyn OwnerSink>) {
        self.state.slots.watch(sink);
    }

    fn commit(&self, fence: Fence, append: Append, reply: Reply) {
        let state = &self.state;
        if append.batches.is_empty() {
            // Nothing to write, so nothing to wait for.
            return end(reply, Outcome::Committed(Vec::new()));
        }
        let (streams, cost) = match state.log.admit(&append, None) {
            Ok(admitted) => admitted,
            Err(refusal) => return end(reply, Outcome::Refused(refusal)),
        };
        let bytes = append.batches.iter().map(|(_, batch)| batch.as_bytes().len() as u64).sum();
        let batches = append.batches.into_iter().zip(streams);
        let batches = batches.map(|((partition, batch), stream)| (partition, stream, batch)).collect();
        if let Err((unit, refusal)) = state.slots.push(fence, OwnedUnit { batches, bytes, cost, reply }) {
            if refusal == Refusal::Fenced {
                state.slots.metrics.fenced.increment(1);
            }
            state.log.shared.permits.give_back(unit.cost);
            end(unit.reply, Outcome::Refused(refusal));
        }
    }

    fn release(&self) {
        self.state.slots.release();
    }
}

impl State {
    /// Works for one slot after the other until all is over.
    fn work(&self) {
        while let Some(Job { slot, epoch, work, mut producer }) = self.slots.take() {
            let mut again = None;
            match work {
                Work::Start => {
                    // Of an earlier grant.
                    drop(producer.take());
                    again = self.start(slot, epoch, &mut producer);
                }
                Work::Commit(units) => self.commit(slot, epoch, &mut producer, units),
                Work::Tend => producer.iter().for_each(SlotProducer::serve),
                Work::Drop => drop(producer.take()),
            }
            self.slots.done(slot, epoch, producer, again);
        }
    }

    /// Gets a slot's producer ready; when to try it again, if that fails.
    fn start(&self, slot: u32, epoch: u64, producer: &mut Option<SlotProducer>) -> Option<Duration> {
        if !self.slots.holds(slot, epoch) {
            return None;
        }
        match self.open(slot) {
            Ok(opened) => {
                *producer = Some(opened);
                self.slots.ready(slot, epoch);
                None
            }
            Err(error) => {
                tracing::info!(slot, %error, "slot cannot be started yet");
                Some(PAUSE * 4)
            }
        }
    }

    fn open(&self, slot: u32) -> Result<SlotProducer, group::TxnError> {
        let prefix = &self.log.config.topic_prefix;
        SlotProducer::open(&self.client, prefix, slot, &self.lease, self.config.transaction_timeout)
    }

    fn commit(&self, slot: u32, epoch: u64, producer: &mut Option<SlotProducer>, units: Vec<OwnedUnit>) {
        let began = now();
        let ended = self.try_to_commit(slot, epoch, producer, &units);
        let metrics = &self.slots.metrics;
        metrics.transaction_seconds.record(began.elapsed());
        let outcomes: Vec<Outcome> = match ended {
            Ended::Committed(positions) => {
                metrics.committed.increment(1);
                positions.into_iter().map(Outcome::Committed).collect()
            }
            Ended::Refused(refusal) => vec![Outcome::Refused(refusal); units.len()],
            Ended::Unknown => {
                metrics.unknown.increment(1);
                vec![Outcome::Unknown; units.len()]
            }
        };
        let mut ends: Vec<_> = units.into_iter().zip(outcomes).collect();
        if matches!(ends.first(), Some((_, Outcome::Refused(Refusal::Fenced)))) {
            // What waits behind it is refused, too, before anything else is taken.
            let waiting = self.slots.fenced(slot, epoch);
            ends.extend(waiting.into_iter().map(|unit| (unit, Outcome::Refused(Refusal::Fenced))));
            metrics.fenced.increment(ends.len() as u64);
        }
        self.log.shared.permits.give_back(ends.iter().map(|(unit, _)| unit.cost).sum());
        end_all(ends.into_iter().map(|(unit, outcome)| (unit.reply, outcome)).collect());
    }

    /// Tries until it is committed, refused for good, unknown, or has taken too long.
    fn try_to_commit(&self, slot: u32, epoch: u64, producer: &mut Option<SlotProducer>, units: &[OwnedUnit]) -> Ended {
        let timeout = self.config.transaction_timeout;
        // A rebalance takes as long as a member is missed.
        let deadline = Deadline::after(self.config.session_timeout + timeout);
        loop {
            if !self.slots.holds(slot, epoch) {
                return Ended::Refused(Refusal::Fenced);
            }
            let error = match self.opened(slot, producer) {
                Ok(opened) => match opened.commit(units, &self.lease, timeout, || self.slots.holds(slot, epoch)) {
                    Tried::Committed(positions) => return Ended::Committed(positions),
                    Tried::Fenced => {
                        self.slots.metrics.aborted.increment(1);
                        tracing::info!(slot, "slot is another's: its transaction is refused");
                        *producer = None;
                        return Ended::Refused(Refusal::Fenced);
                    }
                    Tried::Unknown(error) => {
                        tracing::warn!(slot, %error, "transaction has no known outcome");
                        *producer = None;
                        return Ended::Unknown;
                    }
                    Tried::Again { keep_producer, cause } => {
                        self.slots.metrics.aborted.increment(1);
                        if !keep_producer {
                            *producer = None;
                        }
                        cause
                    }
                },
                Err(error) if error.is_not_member() => return Ended::Refused(Refusal::Fenced),
                Err(error) => error,
            };
            tracing::info!(slot, %error, "transaction is tried again");
            let Some(left) = deadline.left() else {
                // Who was frozen has no time left when it wakes, and was replaced meanwhile.
                let is_replaced = self.lease.check().is_err_and(|error| error.is_not_member());
                return Ended::Refused(if is_replaced || !self.slots.holds(slot, epoch) {
                    Refusal::Fenced
                } else {
                    Refusal::Unavailable { cause: error.to_string().into() }
                });
            };
            thread::park_timeout(PAUSE.min(left));
        }
    }

    fn opened<'p>(
        &self,
        slot: u32,
        producer: &'p mut Option<SlotProducer>,
    ) -> Result<&'p mut SlotProducer, group::TxnError> {
        match producer {
            Some(producer) => Ok(producer),
            None => Ok(producer.insert(self.open(slot)?)),
        }
    }
}

/// How units that shared a transaction ended.
#[derive(Debug)]
enum Ended {
    Committed(Vec<Vec<Position>>),
    Refused(Refusal),
    Unknown,
}
