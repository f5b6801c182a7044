//! The live state of a session: what its client is owed, and how far it is.

use crate::{
    catchup::Lag,
    folds::{self, OutboundState, Positions},
    held::Held,
    nodes::EndedByLog,
    publication::{Publication, TopicAlias},
    router::Wanted,
    seams::Principal,
};
use floodplain_mqtt::{Encoder, Version};
use floodplain_types::{Class, Position, TopicFilter};
use std::{
    collections::{HashSet, VecDeque},
    rc::Rc,
    sync::Arc,
};

/// Messages with QoS 1 and 2 that wait in memory for a place in the window. What does not fit stays
/// in the log: the session leaves live delivery and reads on from there.
pub(crate) const QUEUE_MAX: usize = 8192;
/// The same in bytes.
pub(crate) const QUEUE_BYTES_MAX: usize = 1 << 20;

/// Topics that a session remembers to have heard live while it waits for what is retained. Beyond that such a message
/// may come twice.
pub(crate) const CAME_LIVE_MAX: usize = 1024;

/// Messages of one partition that may be acknowledged behind one that is not.
const DONE_MAX: usize = 1024;

/// One subscription of a session.
#[derive(Debug)]
pub(crate) struct Subscribed {
    pub(crate) filter: TopicFilter,
    pub(crate) wanted: Wanted,
    /// Of each data partition the first position it sees. Clean sessions forget it once they are
    /// no longer [`Session::fresh`].
    pub(crate) start: Positions,
}

/// A message on its way to one client.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) publication: Arc<Publication>,
    /// Where it is in its partition.
    pub(crate) position: Position,
    /// Whether a cursor follows it. Not so for retained messages: they lie behind it.
    pub(crate) is_tracked: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) ids: Option<Rc<[u32]>>,
    /// It had a packet identifier on an earlier connection: it gets the same one, and DUP.
    pub(crate) again: Option<u16>,
    /// The [`RetainedDue`] that it belongs to.
    pub(crate) due: Option<u32>,
}

/// How far a lasting session is with the retained messages of a subscription.
#[derive(Debug)]
pub(crate) struct RetainedDue {
    /// Different for each in a session.
    pub(crate) number: u32,
    pub(crate) filter: TopicFilter,
    /// The topic of the last one that was sent.
    pub(crate) after: Option<Arc<str>>,
    /// So many wait to be sent.
    pub(crate) queued: u32,
    /// There are no more than those.
    pub(crate) is_found: bool,
    /// The log does not know all of this yet.
    pub(crate) is_unlogged: bool,
}

impl RetainedDue {
    pub(crate) const fn is_done(&self) -> bool {
        self.is_found && self.queued == 0
    }
}

/// What the client owes for a packet identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its id must be in the log before it is sent.
    PublishHeld,
    AwaitsPuback,
    AwaitsPubrec,
    /// PUBREC has come; that must be in the log before PUBREL is sent.
    PubrelHeld,
    AwaitsPubcomp,
}

/// A packet identifier in use towards the client.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) id: u16,
    pub(crate) stage: Stage,
    pub(crate) partition: u32,
    pub(crate) position: Position,
    pub(crate) is_tracked: bool,
    /// The log knows the packet identifier. No cursor brings back what is not tracked.
    pub(crate) is_named: bool,
    /// Kept only while it may still have to be encoded.
    pub(crate) held: Option<Queued>,
    /// Number of the `Progress` that a held stage waits for.
    pub(crate) seq: u32,
}

impl InFlight {
    /// What a sleeping session must know of it.
    pub(crate) const fn outbound(&self) -> folds::Outbound {
        let state = match self.stage {
            Stage::AwaitsPuback => OutboundState::AwaitsPuback,
            Stage::PublishHeld | Stage::AwaitsPubrec => OutboundState::AwaitsPubrec,
            Stage::PubrelHeld | Stage::AwaitsPubcomp => OutboundState::AwaitsPubcomp,
        };
        folds::Outbound { partition: self.partition, position: self.position, state }
    }
}

