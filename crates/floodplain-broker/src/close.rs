//! The end of a connection, and what the log is told about it (MQTT 5.0 §3.14, §4.1).

use crate::{
    CloseKind, ConnId, Worker,
    append::Waiter,
    connection::{Phase, Refusal},
    folds::{self, CloseReason, Event, Outbound, OutboundState, PartitionProgress, Progress},
    nodes::EndedByLog,
    session::{Session, Unconfirmed},
};
use floodplain_mqtt::{Disconnect, DisconnectCode};
use floodplain_types::{Class, Position, Timestamp};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// Acknowledgements after which a lasting session's progress is logged at once.
const PROGRESS_ACKS: u32 = 64;
/// Progress is logged this long after the first acknowledgement that it holds.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);

/// A `Close` that waits for its epoch.
#[derive(Debug)]
pub(crate) struct Unsaid {
    client: Arc<str>,
    partition: u32,
    reason: CloseReason,
    fires_will: bool,
    /// See [`Session::ended`].
    ended: Option<EndedByLog>,
}

/// Connections that were closed before their `Open` was folded, by which the log knows them.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    unsaid: HashMap<ConnId, Unsaid>,
    /// One of each client.
    by_client: HashMap<Arc<str>, ConnId>,
}

impl Closing {
    fn insert(&mut self, conn: ConnId, unsaid: Unsaid) {
        self.by_client.insert(unsaid.client.clone(), conn);
        self.unsaid.insert(conn, unsaid);
    }

    pub(crate) fn remove(&mut self, conn: ConnId) -> Option<Unsaid> {
        let unsaid = self.unsaid.remove(&conn)?;
        self.by_client.remove(&unsaid.client);
        Some(unsaid)
    }

    /// The client is here again: its new `Open` ends what it had before.
    pub(crate) fn forget(&mut self, client: &str) {
        if let Some(conn) = self.by_client.remove(client) {
            self.unsaid.remove(&conn);
        }
    }

    /// The log has ended a connection of the client.
    pub(crate) fn ended(&mut self, client: &str, ended: EndedByLog) {
        let conn = self.by_client.get(client);
        if let Some(unsaid) = conn.and_then(|conn| self.unsaid.get_mut(conn)) {
            unsaid.ended = Some(ended);
        }
    }

    pub(crate) fn has_ended(&self, conn: ConnId) -> Option<EndedByLog> {
        self.unsaid.get(&conn)?.ended
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.unsaid.is_empty() && self.by_client.is_empty()
    }

    pub(crate) fn client(&self, conn: ConnId) -> Option<&Arc<str>> {
        self.unsaid.get(&conn).map(|unsaid| &unsaid.client)
    }
}

/// What a `Close` says.
#[derive(Debug, Clone, Copy)]
struct Farewell {
    reason: CloseReason,
    fires_will: bool,
    expiry_s: Option<u32>,
}

impl Worker {
    /// DISCONNECT from the client.
    pub(crate) fn disconnected(&mut self, conn: ConnId, disconnect: &Disconnect<'_>) -> Result<(), Refusal> {
        let expiry_max = u32::try_from(self.shared.config.session_expiry_max.as_secs()).unwrap_or(u32::MAX);
        let Some(session_expiry) = self.get(conn).and_then(|c| c.session.as_deref()).map(|s| s.expiry_s) else {
            return Ok(());
        };
        let asked = disconnect.session_expiry_interval_secs;
        if session_expiry == 0 && asked.is_some_and(|asked| asked > 0) {
            // §3.14.2.2.2
            return Err(Refusal::protocol("session expiry may not change from zero"));
        }
        // Only 0x00 removes the will, and any DISCONNECT of 3.1.1 [MQTT-3.14.4-3; 3:3.14.4-3].
        let fires_will = disconnect.code != DisconnectCode::NormalDisconnection;
        let expiry_s = asked.map(|asked| asked.min(expiry_max));
        let farewell = Farewell { reason: CloseReason::Disconnect, fires_will, expiry_s };
        self.close_session(conn, farewell);
        self.end(conn, CloseKind::ByUs);
        Ok(())
    }

    /// The socket is gone.
    pub(crate) fn close_lost(&mut self, conn: ConnId) {
        let farewell = Farewell { reason: CloseReason::ConnectionLost, fires_will: true, expiry_s: None };
        self.close_session(conn, farewell);
        self.end(conn, CloseKind::ByPeer);
    }

