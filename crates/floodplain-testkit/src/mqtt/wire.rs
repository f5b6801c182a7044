//! MQTT bytes, written a second time: the suites must not share a mistake with `floodplain-mqtt`.
//!
//! Only what a test client needs: any packet can be built, also a wrong one, and what a broker
//! may send is parsed strictly.

use anyhow::{Context, Result, bail, ensure};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V311 = 4,
    V5 = 5,
}

pub const BOTH: [Version; 2] = [Version::V311, Version::V5];

/// A property (MQTT 5.0 §2.2.2.2), by identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prop {
    Byte(u8, u8),
    Two(u8, u16),
    Four(u8, u32),
    Var(u8, u32),
    Text(u8, String),
    Data(u8, Vec<u8>),
    User(String, String),
}

pub const PAYLOAD_FORMAT: u8 = 0x01;
pub const MESSAGE_EXPIRY: u8 = 0x02;
pub const CONTENT_TYPE: u8 = 0x03;
pub const RESPONSE_TOPIC: u8 = 0x08;
pub const CORRELATION: u8 = 0x09;
pub const SUBSCRIPTION_ID: u8 = 0x0b;
pub const SESSION_EXPIRY: u8 = 0x11;
pub const ASSIGNED_ID: u8 = 0x12;
pub const WILL_DELAY: u8 = 0x18;
pub const RECEIVE_MAXIMUM: u8 = 0x21;
pub const TOPIC_ALIAS: u8 = 0x23;
pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;

pub fn var_int(mut n: u32, out: &mut Vec<u8>) {
    loop {
        let low = (n % 128) as u8;
        n /= 128;
        out.push(if n > 0 { low | 0x80 } else { low });
        if n == 0 {
            return;
        }
    }
}

pub fn text(s: &str, out: &mut Vec<u8>) {
    data(s.as_bytes(), out);
}

pub fn data(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(u16::try_from(bytes.len()).expect("test data is short").to_be_bytes());
    out.extend(bytes);
}

pub fn props(list: &[Prop], out: &mut Vec<u8>) {
    let mut body = Vec::new();
    for prop in list {
        match prop {
            Prop::Byte(id, v) => body.extend([*id, *v]),
            Prop::Two(id, v) => {
                body.push(*id);
                body.extend(v.to_be_bytes());
            }
            Prop::Four(id, v) => {
                body.push(*id);
                body.extend(v.to_be_bytes());
            }
            Prop::Var(id, v) => {
                body.push(*id);
                var_int(*v, &mut body);
            }
            Prop::Text(id, v) => {
                body.push(*id);
                text(v, &mut body);
            }
            Prop::Data(id, v) => {
                body.push(*id);
                data(v, &mut body);
            }
            Prop::User(k, v) => {
                body.push(0x26);
                text(k, &mut body);
                text(v, &mut body);
            }
        }
    }
    var_int(u32::try_from(body.len()).expect("test data is short"), out);
    out.extend(body);
}

/// Puts a fixed header before `body`.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    var_int(u32::try_from(body.len()).expect("test data is short"), &mut out);
    out.extend(body);
    out
}

#[derive(Debug, Clone, Default)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub props: Vec<Prop>,
}

/// A CONNECT to be built; the default is a clean start with keep-alive off.
#[derive(Debug, Clone)]
pub struct Connect {
    pub version: Version,
    pub id: String,
    pub clean: bool,
    pub keep_alive: u16,
    pub will: Option<Will>,
    pub props: Vec<Prop>,
}

impl Connect {
    pub fn new(version: Version, id: impl Into<String>) -> Self {
        Self { version, id: id.into(), clean: true, keep_alive: 0, will: None, props: Vec::new() }
    }