/// How far a session is in one data partition; only kept for lasting sessions and laggards.
#[derive(Debug, Clone)]
pub(crate) struct Track {
    pub(crate) partition: u32,
    /// After the last message that was handed to this session, or is known not to concern it.
    pub(crate) seen: Position,
    /// Handed over, not acknowledged; in order.
    pub(crate) open: VecDeque<Position>,
    /// Acknowledged above the first open one.
    pub(crate) done: Vec<Position>,
    /// The log does not know all of this yet.
    pub(crate) is_unlogged: bool,
}

impl Track {
    pub(crate) fn new(partition: u32, seen: Position) -> Self {
        Self { partition, seen, open: VecDeque::new(), done: Vec::new(), is_unlogged: false }
    }

    /// Everything before this is done.
    pub(crate) fn cursor(&self) -> Position {
        self.open.front().map_or(self.seen, |open| self.seen.min(*open))
    }

    /// Notes that the message at `position` is on its way.
    pub(crate) fn sent(&mut self, position: Position) {
        self.restored(position);
        self.seen = self.seen.max(position.next());
    }

    /// Notes that the message at `position` was sent on an earlier connection. What lies before it may still have to
    /// be handed over.
    pub(crate) fn restored(&mut self, position: Position) {
        // Resent messages come before newer ones that are open already.
        let at = self.open.iter().rposition(|open| *open < position).map_or(0, |i| i + 1);
        if self.open.get(at) != Some(&position) {
            self.open.insert(at, position);
        }
    }

    /// Notes that nothing more has to happen for the message at `position`.
    pub(crate) fn finished(&mut self, position: Position) {
        self.is_unlogged = true;
        if let Some(i) = self.open.iter().position(|open| *open == position) {
            self.open.remove(i);
        }
        if let Err(at) = self.done.binary_search(&position) {
            self.done.insert(at, position);
        }
        let cursor = self.cursor();
        let passed = self.done.partition_point(|done| *done < cursor);
        self.done.drain(..passed);
    }

    /// Notes that nothing before `position` concerns this session any more.
    pub(crate) fn pass(&mut self, position: Position) {
        if position > self.seen {
            self.seen = position;
            self.is_unlogged = true;
            let cursor = self.cursor();
            let passed = self.done.partition_point(|done| *done < cursor);
            self.done.drain(..passed);
        }
    }

    /// Whether the message at `position` was done on an earlier connection, or is on its way.
    pub(crate) fn knows(&self, position: Position) -> bool {
        self.done.binary_search(&position).is_ok() || self.open.contains(&position)
    }
}

/// Messages towards the client.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    /// How many may be in flight: the smaller of the client's Receive Maximum and our window.
    pub(crate) window: u16,
    pub(crate) next_id: u16,
    /// In the order they were sent.
    pub(crate) in_flight: VecDeque<InFlight>,
    pub(crate) queue: VecDeque<Queued>,
    pub(crate) queue_bytes: Held,
    /// By partition; empty for clean sessions that never lagged.
    pub(crate) tracks: Vec<Track>,
    /// Partitions that are read from the log; all others are live.
    pub(crate) lags: Vec<Lag>,
    /// What an earlier connection sent and the client has not acknowledged, in the order of the first
    /// sending. It goes out in that order, before anything new [MQTT-4.4.0-1; 3:4.6.0-1].
    pub(crate) owed: VecDeque<Owed>,
    /// Number of the last `Progress`.
    pub(crate) progress_seq: u32,
    /// Those up to this one are committed.
    pub(crate) progress_done: u32,
    /// Those behind one that is not.
    pub(crate) progress_ahead: Vec<u32>,
    /// Messages that were done with since the last `Progress`.
    pub(crate) unlogged: u32,
    /// Ids that are done since the last `Progress` and that the log knows about.
    pub(crate) closed_ids: Vec<u16>,
    /// What a `Progress` says that is not committed.
    pub(crate) unconfirmed: Vec<Unconfirmed>,
    /// Retained messages that a lasting session still has to get, in the order of the subscriptions.
    pub(crate) retained: Vec<RetainedDue>,
    /// How many of those there ever were.
    pub(crate) retained_count: u32,
    /// What a lasting session does not get, since the last `Progress`.
    pub(crate) letters: folds::Letters,
}

