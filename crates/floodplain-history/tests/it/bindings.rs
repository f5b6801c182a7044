//! Bindings that change while messages come, letters of what was refused, and decoding again: with a crash at each step.

use crate::{
    engine::{Row, World, cut_at_every_call, rows, run},
    hostile::{Hostile, ONCE},
};
use floodplain_history::{
    Error, Handle,
    bindings::{Binding, BindingError, BindingsFollower, Origin},
    engine::Engine,
    jobs::{JobState, Replay},
    table_rules::{Source, TableRule},
};
use floodplain_log::Log as _;
use floodplain_testkit::{Adversity, Counts, Fault, Rule, wait_until};
use serde_json::{Value, json};
use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

pub(crate) fn declare(name: &str, value: Value) -> Binding {
    Binding::declare(name, value, Origin::Api).unwrap()
}

fn json_to(table: &str) -> Value {
    json!({ "filter": "plants/+/+", "device_level": 2, "table": { "name": table }, "decoder": { "format": "json" } })
}

/// Polls `future` once, lets the engine work, and takes the answer.
pub(crate) fn ask<T>(engine: &mut Engine, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    run(engine);
    match future.poll(&mut context) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("the engine has nothing more to do, and no answer came"),
    }
}

pub(crate) fn put(engine: &mut Engine, name: &str, value: Value) -> Result<Arc<Binding>, BindingError> {
    let handle = engine.handle();
    ask(engine, handle.put_binding(declare(name, value)))
}

pub(crate) fn replay(engine: &mut Engine, replay: Replay) -> Result<String, BindingError> {
    let handle = engine.handle();
    ask(engine, handle.replay(replay))
}

pub(crate) const ALL: Replay = Replay::Range { binding: None, stream: None, from: None, to: None };

/// All letters, in no order.
pub(crate) fn letters(world: &World) -> Vec<Value> {
    let dlq = world.log.streams().into_iter().find(|stream| stream.id.stream.as_str() == "dlq").unwrap();
    let mut letters: Vec<Value> = Vec::new();
    for partition in (0..dlq.partitions).map(|index| dlq.partition(index)) {
        let read = world.log.read(partition, world.log.start(partition), usize::MAX).unwrap();
        for batch in &read.batches {
            let records = batch.batch.records().unwrap();
            // A hostile log has records of its own.
            let values = records.iter().filter_map(|record| record.unwrap().value);
            letters.extend(values.map(|value| serde_json::from_slice::<Value>(value).unwrap()));
        }
    }
    letters
}

pub(crate) fn of_kind<'a>(letters: &'a [Value], kind: &str) -> Vec<&'a Value> {
    letters.iter().filter(|letter| letter["kind"] == kind).collect()
}

pub(crate) fn values(handle: &Handle, table: &str, column: &str) -> Vec<String> {
    let mut values: Vec<_> = rows(handle, table).iter().filter_map(|row| row.get(column).cloned()).collect();
    values.sort();
    values
}

