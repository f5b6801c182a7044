//! A seeded life of a log: appends, trims, restarts and cuts, with all that was promised written
//! down and looked up after each recovery.

use super::engine;
use floodplain_log::{
    Append, Batch, BatchBuilder, CompletionSink, Compression, Embedded, Log, Outcome, Partition, Refusal, Reply,
    WatermarkSink,
};
use floodplain_testkit::{Copies, FaultDisk, History, Op, Outcomes, Stamp};
use floodplain_types::{Class, Clock as _, ManualClock, Position, StreamId, StreamName, TenantId, Timestamp};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

pub(super) const DIR: &str = "data/log";

/// Far more than a life needs to come to the call at which the power goes.
const STEPS_MAX: u32 = 500;

/// The greatest watermark that was told of each partition.
#[derive(Debug, Default)]
struct Told(Mutex<HashMap<Partition, Position>>);

impl WatermarkSink for Told {
    fn advanced(&self, watermarks: &[(Partition, Position)]) {
        let mut told = self.0.lock().unwrap();
        for (partition, watermark) in watermarks {
            let before = told.insert(*partition, *watermark);
            assert!(before < Some(*watermark), "watermarks grow: {before:?}, then {watermark}");
        }
    }
}

/// A log that is open, and what it was asked to do.
pub(super) struct Life {
    pub(super) log: Arc<Embedded>,
    outcomes: Arc<Outcomes>,
    told: Arc<Told>,
    pending: BTreeMap<u64, Unit>,
    next_tag: u64,
    /// Committed with a lesser class: what that is worth shows at the end of this life.
    lesser: Vec<(Unit, Vec<Position>)>,
}

impl Life {
    fn begin(log: Arc<Embedded>) -> Self {
        let told = Arc::new(Told::default());
        log.watch(Arc::clone(&told) as Arc<dyn WatermarkSink>);
        let outcomes = Outcomes::new();
        Self { log, outcomes, told, pending: BTreeMap::new(), next_tag: 0, lesser: Vec::new() }
    }
}

/// One append unit: client and messages of each batch.
#[derive(Clone)]
struct Unit {
    class: Class,
    batches: Vec<(String, Vec<Stamp>)>,
}

impl Unit {
    fn stamps(&self) -> impl Iterator<Item = &Stamp> {
        self.batches.iter().flat_map(|(_, stamps)| stamps)
    }
}

/// Where the messages of a batch are whose first one is at `base`.
fn places(stamps: &[Stamp], base: Position) -> impl Iterator<Item = (&Stamp, Position)> {
    stamps.iter().zip(base.offset..).map(move |(stamp, offset)| (stamp, Position { offset, ..base }))
}

/// What happened to the disk at the end of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    PowerCut,
    ProcessCrash,
    /// The log was closed in order: nothing accepted may be missing.
    Closed,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) rng: SmallRng,
    pub(super) disk: FaultDisk,
    /// The disk as it was before the last cut, for the report of a failure.
    previous: FaultDisk,
    pub(super) clock: Arc<ManualClock>,
    pub(super) history: History,
    /// Streams that were opened, with their partitions.
    streams: BTreeMap<StreamId, u32>,
    next_stream: u32,
    next_seq: HashMap<String, u64>,
    /// Where committed messages of class `all` are.
    places: HashMap<Stamp, Position>,
    /// What is in each partition, as far as it was read or acknowledged: position and sequence.
    known: HashMap<String, Vec<(Position, u64)>>,
    /// Units of several batches that may have been written.
    units: Vec<Vec<Stamp>>,
    /// Sequences before which a client's messages may be removed.
    trimmed: HashMap<String, u64>,
    /// Watermarks of earlier lives, by client.
    watermarks: HashMap<String, Position>,
    /// Cuts during a call, each at the one that was chosen for it, and how many of them were in a recovery.
    pub(super) cuts: u64,
    pub(super) cuts_in_recovery: u64,
    /// The calls that the power went during.
    pub(super) cut_at: BTreeSet<(Op, String)>,
    /// Calls of the last recovery and of the last life that came to their ends: cuts fall among so many.
    recovery_calls: u64,
    life_calls: u64,
    /// What was committed with a lesser class in the last life, and whether that holds as long as
    /// the power stays.
    lesser: Vec<(Unit, Vec<Position>, bool)>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "seed {}, the last calls on the disk before this one:\n{}",
                self.seed,
                self.previous.recent_calls()
            );
            println!("the last calls on this disk:\n{}", self.disk.recent_calls());
        }
    }
}

