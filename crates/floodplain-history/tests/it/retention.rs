//! How old rows become: by what is set for a table, by the configuration, by bindings; and rows that come too late.

use crate::{
    bindings::{ask, letters, of_kind, put, replay, values},
    engine::{World, rows, run},
};
use floodplain_history::{
    Handle,
    bindings::BindingError,
    engine::Engine,
    jobs::Replay,
    letters::OLDER_THAN_RETENTION,
    table_rules::{Source, TableRule},
};
use serde_json::{Value, json};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
/// When the clock of the tests begins.
const START: i64 = 1_700_000_000;

fn rule(handle: &Handle, table: &str) -> TableRule {
    handle.summaries().into_iter().find(|summary| summary.table == table).unwrap().rule
}

fn set(engine: &mut Engine, table: &str, retention: Option<Duration>) -> Result<(), BindingError> {
    let handle = engine.handle();
    ask(engine, handle.set_retention(table, retention))
}

fn by_level(filter: &str, retention: &str) -> Value {
    json!({ "filter": filter, "device_level": 2, "table": { "level": 3 }, "retention": retention })
}

fn at(second: i64, n: u32) -> String {
    format!(r#"{{"ts": {second}, "n": {n}}}"#)
}

#[test]
fn what_is_set_for_a_table_stays_and_removes_its_old_files_alone() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    for table in ["a", "b"] {
        world.publish(&format!("devices/d/{table}"), at(START, 1).as_bytes());
    }
    run(&mut engine);
    engine.flush_all().unwrap();
    assert_eq!(set(&mut engine, "none", Some(HOUR)), Err(BindingError::UnknownTable("none".to_owned())));
    set(&mut engine, "a", Some(HOUR)).unwrap();
    assert_eq!(rule(&engine.handle(), "a"), TableRule { binding: None, retention: Some((HOUR, Source::Table)) });
    for _ in 0..2 {
        engine = world.engine().unwrap();
        run(&mut engine);
        assert_eq!(rule(&engine.handle(), "a").retention, Some((HOUR, Source::Table)), "after a start");
        engine.write_snapshots().unwrap();
    }
    assert_eq!((rows(&engine.handle(), "a").len(), rows(&engine.handle(), "b").len()), (1, 1));
    world.clock.advance(2 * HOUR);
    run(&mut engine);
    assert_eq!((rows(&engine.handle(), "a").len(), rows(&engine.handle(), "b").len()), (0, 1));
    set(&mut engine, "a", None).unwrap();
    assert_eq!(rule(&engine.handle(), "a"), TableRule::default());
}

#[test]
fn a_shorter_retention_takes_effect_at_once() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    world.publish("devices/d/a", at(START - 7200, 1).as_bytes());
    run(&mut engine);
    engine.flush_all().unwrap();
    set(&mut engine, "a", Some(HOUR)).unwrap();
    assert_eq!(rows(&engine.handle(), "a").len(), 0);
}

#[test]
fn retention_of_a_binding_counts_for_the_tables_that_it_has_made_and_no_others() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    put(&mut engine, "one", by_level("one/+/+", "1h")).unwrap();
    put(&mut engine, "two", by_level("two/+/+", "3h")).unwrap();
    for topic in ["one/d/x", "one/d/both", "two/d/both", "devices/d/free"] {
        world.publish(topic, at(START, 1).as_bytes());
    }
    for _ in 0..2 {
        engine = world.engine().unwrap();
        run(&mut engine);
        let handle = engine.handle();
        let of =
            |name: &str, keep| TableRule { binding: Some(name.to_owned()), retention: Some((keep, Source::Binding)) };
        assert_eq!(rule(&handle, "x"), of("one", HOUR));
        assert_eq!(rule(&handle, "both"), of("two", 3 * HOUR), "the longest counts");
        assert_eq!(rule(&handle, "free"), TableRule::default());
        engine.flush_all().unwrap();
    }
    let count = |engine: &Engine| ["x", "both", "free"].map(|table| rows(&engine.handle(), table).len());
    world.clock.advance(2 * HOUR);
    run(&mut engine);
    assert_eq!(count(&engine), [0, 1, 1]);
    // A binding that is removed keeps nothing from being kept, nor does one that gets its name later.
    let handle = engine.handle();
    ask(&mut engine, handle.remove_binding("two")).unwrap();
    put(&mut engine, "two", by_level("other/+/+", "1h")).unwrap();
    assert_eq!(
        rule(&engine.handle(), "both"),
        TableRule { binding: Some("one".to_owned()), retention: Some((HOUR, Source::Binding)) }
    );
}

#[test]
fn a_line_names_its_table_and_the_binding_has_it() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    let lines = json!({ "filter": "lines/+", "device_level": 2, "table": { "name": "unused" }, "retention": "1h",
        "decoder": { "format": "line_protocol", "precision": "s" } });
    put(&mut engine, "lines", lines).unwrap();
    world.publish("lines/l1", format!("cpu load=0.5 {START}").as_bytes());
    run(&mut engine);
    assert_eq!(rule(&engine.handle(), "cpu").retention, Some((HOUR, Source::Binding)));
}

#[test]
fn a_row_that_comes_too_late_is_a_letter_once() {
    let mut world = World::new();
    world.config.retention = [("a".to_owned(), HOUR)].into();
    let mut engine = world.engine().unwrap();
    world.publish("devices/d/a", at(START, 1).as_bytes());
    world.publish("devices/d/a", at(START - 3590, 2).as_bytes());
    world.publish("devices/d/a", at(START - 3700, 3).as_bytes());
    world.publish("devices/d/b", at(START - 3700, 4).as_bytes());
    world.publish("devices/d/a", format!("[{}, {}]", at(START - 9000, 5), at(START, 6)).as_bytes());
    run(&mut engine);
    assert_eq!(values(&engine.handle(), "a", "n"), ["2", "6"], "1 and 6 have one time");
    assert_eq!(values(&engine.handle(), "b", "n"), ["4"]);
    let found = letters(&world);
    assert_eq!(found.len(), 2);
    let letter = found.iter().find(|letter| letter["from"] == "0:2").unwrap();
    assert_eq!((&letter["reason"], &letter["stage"]), (&json!(OLDER_THAN_RETENTION), &json!("retention")));
    assert_eq!(
        (&letter["binding"], &letter["topic"], &letter["count"]),
        (&json!("default"), &json!("devices/d/a"), &json!(1))
    );
    for _ in 0..2 {
        engine = world.engine().unwrap();
        run(&mut engine);
        assert_eq!(letters(&world).len(), 2, "no letter twice");
        assert_eq!(values(&engine.handle(), "a", "n"), ["2", "6"]);
        engine.flush_all().unwrap();
    }
    // Kept for longer, they are rows after all.
    set(&mut engine, "a", Some(24 * HOUR)).unwrap();
    replay(&mut engine, Replay::Letters { ids: None, reason: Some(OLDER_THAN_RETENTION.to_owned()) }).unwrap();
    assert_eq!(values(&engine.handle(), "a", "n"), ["2", "3", "5", "6"]);
    assert_eq!(of_kind(&letters(&world), "replayed").len(), 2);
}
