//! The same records give the same state and the same outputs, whichever way they come.

use crate::support::{Ask, Streams, Sums, Worker, outputs, position_records, records, reference, write};
use floodplain_fold::{Fold, Next, Outputs, Runner};
use floodplain_log::{Disk, Log, Outcome, ReadError, Refusal};
use floodplain_testkit::{Counts, FaultDisk, ModelLog};
use floodplain_types::{ManualClock, Position, Timestamp};
use proptest::prelude::*;
use std::sync::Arc;

pub(crate) fn model() -> ModelLog {
    ModelLog::new(Arc::new(ManualClock::new(Timestamp::from_millis(5_000_000))))
}

pub(crate) fn disk() -> Arc<dyn Disk> {
    Arc::new(FaultDisk::new(1))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_replay_gives_the_same_bytes(records in records(40)) {
        let log = model();
        let streams = Streams::open(&log);
        write(&log, streams.input.partition(0), &records);
        let (expected, state) = reference(&log, &streams);
        for _ in 0..2 {
            let mut runner = streams.runner(&log, &disk());
            Worker::new().run(&log, &mut runner);
            prop_assert_eq!(runner.fold().state_hash(), state.state_hash());
            prop_assert_eq!(outputs(&log, &streams), expected.clone(), "the second runner emits nothing again");
        }
    }

    #[test]
    fn a_snapshot_and_the_tail_are_a_full_replay(records in records(40), cut in 0_usize..40, also in 0_usize..40) {
        let log = model();
        let streams = Streams::open(&log);
        let disk = disk();
        let (first, second) = (cut.min(also).min(records.len()), cut.max(also).min(records.len()));
        for part in [&records[..first], &records[first..second], &records[second..]] {
            let mut runner = streams.runner(&log, &disk);
            write(&log, streams.input.partition(0), part);
            Worker::new().run(&log, &mut runner);
            runner.begin_snapshot(Timestamp(0));
            let snapshot = runner.take_snapshot().unwrap();
            prop_assert_eq!(snapshot.meta.position, log.watermark(streams.input.partition(0)));
            runner.snapshots().write(&snapshot).unwrap();
        }
        let (expected, state) = reference(&log, &streams);
        let mut restored = streams.runner(&log, &disk);
        prop_assert_eq!(restored.position(), log.watermark(streams.input.partition(0)), "nothing is left to replay");
        prop_assert_eq!(restored.fold(), &state);
        Worker::new().run(&log, &mut restored);
        prop_assert_eq!(outputs(&log, &streams), expected);
    }

    #[test]
    fn a_restored_state_is_canonical(records in records(60)) {
        let log = model();
        let streams = Streams::open(&log);
        write(&log, streams.input.partition(0), &records);
        let (_, state) = reference(&log, &streams);
        let (mut bytes, mut again, mut restored) = (Vec::new(), Vec::new(), Sums::default());
        state.snapshot(&mut bytes);
        restored.restore(Sums::FORMAT, &bytes).unwrap();
        restored.snapshot(&mut again);
        prop_assert_eq!(bytes, again);
    }
}

#[test]
fn timers_go_by_log_time() {
    let log = model();
    let streams = Streams::open(&log);
    let input = streams.input.partition(0);
    let mut runner = streams.runner(&log, &disk());
    let mut worker = Worker::new();
    write(&log, input, &[(1, Ask::Add(7), 0), (1, Ask::Timer(100), 0)]);
    worker.run(&log, &mut runner);
    let due = Timestamp::from_millis(1_000_100);
    assert_eq!(runner.fold().next_timer(), Some(due));
    assert!(!runner.is_tick_due(Timestamp(due.0 - 1)) && runner.is_tick_due(due));
    assert_eq!(outputs(&log, &streams), [], "the wall clock fires nothing");
    // A record with an older time does not turn log time back, nor forward.
    write(&log, input, &[(2, Ask::Tick, 99)]);
    write(&log, input, &[(2, Ask::Add(1), -500)]);
    worker.run(&log, &mut runner);
    assert_eq!(runner.log_time(), Timestamp::from_millis(1_000_099));
    assert_eq!(outputs(&log, &streams), []);
    // The timer fires before the record that moves the time: it does not see what that adds.
    write(&log, input, &[(1, Ask::Add(1), 100)]);
    worker.run(&log, &mut runner);
    let found = outputs(&log, &streams);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].2, b"timer 7 1");
    assert!(!runner.is_tick_due(Timestamp(i64::MAX)));
}

