//! The owner's side of a worker: folds of its partitions.

mod live;
mod questions;
mod snapshots;

#[cfg(test)]
pub(crate) use live::SENT_BYTES_MAX;
pub(crate) use questions::{Answer, Page, Question};

use crate::{
    ConnId, Worker,
    append::Sent,
    dlq::{self, Dlq},
    estate::{Burials, Search},
    fences::Fences,
    folds::{Interest, PresenceFold, RetainedFold, SessionFold, StreamNames, WaitingIndex},
    jobs::{Job, JobResult, Work},
    nodes::Nodes,
    publication::Placed,
};
use floodplain_fold::{Next, Runner, RunnerError};
use floodplain_log::{Outcome, Partition, Read, ReadError, Reply, Slot};
use floodplain_types::{Class, Position, Timestamp};
use questions::Barrier;
use snapshots::Snapshotting;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// Reads and steps of a partition's folds in one turn: then the connections are served, and then it goes on.
pub(crate) const TURN_STEPS: usize = 4;

/// A read for folds that are behind what memory holds.
#[derive(Debug, Default)]
enum Reading {
    #[default]
    No,
    Asked,
    Have(Partition, Position, Result<Read, ReadError>),
}

/// A partition of a data stream.
#[derive(Debug)]
pub(crate) struct DataPartition {
    pub(crate) partition: Partition,
    /// Its index among all data partitions: what sessions and other workers know it by.
    pub(crate) index: u32,
    pub(crate) retained: Runner<RetainedFold>,
    pub(crate) waiting: Runner<WaitingIndex>,
    pub(crate) interest: Interest,
    /// Something may be there to fold.
    pub(crate) is_dirty: bool,
    /// A part of the log is being read for the index.
    pub(crate) is_backfilling: bool,
    /// A filter may be wanted from before what the index knows.
    pub(crate) wants_backfill: bool,
    reading: Reading,
    /// Where the log started when the index was last told.
    pub(crate) start: Position,
    /// Everything before this was delivered live.
    pub(crate) delivered: Position,
    /// How far the log has told us to be committed. It tells the ends of our own appends first, so
    /// before this position we know which batches are ours.
    limit: Position,
    /// What this worker has appended, by base position: so that it need not be decoded again.
    sent: VecDeque<Sent>,
    sent_bytes: usize,
    /// How many batches were ever put into `sent`, and taken from it.
    sent_in: u64,
    sent_out: u64,
}

/// A partition of `requests`.
#[derive(Debug)]
pub(crate) struct RequestPartition {
    pub(crate) partition: Partition,
    /// Who emits for it: its owner.
    slot: Slot,
    pub(crate) sessions: Runner<SessionFold>,
    pub(crate) presence: Runner<PresenceFold>,
    /// Connections whose `Open` is committed and not yet folded, and where it lies at least.
    opening: Vec<(Position, ConnId)>,
    pub(crate) nodes: Nodes,
    retry_at: Timestamp,
    is_dirty: bool,
    reading: Reading,
    /// Sessions that have ended, while it is found what waits for them.
    pub(crate) burials: Burials,
    /// Its sessions are being asked what they still need.
    pub(crate) is_scanning: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) data: Vec<DataPartition>,
    pub(crate) requests: Vec<RequestPartition>,
    barriers: VecDeque<Barrier>,
    /// Questions from outside that wait until their partitions are folded; bounded by who asks.
    pub(crate) outside: Vec<crate::roster::AskedRetained>,
    /// Sessions that want to know what waits for them.
    pub(crate) asked: Vec<Question>,
    /// Sessions that have ended, and what our partitions hold for them.
    pub(crate) searches: VecDeque<Search>,
    /// Partitions of `requests` that have told their filters.
    pub(crate) told: u32,
    /// Publishers that are not read because the log is behind.
    pub(crate) paused: Vec<ConnId>,
    pub(crate) dlq: Dlq,
    /// Sessions that have just subscribed, and until when they count as such.
    pub(crate) fresh: VecDeque<(Timestamp, ConnId)>,
    /// Sessions with unlogged progress, and when it is due.
    pub(crate) progress: VecDeque<(Timestamp, ConnId)>,
    /// Committed publications for other workers, by worker and partition.
    outgoing: Vec<BTreeMap<u32, Vec<Placed>>>,
    /// Partitions that have something to fold.
    pub(crate) dirty: bool,
    snapshots_running: usize,
    /// The state of a fold is being copied. One at a time, since the copy is in memory.
    is_copying: bool,
    has_last_snapshots: bool,
    /// The last batch that this worker has appended to each data partition of another one.
    sent_away: BTreeMap<u32, Position>,
    /// When the sessions of this worker were last asked what they still need.
    pub(crate) scanned_at: Timestamp,
    /// Sessions and subscriptions that the gauges hold of this worker.
    counted: (usize, usize),
}

