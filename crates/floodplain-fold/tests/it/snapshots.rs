//! Snapshot files survive what disks do.

use crate::{
    replay::model,
    support::{Ask, Streams, Sums, Worker, write},
};
use floodplain_fold::{
    Emitted, Fold, OpenError, RestoreError, Runner, Snapshot, SnapshotError, SnapshotMeta, Snapshots,
};
use floodplain_log::{Disk, Log};
use floodplain_testkit::{Fault, FaultDisk, Op, Rule};
use floodplain_types::{PartitionId, Position, Timestamp};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

fn partition() -> PartitionId {
    PartitionId { stream: crate::support::stream_id("input"), index: 3 }
}

fn store(disk: &FaultDisk) -> Snapshots {
    Snapshots::new(Arc::new(disk.clone()), Path::new("/folds"), "sums", &partition())
}

fn snapshot(offset: u64) -> Snapshot {
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
fn load(store: &Snapshots) -> (Option<Snapshot>, Vec<PathBuf>) {
    let mut found = None;
    let loaded = store.load(|snapshot| {
        found = Some(snapshot.clone());
        Ok(())
    });
    let loaded = loaded.unwrap();
    assert_eq!(loaded.meta.as_ref(), found.as_ref().map(|snapshot| &snapshot.meta));
    (found, loaded.set_aside)
}

fn names(disk: &FaultDisk) -> Vec<String> {
    let mut names: Vec<String> =
        disk.files().iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn the_two_newest_are_kept() {
    let disk = FaultDisk::new(1);
    let store = store(&disk);
    assert_eq!(load(&store), (None, vec![]));
    for offset in [1, 300, 20, 4000] {
        store.write(&snapshot(offset)).unwrap();
    }
    assert_eq!(names(&disk), ["snapshot-00000000-000000000000012c", "snapshot-00000000-0000000000000fa0"]);
    assert_eq!(load(&store), (Some(snapshot(4000)), vec![]));
    assert_eq!(store.dir(), Path::new("/folds/sums/default.input-3"));
}

#[test]
fn a_damaged_snapshot_is_set_aside_and_the_one_before_it_is_used() {
    let good = FaultDisk::new(1);
    store(&good).write(&snapshot(10)).unwrap();
    store(&good).write(&snapshot(20)).unwrap();
    let newest = store(&good).dir().join("snapshot-00000000-0000000000000014");
    let len = good.contents(&newest).unwrap().len();
    for at in 0..len {
        let disk = good.process_crash();
        assert!(disk.damage(&newest, |bytes| bytes[at] ^= 0x40));
        let (found, set_aside) = load(&store(&disk));
        assert_eq!(found, Some(snapshot(10)), "byte {at}");
        assert_eq!(set_aside.len(), 1);
        assert_eq!(disk.contents(&set_aside[0]).unwrap().len(), len, "kept");
        assert_eq!(load(&store(&disk)), (Some(snapshot(10)), vec![]), "once");
    }
    for len in 0..len {
        let disk = good.process_crash();
        assert!(disk.damage(&newest, |bytes| bytes.truncate(len)));
        assert_eq!(load(&store(&disk)).0, Some(snapshot(10)), "cut to {len}");
    }
}

#[test]
fn a_state_that_does_not_decode_is_set_aside_but_not_one_of_a_newer_version() {
    let disk = FaultDisk::new(1);
    store(&disk).write(&snapshot(10)).unwrap();
    store(&disk).write(&snapshot(20)).unwrap();
    let newer = |_: &Snapshot| Err(RestoreError::Format { found: 9, newest: 1 });
    assert!(matches!(store(&disk).load(newer), Err(SnapshotError::Newer { .. })));
    let picky = |snapshot: &Snapshot| match snapshot.meta.position.offset {
        20 => Err(RestoreError::Wire(floodplain_fold::wire::WireError::Short)),
        _ => Ok(()),
    };
    let loaded = store(&disk).load(picky).unwrap();
    assert_eq!(loaded.meta, Some(snapshot(10).meta));
    assert_eq!(loaded.set_aside.len(), 1);
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
            assert_eq!(set_aside, Vec::<PathBuf>::new(), "a cut is no damage: call {n}, seed {seed}");
            // What the cut left does not stop the next one.
            store(&after).write(&snapshot(20)).unwrap();
            assert_eq!(load(&store(&after)).0, Some(snapshot(20)));
        }
    }
}

