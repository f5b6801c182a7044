//! The engine on a log in memory: what is published is seen, whatever is flushed, compacted or restarted.

use crate::bindings::{letters, put};
use arrow::{
    array::{Array, AsArray},
    datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType},
};
use floodplain_history::{
    Error, Handle, History,
    engine::{Engine, EngineConfig},
    filter::Filter,
    route::DefaultRoute,
};
use floodplain_log::{Append, BatchBuilder, Compression, Disk, Log, MessageRef, Partition, Stream};
use floodplain_testkit::{Counts, FaultDisk, ModelLog, wait_until};
use floodplain_types::{Class, ManualClock, Position, StreamId, StreamName, TenantId, Timestamp};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// One row as texts, by column; what is null is not there.
pub(crate) type Row = BTreeMap<String, String>;

/// What outlives an engine.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) log: ModelLog,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) disk: FaultDisk,
    pub(crate) input: Stream,
    pub(crate) config: EngineConfig,
}

/// Does `work` with a power cut at its first call to the disk, at its second, and so on, up to the end; and checks what is there
/// after each. Gives the number of cuts.
pub(crate) fn cut_at_every_call<T>(work: impl Fn(&World) -> Result<T, Error>, check: impl Fn(&World, &str)) -> u64 {
    let mut cuts = 0;
    loop {
        let mut world = World::new();
        world.disk.cut_at_call(cuts + 1);
        let done = work(&world);
        if !world.disk.is_frozen() {
            drop(done.unwrap());
            world.disk.cancel_cut();
            check(&world, "to the end");
            return cuts;
        }
        cuts += 1;
        world.disk = world.disk.power_cut(cuts);
        check(&world, &format!("cut at call {cuts}"));
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_letters_in(2)
    }

    /// The same with so many partitions of `dlq`, and of `state`.
    pub(crate) fn with_letters_in(partitions: u32) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
        let log = ModelLog::new(clock.clone());
        let open = |name: &str, partitions: u32| {
            let id =
                StreamId { tenant: TenantId::default_tenant(), stream: StreamName::new(name).unwrap(), generation: 0 };
            log.open_stream(&id, partitions).unwrap()
        };
        let (input, state, manifest) = (open("telemetry", 2), open("state", partitions), open("_history", 1));
        let config = EngineConfig::new("/history", vec![input.clone()], state, manifest);
        Self { log, clock, disk: FaultDisk::new(1), input, config }
    }

    pub(crate) fn engine(&self) -> Result<Engine, Error> {
        let (disk, log) = (Arc::new(self.disk.clone()), Arc::new(self.log.clone()));
        Engine::open(self.config.clone(), disk, log, self.clock.clone(), Arc::new(DefaultRoute::default()))
    }

    pub(crate) fn history(&self) -> History {
        let (disk, log) = (Arc::new(self.disk.clone()), Arc::new(self.log.clone()));
        History::open(self.config.clone(), disk, log, self.clock.clone(), Arc::new(DefaultRoute::default())).unwrap()
    }

    pub(crate) fn publish(&self, topic: &str, payload: &[u8]) -> Partition {
        self.publish_as(topic, payload, MessageRef::default(), &[])
    }

    pub(crate) fn publish_with(&self, topic: &str, payload: &[u8], properties: &[(&str, &str)]) -> Partition {
        self.publish_as(topic, payload, MessageRef::default(), properties)
    }

    /// Under a dedup id, as the broker gives one where the log may have a message twice.
    pub(crate) fn publish_under(&self, dedup_id: &str, topic: &str, payload: &[u8]) -> Partition {
        self.publish_as(topic, payload, MessageRef { dedup_id: Some(dedup_id), ..MessageRef::default() }, &[])
    }

    pub(crate) fn publish_lines(&self, topic: &str, lines: &[u8]) -> Partition {
        let content_type = Some("text/vnd.influx.line-protocol");
        self.publish_as(topic, lines, MessageRef { content_type, ..MessageRef::default() }, &[])
    }

    fn publish_as(&self, topic: &str, payload: &[u8], rest: MessageRef<'_>, properties: &[(&str, &str)]) -> Partition {
        let device = topic.split('/').nth(1).unwrap_or("nobody");
        let key = device.as_bytes();
        let message = MessageRef { topic, payload, key, qos: 1, ..rest };
        let mut builder = BatchBuilder::new();
        self.clock.advance(Duration::from_millis(1));
        let now = floodplain_types::Clock::now(&*self.clock).as_millis();
        message.write(&mut builder, now, properties.iter().copied()).unwrap();
        let partition = self.input.partition_of(device.as_bytes());
        let batch = builder.finish(Compression::None).unwrap();
        self.log.submit(Append { batches: vec![(partition, batch)], class: Class::All }, None);
        partition
    }

    pub(crate) fn watermarks(&self) -> Vec<(Partition, Position)> {
        (0..2).map(|i| self.input.partition(i)).map(|p| (p, self.log.watermark(p))).collect()
    }
}

