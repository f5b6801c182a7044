//! Every adversity shows, equal seeds give equal adversities, and the contract still holds.

use super::*;
use crate::{
    FaultDisk, ModelLog, Outcomes, batch_of, conformance,
    conformance::{Harness, Owning},
    wait_until,
};
use floodplain_log::{Embedded, EmbeddedConfig};
use floodplain_types::{Class, ManualClock, StreamName, TenantId};

fn stream(log: &dyn Log) -> Stream {
    let (tenant, stream) = (TenantId::default_tenant(), StreamName::new("a").unwrap());
    log.open_stream(&StreamId { tenant, stream, generation: 0 }, 2).unwrap()
}

fn model() -> Arc<ModelLog> {
    Arc::new(ModelLog::new(Arc::new(ManualClock::default())))
}

/// Submits `count` appends, then pumps until nothing waits: outcomes by number.
fn run(adversity: Adversity, seed: u64, count: u64) -> (Arc<ModelLog>, Arc<AdverseLog>, Vec<Outcome>) {
    let inner = model();
    let log = AdverseLog::new(Arc::clone(&inner) as Arc<dyn Log>, adversity, seed);
    let partition = stream(&*log).partition(0);
    let outcomes = Outcomes::new();
    for tag in 0..count {
        let batches = vec![(partition, batch_of(b"k", tag.to_string().as_bytes(), 0))];
        let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
        log.submit(Append { batches, class: Class::All }, Some(Reply { sink, tag }));
    }
    while log.pump() {}
    let outcomes = (0..count).map(|tag| outcomes.take(tag).unwrap()).collect();
    (inner, log, outcomes)
}

fn values(log: &dyn Log, partition: Partition) -> Vec<String> {
    let (mut at, mut values) = (log.start(partition), Vec::new());
    while at < log.watermark(partition) {
        let read = log.read(partition, at, 300).unwrap();
        for batch in &read.batches {
            for record in &batch.batch.records().unwrap() {
                values.push(String::from_utf8(record.unwrap().value.unwrap_or_default().to_vec()).unwrap());
            }
        }
        at = read.next;
    }
    values
}

#[test]
fn every_adversity_strikes_and_tells_the_truth() {
    let (inner, log, outcomes) = run(Adversity::HARSH, 3, 2_000);
    let struck = log.struck();
    let Struck { holes, gaps, duplicates, unknown_lost, unknown_written, fenced, refused, .. } = struck;
    for count in [holes, gaps, duplicates, unknown_lost, unknown_written, fenced, refused] {
        assert!(count > 10, "{struck:?}");
    }
    let partition = stream(&*log).partition(0);
    let seen = values(&*log, partition);
    assert!(values(&*inner, partition).len() > seen.len(), "holes take positions below");
    let (mut unknown_written, mut unknown_lost) = (0, 0);
    for (i, outcome) in outcomes.iter().enumerate() {
        let copies = seen.iter().filter(|value| **value == i.to_string()).count();
        match outcome {
            Outcome::Committed(positions) => {
                assert!((1..=2).contains(&copies));
                let read = log.read(partition, positions[0], 1).unwrap();
                let records = read.batches[0].batch.records().unwrap();
                let record = records.iter().next().unwrap().unwrap();
                assert_eq!(record.value, Some(i.to_string().as_bytes()), "the position is that of the record");
            }
            Outcome::Refused(Refusal::Fenced | Refusal::Overloaded { .. } | Refusal::DiskFull { .. }) => {
                assert_eq!(copies, 0);
            }
            Outcome::Unknown if copies == 0 => unknown_lost += 1,
            Outcome::Unknown => unknown_written += 1,
            Outcome::Refused(other) => panic!("{other}"),
        }
    }
    assert_eq!((struck.unknown_lost, struck.unknown_written), (unknown_lost, unknown_written));
    let firsts: Vec<u64> = seen.iter().map(|value| value.parse().unwrap()).collect();
    assert!(firsts.is_sorted(), "order is kept");
}

/// A submitter that repeats all that was refused, in order, over a log below that refuses, too.
#[test]
fn refusals_keep_the_order_of_a_submitter() {
    const COUNT: u64 = 3_000;
    let disk = FaultDisk::new(1);
    let config = EmbeddedConfig { queue_bytes: 2_000, reserve_bytes: Some(0), ..EmbeddedConfig::new("log") };
    let clock = Arc::new(ManualClock::default()) as Arc<dyn floodplain_types::Clock>;
    let (inner, _) = Embedded::open(Arc::new(disk), clock, config).unwrap();
    let adversity = Adversity { duplicates: 0, unknown: 0, ..Adversity::HARSH };
    let log = AdverseLog::new(inner, adversity, 9);
    let partition = stream(&*log).partition(0);
    let outcomes = Outcomes::new();
    let (mut next, mut refused, mut committed, mut refusals_seen, mut full) = (0, Vec::new(), 0, 0, 0);
    let submit = |tag: u64, refusals_seen| {
        let batches = vec![(partition, batch_of(b"k", tag.to_string().as_bytes(), 0))];
        let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
        let order = InOrder { submitter: 4, refusals_seen };
        log.submit_in_order(Append { batches, class: Class::All }, Reply { sink, tag }, order);
    };
    let mut under_way = 0;
    while committed < COUNT {
        while next < COUNT && under_way < 40 && refused.is_empty() {
            submit(next, refusals_seen);
            next += 1;
            under_way += 1;
        }
        log.pump();
        for (tag, outcome) in outcomes.take_all() {
            under_way -= 1;
            match outcome {
                Outcome::Committed(_) => committed += 1,
                Outcome::Refused(refusal) => {
                    full += u64::from(matches!(refusal, Refusal::Overloaded { capacity_bytes: 2_000 }));
                    refusals_seen += 1;
                    refused.push(tag);
                }
                Outcome::Unknown => panic!("{tag}"),
            }
        }
        // All of them, once nothing is under way: what was accepted was accepted before them.
        if under_way == 0 {
            refused.sort_unstable();
            under_way = refused.len();
            refused.drain(..).for_each(|tag| submit(tag, refusals_seen));
        }
    }
    let struck = log.struck();
    assert!(struck.refused > 50 && struck.fenced > 50 && struck.after_refused > 200 && full > 0, "{struck:?}, {full}");
    let pump = || {
        log.pump();
    };
    wait_until("all can be read", &pump, || values(&*log, partition).len() as u64 == COUNT);
    let found: Vec<u64> = values(&*log, partition).iter().map(|value| value.parse().unwrap()).collect();
    assert_eq!(found, (0..COUNT).collect::<Vec<_>>());
}

