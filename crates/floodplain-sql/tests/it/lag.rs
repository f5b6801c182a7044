//! What is made of messages by decoding: a query sees what was acknowledged before it, or says that it does not.

use crate::fleet::{Fleet, NINE, lines, message, submit};
use floodplain_history::{
    Handle,
    bindings::{Binding, Origin},
    engine::{Engine, EngineConfig},
    route::DefaultRoute,
};
use floodplain_log::{BatchBuilder, Compression};
use floodplain_sql::{Config, Error, Format, Sql, Tables};
use floodplain_testkit::FaultDisk;
use serde_json::json;
use std::{sync::Arc, time::Duration};

/// Nothing is decoded but when the engine is told to.
fn held_back(fleet: &Fleet) -> (Engine, Sql) {
    let telemetry = fleet.stream("telemetry");
    let open = |name: &str| fleet.log.open_stream(&crate::fleet::id("default", name), 1).unwrap();
    let mut config = EngineConfig::new("/history", vec![telemetry.clone()], open("state"), open("_history"));
    let plants = json!({ "filter": "plants/+", "device_level": 2, "table": { "name": "plant" },
        "decoder": { "format": "json" } });
    config.bindings = vec![Arc::new(Binding::declare("plants", plants, Origin::Config).unwrap())];
    let (disk, route) = (Arc::new(FaultDisk::new(1)), Arc::new(DefaultRoute::default()));
    let mut engine = Engine::open(config, disk, Arc::clone(&fleet.log), fleet.clock.clone(), route).unwrap();
    run(&mut engine);
    let tables = Tables { handle: engine.handle(), inputs: vec![telemetry] };
    // However busy the machine is: the time is not that of a thread which gives way.
    let config = Config { threads: 2, short: Duration::from_secs(600), niceness: 0, ..Config::default() };
    (engine, Sql::with_tables(Arc::clone(&fleet.log), Some(tables), config).unwrap())
}

fn run(engine: &mut Engine) {
    while engine.step().unwrap() {}
}

async fn ask(sql: &Sql, query: &str) -> Result<String, Error> {
    let mut encoder = sql.query(query).await?.encode(Format::Csv);
    let mut text = Vec::new();
    while let Some(chunk) = encoder.next().await {
        text.extend_from_slice(&chunk?);
    }
    Ok(String::from_utf8(text).unwrap().lines().skip(1).collect::<Vec<_>>().join("|"))
}

fn is_behind(handle: &Handle, fleet: &Fleet) -> bool {
    let telemetry = fleet.stream("telemetry");
    let mut partitions = (0..telemetry.partitions).map(|index| telemetry.partition(index));
    partitions.any(|partition| handle.decoded(partition) < fleet.log.watermark(partition))
}

/// Tables of payloads, what is told of them, and letters.
#[test]
fn a_query_waits_until_what_was_acknowledged_is_decoded() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (n, query, found) in [
        (0, "SELECT device, v FROM plant", "p0,0"),
        (1, "SELECT table_name, rows FROM tables ORDER BY 1", "plant,1"),
        (2, "SELECT device, stage FROM dlq", "p2,decode"),
    ] {
        let fleet = Fleet::empty();
        let (mut engine, sql) = held_back(&fleet);
        let (device, payload) = (format!("p{n}"), if n == 2 { "?".to_owned() } else { format!(r#"{{"v":{n}}}"#) });
        fleet.publish("telemetry", &message(&device, &format!("plants/{device}"), payload.as_bytes()), &[]);
        let answer = runtime.block_on(async {
            let asked = tokio::spawn(async move { ask(&sql, query).await });
            let mut asked = std::pin::pin!(asked);
            // It cannot have an answer yet, however long this takes; less than a second, that is.
            let early = tokio::time::timeout(Duration::from_millis(100), &mut asked).await;
            assert!(early.is_err(), "{query}: {early:?} before anything is decoded");
            tokio::task::block_in_place(|| run(&mut engine));
            asked.await.unwrap()
        });
        assert_eq!(answer.unwrap(), found, "{query}");
    }
}

#[test]
fn a_query_that_waits_in_vain_says_after_a_second_what_is_behind() {
    let fleet = Fleet::empty();
    let (mut engine, sql) = held_back(&fleet);
    fleet.publish("telemetry", &message("p1", "plants/p1", br#"{"v":1}"#), &[]);
    assert!(is_behind(&engine.handle(), &fleet));
    let behind = fleet.stream("telemetry").partition_of(b"p1").index;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for table in ["plant", "tables", "dlq"] {
        let started = tokio::time::Instant::now();
        let error = runtime.block_on(ask(&sql, &format!("SELECT * FROM {table}"))).unwrap_err();
        let took = started.elapsed();
        let lag = format!("decoding of default.telemetry/{behind} is at 0:0, short of 0:1, after 1s");
        assert_eq!(error, Error::Lag { message: lag }, "{table}");
        assert!((1..5).contains(&took.as_secs()), "{table}: after {took:?}");
    }
    // The log itself is never behind.
    assert_eq!(runtime.block_on(ask(&sql, "SELECT count(*) AS n FROM records WHERE device = 'p1'")).unwrap(), "1");
    run(&mut engine);
    assert_eq!(runtime.block_on(ask(&sql, "SELECT v FROM plant")).unwrap(), "1");
}

/// The mark says what was known then: a decoder that came later may refuse the message.
#[test]
fn a_letter_that_came_after_its_message_was_decoded_is_not_replayed() {
    let fleet = Fleet::empty();
    let letter = |minute: i64, kind: &str, from: &str| {
        fleet.clock.set(floodplain_types::Timestamp::from_millis(NINE + minute * 60_000));
        let value =
            json!({ "kind": kind, "stream": "telemetry", "partition": 1, "from": from, "to": from }).to_string();
        let mut builder = BatchBuilder::new();
        let headers = [("fp.c", b"application/json".as_slice())];
        builder.push(NINE + minute * 60_000, Some(b"p1"), Some(value.as_bytes()), headers).unwrap();
        let batch = builder.finish(Compression::None).unwrap();
        assert!(submit(&*fleet.log, vec![(fleet.stream("dlq").partition_of(b"p1"), batch)]));
    };
    letter(0, "decode", "0:1");
    letter(1, "decode", "0:2");
    letter(2, "replayed", "0:1");
    letter(3, "decode", "0:1");
    let found = lines(&fleet.sql(), "SELECT \"from\", received, replayed FROM dlq ORDER BY received");
    let first = "0:1,2026-11-21T09:00:00Z,2026-11-21T09:02:00Z";
    assert_eq!(found, [first, "0:2,2026-11-21T09:01:00Z,", "0:1,2026-11-21T09:03:00Z,"]);
}
