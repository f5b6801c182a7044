//! Sessions: a fold over `requests`.

mod changes;
mod kept;
mod many;
mod state;
mod stored;
#[cfg(test)]
mod tests;
mod will;

pub use changes::{Change, EndReason};
pub use state::{Ended, Session, Subscribed};

use super::{Close, CloseReason, Event, Gone, Letter, Open, Positions, StreamNames, Subscription};
use changes::Changes;
use floodplain_fold::{DedupWindow, Fold, Input, Outputs, RestoreError};
use floodplain_log::BatchBuilder;
use floodplain_types::{ClientId, Position, Timestamp, TopicFilter};
use kept::Kept;
use many::Many;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};
use will::will_record;

/// The sessions of one partition of `requests`.
///
/// Emits letters into `dlq`: what a session does not get although it was promised. What waits for a session that ends
/// is known by the index of its data partitions alone, so the session is kept as [`Ended`] until [`Event::Buried`].
///
/// Emits wills into the data stream that they name. A will is sent when its connection ends without a DISCONNECT that
/// makes it void, after the lesser of its delay and the end of the session, unless the session is
/// resumed before (MQTT 5.0 §3.1.2.5, §3.1.3.2.2). A connection ends by [`Event::Close`], by a
/// newer [`Event::Open`] of the same client, by [`Event::ServerStart`] of another run, or by [`Event::NodeDied`].
#[derive(Debug)]
pub struct SessionFold {
    sessions: BTreeMap<ClientId, Box<Session>>,
    /// When each session that waits for something is to be looked at.
    timers: BTreeSet<(Timestamp, ClientId)>,
    /// Filters that keep messages, with the sessions that have them.
    filters: BTreeMap<TopicFilter, Kept>,
    /// By client and epoch.
    ended: BTreeMap<(ClientId, Position), Ended>,
    /// What the record that was applied last has left to do.
    many: Option<Many>,
    /// A copy that is being made; no part of the state.
    copy: Option<Box<stored::Copy>>,
    seen: DedupWindow,
    changes: Changes,
    builder: BatchBuilder,
    /// No part of the state.
    names: StreamNames,
}

impl Default for SessionFold {
    fn default() -> Self {
        Self {
            sessions: BTreeMap::new(),
            timers: BTreeSet::new(),
            filters: BTreeMap::new(),
            ended: BTreeMap::new(),
            many: None,
            copy: None,
            seen: super::dedup_window(true),
            changes: Changes::default(),
            builder: BatchBuilder::new(),
            names: StreamNames::default(),
        }
    }
}

impl SessionFold {
    /// No sessions; letters name these streams. `keeps_units_whole` is [`floodplain_log::Log::keeps_units_whole`].
    #[must_use]
    pub fn of(names: StreamNames, keeps_units_whole: bool) -> Self {
        Self { names, seen: super::dedup_window(keeps_units_whole), ..Self::default() }
    }

    /// The session of a client.
    #[must_use]
    pub fn session(&self, client: &str) -> Option<&Session> {
        self.sessions.get(client).map(|session| &**session)
    }

    /// All sessions, by client.
    pub fn sessions(&self) -> impl Iterator<Item = (&ClientId, &Session)> {
        self.sessions.iter().map(|(client, session)| (client, &**session))
    }

    /// The sessions behind `after`, or all, by client.
    pub fn after(&self, after: Option<&str>) -> impl Iterator<Item = (&ClientId, &Session)> {
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        self.sessions.range::<str, _>(range).map(|(client, session)| (client, &**session))
    }

    /// How many sessions there are, sleeping ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there are no sessions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// The distinct filters that keep messages for sessions, with how many sessions have each.
    pub fn filters(&self) -> impl Iterator<Item = (&TopicFilter, u32)> {
        self.filters.iter().map(|(filter, kept)| (filter, kept.len()))
    }

    /// Whether some session keeps messages of `filter`.
    #[must_use]
    pub fn keeps(&self, filter: &TopicFilter) -> bool {
        self.filters.contains_key(filter)
    }

