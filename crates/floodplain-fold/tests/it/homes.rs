//! What is true of snapshots wherever they are: in a folder, in memory, in object storage behind HTTP.

use crate::{
    replay::model,
    snapshots::{partition, snapshot},
    support::{Ask, Streams, Sums, Worker, write},
};
use floodplain_fold::{
    Fold as _, Folder, Objects, OpenError, RestoreError, Runner, RunnerError, Snapshot, SnapshotError, Snapshots,
};
use floodplain_log::Log as _;
use floodplain_object_store::{AccessKey, ObjectStore, Patience, S3Config};
use floodplain_testkit::{FaultDisk, S3Server};
use floodplain_types::{Position, Timestamp};
use std::{
    cell::Cell,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

const FOLDER: &str = "sums/default.input-3";
const TWENTY: &str = "sums/default.input-3/snapshot-00000000-0000000000000014";

/// Checks each home; `check` gets as many empty ones as it asks for.
fn each(check: impl Fn(&str, &dyn Fn() -> Arc<dyn Objects>)) {
    check("folder", &|| Arc::new(Folder::new(Arc::new(FaultDisk::new(1)), Path::new("/folds"))));
    check("shared folder", &|| Arc::new(Folder::shared(Arc::new(FaultDisk::new(1)), Path::new("/folds"), 7)));
    check("memory", &|| Arc::new(ObjectStore::memory().unwrap()));
    let (server, count) = (S3Server::start().unwrap(), Cell::new(0));
    check("s3", &|| {
        count.set(count.get() + 1);
        let config = S3Config {
            bucket: S3Server::BUCKET.to_owned(),
            prefix: format!("test/{}", count.get()),
            endpoint: Some(server.endpoint()),
            region: None,
            access_key: Some(AccessKey { id: S3Server::ACCESS_KEY.to_owned(), secret_file: server.secret_file() }),
            allow_http: true,
            patience: Patience::default(),
        };
        Arc::new(ObjectStore::s3(&config).unwrap())
    });
}

fn of(store: &Arc<dyn Objects>) -> Snapshots {
    Snapshots::of(store.clone(), "sums", &partition())
}

/// A store with snapshots of these positions.
fn with(fresh: &dyn Fn() -> Arc<dyn Objects>, offsets: &[u64]) -> Arc<dyn Objects> {
    let store = fresh();
    for offset in offsets {
        of(&store).write(&snapshot(*offset)).unwrap();
    }
    store
}

fn load(store: &Arc<dyn Objects>) -> (Option<Snapshot>, Vec<String>) {
    crate::snapshots::load(&of(store))
}

fn names(store: &Arc<dyn Objects>) -> Vec<String> {
    let mut names = store.list(FOLDER).unwrap();
    names.sort();
    names
}

fn damage(store: &Arc<dyn Objects>, key: &str, damage: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = store.get(key).unwrap();
    damage(&mut bytes);
    store.put(key, bytes).unwrap();
}

#[test]
fn objects_are_what_was_put() {
    each(|home, fresh| {
        let store = fresh();
        assert_eq!(store.list("a/b").unwrap(), [""; 0], "{home}");
        assert_eq!(store.get("a/b/x").unwrap_err().kind(), io::ErrorKind::NotFound, "{home}");
        assert!(store.rename("a/b/x", "a/b/y").is_err(), "{home}");
        // Large ones go in parts.
        let large: Vec<u8> = (0..9_000_000_u32).map(|n| (n % 251) as u8).collect();
        for (key, bytes) in
            [("a/b/x", &b"old"[..]), ("a/b/x", &large), ("a/b/y@1", b""), ("a/b/c/z", b"z"), ("a/bb", b"")]
        {
            store.put(key, bytes.to_vec()).unwrap();
        }
        let sorted = || {
            let mut names = store.list("a/b").unwrap();
            names.sort();
            names
        };
        assert_eq!(sorted(), ["x", "y@1"], "{home}");
        assert!(store.get("a/b/x").unwrap() == large && store.get("a/b/y@1").unwrap().is_empty(), "{home}");
        store.rename("a/b/x", "a/b/w").unwrap();
        assert!(store.get("a/b/w").unwrap() == large, "{home}");
        store.delete("a/b/y@1").unwrap();
        store.delete("a/b/y@1").unwrap();
        assert_eq!(sorted(), ["w"], "{home}");
        assert!(store.place("a/b/w").contains("a/b/w"), "{home}");
    });
}

#[test]
fn the_two_newest_are_kept() {
    each(|home, fresh| {
        let store = fresh();
        assert_eq!(load(&store), (None, vec![]), "{home}");
        for offset in [1, 300, 20, 4000] {
            of(&store).write(&snapshot(offset)).unwrap();
        }
        let kept = ["snapshot-00000000-000000000000012c", "snapshot-00000000-0000000000000fa0"];
        assert_eq!(names(&store), kept, "{home}");
        assert_eq!(load(&store), (Some(snapshot(4000)), vec![]), "{home}");
        // A process that has lost the partition and does not know it: what it writes is late.
        of(&store).write(&snapshot(200)).unwrap();
        of(&store).write(&snapshot(4000)).unwrap();
        assert_eq!((names(&store), load(&store).0), (kept.map(str::to_owned).to_vec(), Some(snapshot(4000))), "{home}");
    });
}

#[test]
fn a_damaged_snapshot_is_set_aside_and_the_one_before_it_is_used() {
    each(|home, fresh| {
        let len = with(fresh, &[10, 20]).get(TWENTY).unwrap().len();
        let check = |what: &str, change: &dyn Fn(&mut Vec<u8>), len: usize| {
            let store = with(fresh, &[10, 20]);
            damage(&store, TWENTY, change);
            let (found, set_aside) = load(&store);
            assert_eq!(found, Some(snapshot(10)), "{home}, {what}");
            let aside = "sums/default.input-3/damaged-snapshot-00000000-0000000000000014";
            assert_eq!(set_aside, [store.place(aside)], "{home}, {what}");
            assert_eq!(store.get(aside).unwrap().len(), len, "{home}, {what}: kept");
            assert_eq!(load(&store), (Some(snapshot(10)), vec![]), "{home}, {what}: once");
        };
        // Over HTTP some of them are enough.
        let step = if home == "s3" { 17 } else { 1 };
        for at in (0..len).step_by(step) {
            check(&format!("byte {at}"), &|bytes| bytes[at] ^= 0x40, len);
            check(&format!("cut to {at}"), &|bytes| bytes.truncate(at), at);
        }
    });
}

#[test]
fn a_state_that_does_not_decode_is_set_aside_but_not_one_of_a_newer_version() {
    each(|home, fresh| {
        let store = with(fresh, &[10, 20]);
        let newer = |_: &Snapshot| Err(RestoreError::Format { found: 9, newest: 1 });
        assert!(matches!(of(&store).load(newer), Err(SnapshotError::Newer { .. })), "{home}");
        let picky = |snapshot: &Snapshot| match snapshot.meta.position.offset {
            20 => Err(RestoreError::Wire(floodplain_fold::wire::WireError::Short)),
            _ => Ok(()),
        };
        let loaded = of(&store).load(picky).unwrap();
        assert_eq!((loaded.meta, loaded.set_aside.len()), (Some(snapshot(10).meta), 1), "{home}");
    });
}

/// One of a version to come: what all versions from the second on have in common is their header.
#[test]
fn a_newer_version_is_not_skipped() {
    each(|home, fresh| {
        let store = with(fresh, &[10, 20]);
        damage(&store, TWENTY, |bytes| {
            bytes[8] = 3;
            let checksum = crc32c::crc32c(&bytes[..20]);
            bytes[20..24].copy_from_slice(&checksum.to_le_bytes());
            // Whatever it holds.
            bytes[24..].fill(7);
        });
        let error = of(&store).load(|_| Ok(())).unwrap_err();
        assert!(matches!(error, SnapshotError::Newer { .. }), "{home}: {error}");
        let text = error.to_string();
        for told in [&*store.place(TWENTY), "version 3", "start that version, or move it away"] {
            assert!(text.contains(told), "{home}: {text}");
        }
        assert_eq!(names(&store).len(), 2, "{home}: nothing is touched");
    });
}

/// `fixtures/snapshot/v<N>/snapshot` is what version N of the file wrote. Each was written once, by
/// `FLOODPLAIN_TEST_WRITE_FIXTURE=v<N> cargo test -p floodplain-fold --test it earlier_versions`: one that no longer reads
/// is a fault of the reader.
#[test]
fn what_earlier_versions_wrote_is_read() {
    each(|home, fresh| {
        for version in [1, 2] {
            let path = format!("{}/tests/fixtures/snapshot/v{version}/snapshot", env!("CARGO_MANIFEST_DIR"));
            if std::env::var("FLOODPLAIN_TEST_WRITE_FIXTURE").is_ok_and(|wanted| wanted == format!("v{version}")) {
                assert!(!Path::new(&path).exists(), "{path} was written once and stays");
                std::fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
                std::fs::write(&path, with(fresh, &[20]).get(TWENTY).unwrap()).unwrap();
            }
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes[8], version, "{path}");
            let store = with(fresh, &[10]);
            store.put(TWENTY, bytes.clone()).unwrap();
            assert_eq!(load(&store), (Some(snapshot(20)), vec![]), "{home}, version {version}");
            let step = if home == "s3" { 31 } else { 1 };
            for at in (0..bytes.len()).step_by(step) {
                let store = with(fresh, &[10]);
                let mut bytes = bytes.clone();
                bytes[at] ^= 0x40;
                store.put(TWENTY, bytes).unwrap();
                let (found, set_aside) = load(&store);
                assert_eq!((found, set_aside.len()), (Some(snapshot(10)), 1), "{home}, version {version}, byte {at}");
            }
        }
    });
}

