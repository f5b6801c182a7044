//! A fold of which everybody knows what it must say, and who drives it.

use crate::owning::Node;
use floodplain_fold::{
    DedupWindow, Fold, Input, Next, Output, Outputs, RestoreError, Runner, RunnerConfig, RunnerError, Snapshots,
    StateHash, fold_whole,
    wire::{Get, Put},
};
use floodplain_log::{Disk, Fence, Log, ReadBatch, Record, Stream, header, slot_of};
use floodplain_types::{PartitionId, Position, StreamId, StreamName, TenantId, Timestamp};
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

/// Ids that are known of each key: more than any writer has under way and repeats. Each record is compared with all.
const IDS: usize = 64;
const KEYS: usize = 10_000;
/// Header of an output: how many records of its key there were so far.
const COUNT: &str = "count";
/// Asked for in one read, unless the driver is told otherwise.
const READ_BYTES: usize = 2_000;
/// Ingest time of outputs, wherever and whenever they are made, unless the driver is told otherwise.
const NOW: Timestamp = Timestamp::from_millis(77_777);

/// Counts the records of each key, each dedup id once, and says each of them again, with the count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counting {
    counts: BTreeMap<Vec<u8>, u64>,
    ids: DedupWindow,
}

impl Default for Counting {
    fn default() -> Self {
        Self { counts: BTreeMap::new(), ids: DedupWindow::new(IDS, IDS * KEYS) }
    }
}

impl Counting {
    /// The records of each key.
    #[must_use]
    pub const fn counts(&self) -> &BTreeMap<Vec<u8>, u64> {
        &self.counts
    }
}

impl Fold for Counting {
    const NAME: &'static str = "counting";
    const FORMAT: u16 = 1;
    const EMITS: bool = true;

    fn apply(&mut self, input: &Input<'_>, out: &mut Outputs) {
        let key = input.record.key.unwrap_or_default();
        if input.dedup_id().is_some_and(|id| !self.ids.is_new(key, id)) {
            return;
        }
        let count = self.counts.entry(key.to_vec()).or_default();
        *count += 1;
        let headers = vec![(COUNT.to_owned(), count.to_string().into_bytes())];
        let value = Some(input.record.value.unwrap_or_default().to_vec());
        out.push(Output { stream: "counts", key: key.to_vec(), value, headers });
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.put_u64(self.counts.len() as u64);
        for (key, count) in &self.counts {
            out.put_bytes(key);
            out.put_u64(*count);
        }
        self.ids.snapshot(out);
    }

    fn restore(&mut self, _: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        let mut get = Get::new(bytes);
        self.counts = get.list(|get| Ok((get.bytes()?.to_vec(), get.u64()?)))?.into_iter().collect();
        self.ids.restore(&mut get)?;
        Ok(get.end()?)
    }
}

/// An output of [`Counting`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    /// Its dedup id: fold, partition, position and number of its cause.
    pub id: String,
    pub key: Vec<u8>,
    /// Of the record that was counted.
    pub value: Vec<u8>,
    pub count: u64,
}

/// The streams that [`Counting`] reads and writes: `input`, `counts`, and `_folds`, with as many partitions each.
#[derive(Debug, Clone)]
pub struct FoldStreams {
    pub input: Stream,
    pub counts: Stream,
    pub folds: Stream,
}

impl FoldStreams {
    /// Opens them.
    ///
    /// # Panics
    /// If the log refuses.
    #[must_use]
    pub fn open(log: &dyn Log, partitions: u32) -> Self {
        let open = |name: &str| {
            let stream = StreamName::new(name).expect("names of tests are fine");
            let id = StreamId { tenant: TenantId::default_tenant(), stream, generation: 0 };
            log.open_stream(&id, partitions).expect("a healthy log opens streams")
        };
        Self { input: open("input"), counts: open("counts"), folds: open("_folds") }
    }

    fn id(&self, index: u32) -> PartitionId {
        PartitionId { stream: (*self.input.id).clone(), index }
    }

