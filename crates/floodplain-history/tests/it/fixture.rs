//! Tables of earlier versions: they are read for ever.
//!
//! `fixtures/history/v<N>`: `folder` is the folder of history as version N left it, with files of tables and snapshots of folds; `log.jsonl` has the
//! records of its log, a line each: messages, schemas, bindings, changes of the manifest, letters; `contents.txt` is what the tables say.
//! They were written once, by `FLOODPLAIN_TEST_WRITE_FIXTURE=v<N>` and this test, which refuses where there is one already: a
//! fixture that no longer reads is a fault of the reader.

use crate::{
    bindings::{letters, of_kind, put, replay, values},
    engine::{World, run},
};
use arrow::{array::Array as _, util::display::array_value_to_string};
use floodplain_history::{Handle, engine::Engine, file::read_entry, filter::Filter, jobs::Replay};
use floodplain_log::{Append, BatchBuilder, Compression, Disk as _, Log as _, Stream};
use floodplain_types::{Class, Position, StreamId, StreamName, TenantId};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
};

const WRITE: &str = "FLOODPLAIN_TEST_WRITE_FIXTURE";
const DIR: &str = "/history";

fn fixture(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/history").join(version)
}

/// All rows of all tables, all that a reader can know of each.
fn print(handle: &Handle) -> String {
    let mut text = String::new();
    for table in handle.tables() {
        let snapshot = handle.snapshot(&table).unwrap().unwrap();
        let schema = snapshot.columns().schema().clone();
        let every: Vec<usize> = (0..schema.fields().len()).collect();
        let mut lines = Vec::new();
        for batch in snapshot.scan(&every, &Filter::ALL).unwrap() {
            let batch = batch.unwrap();
            for row in 0..batch.num_rows() {
                let mut line = table.clone();
                for (field, array) in
                    schema.fields().iter().zip(batch.columns()).filter(|(_, array)| array.is_valid(row))
                {
                    write!(line, " {}={}", field.name(), array_value_to_string(array, row).unwrap()).unwrap();
                }
                lines.push(line);
            }
        }
        lines.sort();
        text += &(lines.join("\n") + "\n");
    }
    text
}

/// Bytes that are no text are `{"hex": …}`.
fn to_json(bytes: Option<&[u8]>) -> Value {
    let hex = |bytes: &[u8]| json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() });
    bytes.map_or(Value::Null, |bytes| std::str::from_utf8(bytes).map_or_else(|_| hex(bytes), Into::into))
}

