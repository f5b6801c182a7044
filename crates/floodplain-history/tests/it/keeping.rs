//! A log that forgets, and kills: what was acknowledged is in tables. And a manifest that has lost something: no file is removed.

use crate::engine::{World, rows, run};
use floodplain_history::{
    Error,
    engine::{Engine, EngineConfig, LogRetention},
    route::DefaultRoute,
};
use floodplain_log::{
    Append, BatchBuilder, Compression, Disk as _, Embedded, EmbeddedConfig, Log, MessageRef, Partition, append,
};
use floodplain_testkit::{Counts, FaultDisk, batch_of, documented};
use floodplain_types::{Class, Clock as _, ManualClock, StreamId, StreamName, TenantId, Timestamp};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const MINUTE: Duration = Duration::from_secs(60);

/// What the log of the server does to all of its streams.
fn forget(world: &World) {
    let oldest_ms = (world.clock.now() - MINUTE).as_millis();
    for stream in world.log.streams() {
        for partition in (0..stream.partitions).map(|index| stream.partition(index)) {
            world.log.trim(partition, world.log.position_at(partition, oldest_ms).unwrap());
        }
    }
}

#[test]
fn rows_are_in_files_before_the_log_forgets_them_by_age() {
    let mut world = World::new();
    let appended_bytes = Arc::new(|| 0_u64);
    world.config.log_retention = Some(LogRetention { age: MINUTE, bytes: u64::MAX, appended_bytes });
    let (mut published, lost) = (0, Counts::default());
    metrics::with_local_recorder(&lost, || {
        for seconds in [5, 50, 200, 61, 1, 75, 130, 30, 90] {
            let mut engine = world.engine().unwrap();
            let opened = world.clock.now();
            for _ in 0..seconds {
                world.publish(&format!("devices/d{}/t", published % 5), format!(r#"{{"v":{published}}}"#).as_bytes());
                published += 1;
                run(&mut engine);
                engine.write_due_snapshots().unwrap();
                world.clock.advance(Duration::from_secs(1));
                // The server has its log leave a minute after a start.
                if world.clock.now().since(opened) >= MINUTE {
                    forget(&world);
                }
            }
            // It is killed, and off for a while.
            drop(engine);
            let mut engine = world.engine().unwrap();
            run(&mut engine);
            assert_eq!(rows(&engine.handle(), "t").len(), published, "after {seconds} s");
            world.clock.advance(Duration::from_secs(if seconds % 2 == 0 { 7200 } else { 0 }));
        }
    });
    assert_eq!(lost.get("floodplain_history_lost_ranges_total"), 0);
    assert_eq!(lost.of("floodplain_fold_lost_ranges_total"), []);
}

/// A log of the server, which keeps so many bytes of all that is written, of which messages are the least part.
#[test]
fn rows_are_in_files_before_the_log_forgets_them_by_size() {
    const KEPT_BYTES: u64 = 16 << 20;
    let (disk, clock) = (FaultDisk::new(1), Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000))));
    let open = || {
        let config = EmbeddedConfig { retention_bytes: Some(KEPT_BYTES), ..EmbeddedConfig::new("/log") };
        let (log, _) = Embedded::open(Arc::new(disk.clone()), clock.clone(), config).unwrap();
        let stream = |name: &str, partitions| {
            let stream = StreamName::new(name).unwrap();
            log.open_stream(&StreamId { tenant: TenantId::default_tenant(), stream, generation: 0 }, partitions)
                .unwrap()
        };
        let (input, state, manifest) = (stream("telemetry", 1), stream("state", 1), stream("_history", 1));
        let (messages, load) = (input.partition(0), stream("requests", 1).partition(0));
        let mut config = EngineConfig::new("/history", vec![input], state, manifest);
        let counted = log.clone();
        let appended_bytes = Arc::new(move || counted.appended_bytes());
        config.log_retention = Some(LogRetention { age: MINUTE * 1000, bytes: log.retention_bytes(), appended_bytes });
        let engine =
            Engine::open(config, Arc::new(disk.clone()), log.clone(), clock.clone(), Arc::new(DefaultRoute::default()));
        (log, engine.unwrap(), messages, load)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let put = |log: &Embedded, partition: Partition, batch| {
        let outcome = runtime.block_on(append(log, Append { batches: vec![(partition, batch)], class: Class::All }));
        assert!(matches!(outcome, floodplain_log::Outcome::Committed(_)), "{outcome:?}");
    };
    let (mut rng, mut published, lost) = (SmallRng::seed_from_u64(7), 0, Counts::default());
    let noise = vec![b'x'; 256 << 10];
    metrics::with_local_recorder(&lost, || {
        let mut forgotten = 0;
        for life in 0..8 {
            let (log, mut engine, messages, load) = open();
            for _ in 0..rng.random_range(1..120) {
                let payload = format!(r#"{{"v":{published}}}"#);
                let message = MessageRef {
                    topic: "devices/a/t",
                    payload: payload.as_bytes(),
                    key: b"a",
                    qos: 1,
                    ..MessageRef::default()
                };
                let mut builder = BatchBuilder::new();
                clock.advance(Duration::from_millis(1));
                message.write(&mut builder, clock.now().as_millis(), std::iter::empty()).unwrap();
                put(&log, messages, builder.finish(Compression::None).unwrap());
                put(&log, load, batch_of(b"c", &noise, clock.now().as_millis()));
                published += 1;
                run(&mut engine);
                engine.write_due_snapshots().unwrap();
                log.maintain().unwrap();
            }
            forgotten = log.start(messages).offset;
            drop((engine, log));
            let (log, mut engine, ..) = open();
            run(&mut engine);
            assert_eq!(rows(&engine.handle(), "t").len(), published, "in life {life}");
            drop((engine, log));
        }
        assert!(forgotten > 0 && published > 4 * KEPT_BYTES as usize / noise.len(), "{forgotten} of {published}");
    });
    assert_eq!(lost.get("floodplain_history_lost_ranges_total"), 0);
}

/// The files of tables, with what is in them.
fn files(world: &World) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = world.disk.files().into_iter().map(|(path, _)| path);
    let of_tables = paths.filter(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    of_tables.map(|path| (path.clone(), world.disk.contents(&path).unwrap())).collect()
}

fn snapshots(world: &World) -> Vec<PathBuf> {
    let mut paths: Vec<_> = world.disk.files().into_iter().map(|(path, _)| path).collect();
    paths.retain(|path| path.starts_with("/history/folds/manifest"));
    paths.sort();
    paths
}

/// Has files of two tables, and two snapshots of the manifest, the newer one by one file.
fn world_with_files() -> World {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    for (table, value) in [("t", 1), ("u", 2), ("t", 3)] {
        world.publish(&format!("devices/a/{table}"), format!(r#"{{"v": {value}}}"#).as_bytes());
        run(&mut engine);
        engine.flush_all().unwrap();
        engine.write_snapshots().unwrap();
    }
    assert_eq!((files(&world).len(), snapshots(&world).len()), (3, 2));
    world
}

fn forget_manifest(world: &World) {
    let partition = world.config.manifest.partition(0);
    world.log.trim(partition, world.log.watermark(partition));
}

fn damage(world: &World, path: &Path) {
    assert!(world.disk.damage(path, |bytes| bytes.truncate(9)));
}

/// It does not start, however often it is tried, and says what to do.
fn is_refused(world: &World, reason: &str) {
    let before = files(world);
    for _ in 0..2 {
        let error = world.engine().unwrap_err();
        assert!(matches!(error, Error::Manifest(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains(reason) && text.contains("no file was touched. Put /history/folds back"), "{text}");
        assert_eq!(files(world), before);
    }
}

/// Moves all away that is in one of these folders.
fn move_away(world: &World, folders: &[&str]) {
    world.disk.create_dir_all(Path::new("/aside")).unwrap();
    for (n, (path, _)) in world.disk.files().into_iter().enumerate() {
        if folders.iter().any(|folder| path.parent() == Some(Path::new(folder))) {
            world.disk.rename(&path, &Path::new("/aside").join(n.to_string())).unwrap();
        }
    }
}

#[test]
fn a_manifest_that_cannot_be_read_removes_no_file() {
    let world = world_with_files();
    snapshots(&world).iter().for_each(|path| damage(&world, path));
    // The log has it all.
    let sound = World { disk: world.disk.duplicate(1), ..world.clone() };
    let mut engine = sound.engine().unwrap();
    run(&mut engine);
    assert_eq!((rows(&engine.handle(), "t").len(), rows(&engine.handle(), "u").len()), (2, 1));
    drop(engine);

    forget_manifest(&world);
    is_refused(&world, "records are gone from the log");
    // With its tables out of the way it goes on with what the log has, which is all messages here.
    let folds = snapshots(&world)[0].parent().and_then(Path::to_str).unwrap().to_owned();
    move_away(&world, &["/history/t", &folds]);
    is_refused(&world, "records are gone from the log");
    move_away(&world, &["/history", "/history/u"]);
    for _ in 0..2 {
        let mut engine = world.engine().unwrap();
        run(&mut engine);
        assert_eq!((rows(&engine.handle(), "t").len(), rows(&engine.handle(), "u").len()), (2, 1));
        engine.flush_all().unwrap();
    }
}

#[test]
fn a_manifest_that_lacks_a_record_removes_no_file() {
    let world = world_with_files();
    forget_manifest(&world);
    // The older snapshot does not know the newest file.
    damage(&world, snapshots(&world).last().unwrap());
    is_refused(&world, "records are gone from the log");
}

#[test]
fn files_of_another_manifest_are_not_removed() {
    let world = world_with_files();
    // Both the log and the folds are new, so nobody misses anything, and nobody knows of the tables.
    let folds: Vec<PathBuf> = world.disk.files().into_iter().map(|(path, _)| path).collect();
    folds.iter().filter(|path| path.starts_with("/history/folds")).for_each(|path| world.disk.remove(path).unwrap());
    let world = World { disk: world.disk.clone(), ..World::new() };
    let mut engine = world.engine().unwrap();
    world.publish("devices/a/t", br#"{"v": 1}"#);
    run(&mut engine);
    drop(engine);
    is_refused(&world, "it is at version 0, and there is /history/t/");
}

/// As where servers share a log, and one that has not kept the tables before begins to.
#[test]
fn a_folder_with_none_of_the_files_is_another_ones() {
    let world = world_with_files();
    let elsewhere = World { disk: floodplain_testkit::FaultDisk::new(2), ..world.clone() };
    let error = elsewhere.engine().unwrap_err().to_string();
    assert!(error.contains("it names 3 files, and none of them is in /history; on a log"), "{error}");
    assert!(world.engine().is_ok());
}

/// Who looks at `/metrics` finds out what it says.
#[test]
fn the_guide_lists_all_that_is_counted() {
    let guide = include_str!("../../../../docs/guides/running.md");
    let (mut folders, mut counted) = (vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")], BTreeSet::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let names = text.split('"').filter(|part| part.starts_with("floodplain_history_"));
            counted.extend(names.map(str::to_owned));
        }
    }
    assert_eq!(documented(guide, "floodplain_history_"), counted);
}
