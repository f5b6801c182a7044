//! From a publication to the clients that want it.

use crate::{
    ConnId, Worker,
    append::Waiter,
    connection::{Phase, Refusal},
    folds::{self, Event, Letter, OutboundState, Progress},
    publication::{Delivery, Placed, Publication},
    router::Match,
    session::{CAME_LIVE_MAX, InFlight, Queued, Stage},
    subscribe::effective,
};
use floodplain_mqtt::{Ack, DisconnectCode, Packet, PacketId, PubackCode, PubrelCode};
use floodplain_types::{Class, Position};
use std::sync::Arc;

/// QoS 0 that may wait behind a socket that takes no more; the rest is dropped and counted.
const STALLED_BYTES_MAX: usize = 256 << 10;
/// QoS 0 that may gather in one turn before the socket was asked at all.
const GATHERED_BYTES_MAX: usize = 4 << 20;
/// Output behind which QoS 1 and 2 stay in the queue.
const ROOM_BYTES: usize = 256 << 10;

impl Worker {
    /// QoS 0: out at once, here and to the other workers.
    pub(crate) fn route_at_once(&mut self, publication: &Arc<Publication>) {
        let (workers, local) = self.router.find(&self.shared.routes, publication.topic());
        self.for_others(workers, |worker, others| others[worker].push(publication.clone()));
        if !local.is_empty() {
            self.deliver_now(publication, &local);
        }
    }

    fn for_others(&mut self, workers: u64, mut tell: impl FnMut(usize, &mut Vec<Vec<Arc<Publication>>>)) {
        let mut others = workers & !(1 << self.idx);
        while others != 0 {
            tell(others.trailing_zeros() as usize, &mut self.at_once);
            others &= others - 1;
        }
    }

    /// Delivers with QoS 0 to the connections of this worker.
    pub(crate) fn deliver_now(&mut self, publication: &Publication, matches: &[Match]) {
        if publication.is_expired(self.now) {
            self.metrics.dropped_expired.increment(matches.len() as u64);
            return;
        }
        let expiry_seconds = publication.expiry_left(self.now);
        for m in matches {
            let own;
            let m = if self.is_own(publication, m) {
                own = self.router.match_one(publication.topic(), m.slot);
                let Some(m) = &own else { continue };
                m
            } else {
                m
            };
            let connection = &mut self.connections[m.slot as usize];
            let Some(session) = &mut connection.session else { continue };
            if publication.retain && session.retained_due > 0 && session.came_live.len() < CAME_LIVE_MAX {
                session.came_live.insert(publication.topic().into());
            }
            let how = Delivery {
                v5: session.is_v5(),
                qos: 0,
                retain: publication.retain && m.retain_as_published,
                dup: false,
                packet_id: 0,
                subscription_ids: m.ids.as_deref().unwrap_or_default(),
                expiry_seconds,
                topic_alias: None,
            };
            self.write_at_once(m.slot, publication, how);
        }
    }

    /// Leaves out subscriptions that began after the message was committed: `Err` has what is left.
    fn without_fresh(&self, partition: u32, placed: &Placed, m: &Match) -> Result<(), Option<Match>> {
        let session = self.connections.get(m.slot as usize).and_then(|connection| connection.session.as_deref());
        let Some(session) = session.filter(|session| session.began_after(partition, placed.position)) else {
            return Ok(());
        };
        let publication = &placed.publication;
        let wanted = session.wanted(publication.topic(), &publication.publisher, partition, placed.position);
        Err(wanted.any.then(|| Match {
            slot: m.slot,
            qos: wanted.qos,
            retain_as_published: wanted.retain_as_published,
            no_local: false,
            ids: (!wanted.ids.is_empty()).then(|| wanted.ids.into()),
        }))
    }

    /// Whether some subscription asked not to get this publisher's messages, and it is the publisher.
    fn is_own(&self, publication: &Publication, m: &Match) -> bool {
        let session = || self.connections.get(m.slot as usize)?.session.as_ref();
        m.no_local && session().is_some_and(|session| *session.client == *publication.publisher)
    }

    /// QoS 0. `how` has no alias yet.
    pub(crate) fn write_at_once(&mut self, slot: u32, publication: &Publication, how: Delivery<'_>) {
        let connection = &self.connections[slot as usize];
        if connection.phase != Phase::Live || connection.is_deaf {
            return;
        }
        let backlog = connection.backlog();
        let max = if connection.stalled { STALLED_BYTES_MAX } else { GATHERED_BYTES_MAX };
        if backlog > max {
            self.metrics.dropped_outbox_full.increment(1);
            return;
        }
        let limit = connection.session.as_ref().map_or(u32::MAX, |session| session.encoder.max_packet_size);
        if limit != u32::MAX && publication.encoded_len(&how) > limit as usize {
            self.metrics.dropped_too_large.increment(1);
            return;
        }
        self.write_publication(slot, publication, how);
    }

