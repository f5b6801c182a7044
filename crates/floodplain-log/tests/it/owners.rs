//! Ownership where there is one process.

use floodplain_log::{AllSlots, Append, CompletionSink, Fence, Log, Outcome, OwnerSink, Owners, Refusal, Reply, Slot};
use floodplain_testkit::{ModelLog, Outcomes, batch_of};
use floodplain_types::{Class, ManualClock, Position, StreamId, StreamName, TenantId, Timestamp};
use std::sync::{Arc, Mutex};

#[derive(Debug, PartialEq)]
enum Told {
    Gained(Fence),
    Lost(Slot),
}

#[derive(Debug, Default)]
struct Sink(Mutex<Vec<Told>>);

impl OwnerSink for Sink {
    fn gained(&self, fence: Fence) {
        self.0.lock().unwrap().push(Told::Gained(fence));
    }

    fn lost(&self, slot: Slot) {
        self.0.lock().unwrap().push(Told::Lost(slot));
    }
}

#[test]
fn one_process_owns_all_slots_until_it_releases_them() {
    let log = Arc::new(ModelLog::new(Arc::new(ManualClock::new(Timestamp(0)))));
    let (tenant, stream) = (TenantId::default_tenant(), StreamName::new("a").unwrap());
    let partition = log.open_stream(&StreamId { tenant, stream, generation: 0 }, 1).unwrap().partition(0);
    let owners = AllSlots::new(Arc::clone(&log) as Arc<dyn Log>, 2);
    let sink = Arc::new(Sink::default());
    owners.watch(Arc::clone(&sink) as Arc<dyn OwnerSink>);
    let told = std::mem::take(&mut *sink.0.lock().unwrap());
    let [Told::Gained(first), Told::Gained(second)] = told[..] else { panic!("{told:?}") };
    assert_eq!((first.slot(), second.slot(), owners.slots()), (Slot(0), Slot(1), 2));

    let outcomes = Outcomes::new();
    let commit = |fence, tag| {
        let append = Append { batches: vec![(partition, batch_of(b"key", b"value", 1))], class: Class::All };
        let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
        owners.commit(fence, append, Reply { sink, tag });
        outcomes.wait(tag, &|| ())
    };
    assert_eq!(commit(first, 1), Outcome::Committed(vec![Position::ZERO]));
    assert_eq!(commit(second, 2), Outcome::Committed(vec![Position::ZERO.next()]));
    assert_eq!(commit(Fence::new(Slot(2), 0), 3), Outcome::Refused(Refusal::Fenced), "there is no such slot");
    owners.release();
    owners.release();
    assert_eq!(*sink.0.lock().unwrap(), [Told::Lost(Slot(0)), Told::Lost(Slot(1))], "once each");
    assert_eq!(commit(first, 4), Outcome::Refused(Refusal::Fenced));
    assert_eq!(log.watermark(partition), Position::new(0, 2));
    let late = Arc::new(Sink::default());
    owners.watch(Arc::clone(&late) as Arc<dyn OwnerSink>);
    assert!(late.0.lock().unwrap().is_empty());
}
