//! A blocking test client: one socket, one deadline for everything, nothing hidden.

#![expect(clippy::disallowed_methods, reason = "other processes do not run by a clock of ours")]

use super::wire::{self, Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Prop, Publish, Version};
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How long anything that must happen may take.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long a test listens to be sure that nothing comes. Where order allows it, tests send a
/// last message instead and check that it comes next.
pub const QUIET: Duration = Duration::from_millis(300);

/// Why there is nothing more to hear on a connection that the client has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    #[error("closed by the broker")]
    ByBroker,
    #[error("the line is cut")]
    Cut,
}

/// Where clients connect to, and until when they hear anything. Shared by those whose broker loses its power.
#[derive(Debug, Clone)]
pub struct Line {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
}

impl Line {
    /// From now on whatever comes is not heard: it may have been said by a machine that would have been dead.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
    }

    /// Whether it has been cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }
}

impl From<SocketAddr> for Line {
    fn from(address: SocketAddr) -> Self {
        Self { address, is_cut: Arc::default() }
    }
}

#[derive(Debug)]
pub struct Connack {
    pub session_present: bool,
    pub code: u8,
    pub props: Vec<Prop>,
}

#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    line: Line,
    pub version: Version,
    buffer: Vec<u8>,
    /// Publications that came while the client waited for something else.
    early: VecDeque<Publish>,
    last_id: u16,
}

