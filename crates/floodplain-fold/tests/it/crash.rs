//! Any crash point gives the same outputs, once.

use crate::{
    replay::{disk, model},
    support::{Ask, Found, Record, Streams, Worker, outputs, records, reference, write},
};
use floodplain_fold::{Fold, Runner, RunnerError};
use floodplain_log::{Disk, Embedded, EmbeddedConfig, Log};
use floodplain_testkit::{AdverseLog, Adversity, FaultDisk};
use floodplain_types::{ManualClock, Timestamp};
use proptest::prelude::*;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::sync::Arc;

/// Stops in front of step `crash` and starts anew, again and again; snapshots now and then.
fn run_with_crashes(log: &dyn Log, streams: &Streams, crash: usize, snapshot_every: usize) -> usize {
    let disk = disk();
    let mut steps = 0;
    for life in 0..1000 {
        let mut runner = streams.runner(log, &disk);
        let mut worker = Worker::new();
        // Later lives live longer, so that it ends.
        for step in 0..crash + 3 * life {
            steps += 1;
            if !worker.step(log, &mut runner).unwrap() {
                assert!(runner.is_settled());
                return steps;
            }
            if step % snapshot_every == 0 {
                runner.begin_snapshot(Timestamp(0));
            }
            if let Some(snapshot) = runner.take_snapshot() {
                runner.snapshots().write(&snapshot).unwrap();
            }
        }
    }
    panic!("did not end in {steps} steps");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_crash_point_gives_the_same_outputs_once(records in records(16), snapshot_every in 1_usize..20) {
        let log = model();
        let streams = Streams::open(&log);
        write(&log, streams.input.partition(0), &records);
        let (expected, state) = reference(&log, &streams);
        let steps = run_with_crashes(&log, &streams, usize::MAX / 2, snapshot_every);
        prop_assert_eq!(outputs(&log, &streams), expected.clone());
        for crash in 1..=steps {
            let log = model();
            let streams = Streams::open(&log);
            write(&log, streams.input.partition(0), &records);
            run_with_crashes(&log, &streams, crash, snapshot_every);
            prop_assert_eq!(outputs(&log, &streams), expected.clone(), "crash before step {}", crash);
            let mut runner = streams.runner(&log, &disk());
            Worker::new().run(&log, &mut runner);
            prop_assert_eq!(runner.fold(), &state);
        }
    }
}

fn random_record(rng: &mut SmallRng) -> Record {
    let ask = match rng.random_range(0..5) {
        0 => Ask::Add(rng.random()),
        1 => Ask::Emit(rng.random_range(0..5)),
        2 => Ask::Timer(rng.random_range(0..500)),
        3 => Ask::All(rng.random_range(0..9)),
        _ => Ask::Tick,
    };
    (rng.random_range(0..4), ask, rng.random_range(-50..300))
}

/// Crashes at random on a log that is as bad as its contract allows; gives what was found twice.
fn adverse(inner: Arc<dyn Log>, adversity: Adversity, seed: u64) -> usize {
    let mut rng = SmallRng::seed_from_u64(seed);
    let input: Vec<Record> = (0..60).map(|_| random_record(&mut rng)).collect();
    let log = AdverseLog::new(inner, adversity, seed);
    let streams = Streams::open(&*log);
    let disk = disk();
    // The writer does not repeat what was lost: whatever is in the log is what counts.
    for part in input.chunks(7) {
        write(&*log, streams.input.partition(0), part);
        live(&log, &streams, &disk, &mut rng, false);
    }
    floodplain_testkit::wait_until("the log is quiet", &|| _ = log.pump(), || !log.pump() && log.queued_bytes() == 0);
    live(&log, &streams, &disk, &mut rng, true);
    floodplain_testkit::wait_until("the log is quiet", &|| _ = log.pump(), || !log.pump() && log.queued_bytes() == 0);

    let (expected, state) = reference(&*log, &streams);
    let mut found = outputs(&*log, &streams);
    let all = found.len();
    found.dedup();
    let ids: Vec<&String> = found.iter().map(|(id, ..): &Found| id).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "seed {seed}: one id, two outputs");
    assert_eq!(found, expected, "seed {seed}");
    let mut runner = streams.runner(&*log, &disk);
    while runner.position() < log.watermark(streams.input.partition(0)) {
        let at = runner.position();
        let mut worker = Worker::new();
        while let Ok(true) = worker.step(&*log, &mut runner) {
            log.pump();
        }
        log.pump();
        if runner.position() == at {
            // Fenced at the start: another life.
            runner = streams.runner(&*log, &disk);
        }
    }
    assert_eq!(runner.fold().state_hash(), state.state_hash(), "seed {seed}");
    all - found.len()
}

/// A few lives of a runner, or so many as it takes until all is out.
fn live(log: &Arc<AdverseLog>, streams: &Streams, disk: &Arc<dyn Disk>, rng: &mut SmallRng, to_the_end: bool) {
    for life in 0..10_000 {
        let mut runner: Runner<_> = streams.runner(&**log, disk);
        let mut worker = Worker::new();
        let mut idle = 0;
        loop {
            match worker.step(&**log, &mut runner) {
                Ok(true) => idle = 0,
                Ok(false) => {
                    idle += 1;
                    let caught_up = runner.position() >= log.watermark(streams.input.partition(0));
                    if idle > 20 && runner.is_settled() && caught_up {
                        return;
                    }
                    // An embedded log below works on threads of its own.
                    std::thread::yield_now();
                }
                Err(RunnerError::Fenced { .. }) => break,
                Err(error) => panic!("{error}"),
            }
            if rng.random_ratio(1, 3) {
                log.pump();
            }
            if rng.random_ratio(1, 10) {
                runner.begin_snapshot(Timestamp(0));
            }
            if let Some(snapshot) = runner.take_snapshot() {
                runner.snapshots().write(&snapshot).unwrap();
            }
            if rng.random_ratio(1, 40) && (!to_the_end || life < 50) {
                break;
            }
        }
        if !to_the_end && life > 3 {
            return;
        }
    }
    panic!("outputs do not settle");
}

#[test]
fn outputs_appear_once_on_the_adverse_log() {
    for seed in 0..150 {
        // Without duplicates of the log's own making there are none at all.
        let adversity = Adversity { duplicates: 0, ..Adversity::HARSH };
        assert_eq!(adverse(Arc::new(model()), adversity, seed), 0, "seed {seed}");
    }
}

#[test]
fn what_the_adverse_log_doubles_has_the_same_id() {
    let doubled: usize = (0..150).map(|seed| adverse(Arc::new(model()), Adversity::HARSH, seed)).sum();
    assert!(doubled > 0, "the log should have doubled something");
}

#[test]
fn outputs_appear_once_on_the_adverse_embedded_log() {
    for seed in 0..30 {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(5_000_000)));
        let disk: Arc<dyn Disk> = Arc::new(FaultDisk::new(seed));
        let config = EmbeddedConfig { journal_bytes: 64 << 10, ..EmbeddedConfig::new("/log") };
        let (log, _) = Embedded::open(disk, clock, config).unwrap();
        let adversity = Adversity { duplicates: 0, ..Adversity::HARSH };
        assert_eq!(adverse(log, adversity, seed), 0, "seed {seed}");
    }
}
