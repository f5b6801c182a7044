use super::*;
use crate::{rule::v1, transition::Cause};
use floodplain_fold::Folder;
use floodplain_log::{Disk, MessageRef};
use floodplain_testkit::{AdverseLog, Adversity, FaultDisk, ModelLog, wait_until};
use floodplain_types::{ManualClock, StreamId, StreamName, TenantId};
use serde_json::json;
use std::path::Path;

/// Remembers what it was told, and does not take it while it is `out`.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>, AtomicBool);

impl Post for Told {
    fn post(&self, _webhook: &Webhook, body: &str) -> std::result::Result<u16, String> {
        lock(&self.0).push(body.to_owned());
        if self.1.load(Ordering::Relaxed) { Err("nobody is there".to_owned()) } else { Ok(200) }
    }
}

/// What stays when the process goes.
struct Rig {
    log: Arc<ModelLog>,
    /// What alerts see of it.
    over: Arc<dyn Log>,
    disk: Arc<dyn Disk>,
    clock: Arc<ManualClock>,
    told: Arc<Told>,
    telemetry: Stream,
    /// `telemetry` and one more.
    data: DataStreams,
    alerts: Stream,
    state: Stream,
}

fn second(n: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + n * 1000)
}

fn rule(json: serde_json::Value) -> Rule {
    serde_json::from_value::<v1::Alert>(json).unwrap().try_into().unwrap()
}

fn hot() -> Rule {
    rule(
        json!({ "name": "hot", "kind": "above", "table": "engine", "column": "oil", "value": 120, "webhook": "http://h/" }),
    )
}

fn quiet() -> Rule {
    rule(json!({ "name": "quiet", "kind": "silent", "minutes": 1, "devices": "d*" }))
}

impl Rig {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(second(0)));
        let log = Arc::new(ModelLog::new(clock.clone()));
        let open = |name: &str| {
            let (tenant, stream) = (TenantId::default_tenant(), StreamName::new(name).unwrap());
            log.open_stream(&StreamId { tenant, stream, generation: 0 }, 4).unwrap()
        };
        let (telemetry, alerts, state) = (open("telemetry"), open("alerts"), open("state"));
        let fast = [StreamName::new("fast").unwrap()];
        let data = DataStreams::open(&*log, &TenantId::default_tenant(), 4, &fast).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(FaultDisk::new(1));
        Self { over: log.clone(), log, disk, clock, told: Arc::default(), telemetry, data, alerts, state }
    }

    fn hostile(adversity: Adversity, seed: u64) -> Self {
        let mut rig = Self::new();
        rig.over = AdverseLog::start(rig.log.clone(), adversity, seed);
        rig
    }

    /// Waits until alerts can see all that there is.
    fn all_seen(&self) {
        let streams = self.log.streams();
        let partitions =
            || streams.iter().flat_map(|stream| (0..stream.partitions).map(|index| stream.partition(index)));
        let is_seen = || partitions().all(|partition| self.over.watermark(partition) == self.log.watermark(partition));
        wait_until("all that was written is seen", &|| {}, is_seen);
    }

    fn open(&self, rules: &[Rule]) -> Alerts {
        self.try_open(rules).unwrap()
    }

    fn try_open(&self, rules: &[Rule]) -> Result<Alerts> {
        let (data, alerts, state) = (self.data.clone(), self.alerts.clone(), self.state.clone());
        let config = AlertsConfig {
            snapshots: Arc::new(Folder::new(self.disk.clone(), Path::new("/data"))),
            data,
            state,
            alerts,
            rules: rules.to_vec(),
            patience: Patience::default(),
        };
        Alerts::open(config, self.over.clone(), self.clock.clone(), self.told.clone())
    }

    /// A message to `topic`, received now.
    fn publish(&self, device: &str, topic: &str) {
        self.publish_in(0, device, topic);
    }

    /// The same in another stream.
    fn publish_in(&self, stream: u32, device: &str, topic: &str) {
        let message = MessageRef { topic, key: device.as_bytes(), payload: b"1", ..MessageRef::default() };
        let mut builder = BatchBuilder::new();
        message.write(&mut builder, self.clock.now().as_millis(), std::iter::empty()).unwrap();
        let batch = builder.finish(Compression::None).unwrap();
        let partition = self.data.partition(self.data.index_of_key(stream, device.as_bytes()));
        store::append(&*self.log, vec![(partition, batch)]).unwrap();
    }

    /// All messages to `alerts/#`: topics and states, which are those that are kept.
    fn told(&self) -> Vec<String> {
        self.told_and_kept().expect("what subscribers get is what is kept")
    }

    /// The same; `None` if other ones are kept in stream `alerts`.
    fn told_and_kept(&self) -> Option<Vec<String>> {
        let read = |stream: &Stream| {
            let mut found = Vec::new();
            for index in 0..stream.partitions {
                let read = self.log.read(stream.partition(index), Position::ZERO, 1 << 20).unwrap();
                for batch in &read.batches {
                    for record in batch.batch.records().unwrap().iter().map(|record| record.unwrap()) {
                        let Ok(message) = MessageRef::parse(&record) else { continue };
                        if is_of_alerts(message.topic) {
                            let json: serde_json::Value = serde_json::from_slice(message.payload).unwrap();
                            found.push(format!("{} {}", message.topic, json["state"].as_str().unwrap()));
                        }
                    }
                }
            }
            if !self.over.keeps_units_whole() {
                // Each of both may be there again.
                found.dedup();
            }
            found
        };
        let (told, mut kept) = (read(&self.telemetry), read(&self.alerts));
        let mut sorted = told.clone();
        sorted.sort();
        kept.sort();
        (sorted == kept).then_some(told)
    }
}

