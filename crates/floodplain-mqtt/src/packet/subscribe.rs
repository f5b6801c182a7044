//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK (§3.8 to §3.11).

use std::num::NonZeroU32;

use crate::{
    DecodeError, EncodeError, PacketId, QoS, ReasonCode, SubackCode, UnsubackCode, UserProperties, Version,
    property::{self, Explanation, Property, Words, read_explanation, read_properties},
    wire::{Reader, VARINT_MAX, put_string, put_with_length},
};

/// What a subscriber asks of one filter (§3.8.3.1). MQTT 3.1.1 has the QoS only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubscriptionOptions {
    /// Upper bound of the QoS of deliveries.
    pub qos: QoS,
    /// Not what the same client publishes [MQTT-3.8.3-3].
    pub no_local: bool,
    /// Keep the RETAIN flag of live deliveries.
    pub retain_as_published: bool,
    /// When to send retained messages.
    pub retain_handling: RetainHandling,
}

impl SubscriptionOptions {
    /// `qos` and the behaviour of 3.1.1.
    #[must_use]
    pub const fn new(qos: QoS) -> Self {
        Self { qos, no_local: false, retain_as_published: false, retain_handling: RetainHandling::Send }
    }

    fn decode(version: Version, byte: u8) -> Result<Self, DecodeError> {
        let reserved = if version == Version::V5 { 0xC0 } else { 0xFC };
        if byte & reserved != 0 {
            return Err(DecodeError::Malformed("reserved subscription bits are set [MQTT-3.8.3-5; 3:3.8.3-4]"));
        }
        Ok(Self {
            qos: QoS::from_bits(byte & 3).ok_or(DecodeError::Protocol("requested QoS is 3 (§3.8.3.1; 3:3.8.3-4)"))?,
            no_local: byte & 4 != 0,
            retain_as_published: byte & 8 != 0,
            retain_handling: match byte >> 4 & 3 {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                2 => RetainHandling::DoNotSend,
                _ => return Err(DecodeError::Protocol("retain handling is 3 (§3.8.3.1)")),
            },
        })
    }

    /// The byte on the wire in MQTT 5.0; also the compact form for a store.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        self.qos as u8
            | (self.no_local as u8) << 2
            | (self.retain_as_published as u8) << 3
            | (self.retain_handling as u8) << 4
    }

    /// The inverse of [`SubscriptionOptions::to_byte`]; `None` for a byte that MQTT 5.0 forbids.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::decode(Version::V5, byte).ok()
    }
}

/// When a subscription gets the retained messages (§3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every SUBSCRIBE.
    Send = 0,
    /// Only if the subscription did not exist.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

/// One filter of a SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscription<'a> {
    /// A valid topic filter; in 5.0 maybe `$share/name/filter` with a valid name, see [`share`].
    pub filter: &'a str,
    /// Options.
    pub options: SubscriptionOptions,
}

impl<'a> Subscription<'a> {
    /// `filter` with `qos` and the behaviour of 3.1.1.
    #[must_use]
    pub const fn new(filter: &'a str, qos: QoS) -> Self {
        Self { filter, options: SubscriptionOptions::new(qos) }
    }
}

/// Splits `$share/name/filter` into name and filter; `None` for a filter that is not shared (§4.8.2).
///
/// # Errors
/// The share name is empty or holds `/`, `+`, `#` [MQTT-4.8.2-1], or no filter follows [MQTT-4.8.2-2].
pub fn share(filter: &str) -> Result<Option<(&str, &str)>, DecodeError> {
    let Some(rest) = filter.strip_prefix("$share/") else { return Ok(None) };
    let Some((name, filter)) = rest.split_once('/') else {
        return Err(DecodeError::TopicFilter("no filter follows the share name [MQTT-4.8.2-2]"));
    };
    if name.is_empty() || name.contains(['+', '#']) {
        return Err(DecodeError::TopicFilter("share name is empty or holds a wildcard [MQTT-4.8.2-1, -2]"));
    }
    check_filter(filter)?;
    Ok(Some((name, filter)))
}

fn check_filter(filter: &str) -> Result<(), DecodeError> {
    floodplain_types::validate_filter(filter).map_err(|error| match error {
        floodplain_types::TopicError::Empty => DecodeError::TopicFilter("it is empty [MQTT-4.7.3-1; 3:4.7.3-1]"),
        _ => DecodeError::TopicFilter("a wildcard does not fill its level, or '#' is not last [MQTT-4.7.1-1, -2]"),
    })
}