/// What is said again at the end of the connection, unless the `Progress` that says it is committed.
#[derive(Debug)]
pub(crate) struct Unconfirmed {
    pub(crate) seq: u32,
    pub(crate) closed_ids: Vec<u16>,
    pub(crate) letters: Vec<folds::Letter>,
}

/// A packet identifier that an earlier connection used.
#[derive(Debug)]
pub(crate) struct Owed {
    pub(crate) id: u16,
    pub(crate) qos: u8,
    pub(crate) partition: u32,
    pub(crate) position: Position,
    /// Its message, once it has been read again.
    pub(crate) queued: Option<Queued>,
}

impl Outbound {
    /// Whether a further message would have to be read from the log later.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.len() >= QUEUE_MAX || self.queue_bytes.bytes() >= QUEUE_BYTES_MAX
    }

    pub(crate) fn push(&mut self, queued: Queued) {
        self.queue_bytes.set(self.queue_bytes.bytes() + queued.publication.len_bytes());
        self.queue.push_back(queued);
    }

    pub(crate) fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.queue_bytes.set(self.queue_bytes.bytes() - queued.publication.len_bytes());
        if self.queue.is_empty() && self.queue.capacity() > 16 {
            self.queue = VecDeque::new();
        }
        Some(queued)
    }

    /// Whether the client has acknowledged so much behind a message that it does not acknowledge
    /// that nothing more is sent: it must answer in order [MQTT-4.6.0-2].
    pub(crate) fn waits_for_oldest(&self) -> bool {
        let Some(next) = self.queue.front().filter(|next| next.is_tracked) else { return false };
        let track = self.tracks.iter().find(|track| track.partition == next.publication.partition);
        track.is_some_and(|track| track.done.len() >= DONE_MAX)
    }

    /// A packet identifier that is not in use, neither now, nor by what an earlier connection left, nor in the log:
    /// there a new message under the same id would take the place of one whose end is not logged yet, and a crash
    /// would deliver that one again.
    pub(crate) fn allocate(&mut self) -> u16 {
        loop {
            self.next_id = if self.next_id == u16::MAX { 1 } else { self.next_id + 1 };
            let id = self.next_id;
            // At most the window, what is owed and what is not logged: a few dozen each.
            let is_in_use = self.in_flight.iter().any(|sent| sent.id == id)
                || self.owed.iter().any(|owed| owed.id == id)
                || self.closed_ids.contains(&id)
                || self.unconfirmed.iter().any(|unconfirmed| unconfirmed.closed_ids.contains(&id));
            if !is_in_use {
                return id;
            }
        }
    }

    /// `Progress` number `seq` is committed. What waits for it may go on once those before it are, too: else messages would
    /// overtake each other [MQTT-4.6.0-5], since units end when the slowest of their partitions has answered. Gives the number
    /// up to which all are.
    pub(crate) fn progress_committed(&mut self, seq: u32) -> u32 {
        self.progress_ahead.push(seq);
        while let Some(at) = self.progress_ahead.iter().position(|ahead| *ahead == self.progress_done + 1) {
            self.progress_ahead.swap_remove(at);
            self.progress_done += 1;
        }
        let done = self.progress_done;
        self.unconfirmed.retain(|unconfirmed| unconfirmed.seq > done);
        done
    }

    /// Notes that retained messages of `filter` are due, after a topic; gives their number.
    pub(crate) fn retained_due(&mut self, filter: &TopicFilter, after: Option<Arc<str>>) -> u32 {
        self.retained.retain(|due| due.filter != *filter);
        self.retained_count += 1;
        let number = self.retained_count;
        let filter = filter.clone();
        self.retained.push(RetainedDue { number, filter, after, queued: 0, is_found: false, is_unlogged: false });
        number
    }

    /// One that a newer subscription to the same filter has not taken the place of.
    pub(crate) fn due(&mut self, number: Option<u32>) -> Option<&mut RetainedDue> {
        self.retained.iter_mut().find(|due| Some(due.number) == number)
    }

    /// What the log is to know of retained messages: how far they are, and the identifiers that bring them back.
    pub(crate) fn retained_progress(&mut self, progress: &mut folds::Progress) {
        if self.retained.iter().all(|due| !due.is_unlogged) {
            return;
        }
        for flight in self.in_flight.iter_mut().filter(|flight| !flight.is_tracked && !flight.is_named) {
            flight.is_named = true;
            progress.outbound.push((flight.id, Some(flight.outbound())));
        }
        // Before the first one is sent there is nothing to say: no topic would say that all are.
        for due in self.retained.iter_mut().filter(|due| due.is_unlogged && (due.is_done() || due.after.is_some())) {
            due.is_unlogged = false;
            let after = due.after.as_deref().filter(|_| !due.is_done()).map(str::to_owned);
            progress.retained.push((due.filter.clone(), after));
        }
        self.retained.retain(|due| !due.is_done());
    }

    /// The next message that must go out before the queue, or `Err` while it is not read yet.
    pub(crate) fn pop_owed(&mut self) -> Result<Option<Queued>, ()> {
        match self.owed.front_mut() {
            None => Ok(None),
            Some(owed) => {
                let queued = owed.queued.take().ok_or(())?;
                self.owed.pop_front();
                self.queue_bytes.set(self.queue_bytes.bytes() - queued.publication.len_bytes());
                Ok(Some(queued))
            }
        }
    }

    /// The message of an [`Owed`] has been read again.
    pub(crate) fn push_owed(&mut self, at: usize, queued: Queued) {
        let before = self.owed[at].queued.as_ref().map_or(0, |queued| queued.publication.len_bytes());
        self.queue_bytes.set(self.queue_bytes.bytes() - before + queued.publication.len_bytes());
        self.owed[at].queued = Some(queued);
    }

    /// Whether what an earlier connection sent has still to be read again.
    pub(crate) fn is_resending(&self) -> bool {
        self.owed.iter().any(|owed| owed.queued.is_none())
    }

    /// The messages of `partition` that have to be read again.
    pub(crate) fn unread(&self, partition: u32) -> impl Iterator<Item = Position> {
        let unread = self.owed.iter().filter(move |owed| owed.partition == partition && owed.queued.is_none());
        unread.map(|owed| owed.position)
    }

    /// An id of an earlier connection is done without an acknowledgement: the log is to forget it.
    pub(crate) fn give_up(&mut self, partition: u32, position: Position) {
        let given_up = self.owed.iter().position(|owed| (owed.partition, owed.position) == (partition, position));
        if let Some(owed) = given_up.and_then(|at| self.owed.remove(at)) {
            self.closed_ids.push(owed.id);
        }
    }

    pub(crate) fn find(&mut self, id: u16) -> Option<usize> {
        self.in_flight.iter().position(|sent| sent.id == id)
    }

    pub(crate) fn track(&mut self, partition: u32) -> Option<&mut Track> {
        self.tracks.iter_mut().find(|track| track.partition == partition)
    }

    pub(crate) fn lag(&mut self, partition: u32) -> Option<&mut Lag> {
        self.lags.iter_mut().find(|lag| lag.partition == partition)
    }

    /// Whether live publications of `partition` are left for later.
    pub(crate) fn is_lagging(&self, partition: u32) -> bool {
        // Almost always empty.
        self.lags.iter().any(|lag| lag.partition == partition)
    }
}

