//! Clients whose sessions outlive connections, crashes of the server and power cuts, and that follow the protocol to the
//! letter: so the history checker may be strict with what they publish and get.

use super::{
    client::{Client, Ended, Line},
    wire::{self, Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Publish, Version},
};
use crate::{History, Stamp};
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

/// Unacknowledged messages per publisher.
const WINDOW: usize = 4;
const EXPIRY_S: u32 = 3_600;
/// The server shuts down.
const SHUTTING_DOWN: u8 = 0x8b;
/// The server does not know what became of something that it has written for the client, which is to come again.
const BUSY: u8 = 0x89;

/// A connection that the server, or its death, has ended; anything else is a failure of the test.
///
/// # Errors
/// That failure.
pub fn ended(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.is::<Ended>() || e.is::<std::io::Error>() => Ok(()),
        other => other,
    }
}

#[derive(Debug)]
struct InFlight {
    stamp: Stamp,
    id: u16,
    /// QoS 2: PUBREC has come, PUBREL is owed.
    released: bool,
}

/// A client that publishes numbered messages and keeps its side of the session.
#[derive(Debug)]
pub struct Publisher {
    pub name: String,
    pub version: Version,
    pub qos: u8,
    pub topic: String,
    /// Whether its messages are retained.
    pub retain: bool,
    /// What the payload of a message is.
    pub payload: fn(&Stamp) -> Vec<u8>,
    next_seq: u64,
    next_id: u16,
    in_flight: VecDeque<InFlight>,
    /// The newest message that was acknowledged.
    newest_acked: u64,
    /// The server has answered once: from then on the session must be there.
    known: bool,
}

impl Publisher {
    /// Publishes to `<prefix>/<its own name>`, which has its version and QoS in it.
    #[must_use]
    pub fn new(prefix: &str, name: &str, version: Version, qos: u8) -> Self {
        let name = format!("{name}-{version:?}-qos{qos}");
        Self {
            topic: format!("{prefix}/{name}"),
            name,
            version,
            qos,
            retain: false,
            payload: |stamp| stamp.payload(100),
            next_seq: 1,
            next_id: 1,
            in_flight: VecDeque::new(),
            newest_acked: 0,
            known: false,
        }
    }

    /// The number of the newest message that was acknowledged; 0: none was.
    #[must_use]
    pub fn newest_acked(&self) -> u64 {
        self.newest_acked
    }

    /// The number of the newest message that it has tried to publish; 0: none.
    #[must_use]
    pub fn newest_tried(&self) -> u64 {
        self.next_seq - 1
    }

    fn send(&self, client: &mut Client, message: &InFlight, dup: bool) -> Result<()> {
        if message.released {
            return client.send(&wire::ack(PUBREL, message.id));
        }
        let publish = Publish::new(self.topic.as_str(), (self.payload)(&message.stamp), self.qos);
        client.send(&Publish { id: message.id, dup, retain: self.retain, ..publish }.encode(self.version))
    }

    fn acked(&mut self, at: usize, history: &History) {
        let stamp = &self.in_flight[at].stamp;
        history.ok(stamp);
        self.newest_acked = self.newest_acked.max(stamp.seq);
    }