    /// Encodes a PUBLISH that fits, with an alias for its topic where the client allows that.
    fn write_publication(&mut self, slot: u32, publication: &Publication, mut how: Delivery<'_>) {
        if let Some(session) = self.connections[slot as usize].session.as_deref_mut() {
            let limit = session.encoder.max_packet_size as usize;
            how.topic_alias = session.outbound_aliases.of(publication.topic());
            if how.topic_alias.is_some_and(|alias| !alias.is_known) && publication.encoded_len(&how) > limit {
                how.topic_alias = None;
            }
            session.outbound_aliases.sent(how.topic_alias, publication.topic());
        }
        let out = self.out(slot);
        let before = out.len();
        publication.encode(&how, out);
        let bytes = out.len() - before;
        self.gathered(bytes);
        self.metrics.delivered[usize::from(how.qos)].increment(1);
        self.metrics.delivered_bytes.increment(publication.payload().len() as u64);
    }

    /// Delivers a committed publication with QoS 1 or 2 to the connections of this worker.
    pub(crate) fn deliver_committed(&mut self, partition: u32, placed: &Placed, matches: &[Match]) {
        for m in matches {
            let own;
            let m = if self.is_own(&placed.publication, m) {
                own = self.router.match_one(placed.publication.topic(), m.slot);
                let Some(m) = &own else { continue };
                m
            } else {
                m
            };
            let older;
            let m = match self.without_fresh(partition, placed, m) {
                Ok(()) => m,
                Err(Some(m)) => {
                    older = m;
                    &older
                }
                Err(None) => continue,
            };
            let qos = effective(placed.publication.qos, m.qos);
            if qos == 0 {
                self.deliver_now(&placed.publication, std::slice::from_ref(m));
                continue;
            }
            let connection = &mut self.connections[m.slot as usize];
            let conn = connection.id;
            let Some(session) = &mut connection.session else { continue };
            if session.out.is_lagging(partition) {
                // It comes to this one by reading on.
                continue;
            }
            if session.out.is_full() {
                self.fall_behind(conn, partition, placed.position);
                continue;
            }
            if let Some(track) = session.out.track(partition) {
                if placed.position < track.seen {
                    continue;
                }
                track.sent(placed.position);
            }
            session.out.push(Queued {
                publication: placed.publication.clone(),
                position: placed.position,
                is_tracked: true,
                qos,
                retain: placed.publication.retain && m.retain_as_published,
                ids: m.ids.clone(),
                again: None,
                due: None,
            });
            self.pump(conn);
        }
    }

    /// Sends from the queue as far as window and output allow.
    pub(crate) fn pump(&mut self, conn: ConnId) {
        let mut held = Vec::new();
        loop {
            let Some(connection) = self.get(conn) else { return };
            if connection.is_deaf {
                return;
            }
            let backlog = connection.backlog();
            let Some(session) = connection.session.as_deref_mut() else { return };
            let is_empty = session.out.queue.is_empty() && session.out.owed.is_empty();
            if is_empty || session.out.in_flight.len() >= usize::from(session.out.window) {
                break;
            }
            if backlog > ROOM_BYTES {
                connection.wants_room = true;
                break;
            }
            let queued = match session.out.pop_owed() {
                Ok(Some(owed)) => owed,
                Ok(None) if session.out.waits_for_oldest() => break,
                Ok(None) => match session.out.pop() {
                    Some(queued) => queued,
                    None => break,
                },
                // Nothing overtakes it.
                Err(()) => break,
            };
            if let Some(hold) = self.send_queued(conn, queued) {
                held.push(hold);
            }
        }
        if !held.is_empty() {
            self.log_outbound(conn, held);
        }
        self.read_on(conn);
    }