    /// A session that outlives the connection by `expiry_s` (3.1.1 knows only "for good").
    pub fn lasting(version: Version, id: impl Into<String>, expiry_s: u32) -> Self {
        let mut connect = Self::new(version, id);
        connect.clean = false;
        if version == Version::V5 {
            connect.props.push(Prop::Four(SESSION_EXPIRY, expiry_s));
        }
        connect
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        text("MQTT", &mut body);
        body.push(self.version as u8);
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 4 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        body.push(flags);
        body.extend(self.keep_alive.to_be_bytes());
        let v5 = self.version == Version::V5;
        if v5 {
            props(&self.props, &mut body);
        }
        text(&self.id, &mut body);
        if let Some(will) = &self.will {
            if v5 {
                props(&will.props, &mut body);
            }
            text(&will.topic, &mut body);
            data(&will.payload, &mut body);
        }
        packet(0x10, &body)
    }
}

/// A PUBLISH, to be sent or as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publish {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    /// 0 when there is none.
    pub id: u16,
    pub props: Vec<Prop>,
}

impl Publish {
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>, qos: u8) -> Self {
        Self { topic: topic.into(), payload: payload.into(), qos, ..Self::default() }
    }

    pub fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    pub fn with(mut self, prop: Prop) -> Self {
        self.props.push(prop);
        self
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    pub fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = Vec::new();
        text(&self.topic, &mut body);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        if version == Version::V5 {
            props(&self.props, &mut body);
        }
        body.extend(&self.payload);
        packet(0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain), &body)
    }

    pub fn user_props(&self) -> Vec<(&str, &str)> {
        self.props
            .iter()
            .filter_map(|p| if let Prop::User(k, v) = p { Some((k.as_str(), v.as_str())) } else { None })
            .collect()
    }

    pub fn subscription_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self
            .props
            .iter()
            .filter_map(|p| if let Prop::Var(SUBSCRIPTION_ID, v) = p { Some(*v) } else { None })
            .collect();
        ids.sort_unstable();
        ids
    }
}

/// A filter with its subscription options byte (MQTT 5.0 §3.8.3.1).
pub fn subscribe(version: Version, id: u16, list: &[Prop], filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        props(list, &mut body);
    }
    for (filter, options) in filters {
        text(filter, &mut body);
        body.push(*options);
    }
    packet(0x82, &body)
}

pub fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    for filter in filters {
        text(filter, &mut body);
    }
    packet(0xa2, &body)
}

pub const PUBACK: u8 = 4;
pub const PUBREC: u8 = 5;
pub const PUBREL: u8 = 6;
pub const PUBCOMP: u8 = 7;

/// PUBACK, PUBREC, PUBREL or PUBCOMP in its short form, which both versions share.
pub fn ack(kind: u8, id: u16) -> Vec<u8> {
    packet(kind << 4 | if kind == PUBREL { 2 } else { 0 }, &id.to_be_bytes())
}

pub fn disconnect(version: Version, code: u8, list: &[Prop]) -> Vec<u8> {
    if version == Version::V311 || code == 0 && list.is_empty() {
        return packet(0xe0, &[]);
    }
    let mut body = vec![code];
    props(list, &mut body);
    packet(0xe0, &body)
}

/// What a broker sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    Connack { session_present: bool, code: u8, props: Vec<Prop> },
    Publish(Publish),
    Ack { kind: u8, id: u16, code: u8 },
    Suback { id: u16, codes: Vec<u8> },
    Unsuback { id: u16, codes: Vec<u8> },
    Pingresp,
    Disconnect { code: u8 },
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        ensure!(self.0.len() >= n, "packet ends {} bytes early", n - self.0.len());
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn two(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn four(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into()?))
    }

    fn var(&mut self) -> Result<u32> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        bail!("variable byte integer is longer than 4 bytes")
    }

    fn data(&mut self) -> Result<Vec<u8>> {
        let len = self.two()?;
        Ok(self.take(usize::from(len))?.to_vec())
    }

    fn text(&mut self) -> Result<String> {
        String::from_utf8(self.data()?).context("string is not UTF-8")
    }

    fn props(&mut self) -> Result<Vec<Prop>> {
        let len = self.var()? as usize;
        let mut inner = Reader(self.take(len)?);
        let mut list = Vec::new();
        while !inner.0.is_empty() {
            let id = u8::try_from(inner.var()?)?;
            list.push(match id {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => Prop::Byte(id, inner.byte()?),
                0x13 | 0x21 | 0x22 | 0x23 => Prop::Two(id, inner.two()?),
                0x02 | 0x11 | 0x18 | 0x27 => Prop::Four(id, inner.four()?),
                0x0b => Prop::Var(id, inner.var()?),
                0x03 | 0x08 | 0x12 | 0x15 | 0x1a | 0x1c | 0x1f => Prop::Text(id, inner.text()?),
                0x09 | 0x16 => Prop::Data(id, inner.data()?),
                0x26 => Prop::User(inner.text()?, inner.text()?),
                _ => bail!("unknown property {id:#04x}"),
            });
        }
        Ok(list)
    }
}

