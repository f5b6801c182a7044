//! Sessions that are behind: after a sleep, or because their client reads slowly.

use crate::{
    ConnId, Worker,
    folds::{Change, Positions},
    session::{Session, Subscribed, Track},
    router::Wanted,
};
use floodplain_log::{FetchedRecord, ReadError, RecordRef};
use floodplain_types::Position;

/// A partition that a session reads from the log.
#[derive(Debug)]
pub(crate) struct Lag {
    pub(crate) partition: u32,
    /// Where to go on.
    pub(crate) next: Position,
}

impl Worker {
    /// A stored or storable session is open and folded: CONNACK, and what it is owed.
    pub(crate) fn opened(&mut self, conn: ConnId, at: usize, epoch: Position) {
        let shared = self.shared.clone();
        let Some(connection) = self.connections.get_mut(conn.slot as usize).filter(|c| c.id == conn) else { return };
        let Some(session) = connection.session.as_deref_mut() else { return };
        let fold = self.owner.requests[at].sessions.fold();
        let stored = fold.session(&session.client).filter(|stored| stored.epoch == epoch);
        let is_present = stored.is_some_and(|stored| stored.is_resumed);
        if let Some(stored) = stored.filter(|_| is_present) {
            session.received = stored.inbound().to_vec();
            for held in stored.subscriptions() {
                let subscription = &held.subscription;
                let wanted = Wanted {
                    qos: subscription.qos,
                    no_local: subscription.no_local,
                    retain_as_published: subscription.retain_as_published,
                    id: subscription.id.unwrap_or(0),
                };
                session.subscriptions.push(Subscribed { filter: subscription.filter.clone(), wanted });
                self.router.subscribe(&shared.routes, conn.slot, subscription.filter.as_str(), wanted);
            }
        }
        self.welcome(conn, is_present);
    }

    /// Follows all data partitions from `start` on, for a lasting session that does not yet.
    pub(crate) fn track_all(&mut self, conn: ConnId, start: &Positions) {
        let partitions = self.shared.telemetry.partitions;
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        if session.is_lasting() && session.out.tracks.is_empty() {
            session.out.tracks = (0..partitions).map(|p| Track::new(p, start.get(p))).collect();
        }
    }

    /// What the fold of sessions tells at once.
    pub(crate) fn session_changed(&mut self, change: Change) {
        drop(change);
    }

    pub(crate) fn fall_behind(&mut self, _conn: ConnId, _partition: u32, _from: Position) {
        self.metrics.lagging.increment(1);
    }

    pub(crate) fn gap(&mut self, _partition: u32, _from: Position) {
        self.metrics.mailbox_gaps.increment(1);
    }

    pub(crate) fn passed(&mut self, _through: &[(u32, Position)]) {}

    pub(crate) fn read_on(&mut self, conn: ConnId) {
        self.look_on(conn);
    }

    pub(crate) fn forget_lags(&mut self, _conn: ConnId, _session: &Session) {}

    pub(crate) fn fetched(
        &mut self,
        _conn: ConnId,
        _partition: u32,
        _refs: &[RecordRef],
        _records: Result<Vec<FetchedRecord>, ReadError>,
    ) {
    }
}
