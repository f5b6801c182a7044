//! Drives the devices: a few threads, many connections, QoS 1.

use super::device::Device;
use crate::client::{
    now,
    wires::{Poll, Wire, encode},
};
use anyhow::{Context, Result, bail, ensure};
use floodplain_mqtt::{Packet, PacketId, Publish, QoS, ReasonCode, Version};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Unacknowledged readings per device; a reading that finds no place is skipped and counted.
const WINDOW: usize = 16;
/// A device that has been silent for so long pings; the keep-alive is 120 s.
const PING: Duration = Duration::from_secs(60);
const PINGREQ: [u8; 2] = [0xc0, 0];
/// How long to wait before connecting again.
const RETRY: Duration = Duration::from_secs(1);
/// How long `stop` waits for what is still unacknowledged.
const DRAIN: Duration = Duration::from_secs(10);

/// A fleet that can be started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fleet {
    pub(crate) address: SocketAddr,
    pub(crate) devices: u32,
    /// Readings per second of all devices together.
    pub(crate) rate_per_s: f64,
    /// Readings after which the fleet ends by itself.
    pub(crate) count: Option<u64>,
    pub(crate) seed: u64,
    /// Share of devices with a fault.
    pub(crate) faults: f64,
    pub(crate) threads: u32,
}

/// What a fleet has done so far.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    /// Devices that are connected now.
    pub(crate) connected: u64,
    /// Readings that were sent; repeats after a lost connection do not count again.
    pub(crate) sent: u64,
    /// Readings that the server has acknowledged.
    pub(crate) acked: u64,
    /// Readings that the server has refused.
    pub(crate) refused: u64,
    /// Readings that found the window of their device full, or the device without connection.
    pub(crate) skipped: u64,
    /// Connections that were lost.
    pub(crate) lost_connections: u64,
    /// Nanoseconds from sending to PUBACK.
    pub(crate) latency: Histogram<u64>,
}

impl Counts {
    fn new() -> Result<Self> {
        let latency = Histogram::new_with_bounds(1_000, 600_000_000_000, 2).context("histogram")?;
        Ok(Self { connected: 0, sent: 0, acked: 0, refused: 0, skipped: 0, lost_connections: 0, latency })
    }

    fn add(&mut self, other: &Self) {
        self.connected += other.connected;
        self.sent += other.sent;
        self.acked += other.acked;
        self.refused += other.refused;
        self.skipped += other.skipped;
        self.lost_connections += other.lost_connections;
        self.latency += &other.latency;
    }

    /// A quantile of the time from sending to PUBACK, in milliseconds.
    pub(crate) fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e6
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "sent": self.sent,
            "acknowledged": self.acked,
            "refused": self.refused,
            "skipped": self.skipped,
            "lost_connections": self.lost_connections,
            "ack_ms": { "p50": self.latency_ms(0.5), "p99": self.latency_ms(0.99), "max": self.latency.max() as f64 / 1e6 },
        })
    }

    pub(super) fn table(&self) -> Vec<(&'static str, String)> {
        vec![
            ("sent", self.sent.to_string()),
            ("acknowledged", self.acked.to_string()),
            ("refused", self.refused.to_string()),
            ("skipped", self.skipped.to_string()),
            ("lost connections", self.lost_connections.to_string()),
            ("PUBACK p50 ms", format!("{:.2}", self.latency_ms(0.5))),
            ("PUBACK p99 ms", format!("{:.2}", self.latency_ms(0.99))),
        ]
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connected, sent, acked, .. } = self;
        let (p50, p99) = (self.latency_ms(0.5), self.latency_ms(0.99));
        write!(
            f,
            "{connected} devices connected, {sent} sent, {acked} acknowledged, PUBACK p50 {p50:.1} ms p99 {p99:.1} ms"
        )
    }
}

/// A fleet at work. Dropping it stops it without waiting.
#[derive(Debug)]
pub(crate) struct Running {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
    /// One per thread: taken once per turn, by the thread and by whoever wants to know.
    counts: Vec<Arc<Mutex<Counts>>>,
}