    /// A runner of partition `index` from the newest snapshot on `disk`, or from nothing.
    ///
    /// # Panics
    /// If it cannot start.
    #[must_use]
    pub fn runner(&self, log: &dyn Log, index: u32, disk: &Arc<dyn Disk>) -> Runner<Counting> {
        let id = self.id(index);
        let config = RunnerConfig {
            partition: self.input.partition(index),
            snapshots: Snapshots::new(Arc::clone(disk), Path::new("folds"), Counting::NAME, &id),
            id,
            outputs: vec![("counts", self.counts.clone())],
            folds: Some(self.folds.clone()),
        };
        Runner::open(Counting::default(), config, log).expect("a runner of this log starts")
    }

    /// What must come out of the input of partition `index`, in order, and with which state.
    #[must_use]
    pub fn expected(&self, log: &dyn Log, index: u32) -> (Vec<Counted>, Counting) {
        let (mut fold, mut out, mut all) = (Counting::default(), Outputs::default(), Vec::new());
        let id = self.id(index);
        each(log, &self.input, index, |batch, record| {
            let position = batch.position(record);
            let log_time = Timestamp::from_millis(batch.batch.timestamp_ms(record));
            fold_whole(&mut fold, &Input { partition: index, position, log_time, record, batch }, &mut out);
            for (number, output) in out.drain().enumerate() {
                let value = output.value.unwrap_or_default();
                let id = format!("{}:{id}:{position}:{number}", Counting::NAME);
                all.push(Counted { id, key: output.key, value, count: count_of(&output.headers[0].1) });
            }
        });
        (all, fold)
    }

    /// The outputs in the log in the order of their partitions, as often as they are there.
    #[must_use]
    pub fn found(&self, log: &dyn Log) -> Vec<Counted> {
        let mut found = Vec::new();
        for index in 0..self.counts.partitions {
            each(log, &self.counts, index, |_, record| {
                let header = |name: &str| {
                    let mut headers = record.headers().flatten();
                    headers.find(|(other, _)| *other == name).and_then(|(_, value)| value).unwrap_or_default().to_vec()
                };
                found.push(Counted {
                    id: String::from_utf8(header(header::DEDUP_ID)).expect("ids are text"),
                    key: record.key.unwrap_or_default().to_vec(),
                    value: record.value.unwrap_or_default().to_vec(),
                    count: count_of(&header(COUNT)),
                });
            });
        }
        found
    }

    /// All partitions together: what is missing among the outputs, what is there that must not be, or is there again.
    ///
    /// # Panics
    /// If anything is. Copies that the log itself has made may be there where it is not `exact`.
    pub fn check(&self, log: &dyn Log, exact: bool) {
        let mut expected: Vec<Counted> =
            (0..self.input.partitions).flat_map(|index| self.expected(log, index).0).collect();
        let mut found = self.found(log);
        expected.sort();
        found.sort();
        if !exact {
            found.dedup();
        }
        assert_eq!(found, expected, "each output once, and no other");
    }
}

fn count_of(text: &[u8]) -> u64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).expect("outputs have counts")
}

/// Shows each record of a partition, from the start to the watermark.
///
/// # Panics
/// If the log cannot be read.
pub fn each(log: &dyn Log, stream: &Stream, index: u32, mut each: impl FnMut(&ReadBatch, &Record<'_>)) {
    let partition = stream.partition(index);
    let (mut from, end) = (log.start(partition), log.watermark(partition));
    while from < end {
        let read = log.read(partition, from, 1 << 20).expect("a healthy log can be read");
        for batch in &read.batches {
            for record in &batch.batch.records().expect("it was written whole") {
                let record = record.expect("it was written whole");
                if batch.position(&record) >= from {
                    each(batch, &record);
                }
            }
        }
        from = read.next;
    }
}

/// What a driven runner does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drove {
    /// It has done something.
    On,
    /// There is nothing to do now.
    Idle,
    /// The slot is another's.
    Lost,
}

