//! The commit thread: one sync for all that is queued; what goes on while it is slow, stuck or gone.

use floodplain_log::{
    Append, Completion, CompletionSink, Embedded, EmbeddedConfig, Log, Outcome, Refusal, Reply, Stream,
};
use floodplain_testkit::{Counts, Fault, FaultDisk, Op, Outcomes, Rule, batch_of, wait_until};
use floodplain_types::{Class, Clock, ManualClock, Position, StreamId, StreamName, TenantId};
use std::sync::Arc;

struct Bed {
    disk: FaultDisk,
    log: Arc<Embedded>,
    stream: Stream,
    outcomes: Arc<Outcomes>,
    counts: Counts,
}

impl Bed {
    fn new(partitions: u32, config: EmbeddedConfig) -> Self {
        let disk = FaultDisk::new(3);
        let counts = Counts::default();
        let clock = Arc::new(ManualClock::default()) as Arc<dyn Clock>;
        let open = || Embedded::open(Arc::new(disk.clone()), clock, config).unwrap();
        let (log, _) = metrics::with_local_recorder(&counts, open);
        let name = StreamName::new("s").unwrap();
        let id = StreamId { tenant: TenantId::default_tenant(), stream: name, generation: 0 };
        let stream = log.open_stream(&id, partitions).unwrap();
        Self { disk, log, stream, outcomes: Outcomes::new(), counts }
    }

    /// Submits one record of `len` bytes to each of the partitions, as one unit.
    fn submit(&self, tag: u64, partitions: impl Iterator<Item = u32>, len: usize) {
        let sink = Arc::clone(&self.outcomes) as Arc<dyn CompletionSink>;
        self.submit_to(sink, tag, partitions, len);
    }

    fn submit_to(&self, sink: Arc<dyn CompletionSink>, tag: u64, partitions: impl Iterator<Item = u32>, len: usize) {
        let batches = partitions.map(|index| (self.stream.partition(index), batch_of(b"k", &vec![b'x'; len], 1)));
        self.log.submit(Append { batches: batches.collect(), class: Class::All }, Some(Reply { sink, tag }));
    }

    fn end(&self, tag: u64) -> Outcome {
        self.outcomes.wait(tag, &|| ())
    }

    fn put(&self, len: usize) -> Outcome {
        self.submit(u64::MAX, 0..1, len);
        self.end(u64::MAX)
    }

    /// Commit groups so far.
    fn groups(&self) -> u64 {
        self.counts.get("floodplain_log_groups_total")
    }

    /// Bytes of all files with records.
    fn size(&self) -> u64 {
        self.counts.gauge("floodplain_log_size_bytes") as u64
    }

    /// Syncs of journals so far.
    fn syncs(&self) -> u64 {
        self.disk.stats().calls_on.get(&(Op::Sync, "log/journal".to_owned())).copied().unwrap_or(0)
    }

    /// Offsets of the first partition that can be read.
    fn offsets(&self) -> Vec<u64> {
        let partition = self.stream.partition(0);
        let (mut at, mut offsets) = (self.log.start(partition), Vec::new());
        while at < self.log.watermark(partition) {
            let read = self.log.read(partition, at, 2_000).unwrap();
            offsets.extend(read.batches.iter().map(|batch| batch.base.offset));
            at = read.next;
        }
        offsets
    }
}

fn config() -> EmbeddedConfig {
    EmbeddedConfig { reserve_bytes: Some(0), ..EmbeddedConfig::new("data/log") }
}

