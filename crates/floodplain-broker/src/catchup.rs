//! Sessions that are behind: after a sleep, or because their client reads slowly.
//!
//! A session that is behind in a data partition asks the partition's owner which records wait for
//! its filters, fetches exactly those, and asks again. When the owner says that nothing is left
//! below its own position the session is live again: answer and live publications come in one
//! ordered mailbox, so nothing is lost or doubled between the two.

use crate::{
    ConnId, Worker,
    folds::{LostReason, OutboundState, Positions, Posting, Session as Stored},
    jobs::{Found, Work},
    owner::{Page, Question},
    publication::Publication,
    retained::RetainedWish,
    router::Wanted,
    session::{InFlight, Outbound, Owed, QUEUE_BYTES_MAX, QUEUE_MAX, Queued, Session, Stage, Subscribed, Track},
    subscribe::effective,
};
use floodplain_log::{FetchedRecord, MessageRef, Record, RecordRef};
use floodplain_types::{Position, Timestamp, TopicFilter};
use std::{collections::VecDeque, rc::Rc, sync::Arc};

/// Records fetched at once.
const FETCH_RECORDS: usize = 64;
/// Bytes fetched at once, but at least one record.
const FETCH_BYTES: usize = 256 << 10;
/// The same while much is held: less than the socket of a client that reads takes at once.
const CROWDED_BYTES: usize = 16 << 10;
/// What may wait for all clients of a worker before those that are behind read no more than they can send.
const HELD_BYTES: usize = 64 << 20;

/// What `dlq` says of a message that was sent as a retained one, and has to be sent again.
const RETAINED_REMOVED: &str = "retention has removed it before it was sent again";

/// A partition that a session reads from the log.
#[derive(Debug)]
pub(crate) struct Lag {
    pub(crate) partition: u32,
    /// Where to go on.
    next: Position,
    step: Step,
    /// Filters that the index keeps for this session alone until it has caught up.
    own_filters: Vec<TopicFilter>,
}

#[derive(Debug)]
enum Step {
    /// The owner is to be asked.
    Idle,
    Asked,
    /// Records to fetch.
    Have(VecDeque<Posting>),
    /// Records to read again that the index does not tell of any more.
    Passed(Vec<Position>),
    /// And what to fetch behind that.
    Fetching(VecDeque<Posting>),
}

/// The source under which the index knows what one connection wants while it is behind. Sources
/// below are partitions of `requests`.
const fn own_source(conn: ConnId, worker: u32) -> u32 {
    1 << 31 | worker << 24 | (conn.slot & 0xff_ffff)
}

impl Worker {
    /// A stored or storable session is open and folded: CONNACK, and what it is owed.
    pub(crate) fn opened(&mut self, conn: ConnId, at: usize, epoch: Position) {
        let shared = self.shared.clone();
        let Some(connection) = self.connections.get_mut(conn.slot as usize).filter(|c| c.id == conn) else { return };
        let Some(session) = connection.session.as_deref_mut() else { return };
        let fold = self.owner.requests[at].sessions.fold();
        let stored = fold.session(&session.client).filter(|stored| stored.epoch == epoch && stored.is_resumed);
        let Some(stored) = stored else {
            self.welcome(conn, false);
            return;
        };
        let mut wishes = Vec::new();
        for held in stored.subscriptions() {
            let subscription = &held.subscription;
            let wanted = Wanted {
                qos: subscription.qos,
                no_local: subscription.no_local,
                retain_as_published: subscription.retain_as_published,
                id: subscription.id.unwrap_or(0),
            };
            let (filter, start) = (subscription.filter.clone(), held.start.clone());
            if subscription.retained_due {
                wishes.push(RetainedWish {
                    filters: vec![(filter.clone(), wanted)],
                    live_from: start.clone(),
                    after: held.retained_after.clone(),
                    is_resumed: true,
                });
            }
            self.router.subscribe(&shared.routes, conn.slot, filter.as_str(), wanted);
            session.subscriptions.push(Subscribed { filter, wanted, start });
        }
        session.received = stored.inbound().to_vec();
        session.apart = stored.apart().to_vec();
        session.retained_due = wishes.len() as u32;
        let releases = restore_outbound(session, stored, shared.data.partitions());
        self.welcome(conn, true);
        for id in releases {
            self.send_pubrel(conn, id);
        }
        for wish in wishes {
            self.ask_retained(conn, wish);
        }
        self.read_on(conn);
    }