/// Aliases that we give to topics: the first ones that a connection hears of keep theirs, since one that is given to another topic
/// costs more than it saves where topics are many.
#[derive(Debug, Default)]
pub(crate) struct OutboundAliases {
    max: u16,
    /// By number less one.
    topics: Vec<Box<str>>,
}

impl OutboundAliases {
    /// None yet, and never more than `max`, which the client allows [MQTT-3.1.2-26].
    pub(crate) fn new(max: u16) -> Self {
        Self { max, topics: Vec::new() }
    }

    /// The alias that a PUBLISH to `topic` may have; one that is not known counts once it is [`Self::sent`].
    pub(crate) fn of(&self, topic: &str) -> Option<TopicAlias> {
        /// The alias is a property of three bytes, and may make the length of the properties longer by one.
        const TOPIC_MIN_BYTES: usize = 8;
        if self.max == 0 || topic.len() < TOPIC_MIN_BYTES {
            return None;
        }
        let known = self.topics.iter().position(|known| **known == *topic);
        let number = known.unwrap_or(self.topics.len()) as u16 + 1;
        (number <= self.max).then_some(TopicAlias { number, is_known: known.is_some() })
    }

    /// The client has been told of the alias that [`Self::of`] gave.
    pub(crate) fn sent(&mut self, alias: Option<TopicAlias>, topic: &str) {
        if alias.is_some_and(|alias| !alias.is_known) {
            self.topics.push(topic.into());
        }
    }
}

