//! What is set aside is counted by what it is: a write that a kill has cut off is no damage.

use floodplain_log::{Append, Embedded, EmbeddedConfig, Log, Outcome, RecoveryReport};
use floodplain_testkit::{Counts, Fault, FaultDisk, Op, Rule, batch_of};
use floodplain_types::{Class, Clock, ManualClock, StreamId, StreamName, TenantId};
use std::{path::PathBuf, sync::Arc};

fn open(disk: &FaultDisk) -> (Arc<Embedded>, RecoveryReport) {
    let clock = Arc::new(ManualClock::default()) as Arc<dyn Clock>;
    let config = EmbeddedConfig { reserve_bytes: Some(0), ..EmbeddedConfig::new("data/log") };
    Embedded::open(Arc::new(disk.clone()), clock, config).unwrap()
}

fn put(log: &dyn Log, len: usize) -> Outcome {
    let id = StreamId { tenant: TenantId::default_tenant(), stream: StreamName::new("s").unwrap(), generation: 0 };
    let partition = log.open_stream(&id, 1).unwrap().partition(0);
    let append = Append { batches: vec![(partition, batch_of(b"k", &vec![b'x'; len], 1))], class: Class::All };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(floodplain_log::append(log, append))
}

/// Opens the disk as it is, and gives the report with damaged ranges, torn ranges and bytes that were not kept.
fn counted(disk: &FaultDisk) -> (RecoveryReport, [u64; 3]) {
    let counts = Counts::default();
    let report = metrics::with_local_recorder(&counts, || open(&disk.duplicate(1))).1;
    let names = ["damaged_ranges", "torn_ranges", "not_kept_bytes"];
    let counts = names.map(|name| counts.get(&format!("floodplain_log_{name}_total")));
    (report, counts)
}

/// A log with ten messages behind each other in one journal, which was not closed.
fn killed() -> (FaultDisk, PathBuf) {
    let disk = FaultDisk::new(1);
    let (log, _) = open(&disk);
    (0..10).for_each(|_| assert!(matches!(put(&*log, 300), Outcome::Committed(_))));
    // What is there at this moment, before the log is closed.
    let killed = disk.duplicate(2);
    drop(log);
    let is_journal = |path: &PathBuf| path.to_string_lossy().contains("journal-");
    let journal = killed.files().into_iter().map(|(path, _)| path).find(is_journal).unwrap();
    (killed, journal)
}

#[test]
fn a_torn_write_is_no_damage() {
    let (killed, _) = killed();
    assert_eq!(counted(&killed).1, [0, 0, 0]);
    let (mut torn, mut not_kept) = (0, 0);
    for seed in 0..10 {
        let disk = killed.duplicate(seed);
        let (log, _) = open(&disk);
        // A part of it is written.
        disk.fail(Rule::nth(1, Fault::Eio).of(Op::Write).on("journal-"));
        assert_eq!(put(&*log, 3_000), Outcome::Unknown);
        drop(log);
        disk.heal();
        let (report, counts) = counted(&disk);
        assert_eq!((report.corrupt, counts), (vec![], [0, report.torn.len() as u64, 0]), "seed {seed}");
        torn += report.torn.len();
        // Two percent of the disk are less than that, where it still has room for a start.
        if let [range] = &report.torn[..] {
            let len = range.bytes.end - range.bytes.start;
            let total_bytes = 50 * len - 1;
            if total_bytes > 2 * disk.used_bytes() {
                disk.set_total_bytes(total_bytes);
                assert_eq!(counted(&disk).1, [0, 1, len], "seed {seed}");
                not_kept += 1;
            }
        }
    }
    assert!(torn > 5 && not_kept > 2, "{torn} torn writes, {not_kept} of them not kept");
}

#[test]
fn damage_is_no_torn_write() {
    let (disk, journal) = killed();
    // In the fifth message or so: later groups say that it was synced.
    disk.damage(&journal, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    let (report, counts) = counted(&disk);
    assert_eq!((report.corrupt.len(), report.torn), (1, vec![]));
    assert_eq!(counts, [1, 0, 0]);
}
