//! The index of latest values against a scan: whatever came in which order, was flushed, restarted or removed.

use crate::engine::{World, run};
use arrow::{
    array::{Array, AsArray as _, RecordBatch},
    datatypes::{Int16Type, Int32Type, Int64Type, TimestampMicrosecondType},
    util::display::array_value_to_string,
};
use floodplain_history::{
    Handle,
    engine::Engine,
    filter::{Devices, Filter},
    latest::{LatestRows, Value},
};
use floodplain_testkit::wait_until;
use proptest::prelude::*;
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// By device and key columns, then by column: values as texts.
type Table = BTreeMap<(String, String), BTreeMap<String, String>>;

/// What a scan of all rows says.
fn scanned(handle: &Handle, table: &str) -> Table {
    let snapshot = handle.snapshot(table).unwrap().unwrap();
    let columns = snapshot.columns().clone();
    let all: Vec<usize> = (0..columns.schema().fields().len()).collect();
    let mut found: BTreeMap<(String, String), BTreeMap<String, (Stamp, String)>> = BTreeMap::new();
    type Stamp = (i64, i16, (i32, i64, i32));
    for batch in snapshot.scan(&all, &Filter::ALL).unwrap() {
        let batch = batch.unwrap();
        let seq = batch.column(3).as_struct();
        for row in 0..batch.num_rows() {
            let int = |at: usize| seq.column(at).as_primitive::<Int32Type>().value(row);
            let stamp: Stamp = (
                batch.column(1).as_primitive::<TimestampMicrosecondType>().value(row),
                batch.column(2).as_primitive::<Int16Type>().value(row),
                (int(0), seq.column(1).as_primitive::<Int64Type>().value(row), int(2)),
            );
            let newest = found.entry(key(&columns, &batch, row, |at| at)).or_default();
            for (field, array) in columns.schema().fields().iter().zip(batch.columns()) {
                if array.is_null(row) || (field.name().starts_with('_') && field.name() != "_rest") {
                    continue;
                }
                let value = (stamp, array_value_to_string(array, row).unwrap());
                let slot = newest.entry(field.name().clone()).or_insert_with(|| value.clone());
                if slot.0 <= stamp {
                    *slot = value;
                }
            }
        }
    }
    let plain = |(key, columns): (_, BTreeMap<String, (Stamp, String)>)| {
        (key, columns.into_iter().map(|(name, (_, value))| (name, value)).collect())
    };
    found.into_iter().map(plain).collect()
}

fn key(
    columns: &floodplain_history::columns::Columns,
    batch: &RecordBatch,
    row: usize,
    at: impl Fn(usize) -> usize,
) -> (String, String) {
    let keys = columns.keys().iter().map(|&key| array_value_to_string(batch.column(at(key)), row).unwrap());
    let device = batch.column(0).as_string::<i32>().value(row).to_owned();
    // Key columns that came later are empty in older rows.
    (device, keys.collect::<Vec<_>>().join("|"))
}

/// What the index says, and of which devices it says nothing.
fn indexed(handle: &Handle, table: &str, devices: &Devices) -> Option<(Table, BTreeSet<Box<str>>)> {
    let columns = handle.snapshot(table).unwrap().unwrap().columns().clone();
    let LatestRows { rows, unsure, schema } = handle.latest(&columns, devices).unwrap()?;
    let mut found = Table::new();
    for batch in rows {
        assert_eq!(batch.schema(), schema);
        for row in 0..batch.num_rows() {
            let values = schema.fields().iter().zip(batch.columns()).filter(|(_, array)| array.is_valid(row));
            let values =
                values.map(|(field, array)| (field.name().clone(), array_value_to_string(array, row).unwrap()));
            let before = found.insert(key(&columns, &batch, row, |at| at - 3), values.collect());
            assert!(before.is_none(), "a device and its keys come once");
        }
    }
    Some((found, unsure))
}

