//! What folds count, exactly: each counter that the guide lists.

use crate::{
    replay::{disk, model},
    support::{Ask, Streams, Sums, Worker, outputs, reference, write},
};
use floodplain_fold::{Fold, Input, Next, Output, Outputs, RestoreError, Runner};
use floodplain_log::{
    Append, Batch, BatchBuilder, Compression, Disk, HEADER_BYTES, Log, MAX_RECORDS_BYTES, Outcome, Partition,
    ReadError, Refusal, Reply,
};
use floodplain_testkit::{Counts, FaultDisk, ModelLog, Outcomes, documented};
use floodplain_types::{Class, Position, Timestamp};
use std::{collections::BTreeSet, sync::Arc};

const GUIDE: &str = include_str!("../../../../docs/guides/running.md");
const PREFIX: &str = "floodplain_fold_";

/// Does `run` and gives what was counted, without prefix and suffix.
fn counted(run: impl FnOnce()) -> Vec<(String, u64)> {
    let counts = Counts::default();
    metrics::with_local_recorder(&counts, run);
    let what = |name: &str| name.strip_prefix(PREFIX)?.strip_suffix("_total sums").map(str::to_owned);
    let all = counts.of(PREFIX);
    all.iter().map(|(name, value)| (what(name).unwrap_or_else(|| panic!("{name}")), *value)).collect()
}

fn opened() -> (ModelLog, Streams, Partition) {
    let log = model();
    let streams = Streams::open(&log);
    let input = streams.input.partition(0);
    (log, streams, input)
}

/// Three records with three outputs and a timer; then a start without a snapshot, which folds them again and writes nothing.
fn records_and_outputs() {
    let (log, streams, input) = opened();
    write(&log, input, &[(1, Ask::Emit(3), 0), (1, Ask::Timer(10), 0), (1, Ask::Add(1), 20)]);
    for _ in 0..2 {
        Worker::new().run(&log, &mut streams.runner(&log, &disk()));
    }
    assert_eq!(outputs(&log, &streams).len(), 4);
}

/// Two ranges in one read, one of them from behind the position on; then a log that says where it can be read again.
fn lost_to_damage() {
    let (log, streams, input) = opened();
    write(&log, input, &[(1, Ask::Tick, 0)]);
    let mut runner = streams.runner(&log, &disk());
    let mut worker = Worker::new();
    while !runner.takes_input() {
        worker.step(&log, &mut runner).unwrap();
    }
    let at = |offset| Position::new(0, offset);
    let mut read = log.read(input, at(0), usize::MAX).unwrap();
    read.batches[0].base = at(4);
    (read.damaged, read.next) = (vec![at(0)..at(4), at(5)..at(7)], at(7));
    runner.on_read(&log, input, at(0), Ok(&read)).unwrap();
    let (file, reason) = ("segment-7".to_owned(), "checksum".to_owned());
    let error = ReadError::Corrupt { file, at: 4096, reason, next: at(9) };
    runner.on_read(&log, input, at(7), Err(error)).unwrap();
    assert_eq!(runner.position(), at(9));
}

/// A batch of two records, changed, with the checksum that it then has.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Batch {
    let mut builder = BatchBuilder::new();
    for _ in 0..2 {
        builder.push(1, Some(b"k"), Some(b"k"), []).unwrap();
    }
    let mut bytes = builder.finish(Compression::None).unwrap().as_bytes().to_vec();
    change(&mut bytes);
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    Batch::parse(bytes.into()).unwrap()
}

/// One batch that cannot be decompressed, and one whose second record is none: the first one of it is folded.
fn unreadable() {
    let (log, streams, input) = opened();
    let compressed = changed(|bytes| bytes[22] |= 4);
    // Both records are as long, and none has a length below zero.
    let cut = changed(|bytes| {
        let second = HEADER_BYTES + (bytes.len() - HEADER_BYTES) / 2;
        bytes[second] = 0x7f;
    });
    for batch in [compressed, cut] {
        log.submit(Append { batches: vec![(input, batch)], class: Class::All }, None);
    }
    let mut runner = streams.runner(&log, &disk());
    Worker::new().run(&log, &mut runner);
    assert_eq!(runner.position(), log.watermark(input));
}

