//! Snapshots in a folder survive what disks do.

use crate::{
    replay::model,
    support::{Ask, Streams, Sums, Worker, write},
};
use floodplain_fold::{Emitted, Snapshot, SnapshotError, SnapshotMeta, Snapshots};
use floodplain_log::Disk;
use floodplain_testkit::{Fault, FaultDisk, Op, Rule};
use floodplain_types::{PartitionId, Position, Timestamp};
use std::{path::Path, sync::Arc};

pub(crate) fn partition() -> PartitionId {
    PartitionId { stream: crate::support::stream_id("input"), index: 3 }
}

fn store(disk: &FaultDisk) -> Snapshots {
    Snapshots::new(Arc::new(disk.clone()), Path::new("/folds"), "sums", &partition())
}

pub(crate) fn snapshot(offset: u64) -> Snapshot {
    Snapshot {
        meta: SnapshotMeta {
            fold: "sums".to_owned(),
            format: 1,
            partition: partition().to_string(),
            position: Position::new(0, offset),
            log_time: Timestamp(offset as i64 - 5),
            emitted: Emitted { position: Position::new(0, offset / 2), number: 3 },
            folds_from: Position::new(0, offset / 3),
        },
        state: (0..offset * 10).map(|n| (n % 251) as u8).collect(),
    }
}

/// What is loaded, and what was set aside.
pub(crate) fn load(store: &Snapshots) -> (Option<Snapshot>, Vec<String>) {
    let mut found = None;
    let loaded = store.load(|snapshot| {
        found = Some(snapshot.clone());
        Ok(())
    });
    let loaded = loaded.unwrap();
    assert_eq!(loaded.meta.as_ref(), found.as_ref().map(|snapshot| &snapshot.meta));
    (found, loaded.set_aside)
}

#[test]
fn a_power_cut_anywhere_leaves_a_whole_snapshot() {
    let before = FaultDisk::new(7);
    store(&before).write(&snapshot(10)).unwrap();
    let calls = |disk: &FaultDisk| {
        let start = disk.calls();
        store(disk).write(&snapshot(20)).unwrap();
        disk.calls() - start
    };
    let all = calls(&before.process_crash());
    for n in 0..all {
        for seed in 0..20 {
            let disk = before.process_crash();
            disk.cut_at_call(n);
            let written = store(&disk).write(&snapshot(20)).is_ok();
            let after = disk.power_cut(seed);
            let (found, set_aside) = load(&store(&after));
            let found = found.unwrap_or_else(|| panic!("nothing left after a cut at call {n}, seed {seed}"));
            assert!(found == snapshot(10) || found == snapshot(20), "call {n}, seed {seed}");
            assert!(!written || found == snapshot(20), "what was written is there: call {n}, seed {seed}");
            assert_eq!(set_aside, Vec::<String>::new(), "a cut is no damage: call {n}, seed {seed}");
            // What the cut left does not stop the next one.
            store(&after).write(&snapshot(20)).unwrap();
            assert_eq!(load(&store(&after)).0, Some(snapshot(20)));
        }
    }
}

const FAULTS: [Fault; 3] = [Fault::Eio, Fault::Enospc, Fault::Short];

/// Every kind of call of a write, each time that it comes, once and from then on.
#[test]
fn a_failing_disk_leaves_the_snapshots_that_were_there() {
    let before = FaultDisk::new(7);
    store(&before).write(&snapshot(10)).unwrap();
    store(&before).write(&snapshot(15)).unwrap();
    // A write that was cut off is in the way.
    let temp = Path::new(&store(&before).place()).join("temp-snapshot-00000000-0000000000000014");
    before.create(&temp).unwrap();
    let (mut failed, mut passed) = (0, 0);
    for op in [Op::CreateDirAll, Op::Create, Op::Remove, Op::Write, Op::Sync, Op::Rename, Op::SyncDir, Op::List] {
        for fault in FAULTS {
            for for_ever in [false, true] {
                if for_ever && fault == Fault::Short {
                    // Nobody waits for a system that says for ever that it was interrupted.
                    continue;
                }
                for n in 1.. {
                    let disk = before.duplicate(n);
                    let rule = Rule::nth(n, fault).of(op);
                    disk.fail(if for_ever { rule.for_ever() } else { rule });
                    let written = store(&disk).write(&snapshot(20));
                    if disk.faults_fired() == 0 {
                        assert!(n > 1, "{op:?} is never called");
                        break;
                    }
                    disk.heal();
                    let what = format!("{op:?} {n} {fault:?}, for ever {for_ever}");
                    let found = load(&store(&disk));
                    match written {
                        Ok(_) => {
                            assert_eq!(found, (Some(snapshot(20)), vec![]), "{what}");
                            passed += 1;
                        }
                        Err(error) => {
                            assert!(matches!(error, SnapshotError::Io { .. }), "{what}: {error}");
                            assert!(matches!(&found.0, Some(found) if [15, 20].contains(&found.meta.position.offset)));
                            failed += 1;
                        }
                    }
                    assert_eq!(found.1, Vec::<String>::new(), "{what}");
                    store(&disk).write(&snapshot(20)).unwrap();
                    assert_eq!(load(&store(&disk)).0, Some(snapshot(20)), "{what}");
                }
            }
        }
    }
    assert!(failed > 20 && passed > 10, "{failed} failed, {passed} passed");
}