/// A runner of [`Counting`] whose outputs go through the commit of an owner.
#[derive(Debug)]
pub struct Driver<'n> {
    node: &'n Node,
    fence: Fence,
    runner: Runner<Counting>,
    /// Asked for in one read: little, so that there are many commits.
    pub read_bytes: usize,
    /// Becomes the ingest time of outputs.
    pub now: Timestamp,
}

impl<'n> Driver<'n> {
    /// A runner of partition `index`, for who owns its slot.
    ///
    /// # Panics
    /// If the slot was never owned.
    #[must_use]
    pub fn new(node: &'n Node, streams: &FoldStreams, index: u32, disk: &Arc<dyn Disk>) -> Self {
        let slot = slot_of(&streams.input.id.tenant, index, node.owners.slots());
        let fence = node.held.fence(slot).expect("the slot is owned");
        let runner = streams.runner(&*node.log, index, disk);
        Self { node, fence, runner, read_bytes: READ_BYTES, now: NOW }
    }

    /// The runner.
    #[must_use]
    pub const fn runner(&self) -> &Runner<Counting> {
        &self.runner
    }

    /// Does the one thing that the runner asks for.
    ///
    /// # Panics
    /// If the runner cannot go on for another reason than that its slot is lost.
    pub fn step(&mut self) -> Drove {
        let log = &*self.node.log;
        match self.runner.next(log, self.now) {
            Next::Append(append) => {
                let outcome = self.node.ended(self.node.begin(self.fence, append.batches));
                match self.runner.on_outcome(outcome) {
                    Ok(_) => {}
                    Err(RunnerError::Fenced { .. }) => return Drove::Lost,
                    Err(RunnerError::Append { source: floodplain_log::Refusal::Closing, .. }) => return Drove::Lost,
                    Err(error) => panic!("{error}"),
                }
            }
            Next::Read { partition, from, .. } => {
                let read = log.read(partition, from, self.read_bytes);
                match read.map(|read| self.runner.on_read(log, partition, from, Ok(&read))) {
                    Ok(Ok(folded)) => assert_eq!(folded.lost, None, "the log forgets nothing that is not folded"),
                    Ok(Err(error)) => panic!("{error}"),
                    Err(error) => match self.runner.on_read(log, partition, from, Err(error)) {
                        Ok(folded) => assert_eq!(folded.lost, None, "the log forgets nothing that is not folded"),
                        // It may be read later: brokers come back.
                        Err(RunnerError::Read { .. }) => std::thread::park_timeout(Duration::from_millis(20)),
                        Err(error) => panic!("{error}"),
                    },
                }
            }
            Next::Step => self.runner.step(),
            Next::Idle => {
                (self.node.pump)();
                return Drove::Idle;
            }
        }
        Drove::On
    }

    /// Dies, with what it would have done next begun.
    pub fn die(mut self) {
        if let Next::Append(append) = self.runner.next(&*self.node.log, self.now) {
            self.node.begin(self.fence, append.batches);
        }
    }

    /// Goes on until everything in the log is folded and its outputs are committed: the state. `None` when the slot is
    /// another's.
    pub fn settle(&mut self) -> Option<StateHash> {
        loop {
            match self.step() {
                Drove::Lost => return None,
                Drove::On => {}
                Drove::Idle if self.runner.is_settled() => return Some(self.runner.fold().state_hash()),
                Drove::Idle => std::thread::park_timeout(Duration::from_millis(1)),
            }
        }
    }

    /// Writes a snapshot of the state, if its outputs are out: its position.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn snapshot(&mut self) -> Option<Position> {
        if !self.runner.is_settled() {
            return None;
        }
        self.runner.begin_snapshot(Timestamp(0));
        let snapshot = self.runner.take_snapshot()?;
        self.runner.snapshots().write(&snapshot).expect("the disk is fine");
        Some(snapshot.meta.position)
    }
}