    /// Follows all data partitions from `start` on, for a lasting session that does not yet.
    pub(crate) fn track_all(&mut self, conn: ConnId, start: &Positions) {
        let partitions = self.shared.data.partitions();
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        if session.is_lasting() && session.out.tracks.is_empty() {
            session.out.tracks = (0..partitions).map(|p| Track::new(p, start.get(p))).collect();
        }
    }

    /// A filter was subscribed while the session is behind: the index must know it from the start.
    pub(crate) fn widen_lags(&mut self, conn: ConnId, filter: &TopicFilter, start: &Positions) {
        let source = own_source(conn, self.idx);
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        let mut wanted = Vec::new();
        for lag in &mut session.out.lags {
            let from = start.get(lag.partition).max(lag.next);
            lag.own_filters.push(filter.clone());
            wanted.push((lag.partition, from));
        }
        for (partition, from) in wanted {
            self.want(source, partition, filter, from);
        }
    }

    fn want(&mut self, source: u32, partition: u32, filter: &TopicFilter, from: Position) {
        let start = [(partition, from)].into_iter().collect();
        let question = Question::Wanted { source, filter: filter.clone(), start, only: Some(partition) };
        self.ask(self.shared.owner_of(partition), question);
    }

    /// The client does not keep up: from this position on the session reads the partition from the log.
    pub(crate) fn fall_behind(&mut self, conn: ConnId, partition: u32, from: Position) {
        let source = own_source(conn, self.idx);
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        let filters: Vec<TopicFilter> =
            session.subscriptions.iter().filter(|held| held.wanted.qos > 0).map(|held| held.filter.clone()).collect();
        if filters.is_empty() || session.out.is_lagging(partition) {
            return;
        }
        let from = match session.out.track(partition) {
            Some(track) => from.max(track.seen),
            None => {
                session.out.tracks.push(Track::new(partition, from));
                from
            }
        };
        session.out.lags.push(Lag { partition, next: from, step: Step::Idle, own_filters: filters.clone() });
        self.metrics.lagging.increment(1);
        for filter in filters {
            self.want(source, partition, &filter, from);
        }
        self.read_on(conn);
    }

    /// Publications of a partition were left out for want of room in the mailbox.
    pub(crate) fn gap(&mut self, partition: u32, from: Position) {
        self.metrics.mailbox_gaps.increment(1);
        let all: Vec<ConnId> = self.connections.iter().map(|(_, connection)| connection.id).collect();
        for conn in all {
            self.fall_behind(conn, partition, from);
        }
    }

