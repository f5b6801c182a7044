//! Other programs read what we write, and we read what they write.

use crate::fixture::{Kafka, append, clock, open, stream, wait_for};
use floodplain_log::{Batch, BatchBuilder, Compression, Embedded, EmbeddedConfig, Log, OsDisk, Outcome, Partition};
use floodplain_types::{Class, Clock, Position, StreamId, StreamName, TenantId};
use std::{
    ffi::OsStr,
    io::Write as _,
    os::unix::ffi::OsStrExt as _,
    process::{Command, Output, Stdio},
    sync::Arc,
};

/// A record as any client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    offset: u64,
    time_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}

fn kcat(args: &[&OsStr], stdin: &[u8]) -> Output {
    let mut child = Command::new("kcat")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cannot start `kcat`: run `cargo xtask tools`");
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "kcat {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn os(args: &[&str]) -> Vec<Vec<u8>> {
    args.iter().map(|arg| arg.as_bytes().to_vec()).collect()
}

fn run(args: &[Vec<u8>], stdin: &[u8]) -> Output {
    let args: Vec<&OsStr> = args.iter().map(|arg| OsStr::from_bytes(arg)).collect();
    kcat(&args, stdin)
}

/// All that kcat reads of a partition. Lengths come first, so that bytes of any kind are told apart.
fn kcat_reads(bootstrap: &str, topic: &str, index: u32) -> Vec<Seen> {
    let args = ["-b", bootstrap, "-C", "-q", "-e", "-o", "beginning", "-t", topic, "-p", &index.to_string()];
    let output = run(&[os(&args), os(&["-f", "%o %T %K %S|%k%s%h\n"])].concat(), b"");
    let (mut rest, mut seen) = (output.stdout.as_slice(), Vec::new());
    while let Some(bar) = rest.iter().position(|byte| *byte == b'|') {
        let head: Vec<i64> =
            std::str::from_utf8(&rest[..bar]).unwrap().split(' ').map(|number| number.parse().unwrap()).collect();
        rest = &rest[bar + 1..];
        let mut take = |len: i64| {
            let len = usize::try_from(len).ok()?;
            let (bytes, left) = rest.split_at(len);
            rest = left;
            Some(bytes.to_vec())
        };
        let (key, value) = (take(head[2]), take(head[3]));
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
        let headers = std::str::from_utf8(&rest[..end]).unwrap().split(',').filter(|pair| !pair.is_empty());
        let headers = headers.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap();
            (name.to_owned(), value.as_bytes().to_vec())
        });
        let headers = headers.collect();
        rest = &rest[end + 1..];
        seen.push(Seen { offset: u64::try_from(head[0]).unwrap(), time_ms: head[1], key, value, headers });
    }
    seen
}

/// A line for each record of a partition: lists of bytes, since both languages know JSON.
const CONFLUENT_READS: &str = r#"
import json, sys
from confluent_kafka import Consumer, KafkaError, TopicPartition
servers, topic, index = sys.argv[1:]
consumer = Consumer({"bootstrap.servers": servers, "group.id": "nobody", "enable.partition.eof": True})
consumer.assign([TopicPartition(topic, int(index), 0)])
as_list = lambda data: None if data is None else list(data)
while True:
    message = consumer.poll(30)
    if message is None:
        sys.exit("no end within 30 s")
    if message.error():
        if message.error().code() == KafkaError._PARTITION_EOF:
            break
        sys.exit(str(message.error()))
    headers = [[name, as_list(value)] for name, value in message.headers() or []]
    seen = [message.offset(), message.timestamp()[1], as_list(message.key()), as_list(message.value()), headers]
    print(json.dumps(seen))
consumer.close()
"#;

