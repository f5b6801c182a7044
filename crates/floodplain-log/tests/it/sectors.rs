//! A disk that cannot read some bytes: nothing else stops for them.

use floodplain_log::{Append, Embedded, EmbeddedConfig, Log, Outcome, Partition, RecoveryReport};
use floodplain_testkit::{Fault, FaultDisk, Op, Rule, Stamp, batch_of};
use floodplain_types::{Class, Clock, ManualClock, Position, StreamId, StreamName, TenantId, Timestamp};
use std::sync::Arc;

const DIR: &str = "data/log";

fn open(disk: &FaultDisk) -> (Arc<Embedded>, RecoveryReport) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000))) as Arc<dyn Clock>;
    let config = EmbeddedConfig {
        journal_bytes: 4 << 10,
        tail_bytes: 0,
        reserve_bytes: Some(0),
        retention_bytes: Some(u64::MAX),
        ..EmbeddedConfig::new(DIR)
    };
    Embedded::open(Arc::new(disk.clone()), clock, config).unwrap()
}

fn partition(log: &dyn Log) -> Partition {
    let id = StreamId { tenant: TenantId::default_tenant(), stream: StreamName::new("s").unwrap(), generation: 0 };
    log.open_stream(&id, 1).unwrap().partition(0)
}

fn put(log: &dyn Log, n: u64) -> u64 {
    put_to(log, partition(log), n)
}

fn put_to(log: &dyn Log, partition: Partition, n: u64) -> u64 {
    let batch = batch_of(b"k", &Stamp::new("client", n).payload(300), 1);
    let append = Append { batches: vec![(partition, batch)], class: Class::All };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    match runtime.block_on(floodplain_log::append(log, append)) {
        Outcome::Committed(positions) => positions[0].offset,
        other => panic!("{n}: {other:?}"),
    }
}

/// Offsets that are there, and bounds of ranges that are lost.
fn all(log: &dyn Log) -> (Vec<u64>, Vec<u64>) {
    let (mut there, mut lost) = (Vec::new(), Vec::new());
    let mut at = Position::ZERO;
    while at < log.watermark(partition(log)) {
        let read = log.read(partition(log), at, 1_000).unwrap();
        there.extend(read.batches.iter().map(|batch| batch.base.offset));
        lost.extend(read.damaged.iter().flat_map(|range| [range.start.offset, range.end.offset]));
        at = read.next;
    }
    (there, lost)
}

fn names(disk: &FaultDisk, prefix: &str) -> usize {
    let is_it = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(prefix);
    disk.files()
        .iter()
        .filter(|(path, _)| path.parent().is_some_and(|dir| dir.ends_with(DIR)) && path.file_name().is_some_and(is_it))
        .count()
}

/// No journal can be read any more: what is in them is lost, and the log goes on.
#[test]
fn unreadable_journals_stop_nothing() {
    let disk = FaultDisk::new(1);
    let (log, _) = open(&disk);
    (0..30).for_each(|n| assert_eq!(put(&*log, n), n));
    disk.fail(Rule::nth(1, Fault::Eio).of(Op::Read).on("journal-").for_ever());
    (30..60).for_each(|n| assert_eq!(put(&*log, n), n));
    log.maintain().unwrap();
    assert_eq!(names(&disk, "journal-"), 1);
    drop(log);
    // The last one was not finished; it cannot be read at the start.
    let (log, report) = open(&disk);
    assert!(!report.corrupt.is_empty());
    disk.heal();
    assert!(put(&*log, 60) >= 60, "a position is used again");
}

/// The same while the log is being read: what the segments have is served, the rest is told.
#[test]
fn unreadable_segments_are_a_hole() {
    let disk = FaultDisk::new(1);
    let (log, _) = open(&disk);
    (0..30).for_each(|n| assert_eq!(put(&*log, n), n));
    log.maintain().unwrap();
    disk.fail(Rule::nth(1, Fault::Eio).of(Op::Read).on("segment-").for_ever());
    let (there, lost) = all(&*log);
    let first = there[0];
    assert!(first > 0);
    assert_eq!((there, lost), ((first..30).collect(), vec![0, first]));
    disk.heal();
    log.maintain().unwrap();
}

/// A file that cannot be removed keeps its space, not that of the others.
#[test]
fn a_file_that_stays_stops_nothing() {
    let disk = FaultDisk::new(1);
    let (log, _) = open(&disk);
    disk.fail(Rule::nth(1, Fault::Eio).of(Op::Remove).on("journal-0000000000000001").for_ever());
    for n in 0..400 {
        put(&*log, n);
        if n % 20 == 0 {
            drop(log.maintain());
        }
    }
    log.maintain().unwrap_err();
    assert!(names(&disk, "journal-") <= 2, "the stuck one, and the active one");
    log.trim(partition(&*log), Position::new(0, 399));
    log.maintain().unwrap_err();
    assert!(names(&disk, "segment-") <= 1);
    drop(log);
    disk.heal();
    let (log, report) = open(&disk);
    assert_eq!((report.torn, report.corrupt), (vec![], vec![]));
    assert_eq!(log.start(partition(&*log)), Position::new(0, 399), "nothing comes back");
    assert_eq!(names(&disk, "journal-0000000000000001"), 0);
}

/// The last record of a partition is damaged, a segment leaves it out, and no checkpoint can be written.
#[test]
fn a_position_that_was_left_out_is_not_given_again() {
    let disk = FaultDisk::new(1);
    let (log, _) = open(&disk);
    let id = StreamId { tenant: TenantId::default_tenant(), stream: StreamName::new("quiet").unwrap(), generation: 0 };
    let quiet = log.open_stream(&id, 1).unwrap().partition(0);
    partition(&*log);
    disk.fail(Rule::nth(1, Fault::Eio).of(Op::Create).on("checkpoint").for_ever());
    assert_eq!(put_to(&*log, quiet, 1_000), 0);
    for (path, _) in disk.files().iter().filter(|(path, _)| path.to_string_lossy().contains("journal-")) {
        // Behind header, group and frame: in the batch.
        disk.damage(path, |bytes| bytes.iter_mut().skip(250).take(20).for_each(|byte| *byte ^= 1));
    }
    for n in 0..30 {
        put(&*log, n);
    }
    drop(log.maintain());
    drop(log);
    let disk = disk.process_crash();
    let (log, _) = open(&disk);
    let at = put_to(&*log, quiet, 1_001);
    assert!(at > 0, "position {at} is given again");
}
