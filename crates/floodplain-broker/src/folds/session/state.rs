//! What is known of one client.

use super::EndReason;
use crate::folds::{
    Letter, Letters, Lost, LostReason, NEVER_EXPIRES, Open, Outbound, Positions, Progress, RunId, Subscription, Will,
};
use floodplain_types::{Position, Timestamp, TopicFilter};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// A filter that a session has subscribed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    pub subscription: Subscription,
    /// Of each data partition the first position that this subscription sees.
    pub start: Positions,
    /// While retained messages are due: the topic after which they are.
    pub retained_after: Option<Arc<str>>,
}

/// The state of one client: stored while its expiry interval is not zero, or while connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The position of the newest [`Event::Open`](crate::folds::Event::Open).
    pub epoch: Position,
    /// Whether the newest Open found stored state (Session Present).
    pub is_resumed: bool,
    /// Whether the newest connection is still open, as far as the log says.
    pub is_connected: bool,
    /// The run of the server that has, or had, the connection.
    pub run: RunId,
    pub protocol_level: u8,
    /// Seconds that the session outlives its connection; [`NEVER_EXPIRES`] for ever.
    pub expiry_s: u32,
    /// Log time of the last end of a connection, while there is none.
    pub closed_at: Option<Timestamp>,
    /// The will of the open connection, or one that waits for its delay.
    pub will: Option<Box<Will>>,
    /// When a waiting will is sent.
    pub will_at: Option<Timestamp>,
    /// By filter.
    pub(super) subscriptions: Vec<Subscribed>,
    /// Of each data partition the position that everything before is done.
    pub cursor: Positions,
    /// What is done at or after the cursor: partition and position, sorted.
    pub(super) done: Vec<(u32, Position)>,
    /// Unfinished outbound messages by packet identifier, in the order in which they were first
    /// sent, which is the order to send them again [3:4.6.0-6].
    pub(super) outbound: Vec<(u16, Outbound)>,
    /// QoS 2 packet identifiers in use by the client, sorted.
    pub(super) inbound: Vec<u16>,
    /// Those of them whose messages come apart, and may never have come: the dedup id of each.
    pub(super) apart: Vec<(u16, Arc<str>)>,
    /// What the index has given up and `dlq` does not tell yet.
    pub(super) letters: Letters,
    /// When it is told.
    pub(super) letters_at: Option<Timestamp>,
}

/// A session that is no more, until its owner has found what still waited for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Log time of its end: what was published later does not concern it.
    pub at: Timestamp,
    pub reason: EndReason,
    /// The filters that kept messages, and from where on they were needed.
    pub wanted: Vec<(TopicFilter, Positions)>,
    /// What is done of that: partition and position, sorted.
    pub done: Vec<(u32, Position)>,
}

impl Session {
    pub(super) fn new(epoch: Position, open: &Open) -> Self {
        Self {
            epoch,
            is_resumed: false,
            is_connected: true,
            run: open.run,
            protocol_level: open.protocol_level,
            expiry_s: open.session_expiry_s,
            closed_at: None,
            will: None,
            will_at: None,
            subscriptions: Vec::new(),
            cursor: Positions::default(),
            done: Vec::new(),
            outbound: Vec::new(),
            inbound: Vec::new(),
            apart: Vec::new(),
            letters: Letters::default(),
            letters_at: None,
        }
    }

    /// The subscriptions, by filter.
    #[must_use]
    pub fn subscriptions(&self) -> &[Subscribed] {
        &self.subscriptions
    }

