//! The suite of the contract, on the embedded engine: on a disk in memory, on real files, and
//! with adversity between.

use floodplain_log::{Disk, Embedded, EmbeddedConfig, Log, OsDisk};
use floodplain_testkit::{
    AdverseLog, Adversity, FaultDisk,
    conformance::{self, Harness},
};
use floodplain_types::{Clock, ManualClock, Timestamp};
use std::{any::Any, path::PathBuf, sync::Arc};

/// Small enough that the cases roll journals, build segments and miss the memory.
fn config(dir: PathBuf) -> EmbeddedConfig {
    EmbeddedConfig {
        journal_bytes: 16 << 10,
        tail_bytes: 8 << 10,
        queue_bytes: 4 << 20,
        reserve_bytes: Some(0),
        ..EmbeddedConfig::new(dir)
    }
}

fn harness(disk: Arc<dyn Disk>, dir: PathBuf, clock: Arc<ManualClock>, keep: Box<dyn Any>) -> Harness {
    let (log, _) =
        Embedded::open(Arc::clone(&disk), Arc::clone(&clock) as Arc<dyn Clock>, config(dir.clone())).unwrap();
    let again = Arc::clone(&clock);
    Harness {
        log,
        clock,
        pump: Box::new(|| ()),
        exact: true,
        orders_classes: true,
        reopen: Some(Box::new(move |keep| harness(disk, dir, again, keep))),
        keep,
    }
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)))
}

fn in_memory() -> Harness {
    harness(Arc::new(FaultDisk::new(1)), "log".into(), clock(), Box::new(()))
}

#[test]
fn embedded_in_memory() {
    conformance::run(&in_memory);
}

#[test]
fn embedded_on_real_files() {
    conformance::run(&|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        harness(Arc::new(OsDisk), path, clock(), Box::new(dir))
    });
}

fn adverse(inner: Harness, adversity: Adversity, seed: u64) -> Harness {
    let Harness { log, clock, reopen, keep, .. } = inner;
    let log = AdverseLog::new(log, adversity, seed);
    let pumped = Arc::downgrade(&log);
    Harness {
        log: log as Arc<dyn Log>,
        clock,
        pump: Box::new(move || {
            if let Some(log) = pumped.upgrade() {
                log.pump();
            }
        }),
        exact: adversity == Adversity::MILD,
        orders_classes: true,
        reopen: reopen
            .map(|reopen| -> conformance::Reopen { Box::new(move |keep| adverse(reopen(keep), adversity, seed + 1)) }),
        keep,
    }
}

#[test]
fn embedded_under_mild_adversity() {
    for seed in 0..5 {
        conformance::run(&|| adverse(in_memory(), Adversity::MILD, seed));
    }
}

#[test]
fn embedded_under_harsh_adversity() {
    for seed in 0..5 {
        conformance::run(&|| adverse(in_memory(), Adversity::HARSH, seed));
    }
}