/// The index once it is made, without what has to be scanned; and what that is.
fn ready(handle: &Handle, table: &str) -> (Table, BTreeSet<Box<str>>) {
    let found = RefCell::new(None);
    let is_ready = || {
        found.replace(indexed(handle, table, &Devices::All));
        found.borrow().is_some()
    };
    wait_until("the index", &|| {}, is_ready);
    found.into_inner().unwrap()
}

fn check(handle: &Handle) -> usize {
    let (found, unsure) = ready(handle, "t");
    let mut wanted = scanned(handle, "t");
    wanted.retain(|(device, _), _| !unsure.contains(&**device));
    assert_eq!(found, wanted);
    for device in wanted.keys().map(|(device, _)| device) {
        let (of, _) = indexed(handle, "t", &Devices::only([device])).unwrap();
        assert!(of.iter().all(|row| wanted.get(row.0) == Some(row.1)) && !of.is_empty());
    }
    unsure.len()
}

#[derive(Debug, Clone)]
enum Step {
    /// Device, seconds of the event (none: time of ingest), fields.
    Publish(u8, Option<u8>, Vec<(u8, Option<i8>)>),
    Lines(u8, u8, u8, i8),
    Flush,
    Restart,
    Ask,
}

fn step() -> impl Strategy<Value = Step> {
    let fields = prop::collection::vec((0..5_u8, prop::option::of(any::<i8>())), 0..4);
    prop_oneof![
        10 => (0..3_u8, prop::option::of(0..6_u8), fields).prop_map(|(d, t, f)| Step::Publish(d, t, f)),
        3 => (0..3_u8, 0..6_u8, 0..3_u8, any::<i8>()).prop_map(|(d, t, k, v)| Step::Lines(d, t, k, v)),
        1 => Just(Step::Flush),
        1 => Just(Step::Restart),
        1 => Just(Step::Ask),
    ]
}

fn publish(world: &World, step: &Step) {
    match step {
        Step::Publish(device, second, fields) => {
            let mut payload = serde_json::Map::new();
            if let Some(second) = second {
                payload.insert("ts".to_owned(), format!("2023-11-14T22:00:0{second}Z").into());
            }
            for (field, value) in fields {
                let value: serde_json::Value = match (field, value) {
                    (_, None) => serde_json::Value::Null,
                    (0, Some(value)) => f64::from(*value).into(),
                    (1, Some(value)) => (*value > 0).into(),
                    (2, Some(value)) => format!("text {value}").into(),
                    // A number, or a text that does not fit and goes to `_rest`.
                    (3, Some(value)) if value % 2 == 0 => format!("no number {value}").into(),
                    (_, Some(value)) => f64::from(*value).into(),
                };
                payload.insert(format!("f{field}"), value);
            }
            let payload = serde_json::Value::Object(payload).to_string();
            world.publish(&format!("devices/d{device}/t"), payload.as_bytes());
        }
        // Tags are key columns, and the first of them comes when it likes.
        Step::Lines(device, second, key, value) => {
            let tag = if *key == 0 { String::new() } else { format!(",core=c{key}") };
            let line = format!("t{tag} f0={value} 170000000{second}000000000");
            world.publish_lines(&format!("devices/d{device}/t"), line.as_bytes());
        }
        Step::Flush | Step::Restart | Step::Ask => {}
    }
}