macro_rules! list {
    ($(#[$doc:meta])* $name:ident, $item:ty, $wire:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name<'a>(Source<'a, $item>);

        impl<'a> $name<'a> {
            /// In the order of the packet.
            pub fn iter(&self) -> impl Iterator<Item = $item> + use<'a> {
                let (wire, version, items): (&'a [u8], _, &'a [$item]) = match self.0 {
                    Source::Wire(bytes, version) => (bytes, version, &[]),
                    Source::Items(items) => (&[], Version::V5, items),
                };
                let mut wire = Reader(wire);
                std::iter::from_fn(move || if wire.is_empty() { None } else { $wire(version, &mut wire).ok() })
                    .chain(items.iter().copied())
            }

            /// How many.
            #[must_use]
            pub fn len(&self) -> usize {
                self.iter().count()
            }

            /// Whether there is none.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.iter().next().is_none()
            }

            /// Checks every item on the wire.
            fn decode(version: Version, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
                let list = Self(Source::Wire(reader.0, version));
                while !reader.is_empty() {
                    $wire(version, reader)?;
                }
                Ok(list)
            }
        }

        impl<'a> From<&'a [$item]> for $name<'a> {
            fn from(items: &'a [$item]) -> Self {
                Self(Source::Items(items))
            }
        }

        impl PartialEq for $name<'_> {
            fn eq(&self, other: &Self) -> bool {
                self.iter().eq(other.iter())
            }
        }

        impl Eq for $name<'_> {}

        impl std::fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_list().entries(self.iter()).finish()
            }
        }
    };
}

#[derive(Clone, Copy)]
enum Source<'a, T> {
    /// Validated bytes of a received packet.
    Wire(&'a [u8], Version),
    Items(&'a [T]),
}

list! {
    /// The filters of a SUBSCRIBE, lazily read. To send: `Subscriptions::from(&[Subscription::new(..)][..])`.
    Subscriptions, Subscription<'a>, read_subscription
}
list! {
    /// The filters of an UNSUBSCRIBE, lazily read. To send: `Filters::from(&["a/#"][..])`.
    Filters, &'a str, read_filter
}
list! {
    /// The codes of a SUBACK, one per filter in order [MQTT-3.9.3-1].
    SubackCodes, SubackCode, read_suback_code
}
list! {
    /// The codes of an UNSUBACK, one per filter in order [MQTT-3.11.3-1]; empty in 3.1.1.
    UnsubackCodes, UnsubackCode, read_unsuback_code
}

fn read_filter<'a>(version: Version, reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let filter = reader.string()?;
    check_filter(filter)?;
    if version == Version::V5 {
        share(filter)?;
    }
    Ok(filter)
}

fn read_subscription<'a>(version: Version, reader: &mut Reader<'a>) -> Result<Subscription<'a>, DecodeError> {
    let filter = read_filter(version, reader)?;
    let options = SubscriptionOptions::decode(version, reader.u8()?)?;
    if options.no_local && filter.starts_with("$share/") {
        return Err(DecodeError::Protocol("no local on a shared subscription [MQTT-3.8.3-4]"));
    }
    Ok(Subscription { filter, options })
}

fn read_suback_code(version: Version, reader: &mut Reader<'_>) -> Result<SubackCode, DecodeError> {
    let value = reader.u8()?;
    SubackCode::from_value(value)
        .filter(|_| version == Version::V5 || value <= 2 || value == 0x80)
        .ok_or(DecodeError::Protocol("SUBACK does not allow this code [MQTT-3.9.3-2; 3:3.9.3-2]"))
}

fn read_unsuback_code(_: Version, reader: &mut Reader<'_>) -> Result<UnsubackCode, DecodeError> {
    UnsubackCode::from_value(reader.u8()?)
        .ok_or(DecodeError::Protocol("UNSUBACK does not allow this code [MQTT-3.11.3-2]"))
}

/// Asks for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Comes back in the SUBACK.
    pub packet_id: PacketId,
    /// Comes with every delivery that a filter of this packet matches; at most 268,435,455.
    pub subscription_id: Option<NonZeroU32>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// At least one.
    pub subscriptions: Subscriptions<'a>,
}

impl<'a> Subscribe<'a> {
    /// Without properties.
    #[must_use]
    pub fn new(packet_id: PacketId, subscriptions: &'a [Subscription<'a>]) -> Self {
        let user_properties = UserProperties::default();
        Self { packet_id, subscription_id: None, user_properties, subscriptions: subscriptions.into() }
    }

    pub(crate) fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(body);
        let packet_id = PacketId::read(&mut reader)?;
        let mut subscription_id = None;
        let mut user_properties = UserProperties::default();
        if version == Version::V5 {
            let mut users = false;
            let block = read_properties(&mut reader, property::SUBSCRIBE, |property| match property {
                Property::SubscriptionIdentifier(id) => subscription_id = NonZeroU32::new(id),
                _ => users = true,
            })?;
            if users {
                user_properties = UserProperties::wire(block);
            }
        }
        if reader.is_empty() {
            return Err(DecodeError::Protocol("SUBSCRIBE has no filter [MQTT-3.8.3-2; 3:3.8.3-3]"));
        }
        let subscriptions = Subscriptions::decode(version, &mut reader)?;
        Ok(Self { packet_id, subscription_id, user_properties, subscriptions })
    }

    pub(crate) fn put(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.packet_id.put(out);
        if version == Version::V5 {
            put_with_length(out, |out| {
                if let Some(id) = self.subscription_id {
                    if id.get() > VARINT_MAX {
                        return Err(EncodeError::FieldTooLong { len: id.get() as usize });
                    }
                    Property::SubscriptionIdentifier(id.get()).put(out)?;
                }
                self.user_properties.put(out)
            })?;
        }
        if self.subscriptions.is_empty() {
            return Err(EncodeError::NoFilter);
        }
        for Subscription { filter, options } in self.subscriptions.iter() {
            put_string(out, filter)?;
            let byte = options.to_byte();
            if version == Version::V311 && byte > 2 {
                return Err(EncodeError::NotInThisVersion("subscription options other than the QoS"));
            }
            out.push(byte);
        }
        Ok(())
    }
}

