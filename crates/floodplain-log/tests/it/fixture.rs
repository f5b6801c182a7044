//! Data folders of earlier versions: they are read for ever.
//!
//! `fixtures/log/v<N>/log` is a folder as version N of the format left it, `contents.txt` beside it what is in it.
//! They were written once, by `FLOODPLAIN_TEST_WRITE_FIXTURE=v<N> cargo test -p floodplain-log --test it fixture`,
//! which refuses where there is one already: a fixture that no longer reads is a fault of the reader.

use floodplain_log::{
    Append, BatchBuilder, CompletionSink, Compression, Embedded, EmbeddedConfig, Log, OsDisk, Outcome, RecoveryReport,
    Reply, Stream,
};
use floodplain_testkit::{Outcomes, batch_of};
use floodplain_types::{Class, Clock, ManualClock, Position, StreamId, StreamName, TenantId, Timestamp};
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

const WRITE: &str = "FLOODPLAIN_TEST_WRITE_FIXTURE";

fn fixture(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/log").join(version)
}

fn open(dir: &Path, clock: &Arc<ManualClock>) -> (Arc<Embedded>, RecoveryReport) {
    let config = EmbeddedConfig {
        journal_bytes: 2 << 10,
        tail_bytes: 0,
        reserve_bytes: Some(0),
        retention_bytes: Some(u64::MAX),
        retention_age: Duration::from_hours(24 * 365 * 1_000),
        ..EmbeddedConfig::new(dir)
    };
    Embedded::open(Arc::new(OsDisk), Arc::clone(clock) as Arc<dyn Clock>, config).unwrap()
}

fn put(log: &dyn Log, batches: Vec<(floodplain_log::Partition, floodplain_log::Batch)>) -> Vec<Position> {
    let outcomes = Outcomes::new();
    let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
    log.submit(Append { batches, class: Class::All }, Some(Reply { sink, tag: 0 }));
    match outcomes.wait(0, &|| ()) {
        Outcome::Committed(positions) => positions,
        other => panic!("{other:?}"),
    }
}

/// One line for each partition and each record, with all that a reader can know of it.
fn print(log: &dyn Log) -> String {
    let mut text = String::new();
    let mut streams = log.streams();
    streams.sort_by_key(|stream| stream.number);
    for stream in streams {
        for index in 0..stream.partitions {
            let partition = stream.partition(index);
            let (start, end) = (log.start(partition), log.watermark(partition));
            writeln!(text, "partition {} from {start} to {end}", log.partition_id(partition).unwrap()).unwrap();
            let mut at = start;
            while at < end {
                let read = log.read(partition, at, 1_000).unwrap();
                assert!(read.damaged.is_empty());
                for batch in &read.batches {
                    for record in &batch.batch.records().unwrap() {
                        let record = record.unwrap();
                        let position = batch.position(&record);
                        if position < at {
                            continue;
                        }
                        let utf8 = |bytes: Option<&[u8]>| {
                            bytes
                                .map_or("null".to_owned(), |bytes| format!("{:?}", std::str::from_utf8(bytes).unwrap()))
                        };
                        let (time_ms, compression) = (batch.batch.timestamp_ms(&record), batch.batch.compression());
                        write!(
                            text,
                            "{position} {time_ms} {compression:?} {} {}",
                            utf8(record.key),
                            utf8(record.value)
                        )
                        .unwrap();
                        for header in record.headers() {
                            let (name, value) = header.unwrap();
                            write!(text, " {name}={}", utf8(value)).unwrap();
                        }
                        text.push('\n');
                    }
                }
                at = read.next;
            }
        }
    }
    text
}

/// Catalog with two streams, checkpoint with a start, segments and a journal, plain and compressed batches.
fn write(version: &str) {
    let fixture = fixture(version);
    assert!(!fixture.exists(), "{} was written once and stays", fixture.display());
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    let dir = fixture.join("log");
    std::fs::create_dir_all(&fixture).unwrap();
    let (log, _) = open(&dir, &clock);
    let stream = |name: &str, partitions| -> Stream {
        let id = StreamId { tenant: TenantId::default_tenant(), stream: StreamName::new(name).unwrap(), generation: 0 };
        log.open_stream(&id, partitions).unwrap()
    };
    let (telemetry, requests) = (stream("telemetry", 3), stream("requests", 1));
    for n in 0..24_i64 {
        let mut builder = BatchBuilder::new();
        for i in 0..=n % 3 {
            let (key, value) = (format!("device-{i}"), format!("{{\"n\":{n},\"unit\":\"°C\"}}"));
            let (key, value) = ((n % 5 != 4).then_some(key.as_bytes()), (n % 7 != 6).then_some(value.as_bytes()));
            let headers = [("fp.t", "fleet/ü".as_bytes()), ("fp.c", b"application/json")];
            builder.push(1_700_000_000_000 + n, key, value, headers[..(n % 3) as usize].iter().copied()).unwrap();
        }
        let compression = if n % 4 == 3 { Compression::Zstd } else { Compression::None };
        let mut batches = vec![(telemetry.partition(n as u32 % 2), builder.finish(compression).unwrap())];
        if n % 6 == 0 {
            batches.push((requests.partition(0), batch_of(b"device-0", b"open", 1_700_000_000_000)));
        }
        put(&*log, batches);
        clock.advance(Duration::from_secs(1));
        if n == 19 {
            log.trim(telemetry.partition(0), Position::new(0, 2));
            log.maintain().unwrap();
        }
    }
    std::fs::write(fixture.join("contents.txt"), print(&*log)).unwrap();
    log.close();
    drop(log);
    std::fs::remove_file(dir.join("lock")).unwrap();
}

fn is_read(version: &str) {
    let fixture = fixture(version);
    let contents = std::fs::read_to_string(fixture.join("contents.txt")).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let mut kinds = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(fixture.join("log")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        std::fs::copy(entry.path(), copy.path().join(&name)).unwrap();
        kinds.insert(name.split('-').next().unwrap().to_owned());
    }
    for kind in ["catalog", "checkpoint", "journal", "segment"] {
        assert!(kinds.contains(kind), "the fixture has a {kind}: {kinds:?}");
    }
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_100_000)));
    let (log, report) = open(copy.path(), &clock);
    assert_eq!((report.torn, report.corrupt, report.rebuilt), (vec![], vec![], vec![]));
    assert_eq!(print(&*log), contents, "{version}");
    // It is written on, made into segments, and read once more.
    let stream = log.streams().into_iter().find(|stream| stream.id.stream.as_str() == "telemetry").unwrap();
    for index in 0..3 {
        let partition = stream.partition(index);
        let end = log.watermark(partition);
        assert_eq!(put(&*log, vec![(partition, batch_of(b"device-0", b"new", 1))]), [end]);
    }
    drop(log);
    let (log, _) = open(copy.path(), &clock);
    log.maintain().unwrap();
    let now = print(&*log);
    let old: Vec<_> =
        now.lines().filter(|line| !line.starts_with("partition ") && !line.ends_with("\"new\"")).collect();
    let expected: Vec<_> = contents.lines().filter(|line| !line.starts_with("partition ")).collect();
    assert_eq!(old, expected);
}

#[test]
fn what_version_1_wrote_is_read() {
    if let Ok(version) = std::env::var(WRITE) {
        write(&version);
    }
    is_read("v1");
}
