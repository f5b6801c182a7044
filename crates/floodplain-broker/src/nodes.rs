//! Servers that share the log: which of them live, and what becomes of the connections of one that does not.
//!
//! Each says that it lives in every partition of `requests`, and counts how often it read that of itself without one of
//! another server: so a log that is slow, for all or for one alone, kills nobody, and no clock is asked. What it
//! concludes is a record, [`Event::NodeDied`]; said twice, it changes nothing more. A server that was only frozen reads it when it wakes, and lets
//! the connections go that the log has ended.

use crate::{
    ConnId, Worker,
    folds::{Event, RunId, SessionFold},
};
use floodplain_mqtt::DisconnectCode;
use floodplain_types::{Class, Position};
use std::{collections::BTreeMap, time::Duration};

/// How often a server says that it lives.
const ALIVE_EVERY: Duration = Duration::from_secs(2);
/// So many of the reader's own without one of another server, and that one is dead: about 10 s.
const MISSED_MAX: u32 = 5;

/// Servers that may have connections in one partition, but for this one.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    /// How often this server was heard since each of them was.
    missed: BTreeMap<RunId, u32>,
}

/// A connection that the log has ended, and what its client is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndedByLog {
    pub(crate) epoch: Position,
    pub(crate) why: DisconnectCode,
}

impl Nodes {
    /// Those of the sessions that are connected now.
    pub(crate) fn of(fold: &SessionFold, ours: RunId) -> Self {
        let connected = fold.sessions().filter(|(_, session)| session.is_connected);
        Self { missed: connected.map(|(_, session)| (session.run, 0)).filter(|(run, _)| *run != ours).collect() }
    }

    /// A server was heard; gives those that are to be taken for dead.
    fn heard(&mut self, run: RunId, ours: RunId) -> Vec<RunId> {
        if run != ours {
            self.missed.insert(run, 0);
            return Vec::new();
        }
        self.missed.values_mut().for_each(|missed| *missed += 1);
        // Said again until it is read: the log may not have taken it.
        self.missed.iter().filter(|(_, missed)| **missed % MISSED_MAX == 0).map(|(run, _)| *run).collect()
    }

    fn died(&mut self, run: RunId) {
        self.missed.remove(&run);
    }
}

impl Worker {
    /// Says that this server lives, when it is time.
    pub(crate) fn say_alive(&mut self) {
        if !self.shared.log.is_shared() || self.steady < self.alive_at {
            return;
        }
        self.alive_at = self.steady + ALIVE_EVERY;
        for at in 0..self.owner.requests.len() {
            let index = self.owner.requests[at].partition.index;
            self.append_event(Class::All, "", index, &Event::NodeAlive { run: self.shared.run });
        }
    }

    /// A server was heard in a partition of `requests`.
    pub(crate) fn node_heard(&mut self, source: u32, run: RunId) {
        let ours = self.shared.run;
        let Some(requests) = self.owner.requests.iter_mut().find(|requests| requests.partition.index == source) else {
            return;
        };
        for run in requests.nodes.heard(run, ours) {
            tracing::warn!(run = format_args!("{:016x}", run.0), partition = source, "a server is taken for dead");
            self.append_event(Class::All, "", source, &Event::NodeDied { run });
        }
    }

    /// The log says that a server is dead.
    pub(crate) fn node_died(&mut self, source: u32, run: RunId) {
        if let Some(requests) = self.owner.requests.iter_mut().find(|requests| requests.partition.index == source) {
            requests.nodes.died(run);
        }
    }

    /// The log has ended a connection of `client`, by itself: this server was taken for dead, or the client has connected to
    /// another one.
    pub(crate) fn ended_by_the_log(&mut self, client: &str, ended: EndedByLog) {
        let Some(&conn) = self.clients.get(client) else { return self.closing.ended(client, ended) };
        let Some(session) = self.get(conn).and_then(|connection| connection.session.as_deref_mut()) else { return };
        match session.epoch {
            Some(epoch) if epoch == ended.epoch => self.end_by_the_log(conn, ended.why),
            Some(_) => {}
            // Whether it is that one is known with its `Open`.
            None => session.ended = Some(ended),
        }
    }

    pub(crate) fn end_by_the_log(&mut self, conn: ConnId, why: DisconnectCode) {
        let words = match why {
            DisconnectCode::SessionTakenOver => {
                self.metrics.takeovers.increment(1);
                None
            }
            _ => Some("this server was taken for dead: connect again"),
        };
        self.send_disconnect(conn, why, words);
        self.close_taken_over(conn);
    }
}

#[cfg(test)]
impl Worker {
    /// The epoch of the client's session, if the log has it as connected.
    pub(crate) fn connected(&self, client: &str) -> Option<Position> {
        let sessions = self.owner.requests.iter().map(|requests| requests.sessions.fold());
        let stored = sessions.filter_map(|fold| fold.session(client)).find(|session| session.is_connected);
        stored.map(|session| session.epoch)
    }

    /// No connection waits for its `Open`, or is to say its `Close`.
    pub(crate) fn opens_nothing(&self) -> bool {
        self.owner.requests.iter().all(crate::owner::RequestPartition::opens_nothing) && self.closing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_dead_when_only_ours_is_heard() {
        let (ours, a, b) = (RunId(1), RunId(2), RunId(3));
        let mut nodes = Nodes::default();
        assert_eq!((nodes.heard(a, ours), nodes.heard(b, ours)), (vec![], vec![]));
        for beat in 1..=3 * MISSED_MAX {
            let dead = nodes.heard(ours, ours);
            nodes.heard(b, ours);
            assert_eq!(dead, if beat % MISSED_MAX == 0 { vec![a] } else { vec![] }, "{beat}");
        }
        nodes.died(a);
        assert_eq!((0..2 * MISSED_MAX).flat_map(|_| nodes.heard(ours, ours)).collect::<Vec<_>>(), [b, b]);
    }
}