#[test]
fn steps_without_outputs_commit_nothing() {
    let log = model();
    let streams = Streams::open(&log);
    let mut runner = streams.runner(&log, &disk());
    let mut worker = Worker::new();
    worker.run(&log, &mut runner);
    assert_eq!(position_records(&log, &streams), 1, "the fence");
    let adds: Vec<_> = (0..50).map(|n| (n, Ask::Add(n), 1)).collect();
    write(&log, streams.input.partition(0), &adds);
    worker.run(&log, &mut runner);
    assert_eq!(position_records(&log, &streams), 1);
    write(&log, streams.input.partition(0), &[(1, Ask::Emit(2), 0)]);
    worker.run(&log, &mut runner);
    assert_eq!(position_records(&log, &streams), 2);
}

#[test]
fn retention_that_passes_a_fold_is_reported() {
    let log = model();
    let streams = Streams::open(&log);
    let input = streams.input.partition(0);
    let adds: Vec<_> = (0..9).map(|n| (n, Ask::Add(1), 1)).collect();
    write(&log, input, &adds);
    log.trim(input, Position::new(0, 6));
    let counts = Counts::default();
    let mut runner = metrics::with_local_recorder(&counts, || streams.runner(&log, &disk()));
    let mut worker = Worker::new();
    while !runner.takes_input() {
        worker.step(&log, &mut runner).unwrap();
    }
    let Next::Read { partition, from, .. } = runner.next(&log, Timestamp(0)) else { panic!("there is input") };
    let error = log.read(partition, from, 1).unwrap_err();
    assert!(matches!(error, ReadError::Trimmed { .. }));
    let folded = runner.on_read(&log, partition, from, Err(error)).unwrap();
    assert_eq!(folded.lost, Some((Position::ZERO, Position::new(0, 6))));
    assert_eq!(counts.of("floodplain_fold_"), [("floodplain_fold_lost_ranges_total sums".to_owned(), 1)]);
    worker.run(&log, &mut runner);
    assert_eq!(runner.position(), Position::new(0, 9), "the rest is folded");
    let counted = [("lost_ranges", 1), ("records", 3)];
    assert_eq!(
        counts.of("floodplain_fold_"),
        counted.map(|(what, n)| (format!("floodplain_fold_{what}_total sums"), n))
    );
}

#[test]
fn damage_of_the_log_is_passed() {
    let log = model();
    let streams = Streams::open(&log);
    let input = streams.input.partition(0);
    let adds: Vec<_> = (0..9).map(|n| (n, Ask::Add(1), 1)).collect();
    write(&log, input, &adds);
    let mut runner = streams.runner(&log, &disk());
    let mut worker = Worker::new();
    while !runner.takes_input() {
        worker.step(&log, &mut runner).unwrap();
    }
    let (file, reason, next) = ("segment-7".to_owned(), "checksum".to_owned(), Position::new(0, 6));
    let error = ReadError::Corrupt { file, at: 4096, reason, next };
    runner.on_read(&log, input, Position::ZERO, Err(error)).unwrap();
    assert_eq!(runner.position(), next);
    worker.run(&log, &mut runner);
    assert_eq!(runner.position(), Position::new(0, 9), "the rest is folded");
}

#[test]
fn reads_that_do_not_continue_change_nothing() {
    let log = model();
    let streams = Streams::open(&log);
    let input = streams.input.partition(0);
    let adds: Vec<_> = (0..9).map(|n| (n, Ask::Emit(1), 1)).collect();
    write(&log, input, &adds);
    let mut runner = streams.runner(&log, &disk());
    let early = log.read(input, Position::ZERO, usize::MAX).unwrap();
    assert_eq!(runner.on_read(&log, input, Position::ZERO, Ok(&early)).unwrap().records, 0, "not started");
    let mut worker = Worker::new();
    worker.run(&log, &mut runner);
    let hash = runner.fold().state_hash();
    assert_eq!(runner.on_read(&log, input, Position::ZERO, Ok(&early)).unwrap().records, 0, "folded already");
    let ahead = Position::new(0, 12);
    assert_eq!(runner.on_read(&log, input, ahead, Ok(&early)).unwrap().records, 0, "a gap");
    assert_eq!(runner.fold().state_hash(), hash);
}