    /// Sends one message, unless its id must be in the log first: then that is returned.
    fn send_queued(&mut self, conn: ConnId, queued: Queued) -> Option<(u16, folds::Outbound)> {
        let now = self.now;
        let connection = self.connections.get_mut(conn.slot as usize)?;
        let session = connection.session.as_deref_mut()?;
        let partition = queued.publication.partition;
        // Never applied to what was sent before [MQTT-4.3.3-7].
        let unsent = match queued.again {
            None if queued.publication.is_expired(now) => Some("expired"),
            _ => {
                let how = delivery(session.is_v5(), &queued, 1, now);
                let fits = queued.publication.encoded_len(&how) <= session.encoder.max_packet_size as usize;
                (!fits).then_some("larger than the client's maximum packet size")
            }
        };
        if let Some(due) = session.out.due(queued.due) {
            due.after = Some(queued.publication.topic().into());
            due.queued -= 1;
            due.is_unlogged = true;
        }
        if let Some(reason) = unsent {
            let position = queued.position;
            if queued.is_tracked
                && let Some(track) = session.out.track(partition)
            {
                track.finished(position);
            }
            session.out.closed_ids.extend(queued.again);
            self.undelivered(conn, reason, partition, position);
            match reason {
                "expired" => self.metrics.dropped_expired.increment(1),
                _ => self.metrics.dropped_too_large.increment(1),
            }
            return None;
        }
        let id = queued.again.unwrap_or_else(|| session.out.allocate());
        let is_known = queued.again.is_some();
        let durable = queued.qos == 2 && session.is_lasting() && !is_known;
        let position = queued.position;
        let mut flight = InFlight {
            id,
            stage: Stage::PublishHeld,
            partition,
            position,
            is_tracked: queued.is_tracked,
            is_named: durable || is_known,
            held: None,
            seq: session.out.progress_seq + 1,
        };
        if durable {
            flight.held = Some(queued);
            session.out.in_flight.push_back(flight);
            return Some((id, folds::Outbound { partition, position, state: OutboundState::AwaitsPubrec }));
        }
        flight.stage = if queued.qos == 2 { Stage::AwaitsPubrec } else { Stage::AwaitsPuback };
        session.out.in_flight.push_back(flight);
        self.write_queued(conn, &queued, id);
        None
    }

    fn write_queued(&mut self, conn: ConnId, queued: &Queued, id: u16) {
        let now = self.now;
        let Some(connection) = self.get(conn) else { return };
        let Some(session) = &connection.session else { return };
        let how = delivery(session.is_v5(), queued, id, now);
        self.write_publication(conn.slot, &queued.publication, how);
    }

    /// Appends a `Progress` that names outbound ids; what waits for it goes on once it is committed.
    fn log_outbound(&mut self, conn: ConnId, new: Vec<(u16, folds::Outbound)>) {
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        let Some(epoch) = session.epoch else { return };
        session.out.progress_seq += 1;
        let seq = session.out.progress_seq;
        let (client, partition) = (session.client.clone(), session.partition);
        let outbound = new.into_iter().map(|(id, state)| (id, Some(state))).collect();
        let mut progress = Progress { outbound, ..Progress::default() };
        session.out.retained_progress(&mut progress);
        self.append_event(Class::All, &client, partition, &Event::Progress { epoch, progress });
        self.appends.wait(Class::All, Waiter::Progress { conn, seq, is_awaited: true });
    }

    /// `Progress` number `seq` is committed.
    pub(crate) fn progress_committed(&mut self, conn: ConnId, seq: u32) {
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        let done = session.out.progress_committed(seq);
        let mut publishes = Vec::new();
        let mut releases = Vec::new();
        for flight in &mut session.out.in_flight {
            match flight.stage {
                Stage::PublishHeld if flight.seq <= done => {
                    flight.stage = Stage::AwaitsPubrec;
                    publishes.extend(flight.held.take().map(|queued| (flight.id, queued)));
                }
                Stage::PubrelHeld if flight.seq <= done => {
                    flight.stage = Stage::AwaitsPubcomp;
                    releases.push(flight.id);
                }
                _ => {}
            }
        }
        for (id, queued) in publishes {
            self.write_queued(conn, &queued, id);
        }
        for id in releases {
            self.send_pubrel(conn, id);
        }
    }

    pub(crate) fn send_pubrel(&mut self, conn: ConnId, id: u16) {
        if let Some(id) = PacketId::new(id) {
            self.send(conn, &Packet::Pubrel(Ack::new(id)));
        }
    }

    /// Nothing more has to happen for a packet id.
    fn finish(&mut self, conn: ConnId, at: usize, refused: Option<PubackCode>) {
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        let Some(flight) = session.out.in_flight.remove(at) else { return };
        if session.out.in_flight.is_empty() && session.out.in_flight.capacity() > 8 {
            session.out.in_flight = std::collections::VecDeque::new();
        }
        let position = flight.position;
        if flight.is_tracked
            && let Some(track) = session.out.track(flight.partition)
        {
            track.finished(position);
        }
        let is_lasting = session.is_lasting();
        if is_lasting {
            session.out.closed_ids.push(flight.id);
        }
        match refused {
            // That it is done, and why, goes into the log at once.
            Some(code) => {
                self.metrics.refused_by_client.increment(1);
                let reason = format!("refused by the client: {code}");
                self.undelivered(conn, &reason, flight.partition, position);
            }
            None if is_lasting => self.progress_made(conn),
            None => {}
        }
        self.pump(conn);
    }

