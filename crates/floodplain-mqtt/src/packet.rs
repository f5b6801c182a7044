//! The fifteen packets. Decoded ones borrow from the read buffer; the same structs are written by [`Encoder`](crate::Encoder).

mod ack;
mod connect;
mod disconnect;
mod publish;
mod subscribe;

pub use ack::Ack;
pub use connect::{Connack, ConnackProperties, Connect, ConnectProperties, Will, connect_refusal};
pub use disconnect::{Auth, Disconnect};
pub(crate) use publish::QOS_3;
pub use publish::{MessageProperties, MessagePropertiesBuf, Publish};
pub use subscribe::{
    Filters, RetainHandling, Suback, SubackCodes, Subscribe, Subscription, SubscriptionOptions, Subscriptions,
    Unsuback, UnsubackCodes, Unsubscribe, share,
};

use std::num::NonZeroU16;

use crate::{DecodeError, PubackCode, PubrelCode, wire::Reader};

/// Of one connection, from its CONNECT on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// MQTT 3.1.1, also for clients of level 3.
    V311,
    /// MQTT 5.0.
    V5,
}

/// Which side of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Receives CONNECT.
    Server,
    /// Sends CONNECT.
    Client,
}

/// Quality of service (§4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0.
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl QoS {
    /// `None` above 2.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// Never 0 [MQTT-2.2.1-3; 3:2.3.1-1].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(NonZeroU16);

impl PacketId {
    /// The first one.
    pub const MIN: Self = Self(NonZeroU16::MIN);

    /// `None` for 0.
    #[must_use]
    pub const fn new(id: u16) -> Option<Self> {
        match NonZeroU16::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::new(reader.u16()?).ok_or(DecodeError::Protocol("packet identifier is 0 [MQTT-2.2.1-3; 3:2.3.1-1]"))
    }

    pub(crate) fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.get().to_be_bytes());
    }
}

impl std::fmt::Display for PacketId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Any packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Client to server.
    Connect(Connect<'a>),
    /// Server to client.
    Connack(Connack<'a>),
    /// Both ways.
    Publish(Publish<'a>),
    /// Both ways.
    Puback(Ack<'a, PubackCode>),
    /// Both ways.
    Pubrec(Ack<'a, PubackCode>),
    /// Both ways.
    Pubrel(Ack<'a, PubrelCode>),
    /// Both ways.
    Pubcomp(Ack<'a, PubrelCode>),
    /// Client to server.
    Subscribe(Subscribe<'a>),
    /// Server to client.
    Suback(Suback<'a>),
    /// Client to server.
    Unsubscribe(Unsubscribe<'a>),
    /// Server to client.
    Unsuback(Unsuback<'a>),
    /// Client to server.
    Pingreq,
    /// Server to client.
    Pingresp,
    /// Client to server; in 5.0 both ways.
    Disconnect(Disconnect<'a>),
    /// Both ways, 5.0 only.
    Auth(Auth<'a>),
}

/// The type in the upper four bits of a packet's first byte (§2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PacketType {
    Connect = 1,
    Connack = 2,
    Publish = 3,
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
    Subscribe = 8,
    Suback = 9,
    Unsubscribe = 10,
    Unsuback = 11,
    Pingreq = 12,
    Pingresp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// Of a packet that starts with `first_byte`; `None` for the reserved type 0.
    #[must_use]
    pub const fn of(first_byte: u8) -> Option<Self> {
        Some(match first_byte >> 4 {
            1 => Self::Connect,
            2 => Self::Connack,
            3 => Self::Publish,
            4 => Self::Puback,
            5 => Self::Pubrec,
            6 => Self::Pubrel,
            7 => Self::Pubcomp,
            8 => Self::Subscribe,
            9 => Self::Suback,
            10 => Self::Unsubscribe,
            11 => Self::Unsuback,
            12 => Self::Pingreq,
            13 => Self::Pingresp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }
}
