//! What workers have to know at once. No part of the fold's state: a replay makes none.

use super::{Ended, Session};
use crate::folds::{CloseReason, Positions, RunId};
use floodplain_types::{ClientId, Position, TopicFilter};
use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

/// Why a session is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Its expiry interval has passed.
    Expired,
    /// The client connected with Clean Start.
    CleanStart,
    /// The connection of a session with expiry interval 0 has ended.
    NoExpiry,
}

/// Something that a worker must act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An Open was folded: what is stored may now be asked for.
    Opened {
        client: ClientId,
        epoch: Position,
        run: RunId,
        is_resumed: bool,
        /// Epoch of a connection that was still open: close it with 0x8E [MQTT-3.1.4-3].
        taken_over: Option<Position>,
    },
    /// The connection has ended; the session may live on.
    Closed { client: ClientId, epoch: Position, reason: CloseReason },
    /// A server has said that it lives.
    Alive { run: RunId },
    /// A server is gone; each of its connections is told as closed, too.
    Died { run: RunId },
    /// The session has ended.
    Ended { client: ClientId, epoch: Position, reason: EndReason },
    /// A session waits for messages of this filter from these positions on. Comes with each
    /// session, so that the index can fill in what it has let go of.
    FilterWanted { filter: TopicFilter, start: Positions },
    /// No session in this partition waits for messages of this filter any more.
    FilterDropped { filter: TopicFilter },
}

#[derive(Debug)]
pub(super) struct Changes {
    kept: Option<Vec<Change>>,
    scan: Option<Scan>,
    unreadable: metrics::Counter,
}

#[derive(Debug, Default)]
struct Scan {
    seen: Option<ClientId>,
    lowest: BTreeMap<TopicFilter, Positions>,
}

impl Default for Changes {
    fn default() -> Self {
        let unreadable = metrics::counter!("floodplain_broker_unreadable_events_total");
        Self { kept: None, scan: None, unreadable }
    }
}

impl Changes {
    pub(super) fn watch(&mut self) {
        self.kept.get_or_insert_default();
    }

    pub(super) fn push(&mut self, change: impl FnOnce() -> Change) {
        if let Some(kept) = &mut self.kept {
            kept.push(change());
        }
    }

    pub(super) fn drain(&mut self) -> Vec<Change> {
        self.kept.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn unreadable(&self) {
        self.unreadable.increment(1);
    }

    pub(super) fn wanted(&mut self, filter: &TopicFilter, start: &Positions) {
        if let Some(scan) = &mut self.scan {
            scan.add(filter, start.clone());
        }
        self.push(|| Change::FilterWanted { filter: filter.clone(), start: start.clone() });
    }

    pub(super) fn begin_scan(&mut self) {
        self.scan = Some(Scan::default());
    }

    pub(super) fn scan(
        &mut self,
        sessions: &BTreeMap<ClientId, Box<Session>>,
        ended: &BTreeMap<(ClientId, Position), Ended>,
        limit: usize,
    ) -> Option<Vec<(TopicFilter, Positions)>> {
        let mut scan = self.scan.take()?;
        let from = scan.seen.clone().map_or(Unbounded, Excluded);
        let mut left = limit.max(1);
        for (client, session) in sessions.range::<ClientId, _>((from, Unbounded)) {
            if left == 0 {
                self.scan = Some(scan);
                return None;
            }
            left -= 1;
            for held in session.subscriptions.iter().filter(|held| held.keeps_messages()) {
                scan.add(&held.subscription.filter, session.needs_from(held));
            }
            scan.seen = Some(client.clone());
        }
        for (filter, from) in ended.values().flat_map(|ended| &ended.wanted) {
            scan.add(filter, from.clone());
        }
        Some(scan.lowest.into_iter().collect())
    }
}

impl Scan {
    fn add(&mut self, filter: &TopicFilter, from: Positions) {
        match self.lowest.get_mut(filter) {
            Some(lowest) => *lowest = lowest.lower(&from),
            None => drop(self.lowest.insert(filter.clone(), from)),
        }
    }
}