    /// Connects, repeats what is open, then publishes until the connection ends, or, with `drain`, until nothing is open.
    ///
    /// # Errors
    /// What the server has done wrong; or [`ended`].
    pub fn run(&mut self, line: impl Into<Line>, history: &History, drain: bool) -> Result<()> {
        let (mut client, present) = Client::resume(line, &Connect::lasting(self.version, &self.name, EXPIRY_S))?;
        // Before the first CONNACK a kill may have left a session that nobody knows of.
        ensure!(present || !self.known, "{}: the session was lost", self.name);
        self.known = true;
        for message in &self.in_flight {
            // At QoS 1 a repeat may make a second record; at QoS 2 it must not.
            if self.qos == 1 {
                history.invoke(&message.stamp);
            }
            self.send(&mut client, message, true)?;
        }
        loop {
            while !drain && self.in_flight.len() < WINDOW {
                let message =
                    InFlight { stamp: Stamp::new(&self.name, self.next_seq), id: self.next_id, released: false };
                self.next_seq += 1;
                self.next_id = self.next_id.checked_add(1).unwrap_or(1);
                history.invoke(&message.stamp);
                self.in_flight.push_back(message);
                let message = self.in_flight.back().context("just pushed")?;
                self.send(&mut client, message, false)?;
            }
            if self.in_flight.is_empty() {
                return client.leave();
            }
            let (kind, id, code) = match client.recv()? {
                Packet::Ack { kind, id, code } => (kind, id, code),
                Packet::Disconnect { code: SHUTTING_DOWN | BUSY } => bail!(Ended::ByBroker),
                other => bail!("{}: only acks should come: {other:?}", self.name),
            };
            let at = self.in_flight.iter().position(|m| m.id == id);
            let at = at.with_context(|| format!("{}: packet type {kind} for unknown id {id}", self.name))?;
            ensure!(code < 0x80 || kind == PUBCOMP && code == 0x92, "{}: code {code:#x}", self.name);
            match (self.qos, kind) {
                (1, PUBACK) => {
                    self.acked(at, history);
                    self.in_flight.remove(at);
                }
                (2, PUBREC) => {
                    if !self.in_flight[at].released {
                        self.acked(at, history);
                    }
                    self.in_flight[at].released = true;
                    client.send(&wire::ack(PUBREL, id))?;
                }
                (2, PUBCOMP) => {
                    ensure!(self.in_flight[at].released, "{}: PUBCOMP before PUBREC", self.name);
                    self.in_flight.remove(at);
                }
                other => bail!("{}: QoS and packet type {other:?}", self.name),
            }
        }
    }
}

/// A subscriber that keeps its side of the session: which QoS 2 identifiers it has taken.
#[derive(Debug)]
pub struct Subscriber {
    pub name: &'static str,
    pub version: Version,
    pub qos: u8,
    known: bool,
    taken: BTreeSet<u16>,
    /// Payloads in the order of delivery.
    pub got: Vec<Vec<u8>>,
}

impl Subscriber {
    /// Nobody has heard of it yet.
    #[must_use]
    pub fn new(name: &'static str, version: Version, qos: u8) -> Self {
        Self { name, version, qos, known: false, taken: BTreeSet::new(), got: Vec::new() }
    }

    /// Connects; a session that was there must be there.
    ///
    /// # Errors
    /// What the server has done wrong; or [`ended`].
    pub fn connect(&mut self, line: impl Into<Line>) -> Result<Client> {
        let (client, present) = Client::resume(line, &Connect::lasting(self.version, self.name, EXPIRY_S))?;
        // Before the first CONNACK a kill may have left a session that nobody knows of.
        ensure!(present || !self.known, "{}: the session was lost", self.name);
        self.known = true;
        Ok(client)
    }

    /// Takes what comes until the connection ends or `until` says so while nothing comes.
    ///
    /// # Errors
    /// What the server has done wrong; or [`ended`].
    pub fn run(&mut self, client: &mut Client, until: impl Fn(&Self) -> bool) -> Result<()> {
        loop {
            let Some(packet) = client.recv_within(Duration::from_millis(20))? else {
                if until(self) {
                    return Ok(());
                }
                continue;
            };
            match packet {
                Packet::Publish(publish) => {
                    match publish.qos {
                        1 => client.send(&wire::ack(PUBACK, publish.id))?,
                        2 => client.send(&wire::ack(PUBREC, publish.id))?,
                        _ => bail!("{}: QoS 0 came: {publish:?}", self.name),
                    }
                    // [MQTT-4.3.3-10], the receiver's side of it.
                    if publish.qos == 1 || self.taken.insert(publish.id) {
                        self.got.push(publish.payload);
                    }
                }
                Packet::Ack { kind: PUBREL, id, .. } => {
                    self.taken.remove(&id);
                    client.send(&wire::ack(PUBCOMP, id))?;
                }
                Packet::Disconnect { code: SHUTTING_DOWN | BUSY } => bail!(Ended::ByBroker),
                other => bail!("{}: unexpected {other:?}", self.name),
            }
        }
    }
}