/// A session with its client connected.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Arc<str>,
    pub(crate) principal: Principal,
    /// Index of the partition of its device, in every stream.
    pub(crate) partition: u32,
    pub(crate) encoder: Encoder,
    /// Position of its `Open`; unknown until that is committed.
    pub(crate) epoch: Option<Position>,
    /// What the log has ended of the client before the epoch was known: this connection, if its `Open` is that one.
    pub(crate) ended: Option<EndedByLog>,
    /// Seconds it outlives its connection.
    pub(crate) expiry_s: u32,
    pub(crate) has_will: bool,
    /// The client's id was chosen by us and must be told.
    pub(crate) assigned: bool,
    pub(crate) keep_alive_told: Option<u16>,
    pub(crate) expiry_told: Option<u32>,
    /// The class that CONNECT asks for: messages with QoS 1 and 2 have it at least.
    pub(crate) asked_class: Class,
    /// Inbound topic aliases, by number less one.
    pub(crate) aliases: Vec<Option<Box<str>>>,
    pub(crate) outbound_aliases: OutboundAliases,
    pub(crate) subscriptions: Vec<Subscribed>,
    /// So many SUBSCRIBEs came a moment ago. What was committed before that may still be on its
    /// way to this worker, and does not concern the new subscription.
    pub(crate) fresh: u32,
    /// Of each data partition where the newest of those subscriptions began.
    pub(crate) began: Positions,
    /// Inbound QoS 2 ids between PUBLISH and PUBREL, in order of number.
    pub(crate) received: Vec<u16>,
    /// Those of them whose messages an earlier connection may not have stored, with the dedup ids to store them by.
    pub(crate) apart: Vec<(u16, Arc<str>)>,
    /// Inbound QoS 1 and 2 messages whose flow is not finished: what Receive Maximum bounds.
    pub(crate) inbound: u16,
    pub(crate) out: Outbound,
    /// The retained messages it still has to get.
    pub(crate) lookups: VecDeque<crate::retained::Lookup>,
    /// SUBSCRIBEs whose retained messages have not all come; some may wait for their SUBACK.
    pub(crate) retained_due: u32,
    /// Topics of retained messages with QoS 0 that have come live meanwhile: they must not come again.
    pub(crate) came_live: HashSet<Box<str>>,
}

impl Session {
    pub(crate) fn is_v5(&self) -> bool {
        self.encoder.version == Version::V5
    }

    /// What the subscriptions that see `position` of `partition` want of a message.
    pub(crate) fn wanted(&self, topic: &str, publisher: &str, partition: u32, position: Position) -> Merged {
        let mut merged = Merged::default();
        for held in &self.subscriptions {
            let is_own = held.wanted.no_local && *self.client == *publisher;
            if position >= held.start.get(partition) && !is_own && held.filter.matches(topic) {
                merged.add(held.wanted);
            }
        }
        merged
    }

    /// Whether some subscription began behind `position` of `partition`.
    pub(crate) fn began_after(&self, partition: u32, position: Position) -> bool {
        // Almost all messages lie behind the newest subscription, too: no need to look at each.
        self.fresh > 0
            && position < self.began.get(partition)
            && self.subscriptions.iter().any(|held| position < held.start.get(partition))
    }

