//! Presence and the index of what waits on a log that retention and damage take parts of, with an owner that dies.

use super::{
    Close, CloseReason, Event, Lost, LostReason, Open, PresenceFold, Progress, RunId, WaitingIndex,
    feed::{Feed, message, message_batch},
};
use floodplain_fold::{Fold, Next, Runner, RunnerConfig, Snapshots};
use floodplain_log::{Append, Batch, BatchBuilder, Compression, Disk, Log, Read, ReadBatch, ReadError, Stream};
use floodplain_testkit::{FaultDisk, ModelLog};
use floodplain_types::{
    Class, ManualClock, PartitionId, Position, StreamId, StreamName, TenantId, Timestamp, TopicFilter, filter_matches,
};
use proptest::prelude::*;
use std::{collections::BTreeMap, ops::Range, path::Path, sync::Arc};

/// What happens to the log or its reader.
#[derive(Debug, Clone)]
enum Step<A> {
    Append(A),
    /// One read, or one step.
    Fold,
    /// About so many bytes of a snapshot are copied; a whole one is written.
    Copy(usize),
    /// The owner dies, and starts anew.
    Crash,
    /// Retention takes so many records.
    Trim(u64),
    /// So many records, so far from the end, are damaged.
    Damage(u64, u64),
    /// What an owner does now and then.
    Tick,
}

fn steps<A: std::fmt::Debug + Clone>(append: impl Strategy<Value = A>) -> impl Strategy<Value = Vec<Step<A>>> {
    let step = prop_oneof![
        6 => append.prop_map(Step::Append),
        6 => Just(Step::Fold),
        3 => (1_usize..200).prop_map(Step::Copy),
        1 => Just(Step::Crash),
        1 => (1_u64..6).prop_map(Step::Trim),
        1 => (1_u64..4, 0_u64..6).prop_map(|(len, back)| Step::Damage(len, back)),
        2 => Just(Step::Tick),
    ];
    prop::collection::vec(step, 1..80)
}

const fn at(offset: u64) -> Position {
    Position::new(0, offset)
}

struct Lossy<F: Fold + Default> {
    log: ModelLog,
    stream: Stream,
    disk: Arc<dyn Disk>,
    runner: Runner<F>,
    damaged: Vec<Range<u64>>,
    /// What this life has folded, that of earlier ones that its snapshot holds included.
    seen: Vec<ReadBatch>,
    /// So much of that is in the copy that is being made, and in the snapshot that was written.
    in_copy: usize,
    in_snapshot: usize,
}

impl<F: Fold + Default> Lossy<F> {
    fn new() -> Self {
        let log = ModelLog::new(Arc::new(ManualClock::default()));
        let id = StreamId { tenant: TenantId::default_tenant(), stream: StreamName::new("s").unwrap(), generation: 0 };
        let stream = log.open_stream(&id, 1).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(FaultDisk::new(1));
        let runner = Self::open(&log, &stream, &disk);
        Self { log, stream, disk, runner, damaged: Vec::new(), seen: Vec::new(), in_copy: 0, in_snapshot: 0 }
    }

    fn open(log: &ModelLog, stream: &Stream, disk: &Arc<dyn Disk>) -> Runner<F> {
        let id = PartitionId { stream: (*stream.id).clone(), index: 0 };
        let snapshots = Snapshots::new(disk.clone(), Path::new("/folds"), F::NAME, &id);
        let config = RunnerConfig { partition: stream.partition(0), id, outputs: Vec::new(), folds: None, snapshots };
        let mut runner = Runner::open(F::default(), config, log).unwrap();
        runner.limit_steps(1);
        runner
    }

    fn end(&self) -> u64 {
        self.log.watermark(self.stream.partition(0)).offset
    }

    fn start(&self) -> Position {
        self.log.start(self.stream.partition(0))
    }

    /// Reads one batch, or finds it gone: an engine steps over damage, or says where to go on.
    fn read(&self, from: Position) -> Result<Read, ReadError> {
        let read = self.log.read(self.stream.partition(0), from, 1)?;
        let Some(batch) = read.batches.first() else { return Ok(read) };
        match self.damaged.iter().find(|lost| lost.contains(&batch.base.offset)) {
            None => Ok(read),
            Some(lost) if lost.start % 2 == 0 => {
                let next = at(lost.end);
                Ok(Read { batches: Vec::new(), next, damaged: vec![from..next] })
            }
            Some(lost) => {
                let (file, reason, next) = ("segment".to_owned(), "checksum".to_owned(), at(lost.end));
                Err(ReadError::Corrupt { file, at: 0, reason, next })
            }
        }
    }

