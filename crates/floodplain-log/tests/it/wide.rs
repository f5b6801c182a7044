//! A hundred thousand partitions on real files cost neither open files nor more memory than is said.

use crate::memory::{held_bytes, peak_bytes};
use floodplain_log::{Append, CompletionSink, Embedded, EmbeddedConfig, Log, OsDisk, Outcome, Reply, Stream};
use floodplain_testkit::{Outcomes, Stamp, batch_of};
use floodplain_types::{Class, Clock, Position, StreamId, StreamName, SystemClock, TenantId};
use std::{path::Path, process::Command, sync::Arc};

const PARTITIONS: u32 = 100_000;
const ROUNDS: u64 = 3;
/// Batches of one append unit.
const UNIT: u32 = 1_000;
/// What a partition may cost in memory, in bytes beyond those with one partition and the same records. Measured are 106,
/// 97 and at most 290, as `docs/ARCHITECTURE.md` says. What stays is where it starts and ends; the rest is its place in
/// the journals that are no segments yet, and the copy of all that a checkpoint is written from.
const COST_MAX: Cost = Cost { written: 112, reopened: 104, peak: 330 };
/// House-keeping may be behind on a busy machine, and what it has not done takes memory: so often it is waited for. A
/// journal takes some more units.
const UNITS_BEHIND_MAX: u32 = 25;
/// Segments that may stay open, the journals, the catalog.
const OPEN_FILES_MAX: usize = 8 + 6;

/// Set in the child process, which has its memory for itself.
const CHILD: &str = "FLOODPLAIN_TEST_WIDE_CHILD";

/// Bytes that are allocated for the log, or for each of its partitions.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// When all is written, and what can be in segments is.
    written: usize,
    /// When the log is open once more, and all was read.
    reopened: usize,
    /// The most at once.
    peak: usize,
}

impl Cost {
    fn all(self) -> [usize; 3] {
        [self.written, self.reopened, self.peak]
    }
}

#[test]
fn a_hundred_thousand_partitions() {
    if let Ok(partitions) = std::env::var(CHILD) {
        let [written, reopened, peak] = fill_and_restart(partitions.parse().unwrap()).all();
        println!("memory {written} {reopened} {peak}");
        return;
    }
    let memory = [1, PARTITIONS].map(|partitions| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "wide::a_hundred_thousand_partitions", "--nocapture"])
            .env(CHILD, partitions.to_string())
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{partitions}: {out}\n{}", String::from_utf8_lossy(&output.stderr));
        let memory = out.lines().find_map(|line| line.strip_prefix("memory ")).unwrap();
        memory.split(' ').map(|bytes| bytes.parse().unwrap()).collect::<Vec<usize>>()
    });
    let cost: Vec<usize> =
        memory[1].iter().zip(&memory[0]).map(|(many, one)| many.saturating_sub(*one) / PARTITIONS as usize).collect();
    println!("bytes with one partition and with {PARTITIONS}: {memory:?}; for each: {cost:?}");
    assert!(cost.iter().zip(COST_MAX.all()).all(|(cost, max)| *cost <= max), "{cost:?} bytes, not {COST_MAX:?}");
}

/// How many descriptors of this process are files below `dir`.
fn open_files(dir: &Path) -> usize {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    descriptors.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|file| file.starts_with(dir))).count()
}

fn open(dir: &Path, partitions: u32) -> (Arc<Embedded>, Stream) {
    let config = EmbeddedConfig {
        journal_bytes: 8 << 20,
        tail_bytes: 1 << 20,
        reserve_bytes: Some(0),
        open_files_max: 8,
        index_bytes: 64 << 10,
        ..EmbeddedConfig::new(dir.join("log"))
    };
    let (log, _) = Embedded::open(Arc::new(OsDisk), Arc::new(SystemClock) as Arc<dyn Clock>, config).unwrap();
    let id = StreamId { tenant: TenantId::default_tenant(), stream: StreamName::new("wide").unwrap(), generation: 0 };
    let stream = log.open_stream(&id, partitions).unwrap();
    (log, stream)
}

fn stamp(partition: u32, round: u64) -> Stamp {
    Stamp::new(&format!("p{partition}"), round)
}

/// Writes the same number of records however many partitions there are; gives the memory beyond that of the test.
fn fill_and_restart(partitions: u32) -> Cost {
    let dir = tempfile::tempdir().unwrap();
    let before = held_bytes();
    let (log, stream) = open(dir.path(), partitions);
    let outcomes = Outcomes::new();
    for round in 0..ROUNDS {
        for first in (0..PARTITIONS).step_by(UNIT as usize) {
            let batches = (first..first + UNIT)
                .map(|p| (stream.partition(p % partitions), batch_of(b"k", &stamp(p, round).payload(60), 1)))
                .collect();
            let tag = round << 32 | u64::from(first);
            let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
            log.submit(Append { batches, class: Class::All }, Some(Reply { sink, tag }));
            let outcome = outcomes.wait(tag, &|| ());
            assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
            if (first / UNIT).is_multiple_of(UNITS_BEHIND_MAX) {
                log.maintain().unwrap();
            }
        }
        assert!(open_files(dir.path()) <= OPEN_FILES_MAX, "{} files are open", open_files(dir.path()));
    }
    log.maintain().unwrap();
    let written = held_bytes() - before;
    drop(log);
    assert_eq!(open_files(dir.path()), 0, "a closed log has no open files");

    let (log, stream) = open(dir.path(), partitions);
    let mut found = 0;
    for index in 0..partitions {
        let partition = stream.partition(index);
        let (mut at, end) = (Position::ZERO, log.watermark(partition));
        let mut expected = (0..ROUNDS)
            .flat_map(|round| (index..PARTITIONS).step_by(partitions as usize).map(move |p| stamp(p, round)));
        while at < end {
            let read = log.read(partition, at, 1 << 20).unwrap();
            for batch in &read.batches {
                for record in &batch.batch.records().unwrap() {
                    assert_eq!(Stamp::parse(record.unwrap().value.unwrap()).ok(), expected.next());
                    found += 1;
                }
            }
            at = read.next;
        }
    }
    assert_eq!(found, u64::from(PARTITIONS) * ROUNDS);
    assert!(open_files(dir.path()) <= OPEN_FILES_MAX, "{} files are open", open_files(dir.path()));
    log.maintain().unwrap();
    Cost { written, reopened: held_bytes() - before, peak: peak_bytes() - before }
}