fn row(alerts: &Alerts, topic: &str, device: &str, offset: u64, at: Timestamp, oil: f64) {
    let number = |column: &str| (column == "oil").then_some(oil);
    let place = Cause { partition: 0, position: Position::new(0, offset), row: 0 };
    alerts.row(topic, &Row { table: "engine", device, time: Some(at), received: at, place, number: &number });
}

#[test]
fn a_transition_is_stored_once_whatever_happens_in_between() {
    let rig = Rig::new();
    let alerts = rig.open(&[]);
    alerts.put(hot()).unwrap();
    row(&alerts, "devices/a/engine", "a", 1, second(1), 130.0);
    assert_eq!(rig.told(), [""; 0], "not before it is settled");
    alerts.settle().unwrap();
    alerts.settle().unwrap();
    assert_eq!(rig.told(), ["alerts/hot/a firing"]);
    assert_eq!(alerts.firing_count(), 1);
    wait_until("the webhook", &|| (), || lock(&rig.told.0).len() == 1);
    // The process is gone; rows come again, and one that was not settled.
    drop(alerts);
    let alerts = rig.open(&[]);
    assert_eq!(alerts.list()[0].firing, [Firing { device: "a".into(), since: second(1), value: Some(130.0) }]);
    for (offset, oil) in [(0, 100.0), (1, 130.0), (2, 100.0)] {
        row(&alerts, "devices/a/engine", "a", offset, second(offset as i64), oil);
    }
    alerts.settle().unwrap();
    assert_eq!(rig.told(), ["alerts/hot/a firing", "alerts/hot/a resolved"]);
    assert_eq!((alerts.list()[0].fired, alerts.firing_count()), (1, 0));
    drop(alerts);
    let alerts = rig.open(&[]);
    for (offset, oil) in [(1, 130.0), (2, 100.0)] {
        row(&alerts, "devices/a/engine", "a", offset, second(offset as i64), oil);
    }
    alerts.settle().unwrap();
    assert_eq!(rig.told().len(), 2);
}

#[test]
fn messages_of_alerts_are_not_judged_and_nobody_can_forge_a_state() {
    let rig = Rig::new();
    let alerts = rig.open(&[]);
    alerts.put(hot()).unwrap();
    row(&alerts, "alerts/hot/a", "a", 1, second(1), 130.0);
    let forged = r#"{"alert":"hot","device":"a","state":"firing","since":"2023-01-01T00:00:00Z","value":1}"#;
    let message = MessageRef { topic: "alerts/hot/a", key: b"a", payload: forged.as_bytes(), ..MessageRef::default() };
    let mut builder = BatchBuilder::new();
    message.write(&mut builder, 1, [("rule", "1")].into_iter()).unwrap();
    let batch = builder.finish(Compression::None).unwrap();
    store::append(&*rig.log, vec![(rig.telemetry.partition_of(b"a"), batch)]).unwrap();
    alerts.settle().unwrap();
    assert_eq!(alerts.firing_count(), 0);
    drop(alerts);
    assert_eq!(rig.open(&[]).firing_count(), 0);
}

