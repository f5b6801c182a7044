//! One worker: the connections of its devices, the partitions that hold their records.
//!
//! It has no socket and no thread. Its driver gives it bytes, mail and time, ends each turn, and
//! carries out the [`Effect`]s; so tests drive it with byte strings.

use crate::{
    BrokerConfig, ConnId, Job,
    append::{Appends, End, Impatient, UNIT_TAGS, Waiter},
    connection::{Blocked, Connection, Phase},
    fences::Fences,
    held::HeldTotal,
    jobs::Jobs,
    mailbox::{Letters, Mail, Mailbox},
    metrics::Metrics,
    owner::Owner,
    publication::Publication,
    router::{Router, Routes},
    seams::Access,
    wheel::Wheel,
};
use floodplain_log::{Completion, CompletionSink, DataStreams, Log, Owners, Slot, Stream, slot_of};
use floodplain_mqtt::DisconnectCode;
use floodplain_types::{Clock, Position, Timestamp};
use slab::Slab;
use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

/// Output gathered in one turn after which the driver is asked to write.
const FLUSH_BYTES: usize = 256 << 10;
/// Output buffers that are kept for the next turn.
const SPARE_BUFFERS: usize = 64;
/// A larger buffer is not kept.
const SPARE_BYTES_MAX: usize = 64 << 10;

/// What a client that does not read may leave unread before it is not read either, besides one packet of the greatest size.
const UNREAD_BYTES: usize = 1 << 20;
/// What the connections of a worker that have not finished CONNECT may hold together.
const GREETING_BYTES_MAX: usize = 32 << 20;
/// Beyond that the ones that hold more than this are closed; those that hold less are bounded by their number.
const GREETING_BYTES: usize = 4 << 10;

/// How long stopping may take.
const STOP_MAX: Duration = Duration::from_secs(8);

/// What all workers of a process share.
#[derive(Debug)]
pub struct Shared {
    pub(crate) config: BrokerConfig,
    pub(crate) access: Access,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) routes: Routes,
    pub(crate) mailboxes: Vec<Arc<Mailbox>>,
    /// Where messages are. A data partition is known by its index among all of them.
    pub(crate) data: DataStreams,
    pub(crate) requests: Stream,
    pub(crate) dlq: Stream,
    pub(crate) run: crate::folds::RunId,
    /// Where servers share the log: what tells the QoS 0 messages of this one, which it has delivered already.
    pub(crate) listener: Option<Box<str>>,
    pub(crate) owners: Arc<dyn Owners>,
    pub(crate) fences: Arc<Fences>,
}

impl Shared {
    pub(crate) fn workers(&self) -> u32 {
        self.mailboxes.len() as u32
    }

    /// The slot of partition `index` of every stream. Takes the index of a data partition among all, too.
    pub(crate) fn slot_of(&self, index: u32) -> Slot {
        slot_of(&self.requests.id.tenant, index % self.data.partitions_each(), self.owners.slots())
    }

    /// The worker that owns partition `index` of every stream, and the connections of its devices. Takes the index of a
    /// data partition among all, too.
    pub(crate) fn owner_of(&self, index: u32) -> u32 {
        let each = self.data.partitions_each();
        (if index < each { index } else { index % each }) % self.workers()
    }
}

/// What the driver is to do.
#[derive(Debug)]
pub enum Effect {
    /// Write [`Worker::output`] to the socket.
    Write(ConnId),
    /// Write what is left, then close the socket and [`Worker::release`] the connection.
    Close(ConnId, CloseKind),
    /// Read from the socket again; [`Worker::received`] had said not to.
    Resume(ConnId),
    /// Take in once more what the socket of the first connection has, then call [`Worker::drained`] with the second.
    Drain(ConnId, ConnId),
    /// Move the socket to another worker, and [`Worker::release`] the connection.
    Move(ConnId, u8, Handoff),
    /// Run this on a thread that may block.
    Run(Job),
}

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseKind {
    /// The client did, or the socket broke.
    ByPeer,
    /// We did: let the client read why.
    ByUs,
}