#[test]
fn messages_go_where_the_binding_of_their_time_says() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    world.publish("plants/p1/temp", br#"{"v": 1}"#);
    run(&mut engine);
    let binding = put(&mut engine, "plants", json_to("plant")).unwrap();
    assert_eq!((binding.name(), binding.version()), ("plants", 1));
    world.publish("plants/p1/temp", br#"{"v": 2}"#);
    run(&mut engine);
    assert_eq!(put(&mut engine, "plants", json_to("plant2")).unwrap().version(), 2);
    world.publish("plants/p1/temp", br#"{"v": 3}"#);
    run(&mut engine);
    let handle = engine.handle();
    ask(&mut engine, handle.remove_binding("plants")).unwrap();
    world.publish("plants/p1/temp", br#"{"v": 4}"#);
    let check = |engine: &Engine, what: &str| {
        let handle = engine.handle();
        assert_eq!(values(&handle, "messages", "payload"), [r#"{"v": 1}"#, r#"{"v": 4}"#], "{what}");
        assert_eq!(values(&handle, "plant", "v"), ["2"], "{what}");
        assert_eq!(values(&handle, "plant2", "v"), ["3"], "{what}");
        assert_eq!(rows(&handle, "plant")[0]["device"], "p1", "{what}");
    };
    run(&mut engine);
    check(&engine, "at once");
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    check(&engine, "after a start");
    let handle = engine.handle();
    let unknown = ask(&mut engine, handle.remove_binding("plants"));
    assert_eq!(unknown, Err(BindingError::Unknown("plants".to_owned())));
}

#[test]
fn declared_keys_and_times_make_rows_of_their_own() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    let roads = json!({ "filter": "roads/+", "device_level": 2, "table": { "name": "traffic" },
        "time_field": "timestamp", "key_columns": ["n"] });
    put(&mut engine, "roads", roads).unwrap();
    for n in 0..3 {
        let payload = format!(r#"{{"timestamp": "2015-09-01 11:30:00", "value": {n}, "n": {n}}}"#);
        world.publish("roads/a7", payload.as_bytes());
        world.publish("roads/a7", payload.as_bytes());
    }
    run(&mut engine);
    let handle = engine.handle();
    assert_eq!(values(&handle, "traffic", "value"), ["0", "1", "2"]);
    assert_eq!(rows(&handle, "traffic")[0]["time"], "1441107000000000");
    let summary = handle.summaries().into_iter().find(|summary| summary.table == "traffic").unwrap();
    assert_eq!(summary.columns.iter().find(|column| column.name == "n").unwrap().role, "key");
}

#[test]
fn attributes_of_lines_are_columns_and_no_keys() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    let decoder = json!({ "format": "line_protocol", "attributes": ["site"] });
    let lines = json!({ "filter": "lines/+", "device_level": 2, "table": { "name": "lines" }, "decoder": decoder });
    put(&mut engine, "lines", lines).unwrap();
    world.publish("lines/a", b"m,core=0,site=north v=1 1700000000000000000");
    world.publish("lines/a", b"m,core=0,site=south w=2 1700000000000000000");
    run(&mut engine);
    let check = |engine: &Engine, what: &str| {
        let handle = engine.handle();
        assert_eq!(rows(&handle, "m").len(), 1, "{what}");
        for (column, value) in [("core", "0"), ("site", "south"), ("v", "1"), ("w", "2")] {
            assert_eq!(values(&handle, "m", column), [value], "{what}: {column}");
        }
        let roles = handle.summary("m").unwrap().columns.into_iter().map(|column| (column.name, column.role));
        let keys: Vec<_> = roles.filter(|(_, role)| *role == "key").map(|(name, _)| name).collect();
        assert_eq!(keys, ["device", "time", "core"], "{what}");
    };
    check(&engine, "from buffers");
    engine.flush_all().unwrap();
    check(&engine, "from files");
    check(&world.engine().unwrap(), "after a start");
}

#[test]
fn what_a_declared_decoder_refuses_is_a_letter_and_no_message() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    put(&mut engine, "plants", json_to("plant")).unwrap();
    let partition = world.publish("plants/p1/temp", br#"{"v": 1}"#);
    world.publish("plants/p1/temp", br#"{"v": x}"#);
    run(&mut engine);
    let found = letters(&world);
    let version = engine.handle().bindings().get("plants").unwrap().decoder().version().to_string();
    let expected = json!({
        "kind": "decode", "stage": "decode", "reason": "payload is not json: expected value", "stream": "telemetry",
        "partition": partition.index, "from": "0:1", "to": "0:1", "count": 1, "binding": "plants",
        "topic": "plants/p1/temp", "device": "p1", "byte_position": 6, "line": null, "decoder": version,
    });
    assert_eq!(found, [expected]);
    assert_eq!(rows(&engine.handle(), "messages").len(), 0);
    assert_eq!(engine.handle().bindings().get("plants").unwrap().counts().get(), (2, 1));
    // It is decoded again, and even flushed and decoded again; the letter is there once.
    for _ in 0..2 {
        let mut engine = world.engine().unwrap();
        run(&mut engine);
        assert_eq!(letters(&world).len(), 1);
        engine.flush_all().unwrap();
    }
    let mut engine = world.engine().unwrap();
    engine.write_snapshots().unwrap();
    world.publish("plants/p1/temp", b"?");
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    assert_eq!(letters(&world).len(), 2);
}

#[test]
fn of_lines_only_the_bad_ones_are_a_letter() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    let lines = json!({ "filter": "lines/+", "device_level": 2, "table": { "name": "unused" },
        "decoder": { "format": "line_protocol", "precision": "s" } });
    put(&mut engine, "lines", lines).unwrap();
    world.publish("lines/l1", b"cpu,core=a load=0.5 1700000000\ncpu load=\nmem used=1i 1700000000\nmem used");
    for _ in 0..2 {
        let mut engine = world.engine().unwrap();
        run(&mut engine);
        let handle = engine.handle();
        assert_eq!(
            (values(&handle, "cpu", "load"), values(&handle, "mem", "used")),
            (vec!["0.5".into()], vec!["1".into()])
        );
        assert_eq!((rows(&handle, "cpu")[0]["device"].as_str(), rows(&handle, "messages").len()), ("l1", 0));
        let found = letters(&world);
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0]["count"], &found[0]["line"], &found[0]["device"]), (&json!(2), &json!(2), &json!("l1")));
    }
}

#[test]
fn rows_of_a_table_by_name_go_when_they_are_as_old_as_its_binding_says() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    let mut kept = json_to("plant");
    kept["retention"] = json!("1h");
    put(&mut engine, "plants", kept).unwrap();
    world.publish("plants/p1/temp", br#"{"ts": 1700000000, "v": 1}"#);
    run(&mut engine);
    engine.flush_all().unwrap();
    world.clock.advance(Duration::from_secs(3000));
    run(&mut engine);
    assert_eq!(rows(&engine.handle(), "plant").len(), 1);
    world.clock.advance(Duration::from_secs(3000));
    run(&mut engine);
    assert_eq!(rows(&engine.handle(), "plant").len(), 0);
    let summary = engine.handle().summaries().into_iter().find(|summary| summary.table == "plant").unwrap();
    let kept = Some((Duration::from_secs(3600), Source::Binding));
    assert_eq!(summary.rule, TableRule { binding: Some("plants".to_owned()), retention: kept });
}

#[test]
fn what_nothing_declares_is_no_letter() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    let auto = json!({ "filter": "x/#", "table": { "name": "x" } });
    put(&mut engine, "x", auto).unwrap();
    world.publish("x/a", b"\xff\x00");
    run(&mut engine);
    assert_eq!(letters(&world), Vec::<Value>::new());
    assert_eq!(rows(&engine.handle(), "messages").len(), 1);
}