/// Every kind of call of a load, each time that it comes: bytes that cannot be read are no reason not to start, and
/// whatever else fails throws nothing away.
#[test]
fn a_load_from_a_failing_disk_uses_what_can_be_read() {
    let before = FaultDisk::new(7);
    store(&before).write(&snapshot(10)).unwrap();
    store(&before).write(&snapshot(20)).unwrap();
    for op in [Op::Open, Op::Len, Op::Read, Op::List] {
        for fault in FAULTS {
            for n in 1.. {
                let disk = before.duplicate(n);
                disk.fail(Rule::nth(n, fault).of(op));
                let loaded = store(&disk).load(|_| Ok(()));
                if disk.faults_fired() == 0 {
                    assert!(n > 1, "{op:?} is never called");
                    break;
                }
                let what = format!("{op:?} {n} {fault:?}");
                match loaded {
                    // A block that could be read the second time, a call that was interrupted.
                    Ok(loaded) => {
                        assert_eq!((loaded.meta, loaded.set_aside), (Some(snapshot(20).meta), vec![]), "{what}");
                        assert!(fault == Fault::Short || fault == Fault::Eio && op != Op::List, "{what}");
                    }
                    Err(error) => {
                        assert!(matches!(error, SnapshotError::Io { .. }), "{what}: {error}");
                        assert!(fault == Fault::Enospc || op == Op::List, "{what}");
                    }
                }
                disk.heal();
                assert_eq!(load(&store(&disk)), (Some(snapshot(20)), vec![]), "{what}: nothing was thrown away");
            }
        }
    }
    // Where it stays so: one of them, both.
    for op in [Op::Open, Op::Len, Op::Read] {
        for (path, expected, aside) in [("0000000014", Some(10), 1), ("000000000a", Some(20), 0), ("", None, 2)] {
            let disk = before.duplicate(1);
            disk.fail(Rule::nth(1, Fault::Eio).of(op).on(path).for_ever());
            let (found, set_aside) = load(&store(&disk));
            assert_eq!((found, set_aside.len()), (expected.map(snapshot), aside), "{op:?} {path}");
            disk.heal();
            assert!(set_aside.iter().all(|path| disk.contents(Path::new(path)).is_some()), "kept");
            assert_eq!(load(&store(&disk)), (expected.map(snapshot), vec![]), "{op:?} {path}");
        }
    }
    // It cannot be set aside either.
    for op in [Op::Rename, Op::SyncDir] {
        let disk = before.duplicate(1);
        disk.fail(Rule::nth(1, Fault::Eio).of(Op::Read).on("0000000014").for_ever());
        disk.fail(Rule::nth(1, Fault::Eio).of(op).for_ever());
        assert_eq!(load(&store(&disk)).0, Some(snapshot(10)), "{op:?}");
    }
}

/// No snapshot can be used, one of them only when half of it is restored: all is folded from the start of the log.
#[test]
fn a_fold_starts_without_the_snapshots_that_cannot_be_used() {
    let log = model();
    let streams = Streams::open(&log);
    let fault_disk = FaultDisk::new(1);
    let disk: Arc<dyn Disk> = Arc::new(fault_disk.clone());
    write(&log, streams.input.partition(0), &[(1, Ask::Add(1), 0), (1, Ask::Emit(1), 0), (2, Ask::Add(3), 0)]);
    let mut runner = streams.runner(&log, &disk);
    Worker::new().run(&log, &mut runner);
    let state = runner.fold().clone();
    runner.begin_snapshot(Timestamp(0));
    let good = runner.take_snapshot().unwrap();
    let mut cut = good.clone();
    cut.state.pop();
    cut.meta.position.offset -= 1;
    runner.snapshots().write(&cut).unwrap();
    runner.snapshots().write(&good).unwrap();
    drop(runner);
    fault_disk.fail(Rule::nth(1, Fault::Eio).of(Op::Read).on("snapshot-00000000-0000000000000003").for_ever());
    let mut runner = streams.runner(&log, &disk);
    assert_eq!(*runner.fold(), Sums::default(), "nothing of the one that was restored in part");
    Worker::new().run(&log, &mut runner);
    assert_eq!(*runner.fold(), state);
}