#[test]
fn a_group_is_synced_once_however_many_partitions_and_units_it_has() {
    const PARTITIONS: u32 = 1_000;
    let bed = Bed::new(PARTITIONS, config());
    let (syncs, groups) = (bed.syncs(), bed.groups());
    bed.submit(0, 0..PARTITIONS, 10);
    assert!(matches!(bed.end(0), Outcome::Committed(positions) if positions.len() == PARTITIONS as usize));
    assert_eq!((bed.syncs() - syncs, bed.groups() - groups), (1, 1));
    // All that comes during a sync is the next group.
    let gate = bed.disk.close_gate(Op::Sync, "log/journal");
    bed.submit(1, 0..1, 10);
    gate.wait_for_a_call();
    (2..500).for_each(|tag| bed.submit(tag, (0..PARTITIONS).skip(tag as usize).step_by(100), 10));
    drop(gate);
    (1..500).for_each(|tag| assert!(matches!(bed.end(tag), Outcome::Committed(_)), "{tag}"));
    assert_eq!((bed.syncs() - syncs, bed.groups() - groups), (3, 3));
}

#[test]
fn reads_go_on_and_memory_is_bounded_while_a_sync_takes_for_ever() {
    const QUEUE_BYTES: u64 = 64 << 10;
    let bed = Bed::new(
        1,
        EmbeddedConfig { journal_bytes: 4 << 10, tail_bytes: 2 << 10, queue_bytes: QUEUE_BYTES, ..config() },
    );
    let partition = bed.stream.partition(0);
    (0..100).for_each(|_| assert!(matches!(bed.put(100), Outcome::Committed(_))));
    bed.log.maintain().unwrap();
    let gate = bed.disk.close_gate(Op::Sync, "log/journal");
    bed.submit(0, 0..1, 100);
    gate.wait_for_a_call();
    // From segments and journals as well as from memory.
    let newest = Position::new(0, 99);
    let read_all = || {
        assert_eq!(bed.offsets(), (0..100).collect::<Vec<_>>());
        assert_eq!(bed.log.read_cached(partition, newest, 1 << 20).unwrap().batches.len(), 1);
    };
    read_all();
    let mut accepted = 0;
    let refusal = loop {
        bed.submit(accepted + 1, 0..1, 1_000);
        assert!(bed.log.queued_bytes() <= QUEUE_BYTES);
        if let Some(outcome) = bed.outcomes.take(accepted + 1) {
            break outcome;
        }
        accepted += 1;
        assert!(accepted * 1_000 < QUEUE_BYTES, "more is queued than fits");
    };
    assert_eq!(refusal, Outcome::Refused(Refusal::Overloaded { capacity_bytes: QUEUE_BYTES }));
    assert!(accepted > QUEUE_BYTES / 1_200, "{accepted} appends were queued");
    read_all();
    assert_eq!(bed.log.watermark(partition), Position::new(0, 100), "nothing is committed before its sync");
    assert_eq!(bed.outcomes.waiting(), 0);
    drop(gate);
    for tag in 0..=accepted {
        assert_eq!(bed.end(tag), Outcome::Committed(vec![Position::new(0, 100 + tag)]));
    }
    assert_eq!(bed.log.queued_bytes(), 0);
}

#[test]
fn a_log_that_gets_no_segments_is_behind_is_read_and_resumes() {
    // Every group has a journal of its own.
    let bed = Bed::new(1, EmbeddedConfig { journal_bytes: 1, tail_bytes: 0, ..config() });
    bed.disk.fail(Rule::nth(1, Fault::Eio).of(Op::Create).on_kind("log/segment.tmp").for_ever());
    let mut committed = 0;
    let refusal = loop {
        match bed.put(10) {
            Outcome::Committed(_) => committed += 1,
            other => break other,
        }
        assert!(committed < 300, "{committed} journals are open");
    };
    assert_eq!(refusal, Outcome::Refused(Refusal::Behind { journals: 257, frames: 257 }));
    assert_eq!(committed, 258, "with the one that is being written");
    assert_eq!(bed.log.queued_bytes(), bed.log.queue_capacity_bytes(), "callers stop taking work");
    assert!(bed.disk.stats().open_files < 300);
    assert_eq!(bed.offsets(), (0..committed).collect::<Vec<_>>());
    bed.disk.heal();
    bed.log.maintain().unwrap();
    assert_eq!(bed.log.queued_bytes(), 0);
    assert_eq!(bed.put(10), Outcome::Committed(vec![Position::new(0, committed)]));
}

