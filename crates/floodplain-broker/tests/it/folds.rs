//! Sessions on a log that is as bad as its contract allows, with an owner that dies at random.

use floodplain_broker::folds::{
    Close, CloseReason, Event, FOLDS, Open, Positions, Progress, REQUESTS, RunId, SessionFold, Subscription, TELEMETRY,
    Will,
};
use floodplain_fold::{Fold, Input, Next, Output, Outputs, Runner, RunnerConfig, RunnerError, Snapshots, fold_whole};
use floodplain_log::{Append, BatchBuilder, Compression, Disk, Log, Outcome, Reply, Stream, header};
use floodplain_testkit::{AdverseLog, Adversity, FaultDisk, ModelLog, Outcomes, wait_until};
use floodplain_types::{
    Class, ManualClock, PartitionId, Position, StreamId, StreamName, TenantId, Timestamp, Topic, TopicFilter,
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

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
        }
    }

    fn runner(&self) -> Runner<SessionFold> {
        let id = PartitionId { stream: (*self.requests.id).clone(), index: 0 };
        let config = RunnerConfig {
            partition: self.requests.partition(0),
            snapshots: Snapshots::new(self.disk.clone(), Path::new("/folds"), SessionFold::NAME, &id),
            id,
            outputs: vec![(TELEMETRY, self.telemetry.clone())],
            folds: Some(self.folds.clone()),
        };
        Runner::open(SessionFold::default(), config, &*self.log).unwrap()
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

    /// Something happens to some client.
    fn step(&mut self) {
        self.now_s += self.rng.random_range(0..5);
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
                    run: RunId(1),
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

    /// Drives an owner for so many steps, or until everything is out.
    fn live(&mut self, mut steps: usize) -> bool {
        let mut runner = self.runner();
        runner.limit_steps(self.rng.random_range(1..4));
        let mut idle = 0;
        while steps > 0 {
            steps -= 1;
            match runner.next(&*self.log, Timestamp::from_millis(1)) {
                Next::Append(append) => {
                    let outcome = self.submit(append);
                    match runner.on_outcome(outcome) {
                        Err(RunnerError::Fenced { .. }) => return false,
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
                        return true;
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
            }
        }
        false
    }

    fn quiet(&self) {
        wait_until("the log is quiet", &|| _ = self.log.pump(), || !self.log.pump());
    }

    /// The state and the wills as they must be: dedup id, payload.
    fn reference(&self) -> (SessionFold, BTreeSet<(String, Vec<u8>)>) {
        let (mut fold, mut out, mut wills) = (SessionFold::default(), Outputs::default(), BTreeSet::new());
        let mut log_time = Timestamp(i64::MIN);
        let read = self.log.read(self.requests.partition(0), Position::ZERO, usize::MAX).unwrap();
        for batch in &read.batches {
            for record in &batch.batch.records().unwrap() {
                let record = record.unwrap();
                let position = batch.position(&record);
                log_time = log_time.max(Timestamp::from_millis(batch.batch.timestamp_ms(&record)));
                let input = Input { partition: 0, position, log_time, record: &record, batch };
                fold_whole(&mut fold, &input, &mut out);
                wills.extend(out.drain().enumerate().map(|(number, will): (usize, Output)| {
                    (format!("sessions:default.requests/0:{position}:{number}"), will.value.unwrap())
                }));
            }
        }
        (fold, wills)
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

    fn check(mut self, seed: u64) -> (usize, usize) {
        for _ in 0..40 {
            for _ in 0..self.rng.random_range(0..4) {
                self.step();
            }
            let steps = self.rng.random_range(0..40);
            self.live(steps);
        }
        self.quiet();
        let mut lives = 0;
        while !self.live(10_000) {
            lives += 1;
            assert!(lives < 100, "seed {seed}: does not settle");
        }
        self.quiet();
        let (fold, expected) = self.reference();
        let found = self.wills();
        let distinct: BTreeSet<_> = found.iter().cloned().collect();
        assert_eq!(distinct, expected, "seed {seed}");
        let payloads: BTreeSet<&Vec<u8>> = distinct.iter().map(|(_, payload)| payload).collect();
        assert_eq!(payloads.len(), distinct.len(), "seed {seed}: a will was sent twice");
        for (client, session) in fold.sessions() {
            if let Some(will) = &session.will {
                let payload = will.payload.to_vec();
                assert!(!payloads.contains(&payload), "seed {seed}: {client} lives, and its will was sent");
            }
        }
        (found.len(), distinct.len())
    }
}

#[test]
fn a_will_is_sent_once_on_the_adverse_log() {
    let (mut wills, mut doubled) = (0, 0);
    for seed in 0..60 {
        let adversity = Adversity { duplicates: 0, ..Adversity::HARSH };
        let (found, distinct) = Case::new(adversity, seed).check(seed);
        assert_eq!(found, distinct, "seed {seed}: the log doubled nothing");
        let (found, distinct) = Case::new(Adversity::HARSH, seed).check(seed);
        wills += distinct;
        doubled += found - distinct;
    }
    assert!(wills > 300 && doubled > 0, "{wills} wills, {doubled} doubled: too little has happened");
}