#[test]
fn a_refused_unit_is_given_again() {
    let log = model();
    let streams = Streams::open(&log);
    write(&log, streams.input.partition(0), &[(1, Ask::Emit(3), 0)]);
    let mut runner = streams.runner(&log, &disk());
    let now = Timestamp(0);
    let refused = || Outcome::Refused(Refusal::Overloaded { capacity_bytes: 1 });
    assert!(matches!(runner.next(&log, now), Next::Append(_)), "the fence");
    assert!(matches!(runner.next(&log, now), Next::Idle), "is given once");
    runner.on_outcome(refused()).unwrap();
    let mut worker = Worker::new();
    while !runner.takes_input() || runner.position() < log.watermark(streams.input.partition(0)) {
        worker.step(&log, &mut runner).unwrap();
    }
    for _ in 0..3 {
        let Next::Append(unit) = runner.next(&log, now) else { panic!("the outputs") };
        assert_eq!(unit.batches.len(), 2, "one partition of outputs, and the position");
        runner.on_outcome(refused()).unwrap();
    }
    assert!(!runner.is_settled());
    worker.run(&log, &mut runner);
    assert_eq!(outputs(&log, &streams), reference(&log, &streams).0);
    // A log that is poisoned takes nothing more; folding goes on.
    write(&log, streams.input.partition(0), &[(1, Ask::Emit(1), 0), (1, Ask::Add(1), 0)]);
    let read = log.read(streams.input.partition(0), runner.position(), usize::MAX).unwrap();
    runner.on_read(&log, streams.input.partition(0), runner.position(), Ok(&read)).unwrap();
    let Next::Append(_) = runner.next(&log, now) else { panic!("the output") };
    runner.on_outcome(Outcome::Refused(Refusal::Poisoned { cause: "a sync failed".into() })).unwrap_err();
    assert!(matches!(runner.next(&log, now), Next::Idle));
    assert_eq!(runner.position(), log.watermark(streams.input.partition(0)));
}

#[test]
fn a_snapshot_waits_for_its_outputs() {
    let log = model();
    let streams = Streams::open(&log);
    let mut runner = streams.runner(&log, &disk());
    let mut worker = Worker::new();
    worker.run(&log, &mut runner);
    write(&log, streams.input.partition(0), &[(1, Ask::Emit(1), 0)]);
    let read = log.read(streams.input.partition(0), Position::ZERO, usize::MAX).unwrap();
    runner.on_read(&log, streams.input.partition(0), Position::ZERO, Ok(&read)).unwrap();
    runner.begin_snapshot(Timestamp(0));
    assert_eq!(runner.take_snapshot(), None, "its output is not out");
    worker.run(&log, &mut runner);
    assert!(runner.take_snapshot().is_some());
    assert_eq!(runner.take_snapshot(), None, "is given once");
}

#[test]
fn many_outputs_of_one_record_go_out_in_parts() {
    #[derive(Debug, Default)]
    struct Large;
    impl Fold for Large {
        const NAME: &'static str = "large";
        const FORMAT: u16 = 1;
        const EMITS: bool = true;
        fn apply(&mut self, _input: &floodplain_fold::Input<'_>, out: &mut Outputs) {
            for n in 0..40_u8 {
                out.push(floodplain_fold::Output {
                    stream: "out",
                    key: vec![n],
                    value: Some(vec![n; 100_000]),
                    headers: Vec::new(),
                });
            }
        }
        fn snapshot(&self, _out: &mut Vec<u8>) {}
        fn restore(&mut self, _format: u16, _bytes: &[u8]) -> Result<(), floodplain_fold::RestoreError> {
            Ok(())
        }
    }
    let log = model();
    let streams = Streams::open(&log);
    write(&log, streams.input.partition(0), &[(1, Ask::Tick, 0)]);
    let (mut units, mut restarts) = (0, 0);
    let mut runner = Runner::open(Large, streams.config(&disk()), &log).unwrap();
    loop {
        match runner.next(&log, Timestamp(0)) {
            Next::Append(append) => {
                let bytes: usize = append.batches.iter().map(|(_, batch)| batch.as_bytes().len()).sum();
                assert!(bytes < 1 << 20);
                units += 1;
                let outcomes = floodplain_testkit::Outcomes::new();
                log.submit(append, Some(floodplain_log::Reply { sink: outcomes.clone(), tag: 0 }));
                let outcome = outcomes.take(0).unwrap();
                // A crash after every second unit, before its end is known.
                if units % 2 == 0 && restarts < 20 {
                    restarts += 1;
                    runner = Runner::open(Large, streams.config(&disk()), &log).unwrap();
                } else {
                    runner.on_outcome(outcome).unwrap();
                }
            }
            Next::Read { partition, from, max_bytes } => {
                let read = log.read(partition, from, max_bytes).unwrap();
                runner.on_read(&log, partition, from, Ok(&read)).unwrap();
            }
            Next::Step => runner.step(),
            Next::Idle => break,
        }
    }
    let found = outputs(&log, &streams);
    assert_eq!(found.len(), 40, "each once");
    assert!(restarts > 5 && units > 10, "{restarts} restarts, {units} units");
}

/// An event that concerns many: each causes one output of 10 kB.
#[derive(Debug, Default)]
struct Many {
    left: u32,
    made: u32,
}