    /// Sessions that are no more, by client and epoch, until [`Event::Buried`] says what still waited for them.
    pub fn ended(&self) -> impl Iterator<Item = (&ClientId, Position, &Ended)> {
        self.ended.iter().map(|((client, epoch), ended)| (client, *epoch, ended))
    }

    /// How many of those there are. They count as sessions where sessions are bounded.
    #[must_use]
    pub fn ended_len(&self) -> usize {
        self.ended.len()
    }

    /// Starts to keep [`Change`]s for [`Self::drain_changes`]. Call it when the replay has ended,
    /// and take [`Self::sessions`] and [`Self::filters`] as they are then.
    pub fn watch(&mut self) {
        self.changes.watch();
    }

    /// Takes what has changed since the last call, in the order of the log; nothing before
    /// [`Self::watch`].
    pub fn drain_changes(&mut self) -> Vec<Change> {
        self.changes.drain()
    }

    /// Starts to find the lowest positions that sessions still need; see [`Self::scan_lowest`].
    pub fn begin_scan(&mut self) {
        self.changes.begin_scan();
    }

    /// Looks at up to `limit` more sessions; the filters and the lowest position needed of each
    /// when all have been seen, `None` before that or if no scan was begun.
    ///
    /// What is subscribed to meanwhile is taken into account, so postings below the answer are
    /// needed by nobody whose [`Event::Subscribe`] was folded before it.
    pub fn scan_lowest(&mut self, limit: usize) -> Option<Vec<(TopicFilter, Positions)>> {
        self.changes.scan(&self.sessions, &self.ended, limit)
    }

    /// Whether this session has ended and is not buried.
    #[must_use]
    pub fn has_ended(&self, client: &ClientId, epoch: Position) -> bool {
        self.ended.contains_key(&(client.clone(), epoch))
    }

    fn open(&mut self, client: ClientId, epoch: Position, open: Open, now: Timestamp, out: &mut Outputs) {
        let old = self.remove(&client);
        let mut session = Session::new(epoch, &open);
        let mut taken_over = None;
        if let Some(mut old) = old {
            if old.is_connected {
                taken_over = Some(old.epoch);
            }
            // A session without expiry ends with its connection (MQTT 5.0 §3.1.2.11.2).
            let ends = open.clean_start || (old.is_connected && old.expiry_s == 0);
            // Resumed in time, a delayed will is not sent [MQTT-3.1.3-9]; 3.1.1 knows no delay, so
            // the connection that was taken over has failed [3:3.1.2-8].
            let fires = ends || (old.is_connected && old.will.as_ref().is_some_and(|will| will.delay_s == 0));
            if fires {
                self.fire(&client, &mut old, out);
            }
            if ends {
                let reason = if open.clean_start { EndReason::CleanStart } else { EndReason::NoExpiry };
                self.retire(&client, old, reason, now, out);
            } else {
                session.is_resumed = true;
                session.subscriptions = old.subscriptions;
                session.cursor = old.cursor;
                session.done = old.done;
                session.outbound = old.outbound;
                session.inbound = old.inbound;
                session.apart = old.apart;
                session.letters = old.letters;
                session.letters_at = old.letters_at;
            }
        }
        session.will = open.will.map(Box::new);
        let (is_resumed, run) = (session.is_resumed, session.run);
        self.changes.push(|| Change::Opened { client: client.clone(), epoch, run, is_resumed, taken_over });
        self.insert(client, Box::new(session));
    }

    /// The session of `client`, if `epoch` is its present one and its connection is open.
    fn current(&mut self, client: &ClientId, epoch: Position) -> Option<&mut Session> {
        self.touch(client);
        let session = self.sessions.get_mut(client)?;
        (session.epoch == epoch && session.is_connected).then_some(&mut **session)
    }

