//! Workers without sockets, for tests: bytes in, bytes out, on a log in memory or on a disk that fails.

use crate::{Broker, BrokerConfig, CloseKind, ConnId, Effect, Environment, Job, Worker, seams::Access};
use floodplain_fold::Folder;
use floodplain_log::{
    AllSlots, Append, Completion, Embedded, EmbeddedConfig, Fence, FetchedRecord, InOrder, Log, Outcome, OwnerSink,
    Owners, Partition, Read, ReadError, RecordRef, Refusal, Reply, RetentionSink, Slot, Stream, WatermarkSink,
};
use floodplain_testkit::{AdverseLog, Adversity, Counts, FaultDisk, ModelLog};
use floodplain_types::{Class, ManualClock, PartitionId, Position, StreamId, Timestamp};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// A client's end: where its connection is, what it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientId(usize);

#[derive(Debug)]
struct Client {
    at: Option<(usize, ConnId)>,
    output: Vec<u8>,
    reads: bool,
    is_broken: bool,
}

/// Counts the bytes that are read from the log on behalf of sessions.
#[derive(Debug)]
struct Counting {
    inner: Arc<AdverseLog>,
    bytes: Arc<AtomicU64>,
    largest: Arc<AtomicU64>,
    classes: Arc<Mutex<Vec<Class>>>,
    faults: Arc<Faults>,
    is_shared: bool,
}

/// Slots that servers share; a test says who has them.
#[derive(Debug)]
pub(crate) struct Slots {
    /// How often they have changed hands.
    epoch: u64,
    owner: usize,
    watchers: BTreeMap<usize, Arc<dyn OwnerSink>>,
}

/// One server's part.
#[derive(Debug)]
struct Share {
    node: usize,
    slots: Arc<Mutex<Slots>>,
    log: Arc<dyn Log>,
}

impl Owners for Share {
    fn slots(&self) -> u32 {
        1
    }

    fn watch(&self, sink: Arc<dyn OwnerSink>) {
        let mut slots = self.slots.lock().unwrap();
        if slots.owner == self.node {
            sink.gained(Fence::new(Slot(0), slots.epoch));
        }
        slots.watchers.insert(self.node, sink);
    }

    fn commit(&self, fence: Fence, append: Append, reply: Reply) {
        let slots = self.slots.lock().unwrap();
        if slots.owner == self.node && slots.epoch == fence.epoch() {
            self.log.submit(append, Some(reply));
        } else {
            let outcome = Outcome::Refused(Refusal::Fenced);
            reply.sink.complete(vec![Completion { tag: reply.tag, outcome }]);
        }
    }

    fn release(&self) {}
}

/// What a test makes the log do.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// How units of workers end, without having been appended.
    pub(crate) outcome: Mutex<Option<fn() -> Outcome>>,
    /// Nothing is in memory any more.
    pub(crate) is_cold: AtomicBool,
    /// The disk does not give the record at this offset.
    pub(crate) unreadable: Mutex<Option<u64>>,
    /// And reading it panics.
    pub(crate) panics: AtomicBool,
    /// The record at this offset lies where the log is damaged.
    pub(crate) damaged: Mutex<Option<u64>>,
    /// What is appended in class `none` gets lost, where the log is shared.
    pub(crate) loses_none: AtomicBool,
}