/// A file of a version to come: what all versions from the second on have in common is their header.
#[test]
fn a_newer_version_is_not_skipped() {
    let disk = FaultDisk::new(1);
    store(&disk).write(&snapshot(10)).unwrap();
    store(&disk).write(&snapshot(20)).unwrap();
    let newest = store(&disk).dir().join("snapshot-00000000-0000000000000014");
    disk.damage(&newest, |bytes| {
        bytes[8] = 3;
        let checksum = crc32c::crc32c(&bytes[..20]);
        bytes[20..24].copy_from_slice(&checksum.to_le_bytes());
        // Whatever it holds.
        bytes[24..].fill(7);
    });
    let error = store(&disk).load(|_| Ok(())).unwrap_err();
    assert!(matches!(error, SnapshotError::Newer { .. }), "{error}");
    let text = error.to_string();
    for told in ["snapshot-00000000-0000000000000014", "version 3", "start that version, or move the file away"] {
        assert!(text.contains(told), "{text}");
    }
    assert_eq!(names(&disk).len(), 2, "nothing is touched");
}

/// `fixtures/snapshot/v<N>/snapshot` is what version N of the file wrote. Each was written once, by
/// `FLOODPLAIN_TEST_WRITE_FIXTURE=v<N> cargo test -p floodplain-fold --test it earlier_versions`: one that no longer reads
/// is a fault of the reader.
#[test]
fn what_earlier_versions_wrote_is_read() {
    for version in [1, 2] {
        let path = format!("{}/tests/fixtures/snapshot/v{version}/snapshot", env!("CARGO_MANIFEST_DIR"));
        if std::env::var("FLOODPLAIN_TEST_WRITE_FIXTURE").is_ok_and(|wanted| wanted == format!("v{version}")) {
            let disk = FaultDisk::new(1);
            store(&disk).write(&snapshot(20)).unwrap();
            assert!(!Path::new(&path).exists(), "{path} was written once and stays");
            std::fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
            std::fs::write(&path, disk.contents(&disk.files()[0].0).unwrap()).unwrap();
        }
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[8], version, "{path}");
        let disk = FaultDisk::new(1);
        store(&disk).write(&snapshot(10)).unwrap();
        let file = store(&disk).dir().join("snapshot-00000000-0000000000000014");
        disk.create(&file).unwrap().write_at(&bytes, 0).unwrap();
        assert_eq!(load(&store(&disk)), (Some(snapshot(20)), vec![]), "version {version}");
        for at in 0..bytes.len() {
            let disk = disk.duplicate(1);
            assert!(disk.damage(&file, |bytes| bytes[at] ^= 0x40));
            let (found, set_aside) = load(&store(&disk));
            assert_eq!((found, set_aside.len()), (Some(snapshot(10)), 1), "version {version}, byte {at}");
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
    let temp = store(&before).dir().join("temp-snapshot-00000000-0000000000000014");
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
                    assert_eq!(found.1, Vec::<PathBuf>::new(), "{what}");
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
            assert!(set_aside.iter().all(|path| disk.contents(path).is_some()), "kept");
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

#[test]
fn a_log_that_is_behind_its_fold_is_not_repaired() {
    let log = model();
    let streams = Streams::open(&log);
    let disk: Arc<dyn Disk> = Arc::new(FaultDisk::new(1));
    write(&log, streams.input.partition(0), &[(1, Ask::Add(1), 0), (1, Ask::Emit(1), 0)]);
    let mut runner = streams.runner(&log, &disk);
    Worker::new().run(&log, &mut runner);
    runner.begin_snapshot(Timestamp(0));
    let snapshot = runner.take_snapshot().unwrap();
    runner.snapshots().write(&snapshot).unwrap();
    let other = model();
    let empty = Streams::open(&other);
    let error = Runner::open(Sums::default(), empty.config(&disk), &other).unwrap_err();
    assert!(matches!(error, OpenError::LogBehind { seen: Position { generation: 0, offset: 2 }, .. }), "{error}");
    assert!(error.to_string().contains("0:2"), "{error}");
    // Without the snapshot, `_folds` still tells.
    let disk: Arc<dyn Disk> = Arc::new(FaultDisk::new(1));
    for index in 0..streams.folds.partitions {
        let partition = streams.folds.partition(index);
        for batch in log.read(partition, Position::ZERO, usize::MAX).unwrap().batches {
            let append = floodplain_log::Append {
                batches: vec![(empty.folds.partition(index), batch.batch)],
                class: floodplain_types::Class::All,
            };
            other.submit(append, None);
        }
    }
    let mut runner = empty.runner(&other, &disk);
    let mut worker = Worker::new();
    let error = loop {
        match worker.step(&other, &mut runner) {
            Ok(more) => assert!(more, "it must not settle"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, floodplain_fold::RunnerError::LogBehind { .. }), "{error}");
    assert_eq!(runner.fold().state_hash(), Sums::default().state_hash());
}

#[test]
fn a_snapshot_of_something_else_is_refused() {
    let log = model();
    let streams = Streams::open(&log);
    let disk: Arc<dyn Disk> = Arc::new(FaultDisk::new(1));
    let config = streams.config(&disk);
    let mut bytes = Vec::new();
    Sums::default().snapshot(&mut bytes);
    let mut foreign = snapshot(0);
    foreign.state = bytes;
    config.snapshots.write(&foreign).unwrap();
    let error = Runner::open(Sums::default(), config, &log).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
}