impl Owner {
    pub(crate) fn new(data: Vec<DataPartition>, requests: Vec<RequestPartition>, workers: u32) -> Self {
        Self {
            data,
            requests,
            barriers: VecDeque::new(),
            outside: Vec::new(),
            asked: Vec::new(),
            searches: VecDeque::new(),
            told: 0,
            paused: Vec::new(),
            dlq: Dlq::default(),
            fresh: VecDeque::new(),
            progress: VecDeque::new(),
            outgoing: (0..workers).map(|_| BTreeMap::new()).collect(),
            dirty: true,
            snapshots_running: 0,
            is_copying: false,
            has_last_snapshots: false,
            sent_away: BTreeMap::new(),
            scanned_at: Timestamp(0),
            counted: (0, 0),
        }
    }

    /// Whether a lasting session of `client` may be stored; `max` is that of a partition.
    pub(crate) fn has_room_for(&self, partition: u32, client: &str, max: usize) -> bool {
        let Some(requests) = self.requests.iter().find(|requests| requests.partition.index == partition) else {
            return false;
        };
        let fold = requests.sessions.fold();
        // Who has one keeps it, but may not leave ever more of them behind.
        fold.len() + fold.ended_len() < max || (fold.session(client).is_some() && fold.ended_len() < max)
    }

    fn reading(&mut self, reader: Partition) -> Option<&mut Reading> {
        let data = self.data.iter_mut().map(|data| (data.partition, &mut data.reading));
        let requests = self.requests.iter_mut().map(|requests| (requests.partition, &mut requests.reading));
        data.chain(requests).find(|(partition, _)| *partition == reader).map(|(_, reading)| reading)
    }

    /// Lets a connection wait until its `Open` is folded.
    pub(crate) fn wait_opened(&mut self, partition: Partition, at_least: Position, conn: ConnId) {
        if let Some(requests) = self.requests.iter_mut().find(|requests| requests.partition == partition) {
            requests.opening.push((at_least, conn));
            requests.is_dirty = true;
        }
        self.dirty = true;
    }
}

impl DataPartition {
    /// Both folds are replayed; live delivery starts where they are.
    pub(crate) fn new(
        partition: Partition,
        index: u32,
        mut retained: Runner<RetainedFold>,
        waiting: Runner<WaitingIndex>,
    ) -> Self {
        // From here on it tells them.
        retained.fold_mut().take_repeats();
        let delivered = retained.position();
        let interest = Interest::new(index);
        Self {
            partition,
            index,
            retained,
            waiting,
            interest,
            is_dirty: true,
            is_backfilling: false,
            wants_backfill: true,
            reading: Reading::No,
            start: Position::ZERO,
            delivered,
            limit: delivered,
            sent: VecDeque::new(),
            sent_bytes: 0,
            sent_in: 0,
            sent_out: 0,
        }
    }
}

impl RequestPartition {
    pub(crate) fn new(
        partition: Partition,
        slot: Slot,
        sessions: Runner<SessionFold>,
        presence: Runner<PresenceFold>,
        nodes: Nodes,
    ) -> Self {
        Self {
            partition,
            slot,
            sessions,
            presence,
            opening: Vec::new(),
            nodes,
            retry_at: Timestamp(0),
            is_dirty: true,
            reading: Reading::No,
            burials: Burials::new(),
            is_scanning: false,
        }
    }
}

impl RequestPartition {
    /// Whether what sessions emit is this server's to append.
    pub(crate) fn is_owned(&self, fences: &Fences) -> bool {
        fences.of(self.slot).is_some()
    }

    #[cfg(test)]
    pub(crate) fn opens_nothing(&self) -> bool {
        self.opening.is_empty()
    }
}