    pub(crate) fn puback(&mut self, conn: ConnId, ack: &Ack<'_, PubackCode>) -> Result<(), Refusal> {
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return Ok(()) };
        let at = session.out.find(ack.packet_id.get());
        // An unknown id is nothing to act on: it may be left from before a crash.
        if let Some(at) = at {
            match session.out.in_flight[at].stage {
                Stage::AwaitsPuback => self.finish(conn, at, failure(ack.code)),
                _ => return Err(Refusal::new(DisconnectCode::ProtocolError, "PUBACK for a message with QoS 2")),
            }
        }
        Ok(())
    }

    pub(crate) fn pubrec(&mut self, conn: ConnId, ack: &Ack<'_, PubackCode>) -> Result<(), Refusal> {
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return Ok(()) };
        let id = ack.packet_id;
        let Some(at) = session.out.find(id.get()) else {
            if failure(ack.code).is_none() {
                let code = if session.is_v5() { PubrelCode::PacketIdentifierNotFound } else { PubrelCode::Success };
                self.send(conn, &Packet::Pubrel(Ack::with_code(id, code)));
            }
            return Ok(());
        };
        let (is_lasting, is_v5) = (session.is_lasting(), session.is_v5());
        let flight = &mut session.out.in_flight[at];
        match flight.stage {
            Stage::AwaitsPubrec => {
                if let Some(code) = failure(ack.code) {
                    // Frees the id and returns the quota (§4.9).
                    self.finish(conn, at, Some(code));
                    return Ok(());
                }
                let (partition, position) = (flight.partition, flight.position);
                // Behind the others: PUBRELs go in the order of the PUBRECs, now and at a resume [MQTT-4.6.0-4].
                let seq = session.out.progress_seq + 1;
                if let Some(mut flight) = session.out.in_flight.remove(at) {
                    flight.stage = if is_lasting { Stage::PubrelHeld } else { Stage::AwaitsPubcomp };
                    flight.seq = seq;
                    session.out.in_flight.push_back(flight);
                }
                if is_lasting {
                    let state = folds::Outbound { partition, position, state: OutboundState::AwaitsPubcomp };
                    self.log_outbound(conn, vec![(id.get(), state)]);
                } else {
                    self.send_pubrel(conn, id.get());
                }
            }
            Stage::AwaitsPubcomp => self.send_pubrel(conn, id.get()),
            Stage::PubrelHeld => {}
            // Of a message from before a crash, whose id is used again: nothing to blame a client for.
            Stage::PublishHeld | Stage::AwaitsPuback => {
                if failure(ack.code).is_none() {
                    let code = if is_v5 { PubrelCode::PacketIdentifierNotFound } else { PubrelCode::Success };
                    self.send(conn, &Packet::Pubrel(Ack::with_code(id, code)));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn pubcomp(&mut self, conn: ConnId, ack: &Ack<'_, PubrelCode>) {
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        if let Some(at) = session.out.find(ack.packet_id.get())
            && session.out.in_flight[at].stage == Stage::AwaitsPubcomp
        {
            self.finish(conn, at, None);
        }
    }

    /// Notes that a session does not get a message it was promised, and that it is done with it. Both are told to the
    /// log at once, or neither.
    pub(crate) fn undelivered(&mut self, conn: ConnId, reason: &str, partition: u32, position: Position) {
        self.metrics.undelivered.increment(1);
        let letter = Letter { reason: reason.into(), partition, from: position, to: position, count: 1 };
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        if session.is_lasting() {
            session.out.letters.note(letter);
            self.progress_made(conn);
        } else {
            let client = session.client.clone();
            self.owner.dlq.note(&client, letter);
        }
    }
}

fn failure(code: PubackCode) -> Option<PubackCode> {
    (code as u8 >= 0x80).then_some(code)
}

fn delivery<'a>(v5: bool, queued: &'a Queued, id: u16, now: floodplain_types::Timestamp) -> Delivery<'a> {
    Delivery {
        v5,
        qos: queued.qos,
        retain: queued.retain,
        dup: queued.again.is_some(),
        packet_id: id,
        subscription_ids: queued.ids.as_deref().unwrap_or_default(),
        expiry_seconds: queued.publication.expiry_left(now),
        topic_alias: None,
    }
}