    /// We end it, and the will fires.
    pub(crate) fn close_failed(&mut self, conn: ConnId, reason: CloseReason) {
        self.close_session(conn, Farewell { reason, fires_will: true, expiry_s: None });
        self.end(conn, CloseKind::ByUs);
    }

    /// It was refused: its will is not sent, since only a connection that was accepted has one (MQTT 5.0 §3.1.2.5).
    pub(crate) fn close_refused(&mut self, conn: ConnId) {
        self.close_session(conn, Farewell { reason: CloseReason::Administrative, fires_will: false, expiry_s: None });
        self.end(conn, CloseKind::ByUs);
    }

    /// The server stops; 5.0 clients are told so.
    pub(crate) fn close_stopping(&mut self, conn: ConnId) {
        self.send_disconnect(conn, DisconnectCode::ServerShuttingDown, None);
        self.close_failed(conn, CloseReason::ServerStop);
    }

    /// A newer connection of the same client takes over: its `Open` ends this one.
    pub(crate) fn close_taken_over(&mut self, conn: ConnId) {
        if let Some(session) = self.leave(conn)
            && let Some(epoch) = session.epoch.filter(|_| session.is_lasting())
        {
            let (client, partition) = (session.client.clone(), session.partition);
            let progress = whole_progress(session);
            if !is_nothing(&progress) {
                self.append_event(Class::All, &client, partition, &Event::Progress { epoch, progress });
            }
        }
        // Whatever this turn has for the old connection lies before what the new one says.
        self.submit();
        self.end(conn, CloseKind::ByUs);
    }

    /// Takes a session out of everything that delivers to it.
    fn leave(&mut self, conn: ConnId) -> Option<Box<Session>> {
        let shared = self.shared.clone();
        let connection = self.get(conn)?;
        if connection.phase == Phase::Closed {
            return None;
        }
        let session = connection.session.take()?;
        for held in &session.subscriptions {
            self.router.unsubscribe(&shared.routes, conn.slot, held.filter.as_str());
        }
        if self.clients.get(&session.client) == Some(&conn) {
            self.clients.remove(&session.client);
        }
        self.forget_lags(conn, &session);
        Some(session)
    }

    fn close_session(&mut self, conn: ConnId, farewell: Farewell) {
        let Some(session) = self.leave(conn) else { return };
        let Farewell { reason, fires_will, expiry_s } = farewell;
        let fires_will = fires_will && session.has_will;
        let (client, partition) = (session.client.clone(), session.partition);
        let Some(epoch) = session.epoch else {
            let ended = session.ended;
            self.closing.insert(conn, Unsaid { client, partition, reason, fires_will, ended });
            return;
        };
        // Also of one that ends now: what it has not got goes to `dlq`.
        let progress = whole_progress(session);
        let close = folds::Close { epoch, reason, fires_will, session_expiry_s: expiry_s, progress };
        self.append_event(Class::All, &client, partition, &Event::Close(Box::new(close)));
    }

    /// The epoch of a connection that is closed already has come: so its `Close` can be said.
    pub(crate) fn say_unsaid(&mut self, conn: ConnId, epoch: Position) {
        let Some(Unsaid { client, partition, reason, fires_will, .. }) = self.closing.remove(conn) else { return };
        let close = folds::Close { epoch, reason, fires_will, session_expiry_s: None, progress: Progress::default() };
        self.append_event(Class::All, &client, partition, &Event::Close(Box::new(close)));
    }

    /// Appends an event of a client to its partition of `requests`, in this turn's unit or, if that is full, a new one:
    /// however many connections come or go at once, units stay small.
    pub(crate) fn append_event(
        &mut self,
        class: Class,
        client: &str,
        partition: u32,
        event: &Event,
    ) -> Option<crate::append::Place> {
        if self.appends.is_full() {
            self.submit();
        }
        self.append_with_it(class, client, partition, event)
    }

    /// The dedup id of the next event: an engine may write a record twice, and the fold knows the second one by it.
    pub(crate) fn event_id(&mut self) -> Arc<str> {
        self.event_seq += 1;
        format!("{:x}.{:x}.{:x}", self.shared.run.0, self.idx, self.event_seq).into()
    }

    /// Appends an event in the unit of what was appended last with this class: both are there after a crash, or neither, if
    /// the log keeps units whole.
    pub(crate) fn append_with_it(
        &mut self,
        class: Class,
        client: &str,
        partition: u32,
        event: &Event,
    ) -> Option<crate::append::Place> {
        let id = self.event_id();
        self.append_as(&id, class, client, partition, event)
    }

