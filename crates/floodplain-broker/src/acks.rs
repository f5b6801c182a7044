//! Acknowledgements towards a client: they leave in the order in which they became due, whatever
//! order the log confirms them in.

use crate::{ConnId, Worker, connection::Blocked, retained::RetainedWish};
use floodplain_mqtt::{Ack as AckPacket, Packet, PacketId, PubackCode, PubrelCode};

/// Acknowledgements owed to one client before it is not read any more. MQTT 5.0 clients reach their
/// Receive Maximum first.
const OWED_MAX: usize = 1024;

/// What is sent when its turn comes.
#[derive(Debug)]
pub(crate) enum What {
    Puback(PacketId, PubackCode),
    Pubrec(PacketId, PubackCode),
    Pubcomp(PacketId, PubrelCode),
    /// SUBACK or UNSUBACK as bytes; afterwards retained messages.
    Bytes(Box<[u8]>, Option<Box<RetainedWish>>),
}

/// An acknowledgement that is due.
#[derive(Debug)]
pub(crate) struct Ack {
    what: What,
    ready: bool,
}

impl Worker {
    /// Queues an acknowledgement that waits for the log; returns its sequence number.
    pub(crate) fn owe(&mut self, conn: ConnId, what: What) -> u32 {
        let Some(connection) = self.get(conn) else { return 0 };
        connection.acks.push_back(Ack { what, ready: false });
        let seq = connection.first_ack.wrapping_add(connection.acks.len() as u32 - 1);
        if connection.acks.len() >= OWED_MAX && !connection.blocked.has(Blocked::ACKS) {
            connection.blocked.add(Blocked::ACKS);
            self.metrics.paused_acks.increment(1);
        }
        seq
    }

    /// Queues an acknowledgement that waits for nothing but those before it.
    pub(crate) fn owe_ready(&mut self, conn: ConnId, what: What) {
        let seq = self.owe(conn, what);
        self.ack_ready(conn, seq);
    }

    /// The log has confirmed what an acknowledgement waited for: it leaves with those behind it
    /// that are ready, once those before it have left.
    pub(crate) fn ack_ready(&mut self, conn: ConnId, seq: u32) {
        let Some(connection) = self.get(conn) else { return };
        let idx = seq.wrapping_sub(connection.first_ack) as usize;
        let Some(ack) = connection.acks.get_mut(idx) else { return };
        ack.ready = true;
        if idx > 0 {
            return;
        }
        while let Some(connection) = self.get(conn) {
            if !connection.acks.front().is_some_and(|ack| ack.ready) {
                break;
            }
            let Some(ack) = connection.acks.pop_front() else { break };
            connection.first_ack = connection.first_ack.wrapping_add(1);
            if connection.acks.is_empty() && connection.acks.capacity() > 32 {
                connection.acks = std::collections::VecDeque::new();
            }
            self.acknowledge(conn, ack.what);
        }
        if let Some(connection) = self.get(conn)
            && connection.blocked.has(Blocked::ACKS)
            && connection.acks.len() < OWED_MAX / 2
        {
            self.unblock(conn, Blocked::ACKS);
        }
    }

    fn acknowledge(&mut self, conn: ConnId, what: What) {
        match what {
            What::Puback(id, code) => {
                self.inbound_finished(conn);
                self.send(conn, &Packet::Puback(AckPacket::with_code(id, code)));
            }
            What::Pubrec(id, code) => {
                if code as u8 >= 0x80 {
                    self.inbound_finished(conn);
                }
                self.send(conn, &Packet::Pubrec(AckPacket::with_code(id, code)));
            }
            What::Pubcomp(id, code) => {
                if code == PubrelCode::Success {
                    self.inbound_finished(conn);
                }
                self.send(conn, &Packet::Pubcomp(AckPacket::with_code(id, code)));
            }
            What::Bytes(bytes, wish) => {
                if self.get(conn).is_some() {
                    self.out(conn.slot).extend_from_slice(&bytes);
                }
                if let Some(wish) = wish {
                    self.ask_retained(conn, *wish);
                }
            }
        }
    }

    fn inbound_finished(&mut self, conn: ConnId) {
        if let Some(session) = self.get(conn).and_then(|connection| connection.session.as_mut()) {
            session.inbound = session.inbound.saturating_sub(1);
        }
    }
}