/// All that the client `confluent-kafka` of Python reads of a partition.
fn confluent_reads(bootstrap: &str, topic: &str, index: u32) -> Vec<Seen> {
    let mut python = Command::new(floodplain_testkit::python());
    let output = python.args(["-c", CONFLUENT_READS, bootstrap, topic, &index.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let seen = text.lines().map(|line| {
        let (offset, time_ms, key, value, headers) = serde_json::from_str(line).unwrap();
        Seen { offset, time_ms, key, value, headers }
    });
    seen.collect()
}

fn log_reads(log: &dyn Log, partition: Partition) -> Vec<Seen> {
    let (mut at, mut seen) = (log.start(partition), Vec::new());
    while at < log.watermark(partition) {
        let read = log.read(partition, at, 1 << 20).unwrap();
        for batch in &read.batches {
            for record in &batch.batch.records().unwrap() {
                let record = record.unwrap();
                let headers = record.headers().map(|header| {
                    let (name, value) = header.unwrap();
                    (name.to_owned(), value.unwrap_or_default().to_vec())
                });
                seen.push(Seen {
                    offset: batch.position(&record).offset,
                    time_ms: batch.batch.timestamp_ms(&record),
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    headers: headers.collect(),
                });
            }
        }
        at = read.next;
    }
    seen
}

fn batches() -> Vec<Batch> {
    let now = 1_700_000_000_000;
    let mut builder = BatchBuilder::new();
    let all: Vec<u8> = (0..=255).collect();
    let device = Some(b"truck-1".as_slice());
    // Twice the same name, text beyond ASCII, nothing.
    let headers = [("fp.t", b"a/b".as_slice()), ("unit", "°C".as_bytes()), ("unit", b"K"), ("empty", b"")];
    builder.push(now, device, Some(b"21.5"), headers).unwrap();
    builder.push(now + 7, device, Some(&all), [("fp.t", b"bytes".as_slice())]).unwrap();
    builder.push(now + 3, device, Some(b""), []).unwrap();
    let first = builder.finish(Compression::None).unwrap();
    builder.push(now + 9, device, None, [("fp.t", b"tombstone".as_slice())]).unwrap();
    builder.push(now + 9, None, Some(b"no key"), []).unwrap();
    builder.push(now + 9, Some(b""), Some(b"empty key"), []).unwrap();
    let second = builder.finish(Compression::None).unwrap();
    for i in 0..50 {
        let value = format!("compressed {i} {}", "x".repeat(100));
        builder.push(now + i, device, Some(value.as_bytes()), headers).unwrap();
    }
    vec![first, second, builder.finish(Compression::Zstd).unwrap()]
}

#[test]
fn other_clients_read_what_the_embedded_engine_would_have_written() {
    let kafka = Kafka::share();
    let config = kafka.config();
    let topic = format!("{}default.telemetry", config.topic_prefix);
    let log = open(config.clone());
    let folder = tempfile::tempdir().unwrap();
    let clock = clock() as Arc<dyn Clock>;
    let (embedded, _) = Embedded::open(Arc::new(OsDisk), clock, EmbeddedConfig::new(folder.path())).unwrap();
    let id =
        StreamId { tenant: TenantId::default_tenant(), stream: StreamName::new("telemetry").unwrap(), generation: 0 };
    let there = embedded.open_stream(&id, 2).unwrap().partition(1);
    let here = stream(&log, "telemetry", 2).partition(1);
    for batch in batches() {
        let appended = append(&log, Class::All, vec![(here, batch.clone())]);
        let Outcome::Committed(positions) = appended else { panic!("{appended:?}") };
        embedded.submit(floodplain_log::Append { batches: vec![(there, batch)], class: Class::All }, None);
        wait_for(&log, here, positions[0].next());
    }
    let records = 56;
    wait_for(&log, here, Position::new(0, records));
    floodplain_testkit::wait_until("the embedded engine has all", &|| (), || {
        embedded.watermark(there) == Position::new(0, records)
    });
    let expected = log_reads(&*embedded, there);
    assert_eq!(expected.len() as u64, records);
    for client in [kcat_reads, confluent_reads] {
        let seen = client(&kafka.cluster().bootstrap(), &topic, 1);
        for (expected, seen) in expected.iter().zip(&seen) {
            assert_eq!(seen, expected);
        }
        assert_eq!(seen.len(), expected.len());
    }
    // From memory, and once more from the cluster.
    assert_eq!(log_reads(&*log, here), expected);
    drop(log);
    let log = open(config);
    assert_eq!(log_reads(&*log, stream(&log, "telemetry", 2).partition(1)), expected);
    embedded.close();
}

#[test]
fn what_kcat_writes_is_read() {
    let kafka = Kafka::share();
    let config = kafka.config();
    let topic = format!("{}default.telemetry", config.topic_prefix);
    let log = open(config);
    let partition = stream(&log, "telemetry", 1).partition(0);
    let bootstrap = kafka.cluster().bootstrap();
    for (codec, value) in [("gzip", "one"), ("snappy", "two"), ("lz4", "three"), ("zstd", "four"), ("none", "five")] {
        let args = os(&["-b", &bootstrap, "-P", "-t", &topic, "-p", "0", "-k", "truck-1", "-z", codec, "-H", "unit=K"]);
        // The name of a header may be no text.
        let strange = vec![b"-H".to_vec(), b"na\xffme=v".to_vec()];
        run(&[args, strange].concat(), value.as_bytes());
    }
    wait_for(&log, partition, Position::new(0, 5));
    let seen = log_reads(&*log, partition);
    let values: Vec<&[u8]> = seen.iter().filter_map(|seen| seen.value.as_deref()).collect();
    assert_eq!(values, [b"one".as_slice(), b"two", b"three", b"four", b"five"]);
    for seen in &seen {
        assert_eq!(seen.key.as_deref(), Some(b"truck-1".as_slice()));
        let expected = [("unit".to_owned(), b"K".to_vec()), ("na\u{fffd}me".to_owned(), b"v".to_vec())];
        assert_eq!(seen.headers, expected);
        assert!(seen.time_ms > 1_700_000_000_000);
    }
}