fn from_json(value: &Value) -> Option<Vec<u8>> {
    if let Some(hex) = value["hex"].as_str() {
        return Some((0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect());
    }
    value.as_str().map(|text| text.as_bytes().to_vec())
}

/// The records of all streams, a line each.
fn log(world: &World) -> String {
    let mut text = String::new();
    for stream in world.log.streams() {
        for partition in (0..stream.partitions).map(|index| stream.partition(index)) {
            for batch in &world.log.read(partition, Position::ZERO, usize::MAX).unwrap().batches {
                for record in &batch.batch.records().unwrap() {
                    let record = record.unwrap();
                    let headers = record.headers().map(|header| header.unwrap());
                    let headers: Vec<_> = headers.map(|(name, value)| json!([name, to_json(value)])).collect();
                    let line = json!({
                        "stream": stream.id.stream.as_str(), "partition": partition.index,
                        "position": batch.position(&record).to_string(), "time_ms": batch.batch.timestamp_ms(&record),
                        "key": to_json(record.key), "value": to_json(record.value), "headers": headers,
                    });
                    writeln!(text, "{line}").unwrap();
                }
            }
        }
    }
    text
}

/// Values of all types, rows with and without time, versions, keys, files that became one, letters and what became of one.
fn write(version: &str) {
    let fixture = fixture(version);
    assert!(!fixture.exists(), "{} was written once and stays", fixture.display());
    let world = World::new();
    let mut engine = world.engine().unwrap();
    let decoder = json!({ "format": "json", "types": { "n": "int64" } });
    let plants = |decoder: Value, table: &str| {
        json!({ "filter": "plants/+", "device_level": 2, "table": { "name": table }, "decoder": decoder,
                "key_columns": ["n"], "retention": "30d" })
    };
    put(&mut engine, "plants", plants(decoder.clone(), "plant")).unwrap();
    let lines = json!({ "format": "line_protocol", "attributes": ["site"] });
    put(
        &mut engine,
        "lines",
        json!({ "filter": "lines/+", "device_level": 2, "table": { "name": "lines" }, "decoder": lines }),
    )
    .unwrap();
    for round in 0..5 {
        let second = 1_700_000_000 + round;
        let env = |rest: &str| format!(r#"{{"time": {second}, "temp": 20.5, "round": {round}{rest}}}"#);
        world.publish("devices/a/env", env("").as_bytes());
        world.publish("devices/a/env", env(r#", "temp": 21, "ok": true, "tags": [1], "oil": {"°C": 90}"#).as_bytes());
        world.publish("devices/b/env", format!(r#"{{"text": "round {round}"}}"#).as_bytes());
        world.publish("devices/ü/env", br#"{"time": "2023-11-14T22:00:00Z", "temp": "hot"}"#);
        world.publish("lines/c", format!("m,core=0,site=north v={round}i,w=2.5 {second}000000123").as_bytes());
        world.publish("plants/p1", format!(r#"{{"time": {second}, "n": {round}, "v": -0.5}}"#).as_bytes());
        world.publish("x/d/y", b"\xff\x00");
        world.publish("x/d/y", br#"{"deep": 1}"#);
        run(&mut engine);
        engine.flush_all().unwrap();
    }
    world.publish("plants/p2", b"no JSON");
    world.publish("plants/p2", br#"{"time": 1600000000, "n": 1, "v": 1}"#);
    run(&mut engine);
    let text = json!({ "format": "text" });
    let as_text = json!({ "filter": "plants/+", "device_level": 2, "table": { "name": "notes" }, "decoder": text });
    put(&mut engine, "plants", as_text).unwrap();
    replay(&mut engine, Replay::Letters { ids: None, reason: None }).unwrap();
    put(&mut engine, "plants", plants(decoder, "plant")).unwrap();
    world.publish("plants/p3", b"no JSON either");
    run(&mut engine);
    engine.flush_all().unwrap();
    engine.write_snapshots().unwrap();
    run(&mut engine);

    for (path, _) in world.disk.files() {
        let to = fixture.join("folder").join(path.strip_prefix(DIR).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, world.disk.contents(&path).unwrap()).unwrap();
    }
    std::fs::write(fixture.join("contents.txt"), print(&engine.handle())).unwrap();
    std::fs::write(fixture.join("log.jsonl"), log(&world)).unwrap();
}

/// Files below a folder, by their paths in it.
fn files(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut folders, mut found) = (vec![root.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap()));
            }
        }
    }
    found
}

/// Disk and log as they were.
fn world(version: &str, is_wanted: impl Fn(&Path) -> bool) -> World {
    let (fixture, world) = (fixture(version), World::new());
    for (path, bytes) in files(&fixture.join("folder")).into_iter().filter(|(path, _)| is_wanted(path)) {
        let path = Path::new(DIR).join(path);
        world.disk.create_dir_all(path.parent().unwrap()).unwrap();
        let file = world.disk.create(&path).unwrap();
        assert_eq!(file.write_at(&bytes, 0).unwrap(), bytes.len());
    }
    let stream = |name: &str| -> Stream {
        let stream = StreamName::new(name).unwrap();
        let id = StreamId { tenant: TenantId::default_tenant(), stream, generation: 0 };
        world.log.open_stream(&id, 2).unwrap()
    };
    for line in std::fs::read_to_string(fixture.join("log.jsonl")).unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let headers: Vec<_> = record["headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|header| (header[0].as_str().unwrap(), from_json(&header[1]).unwrap()))
            .collect();
        let partition =
            stream(record["stream"].as_str().unwrap()).partition(record["partition"].as_u64().unwrap() as u32);
        let mut builder = BatchBuilder::new();
        let (key, value) = (from_json(&record["key"]), from_json(&record["value"]));
        let headers = headers.iter().map(|(name, value)| (*name, &value[..]));
        builder.push(record["time_ms"].as_i64().unwrap(), key.as_deref(), value.as_deref(), headers).unwrap();
        assert_eq!(json!(world.log.watermark(partition).to_string()), record["position"]);
        let batch = builder.finish(Compression::None).unwrap();
        world.log.submit(Append { batches: vec![(partition, batch)], class: Class::All }, None);
    }
    world
}

fn says(engine: &Engine, contents: &str, what: &str) {
    let found = print(&engine.handle());
    let (found, wanted): (Vec<_>, Vec<_>) = (found.lines().collect(), contents.lines().collect());
    assert_eq!(found, wanted, "{what}");
}

fn is_read(version: &str) {
    let contents = std::fs::read_to_string(fixture(version).join("contents.txt")).unwrap();
    // From snapshots alone, from records alone, and with all that there is.
    let world_of_snapshots = world(version, |_| true);
    for partition in world_of_snapshots
        .log
        .streams()
        .iter()
        .filter(|stream| stream.id.stream.as_str() != "dlq")
        .flat_map(|stream| (0..stream.partitions).map(|index| stream.partition(index)))
    {
        world_of_snapshots.log.trim(partition, world_of_snapshots.log.watermark(partition));
    }
    says(&world_of_snapshots.engine().unwrap(), &contents, "from snapshots");
    says(&world(version, |path| !path.starts_with("folds")).engine().unwrap(), &contents, "from records");
    let world = world(version, |_| true);
    let mut levels = BTreeSet::new();
    for (path, _) in world.disk.files() {
        if let (Some(name), true) = (path.file_name(), path.extension().is_some_and(|extension| extension == "parquet"))
        {
            let entry = read_entry(&world.disk, path.parent().unwrap(), name.to_str().unwrap()).unwrap();
            levels.insert(entry.facts.level);
        }
    }
    assert_eq!(levels, [0, 1].into(), "flushed, and made of others");
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    says(&engine, &contents, "with all");

    // It is written on, and made into other files.
    for n in 0..5 {
        world.publish("devices/new/env", format!(r#"{{"time": {}, "temp": {n}}}"#, 1_700_000_100 + n).as_bytes());
        run(&mut engine);
        engine.flush_all().unwrap();
    }
    run(&mut engine);
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    let now = print(&engine.handle());
    let (new, old): (Vec<_>, Vec<_>) = now.lines().partition(|line| line.contains("device=new"));
    assert_eq!((new.len(), old), (5, contents.lines().collect()));

    // Letters say where their messages are, which are decoded after all.
    let before = letters(&world);
    assert_eq!((of_kind(&before, "decode").len(), of_kind(&before, "replayed").len()), (3, 2));
    let text = json!({ "format": "text" });
    let as_text = json!({ "filter": "plants/+", "device_level": 2, "table": { "name": "late" }, "decoder": text });
    put(&mut engine, "plants", as_text).unwrap();
    replay(&mut engine, Replay::Letters { ids: None, reason: None }).unwrap();
    let after = letters(&world);
    assert_eq!((of_kind(&after, "decode").len(), of_kind(&after, "replayed").len()), (3, 5));
    let late = values(&engine.handle(), "late", "value");
    assert_eq!(late, ["no JSON", "no JSON either", r#"{"time": 1600000000, "n": 1, "v": 1}"#]);
}

#[test]
fn what_version_1_wrote_is_read() {
    if let Ok(version) = std::env::var(WRITE) {
        write(&version);
    }
    is_read("v1");
}
