//! A small blocking MQTT client on our own codec, and the commands `pub` and `sub` on top of it.
//!
//! One thread, one socket: what the commands and the simulated fleet need, nothing that reconnects
//! behind their back.

mod publish;
mod subscribe;
pub(crate) mod wires;

pub(crate) use publish::Args as PublishArgs;
pub(crate) use publish::run as run_publish;
pub(crate) use subscribe::Args as SubscribeArgs;
pub(crate) use subscribe::run as run_subscribe;

use anyhow::{Context, Result, bail, ensure};
use floodplain_mqtt::{
    Ack, Connect, Decoder, Disconnect, DisconnectCode, Encoder, MessagePropertiesBuf, Packet, PacketId, PubackCode,
    PubrelCode, QoS, ReasonCode, Subscribe, Subscription, SubscriptionOptions, UserProperties, Version, Will,
};
use std::{
    collections::{BTreeSet, hash_map::RandomState},
    hash::BuildHasher,
    io::{ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a server may take to close after our DISCONNECT.
const FAREWELL: Duration = Duration::from_secs(5);
/// A packet above this is refused: no server sends larger ones to a command line.
const MAX_PACKET_SIZE: u32 = 16 << 20;

/// The time for pauses and latencies of the commands; never part of what is stored.
#[expect(clippy::disallowed_methods, reason = "command line tools measure real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Where the server is and who connects.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConnectArgs {
    /// Server as mqtt://HOST:PORT; wins over --host and --port
    #[arg(short = 'L', long, value_name = "URL")]
    url: Option<String>,
    /// Host of the server
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port of the server
    #[arg(short, long, default_value_t = 1883)]
    port: u16,
    /// Client identifier; a new one if left out
    #[arg(short, long, value_name = "CLIENT_ID")]
    id: Option<String>,
    /// Protocol version: 3.1.1 or 5
    #[arg(short = 'V', long, default_value = "5", value_parser = parse_version, value_name = "VERSION")]
    protocol_version: Version,
    /// Seconds; 0 turns it off
    #[arg(short, long, default_value_t = 60, value_name = "SECONDS")]
    keep_alive: u16,
    /// User name
    #[arg(short, long)]
    username: Option<String>,
    /// File that holds the password
    #[arg(long, value_name = "FILE")]
    password_file: Option<std::path::PathBuf>,
    /// User property of the CONNECT as NAME=VALUE; may be repeated
    #[arg(long = "connect-property", value_parser = parse_pair, value_name = "NAME=VALUE")]
    connect_properties: Vec<(String, String)>,
    /// Topic of the will
    #[arg(long, value_name = "TOPIC")]
    will_topic: Option<String>,
    /// Payload of the will
    #[arg(long, default_value = "", requires = "will_topic", value_name = "TEXT")]
    will_payload: String,
    /// QoS of the will
    #[arg(long, default_value_t = 0, requires = "will_topic", value_parser = clap::value_parser!(u8).range(0..=2))]
    will_qos: u8,
    /// Retain the will
    #[arg(long, requires = "will_topic")]
    will_retain: bool,
    /// Seconds before the will is sent (version 5)
    #[arg(long, default_value_t = 0, requires = "will_topic", value_name = "SECONDS")]
    will_delay: u32,
}

fn parse_version(text: &str) -> Result<Version, String> {
    match text {
        "5" | "5.0" | "mqttv5" => Ok(Version::V5),
        "3.1.1" | "311" | "4" | "mqttv311" => Ok(Version::V311),
        _ => Err("expected 3.1.1 or 5".to_owned()),
    }
}

pub(crate) fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_qos(bits: u8) -> QoS {
    QoS::from_bits(bits).expect("clap allows 0 to 2")
}

impl ConnectArgs {
    /// `HOST:PORT`.
    pub(crate) fn address(&self) -> Result<String> {
        let Some(url) = &self.url else { return Ok(format!("{}:{}", self.host, self.port)) };
        let rest = url.strip_prefix("mqtt://").or_else(|| url.strip_prefix("tcp://")).unwrap_or(url);
        ensure!(!rest.contains("://"), "{url}: only mqtt:// is supported");
        let host_port = rest.trim_end_matches('/');
        Ok(if host_port.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            host_port.to_owned()
        } else {
            format!("{host_port}:1883")
        })
    }

    /// Connects; `lasting` asks for a session that outlives the connection by so many seconds.
    fn connect(&self, lasting: Option<u32>) -> Result<(Client, Welcome)> {
        let id = match (&self.id, lasting) {
            (Some(id), _) => id.clone(),
            (None, Some(_)) => bail!("a session that lasts needs a name: give --id"),
            (None, None) => format!("floodplain-{:016x}", RandomState::new().hash_one(std::process::id())),
        };
        let password = match &self.password_file {
            Some(file) => Some(std::fs::read(file).with_context(|| format!("read {}", file.display()))?),
            None => None,
        };
        let mut connect = Connect::new(self.protocol_version, &id);
        connect.clean_start = lasting.is_none();
        connect.keep_alive_secs = self.keep_alive;
        connect.username = self.username.as_deref();
        connect.password = password.as_deref().map(|bytes| bytes.trim_ascii_end());
        connect.will = self.will_topic.as_deref().map(|topic| Will {
            topic,
            payload: self.will_payload.as_bytes(),
            qos: parse_qos(self.will_qos),
            retain: self.will_retain,
            delay_secs: self.will_delay,
            properties: Default::default(),
        });
        let pairs: Vec<(&str, &str)> = self.connect_properties.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        if self.protocol_version == Version::V5 {
            connect.properties.session_expiry_interval_secs = lasting;
            connect.properties.user_properties = UserProperties::from(&pairs[..]);
        }
        Client::connect(&self.address()?, &connect)
    }
}