#[test]
fn what_a_rule_has_begun_ends_with_it() {
    let rig = Rig::new();
    let alerts = rig.open(&[]);
    alerts.put(hot()).unwrap();
    row(&alerts, "t", "a", 1, second(1), 130.0);
    alerts.settle().unwrap();
    alerts.delete("hot").unwrap();
    assert_eq!(rig.told(), ["alerts/hot/a firing", "alerts/hot/a resolved"]);
    assert!(alerts.list().is_empty());
    wait_until("the webhook", &|| (), || lock(&rig.told.0).len() == 2);
    assert!(matches!(alerts.delete("hot"), Err(Error::Unknown { .. })));
}

#[test]
fn rules_of_the_file_come_and_go_with_it() {
    let rig = Rig::new();
    let alerts = rig.open(&[hot()]);
    row(&alerts, "t", "a", 1, second(1), 130.0);
    alerts.settle().unwrap();
    assert!(matches!(alerts.put(hot()), Err(Error::FromConfig { .. })));
    assert!(matches!(alerts.delete("hot"), Err(Error::FromConfig { .. })));
    drop(alerts);
    let alerts = rig.open(&[hot()]);
    assert_eq!(alerts.firing_count(), 1, "the same rule goes on");
    drop(alerts);
    let alerts = rig.open(&[]);
    assert_eq!((alerts.list().len(), alerts.firing_count()), (0, 0));
    assert_eq!(rig.told(), ["alerts/hot/a firing", "alerts/hot/a resolved"]);
}

#[test]
fn silence_is_noticed_and_ends_with_the_next_message() {
    let rig = Rig::new();
    rig.publish("d1", "devices/d1/engine");
    rig.publish("other", "devices/other/engine");
    let alerts = rig.open(&[]);
    alerts.put(quiet()).unwrap();
    let turn = |alerts: &Alerts, seconds: u64| {
        rig.clock.advance(Duration::from_secs(seconds));
        alerts.0.turn().unwrap();
        rig.told()
    };
    assert_eq!(turn(&alerts, 59), [""; 0]);
    assert_eq!(turn(&alerts, 1), ["alerts/quiet/d1 firing"]);
    assert_eq!(alerts.list()[0].firing, [Firing { device: "d1".into(), since: second(0), value: None }]);
    // The message of the alert is no sign of life, whoever sends it.
    rig.publish("d1", "alerts/quiet/d2");
    rig.clock.advance(Duration::from_secs(1));
    alerts.0.turn().unwrap();
    assert_eq!(alerts.firing_count(), 1);
    // Over a restart it stays silent, and nobody becomes silent because nobody listened.
    rig.publish("d2", "devices/d2/engine");
    rig.clock.advance(Duration::from_secs(3600));
    write(alerts.0.snapshots());
    drop(alerts);
    let alerts = rig.open(&[]);
    alerts.0.turn().unwrap();
    assert_eq!(alerts.firing_count(), 1);
    rig.publish("d1", "devices/d1/engine");
    alerts.0.turn().unwrap();
    assert_eq!(alerts.firing_count(), 0);
    rig.clock.advance(Duration::from_secs(60));
    alerts.0.turn().unwrap();
    let devices: Vec<_> = alerts.list()[0].firing.iter().map(|firing| firing.device.to_string()).collect();
    assert_eq!(devices, ["d1", "d2"]);
    let silent = alerts.silent_now(&quiet(), 10).unwrap();
    assert_eq!(silent.iter().map(|one| one.device.as_str()).collect::<Vec<_>>(), ["d1", "d2"]);
    assert_eq!(alerts.silent_now(&quiet(), 1).unwrap().len(), 1);
}