impl Log for Counting {
    fn open_stream(&self, id: &StreamId, partitions: u32) -> Result<Stream, Refusal> {
        self.inner.open_stream(id, partitions)
    }
    fn streams(&self) -> Vec<Stream> {
        self.inner.streams()
    }
    fn partition_id(&self, partition: Partition) -> Option<PartitionId> {
        self.inner.partition_id(partition)
    }
    fn is_shared(&self) -> bool {
        self.is_shared
    }
    fn submit(&self, append: Append, reply: Option<Reply>) {
        self.inner.submit(append, reply);
    }
    fn submit_in_order(&self, append: Append, reply: Reply, order: InOrder) {
        let bytes: usize = append.batches.iter().map(|(_, batch)| batch.as_bytes().len()).sum();
        self.largest.fetch_max(bytes as u64, Ordering::Relaxed);
        self.classes.lock().unwrap().push(append.class);
        if let Some(outcome) = *self.faults.outcome.lock().unwrap() {
            let completion = Completion { tag: reply.tag, outcome: outcome() };
            return reply.sink.complete(vec![completion]);
        }
        if self.is_shared && append.class == Class::None {
            // As where nobody says where it is.
            let places = append.batches.iter().map(|(partition, _)| self.inner.watermark(*partition));
            let completion = Completion { tag: reply.tag, outcome: Outcome::Committed(places.collect()) };
            if !self.faults.loses_none.load(Ordering::Relaxed) {
                self.inner.submit(append, None);
            }
            return reply.sink.complete(vec![completion]);
        }
        self.inner.submit_in_order(append, reply, order);
    }
    fn keeps_units_whole(&self) -> bool {
        self.inner.keeps_units_whole()
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
        self.inner.watermark(partition)
    }
    fn watch(&self, sink: Arc<dyn WatermarkSink>) {
        self.inner.watch(sink);
    }
    fn watch_retention(&self, sink: Arc<dyn RetentionSink>) {
        self.inner.watch_retention(sink);
    }
    fn read(&self, partition: Partition, from: Position, max_bytes: usize) -> Result<Read, ReadError> {
        let read = self.inner.read(partition, from, max_bytes)?;
        let bytes: usize = read.batches.iter().map(|batch| batch.batch.as_bytes().len()).sum();
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(read)
    }
    fn read_cached(&self, partition: Partition, from: Position, max_bytes: usize) -> Option<Read> {
        if self.faults.is_cold.load(Ordering::Relaxed) {
            return None;
        }
        self.read(partition, from, max_bytes).ok()
    }
    fn fetch(&self, partition: Partition, refs: &[RecordRef]) -> Result<Vec<FetchedRecord>, ReadError> {
        let unreadable = *self.faults.unreadable.lock().unwrap();
        if refs.iter().any(|reference| Some(reference.position.offset) == unreadable) {
            assert!(!self.faults.panics.load(Ordering::Relaxed), "a test makes reading panic");
            let source = std::io::Error::other("the sector cannot be read");
            return Err(ReadError::Io { file: "segment".to_owned(), at: 0, source });
        }
        let mut fetched = self.inner.fetch(partition, refs)?;
        let damaged = *self.faults.damaged.lock().unwrap();
        fetched.retain(|record| Some(record.position.offset) != damaged);
        let bytes: usize = fetched.iter().map(|record| record.bytes.len()).sum();
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(fetched)
    }
    fn position_at(&self, partition: Partition, time_ms: i64) -> Result<Position, ReadError> {
        self.inner.position_at(partition, time_ms)
    }
    fn trim(&self, partition: Partition, before: Position) {
        self.inner.trim(partition, before);
    }
}

pub(crate) struct Rig {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) log: Arc<dyn Log>,
    /// Bytes read from the log since the last look.
    pub(crate) bytes_read: Arc<AtomicU64>,
    /// Bytes of the largest unit that a worker has appended.
    pub(crate) largest_unit: Arc<AtomicU64>,
    /// Classes of the units that workers have appended.
    pub(crate) classes: Arc<Mutex<Vec<Class>>>,
    /// Who decides, from the next [`Self::crash`] on.
    pub(crate) access: fn() -> Access,
    pub(crate) faults: Arc<Faults>,
    /// What its workers have counted.
    pub(crate) counts: Counts,
    /// The log commits nothing more that can be seen: neither acknowledgements nor watermarks come.
    is_held: bool,
    /// What waits for the disk while that does not answer.
    pub(crate) jobs: Option<Vec<Job>>,
    /// Turns until the process dies.
    fuse: Option<u32>,
    /// The log; `None`: it is the embedded one, on the disk.
    model: Option<ModelLog>,
    /// How the embedded one is opened, and what is open of it.
    engine: EmbeddedConfig,
    pub(crate) embedded: Option<Arc<Embedded>>,
    adverse: Option<Arc<AdverseLog>>,
    pub(crate) disk: FaultDisk,
    pub(crate) workers: Vec<Worker>,
    clients: Vec<Client>,
    by_conn: HashMap<(usize, ConnId), usize>,
    run: u64,
    /// Which of the servers on a shared log this is, and what they share.
    node: usize,
    pub(crate) slots: Option<Arc<Mutex<Slots>>>,
    uptime: Duration,
    config: BrokerConfig,
}

