//! Apache Kafka's own tools read what we write, and we read what they write.
//!
//! Needs a JDK (17 or later) on the path and Kafka's jars in `$FLOODPLAIN_TEST_TOOLS/kafka/lib`
//! (default `~/.cache/floodplain/tools`); `cargo xtask tools` puts them there.

use bytes::Bytes;
use floodplain_log::{
    Append, Batch, BatchBuilder, CompletionSink, Compression, Embedded, EmbeddedConfig, Log, Outcome, Reply,
};
use floodplain_testkit::{FaultDisk, Outcomes};
use floodplain_types::{Class, Clock, ManualClock, StreamId, StreamName, TenantId, Timestamp, partition_index};
use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

fn jars() -> PathBuf {
    let lib = floodplain_testkit::tools().join("kafka/lib");
    assert!(lib.is_dir(), "Kafka's jars are not in {}: run `cargo xtask tools`", lib.display());
    lib
}

/// Runs a Java program with Kafka's classes and returns what it prints.
fn java(args: &[&str], stdin: &str) -> String {
    let mut child = Command::new("java")
        .args(["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", jars().join("*").to_str().unwrap()])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cannot start `java`: run `cargo xtask tools`");
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "java {args:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

fn program() -> String {
    format!("{}/tests/it/java/KafkaRecords.java", env!("CARGO_MANIFEST_DIR"))
}

fn hex(bytes: Option<&[u8]>) -> String {
    bytes.map_or_else(
        || "null".to_owned(),
        |bytes| {
            bytes.iter().fold("x".to_owned(), |mut text, byte| {
                write!(text, "{byte:02x}").unwrap();
                text
            })
        },
    )
}

/// The lines that `KafkaRecords` prints of a batch.
fn describe(name: &str, batch: &Batch) -> String {
    let (id, epoch, sequence) = batch.producer().unwrap_or((-1, -1, -1));
    let (base, last) = (batch.base_offset(), batch.base_offset() + u64::from(batch.last_offset_delta()));
    let mut text = format!("batch {name} {base} {last} {} {id} {epoch} {sequence}\n", batch.max_timestamp_ms());
    for record in &batch.records().unwrap() {
        let record = record.unwrap();
        let offset = base + u64::from(record.offset_delta);
        write!(text, "record {offset} {} {} {}", batch.timestamp_ms(&record), hex(record.key), hex(record.value))
            .unwrap();
        for header in record.headers() {
            let (name, value) = header.unwrap();
            write!(text, " {}={}", hex(Some(name.as_bytes())), hex(value)).unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn batches_of_a_kafka_client_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let printed = java(&[&program(), "write", dir.path().to_str().unwrap()], "");
    let mut read = String::new();
    for name in ["none", "zstd", "idempotent", "append-time", "one"] {
        let bytes = std::fs::read(dir.path().join(name).with_extension("batch")).unwrap();
        read += &describe(name, &Batch::parse(Bytes::from(bytes)).unwrap());
    }
    assert_eq!(read.lines().count(), 5 + 500 + 500 + 3 + 20 + 1);
    for (ours, theirs) in read.lines().zip(printed.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(read, printed);
}

/// Compression, times that the broker sets, producer ids and sequences: all of it comes back as it went in,
/// but for the offset, which the log gives. From the journal, from a segment, and record by record.
#[test]
fn batches_of_a_kafka_client_are_appended_and_read_back_equal() {
    let dir = tempfile::tempdir().unwrap();
    java(&[&program(), "write", dir.path().to_str().unwrap()], "");
    let names = ["none", "zstd", "idempotent", "append-time", "one"];
    let theirs = names.map(|name| {
        let bytes = std::fs::read(dir.path().join(name).with_extension("batch")).unwrap();
        Batch::parse(Bytes::from(bytes)).unwrap()
    });
    let disk = FaultDisk::new(1);
    let open = || {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1)));
        let config = EmbeddedConfig { journal_bytes: 1, tail_bytes: 0, ..EmbeddedConfig::new("log") };
        Embedded::open(Arc::new(disk.clone()), clock, config).unwrap().0
    };
    let log = open();
    let id = StreamId { tenant: TenantId::default_tenant(), stream: StreamName::new("k").unwrap(), generation: 0 };
    let partition = log.open_stream(&id, 1).unwrap().partition(0);
    let outcomes = Outcomes::new();
    for (tag, batch) in (0..).zip(&theirs) {
        let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
        let batches = vec![(partition, batch.clone())];
        log.submit(Append { batches, class: Class::All }, Some(Reply { sink, tag }));
        assert!(matches!(outcomes.wait(tag, &|| ()), Outcome::Committed(_)));
    }
    let check = |log: &Embedded| {
        let (mut at, mut ours, mut end) = (log.start(partition), Vec::new(), 0);
        while at < log.watermark(partition) {
            let read = log.read(partition, at, 1).unwrap();
            ours.extend(read.batches);
            at = read.next;
        }
        assert_eq!(ours.len(), theirs.len());
        for ((ours, theirs), name) in ours.iter().zip(&theirs).zip(names) {
            assert_eq!(ours.base.offset, end, "{name}");
            end += u64::from(theirs.last_offset_delta()) + 1;
            assert_eq!(ours.batch.as_bytes()[8..], theirs.as_bytes()[8..], "{name}: all but the base offset");
            let moved = theirs.with_base_offset(ours.base.offset);
            assert_eq!(describe(name, &ours.batch), describe(name, &moved));
            let records = ours.batch.records().unwrap();
            let refs: Vec<_> = records.iter().map(|record| ours.record_ref(&record.unwrap())).collect();
            let fetched = log.fetch(partition, &refs).unwrap();
            assert_eq!(fetched.len(), refs.len());
            for (fetched, record) in fetched.iter().zip(&records) {
                assert_eq!(fetched.bytes[..], *record.unwrap().bytes, "{name}");
            }
        }
    };
    check(&log);
    log.maintain().unwrap();
    check(&log);
    drop(log);
    let log = open();
    log.maintain().unwrap();
    assert_eq!(disk.files().iter().filter(|(path, _)| path.to_string_lossy().contains("journal-")).count(), 1);
    check(&log);
}

#[test]
fn partitions_equal_those_of_the_java_client() {
    let keys: Vec<String> = (0..500_u32)
        .map(|i| hex(Some(format!("{}{i}", "ключ-".repeat(i as usize % 9)).as_bytes()))[1..].to_owned())
        .chain((1..64_u8).map(|len| (0..len).fold(String::new(), |text, b| text + &format!("{:02x}", 255 - b * 3))))
        .collect();
    let printed = java(&[&program(), "murmur2"], &keys.join("\n"));
    assert_eq!(printed.lines().count(), keys.len());
    for (key, line) in keys.iter().zip(printed.lines()) {
        let bytes: Vec<u8> =
            (0..key.len()).step_by(2).map(|i| u8::from_str_radix(&key[i..i + 2], 16).unwrap()).collect();
        let ours = [1, 16, 1000].map(|partitions| partition_index(&bytes, partitions).to_string()).join(" ");
        assert_eq!(ours, line, "{key}");
    }
}

/// What a log holds after a restart, as Kafka's own tool reads it, record by record.
#[test]
fn batches_of_the_log_pass_kafkas_dump_log_segments() {
    let clock = || -> Arc<dyn Clock> { Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000))) };
    let disk = FaultDisk::new(1);
    let open = || {
        let config = EmbeddedConfig { journal_bytes: 8 << 10, tail_bytes: 0, ..EmbeddedConfig::new("log") };
        Embedded::open(Arc::new(disk.clone()), clock(), config).unwrap().0
    };
    let id =
        StreamId { tenant: TenantId::default_tenant(), stream: StreamName::new("telemetry").unwrap(), generation: 0 };

    let log = open();
    let partition = log.open_stream(&id, 1).unwrap().partition(0);
    let outcomes = Outcomes::new();
    let mut expected = Vec::new();
    for i in 0..60_u64 {
        let mut builder = BatchBuilder::new();
        for j in 0..=i % 11 {
            let (key, value) = (format!("device-{j}"), format!("{{\"n\":{i}.{j}}}{}", "y".repeat(i as usize)));
            let headers = [("fp.t", "fleet/ü".as_bytes()), ("fp.c", b"application/json".as_slice())];
            let (key_or_null, value_or_null) = ((j % 4 != 3).then_some(&key), (j % 7 != 6).then_some(&value));
            let (key_bytes, value_bytes) = (key_or_null.map(String::as_bytes), value_or_null.map(String::as_bytes));
            let time_ms = 1_700_000_000_000 + (i * 13 % 7) as i64;
            builder.push(time_ms, key_bytes, value_bytes, headers[..(j % 3) as usize].iter().copied()).unwrap();
            expected.push((time_ms, key_or_null.map(|_| key.clone()), value_or_null.map(|_| value.clone()), j % 3));
        }
        let compression = if i % 2 == 0 { Compression::Zstd } else { Compression::None };
        let batches = vec![(partition, builder.finish(compression).unwrap())];
        let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
        log.submit(Append { batches, class: Class::All }, Some(Reply { sink, tag: i }));
        assert!(matches!(outcomes.wait(i, &|| ()), Outcome::Committed(_)));
    }
    drop(log);

    let log = open();
    let (mut at, mut bytes, mut batch_count) = (log.start(partition), Vec::new(), 0);
    while at < log.watermark(partition) {
        let read = log.read(partition, at, 5_000).unwrap();
        for batch in &read.batches {
            assert_eq!(batch.batch.base_offset(), batch.base.offset, "the bytes say where they are");
            bytes.extend_from_slice(batch.batch.as_bytes());
            batch_count += 1;
        }
        at = read.next;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("00000000000000000000.log");
    std::fs::write(&file, &bytes).unwrap();
    let dump = |file: &Path| {
        let file = file.to_str().unwrap();
        java(&["org.apache.kafka.tools.DumpLogSegments", "--deep-iteration", "--print-data-log", "--files", file], "")
    };
    let printed = dump(&file);
    let batches: Vec<_> = printed.lines().filter(|line| line.starts_with("baseOffset: ")).collect();
    assert_eq!(batches.len(), batch_count);
    assert!(batches.iter().all(|line| line.contains(" magic: 2 ") && line.ends_with("isvalid: true")), "{printed}");
    let records: Vec<_> = printed.lines().filter(|line| line.starts_with("| offset: ")).collect();
    assert_eq!(records.len(), expected.len());
    for (i, (line, (time_ms, key, value, header_count))) in records.iter().zip(&expected).enumerate() {
        assert!(line.starts_with(&format!("| offset: {i} CreateTime: {time_ms} ")), "{line}");
        // The tool prints neither key nor payload where there is none.
        let key = key.as_ref().map(|key| format!(" key: {key}")).unwrap_or_default();
        let value = value.as_ref().map(|value| format!(" payload: {value}")).unwrap_or_default();
        assert!(line.ends_with(&format!("{key}{value}")), "{line}");
        assert_eq!(line.matches("fp.").count() as u64, *header_count, "{line}");
    }

    // The tool notices damage, so what it says above means something.
    let inside_the_last_record = bytes.len() - 5;
    bytes[inside_the_last_record] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let printed = dump(&file);
    let last = printed.lines().rfind(|line| line.starts_with("baseOffset: "));
    assert!(last.is_some_and(|line| line.ends_with("isvalid: false")), "{last:?}");
}
