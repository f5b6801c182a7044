//! Apache Kafka's own tools read what we write, and we read what they write.
//!
//! Needs a JDK (17 or later) on the path and Kafka's jars in `$FLOODPLAIN_TEST_TOOLS/kafka/lib`
//! (default `~/.cache/floodplain/tools`); `cargo xtask tools` puts them there.

use bytes::Bytes;
use floodplain_log::Batch;
use floodplain_types::partition_index;
use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

fn jars() -> PathBuf {
    let tools = std::env::var_os("FLOODPLAIN_TEST_TOOLS").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").expect("HOME is set");
        Path::new(&home).join(".cache/floodplain/tools")
    });
    let lib = tools.join("kafka/lib");
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
