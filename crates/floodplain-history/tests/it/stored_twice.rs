//! A log that does not keep units whole may have a message twice, under one dedup id: the second makes no row, whatever bindings there are,
//! and whatever is flushed, restarted or decoded again.

use crate::{
    bindings::{ALL, letters, of_kind, put, replay, values},
    dedup::by_field,
    engine::{World, rows, run},
    hostile::Hostile,
    observing::watched,
};
use floodplain_history::{dedup::WINDOW, filter::Devices, jobs::Replay};
use floodplain_testkit::{Adversity, Counts, wait_until};
use floodplain_types::Clock as _;
use serde_json::json;
use std::time::Duration;

/// Nothing but that units may be torn.
const APART: Adversity = Adversity { torn: true, ..Adversity::NONE };

const PAYLOADS: [&str; 6] = ["1", "2", "3", "4", "4", "5"];

/// Messages without a table, of two devices. Three of them come twice.
fn send(world: &World) {
    for (device, id, payload) in [
        ("a", Some("s:1"), "1"),
        ("b", Some("s:1"), "2"),
        ("a", Some("s:1"), "copy"),
        ("a", Some("s:2"), "3"),
        ("b", Some("s:1"), "copy"),
        ("a", None, "4"),
        ("a", None, "4"),
        ("b", Some("s:3"), "5"),
        ("a", Some("s:1"), "copy"),
    ] {
        let topic = format!("x/{device}/y");
        match id {
            Some(id) => world.publish_under(id, &topic, payload.as_bytes()),
            None => world.publish(&topic, payload.as_bytes()),
        };
    }
}

#[test]
fn a_message_that_is_stored_twice_is_one_row_without_any_binding() {
    let world = World::new();
    send(&world);
    let counts = Counts::default();
    metrics::with_local_recorder(&counts, || {
        let mut hostile = Hostile::new(&world, APART, 1);
        hostile.drain();
        let handle = hostile.engine.handle();
        assert_eq!(values(&handle, "messages", "payload"), PAYLOADS);
        assert_eq!(handle.bindings().builtin().duplicate_count(), 3);
        assert_eq!(counts.get("floodplain_history_duplicates_total"), 3);
        replay(&mut hostile.engine, ALL).unwrap();
        assert_eq!(values(&handle, "messages", "payload"), PAYLOADS, "decoded again");
        assert_eq!(counts.get("floodplain_history_duplicates_total"), 3, "counted once");
    });
    for flush in [false, true, false] {
        let mut hostile = Hostile::new(&world, APART, 2);
        // The first of them is in a file, or is not.
        world.publish_under("s:3", "x/b/y", b"copy");
        hostile.drain();
        assert_eq!(values(&hostile.engine.handle(), "messages", "payload"), PAYLOADS);
        if flush {
            hostile.flush();
        }
    }
}

#[test]
fn a_message_that_is_stored_twice_is_two_rows_where_nobody_looks_for_it() {
    let world = World::new();
    send(&world);
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    assert_eq!(rows(&engine.handle(), "messages").len(), 9, "a log that keeps units whole has no copies");
    assert_eq!(engine.handle().bindings().builtin().duplicate_count(), 0);
}

#[test]
fn a_copy_that_comes_behind_the_window_is_a_row() {
    let world = World::new();
    let mut hostile = Hostile::new(&world, APART, 1);
    let send = |n: &str| world.publish_under("s:1", "x/a/y", n.as_bytes());
    send("1");
    world.clock.advance(WINDOW - Duration::from_millis(1));
    send("2");
    hostile.drain();
    assert_eq!(values(&hostile.engine.handle(), "messages", "payload"), ["1"]);
    world.clock.advance(WINDOW);
    send("3");
    hostile.drain();
    assert_eq!(values(&hostile.engine.handle(), "messages", "payload"), ["1", "3"]);
    drop(hostile);
    let mut hostile = Hostile::new(&world, APART, 2);
    hostile.drain();
    assert_eq!(values(&hostile.engine.handle(), "messages", "payload"), ["1", "3"], "decoded anew");
}