impl Fleet {
    /// Starts the threads; the devices connect in the background.
    ///
    /// # Errors
    /// The server cannot be reached at all.
    pub(crate) fn start(self) -> Result<Running> {
        // Once here, so that a wrong address is an error and not a loop; the first device goes on with it.
        let first = Device::new(self.seed, 0, self.faults);
        let mut first = Some(Wire::connect(self.address, Version::V5, &first.name)?);
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = Running { stop, threads: Vec::new(), counts: Vec::new() };
        let threads = self.threads.min(self.devices).max(1);
        for thread in 0..threads {
            let counts = Arc::new(Mutex::new(Counts::new()?));
            let devices: Vec<Device> = (thread..self.devices)
                .step_by(threads as usize)
                .map(|index| Device::new(self.seed, index, self.faults))
                .collect();
            let share = devices.len() as f64 / f64::from(self.devices);
            let count = self
                .count
                .map(|count| count / u64::from(threads) + u64::from(u64::from(thread) < count % u64::from(threads)));
            let (rate_per_s, stop, shared) = (self.rate_per_s * share, Arc::clone(&running.stop), Arc::clone(&counts));
            let (address, first) = (self.address, first.take());
            let spawned = std::thread::Builder::new().name(format!("sim-{thread}")).spawn(move || {
                let mut driver = Driver {
                    address,
                    poll: Poll::new()?,
                    links: Vec::new(),
                    rate_per_s,
                    count,
                    counts: shared,
                    stop,
                    scratch: vec![0; 64 << 10],
                    ready: Vec::new(),
                };
                driver.run(devices, first)
            });
            running.threads.push(spawned.context("start a thread")?);
            running.counts.push(counts);
        }
        Ok(running)
    }
}

impl Running {
    /// What has been done so far.
    pub(crate) fn counts(&self) -> Counts {
        let mut sum = Counts::new().expect("the bounds are constants");
        for counts in &self.counts {
            sum.add(&counts.lock().unwrap_or_else(PoisonError::into_inner));
        }
        sum
    }

