//! PUBLISH as it is received (§3.3), and the properties that travel with a message.

use std::{
    borrow::Cow,
    num::{NonZeroU16, NonZeroU32},
};

use crate::{
    DecodeError, EncodeError, PacketId, QoS, Role, UserProperties, Version,
    property::{self, Property, Walk, property_block, validate_block},
    wire::{Reader, check_topic, put_string, put_varint, varint_len},
};

/// One PUBLISH; topic, properties and payload borrow from the read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// The sender tried before. Says nothing about whether the receiver saw it.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// `Some` exactly with QoS 1 and 2.
    pub packet_id: Option<PacketId>,
    /// A valid topic name; empty only where [`MessageProperties::topic_alias`] stands for it.
    pub topic: &'a str,
    /// Empty in 3.1.1.
    pub properties: MessageProperties<'a>,
    /// Not checked against the payload format indicator.
    pub payload: &'a [u8],
}

impl<'a> Publish<'a> {
    /// A QoS 0 message without properties.
    #[must_use]
    pub fn new(topic: &'a str, payload: &'a [u8]) -> Self {
        Self {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            packet_id: None,
            topic,
            properties: MessageProperties::default(),
            payload,
        }
    }

    /// `flags` were checked with the fixed header.
    pub(crate) fn decode(receiver: Role, version: Version, flags: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        let qos = QoS::from_bits(flags >> 1 & 3).ok_or(QOS_3)?;
        let mut reader = Reader(body);
        let topic = reader.string()?;
        let packet_id = if qos == QoS::AtMostOnce { None } else { Some(PacketId::read(&mut reader)?) };
        let properties = match version {
            Version::V5 => MessageProperties::decode(receiver, &mut reader)?,
            Version::V311 => MessageProperties::default(),
        };
        if !topic.is_empty() || version == Version::V311 {
            check_topic(topic)?;
        } else if properties.topic_alias.is_none() {
            return Err(DecodeError::Protocol("topic name is empty and there is no topic alias (§3.3.2.1)"));
        }
        let payload = reader.rest();
        Ok(Self { dup: flags & 8 != 0, qos, retain: flags & 1 != 0, packet_id, topic, properties, payload })
    }

    pub(crate) fn flags(&self) -> u8 {
        u8::from(self.dup) << 3 | (self.qos as u8) << 1 | u8::from(self.retain)
    }

    pub(crate) fn put(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_string(out, self.topic)?;
        if self.packet_id.is_some() != (self.qos != QoS::AtMostOnce) {
            return Err(EncodeError::PacketId);
        }
        if let Some(id) = self.packet_id {
            id.put(out);
        }
        if version == Version::V5 {
            // The caller has checked the length of the whole packet.
            put_varint(out, self.properties.block.len() as u32);
            out.extend_from_slice(self.properties.block);
        }
        out.extend_from_slice(self.payload);
        Ok(())
    }
}

pub(crate) const QOS_3: DecodeError = DecodeError::Malformed("QoS is 3 [MQTT-3.3.1-4; 3:3.3.1-4]");

/// Position of a property's value in the block. Never 0: the identifier is before it.
type At = Option<NonZeroU32>;

/// The properties of a PUBLISH or a will: the validated bytes, and where those are that somebody must touch.
///
/// Everything but topic alias, message expiry, subscription identifiers and will delay passes through
/// unaltered and in order [MQTT-3.3.2-4, -15 to -18, -20]. Build one to send with [`MessagePropertiesBuf`].
#[derive(Clone, Copy, Default)]
pub struct MessageProperties<'a> {
    block: &'a [u8],
    topic_alias: Option<NonZeroU16>,
    payload_format: Option<bool>,
    /// A property is in the block that belongs to one hop and is not passed on.
    hop: bool,
    expiry: At,
    content_type: At,
    response_topic: At,
    correlation_data: At,
    subscription_id: At,
    user: At,
}

impl<'a> MessageProperties<'a> {
    fn decode(receiver: Role, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        // Most messages have none.
        if reader.0.first() == Some(&0) {
            reader.u8()?;
            return Ok(Self::default());
        }
        let properties = Self::read(property_block(reader)?, property::PUBLISH, &mut 0)?;
        if receiver == Role::Server && properties.subscription_id.is_some() {
            return Err(DecodeError::Protocol("a client sent a subscription identifier [MQTT-3.3.4-6]"));
        }
        Ok(properties)
    }