/// Who is heard in any stream is not silent, and is silent once.
#[test]
fn a_device_is_heard_in_every_stream() {
    let rig = Rig::new();
    rig.publish("d1", "devices/d1/engine");
    rig.publish_in(1, "d2", "fast/d2");
    let alerts = rig.open(&[]);
    alerts.put(quiet()).unwrap();
    let turn = |seconds: u64| {
        rig.clock.advance(Duration::from_secs(seconds));
        alerts.0.turn().unwrap();
        rig.told()
    };
    assert_eq!(turn(40), [""; 0]);
    rig.publish_in(1, "d1", "fast/d1");
    assert_eq!(turn(40), ["alerts/quiet/d2 firing"]);
    let silent =
        |max| -> Vec<String> { alerts.silent_now(&quiet(), max).unwrap().into_iter().map(|one| one.device).collect() };
    assert_eq!(silent(10), ["d2"]);
    rig.publish("d2", "devices/d2/engine");
    assert_eq!(turn(1).last().unwrap(), "alerts/quiet/d2 resolved");
    assert_eq!(turn(19), ["alerts/quiet/d2 firing", "alerts/quiet/d2 resolved", "alerts/quiet/d1 firing"]);
    assert_eq!(turn(60).last().unwrap(), "alerts/quiet/d2 firing");
    assert_eq!(silent(10), ["d1", "d2"], "each once");
    rig.publish_in(1, "d1", "fast/d1");
    assert_eq!(turn(1).last().unwrap(), "alerts/quiet/d1 resolved");
}

/// Alerts on a log that refuses, delays, leaves holes, and does not say what became of an append: then the process is gone,
/// and in the next one rows come again.
struct Hostile {
    rig: Rig,
    alerts: Alerts,
    /// Of each row so far: device and value.
    rows: Vec<(&'static str, f64)>,
    refused: u32,
    crashes: u32,
}

impl Hostile {
    fn new(adversity: Adversity, seed: u64) -> Self {
        let rig = Rig::hostile(adversity, seed);
        let alerts = Self::open(&rig);
        Self { rig, alerts, rows: Vec::new(), refused: 0, crashes: 0 }
    }

    fn open(rig: &Rig) -> Alerts {
        loop {
            rig.all_seen();
            match rig.try_open(&[hot(), quiet()]) {
                Ok(alerts) => return alerts,
                Err(error) => assert!(matches!(error, Error::Refused(_) | Error::Open), "{error}"),
            }
        }
    }

    fn judge(&self, from: usize) {
        for (at, (device, oil)) in self.rows.iter().enumerate().skip(from) {
            row(&self.alerts, "devices/x/engine", device, at as u64, second(at as i64), *oil);
        }
    }