impl Worker {
    /// A watermark of an owned partition has moved.
    pub(crate) fn advanced(&mut self, partition: Partition, to: Position) {
        if let Some(data) = self.owner.data.iter_mut().find(|data| data.partition == partition) {
            data.limit = data.limit.max(to);
            data.is_dirty = true;
        }
        if let Some(requests) = self.owner.requests.iter_mut().find(|requests| requests.partition == partition) {
            requests.is_dirty = true;
        }
        self.owner.dirty = true;
    }

    /// Folds what is committed, delivers it, and answers what waited for it.
    pub(crate) fn drive_folds(&mut self) {
        if !std::mem::take(&mut self.owner.dirty) {
            return;
        }
        for at in 0..self.owner.requests.len() {
            if std::mem::take(&mut self.owner.requests[at].is_dirty) {
                self.drive_requests(at);
            }
        }
        for at in 0..self.owner.data.len() {
            if std::mem::take(&mut self.owner.data[at].is_dirty) {
                self.drive_data(at);
            }
        }
        for worker in 0..self.shared.workers() {
            self.post_committed(worker);
        }
        self.lift_barriers();
        self.answer_outside();
        self.answer_waiting();
        self.search_estates();
        if self.owner.is_copying {
            self.snapshot_folds(Snapshotting::GoOn);
        }
        // Folding may have appended: events of sessions, records of the dead-letter stream.
        self.submit();
    }

    /// Reads from memory for the folds of `reader`; what memory does not hold is read on another thread, and is there
    /// when the folds are driven again.
    fn read(
        &mut self,
        reader: Partition,
        partition: Partition,
        from: Position,
        max_bytes: usize,
    ) -> Option<Result<Read, ReadError>> {
        let reading = self.owner.reading(reader)?;
        if let Reading::Have(..) = reading
            && let Reading::Have(of, at, read) = std::mem::take(reading)
            && (of, at) == (partition, from)
        {
            return Some(read);
        }
        if let Some(read) = self.shared.log.read_cached(partition, from, max_bytes) {
            return Some(Ok(read));
        }
        let reading = self.owner.reading(reader)?;
        if matches!(reading, Reading::No) {
            *reading = Reading::Asked;
            self.metrics.behind_reads.increment(1);
            self.run_job(Work::Read { reader, partition, from, max_bytes });
        }
        None
    }

    /// What memory did not hold has been read.
    fn read_done(&mut self, reader: Partition, partition: Partition, from: Position, read: Result<Read, ReadError>) {
        if let Some(reading) = self.owner.reading(reader) {
            *reading = Reading::Have(partition, from, read);
        }
        self.advanced(reader, Position::ZERO);
    }

    fn drive_requests(&mut self, at: usize) {
        let shared = self.shared.clone();
        let log = &*shared.log;
        let mut steps = 0;
        let requests = &mut self.owner.requests[at];
        requests.sessions.owned_by(shared.fences.of(requests.slot));
        loop {
            if self.steady < self.owner.requests[at].retry_at {
                break;
            }
            if steps >= TURN_STEPS {
                self.folds_on(at);
                break;
            }
            let requests = &mut self.owner.requests[at];
            match requests.sessions.next(log, self.now) {
                Next::Append(append) => {
                    let reply = Reply { sink: self.mailbox.clone(), tag: u64::from(requests.partition.index) };
                    let Some(fence) = requests.sessions.fence() else { break };
                    shared.owners.commit(fence, append, reply);
                }
                Next::Step => {
                    requests.sessions.step();
                    steps += 1;
                }
                Next::Read { partition, from, max_bytes } => {
                    steps += 1;
                    let reader = requests.partition;
                    let Some(read) = self.read(reader, partition, from, max_bytes) else { break };
                    let requests = &mut self.owner.requests[at];
                    let is_input = partition == requests.partition;
                    let folded = requests.sessions.on_read(log, partition, from, as_ref(&read));
                    if let Err(error) = folded {
                        tracing::error!(%error, "sessions cannot be folded");
                        break;
                    }
                    if is_input && let Ok(read) = &read {
                        drop(requests.presence.on_read(log, partition, from, Ok(read)));
                    }
                }
                Next::Idle => break,
            }
        }
        self.drive_presence(at);
        let requests = &mut self.owner.requests[at];
        let position = requests.sessions.position();
        let (opened, waiting) =
            std::mem::take(&mut requests.opening).into_iter().partition(|(at_least, _)| *at_least < position);
        requests.opening = waiting;
        let source = requests.partition.index;
        let changes = requests.sessions.fold_mut().drain_changes();
        self.sessions_changed(source, changes);
        for (at_least, conn) in opened {
            if !self.open_folded(conn, at, at_least) {
                self.owner.requests[at].opening.push((at_least, conn));
            }
        }
        self.ask_for_ended(at);
    }