    pub(super) fn decode_will(reader: &mut Reader<'a>, delay_secs: &mut u32) -> Result<Self, DecodeError> {
        Self::read(property_block(reader)?, property::WILL, delay_secs)
    }

    fn read(block: &'a [u8], place: property::Places, delay_secs: &mut u32) -> Result<Self, DecodeError> {
        let mut found = Self { block, ..Self::default() };
        validate_block(block, place, |property, at| {
            let at = u32::try_from(at).ok().and_then(NonZeroU32::new);
            match property {
                Property::TopicAlias(alias) => {
                    found.topic_alias = NonZeroU16::new(alias);
                    found.hop = true;
                }
                Property::MessageExpiryInterval(_) => {
                    found.expiry = at;
                    found.hop = true;
                }
                Property::SubscriptionIdentifier(_) => {
                    found.subscription_id = found.subscription_id.or(at);
                    found.hop = true;
                }
                Property::WillDelayInterval(secs) => {
                    *delay_secs = secs;
                    found.hop = true;
                }
                Property::PayloadFormatIndicator(utf8) => found.payload_format = Some(utf8),
                Property::ContentType(_) => found.content_type = at,
                Property::ResponseTopic(_) => found.response_topic = at,
                Property::CorrelationData(_) => found.correlation_data = at,
                _ => found.user = found.user.or(at),
            }
        })?;
        Ok(found)
    }

    fn value<T>(&self, at: At, read: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>) -> Option<T> {
        let at = at?.get() as usize;
        read(&mut Reader(self.block.get(at..)?)).ok()
    }

    /// Number that stands for the topic name on this connection. The caller checks it against the maximum
    /// it announced: [`DecodeError::TopicAlias`].
    #[must_use]
    pub const fn topic_alias(&self) -> Option<NonZeroU16> {
        self.topic_alias
    }

    /// `Some(true)`: the payload claims to be UTF-8; `Some(false)`: unspecified bytes, said explicitly.
    #[must_use]
    pub const fn payload_is_utf8(&self) -> Option<bool> {
        self.payload_format
    }

    /// Message Expiry Interval, seconds as the sender wrote it.
    #[must_use]
    pub fn message_expiry_secs(&self) -> Option<u32> {
        self.value(self.expiry, Reader::u32)
    }

    /// Content type, any text.
    #[must_use]
    pub fn content_type(&self) -> Option<&'a str> {
        self.value(self.content_type, Reader::string)
    }

    /// A valid topic name.
    #[must_use]
    pub fn response_topic(&self) -> Option<&'a str> {
        self.value(self.response_topic, Reader::string)
    }

    /// Correlation data.
    #[must_use]
    pub fn correlation_data(&self) -> Option<&'a [u8]> {
        self.value(self.correlation_data, Reader::binary)
    }

    /// Which subscriptions of the receiving client matched; a server never receives any.
    pub fn subscription_ids(&self) -> impl Iterator<Item = u32> + use<'a> {
        let block = if self.subscription_id.is_some() { self.block } else { &[] };
        Walk(Reader(block)).filter_map(|(property, _)| match property {
            Property::SubscriptionIdentifier(id) => Some(id),
            _ => None,
        })
    }

    /// User properties in order.
    #[must_use]
    pub fn user_properties(&self) -> UserProperties<'a> {
        // From the identifier of the first one on.
        let block = self.user.and_then(|at| self.block.get(at.get() as usize - 1..));
        UserProperties::wire(block.unwrap_or_default())
    }

    /// Bytes with the property length.
    pub(crate) const fn wire_len(&self) -> usize {
        varint_len(self.block.len() as u32) + self.block.len()
    }

    /// Whether there is no property at all.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.block.is_empty()
    }

    /// The bytes that pass through to subscribers unaltered: without topic alias, message expiry,
    /// subscription identifiers and will delay. Copies only where one of these is present.
    #[must_use]
    pub fn forwarded(&self) -> Cow<'a, [u8]> {
        if !self.hop {
            return Cow::Borrowed(self.block);
        }
        let mut kept = Vec::with_capacity(self.block.len());
        for (property, bytes) in Walk(Reader(self.block)) {
            match property {
                Property::TopicAlias(_)
                | Property::MessageExpiryInterval(_)
                | Property::SubscriptionIdentifier(_)
                | Property::WillDelayInterval(_) => {}
                _ => kept.extend_from_slice(bytes),
            }
        }
        Cow::Owned(kept)
    }
}

