//! PUBLISH as a server delivers it: one message, many receivers.
//!
//! What differs between receivers of the same version, QoS and retain flag is small: packet identifier,
//! DUP, topic alias, subscription identifiers, seconds left to live. [`EncodedPublish`] holds the rest
//! once; for a receiver without alias and subscription identifiers a delivery is one copy and two patches.

use std::{borrow::Cow, num::NonZeroU16};

use bytes::Bytes;

use crate::{
    EncodeError, MessageProperties, PacketId, PacketType, QoS, Version,
    encoder::check_len,
    property::Property,
    wire::{VARINT_MAX, put_string, put_varint, varint_len},
};

/// What one delivery adds to a message. The default is a first delivery with QoS 0.
#[derive(Debug, Clone, Copy, Default)]
pub struct Delivery<'a> {
    /// `Some` exactly with QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// The same packet was sent before, on an earlier connection [MQTT-3.3.1-1].
    pub dup: bool,
    /// 5.0 only, not written in 3.1.1.
    pub topic_alias: TopicAlias,
    /// Of all subscriptions that matched, each 1 to 268,435,455 [MQTT-3.3.4-3]; not written in 3.1.1.
    pub subscription_ids: &'a [u32],
    /// Seconds left, for a message that has an expiry [MQTT-3.3.2-6]; `None` writes what the publisher wrote.
    pub message_expiry_secs: Option<u32>,
}

/// How a delivery names its topic. The number is at most what the client announced [MQTT-3.1.2-26].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TopicAlias {
    /// By its name only.
    #[default]
    None,
    /// By its name, which the number stands for from now on.
    Set(NonZeroU16),
    /// By the number only.
    Use(NonZeroU16),
}

/// A message on its way to receivers of one version, QoS and retain flag, borrowing what it says.
///
/// For one receiver write it from here; for several make an [`EncodedPublish`] once.
#[derive(Debug, Clone)]
pub struct OutboundPublish<'a> {
    version: Version,
    first_byte: u8,
    topic: &'a str,
    expiry_secs: Option<u32>,
    /// Properties that no delivery touches.
    fixed: Cow<'a, [u8]>,
    payload: &'a [u8],
}

impl<'a> OutboundPublish<'a> {
    /// `topic` is a valid topic name, never empty: the caller has put the name for a received alias.
    /// Of `properties` those of the hop they came from are left out, and in 3.1.1 all.
    #[must_use]
    pub fn new(
        version: Version,
        qos: QoS,
        retain: bool,
        topic: &'a str,
        properties: &MessageProperties<'a>,
        payload: &'a [u8],
    ) -> Self {
        let (expiry_secs, fixed) = match version {
            Version::V5 => (properties.message_expiry_secs(), properties.forwarded()),
            Version::V311 => (None, Cow::Borrowed(&[][..])),
        };
        let first_byte = (PacketType::Publish as u8) << 4 | (qos as u8) << 1 | u8::from(retain);
        Self { version, first_byte, topic, expiry_secs, fixed, payload }
    }

    /// Appends the packet for one receiver to `out`.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`] if it has more than `max_packet_size` bytes: the delivery is dropped as if
    /// it had been sent [MQTT-3.1.2-25]; [`EncodeError::PacketId`]. `out` is as it was before.
    pub fn write_to(
        &self,
        delivery: &Delivery<'_>,
        max_packet_size: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.head().put(delivery, max_packet_size, out)?;
        out.extend_from_slice(&self.fixed);
        out.extend_from_slice(self.payload);
        Ok(())
    }

    fn head(&self) -> Head<'_> {
        Head {
            version: self.version,
            first_byte: self.first_byte,
            topic: self.topic,
            expiry_secs: self.expiry_secs,
            fixed_len: self.fixed.len(),
            tail_len: self.fixed.len() + self.payload.len(),
        }
    }

    /// Encodes what all receivers share: one allocation of the packet's size.
    ///
    /// # Errors
    /// [`EncodeError`] if the message cannot be a packet at all.
    pub fn encode(&self) -> Result<EncodedPublish, EncodeError> {
        let has_id = self.first_byte & 6 != 0;
        let mut bytes = Vec::with_capacity(24 + self.topic.len() + self.fixed.len() + self.payload.len());
        let delivery = Delivery { packet_id: has_id.then_some(PacketId::MIN), ..Delivery::default() };
        self.write_to(&delivery, u32::MAX, &mut bytes)?;
        let tail_at = bytes.len() - self.fixed.len() - self.payload.len();
        let expiry_at = self.expiry_secs.map(|_| tail_at - 4);
        let topic_at = 3 + bytes[1..].iter().take_while(|&&byte| byte & 0x80 != 0).count() + 1;
        let id_at = has_id.then_some(topic_at + self.topic.len());
        Ok(EncodedPublish {
            bytes: bytes.into(),
            version: self.version,
            topic_at,
            topic_len: self.topic.len(),
            id_at,
            expiry_at,
            expiry_secs: self.expiry_secs,
            tail_at,
            fixed_len: self.fixed.len(),
        })
    }
}

/// A message encoded once for all receivers of one version, QoS and retain flag. Clones share the bytes.
#[derive(Debug, Clone)]
pub struct EncodedPublish {
    /// The packet of a delivery without alias and subscription identifiers.
    bytes: Bytes,
    version: Version,
    topic_at: usize,
    topic_len: usize,
    id_at: Option<usize>,
    expiry_at: Option<usize>,
    expiry_secs: Option<u32>,
    /// From here on every delivery is the same: fixed properties and payload.
    tail_at: usize,
    fixed_len: usize,
}