    /// Takes the next step of a session that is behind, if its queue has room.
    pub(crate) fn read_on(&mut self, conn: ConnId) {
        self.look_on(conn);
        let is_crowded = self.is_crowded();
        let Some(connection) = self.get(conn) else { return };
        let is_stalled = connection.stalled;
        let Some(Session { subscriptions, out, .. }) = connection.session.as_deref_mut() else { return };
        if out.lags.is_empty() {
            return;
        }
        // What an earlier connection sent comes first, so only its partitions are read until it is
        // there, whatever else waits; what they bring beside it is little.
        let is_resending = out.is_resending();
        let has_room = if is_crowded {
            out.queue.is_empty()
        } else {
            out.queue.len() < QUEUE_MAX / 2 && out.queue_bytes.bytes() < QUEUE_BYTES_MAX / 2
        };
        // Something is on its way to the client, and when that has gone we are here again.
        if (!is_resending && !has_room) || (is_crowded && is_stalled) {
            return;
        }
        let Outbound { lags, owed, .. } = out;
        let is_supplied = |lag: &Lag| matches!(lag.step, Step::Have(_) | Step::Passed(_) | Step::Fetching(_));
        let mut ask = Vec::new();
        // One thing after the other: what waits for the session elsewhere costs memory here.
        if !lags.iter().any(is_supplied) {
            for lag in lags.iter_mut().filter(|lag| matches!(lag.step, Step::Idle)) {
                let unread = owed.iter().filter(|owed| owed.partition == lag.partition && owed.queued.is_none());
                if is_resending && unread.clone().next().is_none() {
                    continue;
                }
                // They lie behind the cursor (retained messages), or no filter asks for them any more.
                let behind: Vec<_> = unread.map(|owed| owed.position).filter(|position| *position < lag.next).collect();
                if !behind.is_empty() {
                    lag.step = Step::Passed(behind);
                    continue;
                }
                lag.step = Step::Asked;
                ask.push((lag.partition, lag.next));
            }
        }
        let wants_turn = lags.iter().any(|lag| matches!(lag.step, Step::Have(_) | Step::Passed(_)))
            && !lags.iter().any(|lag| matches!(lag.step, Step::Fetching(_)));
        if !ask.is_empty() {
            let kept = subscriptions.iter().filter(|held| held.wanted.qos > 0);
            let wanted = kept.map(|held| (held.filter.clone(), held.start.clone())).collect();
            self.ask_waiting(conn, &wanted, &ask);
        }
        if wants_turn && self.jobs.line_up(conn.slot) {
            self.metrics.fetches_waiting.increment(1.0);
            self.fetch_next();
        }
    }

    fn ask_waiting(&mut self, conn: ConnId, wanted: &Arc<[(TopicFilter, Positions)]>, ask: &[(u32, Position)]) {
        for worker in 0..self.shared.workers() {
            let parts = ask.iter().filter(|(partition, _)| self.shared.owner_of(*partition) == worker);
            let parts: Vec<_> = parts.copied().collect();
            if !parts.is_empty() {
                self.ask(worker, Question::Waiting { worker: self.idx, conn, wanted: wanted.clone(), parts });
            }
        }
    }

    /// Whether so much waits for clients that a session that is behind reads only what it can send: however many there are,
    /// each holds little.
    fn is_crowded(&self) -> bool {
        self.held.bytes() >= HELD_BYTES
    }

    /// Lets those fetch whose turn it is.
    pub(crate) fn fetch_next(&mut self) {
        while let Some(slot) = self.jobs.next_in_line() {
            self.metrics.fetches_waiting.decrement(1.0);
            if let Some(work) = self.fetch_of(slot) {
                self.run_job(work);
            }
        }
    }

    /// What the session of a connection is to fetch, if it still is.
    fn fetch_of(&mut self, slot: u32) -> Option<Work> {
        let bytes_max = if self.is_crowded() { CROWDED_BYTES } else { FETCH_BYTES };
        let connection = self.connections.get_mut(slot as usize)?;
        let conn = connection.id;
        let lags = &mut connection.session.as_deref_mut()?.out.lags;
        if lags.iter().any(|lag| matches!(lag.step, Step::Fetching(_))) {
            return None;
        }
        let at = lags.iter().position(|lag| matches!(lag.step, Step::Have(_) | Step::Passed(_)))?;
        // The others are before it the next time.
        lags[at..].rotate_left(1);
        let lag = lags.last_mut()?;
        let index = lag.partition;
        let partition = self.shared.data.partition(index);
        match std::mem::replace(&mut lag.step, Step::Fetching(VecDeque::new())) {
            Step::Passed(positions) => Some(Work::ReadAt { conn, index, partition, positions }),
            Step::Have(mut postings) => {
                let mut refs: Vec<RecordRef> = Vec::new();
                let mut bytes = 0;
                while let Some(posting) = postings.front() {
                    bytes += posting.reference.locator.len_bytes() as usize;
                    if refs.len() >= FETCH_RECORDS || (bytes > bytes_max && !refs.is_empty()) {
                        break;
                    }
                    refs.push(posting.reference);
                    postings.pop_front();
                }
                lag.step = Step::Fetching(postings);
                Some(Work::Fetch { conn, index, partition, refs })
            }
            step => {
                lag.step = step;
                None
            }
        }
    }