/// A connection that turned out to belong to another worker.
#[derive(Debug)]
pub struct Handoff {
    pub(crate) peer: SocketAddr,
    /// All that was received, from CONNECT on.
    pub(crate) bytes: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub struct Worker {
    pub(crate) idx: u32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) mailbox: Arc<Mailbox>,
    sink: Arc<dyn CompletionSink>,
    pub(crate) connections: Slab<Connection>,
    next_generation: u32,
    /// Connections without CONNECT.
    pub(crate) half_open: usize,
    /// What they have sent of it.
    pub(crate) greeting_bytes: usize,
    /// Connected clients by their id.
    pub(crate) clients: HashMap<Arc<str>, ConnId>,
    /// The epoch for their `Close` is still to come.
    pub(crate) closing: crate::close::Closing,
    pub(crate) router: Router,
    pub(crate) appends: Appends,
    pub(crate) owner: Owner,
    pub(crate) jobs: Jobs,
    /// What queues of messages and sockets that take nothing hold.
    pub(crate) held: HeldTotal,
    pub(crate) wheel: Wheel,
    pub(crate) metrics: Metrics,
    pub(crate) effects: VecDeque<Effect>,
    /// Wall time: for ingest times and expiries.
    pub(crate) now: Timestamp,
    /// Time since start, which no clock can set: for deadlines. A quarter of a second coarse.
    pub(crate) steady: Timestamp,
    letters: Letters,
    /// Mail of this turn that was not handled yet.
    unread: VecDeque<Mail>,
    /// QoS 0 for other workers, gathered in this turn.
    pub(crate) at_once: Vec<Vec<Arc<Publication>>>,
    spare: Vec<Vec<u8>>,
    gathered: usize,
    due: Vec<(u32, u32)>,
    pub(crate) stopping: Option<Timestamp>,
    stopped: bool,
    pub(crate) seed: u64,
    /// When others are told next that this server lives.
    pub(crate) alive_at: Timestamp,
    /// Events of sessions that this worker has appended.
    pub(crate) event_seq: u64,
}

impl Worker {
    pub(crate) fn new(idx: u32, shared: Arc<Shared>, owner: Owner) -> Self {
        let mailbox = shared.mailboxes[idx as usize].clone();
        let now = shared.clock.now();
        let workers = shared.workers() as usize;
        Self {
            idx,
            mailbox: mailbox.clone(),
            sink: mailbox,
            connections: Slab::new(),
            next_generation: 1,
            half_open: 0,
            greeting_bytes: 0,
            clients: HashMap::new(),
            closing: crate::close::Closing::default(),
            router: Router::new(idx as u8),
            appends: Appends::new(idx, shared.log.is_shared()),
            owner,
            jobs: Jobs::default(),
            held: HeldTotal::default(),
            wheel: Wheel::new(0),
            metrics: Metrics::new(),
            effects: VecDeque::new(),
            now,
            steady: Timestamp(0),
            letters: Letters::default(),
            unread: VecDeque::new(),
            at_once: (0..workers).map(|_| Vec::new()).collect(),
            spare: Vec::new(),
            gathered: 0,
            due: Vec::new(),
            stopping: None,
            stopped: false,
            seed: shared.run.0 ^ (u64::from(idx) << 56),
            alive_at: Timestamp(0),
            event_seq: 0,
            shared,
        }
    }

    /// The worker's mailbox, to be told how to wake its thread.
    #[must_use]
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Takes in an accepted connection; `None` if too many have not said CONNECT yet: drop the socket.
    pub fn open(&mut self, peer: SocketAddr) -> Option<ConnId> {
        if self.stopping.is_some() || self.half_open >= self.shared.config.half_open_max {
            return None;
        }
        Some(self.add(peer))
    }

    /// Takes in a connection from another worker, and what it has said so far.
    pub fn adopt(&mut self, handoff: Handoff) -> ConnId {
        let conn = self.add(handoff.peer);
        self.received(conn, &handoff.bytes);
        conn
    }

    fn add(&mut self, peer: SocketAddr) -> ConnId {
        let generation = self.next_generation;
        self.next_generation = self.next_generation.wrapping_add(1);
        let entry = self.connections.vacant_entry();
        let conn = ConnId { slot: entry.key() as u32, generation };
        let untaken = self.held.part();
        let max_packet_size = self.shared.config.maximum_packet_size;
        entry.insert(Connection::new(conn, peer, max_packet_size, quarter(self.steady), untaken));
        self.half_open += 1;
        self.metrics.connections.increment(1.0);
        let deadline = self.steady + self.shared.config.connect_deadline;
        self.due_at(conn, quarter(deadline) + 1);
        conn
    }

    pub(crate) fn get(&mut self, conn: ConnId) -> Option<&mut Connection> {
        self.connections.get_mut(conn.slot as usize).filter(|connection| connection.id == conn)
    }