impl Fold for Many {
    const NAME: &'static str = "sums";
    const FORMAT: u16 = 1;
    const EMITS: bool = true;
    fn apply(&mut self, _input: &floodplain_fold::Input<'_>, out: &mut Outputs) {
        self.left = 5_000;
        self.go_on(out);
    }
    fn has_more(&self) -> bool {
        self.left > 0
    }
    fn go_on(&mut self, out: &mut Outputs) {
        while self.left > 0 && out.spend() {
            self.left -= 1;
            self.made += 1;
            let key = self.made.to_be_bytes().to_vec();
            let value = Some(vec![7; 10_000]);
            out.push(floodplain_fold::Output { stream: "out", key, value, headers: Vec::new() });
        }
    }
    fn snapshot(&self, _out: &mut Vec<u8>) {}
    fn restore(&mut self, _format: u16, _bytes: &[u8]) -> Result<(), floodplain_fold::RestoreError> {
        Ok(())
    }
}

#[test]
fn an_event_that_concerns_many_is_bounded_in_time_and_memory() {
    let log = model();
    let streams = Streams::open(&log);
    write(&log, streams.input.partition(0), &[(1, Ask::Tick, 0), (1, Ask::Tick, 0)]);
    let mut runner = Runner::open(Many::default(), streams.config(&disk()), &log).unwrap();
    let (mut committed, mut steps) = (0, 0);
    loop {
        let made = runner.fold().made;
        match runner.next(&log, Timestamp(0)) {
            Next::Append(append) => {
                let records: u32 = append.batches.iter().map(|(_, batch)| batch.record_count()).sum();
                committed += records - 1;
                let outcomes = floodplain_testkit::Outcomes::new();
                log.submit(append, Some(floodplain_log::Reply { sink: outcomes.clone(), tag: 0 }));
                runner.on_outcome(outcomes.take(0).unwrap()).unwrap();
            }
            Next::Read { partition, from, max_bytes } => {
                let read = log.read(partition, from, max_bytes).unwrap();
                runner.on_read(&log, partition, from, Ok(&read)).unwrap();
            }
            Next::Step => {
                runner.step();
                steps += 1;
                runner.begin_snapshot(Timestamp(0));
                assert!(runner.fold().made >= 5_000 || runner.take_snapshot().is_none(), "in the middle of the first");
                assert!(!runner.is_snapshot_due(1, Timestamp(i64::MAX)) || !runner.fold().has_more());
            }
            Next::Idle => break,
        }
        // 256 KiB in a step; of those that wait for the log 4 MiB and a step.
        assert!(runner.fold().made - made <= 27, "{} in one step", runner.fold().made - made);
        let waiting = (runner.fold().made + 1).saturating_sub(committed);
        assert!(waiting < 460, "{waiting} outputs wait");
    }
    assert_eq!((runner.fold().made, outputs(&log, &streams).len()), (10_000, 10_000));
    assert!(steps > 300 && runner.is_settled(), "{steps} steps");
}

/// A loss in the middle of a read is told once, though the read is folded in parts.
#[test]
fn damage_is_told_once_however_a_read_is_folded() {
    #[derive(Debug, Default)]
    struct Told(Vec<std::ops::Range<Position>>, u32);
    impl Fold for Told {
        const NAME: &'static str = "sums";
        const FORMAT: u16 = 1;
        const EMITS: bool = false;
        fn apply(&mut self, _input: &floodplain_fold::Input<'_>, out: &mut Outputs) {
            self.1 += u32::from(out.spend());
        }
        fn missed(&mut self, lost: &std::ops::Range<Position>, _loss: floodplain_fold::Loss) {
            self.0.push(lost.clone());
        }
        fn snapshot(&self, _out: &mut Vec<u8>) {}
        fn restore(&mut self, _format: u16, _bytes: &[u8]) -> Result<(), floodplain_fold::RestoreError> {
            Ok(())
        }
    }
    let log = model();
    let streams = Streams::open(&log);
    let input = streams.input.partition(0);
    write(&log, input, &[(1, Ask::Tick, 0), (1, Ask::Tick, 0), (1, Ask::Tick, 0), (1, Ask::Tick, 0)]);
    let mut runner = Runner::open(Told::default(), streams.config(&disk()), &log).unwrap();
    runner.limit_steps(1);
    let at = |offset| Position::new(0, offset);
    let mut read = log.read(input, Position::ZERO, usize::MAX).unwrap();
    // The second batch is where 10 is, after damage.
    read.batches[1].base = at(10);
    (read.damaged, read.next) = (vec![at(3)..at(10), at(11)..at(13)], at(13));
    let mut rounds = 0;
    while runner.position() < at(13) {
        runner.on_read(&log, input, runner.position(), Ok(&read)).unwrap();
        rounds += 1;
        assert!(rounds < 20);
    }
    assert_eq!((runner.fold().0.as_slice(), runner.fold().1), (&[at(3)..at(10), at(11)..at(13)][..], 4));
    assert!(rounds > 3, "{rounds}");
}