    fn subscribe(&mut self, client: &ClientId, epoch: Position, subscriptions: Vec<Subscription>, start: &Positions) {
        self.touch(client);
        let Some(session) = self.sessions.get_mut(client).filter(|s| s.epoch == epoch && s.is_connected) else {
            return;
        };
        // New ones by filter: they are put in their places together.
        let mut new = BTreeMap::<TopicFilter, Subscribed>::new();
        for mut subscription in subscriptions {
            // One copy of a filter is shared by all its subscribers.
            if let Some((shared, _)) = self.filters.get_key_value(&subscription.filter) {
                subscription.filter = shared.clone();
            }
            let filter = subscription.filter.clone();
            let keeps = subscription.qos > 0;
            let held = match session.find(filter.as_str()) {
                Ok(at) => Some(&mut session.subscriptions[at]),
                Err(_) => new.get_mut(&filter),
            };
            let kept = match held {
                Some(held) => {
                    let kept = held.keeps_messages();
                    // The same filter replaces and loses nothing [MQTT-3.8.4-3, -4], but at QoS 0
                    // nothing was kept that could be lost.
                    if !kept {
                        held.start = start.clone();
                    }
                    held.subscription = subscription;
                    held.retained_after = None;
                    kept
                }
                None => {
                    let held = Subscribed { subscription, start: start.clone(), retained_after: None };
                    new.insert(filter.clone(), held);
                    false
                }
            };
            if keeps && !kept {
                self.filters.entry(filter.clone()).or_default().add(client.clone());
                self.changes.wanted(&filter, start);
            } else if kept && !keeps {
                forget_filter(&mut self.filters, &mut self.changes, &filter, |kept| kept.remove(client));
            }
        }
        session.add_all(new);
        session.lift_cursor();
    }

    fn unsubscribe(&mut self, client: &ClientId, epoch: Position, filters: &[TopicFilter]) {
        self.touch(client);
        let Some(session) = self.sessions.get_mut(client).filter(|s| s.epoch == epoch && s.is_connected) else {
            return;
        };
        let filters: BTreeSet<&TopicFilter> = filters.iter().collect();
        let gone = |held: &Subscribed| filters.contains(&held.subscription.filter);
        crate::work::done(session.subscriptions.len());
        for held in session.subscriptions.iter().filter(|held| gone(held) && held.keeps_messages()) {
            let filter = &held.subscription.filter;
            forget_filter(&mut self.filters, &mut self.changes, filter, |kept| kept.remove(client));
        }
        session.subscriptions.retain(|held| !gone(held));
        session.lift_cursor();
    }

    fn close(&mut self, client: &ClientId, close: &Close, now: Timestamp, out: &mut Outputs) {
        let names = self.names.clone();
        let Some(session) = self.current(client, close.epoch) else { return };
        let letters = session.untold(close.progress.letters.clone());
        session.progress(&close.progress);
        emit(client, &letters, &names, out);
        // Not from zero (MQTT 5.0 §3.14.2.2.2).
        if let Some(expiry) = close.session_expiry_s
            && session.expiry_s != 0
        {
            session.expiry_s = expiry;
        }
        if !close.fires_will {
            session.will = None;
        }
        self.end_connection(client, close.reason, now, out);
    }

    /// The connection of `client` is gone; what is left of its will is to be sent.
    fn end_connection(&mut self, client: &ClientId, reason: CloseReason, now: Timestamp, out: &mut Outputs) {
        let Some(mut session) = self.remove(client) else { return };
        session.is_connected = false;
        session.closed_at = Some(now);
        let epoch = session.epoch;
        self.changes.push(|| Change::Closed { client: client.clone(), epoch, reason });
        let delay = session.will.as_ref().map(|will| will.delay_s);
        match delay {
            _ if session.expiry_s == 0 => {
                self.end(client, session, EndReason::NoExpiry, now, out);
                return;
            }
            Some(0) => self.fire(client, &mut session, out),
            Some(seconds) => session.will_at = Some(now + Duration::from_secs(u64::from(seconds))),
            None => {}
        }
        self.insert(client.clone(), session);
    }

    /// The session is over; a will that waits is sent now at the latest [MQTT-3.1.2-8].
    fn end(
        &mut self,
        client: &ClientId,
        mut session: Box<Session>,
        reason: EndReason,
        at: Timestamp,
        out: &mut Outputs,
    ) {
        self.fire(client, &mut session, out);
        self.retire(client, session, reason, at, out);
    }