    /// False if there was nothing to do.
    fn fold(&mut self) -> bool {
        match self.runner.next(&self.log, Timestamp(0)) {
            Next::Read { partition, from, .. } => {
                match self.read(from) {
                    Ok(read) => {
                        let new = read.batches.iter().filter(|batch| batch.base >= self.runner.position()).cloned();
                        self.seen.extend(new);
                        self.runner.on_read(&self.log, partition, from, Ok(&read)).unwrap();
                    }
                    Err(error) => drop(self.runner.on_read(&self.log, partition, from, Err(error)).unwrap()),
                }
                true
            }
            Next::Step => {
                self.runner.step();
                true
            }
            Next::Append(_) | Next::Idle => false,
        }
    }

    fn step(&mut self, step: Step<Batch>) {
        let partition = self.stream.partition(0);
        match step {
            Step::Append(batch) => {
                self.log.submit(Append { batches: vec![(partition, batch)], class: Class::All }, None);
            }
            Step::Fold => _ = self.fold(),
            Step::Copy(len) => {
                if !self.runner.is_copying() {
                    self.runner.begin_copy();
                    self.in_copy = self.seen.len();
                }
                self.runner.copy_on(len, Timestamp(0));
                if let Some(snapshot) = self.runner.take_snapshot() {
                    self.runner.snapshots().write(&snapshot).unwrap();
                    self.in_snapshot = self.in_copy;
                }
            }
            Step::Crash => {
                self.runner = Self::open(&self.log, &self.stream, &self.disk);
                self.seen.truncate(self.in_snapshot);
            }
            Step::Trim(count) => {
                let to = (self.start().offset + count).min(self.end());
                self.log.trim(partition, at(to));
            }
            Step::Damage(len, back) => {
                let end = self.end().saturating_sub(back);
                let start = end.saturating_sub(len).max(self.start().offset);
                // One range does not touch another, as engines report them.
                if start < end && self.damaged.iter().all(|lost| lost.end < start || end < lost.start) {
                    self.damaged.push(start..end);
                }
            }
            Step::Tick => {}
        }
    }
}

fn event(seconds: i64, client: &str, event: &Event) -> Batch {
    let mut builder = BatchBuilder::new();
    let key = (!client.is_empty()).then_some(client.as_bytes());
    builder.push(seconds * 1000, key, Some(&event.encode()), []).unwrap();
    builder.finish(Compression::None).unwrap()
}