    /// The same with a dedup id from [`Self::event_id`].
    pub(crate) fn append_as(
        &mut self,
        id: &str,
        class: Class,
        client: &str,
        partition: u32,
        event: &Event,
    ) -> Option<crate::append::Place> {
        let value = event.encode();
        let now = self.now.as_millis();
        let key = Some(client.as_bytes()).filter(|key| !key.is_empty());
        let headers = [(floodplain_log::header::DEDUP_ID, id.as_bytes())];
        let write = |batch: &mut floodplain_log::BatchBuilder| batch.push(now, key, Some(&value), headers);
        let pushed = self.appends.push(class, self.shared.requests.partition(partition), write, None);
        pushed.inspect_err(|error| tracing::error!(%error, "session event does not fit a batch")).ok()
    }

    /// A lasting session has got further, which the log does not know.
    pub(crate) fn progress_made(&mut self, conn: ConnId) {
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        session.out.unlogged += 1;
        let unlogged = session.out.unlogged;
        if unlogged == 1 {
            self.owner.progress.push_back((self.steady + PROGRESS_AFTER, conn));
        }
        if unlogged >= PROGRESS_ACKS {
            self.write_progress(conn);
        }
    }

    /// Logs the progress that has waited long enough. A crash repeats what was acknowledged since.
    pub(crate) fn log_progress(&mut self) {
        while self.owner.progress.front().is_some_and(|(due, _): &(Timestamp, ConnId)| *due <= self.steady) {
            if let Some((_, conn)) = self.owner.progress.pop_front() {
                self.write_progress(conn);
            }
        }
    }

    fn write_progress(&mut self, conn: ConnId) {
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        let Some(epoch) = session.epoch.filter(|_| session.out.unlogged > 0) else { return };
        session.out.unlogged = 0;
        let mut partitions = Vec::new();
        for track in session.out.tracks.iter_mut().filter(|track| track.is_unlogged) {
            track.is_unlogged = false;
            let (partition, cursor, done) = (track.partition, track.cursor(), track.done.clone());
            partitions.push(PartitionProgress { partition, cursor, done });
        }
        let closed_ids = std::mem::take(&mut session.out.closed_ids);
        let outbound = closed_ids.iter().map(|id| (*id, None)).collect();
        let (client, partition) = (session.client.clone(), session.partition);
        let letters = session.out.letters.take();
        session.out.progress_seq += 1;
        let seq = session.out.progress_seq;
        session.out.unconfirmed.push(Unconfirmed { seq, closed_ids, letters: letters.clone() });
        let mut progress = Progress { partitions, outbound, retained: Vec::new(), letters };
        session.out.retained_progress(&mut progress);
        self.append_event(Class::All, &client, partition, &Event::Progress { epoch, progress });
        self.appends.wait(Class::All, Waiter::Progress { conn, seq, is_awaited: false });
    }
}

fn is_nothing(progress: &Progress) -> bool {
    *progress == Progress::default()
}

/// All that a sleeping session needs: cursors, what is done above them, ids in use.
fn whole_progress(mut session: Box<Session>) -> Progress {
    let mut retained = Progress::default();
    session.out.retained_progress(&mut retained);
    let partitions = session
        .out
        .tracks
        .iter()
        .map(|track| PartitionProgress { partition: track.partition, cursor: track.cursor(), done: track.done.clone() })
        .collect();
    let (mut closed_ids, mut letters) = (Vec::new(), Vec::new());
    for unconfirmed in std::mem::take(&mut session.out.unconfirmed) {
        closed_ids.extend(unconfirmed.closed_ids);
        letters.extend(unconfirmed.letters);
    }
    closed_ids.extend(&session.out.closed_ids);
    letters.extend(session.out.letters.take());
    let mut outbound: Vec<(u16, Option<Outbound>)> = closed_ids.into_iter().map(|id| (id, None)).collect();
    outbound.extend(session.out.in_flight.iter().map(|flight| (flight.id, Some(flight.outbound()))));
    // What could not be sent again yet keeps its place behind that.
    for owed in &session.out.owed {
        let state = if owed.qos == 2 { OutboundState::AwaitsPubrec } else { OutboundState::AwaitsPuback };
        let (partition, position) = (owed.partition, owed.position);
        outbound.push((owed.id, Some(Outbound { partition, position, state })));
    }
    Progress { partitions, outbound, retained: retained.retained, letters }
}