#[test]
fn a_log_that_gets_no_new_journal_goes_on_with_the_old_one_and_is_behind_in_the_end() {
    let bed = Bed::new(1, EmbeddedConfig { journal_bytes: 4 << 10, ..config() });
    bed.disk.fail(Rule::nth(1, Fault::Eio).of(Op::Create).on_kind("log/journal").for_ever());
    let mut committed = 0;
    let refusal = loop {
        match bed.put(100) {
            Outcome::Committed(_) => committed += 1,
            other => break other,
        }
    };
    assert_eq!(refusal, Outcome::Refused(Refusal::Behind { journals: 1, frames: committed }));
    let journal = bed.disk.files().into_iter().find(|(path, _)| path.to_string_lossy().contains("journal-")).unwrap();
    assert!((28 << 10..=32 << 10).contains(&journal.1), "{journal:?}");
    bed.disk.heal();
    assert_eq!(bed.put(100), Outcome::Committed(vec![Position::new(0, committed)]));
    assert_eq!(bed.offsets(), (0..=committed).collect::<Vec<_>>());
}

/// A sink with a fault of its own.
#[derive(Debug)]
struct Panics;

impl CompletionSink for Panics {
    fn complete(&self, _: Vec<Completion>) {
        panic!("made to fail");
    }
}

#[test]
fn when_the_commit_thread_panics_the_log_is_poisoned_and_every_caller_is_told() {
    let bed = Bed::new(1, config());
    let gate = bed.disk.close_gate(Op::Sync, "log/journal");
    bed.submit(0, 0..1, 10);
    gate.wait_for_a_call();
    // One group with the sink that panics, others behind it.
    bed.submit(1, 0..1, 10);
    bed.submit_to(Arc::new(Panics), 2, 0..1, 10);
    (3..9).for_each(|tag| bed.submit(tag, 0..1, 900_000));
    let future = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let batches = vec![(bed.stream.partition(0), batch_of(b"k", b"future", 1))];
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(floodplain_log::append(&*bed.log, Append { batches, class: Class::All }))
        });
        let (units, queued) = (8, 6 * 900_000);
        wait_until("the last append is queued", &|| (), || bed.log.queued_bytes() > queued + units * 100);
        drop(gate);
        waiting.join().unwrap()
    });
    assert_eq!(bed.end(0), Outcome::Committed(vec![Position::ZERO]));
    // Of the same group: it was synced, so this is the truth.
    assert_eq!(bed.end(1), Outcome::Committed(vec![Position::new(0, 1)]));
    let ends: Vec<_> = (3..9).map(|tag| bed.end(tag)).collect();
    let committed = ends.iter().take_while(|end| matches!(end, Outcome::Committed(_))).count();
    assert!((1..6).contains(&committed), "some were in the group, some behind it: {ends:?}");
    let is_told = |end: &Outcome| matches!(end, Outcome::Unknown | Outcome::Refused(Refusal::Poisoned { .. }));
    assert!(ends[committed..].iter().all(is_told) && is_told(&future), "{ends:?} {future:?}");

    wait_until("the log is poisoned", &|| (), || bed.log.poisoned().is_some());
    assert!(matches!(bed.put(10), Outcome::Refused(Refusal::Poisoned { .. })));
    assert_eq!(bed.offsets(), (0..3 + committed as u64).collect::<Vec<_>>());
    bed.log.close();
}

/// Also what no segment holds yet.
#[test]
fn the_size_of_the_log_is_told_as_it_grows() {
    let bed = Bed::new(1, config());
    let journals = || -> u64 {
        let files = bed.disk.files().into_iter();
        files.filter(|(path, _)| path.to_string_lossy().contains("journal-")).map(|(_, len)| len).sum()
    };
    // The first round of house-keeping may come before a group, or after it.
    for _ in 0..3 {
        assert!(matches!(bed.put(10_000), Outcome::Committed(_)));
        wait_until("the size", &|| (), || bed.size() == journals());
    }
    assert!(bed.size() > 30_000, "{}", bed.size());
}
