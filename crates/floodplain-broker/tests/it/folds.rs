//! The four folds on a log that is as bad as its contract allows, with an owner that dies at random.

use floodplain_broker::folds::{
    Close, CloseReason, Event, FOLDS, Open, Positions, PresenceFold, Progress, REQUESTS, RetainedFold, RunId,
    SessionFold, Subscription, TELEMETRY, WaitingIndex, Will,
};
use floodplain_fold::{Fold, Input, Next, Output, Outputs, Runner, RunnerConfig, RunnerError, Snapshots, fold_whole};
use floodplain_log::{
    Append, BatchBuilder, Compression, Disk, Log, MessageRef, Outcome, Record, Reply, Stream, header,
};
use floodplain_testkit::{AdverseLog, Adversity, FaultDisk, ModelLog, Outcomes, wait_until};
use floodplain_types::{
    Class, ManualClock, PartitionId, Position, StreamId, StreamName, TenantId, Timestamp, Topic, TopicFilter,
    filter_matches,
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

/// A fold, and what happens to it.
trait Subject: Fold + Default {
    /// The stream that it reads.
    const INPUT: &'static str;

    /// What it is told after each start, at this position.
    fn begin(&mut self, _position: Position) {}

    /// Something is written to its stream.
    fn happen(case: &mut Case);

    /// What must hold of the state that the log leads to, and of what was emitted, whatever the fold's own code says.
    fn check(&self, case: &Case, seed: u64);
}

const CLIENTS: [&str; 4] = ["a", "b", "c", "d"];

struct Case {
    log: Arc<AdverseLog>,
    disk: Arc<dyn Disk>,
    requests: Stream,
    telemetry: Stream,
    folds: Stream,
    rng: SmallRng,
    outcomes: Arc<Outcomes>,
    next_tag: u64,
    now_s: i64,
    /// The epoch of each client, where its Open was acknowledged.
    epochs: BTreeMap<&'static str, Position>,
    opens: u64,
    run: u64,
    /// Copies of snapshots that were written.
    snapshots: u64,
}

impl Case {
    fn new(adversity: Adversity, seed: u64) -> Self {
        let model = ModelLog::new(Arc::new(ManualClock::default()));
        let log = AdverseLog::new(Arc::new(model), adversity, seed);
        let open = |name: &str| {
            let tenant = TenantId::default_tenant();
            let id = StreamId { tenant, stream: StreamName::new(name).unwrap(), generation: 0 };
            log.open_stream(&id, 1).unwrap()
        };
        Self {
            requests: open(REQUESTS),
            telemetry: open(TELEMETRY),
            folds: open(FOLDS),
            log,
            disk: Arc::new(FaultDisk::new(seed)),
            rng: SmallRng::seed_from_u64(seed),
            outcomes: Outcomes::new(),
            next_tag: 0,
            now_s: 1000,
            epochs: BTreeMap::new(),
            opens: 0,
            run: 1,
            snapshots: 0,
        }
    }

    fn input<F: Subject>(&self) -> &Stream {
        if F::INPUT == REQUESTS { &self.requests } else { &self.telemetry }
    }

    fn runner<F: Subject>(&self) -> Runner<F> {
        let input = self.input::<F>();
        let id = PartitionId { stream: (*input.id).clone(), index: 0 };
        let config = RunnerConfig {
            partition: input.partition(0),
            snapshots: Snapshots::new(self.disk.clone(), Path::new("/folds"), F::NAME, &id),
            id,
            outputs: vec![(TELEMETRY, self.telemetry.clone())],
            folds: Some(self.folds.clone()),
        };
        let mut runner = Runner::open(F::default(), config, &*self.log).unwrap();
        let position = runner.position();
        runner.fold_mut().begin(position);
        runner
    }

    fn submit(&mut self, append: Append) -> Outcome {
        self.next_tag += 1;
        self.log.submit(append, Some(Reply { sink: self.outcomes.clone(), tag: self.next_tag }));
        self.outcomes.wait(self.next_tag, &|| _ = self.log.pump())
    }

    fn event(&mut self, client: &str, event: &Event) -> Outcome {
        let id = format!("w:{}", self.next_tag);
        let mut builder = BatchBuilder::new();
        let headers = [(header::DEDUP_ID, id.as_bytes())];
        builder.push(self.now_s * 1000, Some(client.as_bytes()), Some(&event.encode()), headers).unwrap();
        let batch = builder.finish(Compression::None).unwrap();
        self.submit(Append { batches: vec![(self.requests.partition(0), batch)], class: Class::All })
    }

    /// A message of one of few devices, which may be retained, delete what is retained, or expire.
    fn message(&mut self) {
        self.now_s += self.rng.random_range(0..5);
        let id = format!("w:{}", self.next_tag);
        let payload = if self.rng.random_ratio(1, 5) { String::new() } else { format!("{id}!") };
        let message = MessageRef {
            topic: TOPICS[self.rng.random_range(0..TOPICS.len())],
            key: CLIENTS[self.rng.random_range(0..CLIENTS.len())].as_bytes(),
            payload: payload.as_bytes(),
            qos: self.rng.random_range(0..3),
            retain: self.rng.random(),
            expiry_seconds: self.rng.random_ratio(1, 4).then(|| self.rng.random_range(1..60)),
            ingest_time_ns: Some(self.now_s * 1_000_000_000),
            dedup_id: Some(&id),
            ..MessageRef::default()
        };
        let mut builder = BatchBuilder::new();
        message.write(&mut builder, self.now_s * 1000, std::iter::empty()).unwrap();
        let batch = builder.finish(Compression::None).unwrap();
        self.submit(Append { batches: vec![(self.telemetry.partition(0), batch)], class: Class::All });
    }

    /// Something happens to some client.
    fn request(&mut self) {
        self.now_s += self.rng.random_range(0..5);
        if self.rng.random_ratio(1, 30) {
            self.run += 1;
            self.event("", &Event::ServerStart { run: RunId(self.run) });
            return;
        }
        let client = CLIENTS[self.rng.random_range(0..CLIENTS.len())];
        let epoch = self.epochs.get(client).copied();
        match (self.rng.random_range(0..4), epoch) {
            (0, Some(epoch)) => {
                let close = Close {
                    epoch,
                    reason: CloseReason::ConnectionLost,
                    fires_will: self.rng.random_ratio(3, 4),
                    session_expiry_s: None,
                    progress: Progress::default(),
                };
                self.event(client, &Event::Close(Box::new(close)));
            }
            (1, Some(epoch)) => {
                let filter = TopicFilter::new(["x/#", "y"][self.rng.random_range(0..2)]).unwrap();
                let subscription = Subscription {
                    filter,
                    qos: 1,
                    no_local: false,
                    retain_as_published: false,
                    id: None,
                    retained_due: false,
                };
                let start = Positions::default();
                self.event(client, &Event::Subscribe { epoch, subscriptions: vec![subscription], start });
            }
            (2, _) => _ = self.event("", &Event::Tick),
            _ => {
                self.opens += 1;
                let will = Will {
                    topic: Topic::new("gone").unwrap(),
                    payload: self.opens.to_string().into(),
                    qos: 1,
                    retain: false,
                    delay_s: self.rng.random_range(0..8),
                    expiry_s: None,
                    payload_format: None,
                    content_type: None,
                    response_topic: None,
                    correlation: None,
                    user_properties: Vec::new(),
                    stream: 0,
                };
                let open = Open {
                    run: RunId(self.run),
                    protocol_level: 5,
                    takes_over: false,
                    clean_start: self.rng.random_ratio(1, 4),
                    session_expiry_s: self.rng.random_range(0..20),
                    keep_alive_s: 30,
                    peer: String::new(),
                    will: Some(will),
                };
                match self.event(client, &Event::Open(Box::new(open))) {
                    Outcome::Committed(positions) => drop(self.epochs.insert(client, positions[0])),
                    Outcome::Unknown => drop(self.epochs.remove(client)),
                    Outcome::Refused(_) => {}
                }
            }
        }
    }

    /// Drives an owner for so many steps, or until everything is out: then gives it.
    fn live<F: Subject>(&mut self, mut steps: usize) -> Option<Runner<F>> {
        let mut runner = self.runner::<F>();
        runner.limit_steps(self.rng.random_range(1..4));
        let mut idle = 0;
        while steps > 0 {
            steps -= 1;
            match runner.next(&*self.log, Timestamp::from_millis(1)) {
                Next::Append(append) => {
                    let outcome = self.submit(append);
                    match runner.on_outcome(outcome) {
                        Err(RunnerError::Fenced { .. }) => return None,
                        other => drop(other.unwrap()),
                    }
                }
                Next::Read { partition, from, .. } => {
                    let read = self.log.read(partition, from, 1).unwrap();
                    runner.on_read(&*self.log, partition, from, Ok(&read)).unwrap();
                }
                Next::Step => runner.step(),
                Next::Idle => {
                    idle += 1;
                    self.log.pump();
                    if idle > 20 && runner.is_settled() {
                        return Some(runner);
                    }
                }
            }
            if self.rng.random_ratio(1, 8) {
                runner.begin_copy();
                runner.copy_on(self.rng.random_range(1..200), Timestamp(0));
            }
            if self.rng.random_ratio(1, 3) {
                runner.copy_on(self.rng.random_range(1..200), Timestamp(0));
            }
            if let Some(snapshot) = runner.take_snapshot() {
                runner.snapshots().write(&snapshot).unwrap();
                self.snapshots += 1;
            }
        }
        None
    }

    fn quiet(&self) {
        wait_until("the log is quiet", &|| _ = self.log.pump(), || !self.log.pump());
    }

    /// Folds all that is in the log: the state, and what must be emitted, by dedup id.
    fn reference<F: Subject>(&self) -> (F, BTreeSet<(String, Vec<u8>)>) {
        let (mut fold, mut out, mut emitted) = (F::default(), Outputs::default(), BTreeSet::new());
        fold.begin(Position::ZERO);
        let mut log_time = Timestamp(i64::MIN);
        let stream = self.input::<F>();
        let read = self.log.read(stream.partition(0), Position::ZERO, usize::MAX).unwrap();
        for batch in &read.batches {
            for record in &batch.batch.records().unwrap() {
                let record = record.unwrap();
                let position = batch.position(&record);
                log_time = log_time.max(Timestamp::from_millis(batch.batch.timestamp_ms(&record)));
                let input = Input { partition: 0, position, log_time, record: &record, batch };
                fold_whole(&mut fold, &input, &mut out);
                emitted.extend(out.drain().enumerate().map(|(number, output): (usize, Output)| {
                    (format!("{}:{}/0:{position}:{number}", F::NAME, stream.id), output.value.unwrap())
                }));
            }
        }
        (fold, emitted)
    }

    /// Shows all records of a stream in order, without the copies that the log has made of some: position, log time.
    /// Gives the number of these.
    fn each(&self, stream: &Stream, mut show: impl FnMut(Position, Timestamp, &Record<'_>)) -> usize {
        let (mut seen, mut copies, mut log_time) = (BTreeSet::new(), 0, Timestamp(i64::MIN));
        let read = self.log.read(stream.partition(0), Position::ZERO, usize::MAX).unwrap();
        for batch in &read.batches {
            for record in &batch.batch.records().unwrap() {
                let record = record.unwrap();
                log_time = log_time.max(Timestamp::from_millis(batch.batch.timestamp_ms(&record)));
                let id = record.headers().flatten().find(|(name, _)| *name == header::DEDUP_ID).unwrap().1;
                if seen.insert((record.key.map(<[u8]>::to_vec), id.map(<[u8]>::to_vec))) {
                    show(batch.position(&record), log_time, &record);
                } else {
                    copies += 1;
                }
            }
        }
        copies
    }

    fn wills(&self) -> Vec<(String, Vec<u8>)> {
        let read = self.log.read(self.telemetry.partition(0), Position::ZERO, usize::MAX).unwrap();
        let mut wills = Vec::new();
        for batch in &read.batches {
            for record in &batch.batch.records().unwrap() {
                let record = record.unwrap();
                let id = record.headers().flatten().find(|(name, _)| *name == header::DEDUP_ID).unwrap().1.unwrap();
                wills.push((String::from_utf8(id.to_vec()).unwrap(), record.value.unwrap().to_vec()));
            }
        }
        wills
    }

    /// Writers and owners live; at last an owner that settles must have the state that the log leads to. Gives how many
    /// records the log had doubled, of the input and of what was emitted.
    fn check<F: Subject>(&mut self, seed: u64) -> (usize, usize) {
        for _ in 0..40 {
            for _ in 0..self.rng.random_range(0..4) {
                F::happen(self);
            }
            let steps = self.rng.random_range(0..40);
            self.live::<F>(steps);
        }
        self.quiet();
        let mut lives = 0;
        let settled = loop {
            match self.live::<F>(10_000) {
                Some(settled) => break settled,
                None => lives += 1,
            }
            assert!(lives < 100, "seed {seed}: does not settle");
        };
        self.quiet();
        let (expected, emitted) = self.reference::<F>();
        assert_eq!(settled.fold().state_hash(), expected.state_hash(), "seed {seed}");
        expected.check(self, seed);
        let copies = self.each(&self.input::<F>().clone(), |_, _, _| ());
        if !F::EMITS {
            return (copies, 0);
        }
        let found = self.wills();
        let distinct: BTreeSet<_> = found.iter().cloned().collect();
        assert_eq!(distinct, emitted, "seed {seed}");
        (copies, found.len() - distinct.len())
    }
}

impl Subject for SessionFold {
    const INPUT: &'static str = REQUESTS;

    fn happen(case: &mut Case) {
        case.request();
    }

    fn check(&self, case: &Case, seed: u64) {
        let distinct: BTreeSet<_> = case.wills().into_iter().collect();
        let payloads: BTreeSet<&Vec<u8>> = distinct.iter().map(|(_, payload)| payload).collect();
        assert_eq!(payloads.len(), distinct.len(), "seed {seed}: a will was sent twice");
        for (client, session) in self.sessions() {
            if let Some(will) = &session.will {
                let payload = will.payload.to_vec();
                assert!(!payloads.contains(&payload), "seed {seed}: {client} lives, and its will was sent");
            }
        }
    }
}

impl Subject for PresenceFold {
    const INPUT: &'static str = REQUESTS;

    fn happen(case: &mut Case) {
        case.request();
    }

    /// Who has opened a connection is there until that one is closed, or another server starts.
    fn check(&self, case: &Case, seed: u64) {
        let mut expected = BTreeMap::new();
        case.each(&case.requests, |position, _, record| {
            let client = String::from_utf8(record.key.unwrap_or_default().to_vec()).unwrap();
            match Event::decode(record.value.unwrap()).unwrap() {
                Event::Open(open) => _ = expected.insert(client, (position, true, open.run)),
                Event::Close(close) => {
                    let known = expected.get_mut(&client).filter(|(epoch, ..)| *epoch == close.epoch);
                    known.into_iter().for_each(|(_, is_connected, _)| *is_connected = false);
                }
                Event::ServerStart { run } => {
                    let others = expected.values_mut().filter(|(.., of)| *of != run);
                    others.for_each(|(_, is_connected, _)| *is_connected = false);
                }
                _ => {}
            }
        });
        let expected: Vec<_> = expected.into_iter().map(|(client, (epoch, here, _))| (client, epoch, here)).collect();
        let found: Vec<_> =
            self.iter().map(|(client, known)| (client.to_string(), known.epoch, known.is_connected)).collect();
        assert_eq!(found, expected, "seed {seed}");
        assert_eq!(self.connected(), expected.iter().filter(|(.., here)| *here).count(), "seed {seed}");
    }
}

const TOPICS: [&str; 5] = ["a", "a/b", "a/b/c", "d", "d/e"];

impl Subject for RetainedFold {
    const INPUT: &'static str = TELEMETRY;

    fn happen(case: &mut Case) {
        case.message();
    }

    /// Of each topic the last one that was to be retained, if it is no deletion and has not expired.
    fn check(&self, case: &Case, seed: u64) {
        let mut expected = BTreeMap::new();
        case.each(&case.telemetry, |_, log_time, record| {
            expected
                .retain(|_, (_, expires): &mut (Vec<u8>, Option<Timestamp>)| expires.is_none_or(|at| at > log_time));
            let message = MessageRef::parse(record).unwrap();
            if message.retain {
                let expires = message
                    .expiry_seconds
                    .map(|seconds| Timestamp(message.ingest_time_ns.unwrap() + i64::from(seconds) * 1_000_000_000));
                expected.insert(message.topic.to_owned(), (message.payload.to_vec(), expires));
            }
        });
        expected.retain(|_, (payload, _)| !payload.is_empty());
        let page = self.page("#", None, 100);
        let held = page.candidates.iter().filter_map(|candidate| Some((candidate, candidate.record.as_ref()?)));
        let found: BTreeMap<_, _> = held
            .map(|(candidate, held)| {
                let record = Record::parse(&held.bytes).unwrap();
                let message = MessageRef::parse(&record).unwrap();
                assert_eq!(message.topic, &*candidate.topic, "seed {seed}");
                (candidate.topic.to_string(), (message.payload.to_vec(), held.expires_at))
            })
            .collect();
        assert_eq!(found, expected, "seed {seed}");
    }
}

const FILTERS: [&str; 4] = ["a/#", "+", "d/e", "a/+/c"];

impl Subject for WaitingIndex {
    const INPUT: &'static str = TELEMETRY;

    /// Sessions want them from the first message on.
    fn begin(&mut self, position: Position) {
        FILTERS.iter().for_each(|filter| self.add_filter(&TopicFilter::new(filter).unwrap(), Position::ZERO, position));
    }

    fn happen(case: &mut Case) {
        case.message();
    }

    /// All messages that match wait, each once.
    fn check(&self, case: &Case, seed: u64) {
        for filter in FILTERS {
            let mut expected = Vec::new();
            case.each(&case.telemetry, |position, _, record| {
                let message = MessageRef::parse(record).unwrap();
                if message.qos > 0 && filter_matches(filter, message.topic) {
                    expected.push((position, message.qos));
                }
            });
            let page = self.page([(filter, Position::ZERO)], usize::MAX);
            let found: Vec<_> = page.postings.iter().map(|posting| (posting.reference.position, posting.qos)).collect();
            assert_eq!(found, expected, "seed {seed}, {filter}");
        }
    }
}

#[test]
fn a_will_is_sent_once_on_the_adverse_log() {
    let (mut wills, mut doubled) = (0, 0);
    for seed in 0..60 {
        let adversity = Adversity { duplicates: 0, ..Adversity::HARSH };
        let (_, copies) = Case::new(adversity, seed).check::<SessionFold>(seed);
        assert_eq!(copies, 0, "seed {seed}: the log doubled nothing");
        let mut case = Case::new(Adversity::HARSH, seed);
        doubled += case.check::<SessionFold>(seed).1;
        wills += case.wills().len();
    }
    assert!(wills > 300 && doubled > 0, "{wills} wills, {doubled} doubled: too little has happened");
}

fn is_what_the_log_leads_to<F: Subject>() {
    let (mut copies, mut snapshots) = (0, 0);
    for seed in 0..60 {
        let mut case = Case::new(Adversity::HARSH, seed);
        copies += case.check::<F>(seed).0;
        snapshots += case.snapshots;
    }
    assert!(copies > 50 && snapshots > 50, "{copies} copies, {snapshots} snapshots: too little has happened");
}

#[test]
fn presence_is_what_an_adverse_log_leads_to() {
    is_what_the_log_leads_to::<PresenceFold>();
}

#[test]
fn retained_messages_are_what_an_adverse_log_leads_to() {
    is_what_the_log_leads_to::<RetainedFold>();
}

#[test]
fn what_waits_is_what_an_adverse_log_leads_to() {
    is_what_the_log_leads_to::<WaitingIndex>();
}