    /// There is more to fold, and nothing else to wait for.
    fn folds_on(&mut self, at: usize) {
        self.owner.requests[at].is_dirty = true;
        self.owner.dirty = true;
    }

    /// Presence follows; where it has fallen behind it reads for itself.
    fn drive_presence(&mut self, at: usize) {
        let shared = self.shared.clone();
        let log = &*shared.log;
        for _ in 0..TURN_STEPS {
            match self.owner.requests[at].presence.next(log, self.now) {
                Next::Step => self.owner.requests[at].presence.step(),
                Next::Read { partition, from, max_bytes } => {
                    let Some(read) = self.read(partition, partition, from, max_bytes) else { return };
                    let presence = &mut self.owner.requests[at].presence;
                    if let Err(error) = presence.on_read(log, partition, from, as_ref(&read)) {
                        tracing::error!(%error, "presence cannot be folded");
                        return;
                    }
                }
                Next::Append(_) | Next::Idle => return,
            }
        }
        self.folds_on(at);
    }

    fn drive_data(&mut self, at: usize) {
        let shared = self.shared.clone();
        let log = &*shared.log;
        while self.owner.data[at].delivered < self.owner.data[at].limit {
            let Next::Read { partition, from, max_bytes } = self.owner.data[at].retained.next(log, self.now) else {
                break;
            };
            let Some(read) = self.read(partition, partition, from, max_bytes) else { break };
            let read = read.map(|read| clip(read, self.owner.data[at].limit));
            let data = &mut self.owner.data[at];
            if let Err(error) = data.retained.on_read(log, partition, from, as_ref(&read)) {
                tracing::error!(%error, "retained messages cannot be folded");
                break;
            }
            // A subscriber gets them once.
            let repeats = data.retained.fold_mut().take_repeats();
            if let Ok(read) = read {
                if let Err(error) = data.waiting.on_read(log, partition, from, Ok(&read)) {
                    tracing::error!(%error, "waiting messages cannot be indexed");
                }
                self.deliver_read(at, &read, &repeats);
            }
        }
        // Where it has fallen behind it reads for itself.
        while self.owner.data[at].waiting.position() < self.owner.data[at].delivered {
            let Next::Read { partition, from, max_bytes } = self.owner.data[at].waiting.next(log, self.now) else {
                break;
            };
            let Some(read) = self.read(partition, partition, from, max_bytes) else { break };
            let read = read.map(|read| clip(read, self.owner.data[at].delivered));
            if let Err(error) = self.owner.data[at].waiting.on_read(log, partition, from, as_ref(&read)) {
                tracing::error!(%error, "waiting messages cannot be indexed");
                break;
            }
        }
        self.backfill(at);
    }

    /// An append of a fold has ended.
    pub(crate) fn owner_completed(&mut self, tag: u64, outcome: Outcome) {
        let now = self.steady;
        let Some(requests) = self.owner.requests.iter_mut().find(|r| u64::from(r.partition.index) == tag) else {
            return;
        };
        requests.is_dirty = true;
        match requests.sessions.on_outcome(outcome) {
            Ok(floodplain_fold::Settled::Retry(refusal)) => {
                tracing::debug!(%refusal, "the log cannot take what sessions emit yet");
                requests.retry_at = now + Duration::from_millis(50);
            }
            Ok(_) => {}
            Err(RunnerError::Fenced { partition }) => {
                tracing::info!(%partition, "what sessions emit is another server's to append now");
            }
            Err(error) => tracing::error!(%error, "sessions can emit nothing more until restart"),
        }
        self.owner.dirty = true;
    }

    /// Whether the folds have nothing more to append.
    pub(crate) fn owner_is_settled(&self) -> bool {
        let log = &self.shared.log;
        let is_folded = |requests: &RequestPartition| {
            requests.sessions.is_settled() && requests.sessions.position() >= log.watermark(requests.partition)
        };
        self.owner.requests.iter().all(is_folded) && self.owner.snapshots_running == 0
    }

