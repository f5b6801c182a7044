//! Many connections on one thread: non-blocking sockets under one epoll, for the load generator and
//! the simulated fleet.

use anyhow::{Context, Result, bail, ensure};
use floodplain_mqtt::{
    Connect, Decoder, Encoder, Frame, Packet, PacketId, QoS, ReasonCode, Subscribe, Subscription, Version,
};
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    fd::OwnedFd,
};
use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// How long a broker may take to answer one step of the preparation.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection of the generator.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    decoder: Decoder,
    /// Start of a packet whose rest has not come.
    partial: Vec<u8>,
    /// What the socket did not take yet.
    unsent: Vec<u8>,
}

impl Wire {
    /// Opens a blocking connection; nothing is sent.
    pub(crate) fn open(address: SocketAddr, version: Version) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let decoder = Decoder::client(version, 16 << 20);
        Ok(Self { stream, decoder, partial: Vec::new(), unsent: Vec::new() })
    }

    /// Opens a connection and waits for the CONNACK.
    pub(crate) fn connect(address: SocketAddr, version: Version, id: &str) -> Result<Self> {
        let mut wire = Self::open(address, version)?;
        wire.stream.write_all(&connect_packet(version, id)?)?;
        wire.expect_connack()?;
        Ok(wire)
    }

    pub(crate) fn expect_connack(&mut self) -> Result<()> {
        self.wait_for(|packet| match packet {
            Packet::Connack(connack) => {
                ensure!(!connack.code.is_failure(), "refused: {:?}", connack.code);
                Ok(true)
            }
            other => bail!("expected CONNACK, got {other:?}"),
        })
    }

    /// Waits for the SUBACK; retained messages that come along are passed over.
    pub(crate) fn expect_suback(&mut self) -> Result<()> {
        self.wait_for(|packet| match packet {
            Packet::Suback(suback) => {
                ensure!(suback.codes.iter().all(|code| code.qos().is_some()), "refused: {suback:?}");
                Ok(true)
            }
            Packet::Publish(_) => Ok(false),
            other => bail!("expected SUBACK, got {other:?}"),
        })
    }

    /// Blocking, for the preparation only.
    fn wait_for(&mut self, mut is_it: impl FnMut(Packet<'_>) -> Result<bool>) -> Result<()> {
        let mut chunk = [0; 4_096];
        loop {
            while let Some((packet, len)) = self.decoder.next(&self.partial)? {
                let found = is_it(packet)?;
                self.partial.drain(..len);
                if found {
                    return Ok(());
                }
            }
            let n = self.stream.read(&mut chunk).context("wait for an answer")?;
            ensure!(n > 0, "connection closed by the broker");
            self.partial.extend_from_slice(&chunk[..n]);
        }
    }

    /// Whether the socket took everything so far.
    pub(crate) fn is_free(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Writes once; what the socket does not take goes out when it is writable again.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let written = if self.unsent.is_empty() { write_some(&mut self.stream, bytes)? } else { 0 };
        self.unsent.extend_from_slice(&bytes[written..]);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.unsent.is_empty() {
            let written = write_some(&mut self.stream, &self.unsent)?;
            self.unsent.drain(..written);
        }
        Ok(())
    }

    /// Reads all there is into `scratch` and hands out each packet; false when the broker closed.
    pub(crate) fn receive(
        &mut self,
        scratch: &mut [u8],
        mut take: impl FnMut(Packet<'_>) -> Result<()>,
    ) -> Result<bool> {
        loop {
            let n = match self.stream.read(scratch) {
                Ok(0) => return Ok(false),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e).context("receive"),
            };
            let mut new = &scratch[..n];
            if !self.partial.is_empty() {
                // Completes the packet that was cut, and goes on in the scratch buffer.
                loop {
                    match self.decoder.frame(&self.partial)? {
                        Frame::Incomplete { needed } => {
                            let more = new.len().min(needed - self.partial.len());
                            self.partial.extend_from_slice(&new[..more]);
                            new = &new[more..];
                            if new.is_empty() && self.decoder.next(&self.partial)?.is_none() {
                                break;
                            }
                        }
                        Frame::Complete { first_byte, body } => {
                            take(self.decoder.decode(first_byte, &self.partial[body])?)?;
                            self.partial.clear();
                            break;
                        }
                    }
                }
            }
            while let Some((packet, len)) = self.decoder.next(new)? {
                take(packet)?;
                new = &new[len..];
            }
            self.partial.extend_from_slice(new);
            if n < scratch.len() {
                return Ok(true);
            }
        }
    }
}

fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> Result<usize> {
    match stream.write(bytes) {
        Ok(n) => Ok(n),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        Err(e) => Err(e).context("send"),
    }
}

/// CONNECT with a clean start and keep-alive 120.
pub(crate) fn connect_packet(version: Version, id: &str) -> Result<Vec<u8>> {
    let mut connect = Connect::new(version, id);
    connect.keep_alive_secs = 120;
    encode(version, &Packet::Connect(connect))
}

/// SUBSCRIBE with packet identifier 1.
pub(crate) fn subscribe_packet(version: Version, filter: &str, qos: QoS) -> Result<Vec<u8>> {
    encode(version, &Packet::Subscribe(Subscribe::new(PacketId::MIN, &[Subscription::new(filter, qos)])))
}

pub(crate) fn encode(version: Version, packet: &Packet<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    Encoder::new(version).encode(packet, &mut out)?;
    Ok(out)
}

/// The sockets of a run, by index, level-triggered.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    pub(crate) wires: Vec<Wire>,
    /// Whether the wire waits for writability.
    blocked: Vec<bool>,
}

impl Poll {
    pub(crate) fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?;
        Ok(Self { epoll, events: Vec::with_capacity(1_024), wires: Vec::new(), blocked: Vec::new() })
    }

    /// Makes the wire non-blocking and waits for what it receives from now on.
    pub(crate) fn add(&mut self, wire: Wire) -> Result<usize> {
        let index = self.wires.len();
        self.watch(&wire, index)?;
        self.wires.push(wire);
        self.blocked.push(false);
        Ok(index)
    }

    /// Puts another wire in the place of one that has ended.
    pub(crate) fn replace(&mut self, index: usize, wire: Wire) -> Result<()> {
        self.watch(&wire, index)?;
        // Closing the old socket takes it out of the epoll.
        self.wires[index] = wire;
        self.blocked[index] = false;
        Ok(())
    }

    /// Stops watching a wire that has ended, until another one takes its place.
    pub(crate) fn forget(&mut self, index: usize) {
        // It may be gone from the epoll already; a closed socket would wake us for ever.
        epoll::delete(&self.epoll, &self.wires[index].stream).ok();
    }

    fn watch(&self, wire: &Wire, index: usize) -> Result<()> {
        wire.stream.set_nonblocking(true)?;
        epoll::add(&self.epoll, &wire.stream, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)
            .context("epoll")
    }

    /// Writes once to one wire, and watches for writability if the socket is full.
    pub(crate) fn send(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        self.wires[index].send(bytes)?;
        self.update(index)
    }

    fn update(&mut self, index: usize) -> Result<()> {
        let blocked = !self.wires[index].is_free();
        if blocked != self.blocked[index] {
            self.blocked[index] = blocked;
            let flags = if blocked { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, &self.wires[index].stream, data, flags).context("epoll")?;
        }
        Ok(())
    }

    /// Waits at most `timeout`, sends what can be sent, and appends the wires with input to `ready`.
    pub(crate) fn wait(&mut self, timeout: Duration, ready: &mut Vec<usize>) -> Result<()> {
        self.events.clear();
        let timeout = Timespec::try_from(timeout).context("timeout")?;
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(e) => return Err(e).context("epoll"),
        }
        for at in 0..self.events.len() {
            let event = self.events[at];
            let (data, flags) = (event.data, event.flags);
            let index = data.u64() as usize;
            if flags.contains(epoll::EventFlags::OUT) {
                self.wires[index].flush()?;
                self.update(index)?;
            }
            // Errors and hang-ups show when reading.
            if flags != epoll::EventFlags::OUT {
                ready.push(index);
            }
        }
        Ok(())
    }
}
