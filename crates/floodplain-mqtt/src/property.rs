//! Properties (MQTT 5.0 §2.2.2): one table says identifier, type, and the packets that may carry it.

use crate::{
    DecodeError, EncodeError,
    wire::{Reader, check_topic, put_binary, put_string, put_varint, put_with_length},
};

/// Sets of packets, as bits.
pub(crate) type Places = u16;
pub(crate) const CONNECT: Places = 1;
pub(crate) const CONNACK: Places = 1 << 1;
pub(crate) const PUBLISH: Places = 1 << 2;
pub(crate) const WILL: Places = 1 << 3;
/// PUBACK, PUBREC, PUBREL and PUBCOMP allow the same.
pub(crate) const ACK: Places = 1 << 4;
pub(crate) const SUBSCRIBE: Places = 1 << 5;
pub(crate) const SUBACK: Places = 1 << 6;
pub(crate) const UNSUBSCRIBE: Places = 1 << 7;
pub(crate) const UNSUBACK: Places = 1 << 8;
pub(crate) const DISCONNECT: Places = 1 << 9;
pub(crate) const AUTH: Places = 1 << 10;
const ANY: Places = (1 << 11) - 1;
const REASON: Places = CONNACK | ACK | SUBACK | UNSUBACK | DISCONNECT | AUTH;

macro_rules! kind {
    (bool) => { bool };
    (u16) => { u16 };
    (u32) => { u32 };
    (varint) => { u32 };
    (string) => { &'a str };
    (binary) => { &'a [u8] };
    (pair) => { (&'a str, &'a str) };
}

macro_rules! put {
    (bool, $out:expr, $v:expr) => {
        $out.push(u8::from($v))
    };
    (u16, $out:expr, $v:expr) => {
        $out.extend_from_slice(&$v.to_be_bytes())
    };
    (u32, $out:expr, $v:expr) => {
        $out.extend_from_slice(&$v.to_be_bytes())
    };
    (varint, $out:expr, $v:expr) => {
        put_varint($out, $v)
    };
    (string, $out:expr, $v:expr) => {
        put_string($out, $v)?
    };
    (binary, $out:expr, $v:expr) => {
        put_binary($out, $v)?
    };
    (pair, $out:expr, $v:expr) => {{
        put_string($out, $v.0)?;
        put_string($out, $v.1)?;
    }};
}

macro_rules! properties {
    ($($id:literal $name:ident $kind:ident in $places:expr;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Property<'a> {
            $($name(kind!($kind)),)*
        }

        impl<'a> Property<'a> {
            /// Reads one property that may stand in `place`.
            fn read(reader: &mut Reader<'a>, place: Places) -> Result<(u8, Self), DecodeError> {
                // The identifier is a variable byte integer, but none is above 127 (§2.2.2.2).
                match reader.u8()? {
                    $($id if ($places) & place != 0 => Ok(($id, Self::$name(reader.$kind()?))),)*
                    $($id)|* => Err(DecodeError::Malformed("property does not belong in this packet (§2.2.2.2)")),
                    _ => Err(DecodeError::Malformed("property identifier is unknown (§2.2.2.2)")),
                }
            }

            pub(crate) fn put(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
                match self {
                    $(Self::$name(value) => {
                        out.push($id);
                        put!($kind, out, value);
                    })*
                }
                Ok(())
            }
        }
    };
}

// Table 2-4 of MQTT 5.0.
properties! {
    0x01 PayloadFormatIndicator bool in PUBLISH | WILL;
    0x02 MessageExpiryInterval u32 in PUBLISH | WILL;
    0x03 ContentType string in PUBLISH | WILL;
    0x08 ResponseTopic string in PUBLISH | WILL;
    0x09 CorrelationData binary in PUBLISH | WILL;
    0x0B SubscriptionIdentifier varint in PUBLISH | SUBSCRIBE;
    0x11 SessionExpiryInterval u32 in CONNECT | CONNACK | DISCONNECT;
    0x12 AssignedClientIdentifier string in CONNACK;
    0x13 ServerKeepAlive u16 in CONNACK;
    0x15 AuthenticationMethod string in CONNECT | CONNACK | AUTH;
    0x16 AuthenticationData binary in CONNECT | CONNACK | AUTH;
    0x17 RequestProblemInformation bool in CONNECT;
    0x18 WillDelayInterval u32 in WILL;
    0x19 RequestResponseInformation bool in CONNECT;
    0x1A ResponseInformation string in CONNACK;
    0x1C ServerReference string in CONNACK | DISCONNECT;
    0x1F ReasonString string in REASON;
    0x21 ReceiveMaximum u16 in CONNECT | CONNACK;
    0x22 TopicAliasMaximum u16 in CONNECT | CONNACK;
    0x23 TopicAlias u16 in PUBLISH;
    0x24 MaximumQos bool in CONNACK;
    0x25 RetainAvailable bool in CONNACK;
    0x26 User pair in ANY;
    0x27 MaximumPacketSize u32 in CONNECT | CONNACK;
    0x28 WildcardSubscriptionAvailable bool in CONNACK;
    0x29 SubscriptionIdentifierAvailable bool in CONNACK;
    0x2A SharedSubscriptionAvailable bool in CONNACK;
}

impl Property<'_> {
    /// The rules on values that hold in every packet.
    fn check(self) -> Result<(), DecodeError> {
        match self {
            Self::ReceiveMaximum(0) => Err(DecodeError::Protocol("receive maximum is 0 (§3.1.2.11.3, §3.2.2.3.3)")),
            Self::MaximumPacketSize(0) => {
                Err(DecodeError::Protocol("maximum packet size is 0 (§3.1.2.11.4, §3.2.2.3.6)"))
            }
            Self::SubscriptionIdentifier(0) => {
                Err(DecodeError::Protocol("subscription identifier is 0 (§3.3.2.3.8, §3.8.2.1.2)"))
            }
            Self::TopicAlias(0) => Err(DecodeError::TopicAlias),
            // [MQTT-3.3.2-14]
            Self::ResponseTopic(topic) => check_topic(topic),
            _ => Ok(()),
        }
    }
}

/// Takes a property length and the bytes behind it, unchecked.
pub(crate) fn property_block<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let len = reader.varint()?;
    reader.bytes(len as usize)
}