    /// Ticks, dead letters and snapshots.
    pub(crate) fn tick_folds(&mut self) {
        let now = self.now;
        for at in 0..self.owner.requests.len() {
            let requests = &self.owner.requests[at];
            let due = requests.sessions.is_tick_due(now) || requests.presence.is_tick_due(now);
            let index = requests.partition.index;
            if due && requests.is_owned(&self.shared.fences) && self.stopping.is_none() && !self.is_pressed() {
                self.append_event(Class::All, "", index, &crate::folds::Event::Tick);
            }
        }
        self.say_alive();
        if self.owner.dlq.is_full() || !self.is_pressed() {
            self.write_dead_letters();
        }
        self.scan_sessions();
        self.count_sessions();
        // What a lost wake-up or a retry has left is found here.
        self.owner.data.iter_mut().for_each(|data| data.is_dirty = true);
        self.owner.requests.iter_mut().for_each(|requests| requests.is_dirty = true);
        self.owner.dirty = true;
        self.snapshot_folds(Snapshotting::Due);
    }

    /// Says how many sessions and subscriptions there are; all workers add to the same gauges.
    pub(crate) fn count_sessions(&mut self) {
        let sessions = self.owner.requests.iter().map(|requests| requests.sessions.fold().len()).sum();
        let subscriptions = self.router.len();
        let (sessions_before, subscriptions_before) =
            std::mem::replace(&mut self.owner.counted, (sessions, subscriptions));
        self.metrics.sessions.increment(sessions as f64 - sessions_before as f64);
        self.metrics.subscriptions.increment(subscriptions as f64 - subscriptions_before as f64);
    }

    /// Appends what sessions did not get to `dlq`.
    pub(crate) fn write_dead_letters(&mut self) {
        let ms = self.now.as_millis();
        if self.owner.dlq.is_empty() {
            return;
        }
        let names = StreamNames::from(&self.shared.data);
        for (client, letter) in self.owner.dlq.take() {
            // However many sessions lose something at once, units stay small.
            if self.appends.is_full() {
                self.submit();
            }
            let partition = self.shared.dlq.partition_of(client.as_bytes());
            let write = |batch: &mut _| dlq::write(&letter, &client, &names, ms, batch);
            if let Err(error) = self.appends.push(Class::All, partition, write, None) {
                tracing::error!(%error, "dead letter does not fit a batch");
            }
        }
    }

    pub(crate) fn run_job(&mut self, work: Work) {
        let Some(work) = self.jobs.begin(work) else { return };
        let job = Job { work, log: self.shared.log.clone(), reply: self.mailbox.clone() };
        self.effects.push_back(crate::Effect::Run(job));
    }

    pub(crate) fn job_done(&mut self, result: JobResult) {
        if let Some(work) = self.jobs.end(&result) {
            self.run_job(work);
        }
        match result {
            JobResult::Snapshot => self.owner.snapshots_running -= 1,
            JobResult::Fetched { conn, partition, bytes, found } => {
                self.fetched(conn, partition, bytes, &found);
                self.fetch_next();
            }
            JobResult::Read { reader, partition, from, read } => self.read_done(reader, partition, from, read),
            JobResult::Backfilled { partition, read } => self.backfilled(partition, read),
        }
    }
}

/// Leaves out what lies at or behind `limit`.
fn clip(mut read: Read, limit: Position) -> Read {
    if read.next > limit {
        read.batches.retain(|batch| batch.base < limit);
        read.next = limit;
    }
    read
}

fn as_ref(read: &Result<Read, floodplain_log::ReadError>) -> Result<&Read, floodplain_log::ReadError> {
    // The error is wanted by value and is not used again: its text is all that goes on.
    match read {
        Ok(read) => Ok(read),
        Err(error) => Err(again(error)),
    }
}

fn again(error: &floodplain_log::ReadError) -> floodplain_log::ReadError {
    use floodplain_log::ReadError as E;
    match error {
        E::Trimmed { partition, from, start } => {
            E::Trimmed { partition: partition.clone(), from: *from, start: *start }
        }
        E::UnknownPartition(partition) => E::UnknownPartition(*partition),
        E::Io { file, at, source } => {
            E::Io { file: file.clone(), at: *at, source: std::io::Error::new(source.kind(), source.to_string()) }
        }
        E::Corrupt { file, at, reason, next } => {
            E::Corrupt { file: file.clone(), at: *at, reason: reason.clone(), next: *next }
        }
    }
}
