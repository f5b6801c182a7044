//! The suite of the contract, on the embedded engine: on a disk in memory, on real files, and
//! with adversity between.

use floodplain_log::{Disk, Embedded, EmbeddedConfig, Log, OsDisk};
use floodplain_testkit::{
    AdverseLog, Adversity, FaultDisk, Op,
    conformance::{self, Harness, Owning},
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
        reopen: Some(Box::new(move |keep| harness(disk, dir, again, keep))),
        owning: Some(Owning::alone(Arc::clone(&log) as Arc<dyn Log>)),
        keep,
        ..Harness::new(log, clock)
    }
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)))
}

fn in_memory() -> Harness {
    on(FaultDisk::new(1), clock(), 1)
}

/// On a disk that loses its power, and that takes as long as a case wants.
fn on(disk: FaultDisk, clock: Arc<ManualClock>, seed: u64) -> Harness {
    let inner = harness(Arc::new(disk.clone()), "log".into(), Arc::clone(&clock), Box::new(()));
    let stopped = disk.clone();
    Harness {
        crash: Some(Box::new(move |log, _| {
            // First the power: what the log does when it closes reaches the disk no more.
            let next = disk.power_cut(seed);
            drop(log);
            on(next, clock, seed + 1)
        })),
        stop: Some(Box::new(move || Box::new(stopped.close_gate(Op::Sync, "log/journal")))),
        ..inner
    }
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
    let Harness { log: below, clock, reopen, crash, stop, keep, .. } = inner;
    let log = AdverseLog::new(Arc::clone(&below), adversity, seed);
    let pumped = Arc::downgrade(&log);
    Harness {
        pump: Arc::new(move || {
            if let Some(log) = pumped.upgrade() {
                log.pump();
            }
        }),
        exact: adversity == Adversity::MILD,
        reopen: reopen
            .map(|reopen| -> conformance::Reopen { Box::new(move |keep| adverse(reopen(keep), adversity, seed + 1)) }),
        crash: crash.map(|crash| -> conformance::Crash {
            Box::new(move |_, keep| adverse(crash(below, keep), adversity, seed + 1))
        }),
        stop,
        owning: Some(Owning::alone(Arc::clone(&log) as Arc<dyn Log>)),
        keep,
        ..Harness::new(log, clock)
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
