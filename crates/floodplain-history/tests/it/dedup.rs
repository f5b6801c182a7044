//! Messages that repeat earlier ones make no row, whatever is flushed, restarted or decoded again.

use crate::{
    bindings::{ALL, ask, declare, letters, of_kind, put, replay, values},
    engine::{World, cut_at_every_call, rows, run},
    hostile::Hostile,
};
use floodplain_history::{
    Error,
    engine::Engine,
    jobs::{JobState, Replay},
};
use floodplain_testkit::Adversity;
use serde_json::{Value, json};
use std::{
    future::Future as _,
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

fn by_property() -> Value {
    json!({ "filter": "plants/+/+", "device_level": 2, "table": { "name": "plant" }, "decoder": { "format": "json" },
        "dedup": { "property": "message-id" } })
}

pub(crate) fn by_field() -> Value {
    json!({ "filter": "plants/+/+", "device_level": 2, "table": { "name": "plant" }, "decoder": { "format": "json" },
        "dedup": { "field": "seq", "window": "1m" } })
}

fn publish(world: &World, device: &str, id: &str, n: u32) {
    let payload = format!(r#"{{"n": {n}}}"#);
    world.publish_with(&format!("plants/{device}/temp"), payload.as_bytes(), &[("x", "y"), ("message-id", id)]);
}

fn duplicates(engine: &Engine) -> u64 {
    engine.handle().bindings().get("plants").unwrap().counts().duplicate_count()
}

#[test]
fn what_repeats_the_property_of_an_earlier_message_makes_no_row() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    put(&mut engine, "plants", by_property()).unwrap();
    publish(&world, "p1", "a", 1);
    publish(&world, "p1", "b", 2);
    publish(&world, "p1", "a", 3);
    publish(&world, "p2", "a", 4);
    world.publish("plants/p1/temp", br#"{"n": 5}"#);
    world.publish("plants/p1/temp", br#"{"n": 5}"#);
    run(&mut engine);
    assert_eq!(values(&engine.handle(), "plant", "n"), ["1", "2", "4", "5", "5"], "without an id nothing repeats");
    assert_eq!(duplicates(&engine), 1);
    world.clock.advance(Duration::from_secs(599));
    publish(&world, "p1", "b", 6);
    world.clock.advance(Duration::from_secs(601));
    publish(&world, "p1", "b", 7);
    run(&mut engine);
    assert_eq!(values(&engine.handle(), "plant", "n"), ["1", "2", "4", "5", "5", "7"]);
    // The original is in a file, and before what is decoded again.
    engine.flush_all().unwrap();
    publish(&world, "p1", "b", 8);
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    assert_eq!(values(&engine.handle(), "plant", "n"), ["1", "2", "4", "5", "5", "7"]);
    assert_eq!(duplicates(&engine), 1, "since the start");
}

#[test]
fn rows_repeat_by_a_field() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    put(&mut engine, "plants", by_field()).unwrap();
    world.publish("plants/p1/temp", br#"[{"seq": 1, "n": 1}, {"seq": 1, "n": 2}, {"n": 3}, {"seq": "1", "n": 4}]"#);
    world.publish("plants/p1/temp", br#"[{"seq": 1, "n": 5}, {"seq": 2, "n": 6}, {"seq": 1, "n": 7}]"#);
    world.publish("plants/p1/temp", br#"{"seq": 2, "n": 8, "only_here": true}"#);
    run(&mut engine);
    let handle = engine.handle();
    assert_eq!(
        values(&handle, "plant", "n"),
        ["1", "2", "3", "4", "6"],
        "rows of one message do not repeat each other"
    );
    assert_eq!(duplicates(&engine), 3);
    let summary = handle.summaries().into_iter().find(|summary| summary.table == "plant").unwrap();
    assert!(summary.columns.iter().all(|column| column.name != "only_here"), "what makes no row makes no column");
    world.clock.advance(Duration::from_secs(61));
    world.publish("plants/p1/temp", br#"{"seq": 2, "n": 9}"#);
    world.publish("plants/p1/temp", br#"{"seq": 2, "n""#);
    run(&mut engine);
    assert_eq!(values(&engine.handle(), "plant", "n"), ["1", "2", "3", "4", "6", "9"]);
    assert_eq!(of_kind(&letters(&world), "decode").len(), 1, "what is not understood has no id");
}

#[test]
fn a_message_that_is_refused_twice_is_one_letter() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    put(&mut engine, "plants", by_property()).unwrap();
    for n in 0..3 {
        world.publish_with("plants/p1/temp", b"12.5.", &[("message-id", "a")]);
        publish(&world, "p2", "b", n);
    }
    run(&mut engine);
    assert_eq!(letters(&world).len(), 1);
    let mut text = by_property();
    text["decoder"] = json!({ "format": "text" });
    put(&mut engine, "plants", text).unwrap();
    replay(&mut engine, Replay::Letters { ids: None, reason: None }).unwrap();
    assert_eq!(values(&engine.handle(), "plant", "value"), ["12.5."]);
}

/// A binding that begins to look for repeats knows those that came before it: the log has them.
#[test]
fn a_new_binding_knows_the_messages_of_before() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    publish(&world, "p1", "a", 1);
    run(&mut engine);
    put(&mut engine, "plants", by_property()).unwrap();
    publish(&world, "p1", "a", 2);
    publish(&world, "p1", "b", 3);
    for _ in 0..2 {
        let mut engine = world.engine().unwrap();
        run(&mut engine);
        assert_eq!(values(&engine.handle(), "plant", "n"), ["3"]);
    }
    // Decoded again, the first of the two has a row.
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    for _ in 0..2 {
        replay(&mut engine, ALL).unwrap();
        assert_eq!(values(&engine.handle(), "plant", "n"), ["1", "3"]);
    }
}

#[test]
fn a_range_that_begins_behind_the_original_makes_no_row_of_its_repeat() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    put(&mut engine, "plants", by_property()).unwrap();
    publish(&world, "p1", "a", 1);
    let from = floodplain_types::Clock::now(&*world.clock) + Duration::from_millis(1);
    publish(&world, "p1", "a", 2);
    publish(&world, "p1", "b", 3);
    run(&mut engine);
    let job = replay(&mut engine, Replay::Range { binding: None, stream: None, from: Some(from), to: None }).unwrap();
    assert_eq!(values(&engine.handle(), "plant", "n"), ["1", "3"]);
    let jobs = engine.handle().jobs();
    assert_eq!(jobs.list().iter().find(|one| one.name == job).unwrap().progress.rows, 1);
    assert_eq!(duplicates(&engine), 1, "counted once");
}

/// Who repeats everything, in each of several windows; a binding that changes, and decoding again.
fn work(world: &World) -> Result<Engine, Error> {
    let mut engine = world.engine()?;
    let drain = |engine: &mut Engine| -> Result<(), Error> {
        while engine.step()? {}
        Ok(())
    };
    send(world, 0, false);
    drain(&mut engine)?;
    for (round, binding) in [(1, by_property()), (2, by_field())] {
        let handle = engine.handle();
        let asked = handle.put_binding(declare("plants", binding));
        assert!(pin!(asked).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drain(&mut engine)?;
        send(world, round, false);
        drain(&mut engine)?;
        engine.flush_all()?;
        send(world, round, true);
        drain(&mut engine)?;
    }
    let handle = engine.handle();
    assert!(pin!(handle.replay(ALL)).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drain(&mut engine)?;
    Ok(engine)
}

/// Three messages of each of two devices, each two times with one id: the first has a time, if they come for the first time.
fn send(world: &World, round: u64, is_again: bool) {
    for n in 0..6 {
        let (device, seq) = (n % 2, 10 * round + n % 3);
        let payload = format!(r#"{{"ts": {}, "seq": {seq}, "n": {n}}}"#, 1_700_000_000 + 10_000 * n + round);
        let id = seq.to_string();
        let topic = format!("plants/p{device}/temp");
        let repeat = payload.replace("ts", "was");
        let first = if is_again { &repeat } else { &payload };
        for payload in [first, &repeat] {
            world.publish_with(&topic, payload.as_bytes(), &[("message-id", &id)]);
        }
    }
}

/// Each id has one row, or none if it came before the binding, whatever has crashed.
fn check(world: &World, what: &str) {
    let mut seen = None;
    for flush in [false, true, false] {
        let mut engine = world.engine().unwrap();
        run(&mut engine);
        let handle = engine.handle();
        let found = rows(&handle, "plant");
        let mut ids: Vec<_> = found.iter().map(|row| (row["device"].clone(), row["seq"].clone())).collect();
        ids.sort();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count, "{what}: {found:?}");
        assert!(found.iter().all(|row| !row.contains_key("was")), "{what}: a repeat has no row");
        let is_replayed = handle.jobs().list().iter().any(|job| job.state == JobState::Done);
        let published: u64 =
            (0..2).map(|i| floodplain_log::Log::watermark(&world.log, world.input.partition(i)).offset).sum();
        let rounds = match (handle.bindings().version(), is_replayed) {
            (0, _) => 0,
            (_, true) => 3,
            _ => published.saturating_sub(12).div_ceil(24),
        };
        if published.is_multiple_of(12) {
            assert_eq!(count as u64, 6 * rounds, "{what}: {published} messages");
        }
        assert!(seen.get_or_insert(found.clone()) == &found, "{what}: the same after every start");
        if flush {
            engine.flush_all().unwrap();
        }
    }
}

#[test]
fn a_power_cut_at_any_call_makes_no_row_of_a_repeat() {
    let cuts = cut_at_every_call(work, check);
    assert!(cuts > 40, "{cuts} calls are too few to be all of them");
}

/// The log refuses, or does not say whether it has a record, and the process dies of it or tries again.
#[test]
fn a_crash_at_any_append_makes_no_row_of_a_repeat() {
    let often = Adversity { refused: 200, unknown: 250, ..Adversity::NONE };
    let (mut refused, mut crashes) = (0, 0);
    for (adversity, seed) in (0..40).map(|seed| (often, seed)).chain((40..52).map(|seed| (Adversity::HARSH, seed))) {
        let world = World::new();
        let mut first = world.engine().unwrap();
        put(&mut first, "plants", by_property()).unwrap();
        drop(first);
        let mut hostile = Hostile::new(&world, adversity, seed);
        for round in 0..6 {
            send(&world, round, false);
            if round % 2 == 1 {
                hostile.flush();
            }
            hostile.drain();
        }
        (refused, crashes) = (refused + hostile.refused, crashes + hostile.crashes);
        drop(hostile);
        let mut engine = world.engine().unwrap();
        run(&mut engine);
        let found = rows(&engine.handle(), "plant");
        assert_eq!(found.len(), 36, "seed {seed}: {found:?}");
        assert!(found.iter().all(|row| !row.contains_key("was")), "seed {seed}: {found:?}");
    }
    // How many there are depends on how often a flush had something to append.
    assert!(refused > 0 && crashes > 0, "{refused} refusals, {crashes} crashes");
}

#[test]
fn bindings_without_ids_cost_no_second_reading() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    put(&mut engine, "plants", by_property()).unwrap();
    publish(&world, "p1", "a", 1);
    run(&mut engine);
    let handle = engine.handle();
    ask(&mut engine, handle.remove_binding("plants")).unwrap();
    publish(&world, "p1", "a", 2);
    run(&mut engine);
    assert_eq!(values(&engine.handle(), "messages", "payload"), [r#"{"n": 2}"#]);
}