pub(crate) fn run(engine: &mut Engine) {
    while engine.step().unwrap() {}
}

/// All rows of a table by device and time, without what starts with `_`, except `_rest`.
pub(crate) fn rows(handle: &Handle, table: &str) -> Vec<Row> {
    let Some(snapshot) = handle.snapshot(table).unwrap() else { return Vec::new() };
    let schema = snapshot.columns().schema().clone();
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    let mut found = Vec::new();
    for batch in snapshot.scan(&all, &Filter::ALL).unwrap() {
        let batch = batch.unwrap();
        for i in 0..batch.num_rows() {
            let mut row = Row::new();
            for (field, array) in schema.fields().iter().zip(batch.columns()) {
                if array.is_null(i) || (field.name().starts_with('_') && field.name() != "_rest") {
                    continue;
                }
                let text = match field.data_type() {
                    DataType::Boolean => array.as_boolean().value(i).to_string(),
                    DataType::Int64 => array.as_primitive::<Int64Type>().value(i).to_string(),
                    DataType::Float64 => array.as_primitive::<Float64Type>().value(i).to_string(),
                    DataType::Utf8 => array.as_string::<i32>().value(i).to_owned(),
                    _ => array.as_primitive::<TimestampMicrosecondType>().value(i).to_string(),
                };
                row.insert(field.name().clone(), text);
            }
            found.push(row);
        }
    }
    found.sort_by_key(|row| (row["device"].clone(), row["time"].parse::<i64>().unwrap()));
    found
}

