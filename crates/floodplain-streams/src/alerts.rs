//! Alerts on the log: rules, who fires, and the thread that notices silence.

use crate::{
    Error, Result,
    evaluator::{Evaluator, Known, Row},
    heard::Heard,
    rule::{Rule, Webhook},
    rules::{KEY, Kept, Rules, RulesFold},
    states::{Pair, States},
    store::{self, Wake},
    transition::{Receipt, Transition, is_of_alerts, webhook_of},
    webhook::{Last, Patience, Post, Webhooks},
};
use floodplain_fold::{Objects, Runner, Snapshot, Snapshots};
use floodplain_log::{Append, Batch, BatchBuilder, Compression, DataStreams, Log, Partition, Refusal, Stream};
use floodplain_types::{Class, Clock, Position, Timestamp};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, Scope, ScopedJoinHandle},
    time::Duration,
};
use tracing::{error, info, warn};

/// Transitions in one append unit.
const UNIT_MAX: usize = 256;
/// Devices of one alert that an answer names; how many there are is said beside it.
const FIRING_MAX: usize = 1_000;
/// How long somebody who asks who is silent waits for the log to be read.
const LISTEN_MAX: Duration = Duration::from_secs(5);
/// How long the thread rests if nothing happens, and after a failure.
const IDLE: Duration = Duration::from_secs(1);
const BACKOFF: Duration = Duration::from_millis(200);
/// The least time between two looks at silence; larger fleets are looked at less often.
const REST: Duration = Duration::from_millis(50);
/// How often states are written down: retention of the log does not wait for them.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(60);

/// What an append is made of.
type Batches = Vec<(Partition, Batch)>;

/// Where alerts read, and where they keep what they know.
#[derive(Debug)]
pub struct AlertsConfig {
    /// Where snapshots of the folds are, below `alerts/`.
    pub snapshots: Arc<dyn Objects>,
    /// What devices publish; subscribers are told of transitions here, too.
    pub data: DataStreams,
    /// Where the document of rules is.
    pub state: Stream,
    /// The transitions. Nobody else writes here.
    pub alerts: Stream,
    /// Rules of the configuration file.
    pub rules: Vec<Rule>,
    /// How long webhooks are tried.
    pub patience: Patience,
}

/// A rule, and what became of it.
#[derive(Debug, Clone)]
pub struct Alert {
    pub kept: Kept,
    /// By device, at most 1,000.
    pub firing: Vec<Firing>,
    pub firing_count: usize,
    /// How often it began to fire.
    pub fired: u64,
    /// The last try to tell its webhook, since the start of the process.
    pub last_webhook: Option<Last>,
}

/// A device for which an alert fires.
#[derive(Debug, Clone, PartialEq)]
pub struct Firing {
    pub device: Arc<str>,
    pub since: Timestamp,
    pub value: Option<f64>,
}

/// A device that is silent for too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silent {
    pub device: String,
    pub heard: Timestamp,
}

/// Alerts of one tenant; cheap to clone. Methods block while the log commits, so call them where that may be.
///
/// Of its locks, that of what was heard is taken before that of the states.
#[derive(Debug, Clone)]
pub struct Alerts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    data: DataStreams,
    alerts: Stream,
    /// Nobody has listened before.
    started: Timestamp,
    wake: Arc<Wake>,
    /// Whether any rule judges rows.
    has_row_rules: AtomicBool,
    webhooks: Webhooks,
    /// Shared by the thread and by who asks who is silent.
    heard: Mutex<Vec<Runner<Heard>>>,
    /// Shared by the thread, by who brings rows, and by who asks or changes rules.
    core: Mutex<Core>,
}

#[derive(Debug)]
struct Core {
    rules: Runner<RulesFold>,
    /// Before the last change: who was to be told of what ends with it.
    rules_before: Arc<Rules>,
    states: Vec<Runner<States>>,
    evaluator: Evaluator,
    /// So many of the pending transitions are in the log, up to these positions, and not folded yet.
    appended: Option<(usize, Vec<(Partition, Position)>)>,
    /// When all devices are looked at next.
    scan_at: Timestamp,
}

impl Core {
    /// Where changes of the alert are told, by its rule or the one that it had before the last change.
    fn webhook(&self, alert: &str) -> Option<&Webhook> {
        let rules = [self.rules.fold().rules(), &self.rules_before];
        webhook_of(rules.into_iter().flat_map(|rules| rules.kept()).map(|kept| &kept.rule), alert)
    }
}