/// Reads a property length and the properties behind it, and hands each to `each`. Returns the
/// validated bytes.
pub(crate) fn read_properties<'a>(
    reader: &mut Reader<'a>,
    place: Places,
    mut each: impl FnMut(Property<'a>),
) -> Result<&'a [u8], DecodeError> {
    let block = property_block(reader)?;
    validate_block(block, place, |property, _| each(property))?;
    Ok(block)
}

/// Checks that `block` holds whole properties that may stand in `place`, and hands each to `each` with the
/// position of its value.
pub(crate) fn validate_block<'a>(
    block: &'a [u8],
    place: Places,
    mut each: impl FnMut(Property<'a>, usize),
) -> Result<(), DecodeError> {
    let mut rest = Reader(block);
    let mut seen = 0_u64;
    while !rest.is_empty() {
        let value_at = block.len() - rest.len() + 1;
        let (id, property) = Property::read(&mut rest, place)?;
        property.check()?;
        // A PUBLISH of a server may name several subscriptions (§3.3.2.3.8).
        let repeats = matches!(property, Property::User(_))
            || (place == PUBLISH && matches!(property, Property::SubscriptionIdentifier(_)));
        if !repeats {
            if seen & (1 << id) != 0 {
                return Err(DecodeError::Protocol("property appears twice (§2.2.2.2, §3.1.2.11 to §3.15.2.2)"));
            }
            seen |= 1 << id;
        }
        each(property, value_at);
    }
    Ok(())
}

/// Walks properties that were validated before.
#[derive(Debug, Clone)]
pub(crate) struct Walk<'a>(pub(crate) Reader<'a>);