    /// Whether every thread has ended, by its count or by an error.
    pub(crate) fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Stops publishing, waits a little for outstanding acknowledgements, and returns the sum.
    ///
    /// # Errors
    /// What ended a thread before its time.
    pub(crate) fn stop(mut self) -> Result<Counts> {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.join().expect("the threads of the fleet do not panic")?;
        }
        Ok(self.counts())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// A device and its connection.
struct Link {
    device: Device,
    /// `None` while there is no connection; then the time of the next try.
    connected: Result<(), Instant>,
    last_sent: Instant,
    next_id: PacketId,
    /// Sent and not acknowledged, in order.
    in_flight: VecDeque<(PacketId, String, Instant)>,
}

/// One thread of the fleet.
struct Driver {
    address: SocketAddr,
    poll: Poll,
    /// By index of the wire in `poll`.
    links: Vec<Link>,
    rate_per_s: f64,
    count: Option<u64>,
    counts: Arc<Mutex<Counts>>,
    stop: Arc<AtomicBool>,
    scratch: Vec<u8>,
    ready: Vec<usize>,
}

impl Driver {
    fn with_counts(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// `first` is the connection of the first device, if there is one already.
    fn run(&mut self, devices: Vec<Device>, mut first: Option<Wire>) -> Result<()> {
        for device in devices {
            let wire = first.take().map_or_else(|| Wire::connect(self.address, Version::V5, &device.name), Ok)?;
            self.poll.add(wire)?;
            self.links.push(Link {
                device,
                connected: Ok(()),
                last_sent: now(),
                next_id: PacketId::MIN,
                in_flight: VecDeque::new(),
            });
            self.with_counts(|counts| counts.connected += 1);
            if self.stop.load(Ordering::Acquire) {
                return Ok(());
            }
        }
        let (start, start_ms) = (now(), unix_ms());
        // From one reading of a device to its next.
        let step_s = self.links.len() as f64 / self.rate_per_s;
        let mut reading = 0_u64;
        let mut payload = String::new();
        while !self.stop.load(Ordering::Acquire) && self.count.is_none_or(|count| reading < count) {
            // Reading k is due at k / rate; a thread that is late catches up.
            let due = start + Duration::from_secs_f64(reading as f64 / self.rate_per_s);
            let wait = due.saturating_duration_since(now());
            if wait.is_zero() {
                let index = (reading % self.links.len() as u64) as usize;
                let time_ms = start_ms + (reading as f64 / self.rate_per_s * 1e3) as i64;
                reading += 1;
                if self.links[index].device.read(time_ms, step_s, &mut payload) {
                    self.publish(index, &payload)?;
                }
                // Look for acknowledgements after each round of devices, not after each reading.
                if index + 1 < self.links.len() {
                    continue;
                }
            }
            self.turn(wait.min(Duration::from_millis(50)))?;
        }
        let deadline = now() + DRAIN;
        while self.links.iter().any(|link| !link.in_flight.is_empty()) && now() < deadline {
            self.turn(Duration::from_millis(50))?;
        }
        Ok(())
    }

    fn publish(&mut self, index: usize, payload: &str) -> Result<()> {
        let link = &mut self.links[index];
        if link.connected.is_err() || link.in_flight.len() >= WINDOW {
            self.with_counts(|counts| counts.skipped += 1);
            return Ok(());
        }
        let id = link.next_id;
        link.next_id = PacketId::new(id.get().wrapping_add(1)).unwrap_or(PacketId::MIN);
        let bytes = packet(link, id, payload, false)?;
        link.in_flight.push_back((id, payload.to_owned(), now()));
        self.with_counts(|counts| counts.sent += 1);
        self.send(index, &bytes);
        Ok(())
    }

    fn send(&mut self, index: usize, bytes: &[u8]) {
        self.links[index].last_sent = now();
        // A connection that breaks is noticed, and mended, when it is read.
        drop(self.poll.send(index, bytes));
    }

    /// Takes acknowledgements and mends connections.
    fn turn(&mut self, wait: Duration) -> Result<()> {
        let mut ready = std::mem::take(&mut self.ready);
        self.poll.wait(wait, &mut ready)?;
        for index in ready.drain(..) {
            let link = &mut self.links[index];
            if link.connected.is_err() {
                continue;
            }
            let counts = &self.counts;
            let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            let open =
                self.poll.wires[index].receive(&mut self.scratch, |packet| acknowledged(link, &mut counts, &packet));
            if !matches!(open, Ok(true)) {
                link.connected = Err(now() + RETRY);
                counts.connected -= 1;
                counts.lost_connections += 1;
                self.poll.forget(index);
            }
        }
        self.ready = ready;
        for index in 0..self.links.len() {
            let link = &self.links[index];
            match link.connected {
                Err(retry_at) if now() >= retry_at => self.reconnect(index)?,
                Ok(()) if link.last_sent.elapsed() > PING => self.send(index, &PINGREQ),
                _ => {}
            }
        }
        Ok(())
    }

    fn reconnect(&mut self, index: usize) -> Result<()> {
        let link = &mut self.links[index];
        match Wire::connect(self.address, Version::V5, &link.device.name) {
            Err(_) => {
                // Whoever is not there for one device is not there for the others.
                let retry_at = now() + RETRY;
                self.links
                    .iter_mut()
                    .filter(|link| link.connected.is_err())
                    .for_each(|link| link.connected = Err(retry_at));
            }
            Ok(wire) => {
                link.connected = Ok(());
                let mut bytes = Vec::new();
                for (id, payload, _) in &link.in_flight {
                    bytes.extend(packet(link, *id, payload, true)?);
                }
                self.poll.replace(index, wire)?;
                self.with_counts(|counts| counts.connected += 1);
                self.send(index, &bytes);
            }
        }
        Ok(())
    }
}

fn packet(link: &Link, id: PacketId, payload: &str, dup: bool) -> Result<Vec<u8>> {
    let publish = Publish::new(&link.device.topic, payload.as_bytes());
    encode(Version::V5, &Packet::Publish(Publish { qos: QoS::AtLeastOnce, packet_id: Some(id), dup, ..publish }))
}

fn acknowledged(link: &mut Link, counts: &mut Counts, packet: &Packet<'_>) -> Result<()> {
    match packet {
        Packet::Puback(ack) => {
            let at = link.in_flight.iter().position(|(id, ..)| *id == ack.packet_id);
            let (_, _, sent_at) =
                at.and_then(|at| link.in_flight.remove(at)).context("acknowledgement of an unknown id")?;
            if ack.code.is_failure() {
                counts.refused += 1;
            } else {
                counts.acked += 1;
                counts.latency.saturating_record(u64::try_from(sent_at.elapsed().as_nanos()).unwrap_or(u64::MAX));
            }
            Ok(())
        }
        Packet::Disconnect(disconnect) => bail!("the server disconnected: {:?}", disconnect.code),
        other => {
            ensure!(matches!(other, Packet::Pingresp), "unexpected {other:?}");
            Ok(())
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "simulated devices have real clocks")]
fn unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