    /// An owner has said what waits in some of its partitions.
    pub(crate) fn waiting_answer(&mut self, conn: ConnId, pages: Vec<Page>) {
        let mut dropped = Vec::new();
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        for Page { partition, postings, next, is_live } in pages {
            let Some(at) = session.out.lags.iter().position(|lag| lag.partition == partition) else { continue };
            if !matches!(session.out.lags[at].step, Step::Asked) {
                continue;
            }
            if postings.is_empty() {
                // What an earlier connection sent, and no filter asks for any more, is still owed: it is
                // read from its place before the session goes on here.
                let unread: Vec<Position> = session.out.unread(partition).collect();
                if !unread.is_empty() {
                    let lag = &mut session.out.lags[at];
                    lag.next = next;
                    // There is nothing below `next` any more; an owner that is not so far yet must not be asked for ever.
                    lag.step = if is_live { Step::Passed(unread) } else { Step::Idle };
                    continue;
                }
                if let Some(track) = session.out.track(partition) {
                    track.pass(next);
                }
                if is_live {
                    let lag = session.out.lags.swap_remove(at);
                    dropped.push((lag.partition, lag.own_filters));
                    continue;
                }
                session.out.lags[at].next = next;
                session.out.lags[at].step = Step::Idle;
                continue;
            }
            session.out.lags[at].next = next;
            session.out.lags[at].step = Step::Have(postings.into());
        }
        if session.out.lags.is_empty() {
            session.out.lags = Vec::new();
            if !session.is_lasting() && session.out.in_flight.is_empty() && session.out.queue.is_empty() {
                session.out.tracks = Vec::new();
            }
        }
        for (partition, filters) in dropped {
            self.drop_filters(conn, partition, filters);
        }
        self.read_on(conn);
    }

    fn drop_filters(&mut self, conn: ConnId, partition: u32, filters: Vec<TopicFilter>) {
        let source = own_source(conn, self.idx);
        for filter in filters {
            let question = Question::Dropped { source, filter, only: Some(partition) };
            self.ask(self.shared.owner_of(partition), question);
        }
    }

    /// The session ends its connection: the index need not keep anything for it alone.
    pub(crate) fn forget_lags(&mut self, conn: ConnId, session: &Session) {
        for lag in &session.out.lags {
            self.drop_filters(conn, lag.partition, lag.own_filters.clone());
        }
    }

    /// Records that a session waits for have been read.
    pub(crate) fn fetched(&mut self, conn: ConnId, partition: u32, bytes: u64, found: &[Found]) {
        self.metrics.resume_read_bytes.increment(bytes);
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        if let Some(lag) = session.out.lag(partition)
            && let Step::Fetching(rest) = &mut lag.step
        {
            let rest = std::mem::take(rest);
            lag.step = if rest.is_empty() { Step::Idle } else { Step::Have(rest) };
        }
        let mut delivered = 0;
        for found in found {
            match found {
                Found::Record(record) => delivered += self.queue_fetched(conn, partition, record),
                Found::Retention(position) => self.removed(conn, partition, *position),
                Found::Damage(position) => self.not_there(conn, partition, *position, LostReason::Damage.text()),
                Found::Unreadable(position) => self.not_there(conn, partition, *position, "it cannot be read"),
            }
        }
        self.metrics.resume_delivered_bytes.increment(delivered);
        self.pump(conn);
    }

    /// Retention was faster than the session.
    fn removed(&mut self, conn: ConnId, partition: u32, position: Position) {
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        // The index tells the same of what lies behind the cursor, and the fold leaves out one of the two.
        let is_tracked = session.out.track(partition).is_some_and(|track| position >= track.cursor());
        let reason = if is_tracked { LostReason::Retention.text() } else { RETAINED_REMOVED };
        self.not_there(conn, partition, position, reason);
    }