/// A message as it came.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) id: Option<PacketId>,
    pub(crate) content_type: Option<String>,
    pub(crate) response_topic: Option<String>,
    pub(crate) expiry_secs: Option<u32>,
    pub(crate) user_properties: Vec<(String, String)>,
}

/// What a server sends after its CONNACK, owned.
#[derive(Debug)]
pub(crate) enum Event {
    Message(Message),
    Puback(PacketId, PubackCode),
    Pubrec(PacketId, PubackCode),
    Pubrel(PacketId),
    Pubcomp(PacketId),
    /// One QoS per filter; `None` for a refused one, with the reason's name.
    Suback(Vec<Result<QoS, String>>),
}

/// What the CONNACK said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Welcome {
    /// Unacknowledged QoS 1 and 2 messages that the server takes.
    pub(crate) receive_maximum: u16,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    encoder: Encoder,
    decoder: Decoder,
    input: Vec<u8>,
    output: Vec<u8>,
    keep_alive: Option<Duration>,
    last_sent: Instant,
    /// QoS 2 identifiers that were taken and not yet released [MQTT-4.3.3-10].
    taken: BTreeSet<PacketId>,
}

impl Client {
    /// Connects to `HOST:PORT` and waits for the CONNACK, which must be a success.
    pub(crate) fn connect(address: &str, connect: &Connect<'_>) -> Result<(Self, Welcome)> {
        let mut addresses = address.to_socket_addrs().with_context(|| format!("resolve {address}"))?;
        let first = addresses.next().with_context(|| format!("{address} has no address"))?;
        let stream =
            TcpStream::connect_timeout(&first, PATIENCE).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut client = Self {
            stream,
            encoder: Encoder::new(connect.version),
            decoder: Decoder::client(connect.version, MAX_PACKET_SIZE),
            input: Vec::new(),
            output: Vec::new(),
            keep_alive: (connect.keep_alive_secs > 0).then(|| Duration::from_secs(connect.keep_alive_secs.into())),
            last_sent: now(),
            taken: BTreeSet::new(),
        };
        client.queue(&Packet::Connect(*connect))?;
        client.flush()?;
        let deadline = now() + PATIENCE;
        loop {
            if let Some((packet, len)) = client.decoder.next(&client.input)? {
                let Packet::Connack(connack) = packet else { bail!("expected CONNACK, got {packet:?}") };
                ensure!(
                    !connack.code.is_failure(),
                    "{address} refused the connection: {:?} ({:#04x}){}",
                    connack.code,
                    connack.code.value(),
                    connack.properties.reason_string.map(|reason| format!(", {reason}")).unwrap_or_default()
                );
                let welcome = Welcome {
                    receive_maximum: connack.properties.receive_maximum.map_or(u16::MAX, std::num::NonZeroU16::get),
                };
                if let Some(seconds) = connack.properties.server_keep_alive_secs {
                    client.keep_alive = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
                }
                client.input.drain(..len);
                return Ok((client, welcome));
            }
            ensure!(client.fill(deadline)?, "{address} did not answer within {PATIENCE:?}");
        }
    }