    /// Takes bytes from a socket. False: do not read from it until [`Effect::Resume`].
    pub fn received(&mut self, conn: ConnId, bytes: &[u8]) -> bool {
        let now = quarter(self.steady);
        let Some(connection) = self.get(conn) else { return true };
        if connection.phase == Phase::Closed {
            return true;
        }
        connection.last_seen = now;
        if connection.blocked.any() || !connection.input.is_empty() {
            connection.input.extend_from_slice(bytes);
            self.go_on(conn);
        } else {
            let used = self.process(conn, bytes);
            if let Some(connection) = self.get(conn)
                && used < bytes.len()
                && connection.phase != Phase::Closed
            {
                connection.input.extend_from_slice(&bytes[used..]);
            }
        }
        self.bound_greeting(conn);
        let unread_max = UNREAD_BYTES + self.shared.config.maximum_packet_size as usize;
        let Some(connection) = self.connections.get_mut(conn.slot as usize).filter(|c| c.id == conn) else {
            return true;
        };
        if connection.stalled && connection.backlog() > unread_max && !connection.blocked.has(Blocked::OUTPUT) {
            connection.blocked.add(Blocked::OUTPUT);
            self.metrics.paused_output.increment(1);
        }
        connection.paused = connection.blocked.any();
        !connection.paused
    }

    /// Closes a connection that holds much of a CONNECT while too much is held by all of them.
    fn bound_greeting(&mut self, conn: ConnId) {
        let Some(connection) = self.get(conn).filter(|connection| connection.phase == Phase::Greeting) else { return };
        let bytes = connection.input.len();
        let before = std::mem::replace(&mut connection.greeting_bytes, bytes);
        self.greeting_bytes = self.greeting_bytes - before + bytes;
        if self.greeting_bytes > GREETING_BYTES_MAX && bytes > GREETING_BYTES {
            self.metrics.refused_greeting.increment(1);
            self.end(conn, CloseKind::ByUs);
        }
    }

    /// Handles what a connection's input holds, as far as it may.
    pub(crate) fn go_on(&mut self, conn: ConnId) {
        let Some(connection) = self.get(conn) else { return };
        if connection.input.is_empty() || connection.blocked.any() {
            return;
        }
        let input = std::mem::take(&mut connection.input);
        let used = self.process(conn, &input);
        if let Some(connection) = self.get(conn).filter(|connection| connection.phase != Phase::Closed) {
            connection.input = if used == 0 { input } else { input[used..].to_vec() };
        }
    }

    /// Lifts a block; what was held back is handled, and the socket read again.
    pub(crate) fn unblock(&mut self, conn: ConnId, blocked: Blocked) {
        let now = quarter(self.steady);
        let Some(connection) = self.get(conn) else { return };
        connection.blocked.remove(blocked);
        if connection.blocked.any() {
            return;
        }
        // While we did not read, the client could not show that it lives.
        connection.last_seen = now;
        self.go_on(conn);
        if let Some(connection) = self.get(conn)
            && connection.paused
            && !connection.blocked.any()
        {
            connection.paused = false;
            self.effects.push_back(Effect::Resume(conn));
        }
    }

    /// The socket was closed by the client, or broke.
    pub fn hung_up(&mut self, conn: ConnId) {
        self.close_lost(conn);
    }

    /// The socket takes nothing any more. What the client has said before is still to be read, above all DISCONNECT,
    /// which takes back the will; then comes [`Self::hung_up`].
    pub fn deafened(&mut self, conn: ConnId) {
        let Some(connection) = self.get(conn) else { return };
        connection.is_deaf = true;
        let bytes = connection.backlog();
        self.written(conn, bytes);
    }

    /// What is to be written to a connection's socket.
    #[must_use]
    pub fn output(&self, conn: ConnId) -> &[u8] {
        match self.connections.get(conn.slot as usize) {
            Some(connection) if connection.id == conn => &connection.output[connection.written..],
            _ => &[],
        }
    }

    /// `bytes` of the output have been written.
    pub fn written(&mut self, conn: ConnId, bytes: usize) {
        let Some(connection) = self.connections.get_mut(conn.slot as usize).filter(|c| c.id == conn) else { return };
        connection.written += bytes;
        if bytes > 0 && connection.blocked.has(Blocked::OUTPUT) {
            // It cannot show that it lives by what it sends.
            connection.last_seen = quarter(self.steady);
        }
        if connection.written < connection.output.len() {
            connection.stalled = true;
            connection.untaken.set(connection.output.len() - connection.written);
            return;
        }
        let waited = std::mem::take(&mut connection.stalled);
        connection.untaken.set(0);
        connection.written = 0;
        let mut buffer = std::mem::take(&mut connection.output);
        if self.spare.len() < SPARE_BUFFERS && buffer.capacity() <= SPARE_BYTES_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
        if waited || connection.wants_room {
            connection.wants_room = false;
            self.pump(conn);
        }
        if self.get(conn).is_some_and(|connection| connection.blocked.has(Blocked::OUTPUT)) {
            self.unblock(conn, Blocked::OUTPUT);
        }
    }