/// What another process does between a list and what is read then.
#[derive(Debug)]
struct Busy {
    store: Arc<dyn Objects>,
    /// Offset of its next snapshot.
    next: AtomicU32,
    /// So many more times it writes, and prunes what was there.
    left: AtomicU32,
}

impl Objects for Busy {
    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        self.store.list(prefix)
    }

    fn get(&self, key: &str) -> io::Result<Vec<u8>> {
        let writes = |left: u32| left.checked_sub(1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, writes).is_ok() {
            let first = u64::from(self.next.fetch_add(2, Ordering::Relaxed));
            for offset in [first, first + 1] {
                of(&self.store).write(&snapshot(offset)).unwrap();
            }
        }
        self.store.get(key)
    }

    fn put(&self, key: &str, bytes: Vec<u8>) -> io::Result<()> {
        self.store.put(key, bytes)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.store.rename(from, to)
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        self.store.delete(key)
    }

    fn place(&self, key: &str) -> String {
        self.store.place(key)
    }
}

#[test]
fn what_another_process_prunes_meanwhile_is_looked_for_again() {
    each(|home, fresh| {
        for times in 0..6 {
            let store = with(fresh, &[10, 20]);
            let (next, left) = (AtomicU32::new(30), AtomicU32::new(times));
            let busy: Arc<dyn Objects> = Arc::new(Busy { store, next, left });
            let loaded = of(&busy).load(|_| Ok(()));
            match (times, loaded) {
                (0, Ok(loaded)) => assert_eq!(loaded.meta, Some(snapshot(20).meta), "{home}"),
                (1..5, Ok(loaded)) => {
                    let newest = snapshot(29 + 2 * u64::from(times));
                    assert_eq!((loaded.meta, loaded.set_aside.len()), (Some(newest.meta), 0), "{home}, {times}");
                }
                // A store that lists what is not there must not be asked for ever.
                (5, Err(SnapshotError::Io { source, .. })) => assert_eq!(source.kind(), io::ErrorKind::NotFound),
                (_, other) => panic!("{home}, {times}: {other:?}"),
            }
        }
    });
}