fn row(cells: &[(&str, &str)]) -> Row {
    cells.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

/// Rows must be the same from the buffer, from a file, and after a start.
fn check(world: &World, table: &str, expected: &[Row]) {
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    assert_eq!(rows(&engine.handle(), table), expected, "from buffers");
    engine.flush_all().unwrap();
    assert_eq!(rows(&engine.handle(), table), expected, "from files");
    let mut engine = world.engine().unwrap();
    assert_eq!(rows(&engine.handle(), table), expected, "after a start");
    run(&mut engine);
    assert_eq!(rows(&engine.handle(), table), expected, "decoded again");
}

#[test]
fn payloads_become_rows_of_typed_columns() {
    let world = World::new();
    world.publish("devices/a/env", br#"{"time": 1700000000000, "temp": 20.5, "ok": true, "tags": [1]}"#);
    world.publish("devices/a/env", br#"{"time": 1700000000000, "hum": 7, "temp": 21}"#);
    world.publish("devices/b/env", br#"{"time": 1700000001000, "temp": "hot"}"#);
    check(
        &world,
        "env",
        &[
            row(&[
                ("device", "a"),
                ("time", "1700000000000000"),
                ("temp", "21"),
                ("ok", "true"),
                ("hum", "7"),
                ("_rest", r#"{"tags":[1]}"#),
            ]),
            row(&[("device", "b"), ("time", "1700000001000000"), ("_rest", r#"{"temp":"hot"}"#)]),
        ],
    );
}

/// A device with a good clock on the same machine: its message is received in the millisecond that it names.
#[test]
fn a_row_whose_time_is_that_of_its_receipt_is_merged_like_others() {
    let world = World::new();
    // Each message is received a millisecond after the one before.
    let time = 1_700_000_000_002_i64;
    world.publish("devices/b/env", br#"{"temp": 1}"#);
    for _ in 0..2 {
        world.publish("devices/a/env", format!(r#"{{"time": {time}, "temp": 20}}"#).as_bytes());
    }
    world.publish("devices/a/env", format!(r#"{{"time": {time}, "hum": 7}}"#).as_bytes());
    let a = row(&[("device", "a"), ("time", "1700000000002000"), ("temp", "20"), ("hum", "7")]);
    let b = row(&[("device", "b"), ("time", "1700000000001000"), ("temp", "1")]);
    check(&world, "env", &[a.clone(), b.clone()]);
    // One of them in a file, and it comes again.
    let world = World::new();
    let mut engine = world.engine().unwrap();
    world.publish("devices/b/env", br#"{"temp": 1}"#);
    world.publish("devices/a/env", format!(r#"{{"time": {time}, "temp": 20}}"#).as_bytes());
    run(&mut engine);
    engine.flush_all().unwrap();
    world.publish("devices/a/env", format!(r#"{{"time": {time}, "temp": 20}}"#).as_bytes());
    world.publish("devices/a/env", format!(r#"{{"time": {time}, "hum": 7}}"#).as_bytes());
    check(&world, "env", &[a, b]);
}

#[test]
fn what_has_no_table_is_kept_as_it_came() {
    let world = World { config: EngineConfig { tables_max: 0, ..World::new().config }, ..World::new() };
    world.publish("x/a/y", b"hello");
    world.publish("x/b/y", br#"{"deep": 1}"#);
    world.publish("devices/c/env", b"\xff\x00");
    world.publish("devices/d/env", br#"{"temp": 1}"#);
    let time = |i: i64| (1_700_000_000_000_000 + i * 1000).to_string();
    let message = |i: i64, device: &str, topic: &str, column: &str, payload: &str, rest: Option<&str>| {
        let mut row = row(&[("device", device), ("time", &time(i)), ("topic", topic), (column, payload)]);
        row.extend(rest.map(|rest| ("_rest".to_owned(), rest.to_owned())));
        row
    };
    check(
        &world,
        "messages",
        &[
            message(1, "a", "x/a/y", "payload", "hello", None),
            message(2, "b", "x/b/y", "payload", r#"{"deep": 1}"#, Some(r#"{"deep": 1}"#)),
            message(3, "c", "devices/c/env", "payload_base64", "/wA=", None),
            message(4, "d", "devices/d/env", "payload", r#"{"temp": 1}"#, Some(r#"{"temp": 1}"#)),
        ],
    );
}

#[test]
fn tables_beyond_the_limit_are_counted_and_those_that_a_binding_names_are_made() {
    let mut world = World::new();
    world.config.tables_max = 2;
    let refused = Counts::default();
    metrics::with_local_recorder(&refused, || {
        let mut engine = world.engine().unwrap();
        let named = |table: &str| {
            json!({ "filter": format!("{table}/+/+"), "device_level": 2, "table": { "name": table },
                    "decoder": { "format": "json" } })
        };
        put(&mut engine, "first", named("first")).unwrap();
        world.publish("other/a/x", b"1");
        world.publish("first/a/x", br#"{"v": 1}"#);
        for table in ["one", "two", "three", "one"] {
            world.publish(&format!("devices/a/{table}"), br#"{"v": 1}"#);
        }
        run(&mut engine);
        assert_eq!(engine.handle().tables(), ["first", "messages", "one", "two"], "a named one takes no place");
        assert_eq!(
            (rows(&engine.handle(), "messages").len(), refused.get("floodplain_history_table_refused_total")),
            (2, 1)
        );
        put(&mut engine, "late", named("late")).unwrap();
        world.publish("late/a/x", br#"{"v": 2}"#);
        // A declared decoder says of these what they are, though there is no room for their table.
        let level = json!({ "filter": "level/+/+", "table": { "level": 3 }, "decoder": { "format": "json" } });
        put(&mut engine, "level", level).unwrap();
        world.publish("level/a/three", br#"{"v": 3}"#);
        world.publish("level/a/three", b"?");
        // The table of the topic is not one of the rows.
        world.publish_lines("devices/a/lines", b"one v=5 1700000000000000000");
        run(&mut engine);
        assert_eq!(rows(&engine.handle(), "late").len(), 1, "there is always room for it");
        assert_eq!(
            (rows(&engine.handle(), "messages").len(), refused.get("floodplain_history_table_refused_total")),
            (3, 2)
        );
        assert_eq!(rows(&engine.handle(), "one").len(), 3);
        assert_eq!(letters(&world).len(), 1);
    });
}

#[test]
fn rows_of_one_payload_with_one_time_keep_apart() {
    let world = World::new();
    world.publish("devices/a/env", br#"[{"time":1700000000000,"v":1},{"time":1700000000000,"v":2}]"#);
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    let values = |engine: &Engine| -> Vec<String> {
        let mut values: Vec<_> = rows(&engine.handle(), "env").iter().map(|row| row["v"].clone()).collect();
        values.sort();
        values
    };
    assert_eq!(values(&engine), ["1", "2"]);
    engine.flush_all().unwrap();
    assert_eq!(values(&engine), ["1", "2"]);
}

#[test]
fn many_small_files_become_one() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    for i in 0..4 {
        world.publish("devices/a/env", format!(r#"{{"time":170000000{i}000,"v":{i}}}"#).as_bytes());
        run(&mut engine);
        engine.flush_all().unwrap();
    }
    let files = |world: &World| {
        world.disk.files().iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "parquet")).count()
    };
    assert_eq!(files(&world), 4);
    let held = engine.handle().snapshot("env").unwrap().unwrap();
    run(&mut engine);
    assert_eq!(files(&world), 5, "a reader still has the old ones");
    let rows_held: usize = held.scan(&[0], &Filter::ALL).unwrap().map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(rows_held, 4);
    drop(held);
    assert_eq!(files(&world), 1);
    assert_eq!(rows(&engine.handle(), "env").len(), 4);
}

#[test]
fn rows_older_than_the_retention_of_their_table_go() {
    let mut world = World::new();
    world.config.retention.insert("old".to_owned(), Duration::from_secs(3600));
    let mut engine = world.engine().unwrap();
    for table in ["old", "kept"] {
        world.publish(&format!("devices/a/{table}"), br#"{"time":1700000000000,"v":1}"#);
    }
    run(&mut engine);
    engine.flush_all().unwrap();
    run(&mut engine);
    assert_eq!(rows(&engine.handle(), "old").len(), 1);
    world.clock.advance(Duration::from_secs(7200));
    run(&mut engine);
    assert_eq!((rows(&engine.handle(), "old").len(), rows(&engine.handle(), "kept").len()), (0, 1));
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    assert_eq!(rows(&engine.handle(), "old").len(), 0, "nothing comes back");
}

#[test]
fn over_the_disk_budget_the_oldest_files_go() {
    let mut world = World::new();
    let mut engine = world.engine().unwrap();
    for i in 0..3 {
        world.publish("devices/a/env", format!(r#"{{"time":17000000{i}0000,"v":{i}}}"#).as_bytes());
        run(&mut engine);
        engine.flush_all().unwrap();
    }
    let bytes: u64 = world
        .disk
        .files()
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "parquet"))
        .map(|(_, bytes)| bytes)
        .sum();
    world.config.files_bytes_max = Some(bytes - 1);
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    let values: Vec<_> = rows(&engine.handle(), "env").iter().map(|row| row["v"].clone()).collect();
    assert_eq!(values, ["1", "2"]);
}

#[test]
fn the_disk_budget_holds_while_there_is_more_to_decode() {
    let mut world = World::new();
    world.config.flush_bytes = 1;
    world.config.files_bytes_max = Some(0);
    for n in 0..20 {
        world.publish(&format!("devices/d{n}/t"), br#"{"v": 1}"#);
    }
    let mut engine = world.engine().unwrap();
    let mut most = 0;
    while engine.step().unwrap() {
        most = most.max(world.disk.list(std::path::Path::new("/history/t")).map_or(0, |files| files.len()));
        world.publish("devices/d/t", br#"{"v": 2}"#);
        if world.watermarks().iter().map(|(_, at)| at.offset).sum::<u64>() > 120 {
            break;
        }
    }
    assert!(most <= 4, "{most} files of a budget of none");
}

#[test]
fn an_engine_whose_manifest_another_one_writes_stops() {
    let world = World::new();
    let history = world.history();
    world.publish("devices/a/t", br#"{"v": 1}"#);
    wait_until("the row is there", &|| {}, || rows(history.handle(), "t").len() == 1);
    // A second owner, which there must not be, flushes first.
    let mut other = world.engine().unwrap();
    run(&mut other);
    other.flush_all().unwrap();
    let manifest = || world.log.watermark(world.config.manifest.partition(0)).offset;
    let flushed = manifest();
    assert!(history.is_running());
    world.clock.advance(world.config.flush_age);
    world.publish("devices/a/t", br#"{"v": 2}"#);
    wait_until("the first has tried, and stopped", &|| {}, || !history.is_running());
    assert_eq!(manifest(), flushed + 1, "it tried once");
    world.publish("devices/a/t", br#"{"v": 3}"#);
    run(&mut other);
    assert_eq!(rows(&other.handle(), "t").len(), 3, "the second sees what comes");
    history.stop();
}

#[test]
fn full_buffers_are_flushed_before_more_is_read() {
    let mut world = World::new();
    world.config.buffers_bytes_max = 1 << 10;
    let mut engine = world.engine().unwrap();
    for i in 0..200 {
        world
            .publish("devices/a/env", format!(r#"{{"time":{},"v":{i}}}"#, 1_600_000_000_000_i64 + i * 1000).as_bytes());
        engine.step().unwrap();
    }
    run(&mut engine);
    assert_eq!(rows(&engine.handle(), "env").len(), 200);
    let partition = world.input.partition_of(b"a");
    assert!(engine.handle().replay_from(partition) > Position::ZERO, "something was flushed");
}

#[test]
fn buffers_are_flushed_when_they_are_old() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    let partition = world.publish("devices/a/env", br#"{"time":1700000000000,"v":1}"#);
    run(&mut engine);
    assert_eq!(engine.handle().replay_from(partition), Position::ZERO);
    world.clock.advance(world.config.flush_age);
    run(&mut engine);
    assert_eq!(engine.handle().replay_from(partition), world.log.watermark(partition));
}

#[test]
fn a_stop_writes_all_rows_to_files_and_the_next_start_decodes_none_again() {
    let world = World::new();
    let history = world.history();
    for i in 0..300 {
        // More windows than are flushed at once.
        let time = 1_600_000_000 + i % 100 * 7200 + i;
        world.publish(&format!("devices/{}/env", i % 7), format!(r#"{{"time":{time},"v":{i}}}"#).as_bytes());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let handle = history.handle().clone();
    runtime.block_on(handle.wait_decoded(&world.watermarks(), Duration::from_secs(30))).unwrap();
    assert_eq!(handle.summary("env").unwrap().files, 0);
    history.stop();
    let placed = Counts::default();
    metrics::with_local_recorder(&placed, || {
        let mut engine = world.engine().unwrap();
        let summary = engine.handle().summary("env").unwrap();
        assert_eq!((summary.rows, summary.files), (300, 100));
        run(&mut engine);
        assert_eq!((rows(&engine.handle(), "env").len(), placed.get("floodplain_history_rows_total")), (300, 0));
    });
}

/// A stop that has no time left leaves rows to the next start.
#[test]
fn a_flush_that_has_no_time_loses_nothing() {
    let world = World::new();
    let mut engine = world.engine().unwrap();
    for i in 0..100 {
        let time = 1_600_000_000 + i * 7200;
        world.publish("devices/a/env", format!(r#"{{"time":{time},"v":{i}}}"#).as_bytes());
    }
    run(&mut engine);
    assert!(!engine.flush_within(Duration::ZERO).unwrap());
    assert_eq!(engine.handle().summary("env").unwrap().files, 0);
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    assert_eq!(rows(&engine.handle(), "env").len(), 100);
    assert!(engine.flush_within(Duration::from_secs(1)).unwrap());
    let summary = engine.handle().summary("env").unwrap();
    assert_eq!((summary.rows, summary.files), (100, 100));
}

#[test]
fn a_reader_that_waits_for_a_watermark_sees_the_row() {
    let world = World::new();
    let history = world.history();
    let handle = history.handle().clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for i in 0..200 {
        world.publish(
            &format!("devices/{}/env", i % 7),
            format!(r#"{{"time":{},"v":{i}}}"#, 1_700_000_000_000_i64 + i).as_bytes(),
        );
        runtime.block_on(handle.wait_decoded(&world.watermarks(), Duration::from_secs(30))).unwrap();
        assert_eq!(rows(&handle, "env").len(), i as usize + 1);
    }
    history.stop();
}

#[test]
fn a_reader_that_waits_in_vain_is_told_the_lag() {
    let world = World::new();
    let engine = world.engine().unwrap();
    let partition = world.publish("devices/a/env", br#"{"v":1}"#);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let lag =
        runtime.block_on(engine.handle().wait_decoded(&world.watermarks(), Duration::from_millis(20))).unwrap_err();
    let name = world.log.partition_id(partition).unwrap();
    assert_eq!(lag.to_string(), format!("decoding of {name} is at 0:0, short of 0:1, after 20ms"));
}

#[test]
fn queries_during_flushes_and_compactions_neither_miss_nor_double_a_row() {
    let mut world = World::new();
    world.config.buffers_bytes_max = 4 << 10;
    let history = world.history();
    let handle = history.handle().clone();
    let writer = {
        let world = world.clone();
        std::thread::spawn(move || {
            for i in 0..3000_i64 {
                let payload = format!(r#"{{"time":{},"v":{i}}}"#, 1_700_000_000_000 + i);
                world.publish("devices/a/env", payload.as_bytes());
            }
        })
    };
    let mut before = 0;
    while before < 3000 {
        let found = rows(&handle, "env");
        assert!(found.len() >= before, "{} rows after {before}", found.len());
        for (i, row) in found.iter().enumerate() {
            assert_eq!(row["v"], i.to_string());
        }
        before = found.len();
    }
    writer.join().unwrap();
    history.stop();
}

/// Measurements are names of tables, too.
#[test]
fn no_payload_makes_a_table_of_the_server() {
    let world = World::new();
    let topic = "devices/a/x";
    let message = MessageRef {
        topic,
        payload: b"dlq f=1 1700000000000000000\nRecords f=2 1700000000000000000\nown f=3 1700000000000000000",
        key: b"a",
        qos: 1,
        content_type: Some(floodplain_history::route::LINE_PROTOCOL),
        ..MessageRef::default()
    };
    let mut builder = BatchBuilder::new();
    message.write(&mut builder, 1_700_000_000_000, std::iter::empty()).unwrap();
    let batch = builder.finish(Compression::None).unwrap();
    let partition = world.input.partition_of(b"a");
    world.log.submit(Append { batches: vec![(partition, batch)], class: Class::All }, None);
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    assert_eq!(engine.handle().tables(), ["messages"], "whole, as it came");
    assert_eq!(rows(&engine.handle(), "messages").len(), 1);
}