    /// What is done in `partition` at or after the cursor, sorted.
    pub fn done(&self, partition: u32) -> impl Iterator<Item = Position> + '_ {
        self.done.iter().filter(move |(p, _)| *p == partition).map(|(_, position)| *position)
    }

    /// Unfinished outbound messages by packet identifier, in the order to send them again.
    #[must_use]
    pub fn outbound(&self) -> &[(u16, Outbound)] {
        &self.outbound
    }

    /// QoS 2 packet identifiers that the client has not released, sorted.
    #[must_use]
    pub fn inbound(&self) -> &[u16] {
        &self.inbound
    }

    /// Those of [`Self::inbound`] whose messages may not have been stored: if one comes again it is stored with this dedup id.
    #[must_use]
    pub fn apart(&self) -> &[(u16, Arc<str>)] {
        &self.apart
    }

    /// From where on this session needs the messages of `subscription`.
    #[must_use]
    pub fn needs_from(&self, subscription: &Subscribed) -> Positions {
        subscription.start.upper(&self.cursor)
    }

    pub(super) fn expires_at(&self) -> Option<Timestamp> {
        let closed = self.closed_at.filter(|_| self.expiry_s != NEVER_EXPIRES)?;
        Some(closed + Duration::from_secs(u64::from(self.expiry_s)))
    }

    pub(super) fn timer(&self) -> Option<Timestamp> {
        [self.will_at, self.expires_at(), self.letters_at].into_iter().flatten().min()
    }

    /// The index has given up messages of one of the filters: from where on this session needed them, unless it has
    /// been told.
    pub(super) fn lose(&mut self, partition: u32, lost: &Lost) -> Option<Position> {
        let at = self.find(lost.filter.as_str()).ok()?;
        let from = self.needs_from(&self.subscriptions[at]).get(partition);
        if from > lost.last || !self.subscriptions[at].keeps_messages() {
            return None;
        }
        match lost.reason {
            // The oldest went: nothing waits before what did.
            LostReason::QueueFull | LostReason::Retention => {
                let held = &mut self.subscriptions[at];
                held.start = held.start.with(partition, lost.last.next());
                self.lift_cursor();
            }
            // What lies before it still waits. That it is told is remembered as a message that is done.
            LostReason::Damage => {
                let told = (partition, lost.last);
                let at = self.done.binary_search(&told).err()?;
                self.done.insert(at, told);
            }
        }
        Some(from)
    }

    /// Leaves out what a connection did not find any more and [`Self::lose`] has told before: it had not got so far, and
    /// is behind it all the same.
    pub(super) fn untold(&self, letters: Vec<Letter>) -> Vec<Letter> {
        let is_told = |letter: &Letter| {
            *letter.reason == *LostReason::Retention.text() && letter.to < self.cursor.get(letter.partition)
        };
        letters.into_iter().filter(|letter| !is_told(letter)).collect()
    }

    pub(super) fn find(&self, filter: &str) -> Result<usize, usize> {
        self.subscriptions.binary_search_by(|held| held.subscription.filter.as_str().cmp(filter))
    }

    /// Adds subscriptions to filters that are not held.
    pub(super) fn add_all(&mut self, new: BTreeMap<TopicFilter, Subscribed>) {
        if new.is_empty() {
            return;
        }
        self.subscriptions.reserve_exact(new.len());
        self.subscriptions.extend(new.into_values());
        crate::work::done(self.subscriptions.len());
        // Two sorted runs: a stable sort merges them.
        self.subscriptions.sort_by(|a, b| a.subscription.filter.cmp(&b.subscription.filter));
    }

    /// Lifts the cursor over what no subscription sees.
    pub(super) fn lift_cursor(&mut self) {
        let mut waiting = self.subscriptions.iter().filter(|held| held.keeps_messages());
        let Some(first) = waiting.next() else { return };
        let lowest = waiting.fold(first.start.clone(), |lowest, held| lowest.lower(&held.start));
        self.cursor = self.cursor.upper(&lowest);
        self.forget_done();
    }

    fn forget_done(&mut self) {
        let cursor = &self.cursor;
        self.done.retain(|(partition, position)| *position >= cursor.get(*partition));
    }

    pub(super) fn progress(&mut self, progress: &Progress) {
        for moved in &progress.partitions {
            let cursor = self.cursor.get(moved.partition).max(moved.cursor);
            self.cursor = self.cursor.with(moved.partition, cursor);
            self.done.retain(|(partition, _)| *partition != moved.partition);
            self.done.extend(moved.done.iter().map(|position| (moved.partition, *position)));
        }
        if !progress.partitions.is_empty() {
            self.done.sort_unstable();
            self.done.dedup();
            self.forget_done();
        }
        for (packet_id, state) in &progress.outbound {
            // What is named last was sent last: PUBLISH in the order of sending, PUBREL in that of the PUBRECs.
            self.outbound.retain(|(id, _)| id != packet_id);
            self.outbound.extend(state.map(|state| (*packet_id, state)));
        }
        for (filter, after) in &progress.retained {
            if let Ok(at) = self.find(filter.as_str()) {
                let held = &mut self.subscriptions[at];
                held.subscription.retained_due &= after.is_some();
                held.retained_after = after.as_deref().filter(|_| held.subscription.retained_due).map(Arc::from);
            }
        }
    }
}

impl Subscribed {
    /// Whether messages wait for a sleeping session with this subscription: QoS 0 never does.
    #[must_use]
    pub fn keeps_messages(&self) -> bool {
        self.subscription.qos > 0
    }
}