/// Takes one whole packet from the front of `buffer`, or nothing if it has not all come yet.
pub fn parse(version: Version, buffer: &mut Vec<u8>) -> Result<Option<Packet>> {
    let Some(&first) = buffer.first() else { return Ok(None) };
    let (mut len, mut at) = (0usize, 1);
    loop {
        let Some(&byte) = buffer.get(at) else { return Ok(None) };
        len |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
        ensure!(at <= 4, "remaining length is longer than 4 bytes");
    }
    if buffer.len() < at + len {
        return Ok(None);
    }
    let parsed = parse_body(version, first, &buffer[at..at + len]);
    buffer.drain(..at + len);
    parsed.map(Some).with_context(|| format!("packet with first byte {first:#04x} and {len} bytes"))
}

fn parse_body(version: Version, first: u8, body: &[u8]) -> Result<Packet> {
    let v5 = version == Version::V5;
    let mut r = Reader(body);
    let (kind, flags) = (first >> 4, first & 15);
    ensure!(kind == 3 || flags == if kind == PUBREL { 2 } else { 0 }, "reserved flags are {flags}");
    let packet = match kind {
        2 => {
            let flag = r.byte()?;
            ensure!(flag <= 1, "reserved bits of CONNACK are set");
            let code = r.byte()?;
            let props = if v5 { r.props()? } else { Vec::new() };
            Packet::Connack { session_present: flag == 1, code, props }
        }
        3 => {
            let qos = flags >> 1 & 3;
            ensure!(qos < 3, "QoS 3");
            let topic = r.text()?;
            let id = if qos > 0 { r.two()? } else { 0 };
            ensure!(qos == 0 || id != 0, "packet identifier 0");
            let props = if v5 { r.props()? } else { Vec::new() };
            let payload = std::mem::take(&mut r.0).to_vec();
            Packet::Publish(Publish { topic, payload, qos, retain: flags & 1 == 1, dup: flags & 8 == 8, id, props })
        }
        PUBACK..=PUBCOMP => {
            let id = r.two()?;
            let code = if v5 && !r.0.is_empty() { r.byte()? } else { 0 };
            if v5 && !r.0.is_empty() {
                r.props()?;
            }
            Packet::Ack { kind, id, code }
        }
        9 | 11 => {
            let id = r.two()?;
            if v5 {
                r.props()?;
            }
            let codes = std::mem::take(&mut r.0).to_vec();
            if kind == 9 { Packet::Suback { id, codes } } else { Packet::Unsuback { id, codes } }
        }
        13 => Packet::Pingresp,
        14 => {
            ensure!(v5, "a 3.1.1 server never sends DISCONNECT");
            let code = if r.0.is_empty() { 0 } else { r.byte()? };
            if !r.0.is_empty() {
                r.props()?;
            }
            Packet::Disconnect { code }
        }
        other => bail!("packet type {other} does not come from a server"),
    };
    ensure!(r.0.is_empty(), "{} bytes after the last field", r.0.len());
    Ok(packet)
}