    /// A message that a session waits for is not there to be sent.
    fn not_there(&mut self, conn: ConnId, partition: u32, position: Position, reason: &str) {
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        session.out.give_up(partition, position);
        if let Some(track) = session.out.track(partition) {
            track.finished(position);
        }
        self.undelivered(conn, reason, partition, position);
    }

    /// Queues one fetched record if the session still wants it; returns its bytes.
    fn queue_fetched(&mut self, conn: ConnId, partition: u32, fetched: &FetchedRecord) -> u64 {
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return 0 };
        let position = fetched.position;
        let owed = session.out.owed.iter().position(|owed| (owed.partition, owed.position) == (partition, position));
        let record = Record::parse(&fetched.bytes).ok();
        let Some(message) = record.as_ref().and_then(|record| MessageRef::parse(record).ok()) else {
            self.not_there(conn, partition, position, LostReason::Damage.text());
            return 0;
        };
        let Some(track) = session.out.track(partition) else { return 0 };
        if owed.is_none() && track.knows(position) {
            return 0;
        }
        let publisher = message.publisher_or_key();
        let wanted = session.wanted(message.topic, publisher, partition, position);
        let qos = match owed {
            Some(at) => session.out.owed[at].qos,
            None => effective(message.qos, wanted.qos),
        };
        let Some(track) = session.out.track(partition) else { return 0 };
        if qos == 0 {
            track.pass(position.next());
            return 0;
        }
        // A retained message of an earlier connection lies behind the cursor.
        let is_tracked = position >= track.cursor();
        if is_tracked {
            track.sent(position);
        }
        let delta_ms = record.as_ref().map_or(0, |record| record.timestamp_delta_ms);
        let ingest = Timestamp::from_millis(fetched.base_timestamp_ms.saturating_add(delta_ms));
        let publication = Publication::new(&message, message.user_properties(), partition, ingest, publisher.into());
        let queued = Queued {
            publication: Arc::new(publication),
            position,
            is_tracked,
            qos,
            retain: message.retain && wanted.retain_as_published,
            ids: (!wanted.ids.is_empty()).then(|| Rc::from(wanted.ids)),
            again: owed.map(|at| session.out.owed[at].id),
            due: None,
        };
        match owed {
            Some(at) => session.out.push_owed(at, queued),
            None => session.out.push(queued),
        }
        fetched.bytes.len() as u64
    }
}

/// Puts back what the log knows of a session's outbound side. Returns the ids that PUBREL is owed for.
fn restore_outbound(session: &mut Session, stored: &Stored, partitions: u32) -> Vec<u16> {
    let out = &mut session.out;
    let mut releases = Vec::new();
    if !session.subscriptions.iter().any(|held| held.wanted.qos > 0) && stored.outbound().is_empty() {
        return releases;
    }
    out.tracks = (0..partitions)
        .map(|p| Track { done: stored.done(p).collect(), ..Track::new(p, stored.cursor.get(p)) })
        .collect();
    // Before the first delivery: these ids are in use.
    for (id, outbound) in stored.outbound() {
        let folds_outbound = *outbound;
        let (partition, position) = (folds_outbound.partition, folds_outbound.position);
        match folds_outbound.state {
            OutboundState::AwaitsPubcomp => {
                let track = out.track(partition).filter(|track| position >= track.cursor());
                let is_tracked = track.is_some();
                if let Some(track) = track {
                    track.restored(position);
                }
                out.in_flight.push_back(InFlight {
                    id: *id,
                    stage: Stage::AwaitsPubcomp,
                    partition,
                    position,
                    is_tracked,
                    is_named: true,
                    held: None,
                    seq: 0,
                });
                releases.push(*id);
            }
            OutboundState::AwaitsPuback => {
                out.owed.push_back(Owed { id: *id, qos: 1, partition, position, queued: None });
            }
            OutboundState::AwaitsPubrec => {
                out.owed.push_back(Owed { id: *id, qos: 2, partition, position, queued: None });
            }
        }
    }
    for track in &out.tracks {
        let next = stored.cursor.get(track.partition);
        out.lags.push(Lag { partition: track.partition, next, step: Step::Idle, own_filters: Vec::new() });
    }
    releases
}