    /// Does it until it is done.
    fn insist(&mut self, what: impl Fn(&Alerts) -> Result<()>) {
        loop {
            match what(&self.alerts) {
                Ok(()) => return,
                Err(Error::Refused(_)) => self.refused += 1,
                Err(Error::Open) => {
                    self.crashes += 1;
                    self.alerts = Self::open(&self.rig);
                    self.judge(0);
                }
                Err(error) => panic!("{error}: {error:?}"),
            }
        }
    }
}

#[test]
fn a_hostile_log_neither_loses_nor_doubles_a_transition() {
    let (mut refused, mut crashes) = (0, 0);
    for seed in 0..24 {
        // Of an append that the log writes twice everybody hears twice, and of one that it may tear after a crash; the states are
        // the same.
        let (is_once, torn) = (seed % 3 == 0, seed % 3 == 2);
        let adversity = Adversity { duplicates: if is_once { 0 } else { 50 }, torn, ..Adversity::HARSH };
        let mut hostile = Hostile::new(adversity, seed);
        let (mut expected, mut firing) = (Vec::new(), [false; 2]);
        for n in 0..40_usize {
            let (device, oil) = (n * 7 % 2, if n * 5 % 7 < 3 { 130.0 } else { 90.0 });
            hostile.rows.push((["a", "b"][device], oil));
            hostile.judge(n);
            hostile.insist(|alerts| alerts.settle());
            if firing[device] != (oil > 120.0) {
                firing[device] = !firing[device];
                let state = if firing[device] { "firing" } else { "resolved" };
                expected.push(format!("alerts/hot/{} {state}", ["a", "b"][device]));
            }
        }
        for n in 0..6 {
            hostile.rig.publish(["d1", "d2"][n % 2], "devices/x/engine");
            for (state, seconds) in [("resolved", 0), ("firing", 60)].into_iter().skip(usize::from(n < 2)) {
                expected.push(format!("alerts/quiet/{} {state}", ["d1", "d2"][n % 2]));
                // Who begins to listen does not know that it was silent before: after a crash it is told later.
                for tries in 0.. {
                    assert!(tries < 20, "seed {seed}: {:?} is not told", expected.last());
                    hostile.rig.clock.advance(Duration::from_secs(seconds));
                    hostile.rig.all_seen();
                    hostile.insist(|alerts| alerts.0.turn().map(drop));
                    // What was told and not kept before a crash is told again.
                    let told = hostile.rig.told_and_kept();
                    assert!(torn || told.is_some(), "seed {seed}: what subscribers get is what is kept");
                    if told.is_some_and(|told| told.last() == expected.last()) {
                        break;
                    }
                }
            }
        }
        let mut told = hostile.rig.told();
        if !is_once {
            told.dedup();
        }
        assert_eq!(told, expected, "seed {seed}");
        for alert in hostile.alerts.list() {
            let of_it = format!("alerts/{}/", alert.kept.rule.name);
            let begun = expected.iter().filter(|told| told.starts_with(&of_it) && told.ends_with(" firing"));
            assert_eq!(alert.fired as usize, begun.count(), "seed {seed}: {of_it}");
        }
        (refused, crashes) = (refused + hostile.refused, crashes + hostile.crashes);
    }
    assert!(refused > 10 && crashes > 10, "{refused} refusals, {crashes} crashes");
}

#[test]
fn the_thread_does_all_that_by_itself() {
    let rig = Rig::new();
    rig.publish("d1", "devices/d1/engine");
    let service = rig.open(&[quiet()]).start().unwrap();
    rig.clock.advance(Duration::from_secs(60));
    wait_until("silence", &|| (), || service.alerts().firing_count() == 1);
    rig.publish("d1", "devices/d1/engine");
    wait_until("the end of silence", &|| (), || service.alerts().firing_count() == 0);
    service.stop();
}

#[test]
fn more_than_one_unit_is_committed_whole() {
    let rig = Rig::new();
    let alerts = rig.open(&[hot()]);
    for n in 0..1000 {
        row(&alerts, "t", &format!("device-{n}"), n, second(1), 130.0);
    }
    alerts.settle().unwrap();
    assert_eq!((alerts.firing_count(), rig.told().len()), (1000, 1000));
}

#[test]
fn what_a_webhook_was_not_told_it_is_told_after_the_next_start() {
    let rig = Rig::new();
    let told = || lock(&rig.told.0).len();
    rig.told.1.store(true, Ordering::Relaxed);
    let alerts = rig.open(&[]);
    alerts.put(hot()).unwrap();
    row(&alerts, "t", "a", 1, second(1), 130.0);
    row(&alerts, "t", "b", 2, second(1), 130.0);
    alerts.settle().unwrap();
    // Both are for one URL: the second waits for the first, which is tried again later.
    wait_until("the first try", &|| (), || told() == 1);
    drop(alerts);
    rig.told.1.store(false, Ordering::Relaxed);
    let alerts = rig.open(&[]);
    wait_until("the others", &|| (), || told() == 3);
    // The end of both deliveries is in the log.
    let owed = |alerts: &Alerts| {
        let mut core = lock(&alerts.0.core);
        core.states.iter_mut().for_each(|runner| while store::fold_some(&*rig.log, runner, second(0)).unwrap() {});
        core.states.iter().map(|runner| runner.fold().owed().count()).sum::<usize>()
    };
    wait_until("the receipts", &|| (), || owed(&alerts) == 0);
    drop(alerts);
    let alerts = rig.open(&[]);
    row(&alerts, "t", "a", 3, second(2), 100.0);
    alerts.settle().unwrap();
    wait_until("the end", &|| (), || told() == 4);
    assert!(lock(&rig.told.0)[3].contains("resolved"), "and nothing twice");
    assert_eq!(rig.told().len(), 3);
}

#[test]
fn what_fires_for_longer_than_the_log_goes_back_is_known() {
    let rig = Rig::new();
    let alerts = rig.open(&[]);
    alerts.put(hot()).unwrap();
    row(&alerts, "devices/a/engine", "a", 1, second(1), 130.0);
    row(&alerts, "devices/b/engine", "b", 2, second(2), 140.0);
    row(&alerts, "devices/b/engine", "b", 3, second(3), 90.0);
    alerts.settle().unwrap();
    assert_eq!(alerts.long_firing(), [], "the log has it");
    for index in 0..rig.alerts.partitions {
        let partition = rig.alerts.partition(index);
        rig.log.trim(partition, rig.log.watermark(partition));
    }
    let firing = Firing { device: "a".into(), since: second(1), value: Some(130.0) };
    assert_eq!(alerts.long_firing(), [("hot".into(), firing)]);
    row(&alerts, "devices/a/engine", "a", 4, second(4), 90.0);
    alerts.settle().unwrap();
    assert_eq!(alerts.long_firing(), []);
}