    /// What a session leaves: letters that are not told yet, and messages that wait for it.
    fn retire(
        &mut self,
        client: &ClientId,
        mut session: Box<Session>,
        reason: EndReason,
        at: Timestamp,
        out: &mut Outputs,
    ) {
        emit(client, &session.letters.take(), &self.names, out);
        let mut wanted = Vec::new();
        for held in session.subscriptions.iter().filter(|held| held.keeps_messages()) {
            let filter = &held.subscription.filter;
            if let Some(kept) = self.filters.get_mut(filter) {
                kept.retire(client);
            }
            wanted.push((filter.clone(), session.needs_from(held)));
        }
        let epoch = session.epoch;
        if !wanted.is_empty() {
            let ended = Ended { at, reason, wanted, done: session.done };
            let key = (client.clone(), epoch);
            self.touch_ended(&key);
            self.ended.insert(key, ended);
        }
        self.changes.push(|| Change::Ended { client: client.clone(), epoch, reason });
    }

    fn bury(&mut self, client: ClientId, epoch: Position, letters: &[Letter], out: &mut Outputs) {
        let key = (client.clone(), epoch);
        self.touch_ended(&key);
        let Some(ended) = self.ended.remove(&key) else { return };
        emit(&client, letters, &self.names, out);
        for (filter, _) in &ended.wanted {
            forget_filter(&mut self.filters, &mut self.changes, filter, Kept::bury);
        }
    }

    fn fire(&mut self, client: &ClientId, session: &mut Session, out: &mut Outputs) {
        session.will_at = None;
        if let Some(will) = session.will.take() {
            out.push(will_record(&mut self.builder, client, session.epoch, &will));
        }
    }

    /// The session of `client` is about to change, to come or to go.
    fn touch(&mut self, client: &ClientId) {
        if let Some(copy) = &mut self.copy {
            copy.touch(client, self.sessions.get(client).map(|session| &**session));
        }
    }

    fn touch_ended(&mut self, key: &(ClientId, Position)) {
        if let Some(copy) = &mut self.copy {
            copy.touch_ended(key, self.ended.get(key));
        }
    }

    fn insert(&mut self, client: ClientId, session: Box<Session>) {
        self.touch(&client);
        if let Some(timer) = session.timer() {
            self.timers.insert((timer, client.clone()));
        }
        self.sessions.insert(client, session);
    }

    fn remove(&mut self, client: &ClientId) -> Option<Box<Session>> {
        self.touch(client);
        let session = self.sessions.remove(client)?;
        if let Some(timer) = session.timer() {
            self.timers.remove(&(timer, client.clone()));
        }
        Some(session)
    }
}

fn emit(client: &ClientId, letters: &[Letter], names: &StreamNames, out: &mut Outputs) {
    for letter in letters {
        out.push(letter.output(client.as_str(), names));
    }
}

fn forget_filter(
    filters: &mut BTreeMap<TopicFilter, Kept>,
    changes: &mut Changes,
    filter: &TopicFilter,
    forget: impl FnOnce(&mut Kept),
) {
    if let Some(kept) = filters.get_mut(filter) {
        forget(kept);
        if kept.is_empty() {
            filters.remove(filter);
            changes.push(|| Change::FilterDropped { filter: filter.clone() });
        }
    }
}

impl Fold for SessionFold {
    const NAME: &'static str = "sessions";
    const FORMAT: u16 = 3;
    const EMITS: bool = true;

