//! A log with holes, and one that shrinks while it is read.

use crate::fleet::{Fleet, json, message};
use floodplain_log::{
    Append, FetchedRecord, Log, Partition, Read, ReadError, RecordRef, Refusal, Reply, Stream, WatermarkSink,
};
use floodplain_sql::{Config, Error, Sql};
use floodplain_types::{PartitionId, Position, StreamId};
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// What a read does at a position.
#[derive(Debug)]
enum Fault {
    /// These offsets cannot be read, by an engine that stops there.
    Corrupt(Range<u64>),
    /// These are left out.
    LeftOut(Range<u64>),
    /// The disk fails.
    Io,
    /// Retention passes half of the log once, between two reads.
    Trim(u64, AtomicBool),
}

#[derive(Debug)]
struct Faulty {
    log: Arc<dyn Log>,
    fault: Fault,
}

impl Log for Faulty {
    fn read(&self, partition: Partition, from: Position, _: usize) -> Result<Read, ReadError> {
        match &self.fault {
            Fault::Corrupt(hole) if hole.contains(&from.offset) => {
                let (file, reason) = ("segment-7".to_owned(), "checksum".to_owned());
                return Err(ReadError::Corrupt { file, at: 4096, reason, next: Position::new(0, hole.end) });
            }
            Fault::LeftOut(hole) if hole.contains(&from.offset) => {
                let next = Position::new(0, hole.end);
                return Ok(Read { batches: Vec::new(), next, damaged: vec![from..next] });
            }
            Fault::Io => {
                let source = std::io::Error::other("bad sector");
                return Err(ReadError::Io { file: "segment-8".to_owned(), at: 12, source });
            }
            Fault::Trim(before, done) if from.offset > 0 && !done.swap(true, Ordering::Relaxed) => {
                self.log.trim(partition, Position::new(0, *before));
            }
            Fault::Corrupt(_) | Fault::LeftOut(_) | Fault::Trim(..) => {}
        }
        // One batch at a time: the next read may meet the fault.
        self.log.read(partition, from, 1)
    }

    fn open_stream(&self, id: &StreamId, partitions: u32) -> Result<Stream, Refusal> {
        self.log.open_stream(id, partitions)
    }
    fn streams(&self) -> Vec<Stream> {
        self.log.streams()
    }
    fn partition_id(&self, partition: Partition) -> Option<PartitionId> {
        self.log.partition_id(partition)
    }
    fn submit(&self, append: Append, reply: Option<Reply>) {
        self.log.submit(append, reply);
    }
    fn keeps_units_whole(&self) -> bool {
        self.log.keeps_units_whole()
    }

    fn queued_bytes(&self) -> u64 {
        self.log.queued_bytes()
    }
    fn queue_capacity_bytes(&self) -> u64 {
        self.log.queue_capacity_bytes()
    }
    fn start(&self, partition: Partition) -> Position {
        self.log.start(partition)
    }
    fn watermark(&self, partition: Partition) -> Position {
        self.log.watermark(partition)
    }
    fn watch(&self, sink: Arc<dyn WatermarkSink>) {
        self.log.watch(sink);
    }
    fn read_cached(&self, partition: Partition, from: Position, max_bytes: usize) -> Option<Read> {
        self.log.read_cached(partition, from, max_bytes)
    }
    fn fetch(&self, partition: Partition, refs: &[RecordRef]) -> Result<Vec<FetchedRecord>, ReadError> {
        self.log.fetch(partition, refs)
    }
    fn position_at(&self, partition: Partition, time_ms: i64) -> Result<Position, ReadError> {
        self.log.position_at(partition, time_ms)
    }
    fn trim(&self, partition: Partition, before: Position) {
        self.log.trim(partition, before);
    }
}

/// A hundred records in one partition.
fn faulty(fault: Fault) -> Sql {
    let fleet = Fleet::empty();
    for _ in 0..100 {
        fleet.publish("telemetry", &message("d", "t", b"1"), &[]);
    }
    let log = Arc::new(Faulty { log: fleet.log, fault });
    Sql::new(log, Config { threads: 1, ..Config::default() }).unwrap()
}

const QUERY: &str = "SELECT offset FROM records WHERE device = 'd' ORDER BY offset";

fn offsets(answer: &serde_json::Value) -> Vec<u64> {
    answer["rows"].as_array().unwrap().iter().map(|row| row["offset"].as_u64().unwrap()).collect()
}

#[test]
fn a_hole_is_left_out_and_named() {
    for hole in [0..1, 0..10, 37..38, 37..61, 95..100, 0..100] {
        for (fault, why) in [
            (Fault::Corrupt(hole.clone()), "segment-7 is damaged at byte 4096"),
            (Fault::LeftOut(hole.clone()), "the log is damaged"),
        ] {
            let answer = json(&faulty(fault), QUERY);
            let expected: Vec<u64> = (0..100).filter(|offset| !hole.contains(offset)).collect();
            assert_eq!(offsets(&answer), expected, "{hole:?}");
            let warnings = answer["warnings"].as_array().unwrap();
            assert_eq!(warnings.len(), 1, "{hole:?}: {warnings:?}");
            let warning = warnings[0].as_str().unwrap();
            assert!(warning.contains(why), "{warning}");
            assert!(warning.contains(&format!("between 0:{} and 0:{}", hole.start, hole.end)), "{warning}");
        }
    }
}

#[test]
fn a_disk_error_fails_the_query_and_names_the_file() {
    let error = crate::fleet::ask(&faulty(Fault::Io), QUERY, floodplain_sql::Format::Json).unwrap_err();
    let Error::Log { message } = &error else { panic!("{error:?}") };
    assert!(message.contains("segment-8") && message.contains("bad sector"), "{message}");
}

#[test]
fn what_retention_took_is_gone_and_the_rest_is_read() {
    let answer = json(&faulty(Fault::Trim(50, AtomicBool::new(false))), QUERY);
    let mut expected: Vec<u64> = vec![0];
    expected.extend(50..100);
    assert_eq!(offsets(&answer), expected);
    assert_eq!(answer["warnings"], serde_json::json!([]));
}
