//! Shapes a, b, c and l: publishers, subscribers, and a rule for when the next message may go.

use super::{Load, Report, process::Sample};
use crate::client::{
    now,
    wires::{Poll, Wire, encode, subscribe_packet},
};
use anyhow::{Context, Result, bail, ensure};
use floodplain_mqtt::{Ack, Packet, PacketId, Publish, QoS, ReasonCode};
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};

/// How long the last messages may take to come back.
const DRAIN: Duration = Duration::from_secs(20);
/// Packet identifiers in use per publisher: 1 to this.
const IDS: u16 = 8_192;

/// When the next message may go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// While sent - (received / subscribers) is below `window`, and a publisher has fewer than
    /// `per_publisher` messages without PUBACK.
    Closed { window: usize, per_publisher: usize },
    /// At fixed times, whatever comes back.
    Open { per_second: u64 },
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Deliveries,
    Acks,
}

#[derive(Debug, Clone)]
pub(super) struct Flow {
    pub(super) publishers: usize,
    pub(super) subscribers: usize,
    pub(super) qos: QoS,
    pub(super) pace: Pace,
    pub(super) goal: Goal,
}

/// One publisher: its PUBLISH, encoded beforehand, and where to patch it.
#[derive(Debug)]
struct Publisher {
    packet: Vec<u8>,
    id_at: Option<usize>,
    time_at: usize,
    next_id: u16,
    in_flight: usize,
    /// Send time by packet identifier; 0 when it is free.
    sent_at: Vec<u64>,
}

impl Publisher {
    fn new(load: &Load, index: usize, qos: QoS) -> Result<Self> {
        let topic = format!("ml/site{}/dev{index}/m", index % 7);
        let payload = vec![b'x'; load.payload_bytes];
        let packet_id = (qos != QoS::AtMostOnce).then_some(PacketId::MIN);
        let packet = Packet::Publish(Publish { qos, packet_id, ..Publish::new(&topic, &payload) });
        let packet = encode(load.version, &packet)?;
        let time_at = packet.len() - load.payload_bytes;
        // Topic, identifier, in version 5 an empty property length, payload.
        let properties = usize::from(load.version == floodplain_mqtt::Version::V5);
        let id_at = packet_id.map(|_| time_at - properties - 2);
        let sent_at = if packet_id.is_some() { vec![0; usize::from(IDS) + 1] } else { Vec::new() };
        Ok(Self { packet, id_at, time_at, next_id: 1, in_flight: 0, sent_at })
    }

    /// Whether the next identifier is free.
    fn has_id(&self) -> bool {
        self.id_at.is_none() || self.sent_at[usize::from(self.next_id)] == 0
    }

    fn stamp(&mut self, time_ns: u64) {
        self.packet[self.time_at..self.time_at + 8].copy_from_slice(&time_ns.to_le_bytes());
        if let Some(at) = self.id_at {
            self.packet[at..at + 2].copy_from_slice(&self.next_id.to_be_bytes());
            self.sent_at[usize::from(self.next_id)] = time_ns;
            self.next_id = self.next_id % IDS + 1;
            self.in_flight += 1;
        }
    }
}

/// The counters of a run.
#[derive(Debug)]
struct State {
    start: Instant,
    publishers: Vec<Publisher>,
    subscribers: usize,
    sent: u64,
    received: u64,
    acked: u64,
    measuring: bool,
    measured_deliveries: u64,
    measured_acks: u64,
    delivery: Histogram<u64>,
    ack: Histogram<u64>,
    /// PUBACKs of one subscriber, gathered over one read.
    answer: Vec<u8>,
}

/// Runs a flow: warm up, measure, drain, count.
pub(super) fn run(load: &Load, flow: &Flow, shape: String) -> Result<Report> {
    let mut poll = Poll::new()?;
    for i in 0..flow.subscribers {
        let mut wire = Wire::connect(load.address, load.version, &format!("bench-sub-{i}"))?;
        std::io::Write::write_all(&mut wire.stream, &subscribe_packet(load.version, "ml/#", flow.qos)?)?;
        wire.expect_suback()?;
        poll.add(wire)?;
    }
    let mut publishers = Vec::new();
    for i in 0..flow.publishers {
        poll.add(Wire::connect(load.address, load.version, &format!("bench-pub-{i}"))?)?;
        publishers.push(Publisher::new(load, i, flow.qos)?);
    }
    let histogram = || Histogram::<u64>::new_with_bounds(1_000, 600_000_000_000, 2).context("histogram");
    let mut state = State {
        start: now(),
        publishers,
        subscribers: flow.subscribers,
        sent: 0,
        received: 0,
        acked: 0,
        measuring: false,
        measured_deliveries: 0,
        measured_acks: 0,
        delivery: histogram()?,
        ack: histogram()?,
        answer: Vec::new(),
    };
    state.turn(&mut poll, flow, load.warm_up)?;
    state.measuring = true;
    let before = Sample::take(load.pid)?;
    state.turn(&mut poll, flow, load.measure)?;
    state.measuring = false;
    let after = Sample::take(load.pid)?;
    let lost = state.drain(&mut poll, flow)?;
    let (unit, count) = match flow.goal {
        Goal::Deliveries => ("deliveries", state.measured_deliveries),
        Goal::Acks => ("PUBACKs", state.measured_acks),
    };
    Ok(Report {
        shape,
        unit,
        count,
        seconds: after.seconds_since(&before),
        lost,
        broker_cpu_s: after.broker_cpu_s_since(&before),
        broker_threads: after.threads_since(&before),
        generator_load: after.generator_load_since(&before),
        delivery: (!state.delivery.is_empty()).then_some(state.delivery),
        ack: (!state.ack.is_empty()).then_some(state.ack),
        kib_per_connection: None,
        broker_rss_kib: after.broker_rss_kib,
    })
}

