//! The engine under test, made small so that everything happens often.

use super::world::DIR;
use floodplain_log::{Embedded, EmbeddedConfig, Log, OpenError, Partition, RecoveryReport};
use floodplain_testkit::FaultDisk;
use floodplain_types::{Clock, ManualClock, Position};
use rand::{Rng as _, rngs::SmallRng};
use std::sync::Arc;

/// Journals mostly of a few groups, sometimes so long that segments are merged, caches that are often
/// too small, hardly any open files.
pub(super) fn config(rng: &mut SmallRng) -> EmbeddedConfig {
    EmbeddedConfig {
        journal_bytes: [1 << 10, 4 << 10, 16 << 10, 1 << 20][rng.random_range(0..4)],
        tail_bytes: [0, 2 << 10, 1 << 20][rng.random_range(0..3)],
        queue_bytes: 1 << 20,
        reserve_bytes: Some(64 << 10),
        // What retention takes is no loss; here nothing is to be taken.
        retention_bytes: Some(u64::MAX),
        open_files_max: rng.random_range(1..4),
        ..EmbeddedConfig::new(DIR)
    }
}

pub(super) fn open(disk: &FaultDisk, clock: &Arc<ManualClock>, rng: &mut SmallRng) -> Result<Arc<Embedded>, OpenError> {
    open_with(disk, clock, config(rng)).map(|(log, _)| log)
}

pub(super) fn open_with(
    disk: &FaultDisk,
    clock: &Arc<ManualClock>,
    config: EmbeddedConfig,
) -> Result<(Arc<Embedded>, RecoveryReport), OpenError> {
    Embedded::open(Arc::new(disk.clone()), Arc::clone(clock) as Arc<dyn Clock>, config)
}

/// All payloads of a partition from its start, with their positions.
pub(super) fn read_all(log: &dyn Log, partition: Partition) -> Vec<(Position, Vec<u8>)> {
    let (mut at, mut all) = (log.start(partition), Vec::new());
    let end = log.watermark(partition);
    while at < end {
        let read = log.read(partition, at, 3_000).unwrap_or_else(|error| panic!("cannot read {partition:?}: {error}"));
        assert!(read.next > at, "a read goes on");
        for batch in &read.batches {
            for record in &batch.batch.records().unwrap() {
                let record = record.unwrap();
                if batch.position(&record) >= at {
                    all.push((batch.position(&record), record.value.unwrap().to_vec()));
                }
            }
        }
        at = read.next;
    }
    all
}