#[test]
fn the_bindings_of_the_configuration_are_taken_up_behind_what_was_decoded() {
    let mut world = World::new();
    world.publish("plants/p1/temp", br#"{"v": 1}"#);
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    engine.flush_all().unwrap();
    // This one was seen, and is in no file: the next start decodes it again.
    world.publish("plants/p1/temp", br#"{"v": 2}"#);
    run(&mut engine);
    assert_eq!(rows(&engine.handle(), "messages").len(), 2);
    let binding = Binding::declare("plants", json_to("plant"), Origin::Config).unwrap();
    world.config.bindings = vec![Arc::new(binding)];
    let mut engine = world.engine().unwrap();
    world.publish("plants/p1/temp", br#"{"v": 3}"#);
    run(&mut engine);
    assert_eq!(engine.handle().bindings().list().len(), 1);
    assert_eq!(values(&engine.handle(), "plant", "v"), ["3"]);
    assert_eq!(rows(&engine.handle(), "messages").len(), 2);
    let read_only = BindingError::ReadOnly { name: "plants".to_owned(), origin: Origin::Config };
    assert_eq!(put(&mut engine, "plants", json_to("other")).unwrap_err(), read_only);
    world.config.bindings.clear();
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    assert_eq!(engine.handle().bindings().list().len(), 0, "who takes them out of the file takes them away");
}

#[test]
fn a_range_is_decoded_again_by_the_bindings_of_now() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    for n in 0..5 {
        world.publish("plants/p1/temp", format!(r#"{{"ts": {}, "v": {n}}}"#, 1_700_000_000 + n).as_bytes());
        world.publish("other/p1", b"1");
    }
    run(&mut engine);
    put(&mut engine, "plants", json_to("plant")).unwrap();
    assert_eq!(rows(&engine.handle(), "plant").len(), 0);
    let only = Replay::Range { binding: Some("plants".to_owned()), stream: None, from: None, to: None };
    let job = replay(&mut engine, only).unwrap();
    for _ in 0..2 {
        let jobs = engine.handle().jobs();
        let done = jobs.list().iter().find(|one| one.name == job).unwrap();
        assert_eq!((done.state, done.progress.records, done.progress.total), (JobState::Done, 10, 10));
        assert_eq!((done.progress.rows, done.progress.failed), (5, 0));
        assert_eq!(values(&engine.handle(), "plant", "v"), ["0", "1", "2", "3", "4"]);
        assert_eq!(rows(&engine.handle(), "messages").len(), 10, "what was there stays");
        engine = world.engine().unwrap();
        run(&mut engine);
    }
    replay(&mut engine, ALL).unwrap();
    assert_eq!(values(&engine.handle(), "plant", "v"), ["0", "1", "2", "3", "4"], "again and again the same");
    assert_eq!(rows(&engine.handle(), "messages").len(), 10);
    let unknown = Replay::Range { binding: Some("none".to_owned()), stream: None, from: None, to: None };
    assert_eq!(replay(&mut engine, unknown), Err(BindingError::Unknown("none".to_owned())));
}

#[test]
fn a_range_of_time_is_a_range_of_time() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    let mut times = Vec::new();
    for n in 0..6 {
        world.publish("plants/p1/temp", format!(r#"{{"v": {n}}}"#).as_bytes());
        times.push(floodplain_types::Clock::now(&*world.clock));
    }
    run(&mut engine);
    put(&mut engine, "plants", json_to("plant")).unwrap();
    replay(&mut engine, Replay::Range { binding: None, stream: None, from: Some(times[2]), to: Some(times[4]) })
        .unwrap();
    assert_eq!(values(&engine.handle(), "plant", "v"), ["2", "3"]);
}

#[test]
fn a_replay_goes_on_while_messages_come() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    for n in 0..20 {
        world.publish("plants/p1/temp", format!(r#"{{"v": {n}}}"#).as_bytes());
    }
    run(&mut engine);
    put(&mut engine, "plants", json_to("plant")).unwrap();
    begin_replay(&engine.handle());
    let mut steps = 0;
    while !engine.handle().jobs().list().iter().any(|job| job.state == JobState::Done) {
        world.publish("plants/p2/temp", br#"{"v": -1}"#);
        engine.step().unwrap();
        steps += 1;
        assert!(steps < 100, "live messages keep it from its end");
    }
    assert_eq!(rows(&engine.handle(), "plant").iter().filter(|row| row["device"] == "p1").count(), 20);
}

#[test]
fn of_a_row_the_newer_decoder_counts_whatever_is_compacted() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    let with = |scale: f64| {
        json!({ "filter": "frames/+", "device_level": 2, "table": { "name": "frame" }, "decoder": { "format": "struct",
            "time": { "field": "at", "unit": "s" },
            "fields": [{ "type": "u32", "name": "at" }, { "type": "u8", "name": "v", "scale": scale }] } })
    };
    put(&mut engine, "frames", with(0.5)).unwrap();
    let publish = |n: u32| {
        let mut frame = (1_700_000_000 + n).to_be_bytes().to_vec();
        frame.push(n as u8);
        world.publish("frames/f1", &frame);
    };
    publish(2);
    run(&mut engine);
    put(&mut engine, "frames", with(10.0)).unwrap();
    replay(&mut engine, ALL).unwrap();
    assert_eq!(values(&engine.handle(), "frame", "v"), ["20"]);
    // The file of the old row is older than that of the new one. What joins it must not make it younger.
    for n in 3..9 {
        publish(n);
        run(&mut engine);
        engine.flush_all().unwrap();
    }
    run(&mut engine);
    assert_eq!(values(&engine.handle(), "frame", "v"), ["20", "30", "40", "50", "60", "70", "80"]);
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    assert_eq!(values(&engine.handle(), "frame", "v"), ["20", "30", "40", "50", "60", "70", "80"]);
}

#[test]
fn letters_are_decoded_again_and_marked() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    put(&mut engine, "plants", json_to("plant")).unwrap();
    world.publish("plants/p1/temp", b"12.5");
    world.publish("plants/p2/temp", b"\xff");
    world.publish("plants/p2/temp", b"{");
    run(&mut engine);
    // `12.5` is JSON; the other two are none.
    assert_eq!(of_kind(&letters(&world), "decode").len(), 2);
    let text = json!({ "filter": "plants/+/+", "device_level": 2, "table": { "name": "plant" }, "decoder": { "format": "text" } });
    put(&mut engine, "plants", text).unwrap();
    let job = replay(&mut engine, Replay::Letters { ids: None, reason: None }).unwrap();
    let found = letters(&world);
    let marks = of_kind(&found, "replayed");
    assert_eq!(marks.len(), 1, "the one that is a text");
    assert_eq!((&marks[0]["from"], &marks[0]["job"]), (&json!("0:2"), &json!(job)));
    assert_eq!(rows(&engine.handle(), "plant").iter().filter(|row| row["device"] == "p2").count(), 1);
    let done = engine.handle().jobs().list()[0].clone();
    assert_eq!((done.progress.records, done.progress.rows, done.progress.failed), (2, 1, 1));
    let of_text = |letter: &&Value| letter["decoder"] != of_kind(&found, "decode")[0]["decoder"];
    let second = of_kind(&found, "decode").into_iter().filter(of_text).collect::<Vec<_>>();
    assert_eq!((of_kind(&found, "decode").len(), second.len()), (3, 1), "the text refuses one, too");
    assert_eq!(second[0]["from"], "0:1");
    replay(&mut engine, Replay::Letters { ids: None, reason: None }).unwrap();
    assert_eq!(of_kind(&letters(&world), "decode").len(), 3, "no letter twice");
}

#[test]
fn what_a_replay_refuses_is_a_letter_once_for_each_version_of_the_decoder() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    publish(&world, 0, 6);
    run(&mut engine);
    put(&mut engine, "plants", json_to("plant")).unwrap();
    assert_eq!(letters(&world).len(), 0, "when they came nothing had declared what they are");
    let count = || of_kind(&letters(&world), "decode").len();
    let refused = Counts::default();
    for round in 0..3 {
        let ended = metrics::with_local_recorder(&refused, || replay(&mut engine, ALL).unwrap());
        let jobs = engine.handle().jobs();
        let progress = jobs.list().iter().find(|job| job.name == ended).unwrap().progress;
        assert_eq!((progress.rows, progress.failed, count()), (4, 2, 2), "round {round}");
        if round == 1 {
            engine = world.engine().unwrap();
            run(&mut engine);
        }
    }
    assert_eq!(refused.get("floodplain_history_dead_letters_total"), 2);
    let mut letter = letters(&world).swap_remove(0);
    assert_eq!(
        letter["decoder"].take(),
        engine.handle().bindings().get("plants").unwrap().decoder().version().to_string()
    );
    assert_eq!(
        (&letter["stage"], &letter["binding"], &letter["stream"]),
        (&json!("decode"), &json!("plants"), &json!("telemetry"))
    );
    // One that came live has its letter.
    publish(&world, 8, 9);
    run(&mut engine);
    replay(&mut engine, ALL).unwrap();
    assert_eq!(count(), 3);
    let mut number = json_to("plant");
    number["decoder"] = json!({ "format": "number" });
    put(&mut engine, "plants", number).unwrap();
    for _ in 0..2 {
        replay(&mut engine, ALL).unwrap();
        assert_eq!(count(), 3 + 7, "another decoder refuses all of them");
    }
    put(&mut engine, "plants", json_to("plant")).unwrap();
    replay(&mut engine, ALL).unwrap();
    assert_eq!(count(), 3 + 7, "this one has said so");
}

#[test]
fn rows_that_a_replay_finds_too_old_are_a_letter_once() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    world.publish("plants/p1/temp", br#"{"ts": 1600000000, "v": 1}"#);
    run(&mut engine);
    let mut kept = json_to("plant");
    kept["retention"] = json!("1h");
    put(&mut engine, "plants", kept).unwrap();
    for _ in 0..2 {
        replay(&mut engine, ALL).unwrap();
        let found = letters(&world);
        assert_eq!((found.len(), &found[0]["reason"]), (1, &json!("older_than_retention")));
    }
    assert_eq!(rows(&engine.handle(), "plant").len(), 0);
}

/// What a person and devices do: a binding, messages of which some are refused, another binding, decoding again.
fn work(world: &World) -> Result<Engine, Error> {
    let mut engine = world.engine()?;
    let drain = |engine: &mut Engine| -> Result<(), Error> {
        while engine.step()? {}
        Ok(())
    };
    publish(world, 0, 6);
    drain(&mut engine)?;
    for (table, from) in [("first", 6), ("second", 12)] {
        begin(&engine.handle(), table);
        drain(&mut engine)?;
        publish(world, from, from + 6);
        drain(&mut engine)?;
    }
    begin_replay(&engine.handle());
    drain(&mut engine)?;
    engine.write_snapshots()?;
    Ok(engine)
}

fn publish(world: &World, from: i64, to: i64) {
    for n in from..to {
        let payload = if n % 3 == 2 { format!("bad {n}") } else { format!(r#"{{"ts": {}, "n": {n}}}"#, time(n)) };
        world.publish(&format!("plants/p{}/temp", n % 2), payload.as_bytes());
    }
}

/// Seconds, hours apart: several windows.
fn time(n: i64) -> i64 {
    1_700_000_000 + (n % 5) * 10_000 + n
}

/// Asks and does not wait.
fn begin(handle: &Handle, table: &str) {
    let asked = handle.put_binding(declare("plants", json_to(table)));
    assert!(pin!(asked).poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

fn begin_replay(handle: &Handle) {
    assert!(pin!(handle.replay(ALL)).poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

/// Where the messages of before the crash are, and that a second crash changes nothing.
fn check(world: &World, what: &str) {
    let mut seen: Option<Vec<Vec<Row>>> = None;
    for flush in [false, true, false] {
        let mut engine = world.engine().unwrap();
        run(&mut engine);
        let handle = engine.handle();
        let tables: Vec<_> = ["messages", "first", "second"].map(|table| rows(&handle, table)).into();
        let found = letters(world);
        let letters = of_kind(&found, "decode");
        let mut positions: Vec<_> =
            letters.iter().map(|letter| format!("{}/{}", letter["partition"], letter["from"])).collect();
        positions.sort();
        positions.dedup();
        assert_eq!(positions.len(), letters.len(), "{what}: no letter twice");
        // Each message is in one table by the binding of its time, or in a letter; and once more by the replay.
        let n = |row: &Row| row.get("n").or(row.get("payload")).cloned().unwrap_or_default();
        for table in &tables {
            let mut all: Vec<_> = table.iter().map(|row| (n(row), row["device"].clone())).collect();
            all.sort();
            let count = all.len();
            all.dedup();
            assert_eq!(all.len(), count, "{what}: no row twice");
        }
        let version = handle.bindings().version();
        let replayed = handle.jobs().list().iter().any(|job| job.state == JobState::Done);
        let published: u64 = (0..2).map(|i| world.log.watermark(world.input.partition(i)).offset).sum();
        let good = |from: u64, to: u64| (from..to.min(published)).filter(|n| n % 3 != 2).count();
        let (messages, first, second) = match (version, replayed) {
            (0, _) => (published as usize, 0, 0),
            (1, _) => (6, good(6, 18), 0),
            (2, false) => (6, good(6, 12), good(12, 18)),
            (2, true) => (6, good(6, 12), good(0, 18)),
            _ => panic!("{what}: version {version}"),
        };
        let wanted_letters = match (version, replayed) {
            (0, _) => 0,
            (_, true) => published as usize - good(0, published),
            (_, false) => published as usize - 6 - good(6, published),
        };
        let counts = (tables[0].len(), tables[1].len(), tables[2].len(), letters.len());
        assert_eq!(
            counts,
            (messages, first, second, wanted_letters),
            "{what}: at version {version}, {published} messages"
        );
        assert!(seen.get_or_insert(tables.clone()) == &tables, "{what}: the same after every start");
        if flush {
            engine.flush_all().unwrap();
        }
    }
}

#[test]
fn a_power_cut_at_any_call_of_a_change_leaves_one_binding_for_each_message() {
    let cuts = cut_at_every_call(work, check);
    assert!(cuts > 50, "{cuts} calls are too few to be all of them");
}

/// The log refuses, or does not say whether it has a record, and the process dies of it or tries again.
#[test]
fn a_crash_at_any_append_leaves_one_binding_for_each_message() {
    let often = Adversity { refused: 100, unknown: 150, ..Adversity::NONE };
    let (mut refused, mut crashes) = (0, 0);
    for (adversity, seed) in (0..40).map(|seed| (often, seed)).chain((40..52).map(|seed| (ONCE, seed))) {
        let world = World::new();
        let mut hostile = Hostile::new(&world, adversity, seed);
        publish(&world, 0, 6);
        hostile.drain();
        for (table, from) in [("first", 6), ("second", 12)] {
            let before = hostile.engine.handle().bindings().version();
            while hostile.engine.handle().bindings().version() == before {
                begin(&hostile.engine.handle(), table);
                hostile.drain();
            }
            publish(&world, from, from + 6);
            hostile.drain();
        }
        while !hostile.engine.handle().jobs().list().iter().any(|job| job.state == JobState::Done) {
            if hostile.engine.handle().jobs().list().is_empty() {
                begin_replay(&hostile.engine.handle());
            }
            hostile.drain();
        }
        (refused, crashes) = (refused + hostile.refused, crashes + hostile.crashes);
        drop(hostile);
        check(&world, &format!("seed {seed}"));
    }
    assert!(refused > 50 && crashes > 50, "{refused} refusals, {crashes} crashes");
}

#[test]
fn a_failing_disk_delays_a_change_and_no_more() {
    for n in 1..400 {
        let world = World::new();
        let mut engine = world.engine().unwrap();
        world.publish("plants/p0/temp", br#"{"ts": 1700000000, "n": 1}"#);
        run(&mut engine);
        world.disk.fail(Rule::nth(n, Fault::Eio));
        begin(&engine.handle(), "first");
        while engine.handle().bindings().version() == 0 {
            drop(engine.step());
        }
        let fired = world.disk.faults_fired();
        world.disk.heal();
        world.publish("plants/p0/temp", br#"{"ts": 1700000000, "n": 2}"#);
        run(&mut engine);
        assert_eq!(
            (rows(&engine.handle(), "messages").len(), values(&engine.handle(), "first", "n")),
            (1, vec!["2".to_owned()])
        );
        if fired == 0 {
            assert!(n > 5, "{n} calls are too few");
            return;
        }
    }
    panic!("a change has no end of calls");
}

#[test]
fn a_server_without_tables_follows_the_bindings_of_the_one_that_has_them() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    put(&mut engine, "plants", json_to("plants")).unwrap();
    let (disk, log) = (Arc::new(floodplain_testkit::FaultDisk::new(2)), Arc::new(world.log.clone()));
    let follower =
        BindingsFollower::open("/other".as_ref(), disk, log, world.clock.clone(), &world.config.state).unwrap();
    let current = follower.current();
    let device = |topic| current.get().bound(topic)?.device.map(str::to_owned);
    assert_eq!(device("plants/p1/boiler").as_deref(), Some("p1"), "what there was");
    let known = current.get();
    assert!(current.are(&known));
    put(&mut engine, "yard", json!({ "filter": "yard/+", "device_level": 2, "table": { "name": "yard" } })).unwrap();
    wait_until("what comes is followed", &|| (), || !current.are(&known));
    assert_eq!(device("yard/gate").as_deref(), Some("gate"));
}