    /// The output of a connection, which will be written at the end of the turn.
    pub(crate) fn out(&mut self, slot: u32) -> &mut Vec<u8> {
        let connection = &mut self.connections[slot as usize];
        if !connection.dirty {
            connection.dirty = true;
            self.effects.push_back(Effect::Write(connection.id));
            if connection.output.capacity() == 0
                && let Some(buffer) = self.spare.pop()
            {
                connection.output = buffer;
            }
        }
        &mut connection.output
    }

    /// Counts output towards an early flush.
    pub(crate) fn gathered(&mut self, bytes: usize) {
        self.gathered += bytes;
    }

    /// Whether so much output has gathered that the driver should carry out effects before it goes on.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        self.gathered >= FLUSH_BYTES
    }

    /// Forgets a connection whose socket is closed or has moved.
    pub fn release(&mut self, conn: ConnId) {
        if self.get(conn).is_some() {
            self.connections.remove(conn.slot as usize);
            self.metrics.connections.decrement(1.0);
        }
    }

    /// The next thing to do for the driver.
    pub fn next_effect(&mut self) -> Option<Effect> {
        let effect = self.effects.pop_front()?;
        if let Effect::Write(conn) = &effect {
            self.gathered = 0;
            if let Some(connection) = self.connections.get_mut(conn.slot as usize) {
                connection.dirty = false;
            }
        }
        Some(effect)
    }

    /// Starts a turn: looks at the clock and empties the mailbox. Mail that may bring much output
    /// is left to [`Self::read_letter`].
    pub fn take_mail(&mut self) {
        self.now = self.shared.clock.now();
        let mut letters = std::mem::take(&mut self.letters);
        self.mailbox.take(&mut letters);
        for completion in letters.completions.drain(..) {
            self.completed(completion);
        }
        for (partition, position) in letters.watermarks.drain(..) {
            self.advanced(partition, position);
        }
        self.unread.extend(letters.mail.drain(..));
        self.letters = letters;
    }

    /// Handles one more piece of this turn's mail; false if there is none. In between the driver
    /// may write what has gathered.
    pub fn read_letter(&mut self) -> bool {
        let Some(mail) = self.unread.pop_front() else { return false };
        self.take_letter(mail);
        true
    }

    fn take_letter(&mut self, mail: Mail) {
        match mail {
            Mail::AtOnce(batch) => {
                for publication in batch {
                    let (_, local) = self.router.find(&self.shared.routes, publication.topic());
                    self.deliver_now(&publication, &local);
                }
            }
            Mail::Committed { partition, batch } => {
                for placed in batch {
                    let (_, local) = self.router.find(&self.shared.routes, placed.publication.topic());
                    self.deliver_committed(partition, &placed, &local);
                }
            }
            Mail::Gap { partition, from } => self.gap(partition, from),
            Mail::Question(question) => self.question(question),
            Mail::Answer(answer) => self.answer(answer),
            Mail::JobDone(result) => self.job_done(result),
            Mail::Stop => self.begin_stop(),
        }
    }

    fn completed(&mut self, Completion { tag, outcome }: Completion) {
        if tag < UNIT_TAGS {
            self.owner_completed(tag, outcome);
            return;
        }
        match self.appends.ended(tag, outcome, self.steady, &self.metrics) {
            End::Quiet => {}
            End::Committed { waiters, sent } => {
                for (partition, sent) in sent {
                    if self.shared.owner_of(partition.index) != self.idx
                        && let Some(index) = self.shared.data.index_of(partition)
                    {
                        self.owner.sent_away(index, sent.base);
                    }
                    self.owner.sent(partition, sent);
                }
                for (waiter, position) in waiters {
                    self.reached(waiter, position);
                }
            }
            End::TooLarge { waiters } => {
                let ended = self.give_up(waiters, DisconnectCode::PacketTooLarge, false);
                self.metrics.dropped_append_too_large.increment(ended);
            }
        }
    }

    fn reached(&mut self, waiter: Waiter, base: Position) {
        match waiter {
            Waiter::Ack { conn, seq } => self.ack_ready(conn, seq),
            Waiter::Open { conn, partition, delta, .. } => {
                // There or behind it: an engine may leave out offsets within a batch.
                let at_least = Position { offset: base.offset + u64::from(delta), ..base };
                self.owner.wait_opened(partition, at_least, conn);
            }
            Waiter::Progress { conn, seq, .. } => self.progress_committed(conn, seq),
        }
    }

    /// Ends the connections of those who cannot get their answer; what they wait for may come later. Gives how many there
    /// were that had their CONNACK.
    fn give_up(&mut self, waiters: Vec<Waiter>, code: DisconnectCode, may_come: bool) -> u64 {
        let mut ended = 0;
        for waiter in waiters {
            match waiter {
                Waiter::Ack { conn, .. } | Waiter::Progress { conn, .. } => {
                    if self.get(conn).is_some_and(|connection| connection.phase != Phase::Closed) {
                        ended += 1;
                        self.refuse(conn, code);
                    }
                }
                Waiter::Open { conn, .. } => self.open_failed(conn, may_come),
            }
        }
        ended
    }

    /// Submits what has gathered. Called by the driver at the end of a turn, and in between when
    /// there is much.
    pub(crate) fn submit(&mut self) {
        self.appends.submit(&*self.shared.log, &self.sink, self.steady);
    }

    /// Whether publishers must wait: the log is behind, or has refused us.
    pub(crate) fn is_pressed(&self) -> bool {
        self.appends.is_holding() || self.shared.log.queued_bytes() > self.shared.log.queue_capacity_bytes() / 2
    }

    /// Ends a turn: appends and posts once for all that was handled.
    pub fn end_turn(&mut self) {
        self.submit();
        self.drive_folds();
        for (worker, batch) in self.at_once.iter_mut().enumerate().filter(|(_, batch)| !batch.is_empty()) {
            let dropped = self.shared.mailboxes[worker].post_at_once(std::mem::take(batch));
            self.metrics.dropped_mailbox_full.increment(dropped as u64);
        }
        self.relieve();
        if self.stopping.is_some() {
            self.settle();
        }
    }

    /// Lets publishers go on when the log has caught up.
    fn relieve(&mut self) {
        if self.owner.paused.is_empty() || self.is_pressed() {
            return;
        }
        for conn in std::mem::take(&mut self.owner.paused) {
            self.unblock(conn, Blocked::LOG);
        }
        self.submit();
    }

    /// Looks at what is due, `uptime` after some fixed moment. Called several times a second.
    ///
    /// Deadlines go by `uptime`, so that a clock that is set ends no connection.
    pub fn tick(&mut self, uptime: Duration) {
        self.now = self.shared.clock.now();
        self.steady = self.steady.max(Timestamp(0) + uptime);
        let mut due = std::mem::take(&mut self.due);
        self.wheel.due(quarter(self.steady), &mut due);
        for (slot, generation) in due.drain(..) {
            self.check_deadline(ConnId { slot, generation });
        }
        self.due = due;
        let Impatient { early, lost } = self.appends.impatient(self.steady, self.shared.config.hold_max);
        let waiters = early.len() + lost.len();
        if waiters > 0 {
            tracing::warn!(waiters, "the log did not confirm in time, clients are disconnected");
            let ended = self.give_up(early, DisconnectCode::ServerBusy, true)
                + self.give_up(lost, DisconnectCode::ServerBusy, false);
            self.metrics.dropped_held.increment(ended);
        }
        self.tick_folds();
        self.log_progress();
        self.age_subscriptions();
    }

    /// Whether carrying out effects has left something for another turn.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.owner.dirty || self.appends.is_open() || self.at_once.iter().any(|batch| !batch.is_empty())
    }

    /// Whether it has been told to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// Whether everything it had to say is in the log, or its time to say it is over.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    fn settle(&mut self) {
        let deadline = self.stopping.is_some_and(|until| self.steady >= until);
        let settled = self.appends.is_idle() && self.owner_is_settled() && self.connections.is_empty();
        if settled && !deadline && self.last_snapshots() {
            return;
        }
        if settled || deadline {
            if !settled {
                tracing::warn!(worker = self.idx, "stopping without the log's last word: it did not come in time");
            }
            self.stopped = true;
        }
    }

    fn begin_stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(self.steady + STOP_MAX);
        let all: Vec<ConnId> = self.connections.iter().map(|(_, connection)| connection.id).collect();
        for conn in all {
            self.close_stopping(conn);
        }
        self.write_dead_letters();
        self.owner.dirty = true;
    }
}

/// Whole quarters of a second, for the wheel.
pub(crate) fn quarter(now: Timestamp) -> u64 {
    u64::try_from(now.0 / 250_000_000).unwrap_or(0)
}
