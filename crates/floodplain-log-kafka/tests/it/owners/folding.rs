//! A runner of `floodplain-fold` whose outputs go through the commit of an owner.

use super::node::Node;
use crate::fixture::stream;
use floodplain_fold::{
    Fold, Input, Next, Output, Outputs, RestoreError, Runner, RunnerConfig, RunnerError, Snapshots, StateHash,
    fold_whole,
    wire::{Get, Put},
};
use floodplain_log::{Log, Owners as _, Stream, header, slot_of};
use floodplain_testkit::{FaultDisk, wait_until};
use floodplain_types::{PartitionId, Position, Timestamp};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How often each key was seen; says so each time.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counting(BTreeMap<Vec<u8>, u64>);

impl Fold for Counting {
    const NAME: &'static str = "counting";
    const FORMAT: u16 = 1;
    const EMITS: bool = true;

    fn apply(&mut self, input: &Input<'_>, out: &mut Outputs) {
        let key = input.record.key.unwrap_or_default().to_vec();
        let count = self.0.entry(key.clone()).or_default();
        *count += 1;
        out.push(Output { stream: "counts", key, value: Some(count.to_string().into_bytes()), headers: Vec::new() });
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.put_u64(self.0.len() as u64);
        for (key, count) in &self.0 {
            out.put_bytes(key);
            out.put_u64(*count);
        }
    }

    fn restore(&mut self, _: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        let mut get = Get::new(bytes);
        self.0 = get.list(|get| Ok((get.bytes()?.to_vec(), get.u64()?)))?.into_iter().collect();
        Ok(get.end()?)
    }
}

fn streams(log: &floodplain_log_kafka::KafkaLog) -> [Stream; 3] {
    [("input", 1), ("counts", 3), ("_folds", 2)].map(|(name, partitions)| stream(log, name, partitions))
}

/// A runner from nothing: snapshots would only spare it work.
fn runner(node: &Node) -> Runner<Counting> {
    let [input, counts, folds] = streams(&node.log);
    let id = PartitionId { stream: (*input.id).clone(), index: 0 };
    let config = RunnerConfig {
        partition: input.partition(0),
        snapshots: Snapshots::new(Arc::new(FaultDisk::new(1)), Path::new("/folds"), Counting::NAME, &id),
        id,
        outputs: vec![("counts", counts)],
        folds: Some(folds),
    };
    Runner::open(Counting::default(), config, &*node.log).unwrap()
}

/// Does what the runner asks for, until it is done with what is there and `stops` says so. `None` when it is another's.
pub(crate) fn drive(node: &Node, stops: &AtomicBool) -> Option<StateHash> {
    let [input, ..] = streams(&node.log);
    let slot = slot_of(&input.id.tenant, 0, node.owners.slots());
    wait_until("the slot is owned", &|| (), || node.held.slots().contains(&slot));
    let fence = node.held.fence(slot).unwrap();
    let mut runner = runner(node);
    // So that there are many transactions.
    runner.limit_steps(4);
    loop {
        match runner.next(&*node.log, Timestamp::from_millis(77_777)) {
            Next::Append(append) => {
                let outcome = node.commit(fence, append.batches);
                match runner.on_outcome(outcome) {
                    Ok(_) => {}
                    Err(RunnerError::Fenced { .. }) => return None,
                    Err(error) => panic!("{error}"),
                }
            }
            Next::Read { partition, from, .. } => {
                let read = node.log.read(partition, from, 2_000);
                runner.on_read(&*node.log, partition, from, read.as_ref().map_err(|error| panic!("{error}"))).unwrap();
            }
            Next::Step => runner.step(),
            Next::Idle if stops.load(Ordering::Relaxed) && runner.is_settled() => {
                return Some(runner.fold().state_hash());
            }
            Next::Idle => std::thread::park_timeout(Duration::from_millis(1)),
        }
    }
}

/// Drives a runner until the process is killed.
pub(crate) fn run(node: &Node, stops: &AtomicBool) {
    println!("owner folds");
    let ended = drive(node, stops);
    println!("owner has folded {ended:?}");
}

/// An output: dedup id, key and value.
type Found = (String, Vec<u8>, Vec<u8>);

/// What must come out of the input, and with which state.
pub(crate) fn expected(node: &Node) -> (Vec<Found>, StateHash) {
    let [input, ..] = streams(&node.log);
    let (mut fold, mut out, mut found) = (Counting::default(), Outputs::default(), Vec::new());
    each(node, &input, 0, |position, batch, record| {
        let log_time = Timestamp::from_millis(batch.batch.timestamp_ms(record));
        fold_whole(&mut fold, &Input { partition: 0, position, log_time, record, batch }, &mut out);
        for (number, output) in out.drain().enumerate() {
            found.push((format!("counting:default.input/0:{position}:{number}"), output.key, output.value.unwrap()));
        }
    });
    found.sort();
    (found, fold.state_hash())
}

/// What is in the log, as often as it is there.
pub(crate) fn found(node: &Node) -> Vec<Found> {
    let [_, counts, _] = streams(&node.log);
    let mut found = Vec::new();
    for index in 0..counts.partitions {
        each(node, &counts, index, |_, _, record| {
            let id = record.headers().flatten().find(|(name, _)| *name == header::DEDUP_ID).unwrap().1.unwrap();
            let id = String::from_utf8(id.to_vec()).unwrap();
            found.push((id, record.key.unwrap().to_vec(), record.value.unwrap().to_vec()));
        });
    }
    found.sort();
    found
}

fn each(
    node: &Node,
    stream: &Stream,
    index: u32,
    mut each: impl FnMut(Position, &floodplain_log::ReadBatch, &floodplain_log::Record<'_>),
) {
    let (partition, mut from) = (stream.partition(index), Position::ZERO);
    while from < node.log.watermark(partition) {
        let read = node.log.read(partition, from, 1 << 20).unwrap();
        for batch in &read.batches {
            for record in &batch.batch.records().unwrap() {
                let record = record.unwrap();
                each(batch.position(&record), batch, &record);
            }
        }
        from = read.next;
    }
}