impl PartialEq for MessageProperties<'_> {
    /// Same properties; user properties and subscription identifiers in the same order.
    fn eq(&self, other: &Self) -> bool {
        self.topic_alias == other.topic_alias
            && self.payload_format == other.payload_format
            && self.message_expiry_secs() == other.message_expiry_secs()
            && self.content_type() == other.content_type()
            && self.response_topic() == other.response_topic()
            && self.correlation_data() == other.correlation_data()
            && self.subscription_ids().eq(other.subscription_ids())
            && self.user_properties() == other.user_properties()
    }
}

impl Eq for MessageProperties<'_> {}

impl std::fmt::Debug for MessageProperties<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(Walk(Reader(self.block)).map(|(property, _)| property)).finish()
    }
}

/// Builds [`MessageProperties`] to send: from a stored record, or in a client.
///
/// Each method may be called once, except [`MessagePropertiesBuf::user`]. Reuse one with
/// [`MessagePropertiesBuf::clear`] to spare the allocation.
#[derive(Debug, Clone, Default)]
pub struct MessagePropertiesBuf(Vec<u8>);

impl MessagePropertiesBuf {
    /// Without any property; does not allocate.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Forgets all, keeps the memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    fn add(&mut self, property: Property<'_>) -> Result<&mut Self, EncodeError> {
        let before = self.0.len();
        if let Err(error) = property.put(&mut self.0) {
            self.0.truncate(before);
            return Err(error);
        }
        Ok(self)
    }

    /// Adds a Payload Format Indicator.
    ///
    /// # Errors
    /// None; the type is that of its siblings.
    pub fn payload_is_utf8(&mut self, utf8: bool) -> Result<&mut Self, EncodeError> {
        self.add(Property::PayloadFormatIndicator(utf8))
    }

    /// Adds a Message Expiry Interval in seconds.
    ///
    /// # Errors
    /// None; the type is that of its siblings.
    pub fn message_expiry_secs(&mut self, secs: u32) -> Result<&mut Self, EncodeError> {
        self.add(Property::MessageExpiryInterval(secs))
    }

    /// Adds a Content Type.
    ///
    /// # Errors
    /// [`EncodeError::FieldTooLong`], [`EncodeError::Nul`].
    pub fn content_type(&mut self, text: &str) -> Result<&mut Self, EncodeError> {
        self.add(Property::ContentType(text))
    }

    /// Adds a Response Topic, which must be a valid topic name.
    ///
    /// # Errors
    /// [`EncodeError::FieldTooLong`], [`EncodeError::Nul`].
    pub fn response_topic(&mut self, topic: &str) -> Result<&mut Self, EncodeError> {
        self.add(Property::ResponseTopic(topic))
    }

    /// Adds Correlation Data.
    ///
    /// # Errors
    /// [`EncodeError::FieldTooLong`].
    pub fn correlation_data(&mut self, data: &[u8]) -> Result<&mut Self, EncodeError> {
        self.add(Property::CorrelationData(data))
    }

    /// Adds a Topic Alias.
    ///
    /// # Errors
    /// None; the type is that of its siblings.
    pub fn topic_alias(&mut self, alias: NonZeroU16) -> Result<&mut Self, EncodeError> {
        self.add(Property::TopicAlias(alias.get()))
    }

    /// Adds one more user property behind the others.
    ///
    /// # Errors
    /// [`EncodeError::FieldTooLong`], [`EncodeError::Nul`].
    pub fn user(&mut self, name: &str, value: &str) -> Result<&mut Self, EncodeError> {
        self.add(Property::User((name, value)))
    }

    /// The properties as a packet carries them.
    ///
    /// # Errors
    /// [`DecodeError`] if a property was added twice or the response topic is no topic name.
    pub fn properties(&self) -> Result<MessageProperties<'_>, DecodeError> {
        MessageProperties::read(&self.0, property::PUBLISH, &mut 0)
    }
}