/// Two processes write to one folder at the same time.
#[test]
fn what_others_have_not_finished_is_removed_once_it_is_of_no_use() {
    let disk = Arc::new(FaultDisk::new(1));
    let own: Arc<dyn Objects> = Arc::new(Folder::shared(disk.clone(), Path::new("/folds"), 0xa));
    let other = "temp-000000000000000b-snapshot-00000000-0000000000000014";
    own.put(&format!("{FOLDER}/{other}"), b"half".to_vec()).unwrap();
    for (offset, is_there) in [(10, true), (20, true), (30, true), (40, false)] {
        of(&own).write(&snapshot(offset)).unwrap();
        assert_eq!(names(&own).contains(&other.to_owned()), is_there, "{offset}");
    }
    assert_eq!(names(&own).len(), 2);
}

#[test]
fn a_log_that_is_behind_its_fold_is_not_repaired() {
    each(|home, fresh| {
        let log = model();
        let streams = Streams::open(&log);
        let store = fresh();
        write(&log, streams.input.partition(0), &[(1, Ask::Add(1), 0), (1, Ask::Emit(1), 0)]);
        let mut runner = Runner::open(Sums::default(), streams.config_of(&store), &log).unwrap();
        Worker::new().run(&log, &mut runner);
        runner.begin_snapshot(Timestamp(0));
        let snapshot = runner.take_snapshot().unwrap();
        runner.snapshots().write(&snapshot).unwrap();
        let other = model();
        let empty = Streams::open(&other);
        let error = Runner::open(Sums::default(), empty.config_of(&store), &other).unwrap_err();
        let seen = Position::new(0, 2);
        assert!(matches!(error, OpenError::LogBehind { seen: found, .. } if found == seen), "{home}: {error}");
        for told in ["0:2", &store.place("sums/default.input-0")] {
            assert!(error.to_string().contains(told), "{home}: {error}");
        }
        // Without the snapshot, `_folds` still tells.
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
        let mut runner = Runner::open(Sums::default(), empty.config_of(&fresh()), &other).unwrap();
        let mut worker = Worker::new();
        let error = loop {
            match worker.step(&other, &mut runner) {
                Ok(more) => assert!(more, "it must not settle"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, RunnerError::LogBehind { .. }), "{home}: {error}");
        assert_eq!(runner.fold().state_hash(), Sums::default().state_hash());
    });
}

/// A node with an empty disk: nothing but the log and the store.
#[test]
fn a_fold_starts_from_the_newest_snapshot_and_not_from_the_start_of_the_log() {
    each(|home, fresh| {
        let log = model();
        let streams = Streams::open(&log);
        let store = fresh();
        write(&log, streams.input.partition(0), &[(1, Ask::Add(1), 0), (2, Ask::Add(3), 0), (1, Ask::Emit(1), 0)]);
        let mut runner = Runner::open(Sums::default(), streams.config_of(&store), &log).unwrap();
        Worker::new().run(&log, &mut runner);
        runner.begin_snapshot(Timestamp(0));
        let snapshot = runner.take_snapshot().unwrap();
        runner.snapshots().write(&snapshot).unwrap();
        let (state, position) = (runner.fold().clone(), runner.position());
        drop(runner);
        let runner = Runner::open(Sums::default(), streams.config_of(&store), &log).unwrap();
        assert_eq!((runner.fold(), runner.position()), (&state, position), "{home}");
    });
}

#[test]
fn a_snapshot_of_something_else_is_refused() {
    each(|home, fresh| {
        let log = model();
        let streams = Streams::open(&log);
        let config = streams.config_of(&fresh());
        let mut bytes = Vec::new();
        Sums::default().snapshot(&mut bytes);
        let mut foreign = snapshot(0);
        foreign.state = bytes;
        config.snapshots.write(&foreign).unwrap();
        let error = Runner::open(Sums::default(), config, &log).unwrap_err();
        assert!(matches!(error, OpenError::Foreign { .. }), "{home}: {error}");
    });
}