impl EncodedPublish {
    /// The version it is encoded in.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// QoS of the deliveries.
    #[must_use]
    pub fn qos(&self) -> QoS {
        QoS::from_bits(self.bytes[0] >> 1 & 3).unwrap_or(QoS::ExactlyOnce)
    }

    /// Bytes of a delivery without alias and subscription identifiers: what a queue accounts for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a packet has a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn is_plain(&self, delivery: &Delivery<'_>) -> bool {
        self.version == Version::V311
            || (delivery.topic_alias == TopicAlias::None && delivery.subscription_ids.is_empty())
    }

    /// Appends the packet for one receiver to `out`.
    ///
    /// # Errors
    /// As [`OutboundPublish::write_to`].
    pub fn write_to(
        &self,
        delivery: &Delivery<'_>,
        max_packet_size: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        if !self.is_plain(delivery) {
            self.write_head_to(delivery, max_packet_size, out)?;
            out.extend_from_slice(&self.bytes[self.tail_at..]);
            return Ok(());
        }
        if delivery.packet_id.is_some() != self.id_at.is_some() {
            return Err(EncodeError::PacketId);
        }
        if self.bytes.len() > max_packet_size as usize {
            return Err(EncodeError::TooLarge { len: self.bytes.len(), max: max_packet_size });
        }
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        self.patch(delivery, &mut out[start..]);
        Ok(())
    }

    /// Writes what this delivery says into a copy of the plain packet, or of its head.
    fn patch(&self, delivery: &Delivery<'_>, packet: &mut [u8]) {
        if let (Some(at), Some(id)) = (self.id_at, delivery.packet_id) {
            packet[at..at + 2].copy_from_slice(&id.get().to_be_bytes());
            packet[0] |= u8::from(delivery.dup) << 3;
        }
        if let (Some(at), Some(secs)) = (self.expiry_at, delivery.message_expiry_secs) {
            packet[at..at + 4].copy_from_slice(&secs.to_be_bytes());
        }
    }

    /// Appends everything before [`EncodedPublish::tail`] to `out`: for output gathered by `writev`, where a
    /// large payload is not copied.
    ///
    /// # Errors
    /// As [`OutboundPublish::write_to`]; `max_packet_size` counts the tail.
    pub fn write_head_to(
        &self,
        delivery: &Delivery<'_>,
        max_packet_size: u32,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let topic = &self.bytes[self.topic_at..self.topic_at + self.topic_len];
        let head = Head {
            version: self.version,
            first_byte: self.bytes[0],
            topic: std::str::from_utf8(topic).expect("copied from a string"),
            expiry_secs: self.expiry_secs,
            fixed_len: self.fixed_len,
            tail_len: self.bytes.len() - self.tail_at,
        };
        head.put(delivery, max_packet_size, out)
    }

    /// The bytes that end every delivery; shares them.
    #[must_use]
    pub fn tail(&self) -> Bytes {
        self.bytes.slice(self.tail_at..)
    }
}

/// All that comes before the fixed properties and the payload.
struct Head<'a> {
    version: Version,
    first_byte: u8,
    topic: &'a str,
    expiry_secs: Option<u32>,
    fixed_len: usize,
    /// Fixed properties and payload.
    tail_len: usize,
}

impl Head<'_> {
    fn put(&self, delivery: &Delivery<'_>, max_packet_size: u32, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let has_id = self.first_byte & 6 != 0;
        if delivery.packet_id.is_some() != has_id {
            return Err(EncodeError::PacketId);
        }
        let v5 = self.version == Version::V5;
        let alias = if v5 { delivery.topic_alias } else { TopicAlias::None };
        let (topic, alias) = match alias {
            TopicAlias::None => (self.topic, None),
            TopicAlias::Set(alias) => (self.topic, Some(alias)),
            TopicAlias::Use(alias) => ("", Some(alias)),
        };
        let ids = if v5 { delivery.subscription_ids } else { &[] };
        debug_assert!(
            ids.iter().all(|id| (1..=VARINT_MAX).contains(id)),
            "subscription identifiers come from a decoder"
        );
        let block_len = alias.map_or(0, |_| 3)
            + self.expiry_secs.map_or(0, |_| 5)
            + ids.iter().map(|&id| 1 + varint_len(id)).sum::<usize>()
            + self.fixed_len;
        let block = if v5 { varint_len(u32::try_from(block_len).unwrap_or(u32::MAX)) + block_len } else { 0 };
        let payload_len = self.tail_len - self.fixed_len;
        let remaining = 2 + topic.len() + if has_id { 2 } else { 0 } + block + payload_len;
        let remaining = check_len(remaining, max_packet_size)?;

        let start = out.len();
        out.push(self.first_byte | u8::from(has_id && delivery.dup) << 3);
        put_varint(out, remaining);
        if let Err(error) = put_string(out, topic) {
            out.truncate(start);
            return Err(error);
        }
        if let Some(id) = delivery.packet_id {
            id.put(out);
        }
        if v5 {
            put_varint(out, block_len as u32);
            let properties = [
                alias.map(|alias| Property::TopicAlias(alias.get())),
                self.expiry_secs
                    .map(|secs| Property::MessageExpiryInterval(delivery.message_expiry_secs.unwrap_or(secs))),
            ];
            // Numbers: these cannot fail.
            properties.into_iter().flatten().try_for_each(|property| property.put(out))?;
            ids.iter().try_for_each(|&id| Property::SubscriptionIdentifier(id).put(out))?;
        }
        Ok(())
    }
}
