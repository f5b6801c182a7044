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
        let version = (8..12).contains(&at);
        if version {
            let error = store(&disk).load(|_| Ok(())).unwrap_err();
            assert!(matches!(error, SnapshotError::Newer { .. }), "{error}");
            continue;
        }
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

#[test]
fn a_failing_disk_leaves_the_snapshots_that_were_there() {
    let before = FaultDisk::new(7);
    store(&before).write(&snapshot(10)).unwrap();
    for op in [Op::Create, Op::Write, Op::Sync, Op::Rename, Op::SyncDir] {
        let disk = before.process_crash();
        disk.fail(Rule::nth(1, Fault::Eio).of(op));
        let error = store(&disk).write(&snapshot(20)).unwrap_err();
        assert!(matches!(error, SnapshotError::Io { .. }), "{op:?}: {error}");
        disk.heal();
        let found = load(&store(&disk)).0;
        assert!(
            found == Some(snapshot(10)) || (matches!(op, Op::Rename | Op::SyncDir) && found == Some(snapshot(20))),
            "{op:?}"
        );
        store(&disk).write(&snapshot(20)).unwrap();
        assert_eq!(load(&store(&disk)).0, Some(snapshot(20)), "{op:?}");
    }
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
