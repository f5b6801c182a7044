//! Several nodes on one cluster.

use crate::fixture::{Kafka, open, stream, values, wait_for, write};
use floodplain_log::{Log, Partition, WatermarkSink};
use floodplain_testkit::wait_until;
use floodplain_types::Position;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
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
    let kafka = Kafka::take();
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