/// Appends a receipt; does not wait. One that is lost means that the webhook may be told again.
fn keep(log: &dyn Log, alerts: &Stream, receipt: &Receipt, now: Timestamp) {
    let mut builder = BatchBuilder::new();
    if receipt.write(&mut builder, now.as_millis()).is_err() {
        return;
    }
    let partition = alerts.partition_of(receipt.device.as_bytes());
    let batches: Vec<_> = builder.finish(Compression::None).map(|batch| (partition, batch)).into_iter().collect();
    log.submit(Append { batches, class: Class::Leader }, None);
}

/// When a device of the partition `index` of each data stream was last heard in any of them. `each` is how many
/// partitions a stream has.
fn heard_last(heard: &[Runner<Heard>], each: usize, index: usize, device: &str) -> Option<Timestamp> {
    heard[index..].iter().step_by(each).filter_map(|runner| runner.fold().get(device)).max()
}

/// All devices, each once, and when they were last heard in any stream.
fn all_heard(heard: &[Runner<Heard>], each: usize) -> impl Iterator<Item = (&str, Timestamp)> {
    (0..heard.len()).flat_map(move |at| {
        let (index, is_alone) = (at % each, heard.len() <= each);
        heard[at].fold().iter().filter_map(move |(device, time)| {
            if is_alone {
                return Some((device, time));
            }
            let mut before = heard[index..at].iter().step_by(each);
            let is_first = before.all(|runner| runner.fold().get(device).is_none());
            let last = is_first.then(|| heard_last(heard, each, index, device))?;
            Some((device, last.unwrap_or(time)))
        })
    })
}

/// Who fires, by the folds.
struct Pairs<'a>(&'a [Runner<States>], &'a Stream);

impl Pairs<'_> {
    fn of(&self, device: &str) -> &States {
        self.0[self.1.partition_of(device.as_bytes()).index as usize].fold()
    }
}

