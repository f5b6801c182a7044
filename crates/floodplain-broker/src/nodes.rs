//! Servers that share the log: which of them live, and what becomes of the connections of one that does not.
//!
//! Each says that it lives in every partition of `requests`. The owner of a partition counts how often it read that of
//! itself without one of another server: so a log that is slow, for all or for the owner alone, kills nobody, and no
//! clock is asked. What it concludes is a record, [`Event::NodeDied`]. A server that was only frozen reads it when it wakes, and lets
//! the connections go that the log has ended.

use crate::{
    ConnId, Worker,
    folds::{CloseReason, Event, RunId, SessionFold},
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
        // Said again and again, since the one who says it may not own the partition yet.
        self.missed.iter().filter(|(_, missed)| **missed % MISSED_MAX == 0).map(|(run, _)| *run).collect()
    }

    fn died(&mut self, run: RunId) {
        self.missed.remove(&run);
    }
}

impl Worker {
    /// Whether this process emits for partition `index` of every stream.
    pub(crate) fn owns(&self, index: u32) -> bool {
        self.shared.fences.of(self.shared.slot_of(index)).is_some()
    }

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
        let dead = requests.nodes.heard(run, ours);
        for run in dead {
            if self.owns(source) {
                tracing::warn!(run = format_args!("{:016x}", run.0), partition = source, "a server is taken for dead");
                self.append_event(Class::All, "", source, &Event::NodeDied { run });
            }
        }
    }

    /// The log says that a server is dead.
    pub(crate) fn node_died(&mut self, source: u32, run: RunId) {
        if let Some(requests) = self.owner.requests.iter_mut().find(|requests| requests.partition.index == source) {
            requests.nodes.died(run);
        }
    }

    /// A client has connected to another server.
    pub(crate) fn opened_elsewhere(&mut self, client: &str, epoch: Position) {
        if let Some(conn) = self.connection_before(client, |ours| ours < epoch) {
            self.taken_over_elsewhere(conn);
        }
    }

    /// The connection goes on at another server.
    pub(crate) fn taken_over_elsewhere(&mut self, conn: ConnId) {
        self.metrics.takeovers.increment(1);
        self.send_disconnect(conn, DisconnectCode::SessionTakenOver, None);
        self.close_taken_over(conn);
    }

    /// The log has ended a connection that lives: this server was taken for dead.
    pub(crate) fn ended_by_the_log(&mut self, client: &str, epoch: Position, reason: CloseReason) {
        if reason == CloseReason::ServerDied
            && let Some(conn) = self.connection_before(client, |ours| ours == epoch)
        {
            self.send_disconnect(
                conn,
                DisconnectCode::ServerBusy,
                Some("this server was taken for dead: connect again"),
            );
            self.close_taken_over(conn);
        }
    }

    fn connection_before(&self, client: &str, is_it: impl Fn(Position) -> bool) -> Option<ConnId> {
        let conn = *self.clients.get(client)?;
        let connection = self.connections.get(conn.slot as usize).filter(|connection| connection.id == conn)?;
        let epoch = connection.session.as_deref()?.epoch?;
        is_it(epoch).then_some(conn)
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