/// The one writer of a partition is its client: order per partition and per client are one.
fn client(stream: &StreamId, index: u32) -> String {
    format!("{}/{index}", stream.stream)
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let disk = FaultDisk::new(seed);
        disk.forget_failed_entries();
        Self {
            seed,
            rng: SmallRng::seed_from_u64(seed),
            disk,
            previous: FaultDisk::new(seed),
            clock: Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000))),
            history: History::new(),
            streams: BTreeMap::new(),
            next_stream: 0,
            next_seq: HashMap::new(),
            places: HashMap::new(),
            known: HashMap::new(),
            units: Vec::new(),
            trimmed: HashMap::new(),
            watermarks: HashMap::new(),
            cuts: 0,
            cuts_in_recovery: 0,
            cut_at: BTreeSet::new(),
            recovery_calls: 40,
            life_calls: 60,
            lesser: Vec::new(),
        }
    }

    /// The same world once more, on a disk of its own; no life may be going on.
    pub(super) fn again(&self) -> Self {
        Self {
            seed: self.seed,
            rng: self.rng.clone(),
            disk: self.disk.duplicate(self.seed),
            previous: self.previous.clone(),
            clock: Arc::new(ManualClock::new(self.clock.now())),
            history: self.history.clone(),
            streams: self.streams.clone(),
            next_stream: self.next_stream,
            next_seq: self.next_seq.clone(),
            places: self.places.clone(),
            known: self.known.clone(),
            units: self.units.clone(),
            trimmed: self.trimmed.clone(),
            watermarks: self.watermarks.clone(),
            cuts: self.cuts,
            cuts_in_recovery: self.cuts_in_recovery,
            cut_at: self.cut_at.clone(),
            recovery_calls: self.recovery_calls,
            life_calls: self.life_calls,
            lesser: self.lesser.clone(),
        }
    }

    /// Opens the log, with power cuts on the way if `cuts` says so, and checks what it holds.
    pub(super) fn recover(&mut self, cuts: bool) -> Life {
        loop {
            if cuts && self.rng.random_ratio(1, 3) {
                self.disk.cut_at_call(self.rng.random_range(1..=self.recovery_calls));
            }
            let calls_before = self.disk.calls();
            let opened = engine::open(&self.disk, &self.clock, &mut self.rng);
            self.disk.cancel_cut();
            match opened {
                Ok(log) if !self.disk.is_frozen() => {
                    self.recovery_calls = self.disk.calls() - calls_before;
                    self.check(&log, true);
                    return Life::begin(log);
                }
                // The power went while it was opened; what it did is as good as any crash.
                _ if self.disk.is_frozen() => {
                    self.cut_power();
                    self.cuts_in_recovery += 1;
                }
                Ok(_) => unreachable!("the disk is not frozen"),
                Err(error) => panic!("seed {}: a healthy disk does not open: {error}", self.seed),
            }
        }
    }

    fn cut_power(&mut self) {
        if self.disk.is_frozen() {
            self.cuts += 1;
            self.cut_at.extend(self.disk.hit());
        }
        let next = self.disk.power_cut(self.rng.random());
        self.previous = std::mem::replace(&mut self.disk, next);
        // Class `leader` survives a crash of the process, until the power goes before recovery.
        self.lesser.iter_mut().for_each(|(.., holds)| *holds = false);
    }

    /// Opens the log without checking it, for lives in which reads may fail.
    pub(super) fn open_unchecked(&mut self) -> Option<Life> {
        engine::open(&self.disk, &self.clock, &mut self.rng).ok().map(Life::begin)
    }

    /// Checks a running log that has nothing under way.
    pub(super) fn look_at(&mut self, life: &Life) {
        self.check(&life.log, false);
    }

    /// Checks everything that was ever promised. After a recovery what is there counts as promised
    /// from now on, and what is not there must not come back.
    fn check(&mut self, log: &Arc<Embedded>, recovered: bool) {
        for (unit, positions, holds) in std::mem::take(&mut self.lesser) {
            if holds {
                self.promised(&unit, &positions);
            } else {
                unit.stamps().for_each(|stamp| self.history.weak_ok(stamp));
            }
        }
        let (mut payloads, mut found, mut turned_back) = (Vec::new(), HashSet::new(), Vec::new());
        self.known.clear();
        for stream in log.streams() {
            for index in 0..stream.partitions {
                let (partition, client) = (stream.partition(index), client(&stream.id, index));
                let watermark = log.watermark(partition);
                if let Some(before) = self.watermarks.get(&client).filter(|before| watermark < **before) {
                    turned_back.push(format!("{client} ends at {watermark}, was {before}"));
                }
                let known = self.known.entry(client).or_default();
                for (position, payload) in engine::read_all(&**log, partition) {
                    assert!(position < watermark, "seed {}: {position} is not below {watermark}", self.seed);
                    if let Ok(stamp) = Stamp::parse(&payload) {
                        if let Some(place) = self.places.get(&stamp) {
                            assert_eq!(*place, position, "seed {}: {stamp:?} has moved", self.seed);
                        }
                        known.push((position, stamp.seq));
                        found.insert(stamp);
                    }
                    payloads.push(payload);
                }
            }
        }
        let report = self.history.check(payloads.iter().map(Vec::as_slice), Copies::PerAttempt);
        // First of all what nobody may lose: that is what finds a fault that was built in.
        report.assert_clean(format_args!("seed {} after {} cuts", self.seed, self.cuts));
        assert!(turned_back.is_empty(), "seed {}: {turned_back:?}", self.seed);
        let here: HashMap<StreamId, u32> = log.streams().iter().map(|s| ((*s.id).clone(), s.partitions)).collect();
        for (id, partitions) in &self.streams {
            assert_eq!(here.get(id), Some(partitions), "seed {}: stream {id} was created", self.seed);
        }
        for unit in &self.units {
            let here = |stamp: &&Stamp| found.contains(*stamp);
            let may_be_gone = |stamp: &&Stamp| self.trimmed.get(&stamp.client).is_some_and(|seq| stamp.seq < *seq);
            let missing: Vec<_> = unit.iter().filter(|s| !here(s) && !may_be_gone(s)).collect();
            let present = unit.iter().find(here);
            assert!(missing.is_empty() || present.is_none(), "seed {}: {missing:?} without {present:?}", self.seed);
        }
        if recovered {
            self.units.clear();
            self.history.settle(payloads.iter().map(Vec::as_slice));
        }
    }

    /// Creates a stream; whether the log took it.
    pub(super) fn create_stream(&mut self, life: &Life) -> Result<(), Refusal> {
        let (tenant, stream) =
            (TenantId::default_tenant(), StreamName::new(&format!("s{}", self.next_stream)).unwrap());
        let id = StreamId { tenant, stream, generation: 0 };
        self.next_stream += 1;
        let partitions = self.rng.random_range(1..=3);
        let stream = life.log.open_stream(&id, partitions)?;
        self.streams.insert(id, stream.partitions);
        Ok(())
    }

    fn batch(&mut self, client: &str) -> (Batch, Vec<Stamp>) {
        let mut builder = BatchBuilder::new();
        let next = self.next_seq.entry(client.to_owned()).or_default();
        let mut stamps = Vec::new();
        for _ in 0..self.rng.random_range(1..=3) {
            let stamp = Stamp::new(client, *next);
            *next += 1;
            let len = if self.rng.random_ratio(1, 10) { 1_500 } else { self.rng.random_range(0..200) };
            builder.push(1, Some(client.as_bytes()), Some(&stamp.payload(len)), []).unwrap();
            stamps.push(stamp);
        }
        let compression = if self.rng.random_ratio(1, 4) { Compression::Zstd } else { Compression::None };
        (builder.finish(compression).unwrap(), stamps)
    }

    /// Submits one unit over one to three partitions.
    pub(super) fn append(&mut self, life: &mut Life) {
        let mut partitions: Vec<(Partition, String)> = Vec::new();
        let streams = life.log.streams();
        let streams: Vec<_> = streams.iter().filter(|stream| self.streams.contains_key(&*stream.id)).collect();
        if streams.is_empty() {
            return;
        }
        for _ in 0..self.rng.random_range(1..=3) {
            let stream = streams[self.rng.random_range(0..streams.len())];
            let index = self.rng.random_range(0..stream.partitions);
            let partition = stream.partition(index);
            if partitions.iter().all(|(other, _)| *other != partition) {
                partitions.push((partition, client(&stream.id, index)));
            }
        }
        let class = [Class::All, Class::All, Class::Leader, Class::None][self.rng.random_range(0..4)];
        let (mut batches, mut unit) = (Vec::new(), Unit { class, batches: Vec::new() });
        for (partition, client) in partitions {
            let (batch, stamps) = self.batch(&client);
            stamps.iter().for_each(|stamp| self.history.invoke(stamp));
            batches.push((partition, batch));
            unit.batches.push((client, stamps));
        }
        if unit.batches.len() > 1 {
            self.units.push(unit.batches.iter().flat_map(|(_, stamps)| stamps.clone()).collect());
        }
        let tag = life.next_tag;
        life.next_tag += 1;
        life.pending.insert(tag, unit);
        let sink = Arc::clone(&life.outcomes) as Arc<dyn CompletionSink>;
        life.log.submit(Append { batches, class }, Some(Reply { sink, tag }));
    }

    /// Waits for the end of the oldest append under way.
    pub(super) fn wait(&mut self, life: &mut Life) -> Option<Outcome> {
        let (tag, unit) = life.pending.pop_first()?;
        let outcome = life.outcomes.wait(tag, &|| ());
        self.note(life, unit, &outcome);
        Some(outcome)
    }

    fn note(&mut self, life: &mut Life, unit: Unit, outcome: &Outcome) {
        match outcome {
            Outcome::Committed(positions) if unit.class == Class::All => {
                for ((client, stamps), position) in unit.batches.iter().zip(positions) {
                    let known = self.known.entry(client.clone()).or_default();
                    known.extend(places(stamps, *position).map(|(stamp, place)| (place, stamp.seq)));
                }
                self.promised(&unit, positions);
            }
            Outcome::Committed(positions) => life.lesser.push((unit, positions.clone())),
            Outcome::Refused(_) => unit.stamps().for_each(|stamp| self.history.fail(stamp)),
            Outcome::Unknown => unit.stamps().for_each(|stamp| self.history.unknown(stamp)),
        }
    }

    fn promised(&mut self, unit: &Unit, positions: &[Position]) {
        for ((_, stamps), position) in unit.batches.iter().zip(positions) {
            for (stamp, place) in places(stamps, *position) {
                self.history.ok(stamp);
                self.places.insert(stamp.clone(), place);
            }
        }
    }

    /// Allows a prefix of some partition to go.
    pub(super) fn trim(&mut self, life: &Life) {
        let streams = life.log.streams();
        if streams.is_empty() {
            return;
        }
        let stream = &streams[self.rng.random_range(0..streams.len())];
        let index = self.rng.random_range(0..stream.partitions);
        let client = client(&stream.id, index);
        let Some(known) = self.known.get(&client).filter(|known| !known.is_empty()) else { return };
        let (position, seq) = known[self.rng.random_range(0..known.len())];
        self.history.release(&client, seq);
        let trimmed = self.trimmed.entry(client).or_default();
        *trimmed = seq.max(*trimmed);
        life.log.trim(stream.partition(index), position);
    }

    /// Reads some partition while everything is under way: what is there was published.
    pub(super) fn peek(&mut self, life: &Life) {
        let streams = life.log.streams();
        if let Some(stream) = streams.first() {
            let partition = stream.partition(self.rng.random_range(0..stream.partitions));
            let read = life.log.read(partition, life.log.start(partition), 2_000);
            for batch in read.iter().flat_map(|read| &read.batches) {
                for record in &batch.batch.records().unwrap() {
                    Stamp::parse(record.unwrap().value.unwrap()).unwrap();
                }
            }
        }
    }

    /// Ends a life; the disk is then as the next one finds it.
    pub(super) fn end_of_life(&mut self, mut life: Life, end: End) {
        match end {
            End::PowerCut => self.cut_power(),
            End::ProcessCrash => {
                let next = self.disk.process_crash();
                self.previous = std::mem::replace(&mut self.disk, next);
            }
            End::Closed => {}
        }
        while let Some((tag, unit)) = life.pending.pop_first() {
            let outcome = life.outcomes.wait(tag, &|| ());
            if end == End::Closed {
                assert!(matches!(outcome, Outcome::Committed(_)), "seed {}: {outcome:?}", self.seed);
            }
            self.note(&mut life, unit, &outcome);
        }
        self.lesser.extend(std::mem::take(&mut life.lesser).into_iter().map(|(unit, positions)| {
            let holds = match end {
                End::PowerCut => false,
                End::ProcessCrash => unit.class == Class::Leader,
                End::Closed => true,
            };
            (unit, positions, holds)
        }));
        for (partition, watermark) in &*life.told.0.lock().unwrap() {
            if let Some(id) = life.log.partition_id(*partition) {
                self.watermarks.insert(client(&id.stream, id.index), *watermark);
            }
        }
    }

    /// A random life with a random end.
    pub(super) fn live(&mut self, mut life: Life) {
        let end = match self.rng.random_range(0..12) {
            0 => End::Closed,
            1 | 2 => End::ProcessCrash,
            _ => End::PowerCut,
        };
        // With a cut to come the life goes on until it has come.
        let cut = end == End::PowerCut && self.rng.random_ratio(3, 4);
        let (calls_before, steps) = (self.disk.calls(), if cut { STEPS_MAX } else { self.rng.random_range(1..25) });
        if cut {
            self.disk.cut_at_call(self.rng.random_range(1..=self.life_calls));
        }
        for _ in 0..steps {
            if self.disk.is_frozen() {
                break;
            }
            match self.rng.random_range(0..20) {
                0 => drop(self.create_stream(&life)),
                1 => self.trim(&life),
                2 => self.peek(&life),
                3..6 => drop(self.wait(&mut life)),
                6 => while self.wait(&mut life).is_some() {},
                _ => self.append(&mut life),
            }
            self.clock.advance(Duration::from_millis(10));
        }
        self.disk.cancel_cut();
        if !cut {
            self.life_calls = (self.disk.calls() - calls_before).max(1);
        }
        self.end_of_life(life, end);
    }

    /// Takes what a damaged log still holds for all there is: what is not in it was lost to the damage.
    pub(super) fn forgive_damage(&mut self, log: &dyn Log) {
        let mut payloads = Vec::new();
        for stream in log.streams() {
            for index in 0..stream.partitions {
                payloads.extend(engine::read_all(log, stream.partition(index)).into_iter().map(|(_, payload)| payload));
            }
        }
        self.history.forgive_missing(payloads.iter().map(Vec::as_slice));
        self.units.clear();
    }
}
