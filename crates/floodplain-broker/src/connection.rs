//! One connection: its phase, its bytes, its packets.

use crate::{
    CloseKind, ConnId, Effect, Worker, connect::Greeted, held::Held, metrics::Why, session::Session, worker::quarter,
};
use floodplain_mqtt::{
    ConnackCode, DecodeError, Decoder, Disconnect, DisconnectCode, Encoder, Frame, Packet, Version, connect_refusal,
};
use std::{collections::VecDeque, net::SocketAddr};

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for CONNECT.
    Greeting,
    /// CONNECT was accepted, CONNACK waits for the log.
    Opening,
    /// CONNACK was sent.
    Live,
    /// Nothing more is read or said.
    Closed,
}

/// Why input is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blocked(u8);

impl Blocked {
    /// CONNACK comes before everything else [MQTT-3.1.4-6].
    pub(crate) const OPENING: Self = Self(1);
    /// The log is behind: what is to be stored waits.
    pub(crate) const LOG: Self = Self(2);
    /// Too many acknowledgements are owed to this client.
    pub(crate) const ACKS: Self = Self(4);
    /// An older connection of the same client is read to its end first.
    pub(crate) const TAKEOVER: Self = Self(8);
    /// It does not read what it was answered.
    pub(crate) const OUTPUT: Self = Self(16);

    pub(crate) const fn any(self) -> bool {
        self.0 != 0
    }
    pub(crate) const fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
    pub(crate) const fn remove(&mut self, other: Self) {
        self.0 &= !other.0;
    }
    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
    /// Whether it is held back for a reason that is not its own.
    pub(crate) const fn by_us(self) -> bool {
        self.0 & !Self::OUTPUT.0 != 0
    }
}

/// See the module. What only a connected client needs is in its [`Session`].
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) peer: SocketAddr,
    pub(crate) phase: Phase,
    pub(crate) blocked: Blocked,
    /// The driver does not read the socket.
    pub(crate) paused: bool,
    /// The connection that it takes over from has been read to its end.
    pub(crate) has_drained: bool,
    pub(crate) decoder: Decoder,
    /// A packet that is not whole, or packets that must wait. Empty, without memory, while idle.
    pub(crate) input: Vec<u8>,
    pub(crate) output: Vec<u8>,
    /// How much of `output` the socket has taken.
    pub(crate) written: usize,
    /// The socket did not take everything.
    pub(crate) stalled: bool,
    /// How much that was when it was last asked.
    pub(crate) untaken: Held,
    /// Deliveries wait until the output has gone.
    pub(crate) wants_room: bool,
    /// The socket takes nothing any more, but may hold what the client has said before.
    pub(crate) is_deaf: bool,
    /// Bytes of `input` while CONNECT is not whole.
    pub(crate) greeting_bytes: usize,
    /// An [`Effect::Write`] is on its way.
    pub(crate) dirty: bool,
    /// Quarter of a second in which something was received last.
    pub(crate) last_seen: u64,
    /// Seconds; 0 is off.
    pub(crate) keep_alive: u16,
    /// Quarter of a second at which the wheel brings this connection up; entries for other ones are old.
    pub(crate) due: u64,
    pub(crate) acks: VecDeque<crate::acks::Ack>,
    /// Sequence number of the first of `acks`.
    pub(crate) first_ack: u32,
    pub(crate) session: Option<Box<Session>>,
}

/// Why the connection must end, as an MQTT 5.0 client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: DisconnectCode,
    pub(crate) why: &'static str,
}

impl Refusal {
    pub(crate) const fn new(code: DisconnectCode, why: &'static str) -> Self {
        Self { code, why }
    }

    pub(crate) const fn protocol(why: &'static str) -> Self {
        Self::new(DisconnectCode::ProtocolError, why)
    }
}

impl Connection {
    pub(crate) fn new(id: ConnId, peer: SocketAddr, max_packet_size: u32, now: u64, untaken: Held) -> Self {
        Self {
            id,
            peer,
            phase: Phase::Greeting,
            blocked: Blocked(0),
            paused: false,
            has_drained: false,
            decoder: Decoder::server(max_packet_size),
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            stalled: false,
            untaken,
            wants_room: false,
            is_deaf: false,
            greeting_bytes: 0,
            dirty: false,
            last_seen: now,
            keep_alive: 0,
            due: 0,
            acks: VecDeque::new(),
            first_ack: 0,
            session: None,
        }
    }

    /// Output that the socket has not taken yet, in bytes.
    pub(crate) fn backlog(&self) -> usize {
        self.output.len() - self.written
    }
}

/// How long a client may be silent, in quarters of a second: one and a half times its keep-alive [MQTT-3.1.2-22],
/// and one more, since the quarter in which it was heard may have been nearly over.
pub(crate) const fn keep_alive_quarters(keep_alive_secs: u16) -> u64 {
    keep_alive_secs as u64 * 6 + 1
}