    /// Whether it outlives its connection, so that its state must be in the log.
    pub(crate) const fn is_lasting(&self) -> bool {
        self.expiry_s > 0
    }
}

/// Matching subscriptions of one session, merged.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// Whether any matches.
    pub(crate) any: bool,
    pub(crate) qos: u8,
    pub(crate) retain_as_published: bool,
    pub(crate) ids: Vec<u32>,
}

impl Merged {
    fn add(&mut self, wanted: Wanted) {
        self.any = true;
        self.qos = self.qos.max(wanted.qos);
        self.retain_as_published |= wanted.retain_as_published;
        if wanted.id != 0 && !self.ids.contains(&wanted.id) {
            self.ids.push(wanted.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Position {
        Position::new(0, offset)
    }

    #[test]
    fn a_track_knows_what_is_done() {
        let mut track = Track::new(0, at(10));
        for offset in [10, 12, 15] {
            track.sent(at(offset));
        }
        track.finished(at(12));
        assert_eq!((track.cursor(), track.done.clone()), (at(10), vec![at(12)]));
        assert!(track.knows(at(12)) && track.knows(at(15)) && !track.knows(at(11)));
        track.finished(at(10));
        assert_eq!((track.cursor(), track.done.len()), (at(15), 0));
        track.finished(at(15));
        assert_eq!(track.cursor(), at(16));
        // Done, but what lies before it was not handed over yet: the cursor waits for that.
        track.finished(at(20));
        assert_eq!((track.cursor(), track.knows(at(20))), (at(16), true));
        track.pass(at(21));
        assert_eq!((track.cursor(), track.done.len()), (at(21), 0));
    }

    #[test]
    fn the_first_topics_get_aliases() {
        let mut aliases = OutboundAliases::new(2);
        let mut send = |topic: &str| {
            let alias = aliases.of(topic);
            aliases.sent(alias, topic);
            alias.map(|alias| (alias.number, alias.is_known))
        };
        assert_eq!([send("short"), send("devices/a"), send("devices/b")], [None, Some((1, false)), Some((2, false))]);
        assert_eq!([send("devices/c"), send("devices/b"), send("devices/a")], [None, Some((2, true)), Some((1, true))]);
        assert_eq!(OutboundAliases::default().of("devices/a"), None, "not allowed");
    }

    #[test]
    fn what_an_earlier_connection_sent_does_not_move_the_cursor() {
        let mut track = Track::new(0, at(10));
        track.restored(at(14));
        assert_eq!(track.cursor(), at(10));
        track.finished(at(14));
        assert!(track.knows(at(14)) && !track.knows(at(10)));
        track.sent(at(10));
        track.finished(at(10));
        assert_eq!((track.cursor(), track.done.clone()), (at(11), vec![at(14)]));
        track.pass(at(15));
        assert_eq!((track.cursor(), track.done.len()), (at(15), 0));
    }

    #[test]
    fn ids_of_an_earlier_connection_are_not_given_again() {
        let mut out = Outbound { window: 10, next_id: u16::MAX - 1, ..Outbound::default() };
        out.owed.push_back(Owed { id: 1, qos: 1, partition: 0, position: at(1), queued: None });
        assert_eq!([out.allocate(), out.allocate()], [u16::MAX, 2]);
        // Nor is one that is done while the log still names it.
        out.closed_ids.push(3);
        out.unconfirmed.push(Unconfirmed { seq: 1, closed_ids: vec![4], letters: Vec::new() });
        assert_eq!(out.allocate(), 5);
        out.next_id = 3;
        assert_eq!((out.progress_committed(1), out.allocate()), (1, 4));
    }

    #[test]
    fn what_waits_for_progress_waits_for_that_before_it() {
        let mut out = Outbound::default();
        assert_eq!([2, 4, 1, 3].map(|seq| out.progress_committed(seq)), [0, 0, 2, 4]);
    }
}