fn go(world: &World, engine: &mut Engine, step: &Step) {
    publish(world, step);
    match step {
        Step::Flush => engine.flush_all().unwrap(),
        Step::Restart => *engine = world.engine().unwrap(),
        _ => {}
    }
    run(engine);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_index_says_what_a_scan_says(steps in prop::collection::vec(step(), 1..40)) {
        let world = World::new();
        let mut engine = world.engine().unwrap();
        world.publish("devices/d0/t", br#"{"f0": 1, "f3": 2}"#);
        run(&mut engine);
        for step in &steps {
            go(&world, &mut engine, step);
            if matches!(step, Step::Ask) {
                check(&engine.handle());
            }
        }
        check(&engine.handle());
    }
}

#[test]
fn rows_that_come_while_the_index_is_made_are_in_it() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    for n in 0..3000 {
        world.publish(&format!("devices/d{}/t", n % 50), format!(r#"{{"n": {n}}}"#).as_bytes());
    }
    run(&mut engine);
    engine.flush_all().unwrap();
    run(&mut engine);
    let handle = engine.handle();
    assert!(indexed(&handle, "t", &Devices::All).is_none(), "the first question is answered by a scan");
    for n in 3000..6000 {
        world.publish(&format!("devices/d{}/t", n % 50), format!(r#"{{"n": {n}, "late{}": 1}}"#, n % 3).as_bytes());
        while engine.step().unwrap() {}
    }
    assert_eq!(check(&handle), 0, "nothing has to be scanned");
    let (found, _) = ready(&handle, "t");
    assert_eq!(found.len(), 50);
    assert_eq!(found[&("d49".to_owned(), String::new())]["n"], "5999.0");
}

#[test]
fn what_was_removed_is_left_to_a_scan() {
    let mut world = World::new();
    world.config.retention = [("t".to_owned(), Duration::from_secs(3600))].into();
    let mut engine = world.engine().unwrap();
    let publish = |payload: &str, device: &str| {
        world.publish(&format!("devices/{device}/t"), payload.as_bytes());
    };
    publish(r#"{"firmware": "1.0", "rpm": 1}"#, "old");
    publish(r#"{"firmware": "1.0", "rpm": 1}"#, "both");
    run(&mut engine);
    engine.flush_all().unwrap();
    let handle = engine.handle();
    assert_eq!(check(&handle), 0);
    world.clock.advance(Duration::from_secs(7200));
    publish(r#"{"rpm": 2}"#, "both");
    publish(r#"{"rpm": 2}"#, "new");
    run(&mut engine);
    engine.flush_all().unwrap();
    run(&mut engine);
    let scanned = scanned(&handle, "t");
    assert!(!scanned.contains_key(&("old".to_owned(), String::new())), "{scanned:?}");
    // The firmware of `both` and all of `old` went with the file.
    assert_eq!(check(&handle), 2);
    let values = |device: &str| -> Vec<(String, Value)> {
        let found = handle.latest_of("t", device).unwrap();
        found.into_iter().map(|value| (value.column, value.value)).collect()
    };
    assert_eq!(values("both"), [("rpm".to_owned(), Value::Float(2.0))]);
    assert_eq!(values("old"), []);
    assert_eq!(values("new"), [("rpm".to_owned(), Value::Float(2.0))]);
}

#[test]
fn a_device_knows_its_tables_and_values() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    world.publish("devices/a/engine", br#"{"ts": "2023-11-14T22:00:00Z", "rpm": 1, "gear": "D", "lamp": true}"#);
    world.publish("devices/a/engine", br#"{"ts": "2023-11-14T22:00:01Z", "rpm": 2}"#);
    world.publish("devices/a/door", br#"{"open": false}"#);
    world.publish("devices/b/door", br#"{"open": true}"#);
    run(&mut engine);
    let handle = engine.handle();
    let seconds = |time_us: i64| time_us / 1_000_000 - 1_700_000_000 + 800;
    let wanted = [
        ("rpm", "Float64", 1, Value::Float(2.0)),
        ("gear", "Utf8", 0, Value::Text("D".to_owned())),
        ("lamp", "Boolean", 0, Value::Bool(true)),
    ];
    // From a scan, and then from the index.
    for _ in 0..2 {
        let found = handle.latest_of("engine", "a").unwrap();
        let mut found: Vec<_> = found
            .iter()
            .map(|one| (one.column.as_str(), one.data_type, seconds(one.time_us), one.value.clone()))
            .collect();
        found.sort_by_key(|(column, ..)| wanted.iter().position(|one| one.0 == *column));
        assert_eq!(found, wanted);
        ready(&handle, "engine");
    }
    assert_eq!(handle.latest_of("engine", "b").unwrap(), []);
}