impl Client {
    /// Opens the socket and sends nothing.
    pub fn open(line: impl Into<Line>, version: Version) -> Result<Self> {
        let line = line.into();
        let stream = TcpStream::connect_timeout(&line.address, PATIENCE)
            .with_context(|| format!("connect to {}", line.address))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, line, version, buffer: Vec::new(), early: VecDeque::new(), last_id: 0 })
    }

    /// Connects and returns the answer, whatever it is.
    pub fn connect(line: impl Into<Line>, connect: &Connect) -> Result<(Self, Connack)> {
        let mut client = Self::open(line, connect.version)?;
        client.send(&connect.encode())?;
        match client.recv()? {
            Packet::Connack { session_present, code, props } => Ok((client, Connack { session_present, code, props })),
            other => bail!("expected CONNACK, got {other:?}"),
        }
    }

    /// Connects and must be let in; returns whether a session was present.
    pub fn resume(line: impl Into<Line>, connect: &Connect) -> Result<(Self, bool)> {
        let (client, connack) = Self::connect(line, connect)?;
        ensure!(connack.code == 0, "refused with {:#04x}", connack.code);
        Ok((client, connack.session_present))
    }

    /// Connects with a clean start.
    pub fn clean(line: impl Into<Line>, version: Version, id: &str) -> Result<Self> {
        let (client, present) = Self::resume(line, &Connect::new(version, id))?;
        ensure!(!present, "session present after a clean start");
        Ok(client)
    }

    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("send")
    }

    /// The next packet within `wait`; `None` if none came. Fails when the broker has closed.
    pub fn recv_within(&mut self, wait: Duration) -> Result<Option<Packet>> {
        let deadline = Instant::now() + wait;
        let mut chunk = [0; 65_536];
        loop {
            if let Some(packet) = wire::parse(self.version, &mut self.buffer)? {
                // Asked after it has come: what was heard was said before the line was cut.
                ensure!(!self.line.is_cut(), Ended::Cut);
                return Ok(Some(packet));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!(Ended::ByBroker),
                Ok(n) => self.buffer.extend(&chunk[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("receive"),
            }
        }
    }

    pub fn recv(&mut self) -> Result<Packet> {
        self.recv_within(PATIENCE)?.with_context(|| format!("nothing came within {PATIENCE:?}"))
    }

    /// The next packet that is not a publication; those are kept for [`Self::message`].
    pub fn answer(&mut self) -> Result<Packet> {
        loop {
            match self.recv()? {
                Packet::Publish(publish) => self.early.push_back(publish),
                other => return Ok(other),
            }
        }
    }

    pub fn next_id(&mut self) -> u16 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }

    fn expect_ack(&mut self, kind: u8, id: u16) -> Result<u8> {
        match self.answer()? {
            Packet::Ack { kind: k, id: i, code } if k == kind && i == id => Ok(code),
            other => bail!("expected packet type {kind} for id {id}, got {other:?}"),
        }
    }

    /// Publishes and goes through the whole handshake of its QoS; returns the reason code.
    pub fn publish(&mut self, mut publish: Publish) -> Result<u8> {
        if publish.qos > 0 {
            publish.id = self.next_id();
        }
        self.send(&publish.encode(self.version))?;
        match publish.qos {
            0 => Ok(0),
            1 => self.expect_ack(PUBACK, publish.id),
            _ => {
                let code = self.expect_ack(PUBREC, publish.id)?;
                if code >= 0x80 {
                    return Ok(code);
                }
                self.send(&wire::ack(PUBREL, publish.id))?;
                self.expect_ack(PUBCOMP, publish.id)
            }
        }
    }

    /// Publishes text and must be believed.
    pub fn say(&mut self, topic: &str, text: &str, qos: u8) -> Result<()> {
        let code = self.publish(Publish::new(topic, text, qos))?;
        // 0x10: accepted, nobody subscribed.
        ensure!(code == 0 || code == 0x10, "publish to {topic} was refused with {code:#04x}");
        Ok(())
    }

    /// Subscribes; returns one code per filter.
    pub fn subscribe_with(&mut self, props: &[Prop], filters: &[(&str, u8)]) -> Result<Vec<u8>> {
        let id = self.next_id();
        self.send(&wire::subscribe(self.version, id, props, filters))?;
        match self.answer()? {
            Packet::Suback { id: i, codes } if i == id => {
                ensure!(codes.len() == filters.len(), "one code per filter: {codes:?}");
                Ok(codes)
            }
            other => bail!("expected SUBACK, got {other:?}"),
        }
    }

    /// Subscribes to one filter and must be granted exactly `qos`.
    pub fn subscribe(&mut self, filter: &str, qos: u8) -> Result<()> {
        let codes = self.subscribe_with(&[], &[(filter, qos)])?;
        ensure!(codes == [qos], "{filter} with QoS {qos} was answered by {codes:?}");
        Ok(())
    }

    pub fn unsubscribe(&mut self, filters: &[&str]) -> Result<Vec<u8>> {
        let id = self.next_id();
        self.send(&wire::unsubscribe(self.version, id, filters))?;
        match self.answer()? {
            Packet::Unsuback { id: i, codes } if i == id => Ok(codes),
            other => bail!("expected UNSUBACK, got {other:?}"),
        }
    }

    /// The next publication, not acknowledged.
    pub fn message_raw(&mut self) -> Result<Publish> {
        if let Some(publish) = self.early.pop_front() {
            return Ok(publish);
        }
        match self.recv()? {
            Packet::Publish(publish) => Ok(publish),
            other => bail!("expected PUBLISH, got {other:?}"),
        }
    }

    /// Acknowledges `publish` through the whole handshake of its QoS.
    pub fn accept(&mut self, publish: &Publish) -> Result<()> {
        match publish.qos {
            0 => Ok(()),
            1 => self.send(&wire::ack(PUBACK, publish.id)),
            _ => {
                self.send(&wire::ack(PUBREC, publish.id))?;
                self.expect_ack(PUBREL, publish.id)?;
                self.send(&wire::ack(PUBCOMP, publish.id))
            }
        }
    }

    /// The next publication, acknowledged.
    pub fn message(&mut self) -> Result<Publish> {
        let publish = self.message_raw()?;
        self.accept(&publish)?;
        Ok(publish)
    }

    /// The next publication must carry this text.
    pub fn hears(&mut self, topic: &str, text: &str) -> Result<Publish> {
        let publish = self.message().with_context(|| format!("waiting for {text:?} on {topic}"))?;
        ensure!(
            publish.topic == topic && publish.text() == text,
            "expected {text:?} on {topic}, got {:?} on {}",
            publish.text(),
            publish.topic
        );
        Ok(publish)
    }

    /// Nothing comes for a while.
    pub fn hears_nothing(&mut self) -> Result<()> {
        ensure!(self.early.is_empty(), "unexpected {:?}", self.early);
        match self.recv_within(QUIET)? {
            None => Ok(()),
            Some(packet) => bail!("expected nothing, got {packet:?}"),
        }
    }

    pub fn ping(&mut self) -> Result<()> {
        self.send(&[0xc0, 0])?;
        let answer = self.answer()?;
        ensure!(answer == Packet::Pingresp, "expected PINGRESP, got {answer:?}");
        Ok(())
    }

    /// Waits until the broker closes; returns what it sent before.
    pub fn until_closed(&mut self) -> Result<Vec<Packet>> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            match self.recv_within(deadline.saturating_duration_since(Instant::now())) {
                Ok(Some(packet)) => seen.push(packet),
                Ok(None) => bail!("the broker did not close the connection; it sent {seen:?}"),
                Err(e) => {
                    let reset =
                        e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::ConnectionReset);
                    if reset || e.downcast_ref() == Some(&Ended::ByBroker) {
                        return Ok(seen);
                    }
                    return Err(e);
                }
            }
        }
    }

    /// DISCONNECT with success, then waits for the broker to close.
    pub fn leave(self) -> Result<()> {
        self.leave_with(0, &[])
    }

    pub fn leave_with(mut self, code: u8, props: &[Prop]) -> Result<()> {
        self.send(&wire::disconnect(self.version, code, props))?;
        let seen = self.until_closed()?;
        ensure!(
            seen.iter().all(|p| matches!(p, Packet::Publish(_) | Packet::Ack { .. })),
            "after DISCONNECT came {seen:?}"
        );
        Ok(())
    }

    /// Cuts the connection without DISCONNECT.
    pub fn cut(self) {
        drop(self.stream);
    }
}
