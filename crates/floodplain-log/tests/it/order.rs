//! Refusals keep the order of a submitter; a journal ends when it is old.

use floodplain_log::{Append, CompletionSink, Embedded, EmbeddedConfig, InOrder, Log, Outcome, Refusal, Reply, Stream};
use floodplain_testkit::{FaultDisk, Outcomes, batch_of, wait_until};
use floodplain_types::{Class, Clock, ManualClock, Position, StreamId, StreamName, TenantId, Timestamp};
use std::{sync::Arc, time::Duration};

struct Bed {
    disk: FaultDisk,
    clock: Arc<ManualClock>,
    log: Arc<Embedded>,
    stream: Stream,
    outcomes: Arc<Outcomes>,
}

impl Bed {
    fn new(config: EmbeddedConfig) -> Self {
        let disk = FaultDisk::new(7);
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000)));
        let (log, _) = Embedded::open(Arc::new(disk.clone()), Arc::clone(&clock) as Arc<dyn Clock>, config).unwrap();
        let name = StreamName::new("order").unwrap();
        let id = StreamId { tenant: TenantId::default_tenant(), stream: name, generation: 0 };
        let stream = log.open_stream(&id, 1).unwrap();
        Self { disk, clock, log, stream, outcomes: Outcomes::new() }
    }

    fn submit(&self, tag: u64, payload_bytes: usize, refusals_seen: u64) {
        let batch = batch_of(b"k", &vec![b'x'; payload_bytes], 1);
        let append = Append { batches: vec![(self.stream.partition(0), batch)], class: Class::All };
        let reply = Reply { sink: Arc::clone(&self.outcomes) as Arc<dyn CompletionSink>, tag };
        self.log.submit_in_order(append, reply, InOrder { submitter: 3, refusals_seen });
    }

    fn end(&self, tag: u64) -> Outcome {
        self.outcomes.wait(tag, &|| ())
    }

    fn journals(&self) -> usize {
        let is_journal = |path: &std::path::Path| path.to_string_lossy().contains("journal-");
        self.disk.files().iter().filter(|(path, _)| is_journal(path)).count()
    }
}

fn config() -> EmbeddedConfig {
    EmbeddedConfig { reserve_bytes: Some(0), ..EmbeddedConfig::new("/log") }
}

#[test]
fn nothing_overtakes_an_append_that_was_refused() {
    let bed = Bed::new(config());
    bed.submit(0, 10, 0);
    assert!(matches!(bed.end(0), Outcome::Committed(_)));

    bed.disk.set_total_bytes(bed.disk.used_bytes() + 4_000);
    bed.submit(1, 100_000, 0);
    assert!(matches!(bed.end(1), Outcome::Refused(Refusal::DiskFull { .. })));
    // It would fit, but the submitter has not heard of the refusal: its record would change places.
    bed.submit(2, 10, 0);
    assert_eq!(bed.end(2), Outcome::Refused(Refusal::AfterRefused));
    // Space alone does not help; having heard does, in order.
    bed.disk.set_total_bytes(1 << 40);
    bed.submit(3, 10, 1);
    assert_eq!(bed.end(3), Outcome::Refused(Refusal::AfterRefused));
    bed.submit(1, 100_000, 3);
    bed.submit(2, 10, 3);
    assert!(matches!(bed.end(1), Outcome::Committed(positions) if positions == [Position::new(0, 1)]));
    assert!(matches!(bed.end(2), Outcome::Committed(positions) if positions == [Position::new(0, 2)]));

    // Others have heard of nothing, and need not.
    let batch = batch_of(b"k", b"other", 1);
    let append = Append { batches: vec![(bed.stream.partition(0), batch)], class: Class::All };
    let reply = Reply { sink: Arc::clone(&bed.outcomes) as Arc<dyn CompletionSink>, tag: 9 };
    bed.log.submit(append, Some(reply));
    assert!(matches!(bed.end(9), Outcome::Committed(_)));
}

#[test]
fn what_is_queued_behind_a_refused_append_is_refused_with_it() {
    for _ in 0..50 {
        let bed = Bed::new(config());
        bed.disk.set_total_bytes(bed.disk.used_bytes() + 4_000);
        bed.submit(1, 100_000, 0);
        for tag in 2..20 {
            bed.submit(tag, 10, 0);
        }
        let committed: Vec<u64> = (1..20).filter(|tag| matches!(bed.end(*tag), Outcome::Committed(_))).collect();
        assert_eq!(committed, [0; 0], "they were behind one that was refused");
        assert_eq!(bed.log.queued_bytes(), 0);
    }
}

#[test]
fn a_quiet_log_ends_its_journal_so_that_age_can_take_it() {
    let retention_age = Duration::from_hours(8);
    let bed = Bed::new(EmbeddedConfig { retention_age, ..config() });
    bed.submit(0, 10, 0);
    assert!(matches!(bed.end(0), Outcome::Committed(_)));
    let partition = bed.stream.partition(0);
    bed.log.maintain().unwrap();
    assert_eq!(bed.journals(), 1);
    // Nobody writes any more.
    bed.clock.advance(retention_age + Duration::from_secs(1));
    let pump = || bed.log.maintain().unwrap();
    wait_until("age passes the record", &pump, || bed.log.start(partition) == Position::new(0, 1));
    assert_eq!(bed.log.watermark(partition), Position::new(0, 1));
    bed.submit(1, 10, 0);
    assert!(matches!(bed.end(1), Outcome::Committed(positions) if positions == [Position::new(0, 1)]));
}