impl State {
    fn time_ns(&self) -> u64 {
        // Never 0: that marks a free identifier.
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    /// Sends and receives for `duration`.
    fn turn(&mut self, poll: &mut Poll, flow: &Flow, duration: Duration) -> Result<()> {
        let end = self.time_ns() + u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let mut scratch = vec![0; 256 << 10];
        let mut ready = Vec::new();
        let mut turn = 0;
        loop {
            let time = self.time_ns();
            if time >= end {
                return Ok(());
            }
            let wait = self.send_due(poll, flow, time, &mut turn)?;
            poll.wait(wait.min(Duration::from_nanos(end - time)), &mut ready)?;
            for index in ready.drain(..) {
                self.receive(poll, index, &mut scratch)?;
            }
        }
    }

    /// Sends at most one message per publisher; returns how long to wait for input afterwards.
    fn send_due(&mut self, poll: &mut Poll, flow: &Flow, time: u64, turn: &mut usize) -> Result<Duration> {
        let mut sent = false;
        for _ in 0..self.publishers.len() {
            let index = *turn % self.publishers.len();
            let (window, per_publisher) = match flow.pace {
                Pace::Closed { window, per_publisher } => (window, per_publisher),
                Pace::Open { per_second } => {
                    // Message k is due at k / rate, from the first one on.
                    let due = self.sent * 1_000_000_000 / per_second;
                    if time < due {
                        return Ok(Duration::from_nanos(due - time));
                    }
                    (usize::MAX, usize::MAX)
                }
            };
            let done = if self.subscribers == 0 { self.acked } else { self.received / self.subscribers as u64 };
            if self.sent - done >= window as u64 {
                break;
            }
            *turn += 1;
            let wire = self.subscribers + index;
            let publisher = &mut self.publishers[index];
            if publisher.in_flight >= per_publisher || !publisher.has_id() || !poll.wires[wire].is_free() {
                if matches!(flow.pace, Pace::Open { .. }) {
                    ensure!(
                        publisher.has_id(),
                        "the broker is {IDS} acknowledgements behind: it cannot take this rate"
                    );
                }
                continue;
            }
            let time_ns = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
            publisher.stamp(time_ns);
            poll.send(wire, &publisher.packet)?;
            self.sent += 1;
            sent = true;
        }
        // All windows full: wait for the broker. Otherwise look for input, and go on.
        Ok(if sent { Duration::ZERO } else { Duration::from_millis(100) })
    }

    /// Takes all that one connection has received.
    fn receive(&mut self, poll: &mut Poll, index: usize, scratch: &mut [u8]) -> Result<()> {
        // One look at the clock per read is enough.
        let time = self.time_ns();
        let open = poll.wires[index].receive(scratch, |packet| self.take(index, &packet, time))?;
        ensure!(open, "the broker closed connection {index}");
        if !self.answer.is_empty() {
            poll.send(index, &self.answer)?;
            self.answer.clear();
        }
        Ok(())
    }

    fn take(&mut self, index: usize, packet: &Packet<'_>, time: u64) -> Result<()> {
        match packet {
            Packet::Publish(publish) => {
                self.received += 1;
                if self.measuring {
                    self.measured_deliveries += 1;
                    let sent_at = publish.payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                    let sent_at = sent_at.context("delivery without a time in its payload")?;
                    self.delivery.saturating_record(time.saturating_sub(sent_at));
                }
                if let Some(id) = publish.packet_id {
                    ensure!(publish.qos == QoS::AtLeastOnce, "QoS 2 came");
                    let ack = Packet::Puback(Ack::new(id));
                    floodplain_mqtt::Encoder::new(floodplain_mqtt::Version::V311).encode(&ack, &mut self.answer)?;
                }
            }
            Packet::Puback(ack) => {
                ensure!(!ack.code.is_failure(), "message refused: {:?}", ack.code);
                let publisher = &mut self.publishers[index - self.subscribers];
                let slot = publisher.sent_at.get_mut(usize::from(ack.packet_id.get())).context("unknown id")?;
                let sent_at = std::mem::take(slot);
                ensure!(sent_at != 0, "acknowledged twice: {}", ack.packet_id);
                publisher.in_flight -= 1;
                self.acked += 1;
                if self.measuring {
                    self.measured_acks += 1;
                    self.ack.saturating_record(time.saturating_sub(sent_at));
                }
            }
            Packet::Pingresp => {}
            other => bail!("unexpected {other:?}"),
        }
        Ok(())
    }

    /// Waits for all that is owed; returns how many never came.
    fn drain(&mut self, poll: &mut Poll, flow: &Flow) -> Result<u64> {
        let deadline = now() + DRAIN;
        let mut scratch = vec![0; 256 << 10];
        let mut ready = Vec::new();
        loop {
            let deliveries = self.sent * self.subscribers as u64;
            let acks = if flow.qos == QoS::AtMostOnce { 0 } else { self.sent };
            ensure!(self.received <= deliveries, "{} deliveries of {deliveries}: some came twice", self.received);
            let lost = deliveries - self.received + (acks - self.acked);
            if lost == 0 || now() > deadline {
                return Ok(lost);
            }
            poll.wait(Duration::from_millis(100), &mut ready)?;
            for index in ready.drain(..) {
                self.receive(poll, index, &mut scratch)?;
            }
        }
    }
}