impl Known for Pairs<'_> {
    fn pair(&self, alert: &str, device: &str) -> Option<&Pair> {
        self.of(device).get(alert, device)
    }

    fn has_room(&self, device: &str, more: usize) -> bool {
        self.of(device).has_room(more)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Alerts {
    /// Reads rules and states up to the end of the log, and takes over the rules of the configuration file. Blocks.
    ///
    /// # Errors
    /// Those of disk and log; [`Error::TooMany`].
    pub fn open(config: AlertsConfig, log: Arc<dyn Log>, clock: Arc<dyn Clock>, post: Arc<dyn Post>) -> Result<Self> {
        let AlertsConfig { snapshots, data, state, alerts, rules: of_file, patience } = config;
        let now = clock.now();
        let ended = {
            let (log, alerts, clock) = (log.clone(), alerts.clone(), clock.clone());
            Arc::new(move |receipt: &Receipt| keep(&*log, &alerts, receipt, clock.now()))
        };
        let webhooks = Webhooks::start(post, clock.clone(), patience, ended).map_err(Error::Thread)?;
        let mut rules = store::open::<RulesFold>(&*log, &snapshots, state.partition_of(KEY.as_bytes()))?;
        while store::fold_some(&*log, &mut rules, now)? {}
        let open = |index| store::open::<States>(&*log, &snapshots, alerts.partition(index));
        let mut states = (0..alerts.partitions).map(open).collect::<Result<Vec<_>>>()?;
        for runner in &mut states {
            while store::fold_some(&*log, runner, now)? {}
        }
        let open = |(_, partition)| store::open::<Heard>(&*log, &snapshots, partition);
        let heard = data.all().map(open).collect::<Result<Vec<_>>>()?;
        let rules_before = rules.fold().rules().clone();
        let core = Core {
            rules,
            rules_before,
            states,
            evaluator: Evaluator::default(),
            appended: None,
            scan_at: Timestamp(i64::MIN),
        };
        let inner = Inner {
            log,
            clock,
            data,
            alerts,
            started: now,
            wake: Arc::default(),
            has_row_rules: AtomicBool::new(false),
            webhooks,
            heard: Mutex::new(heard),
            core: Mutex::new(core),
        };
        let inner = Arc::new(inner);
        inner.log.watch(inner.wake.clone());
        let mut core = lock(&inner.core);
        inner.tell_again(&core);
        let before = core.rules.fold().rules().clone();
        let next = before.with_config(&of_file, now)?;
        if next.kept() == before.kept() {
            inner.take_rules(&mut core, before);
        } else {
            inner.store(&mut core, &next)?;
        }
        drop(core);
        Ok(Self(inner))
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn start(self) -> Result<Service> {
        let alerts = self.clone();
        let run = move || alerts.0.run();
        let thread = std::thread::Builder::new().name("alerts".to_owned()).spawn(run).map_err(Error::Thread)?;
        Ok(Service { alerts: self, thread: Some(thread) })
    }

    /// All alerts, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Alert> {
        let core = lock(&self.0.core);
        core.rules.fold().rules().kept().iter().map(|kept| self.0.alert(&core, kept)).collect()
    }

    /// How many pairs of alert and device fire.
    #[must_use]
    pub fn firing_count(&self) -> usize {
        lock(&self.0.core).states.iter().map(|runner| runner.fold().firing().count()).sum()
    }

    /// What fires by a transition that retention has taken from the log, by alert and device.
    #[must_use]
    pub fn long_firing(&self) -> Vec<(Arc<str>, Firing)> {
        let core = lock(&self.0.core);
        let mut found = Vec::new();
        for runner in &core.states {
            let start = self.0.log.start(runner.partition());
            let long = runner.fold().firing().filter(|(_, _, pair)| pair.moved() < start);
            found.extend(long.map(|(alert, device, pair)| {
                (alert.clone(), Firing { device: device.clone(), since: pair.since, value: pair.value })
            }));
        }
        found
    }

    /// Puts a rule in the place of the one with its name, or beside the others. It is stored when this returns. What
    /// fired by the old one ends, if the new one judges otherwise.
    ///
    /// # Errors
    /// [`Error::FromConfig`], [`Error::TooMany`], or what the log says.
    pub fn put(&self, rule: Rule) -> Result<Alert> {
        let mut core = lock(&self.0.core);
        let name = rule.name.clone();
        let next = core.rules.fold().rules().with(rule, self.0.clock.now())?;
        self.0.store(&mut core, &next)?;
        let kept = core.rules.fold().rules().get(&name).ok_or(Error::Open)?;
        Ok(self.0.alert(&core, kept))
    }

    /// Removes a rule. What fired by it ends.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::FromConfig`], or what the log says.
    pub fn delete(&self, name: &str) -> Result<()> {
        let mut core = lock(&self.0.core);
        let next = core.rules.fold().rules().without(name)?;
        self.0.store(&mut core, &next)
    }

    /// Which devices are silent for too long by a rule of silence, at most `max` of them, by name.
    ///
    /// # Errors
    /// [`Error::Behind`] while the log is being read for the first time.
    pub fn silent_now(&self, rule: &Rule, max: usize) -> Result<Vec<Silent>> {
        let Some(limit) = rule.silence() else { return Ok(Vec::new()) };
        let now = self.0.clock.now();
        let until = self.0.watermarks();
        while self.0.listen(&until)? {
            if self.0.clock.now().since(now) > LISTEN_MAX {
                return Err(Error::Behind);
            }
        }
        let heard = lock(&self.0.heard);
        let devices = all_heard(&heard, self.0.data.partitions_each() as usize);
        let is_silent = |(device, heard): &(&str, Timestamp)| rule.is_for(device) && now.since(*heard) >= limit;
        let silent = devices.filter(is_silent).map(|(device, heard)| Silent { device: device.to_owned(), heard });
        let mut silent: Vec<Silent> = silent.collect();
        silent.sort_by(|one, other| one.device.cmp(&other.device));
        silent.truncate(max);
        Ok(silent)
    }

    /// Judges a row of a message with this topic. Does nothing while no rule is about rows, and never for messages of
    /// alerts.
    pub fn row(&self, topic: &str, row: &Row<'_>) {
        if !self.0.has_row_rules.load(Ordering::Relaxed) || is_of_alerts(topic) {
            return;
        }
        let mut core = lock(&self.0.core);
        let Core { states, evaluator, .. } = &mut *core;
        evaluator.row(&Pairs(states, &self.0.alerts), row);
    }

    /// Commits what rows have caused.
    ///
    /// # Errors
    /// What the log says; the next call tries again.
    pub fn settle(&self) -> Result<()> {
        if !self.0.has_row_rules.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.0.commit(&mut lock(&self.0.core))
    }
}

impl Inner {
    fn alert(&self, core: &Core, kept: &Kept) -> Alert {
        let name = &kept.rule.name;
        let states = || core.states.iter().map(Runner::fold);
        let mut firing: Vec<Firing> = states()
            .flat_map(|states| states.firing_of(name))
            .map(|(device, pair)| Firing { device: device.clone(), since: pair.since, value: pair.value })
            .collect();
        let firing_count = firing.len();
        firing.sort_by(|one, other| one.device.cmp(&other.device));
        firing.truncate(FIRING_MAX);
        let fired = states().map(|states| states.fired(name)).sum();
        Alert { kept: kept.clone(), firing, firing_count, fired, last_webhook: self.webhooks.last(name) }
    }

    /// Stores the document and makes it count.
    fn store(&self, core: &mut Core, next: &Rules) -> Result<()> {
        let partition = core.rules.partition();
        let value = next.to_stored();
        let too_large = || Refusal::TooLarge { bytes: value.len() as u64, max_bytes: self.log.queue_capacity_bytes() };
        let now = self.clock.now();
        let mut builder = BatchBuilder::new();
        builder.push(now.as_millis(), Some(KEY.as_bytes()), Some(&value), []).map_err(|_| too_large())?;
        let batch = builder.finish(Compression::None).ok_or_else(too_large)?;
        let before = core.rules.fold().rules().clone();
        let position = store::append(&*self.log, vec![(partition, batch)])?.first().copied().unwrap_or_default();
        store::fold_past(&*self.log, &mut core.rules, position, now)?;
        info!(alerts = next.kept().len(), "rules of alerts have changed");
        self.take_rules(core, before);
        if let Err(error) = self.commit(core) {
            warn!(%error, "what ends with the change of alerts is not told yet");
        }
        Ok(())
    }

    /// Makes the newest rules count, after those `before`.
    fn take_rules(&self, core: &mut Core, before: Arc<Rules>) {
        core.rules_before = before;
        let Core { rules, states, evaluator, .. } = core;
        let rules = rules.fold().rules();
        evaluator.set_rules(rules);
        let firing = states.iter().flat_map(|runner| runner.fold().firing());
        let firing: Vec<_> = firing.map(|(alert, device, pair)| (alert.clone(), device.clone(), pair.rule)).collect();
        evaluator.end_stale(&Pairs(states, &self.alerts), firing.into_iter(), self.clock.now());
        self.webhooks.keep(|alert| rules.get(alert).is_some());
        let is_on = |kept: &&Kept| kept.rule.enabled && kept.rule.silence().is_none();
        self.has_row_rules.store(rules.kept().iter().any(|kept| is_on(&kept)), Ordering::Relaxed);
        self.wake.listens.store(evaluator.silent().next().is_some(), Ordering::Relaxed);
        core.scan_at = Timestamp(i64::MIN);
        self.wake.wake();
    }

    /// Appends the transitions that wait, and tells webhooks.
    fn commit(&self, core: &mut Core) -> Result<()> {
        loop {
            let now = self.clock.now();
            let (count, positions) = match core.appended.take() {
                Some(appended) => appended,
                None => {
                    let pending = core.evaluator.pending();
                    if pending.is_empty() {
                        return Ok(());
                    }
                    let unit = &pending[..pending.len().min(UNIT_MAX)];
                    let (mut batches, messages) = self.unit(core, unit, now)?;
                    if self.log.keeps_units_whole() {
                        batches.extend(messages);
                    } else {
                        // First, so that what is kept was told: a crash in between tells it again.
                        store::append(&*self.log, messages)?;
                    }
                    let partitions: Vec<_> = batches.iter().map(|(partition, _)| *partition).collect();
                    let positions = store::append(&*self.log, batches)?;
                    (unit.len(), partitions.into_iter().zip(positions).collect())
                }
            };
            let folded = core.states.iter_mut().try_for_each(|runner| {
                let last = positions.iter().rev().find(|(partition, _)| *partition == runner.partition());
                last.map_or(Ok(()), |(_, position)| store::fold_past(&*self.log, runner, *position, now))
            });
            if let Err(error) = folded {
                core.appended = Some((count, positions));
                return Err(error);
            }
            for (index, transition) in core.evaluator.pending()[..count].iter().enumerate() {
                self.tell(core, index, transition);
            }
            core.evaluator.committed(count);
        }
    }

    /// Both records of each transition: the one that is kept, and the one that subscribers get.
    fn unit(&self, core: &Core, transitions: &[Transition], now: Timestamp) -> Result<(Batches, Batches)> {
        let mut builders: BTreeMap<Partition, BatchBuilder> = BTreeMap::new();
        let mut messages = BatchBuilder::new();
        let now_ms = now.as_millis();
        let too_large = |_| Refusal::TooLarge { bytes: u64::MAX, max_bytes: self.log.queue_capacity_bytes() };
        for transition in transitions {
            let kept = builders.entry(self.alerts.partition_of(transition.device.as_bytes())).or_default();
            let is_owed = core.webhook(&transition.alert).is_some();
            transition.write(kept, now_ms, is_owed).map_err(too_large)?;
            transition.write_message(&mut messages, now_ms).map_err(too_large)?;
        }
        let finished = |(partition, mut builder): (_, BatchBuilder)| {
            builder.finish(Compression::None).map(|batch| (partition, batch))
        };
        let sender = self.data.telemetry().partition_of(crate::transition::SENDER.as_bytes());
        Ok((builders.into_iter().filter_map(finished).collect(), finished((sender, messages)).into_iter().collect()))
    }

    /// Tells of the pending transition number `index`, whose record is folded.
    fn tell(&self, core: &Core, index: usize, transition: &Transition) {
        let Transition { alert, device, .. } = transition;
        let state = if transition.firing { "firing" } else { "resolved" };
        metrics::counter!("floodplain_alerts_transitions_total", "state" => state).increment(1);
        info!(%alert, device_id = %device, state, "alert has changed");
        let Some(webhook) = core.webhook(alert) else { return };
        // What the fold knows is the last one of its pair.
        let is_same = |other: &Transition| other.alert == *alert && other.device == *device;
        let is_last = !core.evaluator.pending()[index + 1..].iter().any(is_same);
        let position = Pairs(&core.states, &self.alerts).pair(alert, device).filter(|_| is_last).map(Pair::moved);
        let receipt = position.map(|position| Receipt { alert: alert.clone(), device: device.clone(), position });
        self.webhooks.send(alert, webhook, transition.to_json(), receipt);
    }

    /// Tells webhooks what they were to be told last when the process ended.
    fn tell_again(&self, core: &Core) {
        for (transition, receipt) in core.states.iter().flat_map(|runner| runner.fold().owed()) {
            match core.webhook(&transition.alert) {
                Some(webhook) => {
                    self.webhooks.send(&transition.alert, webhook, transition.to_json(), Some(receipt));
                }
                None => keep(&*self.log, &self.alerts, &receipt, self.clock.now()),
            }
        }
    }

    fn watermarks(&self) -> Vec<Position> {
        self.data.all().map(|(_, partition)| self.log.watermark(partition)).collect()
    }

    /// Reads some more of who was heard; `false` once all is read up to `until`. The lock is free between two reads.
    fn listen(&self, until: &[Position]) -> Result<bool> {
        let mut heard = lock(&self.heard);
        let behind = heard.iter_mut().zip(until).find(|(runner, until)| runner.position() < **until);
        let Some((runner, _)) = behind else { return Ok(false) };
        store::fold_some(&*self.log, runner, self.clock.now())
    }

    fn run(&self) {
        // A store that does not answer holds up no alert.
        std::thread::scope(|scope| self.run_with(scope));
        write(self.snapshots());
    }

    fn run_with<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let mut writing: Option<ScopedJoinHandle<'_, ()>> = None;
        let (mut has_failed, mut snapshot_at) = (false, self.clock.now() + SNAPSHOT_EVERY);
        while !self.wake.is_stopping() {
            let (rest, at_most) = match self.turn() {
                Ok(waits) => {
                    has_failed = false;
                    waits
                }
                Err(error) => {
                    if !std::mem::replace(&mut has_failed, true) {
                        warn!(%error, cause = ?error, "alerts could not go on, they try again");
                    }
                    metrics::counter!("floodplain_alerts_failures_total").increment(1);
                    (BACKOFF, BACKOFF)
                }
            };
            if self.clock.now() >= snapshot_at && writing.as_ref().is_none_or(ScopedJoinHandle::is_finished) {
                snapshot_at = self.clock.now() + SNAPSHOT_EVERY;
                let snapshots = self.snapshots();
                let writer = std::thread::Builder::new().name("alerts-disk".to_owned());
                writing = writer
                    .spawn_scoped(scope, || write(snapshots))
                    .inspect_err(
                        |error| warn!(%error, "snapshots of alerts were not written, there is no thread for it"),
                    )
                    .ok();
            }
            self.wake.wait(rest, at_most);
        }
    }

    /// Tells what waits, and judges silence once all is read that was committed when it began. Returns how long to
    /// rest in any case, and if nothing happens.
    fn turn(&self) -> Result<(Duration, Duration)> {
        if !self.wake.listens.load(Ordering::Relaxed) {
            self.commit(&mut lock(&self.core))?;
            return Ok((Duration::ZERO, IDLE));
        }
        let now = self.clock.now();
        let until = self.watermarks();
        while self.listen(&until)? {
            if self.wake.is_stopping() {
                return Ok((Duration::ZERO, IDLE));
            }
        }
        let heard = lock(&self.heard);
        let mut core = lock(&self.core);
        let looked_at = self.judge(&heard, &mut core, now);
        drop(heard);
        self.commit(&mut core)?;
        let rest = REST + Duration::from_micros(looked_at as u64);
        Ok((rest, core.scan_at.since(now).clamp(rest, IDLE)))
    }

    /// Ends what was heard again, and, when that is due, looks at all devices. Returns at how many it looked.
    fn judge(&self, heard: &[Runner<Heard>], core: &mut Core, now: Timestamp) -> usize {
        let Core { states, evaluator, scan_at, .. } = core;
        let rules: Vec<Kept> = evaluator.silent().cloned().collect();
        let (known, each) = (Pairs(states, &self.alerts), self.data.partitions_each() as usize);
        let mut looked_at = 0;
        for Kept { rule, .. } in &rules {
            for (device, pair) in states.iter().flat_map(|runner| runner.fold().firing_of(&rule.name)) {
                looked_at += 1;
                let index = self.data.telemetry().partition_of(device.as_bytes()).index as usize;
                if let Some(time) = heard_last(heard, each, index, device).filter(|time| *time > pair.since) {
                    evaluator.silence(&known, &rule.name, device, time, self.started, now);
                }
            }
        }
        if now < *scan_at {
            return looked_at;
        }
        // A device that is heard for the first time from now on is silent after that time at the earliest.
        let shortest = rules.iter().filter_map(|kept| kept.rule.silence()).min().unwrap_or(IDLE);
        let mut next = now + shortest;
        for (device, time) in all_heard(heard, each) {
            looked_at += rules.len();
            for Kept { rule, .. } in &rules {
                let due = evaluator.silence(&known, &rule.name, device, time, self.started, now);
                next = due.map_or(next, |due| due.min(next));
            }
        }
        *scan_at = next;
        looked_at
    }

    /// Those of all that has changed; the locks are free while they are written.
    fn snapshots(&self) -> Vec<(Snapshots, Snapshot)> {
        let mut snapshots: Vec<_> = {
            let mut core = lock(&self.core);
            let rules = store::snapshot(&mut core.rules);
            rules.into_iter().chain(core.states.iter_mut().filter_map(store::snapshot)).collect()
        };
        snapshots.extend(lock(&self.heard).iter_mut().filter_map(store::snapshot));
        snapshots
    }
}

fn write(snapshots: Vec<(Snapshots, Snapshot)>) {
    for (folder, snapshot) in snapshots {
        if let Err(error) = folder.write(&snapshot) {
            let error = &error as &dyn std::error::Error;
            warn!(error, "snapshot of alerts was not written, the next start reads more of the log");
        }
    }
}

/// The thread of alerts.
#[derive(Debug)]
pub struct Service {
    alerts: Alerts,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// For all others.
    #[must_use]
    pub const fn alerts(&self) -> &Alerts {
        &self.alerts
    }

    /// Stops the thread and waits for it; webhooks are told nothing more.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.alerts.0.wake.stop();
        self.alerts.0.webhooks.stop();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            error!("thread of alerts has panicked");
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;