/// The log cannot say of the outputs whether they are stored. They are: they are found, and not written again.
fn unknown() {
    let (log, streams, input) = opened();
    write(&log, input, &[(1, Ask::Emit(2), 0)]);
    let mut runner = streams.runner(&log, &disk());
    let mut worker = Worker::new();
    while runner.position() < log.watermark(input) {
        worker.step(&log, &mut runner).unwrap();
    }
    let Next::Append(unit) = runner.next(&log, Timestamp(0)) else { panic!("the outputs") };
    log.submit(unit, None);
    runner.on_outcome(Outcome::Unknown).unwrap();
    worker.run(&log, &mut runner);
    assert_eq!(outputs(&log, &streams), reference(&log, &streams).0);
}

/// A fold that wants to say more than the log takes in one record.
#[derive(Debug, Default)]
struct Wordy;

impl Fold for Wordy {
    const NAME: &'static str = "sums";
    const FORMAT: u16 = 1;
    const EMITS: bool = true;
    fn apply(&mut self, _input: &Input<'_>, out: &mut Outputs) {
        for len in [1, MAX_RECORDS_BYTES + 1, 2] {
            out.push(Output { stream: "out", key: vec![1], value: Some(vec![7; len]), headers: Vec::new() });
        }
    }
    fn snapshot(&self, _out: &mut Vec<u8>) {}
    fn restore(&mut self, _format: u16, _bytes: &[u8]) -> Result<(), RestoreError> {
        Ok(())
    }
}

/// It is counted when it is left out for good: each unit is refused twice first.
fn dropped() {
    let (log, streams, input) = opened();
    write(&log, input, &[(1, Ask::Tick, 0)]);
    let mut runner = Runner::open(Wordy, streams.config(&disk()), &log).unwrap();
    let outcomes = Outcomes::new();
    let mut tries = 0;
    loop {
        match runner.next(&log, Timestamp(0)) {
            Next::Append(unit) => {
                tries += 1;
                if tries % 3 == 0 {
                    log.submit(unit, Some(Reply { sink: outcomes.clone(), tag: 0 }));
                    runner.on_outcome(outcomes.take(0).unwrap()).unwrap();
                } else {
                    runner.on_outcome(Outcome::Refused(Refusal::Overloaded { capacity_bytes: 1 })).unwrap();
                }
            }
            Next::Read { partition, from, max_bytes } => {
                let read = log.read(partition, from, max_bytes).unwrap();
                runner.on_read(&log, partition, from, Ok(&read)).unwrap();
            }
            Next::Step => runner.step(),
            Next::Idle => break,
        }
    }
    assert!(runner.is_settled());
    assert_eq!(tries, 4 * 3, "the fence, and each output alone");
    assert_eq!(outputs(&log, &streams).len(), 2);
}

/// The newest of two snapshots is damaged.
fn damaged_snapshots() {
    let (log, streams, input) = opened();
    let disk = FaultDisk::new(1);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    for _ in 0..2 {
        write(&log, input, &[(1, Ask::Tick, 0)]);
        let mut runner = streams.runner(&log, &shared);
        Worker::new().run(&log, &mut runner);
        runner.begin_snapshot(Timestamp(0));
        let snapshot = runner.take_snapshot().unwrap();
        runner.snapshots().write(&snapshot).unwrap();
    }
    let (newest, _) = disk.files().into_iter().max().unwrap();
    assert!(disk.damage(&newest, |bytes| bytes[40] ^= 1));
    assert_eq!(Runner::open(Sums::default(), streams.config(&shared), &log).unwrap().position(), Position::new(0, 1));
}

#[test]
fn each_counter_says_how_often() {
    type Expected = &'static [(&'static str, u64)];
    let cases: [(fn(), Expected); 6] = [
        (records_and_outputs, &[("outputs", 4), ("records", 6)]),
        (lost_to_damage, &[("lost_ranges", 3), ("records", 1)]),
        (unreadable, &[("records", 1), ("unreadable_batches", 2)]),
        (unknown, &[("records", 1), ("unknown_outcomes", 1)]),
        (dropped, &[("dropped_outputs", 1), ("outputs", 2), ("records", 1)]),
        (damaged_snapshots, &[("damaged_snapshots", 1), ("records", 2)]),
    ];
    let mut seen = BTreeSet::new();
    for (run, expected) in cases {
        let counted = counted(run);
        let found: Vec<_> = counted.iter().map(|(what, value)| (what.as_str(), *value)).collect();
        assert_eq!(found, expected);
        seen.extend(counted.into_iter().map(|(what, _)| format!("{PREFIX}{what}_total")));
    }
    assert_eq!(seen, documented(GUIDE, PREFIX), "what the guide lists is tried here");
}