impl Rig {
    /// Two workers; `adversity` decides how hard the log is to use.
    pub(crate) fn new(adversity: Adversity, seed: u64) -> Self {
        Self::with_config(adversity, seed, BrokerConfig::default())
    }

    pub(crate) fn with_config(adversity: Adversity, seed: u64, config: BrokerConfig) -> Self {
        Self::with_access(adversity, seed, config, Access::open_loopback)
    }

    pub(crate) fn with_access(adversity: Adversity, seed: u64, config: BrokerConfig, access: fn() -> Access) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
        let model = ModelLog::new(clock.clone());
        let engine = EmbeddedConfig::new("/data/log");
        Self::of(clock, Some(model), engine, adversity, seed, config, access)
    }

    /// On the embedded log, which is on one disk with the snapshots of folds.
    pub(crate) fn on_disk(adversity: Adversity, seed: u64, config: BrokerConfig) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
        let engine = EmbeddedConfig::new("/data/log");
        Self::of(clock, None, engine, adversity, seed, config, Access::open_loopback)
    }

    /// The same, with files as small as `engine` says.
    pub(crate) fn on_disk_with(engine: EmbeddedConfig) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
        let config = BrokerConfig::default();
        Self::of(clock, None, engine, Adversity::NONE, 1, config, Access::open_loopback)
    }

    fn of(
        clock: Arc<ManualClock>,
        model: Option<ModelLog>,
        engine: EmbeddedConfig,
        adversity: Adversity,
        seed: u64,
        config: BrokerConfig,
        access: fn() -> Access,
    ) -> Self {
        let mut rig = Self {
            log: Arc::new(ModelLog::new(clock.clone())),
            clock,
            bytes_read: Arc::default(),
            largest_unit: Arc::default(),
            classes: Arc::default(),
            access,
            faults: Arc::default(),
            counts: Counts::default(),
            is_held: false,
            jobs: None,
            fuse: None,
            model,
            engine,
            embedded: None,
            adverse: None,
            disk: FaultDisk::new(seed),
            workers: Vec::new(),
            clients: Vec::new(),
            by_conn: HashMap::new(),
            run: 1,
            node: 0,
            slots: None,
            uptime: Duration::ZERO,
            config: BrokerConfig { partitions: 4, ..config },
        };
        rig.boot(adversity, seed);
        rig
    }

    /// The same server, which shares its log from now on, and another one.
    pub(crate) fn share(mut self) -> [Self; 2] {
        let slots = Arc::new(Mutex::new(Slots { epoch: 0, owner: 0, watchers: BTreeMap::new() }));
        self.slots = Some(Arc::clone(&slots));
        self.restart(Adversity::NONE, 1);
        let mut other = Self {
            log: self.log.clone(),
            clock: self.clock.clone(),
            bytes_read: Arc::default(),
            largest_unit: Arc::default(),
            classes: Arc::default(),
            faults: Arc::default(),
            counts: Counts::default(),
            jobs: None,
            model: self.model.clone(),
            engine: self.engine.clone(),
            embedded: None,
            adverse: None,
            disk: FaultDisk::new(2),
            workers: Vec::new(),
            clients: Vec::new(),
            by_conn: HashMap::new(),
            run: 1 << 32,
            node: 1,
            slots: Some(slots),
            config: self.config.clone(),
            ..self
        };
        other.boot(Adversity::NONE, 2);
        [self, other]
    }

    /// The slots are this server's from now on.
    pub(crate) fn gain_slots(&self) {
        let slots = self.slots.as_ref().expect("the log is shared");
        let mut slots = slots.lock().unwrap();
        let fence = Fence::new(Slot(0), slots.epoch + 1);
        (slots.owner, slots.epoch) = (self.node, fence.epoch());
        for (node, sink) in &slots.watchers {
            if *node == self.node { sink.gained(fence) } else { sink.lost(fence.slot()) }
        }
    }

    fn open_log(&mut self) -> Arc<dyn Log> {
        match &self.model {
            Some(model) => Arc::new(model.clone()),
            None => {
                let opened = Embedded::open(Arc::new(self.disk.clone()), self.clock.clone(), self.engine.clone());
                let (log, report) = opened.unwrap();
                assert!(report.corrupt.is_empty(), "neither a crash nor a power cut is damage: {:?}", report.corrupt);
                self.embedded = Some(log.clone());
                log
            }
        }
    }

    fn boot(&mut self, adversity: Adversity, seed: u64) {
        // A broker whose first append has no known outcome, or whose partitions another process owns, does not start.
        let at_start = Adversity { unknown: 0, fenced: 0, ..adversity };
        let log = AdverseLog::new(self.open_log(), at_start, seed);
        let shared: Arc<dyn Log> = Arc::new(Counting {
            inner: log.clone(),
            bytes: self.bytes_read.clone(),
            largest: self.largest_unit.clone(),
            classes: self.classes.clone(),
            faults: self.faults.clone(),
            is_shared: self.slots.is_some(),
        });
        self.log = shared.clone();
        let access = (self.access)();
        let owners: Arc<dyn Owners> = match &self.slots {
            None => Arc::new(AllSlots::new(shared.clone(), 1)),
            Some(slots) => Arc::new(Share { node: self.node, slots: slots.clone(), log: shared.clone() }),
        };
        let snapshots = Arc::new(Folder::new(Arc::new(self.disk.clone()), Path::new("/data")));
        let environment = Environment {
            access,
            owners,
            log: shared,
            snapshots,
            clock: self.clock.clone(),
            run: self.run,
            previous_runs: Vec::new(),
        };
        let is_open = AtomicBool::new(false);
        self.workers = std::thread::scope(|scope| {
            // Opening waits for the log; from then on it moves with the turns, and seeds replay.
            scope.spawn(|| {
                while !is_open.load(Ordering::Acquire) {
                    log.pump();
                    std::thread::yield_now();
                }
            });
            let workers = metrics::with_local_recorder(&self.counts, || {
                let broker = Broker::open(self.config.clone(), environment, 2);
                broker.and_then(|broker| Ok(vec![broker.worker(0)?, broker.worker(1)?]))
            });
            is_open.store(true, Ordering::Release);
            workers.unwrap()
        });
        log.set_adversity(adversity);
        self.adverse = Some(log);
    }

    /// The process waits for its disk from now on, or not any more.
    pub(crate) fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    /// The disk answers again.
    pub(crate) fn run_jobs(&mut self) {
        self.jobs.take().into_iter().flatten().for_each(Job::run);
    }

    /// The process dies after so many turns: nothing moves any more, until [`Self::crash`].
    pub(crate) fn dies_after(&mut self, turns: u32) {
        self.fuse = Some(turns);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.fuse == Some(0)
    }

    /// Changes what the log does from now on.
    pub(crate) fn set_adversity(&self, adversity: Adversity) {
        self.adverse.as_ref().expect("the rig has booted").set_adversity(adversity);
    }

    /// Changes the configuration, from the next [`Self::crash`] on.
    pub(crate) fn declare(&mut self, config: BrokerConfig) {
        self.config = BrokerConfig { partitions: 4, ..config };
    }

    /// The process dies and starts again on the same log; all connections are gone.
    pub(crate) fn crash(&mut self, adversity: Adversity, seed: u64) {
        if self.model.is_none() {
            self.disk = self.disk.process_crash();
        }
        self.restart(adversity, seed);
    }

    /// The machine loses its power, and starts again with what its disk has kept.
    pub(crate) fn lose_power(&mut self, adversity: Adversity, seed: u64) {
        assert!(self.model.is_none(), "a log in memory would not come back");
        self.disk = self.disk.power_cut(seed);
        self.restart(adversity, seed);
    }

    fn restart(&mut self, adversity: Adversity, seed: u64) {
        self.workers.clear();
        self.embedded = None;
        self.by_conn.clear();
        for client in &mut self.clients {
            client.at = None;
        }
        self.run += 1;
        self.fuse = None;
        // Of the process.
        self.uptime = Duration::ZERO;
        self.boot(adversity, seed);
    }

    pub(crate) fn client(&mut self) -> ClientId {
        let worker = self.clients.len() % 2;
        let conn = self.workers[worker].open("127.0.0.1:9".parse().unwrap()).unwrap();
        self.by_conn.insert((worker, conn), self.clients.len());
        self.clients.push(Client { at: Some((worker, conn)), output: Vec::new(), reads: true, is_broken: false });
        ClientId(self.clients.len() - 1)
    }

    pub(crate) fn send(&mut self, client: ClientId, bytes: &[u8]) {
        self.send_in_turn(client, bytes);
        self.turn();
    }

    /// Sends, and leaves the turn to others. Whether more would be read.
    pub(crate) fn send_in_turn(&mut self, client: ClientId, bytes: &[u8]) -> bool {
        let at = self.clients[client.0].at;
        at.is_some_and(|(worker, conn)| self.workers[worker].received(conn, bytes))
    }

    pub(crate) fn hang_up(&mut self, client: ClientId) {
        self.hang_up_in_turn(client);
        self.turn();
    }

    pub(crate) fn hang_up_in_turn(&mut self, client: ClientId) {
        if let Some((worker, conn)) = self.clients[client.0].at.take() {
            self.workers[worker].hung_up(conn);
        }
    }

    /// The client's socket refuses to be written to.
    pub(crate) fn deafen(&mut self, client: ClientId) {
        self.clients[client.0].is_broken = true;
        if let Some((worker, conn)) = self.clients[client.0].at {
            self.workers[worker].deafened(conn);
        }
    }

    /// The worker that has the client's connection.
    pub(crate) fn worker_of(&self, client: ClientId) -> Option<usize> {
        self.clients[client.0].at.map(|(worker, _)| worker)
    }

    /// Whether the client's worker waits for the log.
    pub(crate) fn is_pressed(&self, client: ClientId) -> bool {
        self.clients[client.0].at.is_some_and(|(worker, _)| self.workers[worker].is_pressed())
    }

    /// What the broker has for a client that its socket has not taken, in bytes.
    pub(crate) fn unread(&self, client: ClientId) -> usize {
        self.clients[client.0].at.map_or(0, |(worker, conn)| self.workers[worker].output(conn).len())
    }

    /// Whether the client's socket takes what it is sent.
    pub(crate) fn reads(&mut self, client: ClientId, reads: bool) {
        self.clients[client.0].reads = reads;
        if let Some((worker, conn)) = self.clients[client.0].at.filter(|_| reads) {
            self.write(worker, conn);
        }
    }

    pub(crate) fn is_open(&self, client: ClientId) -> bool {
        self.clients[client.0].at.is_some()
    }

    pub(crate) fn has_output(&self, client: ClientId) -> bool {
        !self.clients[client.0].output.is_empty()
    }

    /// How many units have ended before an earlier one.
    pub(crate) fn overtaken(&self) -> u64 {
        self.adverse.as_ref().map_or(0, |adverse| adverse.struck().overtaken)
    }

    /// Takes what the client was sent.
    pub(crate) fn take(&mut self, client: ClientId) -> Vec<u8> {
        std::mem::take(&mut self.clients[client.0].output)
    }

    /// Takes turns until `done`, but not for ever.
    pub(crate) fn turn_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..30_000 {
            if done(self) {
                return;
            }
            self.turn();
        }
    }

    /// Waits for so many bytes, and takes them; `None` if the connection ends first. Time passes meanwhile.
    pub(crate) fn take_or_end(&mut self, client: ClientId, len: usize) -> Option<Vec<u8>> {
        for turn in 0..30_000 {
            let output = &mut self.clients[client.0].output;
            if output.len() >= len {
                let rest = output.split_off(len);
                return Some(std::mem::replace(output, rest));
            }
            if !self.is_open(client) {
                return None;
            }
            self.advance(Duration::from_millis(if turn > 50 { 1_000 } else { 20 }));
        }
        panic!("neither {len} bytes nor an end");
    }

    /// Waits for these bytes, and takes them.
    pub(crate) fn expect(&mut self, client: ClientId, expected: &[u8]) {
        self.turn_until(|rig| rig.clients[client.0].output.len() >= expected.len());
        let output = &mut self.clients[client.0].output;
        let rest = output.split_off(expected.len().min(output.len()));
        let got = std::mem::replace(output, rest);
        assert_eq!(got, expected, "got {got:02x?}, expected {expected:02x?}");
    }

    pub(crate) fn expect_close(&mut self, client: ClientId) {
        self.turn_until(|rig| !rig.is_open(client));
        assert!(!self.is_open(client), "the connection is still open");
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
        self.pass(by);
    }

    /// The same, where the clock is another's to advance.
    pub(crate) fn pass(&mut self, by: Duration) {
        self.uptime += by;
        for worker in &mut self.workers {
            worker.tick(self.uptime);
        }
        self.turn();
    }

    /// Takes all records of these streams from the log.
    pub(crate) fn trim_all(&self, streams: &[&str]) {
        for stream in self.log.streams().iter().filter(|stream| streams.contains(&stream.id.stream.as_str())) {
            for partition in (0..stream.partitions).map(|index| stream.partition(index)) {
                self.log.trim(partition, self.log.watermark(partition));
            }
        }
    }

    /// A turn of the log alone.
    pub(crate) fn pump(&self) {
        self.adverse.as_ref().expect("the rig has booted").pump();
    }

    /// One turn of the log, then one of each worker.
    pub(crate) fn turn(&mut self) {
        if self.is_dead() {
            return;
        }
        self.fuse = self.fuse.map(|turns| turns - 1);
        if !self.is_held {
            if self.model.is_none() {
                self.adverse.as_ref().expect("the rig has booted").settle();
            }
            self.pump();
        }
        for at in 0..self.workers.len() {
            self.workers[at].take_mail();
            while self.workers[at].read_letter() {}
            self.workers[at].end_turn();
            while let Some(effect) = self.workers[at].next_effect() {
                match effect {
                    Effect::Write(conn) => self.write(at, conn),
                    Effect::Resume(_) => {}
                    Effect::Drain(_, conn) => self.workers[at].drained(conn),
                    Effect::Close(conn, kind) => {
                        self.write(at, conn);
                        self.workers[at].release(conn);
                        if let Some(client) = self.by_conn.remove(&(at, conn)) {
                            assert!(kind == CloseKind::ByUs || self.clients[client].at.is_none());
                            self.clients[client].at = None;
                        }
                    }
                    Effect::Move(conn, to, handoff) => {
                        self.workers[at].release(conn);
                        let new = self.workers[usize::from(to)].adopt(handoff);
                        if let Some(client) = self.by_conn.remove(&(at, conn)) {
                            self.by_conn.insert((usize::from(to), new), client);
                            self.clients[client].at = Some((usize::from(to), new));
                        }
                    }
                    Effect::Run(job) => match &mut self.jobs {
                        Some(jobs) => jobs.push(job),
                        None => job.run(),
                    },
                }
            }
        }
    }

    fn write(&mut self, worker: usize, conn: ConnId) {
        let Some(client) = self.by_conn.get(&(worker, conn)) else { return };
        let client = &mut self.clients[*client];
        if client.is_broken {
            self.workers[worker].deafened(conn);
            return;
        }
        if !client.reads {
            self.workers[worker].written(conn, 0);
            return;
        }
        let output = self.workers[worker].output(conn).to_vec();
        client.output.extend_from_slice(&output);
        self.workers[worker].written(conn, output.len());
    }
}

/// CONNECT of 3.1.1 (level 4) or 5.0.
pub(crate) fn connect(level: u8, flags: u8, properties: &[u8], id: &str) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT".to_vec();
    body.extend([level, flags, 0, 60]);
    if level == 5 {
        body.push(properties.len() as u8);
        body.extend(properties);
    }
    body.extend((id.len() as u16).to_be_bytes());
    body.extend(id.as_bytes());
    packet(0x10, &body)
}

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 128);
    [&[first, body.len() as u8], body].concat()
}