/// What a client does, which one, when, and how.
fn request() -> impl Strategy<Value = (u8, usize, i64, u64)> {
    (0_u8..4, 0_usize..5, 0_i64..400_000, 0_u64..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Presence is what the records tell that it has seen, whatever the log has lost, and however often its owner died.
    #[test]
    fn presence_is_what_it_has_seen(steps in steps(request())) {
        let mut lossy = Lossy::<PresenceFold>::new();
        let mut now = 0;
        for step in steps {
            let step = match step {
                Step::Append((kind, client, passes, n)) => {
                    now += passes;
                    let client = ["a", "b", "c", "d", "e"][client];
                    let open = Open {
                        run: RunId(n % 2),
                        takes_over: false,
                        protocol_level: 5,
                        clean_start: true,
                        session_expiry_s: 0,
                        keep_alive_s: 30,
                        peer: String::new(),
                        will: None,
                    };
                    // Epochs are positions: often one of the newest.
                    let epoch = at(lossy.end().saturating_sub(1 + n));
                    let (reason, progress) = (CloseReason::ConnectionLost, Progress::default());
                    let close = Close { epoch, reason, fires_will: true, session_expiry_s: None, progress };
                    Step::Append(match kind {
                        0 | 1 => event(now, client, &Event::Open(Box::new(open))),
                        2 => event(now, client, &Event::Close(Box::new(close))),
                        _ => event(now, "", &Event::ServerStart { run: RunId(n % 2) }),
                    })
                }
                Step::Fold => Step::Fold,
                Step::Copy(len) => Step::Copy(len),
                Step::Crash => Step::Crash,
                Step::Trim(count) => Step::Trim(count),
                Step::Damage(len, back) => Step::Damage(len, back),
                Step::Tick => Step::Tick,
            };
            lossy.step(step);
        }
        while lossy.fold() {}
        let mut expected = Feed::<PresenceFold>::default();
        for batch in &lossy.seen {
            expected.next = batch.base.offset;
            expected.batch(batch.batch.clone());
            // A part of a copy is there before the next record; it is of the moment it began.
            expected.copy_on(30);
        }
        expected.copy_all();
        let fold = lossy.runner.fold();
        prop_assert_eq!(fold.state_hash(), expected.fold.state_hash());
        prop_assert_eq!(fold.connected(), fold.iter().filter(|(_, presence)| presence.is_connected).count());
        // All that is there, and was not lost, was seen.
        let seen: Vec<u64> = lossy.seen.iter().map(|batch| batch.base.offset).collect();
        let is_lost = |offset: &u64| lossy.damaged.iter().any(|lost| lost.contains(offset));
        for offset in (lossy.start().offset..lossy.end()).filter(|offset| !is_lost(offset)) {
            prop_assert!(seen.contains(&offset), "{} was not folded", offset);
        }
    }
}

const TOPICS: [&str; 3] = ["a", "a/b", "c"];
const FILTERS: [&str; 3] = ["a/#", "+", "c"];

/// One session for each filter: what it still needs, and what it was told not to get.
struct Sleepers {
    needs: BTreeMap<&'static str, Position>,
    told: Vec<Lost>,
}

impl Sleepers {
    /// As after a start: the filters are told.
    fn tell(&self, lossy: &mut Lossy<WaitingIndex>) {
        let position = lossy.runner.position();
        for (name, from) in &self.needs {
            lossy.runner.fold_mut().add_filter(&TopicFilter::new(name).unwrap(), *from, position);
        }
    }

    fn hear(&mut self, index: &mut WaitingIndex) {
        for lost in index.take_lost() {
            let needs = self.needs.get_mut(lost.filter.as_str()).unwrap();
            if lost.reason != LostReason::Damage {
                *needs = (*needs).max(lost.last.next());
            }
            self.told.push(lost);
        }
    }

    fn tick(&mut self, lossy: &mut Lossy<WaitingIndex>) {
        let start = lossy.start();
        let index = lossy.runner.fold_mut();
        index.retention(start);
        for (name, needs) in &self.needs {
            index.needed(name, *needs);
        }
        self.hear(index);
        let Some((from, _)) = lossy.runner.fold_mut().needs_backfill() else { return };
        let read = lossy.read(from);
        let index = lossy.runner.fold_mut();
        match read {
            Ok(read) => index.backfill(&read),
            Err(ReadError::Trimmed { start, .. }) => {
                index.retention(start);
                index.backfill(&Read { next: start, ..Read::default() });
            }
            Err(ReadError::Corrupt { next, .. }) => {
                index.backfill(&Read { next, damaged: vec![from..next], ..Read::default() });
            }
            Err(error) => panic!("{error}"),
        }
        self.hear(index);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Every message that a session wants waits for it, or it is told that it is lost.
    #[test]
    fn what_does_not_wait_is_told(
        steps in steps((0_usize..3, 0_u8..3)),
        from in prop::array::uniform3(0_u64..12),
    ) {
        let mut lossy = Lossy::<WaitingIndex>::new();
        let mut published = Vec::new();
        let needs = FILTERS.into_iter().zip(from.map(at)).collect();
        let mut sleepers = Sleepers { needs, told: Vec::new() };
        sleepers.tell(&mut lossy);
        for step in steps {
            let is_crash = matches!(step, Step::Crash);
            match step {
                Step::Append((topic, qos)) => {
                    published.push((TOPICS[topic], qos));
                    lossy.step(Step::Append(message_batch(0, &message("d", TOPICS[topic], b"x", qos))));
                }
                Step::Tick => sleepers.tick(&mut lossy),
                Step::Fold => lossy.step(Step::Fold),
                Step::Copy(len) => lossy.step(Step::Copy(len)),
                Step::Crash => lossy.step(Step::Crash),
                Step::Trim(count) => lossy.step(Step::Trim(count)),
                Step::Damage(len, back) => lossy.step(Step::Damage(len, back)),
            }
            // What is not heard before a crash is said again.
            if is_crash {
                sleepers.tell(&mut lossy);
            }
        }
        while lossy.fold() {}
        sleepers.tick(&mut lossy);
        while lossy.runner.fold_mut().needs_backfill().is_some() {
            sleepers.tick(&mut lossy);
        }
        sleepers.tick(&mut lossy);
        for (name, from) in FILTERS.into_iter().zip(from) {
            let page = lossy.runner.fold().page([(name, sleepers.needs[name])], usize::MAX);
            let waits: Vec<u64> = page.postings.iter().map(|posting| posting.reference.position.offset).collect();
            let matching = |offset: &u64| {
                published.get(*offset as usize).is_some_and(|(topic, qos)| *qos > 0 && filter_matches(name, topic))
            };
            prop_assert!(waits.iter().all(matching), "{} of {}", name, waits.len());
            let told = |offset: u64| {
                let mut told = sleepers.told.iter().filter(|lost| lost.filter.as_str() == name);
                told.any(|lost| lost.first <= at(offset) && at(offset) <= lost.last)
            };
            for offset in (from..published.len() as u64).filter(matching) {
                prop_assert!(waits.contains(&offset) || told(offset), "{} at {} is neither there nor told", name, offset);
            }
        }
    }
}
