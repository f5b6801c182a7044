//! Values that newer ones of the same row replace are counted, wherever the rows are, and the count does not fall.

use crate::{
    bindings::{ALL, declare, replay},
    engine::{World, run},
};
use floodplain_history::{engine::Engine, merge::BATCH_ROWS};
use floodplain_testkit::Counts;
use serde_json::json;
use std::{
    future::Future as _,
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

const METRIC: &str = "floodplain_history_overwritten_values_total";

fn publish(world: &World, second: i64, v: i64) {
    world.publish("devices/a/t", format!(r#"{{"time": {}, "v": {v}}}"#, 1_700_000_000 + second).as_bytes());
}

fn count(engine: &Engine) -> u64 {
    engine.handle().summary("t").map_or(0, |summary| summary.overwritten_values)
}

#[test]
fn values_in_memory_count_and_go_on_counting_when_their_files_have_expired() {
    let mut world = World::new();
    world.config.retention.insert("t".to_owned(), Duration::from_secs(3600));
    let counted = Counts::default();
    metrics::with_local_recorder(&counted, || {
        let mut engine = world.engine().unwrap();
        for v in [1, 2, 2, 3] {
            publish(&world, 0, v);
        }
        run(&mut engine);
        assert_eq!((count(&engine), counted.get(METRIC)), (2, 0), "in memory");
        engine.flush_all().unwrap();
        assert_eq!((count(&engine), counted.get(METRIC)), (2, 2), "in a file");
        publish(&world, 1, 1);
        publish(&world, 1, 5);
        run(&mut engine);
        assert_eq!(count(&engine), 3, "and more in memory");
        world.clock.advance(Duration::from_secs(7200));
        engine.flush_all().unwrap();
        run(&mut engine);
        let summary = engine.handle().summary("t").unwrap();
        assert_eq!((summary.files, summary.overwritten_values, counted.get(METRIC)), (0, 3, 3), "expired");
    });
    let mut engine = world.engine().unwrap();
    assert_eq!(count(&engine), 3, "after a start");
    run(&mut engine);
    assert_eq!(count(&engine), 3);
}

/// So many rows of different times, all in one window.
fn fill(world: &World, rows: i64) {
    for tens in 0..rows / 10 {
        let row = |n: i64| format!(r#"{{"time": {}, "v": 1}}"#, 1_700_000_000_000_i64 + tens * 100 + n);
        let rows: Vec<_> = (0..10).map(row).collect();
        world.publish("devices/a/t", format!("[{}]", rows.join(",")).as_bytes());
    }
}

/// Rows are sorted in parts, and the two are in different ones.
#[test]
fn a_value_that_came_long_before_in_memory_counts() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    fill(&world, BATCH_ROWS as i64 + 10);
    run(&mut engine);
    assert_eq!(count(&engine), 0);
    publish(&world, 0, 2);
    run(&mut engine);
    assert_eq!(count(&engine), 1);
}

#[test]
fn rows_of_one_key_in_two_files_count_when_they_become_one() {
    let world = World::new();
    let counted = Counts::default();
    metrics::with_local_recorder(&counted, || {
        let mut engine = world.engine().unwrap();
        for (second, v) in [(0, 1), (0, 2), (1, 1), (2, 1)] {
            publish(&world, second, v);
            run(&mut engine);
            engine.flush_all().unwrap();
        }
        let files = |engine: &Engine| engine.handle().summary("t").unwrap().files;
        assert_eq!((files(&engine), count(&engine), counted.get(METRIC)), (4, 0, 0), "nobody has seen both");
        run(&mut engine);
        assert_eq!((files(&engine), count(&engine), counted.get(METRIC)), (1, 1, 1));
    });
}

/// Two parts have the same rows, which is not seen before they are written to one file.
#[test]
fn what_a_replay_has_counted_again_in_memory_stays_counted() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    publish(&world, 0, 3);
    fill(&world, BATCH_ROWS as i64 + 1000);
    run(&mut engine);
    assert_eq!(count(&engine), 1);
    let handle = engine.handle();
    assert!(pin!(handle.replay(ALL)).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let (mut before, mut most_rows) = (1, 0);
    while engine.step().unwrap() {
        let summary = engine.handle().summary("t").unwrap();
        assert!(summary.overwritten_values >= before, "{} after {before}", summary.overwritten_values);
        (before, most_rows) = (summary.overwritten_values, most_rows.max(summary.rows));
    }
    assert!(most_rows > 2 * BATCH_ROWS as u64, "{most_rows} rows were in memory at once");
    let summary = engine.handle().summary("t").unwrap();
    assert_eq!((summary.overwritten_values, summary.rows), (2, BATCH_ROWS as u64 / 10 * 10 + 1001), "{summary:?}");
}

/// Through everything that happens to rows: flushes, replays of what is in memory and in files, compactions, expiry.
#[test]
fn the_count_never_falls() {
    let mut world = World::new();
    world.config.retention.insert("t".to_owned(), Duration::from_secs(10_000));
    let mut engine = world.engine().unwrap();
    let mut before = 0;
    let mut look = |engine: &Engine, what: &str| {
        let now = count(engine);
        assert!(now >= before, "{what}: {now} after {before}");
        before = now;
    };
    let mut drain = |engine: &mut Engine, what: &str| {
        while engine.step().unwrap() {
            look(engine, what);
        }
        look(engine, what);
    };
    for round in 0..24_i64 {
        for n in 0..7 {
            publish(&world, (round * 5 + n) % 11 * 700, n * 7 % 3);
        }
        drain(&mut engine, &format!("round {round}"));
        if round % 3 == 2 {
            engine.flush_all().unwrap();
        }
        if round % 5 == 4 {
            let handle = engine.handle();
            assert!(pin!(handle.replay(ALL)).poll(&mut Context::from_waker(Waker::noop())).is_pending());
            drain(&mut engine, &format!("replay of round {round}"));
        }
        world.clock.advance(Duration::from_secs(600));
    }
    assert!(before > 50, "{before} values");
    let known = before;
    engine.flush_all().unwrap();
    drop(engine);
    let mut engine = world.engine().unwrap();
    assert!(count(&engine) >= known, "after a start");
    replay(&mut engine, ALL).unwrap();
    let binding = declare("t", json!({ "filter": "devices/+/t", "device_level": 2, "table": { "name": "t" } }));
    let handle = engine.handle();
    assert!(pin!(handle.put_binding(binding)).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    run(&mut engine);
    assert!(count(&engine) >= known, "with another version of the bindings");
}