impl<'a> Iterator for Walk<'a> {
    /// A property and its bytes, identifier included.
    type Item = (Property<'a>, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let before = self.0.0;
        let (_, property) = Property::read(&mut self.0, ANY).ok()?;
        Some((property, &before[..before.len() - self.0.len()]))
    }
}

/// User properties in the order they were sent; names may repeat [MQTT-3.3.2-18].
///
/// From a received packet this is a lazy view into the read buffer. To send some:
/// `UserProperties::from(&[("name", "value")][..])`.
#[derive(Clone, Copy)]
pub struct UserProperties<'a>(Source<'a>);

#[derive(Clone, Copy)]
enum Source<'a> {
    /// A validated property block; other properties are skipped.
    Wire(&'a [u8]),
    Pairs(&'a [(&'a str, &'a str)]),
}

impl<'a> UserProperties<'a> {
    pub(crate) const fn wire(block: &'a [u8]) -> Self {
        Self(Source::Wire(block))
    }

    /// Names and values in order.
    #[must_use]
    pub fn iter(&self) -> UserPropertiesIter<'a> {
        match self.0 {
            Source::Wire(block) => UserPropertiesIter { wire: Walk(Reader(block)), pairs: [].iter() },
            Source::Pairs(pairs) => UserPropertiesIter { wire: Walk(Reader(&[])), pairs: pairs.iter() },
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    pub(crate) fn put(self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.iter().try_for_each(|pair| Property::User(pair).put(out))
    }
}

impl Default for UserProperties<'_> {
    fn default() -> Self {
        Self(Source::Pairs(&[]))
    }
}

impl<'a> From<&'a [(&'a str, &'a str)]> for UserProperties<'a> {
    fn from(pairs: &'a [(&'a str, &'a str)]) -> Self {
        Self(Source::Pairs(pairs))
    }
}

impl<'a> IntoIterator for UserProperties<'a> {
    type Item = (&'a str, &'a str);
    type IntoIter = UserPropertiesIter<'a>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for UserProperties<'_> {}

impl std::fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Iterator of [`UserProperties`].
#[derive(Debug, Clone)]
pub struct UserPropertiesIter<'a> {
    wire: Walk<'a>,
    pairs: std::slice::Iter<'a, (&'a str, &'a str)>,
}

impl<'a> Iterator for UserPropertiesIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        for (property, _) in self.wire.by_ref() {
            if let Property::User(pair) = property {
                return Some(pair);
            }
        }
        self.pairs.next().copied()
    }
}

/// How much of the words that explain an answer is written: what does not fit the receiver's maximum
/// packet size goes first, and problem information 0 forbids it [MQTT-3.4.2-2], [MQTT-3.4.2-3], [MQTT-3.1.2-29].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Words {
    None,
    Reason,
    All,
}

/// The two properties that every answer may carry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Explanation<'a> {
    pub(crate) reason_string: Option<&'a str>,
    pub(crate) user_properties: UserProperties<'a>,
}

impl Explanation<'_> {
    pub(crate) fn put(self, words: Words, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if let Some(reason) = self.reason_string.filter(|_| words >= Words::Reason) {
            Property::ReasonString(reason).put(out)?;
        }
        if words == Words::All {
            self.user_properties.put(out)?;
        }
        Ok(())
    }

    /// As the only properties of a packet, behind their length.
    pub(crate) fn put_block(self, words: Words, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_with_length(out, |out| self.put(words, out))
    }

    pub(crate) fn is_empty(self, words: Words) -> bool {
        (self.reason_string.is_none() || words < Words::Reason)
            && (words < Words::All || self.user_properties.is_empty())
    }
}

/// Reads the properties of a packet that allows only a reason string and user properties.
pub(crate) fn read_explanation<'a>(reader: &mut Reader<'a>, place: Places) -> Result<Explanation<'a>, DecodeError> {
    let mut reason_string = None;
    let mut users = false;
    let block = read_properties(reader, place, |property| match property {
        Property::ReasonString(reason) => reason_string = Some(reason),
        _ => users = true,
    })?;
    Ok(Explanation { reason_string, user_properties: UserProperties::wire(if users { block } else { &[] }) })
}