/// Ends subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Comes back in the UNSUBACK.
    pub packet_id: PacketId,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// At least one.
    pub filters: Filters<'a>,
}

impl<'a> Unsubscribe<'a> {
    /// Without properties.
    #[must_use]
    pub fn new(packet_id: PacketId, filters: &'a [&'a str]) -> Self {
        Self { packet_id, user_properties: UserProperties::default(), filters: filters.into() }
    }

    pub(crate) fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(body);
        let packet_id = PacketId::read(&mut reader)?;
        let user_properties = match version {
            Version::V5 => UserProperties::wire(read_properties(&mut reader, property::UNSUBSCRIBE, |_| {})?),
            Version::V311 => UserProperties::default(),
        };
        if reader.is_empty() {
            return Err(DecodeError::Protocol("UNSUBSCRIBE has no filter [MQTT-3.10.3-2; 3:3.10.3-2]"));
        }
        Ok(Self { packet_id, user_properties, filters: Filters::decode(version, &mut reader)? })
    }

    pub(crate) fn put(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.packet_id.put(out);
        if version == Version::V5 {
            put_with_length(out, |out| self.user_properties.put(out))?;
        }
        if self.filters.is_empty() {
            return Err(EncodeError::NoFilter);
        }
        self.filters.iter().try_for_each(|filter| put_string(out, filter))
    }
}

/// Answers a SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suback<'a> {
    /// Of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// In 3.1.1 every refusal is written as 0x80.
    pub codes: SubackCodes<'a>,
    /// Words for a person.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Suback<'a> {
    /// Without words.
    #[must_use]
    pub fn new(packet_id: PacketId, codes: &'a [SubackCode]) -> Self {
        Self { packet_id, codes: codes.into(), reason_string: None, user_properties: UserProperties::default() }
    }

    pub(crate) fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(body);
        let mut suback = Self::new(PacketId::read(&mut reader)?, &[]);
        if version == Version::V5 {
            let words = read_explanation(&mut reader, property::SUBACK)?;
            (suback.reason_string, suback.user_properties) = (words.reason_string, words.user_properties);
        }
        if reader.is_empty() {
            return Err(DecodeError::Protocol("SUBACK has no code [MQTT-3.8.4-6; 3:3.8.4-5]"));
        }
        suback.codes = SubackCodes::decode(version, &mut reader)?;
        Ok(suback)
    }

    pub(crate) fn put(&self, version: Version, words: Words, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.packet_id.put(out);
        if version == Version::V5 {
            let explanation = Explanation { reason_string: self.reason_string, user_properties: self.user_properties };
            explanation.put_block(words, out)?;
        }
        if self.codes.is_empty() {
            return Err(EncodeError::NoFilter);
        }
        out.extend(self.codes.iter().map(|code| match version {
            Version::V311 if code.is_failure() => SubackCode::UnspecifiedError.value(),
            _ => code.value(),
        }));
        Ok(())
    }
}

/// Answers an UNSUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsuback<'a> {
    /// Of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// Not written in 3.1.1, and empty when received there.
    pub codes: UnsubackCodes<'a>,
    /// Words for a person.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Unsuback<'a> {
    /// Without words.
    #[must_use]
    pub fn new(packet_id: PacketId, codes: &'a [UnsubackCode]) -> Self {
        Self { packet_id, codes: codes.into(), reason_string: None, user_properties: UserProperties::default() }
    }

    pub(crate) fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(body);
        let mut unsuback = Self::new(PacketId::read(&mut reader)?, &[]);
        if version == Version::V5 {
            let words = read_explanation(&mut reader, property::UNSUBACK)?;
            (unsuback.reason_string, unsuback.user_properties) = (words.reason_string, words.user_properties);
            if reader.is_empty() {
                return Err(DecodeError::Protocol("UNSUBACK has no code [MQTT-3.11.3-1]"));
            }
            unsuback.codes = UnsubackCodes::decode(version, &mut reader)?;
        }
        reader.finish()?;
        Ok(unsuback)
    }

    pub(crate) fn put(&self, version: Version, words: Words, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.packet_id.put(out);
        if version == Version::V311 {
            return Ok(());
        }
        let explanation = Explanation { reason_string: self.reason_string, user_properties: self.user_properties };
        explanation.put_block(words, out)?;
        if self.codes.is_empty() {
            return Err(EncodeError::NoFilter);
        }
        out.extend(self.codes.iter().map(ReasonCode::value));
        Ok(())
    }
}
