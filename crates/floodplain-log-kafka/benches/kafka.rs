//! What the log on Kafka takes and gives: `cargo bench -p floodplain-log-kafka --bench kafka`.
//!
//! Three brokers on this machine, so the brokers' work is in the picture and the network is not. Writers are state, not
//! threads: each has one record under way and sends the next when that one is acknowledged. One thread serves all of
//! them as a worker of the server does. Prints Markdown.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use floodplain_log::{
    Append, Batch, BatchBuilder, Completion, CompletionSink, Compression, Log, Outcome, Partition, RecordRef, Reply,
};
use floodplain_log_kafka::{KafkaConfig, KafkaLog};
use floodplain_testkit::kafka::{KafkaCluster, KafkaJars, KafkaOptions};
use floodplain_types::{Class, Clock, Position, StreamId, StreamName, SystemClock, TenantId};
use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

const CELL: Duration = Duration::from_secs(2);
const PAYLOAD_BYTES: usize = 200;
const MS: f64 = 1e3;

fn main() {
    // `cargo test --benches` and `cargo bench -- --list` only want to know that it runs.
    if std::env::args().any(|arg| arg == "--test" || arg == "--list") {
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = KafkaOptions { quick_compiler: false, heap_mib: 512, ..KafkaOptions::default() };
    let cluster = KafkaCluster::start(&KafkaJars::find().unwrap(), 3, dir.path(), options).unwrap();
    let config = KafkaConfig::new(cluster.bootstrap().split(','));
    let log = timed("open, nothing there", || open(config.clone()));
    // A new topic, and a JVM that has not compiled yet, are not what is measured.
    for partitions in [1, 16, 64] {
        cell(&log, Class::All, partitions, 1_000, 2 * CELL);
    }
    println!("\n| class | partitions | writers | records/s | p50 ms | p99 ms | CPU µs per record, without brokers |");
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for class in [Class::All, Class::Leader, Class::None] {
        for partitions in [1, 16, 64] {
            for writers in [1, 100, 10_000] {
                let line = cell(&log, class, partitions, writers, CELL);
                println!("{line}");
            }
        }
    }
    println!();
    timed("close", move || drop(log));
    let log = timed("open, 3 streams of 81 partitions", || open(KafkaConfig { tail_bytes: 1 << 20, ..config }));
    past(&log);
}

fn timed<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = act();
    println!("- {what}: {:.0} ms", began.elapsed().as_secs_f64() * MS);
    result
}

fn open(config: KafkaConfig) -> Arc<KafkaLog> {
    KafkaLog::open(Arc::new(SystemClock), config).unwrap()
}

fn partitions(log: &KafkaLog, count: u32) -> Vec<Partition> {
    let stream = StreamName::new(&format!("of{count}")).unwrap();
    let stream =
        log.open_stream(&StreamId { tenant: TenantId::default_tenant(), stream, generation: 0 }, count).unwrap();
    (0..stream.partitions).map(|index| stream.partition(index)).collect()
}

#[derive(Debug, Default)]
struct Ends {
    ended: Mutex<Vec<Completion>>,
    arrived: Condvar,
}

impl CompletionSink for Ends {
    fn complete(&self, completions: Vec<Completion>) {
        self.ended.lock().unwrap().extend(completions);
        self.arrived.notify_one();
    }
}

