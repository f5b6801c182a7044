//! A fold that does everything a fold may do, and a worker that drives its runner.

use floodplain_fold::{
    Fold, Folder, Input, Next, Objects, Output, Outputs, PositionRecord, RestoreError, Runner, RunnerConfig,
    RunnerError, Settled, Snapshots, fold_whole,
    wire::{Get, Put},
};
use floodplain_log::{Append, BatchBuilder, Compression, Disk, Log, Outcome, Partition, Reply, Stream, header};
use floodplain_testkit::Outcomes;
use floodplain_types::{Class, PartitionId, Position, StreamId, StreamName, TenantId, Timestamp};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

/// What an input record asks the fold to do.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    /// Add to the sum of the key.
    Add(u8),
    /// Emit so many outputs with the sum of the key.
    Emit(u8),
    /// Emit one output when so many milliseconds have passed.
    Timer(u16),
    /// Emit one output for each of so many keys.
    All(u8),
    /// Nothing, but time passes.
    Tick,
}

/// An input record: key, what it asks, and how far the writer's clock moves before it (or back).
pub(crate) type Record = (u8, Ask, i16);

pub(crate) fn records(max: usize) -> impl Strategy<Value = Vec<Record>> {
    let ask = prop_oneof![
        3 => any::<u8>().prop_map(Ask::Add),
        3 => (0_u8..5).prop_map(Ask::Emit),
        2 => (0_u16..500).prop_map(Ask::Timer),
        2 => (0_u8..9).prop_map(Ask::All),
        1 => Just(Ask::Tick),
    ];
    prop::collection::vec((0_u8..4, ask, -50_i16..300), 1..max)
}

/// Sums by key, timers, and how many outputs there were.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Sums {
    sums: BTreeMap<Vec<u8>, u64>,
    timers: BTreeSet<(Timestamp, Vec<u8>)>,
    emitted: u64,
    /// Keys of [`Ask::All`] that are left: no part of the snapshot.
    left: Vec<u8>,
}

impl Sums {
    fn emit_left(&mut self, out: &mut Outputs) {
        while !self.left.is_empty() && out.spend() {
            let key = self.left.pop().unwrap();
            self.emit(&[key], "all", out);
        }
    }

    fn emit(&mut self, key: &[u8], why: &str, out: &mut Outputs) {
        self.emitted += 1;
        let sum = self.sums.get(key).copied().unwrap_or_default();
        out.push(Output {
            stream: "out",
            key: key.to_vec(),
            value: Some(format!("{why} {sum} {}", self.emitted).into_bytes()),
            headers: vec![("why".to_owned(), why.as_bytes().to_vec())],
        });
    }
}

impl Fold for Sums {
    const NAME: &'static str = "sums";
    const FORMAT: u16 = 1;
    const EMITS: bool = true;

    fn apply(&mut self, input: &Input<'_>, out: &mut Outputs) {
        let key = input.record.key.unwrap_or_default().to_vec();
        match input.record.value.unwrap_or_default() {
            [b'a', n] => *self.sums.entry(key).or_default() += u64::from(*n),
            [b'e', n] => (0..*n).for_each(|_| self.emit(&key, "asked", out)),
            [b't', lo, hi] => {
                let ms = i64::from(u16::from_le_bytes([*lo, *hi]));
                self.timers.insert((Timestamp(input.log_time.0 + ms * 1_000_000), key));
            }
            [b'l', n] => {
                self.left = (0..*n).collect();
                self.emit_left(out);
            }
            _ => {}
        }
    }

    fn has_more(&self) -> bool {
        !self.left.is_empty()
    }

    fn go_on(&mut self, out: &mut Outputs) {
        self.emit_left(out);
    }

    fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first().map(|(time, _)| *time)
    }

    fn on_time(&mut self, now: Timestamp, _position: Position, out: &mut Outputs) {
        while self.timers.first().is_some_and(|(time, _)| *time <= now) && out.spend() {
            let (_, key) = self.timers.pop_first().unwrap();
            self.emit(&key, "timer", out);
        }
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.put_u64(self.emitted);
        out.put_u64(self.sums.len() as u64);
        for (key, sum) in &self.sums {
            out.put_bytes(key);
            out.put_u64(*sum);
        }
        out.put_u64(self.timers.len() as u64);
        for (time, key) in &self.timers {
            out.put_time(*time);
            out.put_bytes(key);
        }
    }

    fn restore(&mut self, format: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        if format != Self::FORMAT {
            return Err(RestoreError::Format { found: format, newest: Self::FORMAT });
        }
        let mut get = Get::new(bytes);
        self.emitted = get.u64()?;
        self.sums = get.list(|get| Ok((get.bytes()?.to_vec(), get.u64()?)))?.into_iter().collect();
        self.timers = get.list(|get| Ok((get.time()?, get.bytes()?.to_vec())))?.into_iter().collect();
        Ok(get.end()?)
    }
}

pub(crate) fn stream_id(name: &str) -> StreamId {
    StreamId { tenant: TenantId::default_tenant(), stream: StreamName::new(name).unwrap(), generation: 0 }
}

/// The streams of a test, and the time that its writers see.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    pub(crate) input: Stream,
    pub(crate) out: Stream,
    pub(crate) folds: Stream,
}

impl Streams {
    pub(crate) fn open(log: &dyn Log) -> Self {
        let open = |name, partitions| log.open_stream(&stream_id(name), partitions).unwrap();
        Self { input: open("input", 1), out: open("out", 3), folds: open("_folds", 2) }
    }

    pub(crate) fn config(&self, disk: &Arc<dyn Disk>) -> RunnerConfig {
        self.config_of(&(Arc::new(Folder::new(disk.clone(), Path::new("/folds"))) as _))
    }

    pub(crate) fn config_of(&self, store: &Arc<dyn Objects>) -> RunnerConfig {
        let id = PartitionId { stream: (*self.input.id).clone(), index: 0 };
        RunnerConfig {
            partition: self.input.partition(0),
            snapshots: Snapshots::of(store.clone(), Sums::NAME, &id),
            id,
            outputs: vec![("out", self.out.clone())],
            folds: Some(self.folds.clone()),
        }
    }

    pub(crate) fn runner(&self, log: &dyn Log, disk: &Arc<dyn Disk>) -> Runner<Sums> {
        let mut runner = Runner::open(Sums::default(), self.config(disk), log).unwrap();
        // Small steps, so that there are many to crash between.
        runner.limit_steps(2);
        runner
    }
}

/// Appends records as batches of up to three.
pub(crate) fn write(log: &dyn Log, partition: Partition, records: &[Record]) {
    let mut builder = BatchBuilder::new();
    let mut now = 1_000_000_i64;
    for chunk in records.chunks(3) {
        for (key, ask, step) in chunk {
            now += i64::from(*step);
            let value = match ask {
                Ask::Add(n) => vec![b'a', *n],
                Ask::Emit(n) => vec![b'e', *n],
                Ask::Timer(ms) => vec![b't', ms.to_le_bytes()[0], ms.to_le_bytes()[1]],
                Ask::All(n) => vec![b'l', *n],
                Ask::Tick => vec![b'k'],
            };
            builder.push(now, Some(&[*key]), Some(&value), []).unwrap();
        }
        let batch = builder.finish(Compression::None).unwrap();
        log.submit(Append { batches: vec![(partition, batch)], class: Class::All }, None);
    }
}

/// An output as it is found in the log: dedup id, key, value.
pub(crate) type Found = (String, Vec<u8>, Vec<u8>);

/// Folds what is in the log without a runner: the outputs that must appear, and the state.
pub(crate) fn reference(log: &dyn Log, streams: &Streams) -> (Vec<Found>, Sums) {
    let (mut fold, mut out, mut found) = (Sums::default(), Outputs::default(), Vec::new());
    let (partition, mut log_time) = (streams.input.partition(0), Timestamp(i64::MIN));
    let (mut from, end) = (Position::ZERO, log.watermark(partition));
    while from < end {
        let read = log.read(partition, from, 1 << 20).unwrap();
        for batch in &read.batches {
            for record in &batch.batch.records().unwrap() {
                let record = record.unwrap();
                let position = batch.position(&record);
                if position < from {
                    continue;
                }
                log_time = log_time.max(Timestamp::from_millis(batch.batch.timestamp_ms(&record)));
                let input = Input { partition: 0, position, log_time, record: &record, batch };
                fold_whole(&mut fold, &input, &mut out);
                for (number, output) in out.drain().enumerate() {
                    let id = format!("sums:default.input/0:{position}:{number}");
                    found.push((id, output.key, output.value.unwrap()));
                }
            }
        }
        from = read.next;
    }
    found.sort();
    (found, fold)
}