    /// Puts a packet into the output; [`Self::flush`] sends it.
    pub(crate) fn queue(&mut self, packet: &Packet<'_>) -> Result<()> {
        Ok(self.encoder.encode(packet, &mut self.output)?)
    }

    /// Sends what was queued in one write.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).context("connection lost while sending")?;
            self.output.clear();
            self.last_sent = now();
        }
        Ok(())
    }

    /// Bytes that are queued and not sent.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.output.len()
    }

    /// Reads once; false if nothing came until `deadline`.
    fn fill(&mut self, deadline: Instant) -> Result<bool> {
        let mut chunk = [0; 16_384];
        loop {
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                return Ok(false);
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("connection closed by the server"),
                Ok(n) => {
                    self.input.extend_from_slice(&chunk[..n]);
                    return Ok(true);
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(e) => return Err(e).context("connection lost while receiving"),
            }
        }
    }

    /// The socket, to wait for it together with something else, and how long that may take before a ping is due.
    fn socket(&self) -> (BorrowedFd<'_>, Option<Duration>) {
        let ping_in = self.ping_at().map(|at| at.saturating_duration_since(now()));
        (self.stream.as_fd(), ping_in)
    }

    fn ping_at(&self) -> Option<Instant> {
        self.keep_alive.map(|interval| self.last_sent + interval.mul_f32(0.9))
    }

    /// The next event, or `None` if none came until `deadline`. Sends what was queued, and pings.
    ///
    /// Messages are not acknowledged here: the caller does that with [`Self::accept`] when it is
    /// done with them. Messages and releases that the protocol says are repeats are dealt with.
    pub(crate) fn next(&mut self, deadline: Instant) -> Result<Option<Event>> {
        loop {
            if let Some((packet, len)) = self.decoder.next(&self.input)? {
                let event = event(packet)?;
                self.input.drain(..len);
                match event {
                    Some(Event::Message(Message { id: Some(id), qos: QoS::ExactlyOnce, .. }))
                        if !self.taken.insert(id) =>
                    {
                        self.queue(&Packet::Pubrec(Ack::new(id)))?;
                    }
                    Some(Event::Pubrel(id)) => {
                        // Taken by an earlier run of the command, maybe; 3.1.1 has no word for that.
                        let fine = self.taken.remove(&id) || self.encoder.version == Version::V311;
                        let code = if fine { PubrelCode::Success } else { PubrelCode::PacketIdentifierNotFound };
                        self.queue(&Packet::Pubcomp(Ack::with_code(id, code)))?;
                        return Ok(Some(Event::Pubrel(id)));
                    }
                    Some(event) => return Ok(Some(event)),
                    None => {}
                }
                continue;
            }
            self.flush()?;
            let until = self.ping_at().map_or(deadline, |at| at.min(deadline));
            if !self.fill(until)? {
                if now() >= deadline {
                    return Ok(None);
                }
                self.queue(&Packet::Pingreq)?;
            }
        }
    }

    /// Acknowledges a message; goes out with the next flush.
    pub(crate) fn accept(&mut self, message: &Message) -> Result<()> {
        match (message.qos, message.id) {
            (QoS::AtLeastOnce, Some(id)) => self.queue(&Packet::Puback(Ack::new(id))),
            (QoS::ExactlyOnce, Some(id)) => self.queue(&Packet::Pubrec(Ack::new(id))),
            _ => Ok(()),
        }
    }

    /// Sends a SUBSCRIBE for all `filters`; the answer comes as [`Event::Suback`].
    pub(crate) fn subscribe(&mut self, filters: &[String], options: SubscriptionOptions) -> Result<()> {
        let list: Vec<Subscription<'_>> = filters.iter().map(|filter| Subscription { filter, options }).collect();
        self.queue(&Packet::Subscribe(Subscribe::new(PacketId::MIN, &list)))?;
        self.flush()
    }

    /// Finishes what was accepted at QoS 2, says goodbye, and waits for the server to close: a socket
    /// that is closed over unread bytes would take back acknowledgements that are still under way.
    /// Messages that come meanwhile are not acknowledged, so a kept session has them next time.
    pub(crate) fn leave(mut self) -> Result<()> {
        let deadline = now() + FAREWELL;
        let mut later = BTreeSet::new();
        while self.taken.iter().any(|id| !later.contains(id)) {
            match self.next(deadline)? {
                Some(Event::Message(message)) => later.extend(message.id),
                Some(_) => {}
                None => break,
            }
        }
        self.queue(&Packet::Disconnect(Disconnect::new(DisconnectCode::NormalDisconnection)))?;
        self.flush()?;
        // What the server says or how it ends does not matter any more.
        while matches!(self.fill(deadline), Ok(true)) {
            self.input.clear();
        }
        Ok(())
    }
}