#[test]
fn equal_seeds_give_equal_fates() {
    assert_eq!(run(Adversity::HARSH, 7, 300).2, run(Adversity::HARSH, 7, 300).2);
    assert_ne!(run(Adversity::HARSH, 7, 300).2, run(Adversity::HARSH, 8, 300).2);
}

#[test]
fn nothing_arrives_before_it_is_pumped_and_each_thing_in_its_own_time() {
    let log = AdverseLog::new(model(), Adversity::MILD, 1);
    let partition = stream(&*log).partition(0);
    let outcomes = Outcomes::new();
    for tag in 0..100 {
        let batches = vec![(partition, batch_of(b"k", b"v", 0))];
        let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
        log.submit(Append { batches, class: Class::All }, Some(Reply { sink, tag }));
    }
    assert_eq!((outcomes.waiting(), log.watermark(partition)), (0, Position::ZERO));
    let (mut acked_unseen, mut seen_unacked, mut acked) = (0, 0, Vec::new());
    loop {
        let more = log.pump();
        for (_, outcome) in outcomes.take_all() {
            let Outcome::Committed(positions) = outcome else { panic!("{outcome:?}") };
            acked.push(positions[0]);
        }
        let watermark = log.watermark(partition);
        acked_unseen += acked.iter().filter(|position| **position >= watermark).count();
        let read: usize = log.read(partition, Position::ZERO, 1 << 20).unwrap().batches.len();
        seen_unacked += read.saturating_sub(acked.len());
        if !more {
            break;
        }
    }
    assert_eq!(acked.len(), 100);
    assert!(acked_unseen + seen_unacked > 0, "acknowledgement and sight differ in time");
    assert!(log.struck().watermarks_skipped > 0);
}

#[test]
fn ownership_is_lost_and_regained() {
    let log = AdverseLog::new(model(), Adversity::MILD, 1);
    let partition = stream(&*log).partition(0);
    let append = || {
        let outcomes = Outcomes::new();
        let batches = vec![(partition, batch_of(b"k", b"v", 0))];
        let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
        log.submit(Append { batches, class: Class::All }, Some(Reply { sink, tag: 1 }));
        outcomes.wait(1, &|| {
            log.pump();
        })
    };
    assert!(matches!(append(), Outcome::Committed(_)));
    log.fence(partition);
    assert_eq!(append(), Outcome::Refused(Refusal::Fenced));
    log.release(partition);
    assert!(matches!(append(), Outcome::Committed(_)));
}

fn harness_over(adversity: Adversity, threaded: bool) -> Harness {
    let clock = Arc::new(ManualClock::default());
    let inner = Arc::new(ModelLog::new(Arc::clone(&clock) as Arc<dyn floodplain_types::Clock>));
    let log = if threaded { AdverseLog::start(inner, adversity, 5) } else { AdverseLog::new(inner, adversity, 5) };
    let pumped = Arc::clone(&log);
    let pump = move || {
        if !threaded {
            pumped.pump();
        }
    };
    let exact = adversity == Adversity::MILD;
    let owning = Some(Owning::alone(Arc::clone(&log) as Arc<dyn Log>));
    Harness { pump: Arc::new(pump), exact, owning, ..Harness::new(log, clock) }
}

#[test]
fn the_model_keeps_the_contract() {
    conformance::run(&|| {
        let clock = Arc::new(ManualClock::default());
        let log = ModelLog::new(Arc::clone(&clock) as Arc<dyn floodplain_types::Clock>);
        let owning = Some(Owning::alone(Arc::new(log.clone())));
        Harness { owning, ..Harness::new(Arc::new(log), clock) }
    });
}

#[test]
fn the_contract_holds_under_mild_adversity() {
    conformance::run(&|| harness_over(Adversity::MILD, false));
}

#[test]
fn the_contract_holds_under_harsh_adversity() {
    conformance::run(&|| harness_over(Adversity::HARSH, false));
}

#[test]
fn the_contract_holds_when_a_thread_pumps() {
    conformance::run(&|| harness_over(Adversity::HARSH, true));
}

/// What two appends of two threads look like, of which the second one tells first.
#[test]
fn a_watermark_that_is_told_late_takes_none_back() {
    let log = AdverseLog::new(model(), Adversity::NONE, 1);
    let partition = stream(&*log).partition(0);
    log.tap.advanced(&[(partition, Position::new(0, 6))]);
    log.tap.advanced(&[(partition, Position::new(0, 5))]);
    log.pump();
    assert_eq!(log.watermark(partition), Position::new(0, 6));
}