/// All records of the output stream, sorted: repeated ones are there as often as they are.
pub(crate) fn outputs(log: &dyn Log, streams: &Streams) -> Vec<Found> {
    let mut found = Vec::new();
    for index in 0..streams.out.partitions {
        let (partition, mut from) = (streams.out.partition(index), Position::ZERO);
        while from < log.watermark(partition) {
            let read = log.read(partition, from, 1 << 20).unwrap();
            for batch in &read.batches {
                for record in &batch.batch.records().unwrap() {
                    let record = record.unwrap();
                    let id = record.headers().flatten().find(|(name, _)| *name == header::DEDUP_ID).unwrap().1.unwrap();
                    let id = String::from_utf8(id.to_vec()).unwrap();
                    assert_eq!(streams.out.partition_of(record.key.unwrap()), partition, "partition follows the key");
                    found.push((id, record.key.unwrap().to_vec(), record.value.unwrap().to_vec()));
                }
            }
            from = read.next;
        }
    }
    found.sort();
    found
}

/// How many position records the runner has written.
pub(crate) fn position_records(log: &dyn Log, streams: &Streams) -> usize {
    let id = PartitionId { stream: (*streams.input.id).clone(), index: 0 };
    let key = PositionRecord::key(Sums::NAME, &id);
    let partition = streams.folds.partition_of(&key);
    let read = log.read(partition, Position::ZERO, usize::MAX).unwrap();
    read.batches.iter().map(|batch| batch.batch.record_count() as usize).sum()
}

/// Does what a worker does, one thing at a time, so that a test can stop anywhere.
#[derive(Debug)]
pub(crate) struct Worker {
    outcomes: Arc<Outcomes>,
    waiting: Option<u64>,
    next_tag: u64,
}

impl Worker {
    pub(crate) fn new() -> Self {
        Self { outcomes: Outcomes::new(), waiting: None, next_tag: 0 }
    }

    /// One step; false if there was nothing to do.
    pub(crate) fn step(&mut self, log: &dyn Log, runner: &mut Runner<Sums>) -> Result<bool, RunnerError> {
        if let Some(tag) = self.waiting
            && let Some(outcome) = self.outcomes.take(tag)
        {
            self.waiting = None;
            let is_unknown = outcome == Outcome::Unknown;
            let settled = runner.on_outcome(outcome)?;
            assert_eq!(settled == Settled::Unknown, is_unknown);
            return Ok(true);
        }
        // Far from the writers' time: the wall clock must not show in anything.
        match runner.next(log, Timestamp::from_millis(77_777_777_777)) {
            Next::Append(append) => {
                assert_eq!(self.waiting, None, "one unit at a time");
                assert_eq!(append.class, Class::All);
                self.waiting = Some(self.next_tag);
                log.submit(append, Some(Reply { sink: self.outcomes.clone(), tag: self.next_tag }));
                self.next_tag += 1;
                Ok(true)
            }
            Next::Read { partition, from, .. } => {
                // Small reads, so that there are many steps to crash between.
                let read = log.read(partition, from, 1);
                runner.on_read(log, partition, from, read.as_ref().map_err(|error| panic!("{error}")))?;
                Ok(true)
            }
            Next::Step => {
                runner.step();
                Ok(true)
            }
            Next::Idle => Ok(false),
        }
    }

    /// Steps until everything is folded and out.
    pub(crate) fn run(&mut self, log: &dyn Log, runner: &mut Runner<Sums>) {
        while self.step(log, runner).unwrap() {}
        assert!(runner.is_settled());
    }
}