fn event(packet: Packet<'_>) -> Result<Option<Event>> {
    let pairs = |properties: UserProperties<'_>| properties.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    Ok(Some(match packet {
        Packet::Publish(publish) => Event::Message(Message {
            topic: publish.topic.to_owned(),
            payload: publish.payload.to_vec(),
            qos: publish.qos,
            retain: publish.retain,
            dup: publish.dup,
            id: publish.packet_id,
            content_type: publish.properties.content_type().map(str::to_owned),
            response_topic: publish.properties.response_topic().map(str::to_owned),
            expiry_secs: publish.properties.message_expiry_secs(),
            user_properties: pairs(publish.properties.user_properties()),
        }),
        Packet::Puback(ack) => Event::Puback(ack.packet_id, ack.code),
        Packet::Pubrec(ack) => Event::Pubrec(ack.packet_id, ack.code),
        Packet::Pubrel(ack) => Event::Pubrel(ack.packet_id),
        Packet::Pubcomp(ack) => Event::Pubcomp(ack.packet_id),
        Packet::Suback(suback) => {
            Event::Suback(suback.codes.iter().map(|code| code.qos().ok_or_else(|| format!("{code:?}"))).collect())
        }
        Packet::Pingresp | Packet::Unsuback(_) => return Ok(None),
        Packet::Disconnect(disconnect) => bail!(
            "the server disconnected: {:?} ({:#04x}){}",
            disconnect.code,
            disconnect.code.value(),
            disconnect.reason_string.map(|reason| format!(", {reason}")).unwrap_or_default()
        ),
        other => bail!("the server sent {other:?}"),
    }))
}

/// Properties to publish with, from the command line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Properties {
    pub(crate) content_type: Option<String>,
    pub(crate) expiry_secs: Option<u32>,
    pub(crate) user: Vec<(String, String)>,
}

impl Properties {
    pub(crate) fn encode(&self) -> Result<MessagePropertiesBuf> {
        let mut buffer = MessagePropertiesBuf::new();
        if let Some(content_type) = &self.content_type {
            buffer.content_type(content_type)?;
        }
        if let Some(seconds) = self.expiry_secs {
            buffer.message_expiry_secs(seconds)?;
        }
        for (name, value) in &self.user {
            buffer.user(name, value)?;
        }
        Ok(buffer)
    }
}