impl Worker {
    /// Handles whole packets at the start of `bytes`; returns how many bytes they have.
    pub(crate) fn process(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let Some(connection) = self.get(conn) else { return bytes.len() };
            if connection.phase == Phase::Closed {
                return bytes.len();
            }
            if connection.blocked.any() {
                return used;
            }
            let decoder = connection.decoder;
            let rest = &bytes[used..];
            match decoder.frame(rest) {
                Ok(Frame::Incomplete { .. }) => return used,
                Ok(Frame::Complete { first_byte, body }) => {
                    let end = body.end;
                    let body = &rest[body];
                    match decoder.decode(first_byte, body) {
                        Ok(Packet::Connect(connect)) => match self.connect(conn, &connect, rest) {
                            Greeted::Yes => {}
                            Greeted::Gone => return bytes.len(),
                            Greeted::Later => return used,
                        },
                        Ok(packet) => match self.packet(conn, &packet) {
                            Ok(true) => {}
                            // Not taken: its time comes again.
                            Ok(false) => return used,
                            Err(refusal) => {
                                self.refuse_with(conn, refusal);
                                return bytes.len();
                            }
                        },
                        Err(error) => {
                            self.malformed(conn, &error, body);
                            return bytes.len();
                        }
                    }
                    used += end;
                }
                Err(error) => {
                    let is_publish = rest.first().is_some_and(|first| first >> 4 == 3);
                    if is_publish && error.disconnect_code() == DisconnectCode::PacketTooLarge {
                        self.metrics.refused_messages.count(Why::TooLarge);
                    }
                    self.malformed(conn, &error, &[]);
                    return bytes.len();
                }
            }
        }
    }

    /// Handles one packet. False: nothing was done, it must be given again later.
    fn packet(&mut self, conn: ConnId, packet: &Packet<'_>) -> Result<bool, Refusal> {
        let is_stored = matches!(packet, Packet::Publish(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_));
        if is_stored && self.is_pressed() {
            // What it brings would wait in memory: let it wait in the socket.
            self.metrics.paused_log.increment(1);
            if let Some(connection) = self.get(conn) {
                connection.blocked.add(Blocked::LOG);
                self.owner.paused.push(conn);
            }
            return Ok(false);
        }
        match packet {
            Packet::Publish(publish) => self.publish(conn, publish)?,
            Packet::Puback(ack) => self.puback(conn, ack)?,
            Packet::Pubrec(ack) => self.pubrec(conn, ack)?,
            Packet::Pubrel(ack) => self.pubrel(conn, ack),
            Packet::Pubcomp(ack) => self.pubcomp(conn, ack),
            Packet::Subscribe(subscribe) => self.subscribe(conn, subscribe)?,
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(conn, unsubscribe),
            Packet::Pingreq => self.send(conn, &Packet::Pingresp),
            Packet::Disconnect(disconnect) => self.disconnected(conn, disconnect)?,
            // [MQTT-4.12.0-6]: no client has named a method, since we know none.
            Packet::Auth(_) => return Err(Refusal::protocol("AUTH without authentication method [MQTT-4.12.0-6]")),
            // The decoder refuses these from a client.
            Packet::Connect(_) | Packet::Connack(_) | Packet::Suback(_) | Packet::Unsuback(_) | Packet::Pingresp => {
                return Err(Refusal::protocol("packet comes from the wrong side"));
            }
        }
        Ok(true)
    }

    fn malformed(&mut self, conn: ConnId, error: &DecodeError, body: &[u8]) {
        self.metrics.protocol_errors.increment(1);
        let Some(connection) = self.get(conn) else { return };
        tracing::debug!(peer = %connection.peer, %error, "connection broke the protocol");
        if connection.phase == Phase::Greeting {
            if let Some((version, code)) = connect_refusal(body, error) {
                self.send_connack_refusal(conn, Encoder::new(version), code, None);
            }
            self.end(conn, CloseKind::ByUs);
            return;
        }
        self.send_disconnect(conn, error.disconnect_code(), Some(&error.to_string()));
        self.close_failed(conn, crate::folds::CloseReason::ProtocolError);
    }

    pub(crate) fn refuse_with(&mut self, conn: ConnId, refusal: Refusal) {
        self.metrics.protocol_errors.increment(1);
        if let Some(connection) = self.get(conn) {
            tracing::debug!(peer = %connection.peer, code = %refusal.code, why = refusal.why, "connection refused");
        }
        self.send_disconnect(conn, refusal.code, Some(refusal.why));
        self.close_failed(conn, crate::folds::CloseReason::ProtocolError);
    }

    /// Ends a connection for a reason that is not the client's fault.
    pub(crate) fn refuse(&mut self, conn: ConnId, code: DisconnectCode) {
        self.refuse_because(conn, code, None);
    }

    /// The same with a reason string.
    pub(crate) fn refuse_because(&mut self, conn: ConnId, code: DisconnectCode, why: Option<&str>) {
        self.send_disconnect(conn, code, why);
        self.close_failed(conn, crate::folds::CloseReason::Administrative);
    }

    /// DISCONNECT, to an MQTT 5.0 client that has had its CONNACK [MQTT-3.14.0-1].
    pub(crate) fn send_disconnect(&mut self, conn: ConnId, code: DisconnectCode, why: Option<&str>) {
        let Some(connection) = self.get(conn) else { return };
        if connection.phase != Phase::Live || connection.decoder.version() != Some(Version::V5) {
            return;
        }
        self.send(conn, &Packet::Disconnect(Disconnect { reason_string: why, ..Disconnect::new(code) }));
    }

    pub(crate) fn send_connack_refusal(
        &mut self,
        conn: ConnId,
        encoder: Encoder,
        code: ConnackCode,
        why: Option<&str>,
    ) {
        self.metrics.refused_connections.count(code);
        let mut connack = floodplain_mqtt::Connack::new(code, false);
        connack.properties.reason_string = why;
        if self.get(conn).is_some() {
            let out = self.out(conn.slot);
            // A refusal that 3.1.1 has no code for, or that the client is too small for, is silent: the connection
            // just ends.
            if let Err(error) = encoder.encode(&Packet::Connack(connack), out) {
                tracing::trace!(%error, "no CONNACK for this refusal");
            }
        }
    }

    /// Writes a packet for a client that is connected. One that the client does not accept for its
    /// size, and has to get, ends the connection instead of leaving the client to wait.
    pub(crate) fn send(&mut self, conn: ConnId, packet: &Packet<'_>) {
        let Some(connection) = self.get(conn) else { return };
        let Some(encoder) = connection.session.as_ref().map(|session| session.encoder) else { return };
        let out = self.out(conn.slot);
        if let Err(error) = encoder.encode(packet, out) {
            tracing::debug!(%error, "packet was not sent");
            if !matches!(packet, Packet::Disconnect(_)) {
                self.metrics.dropped_packet_too_large.increment(1);
                self.close_failed(conn, crate::folds::CloseReason::ProtocolError);
            }
        }
    }

    /// Ends a connection without another word. Its session must have been seen to.
    pub(crate) fn end(&mut self, conn: ConnId, kind: CloseKind) {
        let Some(connection) = self.get(conn) else { return };
        if connection.phase == Phase::Closed {
            return;
        }
        let was_greeting = connection.phase == Phase::Greeting;
        connection.phase = Phase::Closed;
        connection.input = Vec::new();
        connection.acks = VecDeque::new();
        connection.session = None;
        if was_greeting {
            self.greeted(conn);
        }
        self.effects.push_back(Effect::Close(conn, kind));
    }

    /// A connection is not half-open any more.
    pub(crate) fn greeted(&mut self, conn: ConnId) {
        self.half_open -= 1;
        if let Some(connection) = self.get(conn) {
            let bytes = std::mem::take(&mut connection.greeting_bytes);
            self.greeting_bytes -= bytes;
        }
    }

    /// Lets the wheel bring up a connection.
    pub(crate) fn due_at(&mut self, conn: ConnId, quarter: u64) {
        let due = self.wheel.add(quarter, conn.slot, conn.generation);
        if let Some(connection) = self.get(conn) {
            connection.due = due;
        }
    }

    /// Looks at a connection whose time may be up.
    pub(crate) fn check_deadline(&mut self, conn: ConnId) {
        let now = quarter(self.steady);
        let Some(connection) = self.get(conn).filter(|connection| connection.due <= now) else { return };
        match connection.phase {
            Phase::Closed => {}
            Phase::Greeting => {
                self.metrics.connect_timeouts.increment(1);
                self.end(conn, CloseKind::ByUs);
            }
            Phase::Opening | Phase::Live => {
                if connection.keep_alive == 0 {
                    connection.due = u64::MAX;
                    return;
                }
                let allowed = keep_alive_quarters(connection.keep_alive);
                // While we do not read, the clock of the client stands still.
                let seen = if connection.blocked.by_us() { now } else { connection.last_seen };
                if now >= seen + allowed {
                    self.metrics.keep_alive_timeouts.increment(1);
                    self.send_disconnect(conn, DisconnectCode::KeepAliveTimeout, None);
                    self.close_failed(conn, crate::folds::CloseReason::KeepAlive);
                } else {
                    self.due_at(conn, seen + allowed);
                }
            }
        }
    }
}
