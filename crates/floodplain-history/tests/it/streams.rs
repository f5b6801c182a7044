//! Several streams of messages: rows of all of them, in the same tables.

use crate::{
    bindings::{ask, declare, letters, of_kind},
    engine::{World, rows, run},
};
use floodplain_history::{
    bindings::{Binding, BindingError, Origin},
    engine::Engine,
    jobs::{JobState, Replay},
};
use floodplain_log::{DataStreams, Log as _};
use floodplain_types::{StreamName, TenantId};
use serde_json::json;
use std::sync::Arc;

/// A world with one more stream, and the same for those who publish into that one.
fn worlds() -> (World, World) {
    let mut world = World::new();
    let declared = [StreamName::new("fast").unwrap()];
    let streams = DataStreams::open(&world.log, &TenantId::default_tenant(), 2, &declared).unwrap();
    world.config.inputs = streams.list().to_vec();
    let fast = World { input: streams.list()[1].clone(), ..world.clone() };
    (world, fast)
}

fn set(engine: &mut Engine, stream: &str) -> Result<Arc<Binding>, BindingError> {
    let handle = engine.handle();
    let value = json!({ "filter": "plants/+/+", "stream": stream, "device_level": 2, "table": { "name": "plant" },
        "decoder": { "format": "json" } });
    ask(engine, handle.put_binding(declare("plants", value)))
}

/// At the same place of two streams are two messages, whatever their device and time; and there is one order of them.
#[test]
fn rows_of_two_streams_are_never_taken_for_one() {
    let (world, fast) = worlds();
    let mut engine = world.engine().unwrap();
    let time = r#""time": "2026-11-26T11:00:00Z""#;
    // The later one in the log is in the first stream.
    fast.publish("devices/d/engine", format!(r#"{{{time}, "oil": 2, "water": 7}}"#).as_bytes());
    world.publish("devices/d/engine", format!(r#"{{{time}, "oil": 1, "air": 3}}"#).as_bytes());
    run(&mut engine);
    let check = |engine: &Engine, what: &str| {
        let found = rows(&engine.handle(), "engine");
        assert_eq!(found.len(), 1, "{what}: {found:?}");
        let values = ["oil", "water", "air"].map(|column| found[0][column].as_str());
        assert_eq!(values, ["2", "7", "3"], "{what}");
        let summary = engine.handle().summaries().into_iter().find(|summary| summary.table == "engine").unwrap();
        assert_eq!(summary.overwritten_values, 1, "{what}");
        let latest = engine.handle().latest_of("engine", "d").unwrap();
        let oil = latest.iter().find(|column| column.column == "oil").unwrap();
        assert_eq!(format!("{:?}", oil.value), "Float(2.0)", "{what}");
    };
    check(&engine, "in memory");
    engine.flush_all().unwrap();
    check(&engine, "in files");
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    check(&engine, "after a start");
}

#[test]
fn a_reader_waits_for_all_streams_and_a_start_goes_on_in_each() {
    let (world, fast) = worlds();
    let mut engine = world.engine().unwrap();
    for n in 0..10 {
        world.publish("devices/a/engine", format!(r#"{{"n": {n}}}"#).as_bytes());
        fast.publish("devices/a/engine", format!(r#"{{"n": {}}}"#, n + 10).as_bytes());
        if n % 4 == 0 {
            run(&mut engine);
        }
        if n % 5 == 0 {
            engine.flush_all().unwrap();
        }
        if n % 3 == 0 {
            engine = world.engine().unwrap();
        }
    }
    run(&mut engine);
    let handle = engine.handle();
    for (partition, end) in world.watermarks().into_iter().chain(fast.watermarks()) {
        assert_eq!(handle.decoded(partition), end);
    }
    assert_eq!(rows(&handle, "engine").len(), 20);
}

#[test]
fn a_binding_names_a_stream_that_is_there() {
    let (mut world, _) = worlds();
    let mut engine = world.engine().unwrap();
    assert_eq!(set(&mut engine, "fast").unwrap().stream(), "fast");
    let bindings = engine.handle().bindings();
    assert_eq!(bindings.bound("plants/p/t").unwrap().stream, Some("fast"));
    let handle = engine.handle();
    let error = ask(&mut engine, handle.replay(range(Some("nowhere")))).unwrap_err();
    assert_eq!(error, BindingError::UnknownStream("nowhere".to_owned()));
    let error = set(&mut engine, "nowhere").unwrap_err();
    assert!(error.to_string().contains("declare it under [[streams]]"), "{error}");
    // The configuration file is checked before anything is changed.
    let value = json!({ "filter": "a", "stream": "nowhere", "table": { "name": "t" } });
    world.config.bindings = vec![Arc::new(Binding::declare("b", value, Origin::Config).unwrap())];
    assert!(world.engine().is_err());
}

fn range(stream: Option<&str>) -> Replay {
    Replay::Range { binding: None, stream: stream.map(str::to_owned), from: None, to: None }
}

#[test]
fn one_stream_is_decoded_again_and_its_letters_name_it() {
    let (world, fast) = worlds();
    let mut engine = world.engine().unwrap();
    for n in 0..4 {
        world.publish("plants/p1/temp", format!(r#"{{"v": {n}}}"#).as_bytes());
        fast.publish("plants/p1/temp", format!(r#"{{"v": {}}}"#, n + 4).as_bytes());
    }
    run(&mut engine);
    set(&mut engine, "fast").unwrap();
    let replay = |engine: &mut Engine, stream| {
        let handle = engine.handle();
        let name = ask(engine, handle.replay(range(stream))).unwrap();
        let jobs = engine.handle().jobs();
        let job = jobs.list().iter().find(|job| job.name == name).unwrap();
        assert_eq!(job.state, JobState::Done);
        (job.progress.records, job.progress.total, job.progress.rows)
    };
    assert_eq!(replay(&mut engine, Some("fast")), (4, 4, 4));
    let values = |engine: &Engine| {
        let mut values: Vec<_> = rows(&engine.handle(), "plant").iter().map(|row| row["v"].clone()).collect();
        values.sort();
        values
    };
    assert_eq!(values(&engine), ["4", "5", "6", "7"]);
    let mut engine = world.engine().unwrap();
    assert_eq!(replay(&mut engine, None), (8, 8, 8));
    assert_eq!(values(&engine), ["0", "1", "2", "3", "4", "5", "6", "7"]);
    // What is refused in there is found again by its letter.
    fast.publish("plants/p1/temp", b"oops");
    run(&mut engine);
    let found = letters(&world);
    let refused = of_kind(&found, "decode");
    assert_eq!((refused.len(), &refused[0]["stream"]), (1, &json!("fast")), "{found:?}");
    let value = json!({ "filter": "plants/+/+", "stream": "fast", "device_level": 2, "table": { "name": "notes" },
        "decoder": { "format": "text" } });
    let handle = engine.handle();
    ask(&mut engine, handle.put_binding(declare("plants", value))).unwrap();
    ask(&mut engine, handle.replay(Replay::Letters { ids: None, reason: None })).unwrap();
    assert_eq!(rows(&handle, "notes")[0]["value"], "oops");
    let found = letters(&world);
    assert_eq!(of_kind(&found, "replayed")[0]["stream"], "fast", "{found:?}");
    assert!(world.log.streams().iter().any(|stream| stream.id.stream.as_str() == "fast"));
}
