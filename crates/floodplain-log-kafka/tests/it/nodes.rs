//! Several nodes on one cluster.

use crate::fixture::{Kafka, open, stream, values, wait_for, write};
use floodplain_log::{Log, Partition, ReadError, Refusal, RetentionSink, WatermarkSink};
use floodplain_log_kafka::KafkaConfig;
use floodplain_testkit::wait_until;
use floodplain_types::{Position, StreamId, StreamName, TenantId};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

#[derive(Debug, Default)]
struct Told(Mutex<HashMap<Partition, Position>>);

impl WatermarkSink for Told {
    fn advanced(&self, watermarks: &[(Partition, Position)]) {
        self.0.lock().unwrap().extend(watermarks.iter().copied());
    }
}

#[test]
fn nodes_agree_on_streams_and_see_each_others_records() {
    let kafka = Kafka::share();
    let config = kafka.config();
    let nodes = [open(config.clone()), open(config.clone())];
    // All at once, in different orders.
    let names = ["a", "b", "c", "d"];
    std::thread::scope(|scope| {
        for (n, node) in nodes.iter().enumerate() {
            scope.spawn(move || {
                for i in 0..names.len() {
                    let name = names[if n == 0 { i } else { names.len() - 1 - i }];
                    assert_eq!(stream(node, name, 2 + n as u32).id.stream.as_str(), name);
                }
            });
        }
    });
    let known = |n: usize| nodes[n].streams();
    wait_until("both know all", &|| (), || known(0).len() == 4 && known(1).len() == 4);
    assert_eq!(known(0), known(1), "with the same numbers and partitions");
    assert_eq!(known(0).iter().map(|stream| stream.number).collect::<Vec<_>>(), [0, 1, 2, 3]);

    let told = Arc::new(Told::default());
    nodes[1].watch(Arc::clone(&told) as Arc<dyn WatermarkSink>);
    let partition = stream(&nodes[0], "b", 1).partition(1);
    let mut expected = Vec::new();
    for i in 0..20 {
        let position = write(&nodes[i % 2], partition, &i.to_string());
        expected.push((position, i.to_string()));
    }
    for node in &nodes {
        wait_for(node, partition, expected[19].0.next());
        assert_eq!(values(node, partition, Position::ZERO), expected);
        let cached = node.read_cached(partition, expected[0].0, 1 << 20).expect("they are the newest");
        assert_eq!(cached.batches.len(), 20);
    }
    wait_until("the watermark is told", &|| (), || {
        told.0.lock().unwrap().get(&partition) == Some(&expected[19].0.next())
    });

    // A third one, later.
    let late = open(config);
    assert_eq!(late.streams(), known(0));
    assert_eq!(values(&late, partition, Position::ZERO), expected);
    assert!(late.read_cached(partition, expected[0].0, 1 << 20).is_none(), "only the cluster has them");
}

#[derive(Debug, Default)]
struct Passed(Mutex<Vec<(Partition, Position)>>);

impl RetentionSink for Passed {
    fn passed(&self, starts: &[(Partition, Position)]) {
        self.0.lock().unwrap().extend(starts);
    }
}

#[test]
fn what_one_node_removes_is_gone_for_all() {
    let kafka = Kafka::share();
    let config = kafka.config();
    let writer = open(config.clone());
    let partition = stream(&writer, "a", 2).partition(1);
    let positions: Vec<Position> = (0..10).map(|i| write(&writer, partition, &i.to_string())).collect();
    wait_for(&writer, partition, positions[9].next());
    let asks = open(KafkaConfig { starts_interval: Duration::from_millis(100), ..config.clone() });
    let does_not_ask = open(KafkaConfig { starts_interval: Duration::from_hours(1), ..config });
    let passed = Arc::new(Passed::default());
    asks.watch_retention(Arc::clone(&passed) as Arc<dyn RetentionSink>);
    writer.trim(partition, positions[6]);
    assert_eq!(writer.start(partition), positions[6], "Kafka removes single records");
    wait_until("the start is told", &|| (), || !passed.0.lock().unwrap().is_empty());
    assert_eq!(*passed.0.lock().unwrap(), [(partition, positions[6])]);
    // Who does not know it finds out by reading.
    match does_not_ask.read(partition, positions[0], 1 << 20) {
        Err(ReadError::Trimmed { from, start, .. }) => assert_eq!((from, start), (positions[0], positions[6])),
        other => panic!("a read of what is gone gave {other:?}"),
    }
    assert_eq!(does_not_ask.start(partition), positions[6]);
    assert_eq!(values(&does_not_ask, partition, positions[6])[0], (positions[6], "6".to_owned()));
}

#[test]
fn names_that_meet_in_kafka_are_refused() {
    let kafka = Kafka::share();
    let log = open(KafkaConfig { partitions_default: 3, ..kafka.config() });
    let id = |tenant: &str, stream: &str, generation| StreamId {
        tenant: TenantId::new(tenant).unwrap(),
        stream: StreamName::new(stream).unwrap(),
        generation,
    };
    let first = log.open_stream(&id("a.b", "c", 0), 0).unwrap();
    assert_eq!(first.partitions, 3, "who asks for none gets the default");
    let refusal = log.open_stream(&id("a", "b.c", 0), 1).unwrap_err();
    assert!(matches!(&refusal, Refusal::Unavailable { cause } if cause.contains("a.b.c")), "{refusal}");
    // The next generation is another topic with positions that are later.
    let next = log.open_stream(&id("a.b", "c", 1), 1).unwrap();
    let position = write(&log, next.partition(0), "x");
    assert!(position > Position::new(0, u64::MAX));
    assert_eq!(log.start(next.partition(0)), Position::new(1, 0));
}

#[test]
fn many_read_the_past_at_once() {
    let kafka = Kafka::share();
    let config = KafkaConfig { tail_bytes: 0, readers: 2, ..kafka.config() };
    let log = open(config);
    let stream = stream(&log, "a", 3);
    let expected: Vec<Vec<(Position, String)>> = (0..3)
        .map(|index| {
            let partition = stream.partition(index);
            let value = |i: usize| format!("{index}.{i} {}", "x".repeat(i));
            (0..60).map(|i| (write(&log, partition, &value(i)), value(i))).collect()
        })
        .collect();
    for index in 0..3 {
        wait_for(&log, stream.partition(index), expected[index as usize][59].0.next());
    }
    std::thread::scope(|scope| {
        for reader in 0..6_u32 {
            let (log, stream, expected) = (&log, &stream, &expected);
            scope.spawn(move || {
                for round in 0..3 {
                    let index = (reader + round) % 3;
                    let from = expected[index as usize][(reader * 7) as usize].0;
                    let left = &expected[index as usize][(reader * 7) as usize..];
                    assert_eq!(values(log, stream.partition(index), from), left, "reader {reader} of {index}");
                }
            });
        }
    });
}