/// Alerts and latest values do not see it either.
#[test]
fn who_observes_rows_and_who_asks_for_the_latest_sees_no_copy() {
    let (world, watcher) = watched();
    let mut hostile = Hostile::new(&world, APART, 1);
    for (id, payload) in [("s:1", r#"{"v": 1}"#), ("s:2", r#"{"v": 2}"#), ("s:1", r#"{"v": 3}"#)] {
        world.publish_under(id, "devices/a/env", payload.as_bytes());
    }
    hostile.drain();
    assert_eq!(watcher.seen().len(), 2, "{:?}", watcher.seen());
    let handle = hostile.engine.handle();
    let columns = handle.snapshot("env").unwrap().unwrap().columns().clone();
    let latest = || handle.latest(&columns, &Devices::All).unwrap();
    wait_until("the index", &|| {}, || latest().is_some());
    let latest = latest().unwrap();
    let value = |batch: &arrow::array::RecordBatch| {
        let at = latest.schema.index_of("v").unwrap();
        arrow::util::display::array_value_to_string(batch.column(at), 0).unwrap()
    };
    assert_eq!(latest.rows.iter().map(value).collect::<Vec<_>>(), ["2.0"]);
}

/// What a binding looks for is looked for beside it, and neither makes the other forget.
#[test]
fn a_binding_that_looks_for_repeats_finds_both_kinds() {
    let world = World::new();
    let mut hostile = Hostile::new(&world, APART, 1);
    put(&mut hostile.engine, "plants", by_field()).unwrap();
    let send = |id: &str, seq: u32, n: u32| {
        let payload = format!(r#"[{{"seq": {seq}, "n": {n}}}, {{"n": {}}}]"#, n + 1);
        world.publish_under(id, "plants/p/temp", payload.as_bytes());
    };
    send("s:1", 1, 10);
    send("s:1", 2, 20);
    // The copy had this id of a row, whether or not it was a row: who reads the window again knows it, too.
    send("s:2", 2, 30);
    send("s:3", 1, 40);
    send("s:4", 3, 50);
    let expected = ["10", "11", "31", "41", "50", "51"];
    for seed in 2..5 {
        hostile.drain();
        let found = values(&hostile.engine.handle(), "plant", "n");
        assert_eq!(found, expected);
        // Decoded again at first, then read from files.
        if seed > 2 {
            hostile.flush();
        }
        drop(hostile);
        hostile = Hostile::new(&world, APART, seed);
    }
    replay(&mut hostile.engine, ALL).unwrap();
    assert_eq!(values(&hostile.engine.handle(), "plant", "n"), expected);
    // Bindings come and go, and what was stored is known all the same.
    let handle = hostile.engine.handle();
    crate::bindings::ask(&mut hostile.engine, handle.remove_binding("plants")).unwrap();
    send("s:4", 4, 60);
    send("s:5", 3, 70);
    hostile.drain();
    assert_eq!(rows(&handle, "messages").len(), 1);
}

#[test]
fn a_copy_of_a_refused_message_is_no_letter() {
    let world = World::new();
    let mut hostile = Hostile::new(&world, APART, 1);
    let binding = json!({ "filter": "plants/+", "device_level": 2, "table": { "name": "plant" },
        "decoder": { "format": "json" } });
    put(&mut hostile.engine, "plants", binding.clone()).unwrap();
    let send = |id: &str, payload: &str| world.publish_under(id, "plants/p", payload.as_bytes());
    for (id, payload) in [("s:1", "no JSON"), ("s:2", r#"{"n": 1}"#), ("s:1", "no JSON"), ("s:2", r#"{"n": 1}"#)] {
        send(id, payload);
    }
    hostile.drain();
    assert_eq!((of_kind(&letters(&world), "decode").len(), rows(&hostile.engine.handle(), "plant").len()), (1, 1));
    let mut text = binding;
    text["decoder"] = json!({ "format": "text" });
    put(&mut hostile.engine, "plants", text).unwrap();
    replay(&mut hostile.engine, Replay::Letters { ids: None, reason: None }).unwrap();
    assert_eq!(values(&hostile.engine.handle(), "plant", "value"), ["no JSON"]);
}

#[test]
fn a_range_that_begins_behind_the_original_makes_no_row_of_its_copy() {
    let world = World::new();
    let mut hostile = Hostile::new(&world, APART, 1);
    world.publish_under("s:1", "x/a/y", b"1");
    hostile.drain();
    let from = Some(world.clock.now() + Duration::from_millis(1));
    world.publish_under("s:1", "x/a/y", b"copy");
    world.publish_under("s:2", "x/a/y", b"2");
    hostile.drain();
    for binding in [None, Some("default".to_owned())] {
        let range = Replay::Range { binding, stream: None, from, to: None };
        let job = replay(&mut hostile.engine, range).unwrap();
        let handle = hostile.engine.handle();
        assert_eq!(values(&handle, "messages", "payload"), ["1", "2"]);
        assert_eq!(handle.jobs().list().iter().find(|one| one.name == job).unwrap().progress.rows, 1);
    }
}

/// The log tears units, refuses, or does not say whether it has a record, and the process dies of it or tries again.
#[test]
fn a_crash_at_any_append_makes_no_row_of_a_copy() {
    let (mut refused, mut crashes) = (0, 0);
    for seed in 0..12 {
        let world = World::new();
        let mut hostile = Hostile::new(&world, Adversity { torn: true, unknown: 150, ..Adversity::HARSH }, seed);
        for round in 0..6 {
            for n in 0..8 {
                // The second half are copies, of this round and of the one before.
                let (of, is_copy) = if n < 4 { (round, false) } else { (round - n % 2, true) };
                let (topic, id) =
                    (format!("{}/d{}/env", ["devices", "x"][n as usize % 2], n % 4), format!("s:{of}:{}", n % 4));
                let payload = format!(r#"{{"n": {n}, "is_copy": {is_copy}}}"#);
                if of >= 0 {
                    world.publish_under(&id, &topic, payload.as_bytes());
                }
            }
            if round % 2 == 1 {
                hostile.flush();
            }
            hostile.drain();
        }
        (refused, crashes) = (refused + hostile.refused, crashes + hostile.crashes);
        drop(hostile);
        let mut hostile = Hostile::new(&world, APART, seed);
        hostile.drain();
        let handle = hostile.engine.handle();
        let (env, messages) = (rows(&handle, "env"), rows(&handle, "messages"));
        assert_eq!((env.len(), messages.len()), (12, 12), "seed {seed}: {env:?} {messages:?}");
        assert!(env.iter().all(|row| row["is_copy"] == "false"), "seed {seed}: {env:?}");
        assert!(messages.iter().all(|row| row["payload"].contains("false")), "seed {seed}: {messages:?}");
    }
    assert!(refused > 0 && crashes > 2, "{refused} refusals, {crashes} crashes");
}