    fn apply(&mut self, input: &Input<'_>, out: &mut Outputs) {
        // What does not decode was not written by us, or by a newer version: it cannot be ours to guess.
        let Ok(event) = Event::decode(input.record.value.unwrap_or_default()) else {
            self.changes.unreadable();
            return;
        };
        if let Some(id) = input.dedup_id()
            && !self.seen.is_new(input.record.key.unwrap_or_default(), id)
        {
            return;
        }
        let now = input.log_time;
        let event = match event {
            Event::ServerStart { run } => return self.work(Many::gone(Gone::Others(run), now), out),
            Event::NodeAlive { run } => return self.changes.push(|| Change::Alive { run }),
            Event::NodeDied { run } => {
                self.changes.push(|| Change::Died { run });
                return self.work(Many::gone(Gone::Run(run), now), out);
            }
            Event::Lost { partition, lost } => return self.work(Many::lost(partition, lost, now), out),
            event => event,
        };
        let key = input.record.key.and_then(|key| std::str::from_utf8(key).ok());
        let Some(client) = key.and_then(|key| ClientId::new(key).ok()) else { return };
        match event {
            Event::Open(open) => self.open(client, input.position, *open, now, out),
            Event::Subscribe { epoch, subscriptions, start } => {
                self.subscribe(&client, epoch, subscriptions, &start);
            }
            Event::Unsubscribe { epoch, filters } => self.unsubscribe(&client, epoch, &filters),
            Event::Progress { epoch, progress } => {
                if let Some(session) = self.current(&client, epoch) {
                    let letters = session.untold(progress.letters.clone());
                    session.progress(&progress);
                    emit(&client, &letters, &self.names, out);
                }
            }
            Event::Received { epoch, packet_id, is_apart } => {
                if let Some(session) = self.current(&client, epoch)
                    && let Err(at) = session.inbound.binary_search(&packet_id)
                {
                    session.inbound.insert(at, packet_id);
                    let id = input.dedup_id().and_then(|id| std::str::from_utf8(id).ok());
                    session.apart.extend(id.filter(|_| is_apart).map(|id| (packet_id, id.into())));
                }
            }
            Event::Released { epoch, packet_id } => {
                if let Some(session) = self.current(&client, epoch)
                    && let Ok(at) = session.inbound.binary_search(&packet_id)
                {
                    session.inbound.remove(at);
                    session.apart.retain(|(apart, _)| *apart != packet_id);
                }
            }
            Event::Close(close) => self.close(&client, &close, now, out),
            Event::Buried { epoch, letters } => self.bury(client, epoch, &letters, out),
            // Of no client, and seen to above.
            Event::Tick
            | Event::ServerStart { .. }
            | Event::NodeAlive { .. }
            | Event::NodeDied { .. }
            | Event::Lost { .. } => {}
        }
    }

    fn has_more(&self) -> bool {
        self.many.is_some()
    }

    fn go_on(&mut self, out: &mut Outputs) {
        if let Some(many) = self.many.take() {
            self.work(many, out);
        }
    }

    fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first().map(|(time, _)| *time)
    }

    fn on_time(&mut self, now: Timestamp, _position: Position, out: &mut Outputs) {
        while self.timers.first().is_some_and(|(time, _)| *time <= now) && out.spend() {
            let (_, client) = self.timers.pop_first().expect("there is a first");
            self.touch(&client);
            let Some(mut session) = self.sessions.remove(&client) else { continue };
            if let Some(at) = session.expires_at().filter(|time| *time <= now) {
                self.end(&client, session, EndReason::Expired, at, out);
                continue;
            }
            if session.will_at.is_some_and(|time| time <= now) {
                self.fire(&client, &mut session, out);
            }
            if session.letters_at.take_if(|time| *time <= now).is_some() {
                emit(&client, &session.letters.take(), &self.names, out);
            }
            self.insert(client, session);
        }
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        stored::put(self, out);
    }

    fn begin_copy(&mut self) {
        self.copy = Some(Box::new(stored::Copy::new(self)));
    }

    fn copy_part(&mut self, out: &mut Vec<u8>, max_len: usize) -> bool {
        let Some(mut copy) = self.copy.take() else { return true };
        let is_done = copy.part(self, out, max_len);
        self.copy = Some(copy).filter(|_| !is_done);
        is_done
    }

    fn restore(&mut self, format: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        if !(1..=Self::FORMAT).contains(&format) {
            return Err(RestoreError::Format { found: format, newest: Self::FORMAT });
        }
        Ok(stored::restore(self, format, bytes)?)
    }
}