fn cell(log: &KafkaLog, class: Class, partition_count: u32, writers: usize, duration: Duration) -> String {
    let partitions = partitions(log, partition_count);
    let payload = "x".repeat(PAYLOAD_BYTES);
    let ends = Arc::new(Ends::default());
    let mut builder = BatchBuilder::new();
    // A unit has the writers that were acknowledged since the last one, a batch per partition.
    let mut units: HashMap<u64, (Instant, Vec<usize>)> = HashMap::new();
    let (mut ready, mut tag) = ((0..writers).collect::<Vec<_>>(), 0);
    let (mut records, mut waits) = (0_u64, Vec::new());
    let (began, cpu) = (Instant::now(), cpu_time());
    while began.elapsed() < duration || !units.is_empty() {
        if began.elapsed() < duration && !ready.is_empty() {
            let now_ms = SystemClock.now().as_millis();
            let mut batches: Vec<(Partition, Batch)> = Vec::new();
            ready.sort_by_key(|writer| writer % partitions.len());
            for group in ready.chunk_by(|a, b| a % partitions.len() == b % partitions.len()) {
                for writer in group {
                    let (key, topic) = (format!("truck-{writer}"), format!("t/{writer}"));
                    let headers = [("fp.t", topic.as_bytes())];
                    builder.push(now_ms, Some(key.as_bytes()), Some(payload.as_bytes()), headers).unwrap();
                }
                batches.push((partitions[group[0] % partitions.len()], builder.finish(Compression::None).unwrap()));
            }
            units.insert(tag, (Instant::now(), std::mem::take(&mut ready)));
            let reply = Reply { sink: Arc::clone(&ends) as Arc<dyn CompletionSink>, tag };
            log.submit(Append { batches, class }, Some(reply));
            tag += 1;
        }
        let ended = ends.ended.lock().unwrap();
        let ended = ends.arrived.wait_timeout_while(ended, CELL, |ended| ended.is_empty());
        let ended = std::mem::take(&mut *ended.unwrap().0);
        for Completion { tag, outcome } in ended {
            assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
            let (submitted, mut writers) = units.remove(&tag).unwrap();
            records += writers.len() as u64;
            waits.push(submitted.elapsed());
            ready.append(&mut writers);
        }
    }
    let (elapsed, cpu) = (began.elapsed().as_secs_f64(), cpu_time() - cpu);
    waits.sort_unstable();
    let quantile = |q: f64| waits[((waits.len() - 1) as f64 * q) as usize].as_secs_f64() * MS;
    format!(
        "| {class} | {partition_count} | {writers} | {:.0} | {:.2} | {:.2} | {:.1} |",
        records as f64 / elapsed,
        quantile(0.5),
        quantile(0.99),
        cpu.as_secs_f64() * 1e6 / records as f64,
    )
}

/// Reading what is not in memory.
fn past(log: &KafkaLog) {
    for count in [1, 64] {
        let (began, mut records, mut reads) = (Instant::now(), 0_u64, 0);
        let mut waits = Vec::new();
        let mut some: Vec<(Partition, RecordRef)> = Vec::new();
        for partition in partitions(log, count) {
            let (mut at, end) = (log.start(partition), log.watermark(partition).min(Position::new(0, 20_000)));
            while at < end {
                let asked = Instant::now();
                let read = log.read(partition, at, 256 << 10).unwrap();
                waits.push(asked.elapsed());
                reads += 1;
                for batch in &read.batches {
                    for record in &batch.batch.records().unwrap() {
                        records += 1;
                        if records.is_multiple_of(97) {
                            some.push((partition, batch.record_ref(&record.unwrap())));
                        }
                    }
                }
                at = read.next;
            }
        }
        let elapsed = began.elapsed().as_secs_f64();
        waits.sort_unstable();
        println!(
            "- read {count} partitions in order by 256 KiB: {:.0} records/s, {reads} reads, p50 {:.1} ms, longest {:.1} ms",
            records as f64 / elapsed,
            waits[waits.len() / 2].as_secs_f64() * MS,
            waits[waits.len() - 1].as_secs_f64() * MS,
        );
        some.truncate(500);
        let began = Instant::now();
        for (partition, reference) in &some {
            assert_eq!(log.fetch(*partition, &[*reference]).unwrap().len(), 1);
        }
        let each = began.elapsed().as_secs_f64() * MS / some.len() as f64;
        println!("- fetch one record of {count} partitions: {each:.2} ms");
    }
}

fn cpu_time() -> Duration {
    let ticks = |stat: &str| -> u64 {
        // The name in parentheses may have spaces; user and system time are fields 14 and 15.
        let rest = stat.rsplit_once(')').unwrap().1;
        rest.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
    };
    // A tick is 10 ms on every Linux that we know of.
    Duration::from_millis(10 * ticks(&std::fs::read_to_string("/proc/self/stat").unwrap()))
}
