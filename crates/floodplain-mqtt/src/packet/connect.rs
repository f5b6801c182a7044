//! CONNECT and CONNACK (§3.1, §3.2).

use std::num::{NonZeroU16, NonZeroU32};

use super::MessageProperties;
use crate::{
    ConnackCode, DecodeError, EncodeError, QoS, ReasonCode, UserProperties, Version,
    property::{self, Explanation, Property, Words, read_properties},
    wire::{Reader, check_topic, put_binary, put_string, put_with_length},
};

/// The first packet of a client.
///
/// What the decoder leaves to the server, because it answers with a CONNACK: an empty client identifier
/// with `clean_start` false in MQTT 3.1.1 (return code 2 [3:3.1.3-8]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Of this connection, from now on.
    pub version: Version,
    /// The client speaks level 3 (`MQIsdp`), which is served by the rules of 3.1.1. Only with [`Version::V311`].
    pub level3: bool,
    /// Clean Start of 5.0, Clean Session of 3.1.1.
    pub clean_start: bool,
    /// Seconds; 0 turns it off (§3.1.2.10).
    pub keep_alive_secs: u16,
    /// May be empty: 5.0 assigns one [MQTT-3.1.3-6].
    pub client_id: &'a str,
    /// What to publish when the connection ends without a DISCONNECT that forbids it.
    pub will: Option<Will<'a>>,
    /// User name.
    pub username: Option<&'a str>,
    /// Password; in 3.1.1 only with a user name [3:3.1.2-22].
    pub password: Option<&'a [u8]>,
    /// Empty in 3.1.1.
    pub properties: ConnectProperties<'a>,
}

/// The will of a CONNECT (§3.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Will<'a> {
    /// A valid topic name.
    pub topic: &'a str,
    /// Not checked against the payload format indicator.
    pub payload: &'a [u8],
    /// QoS of the will message.
    pub qos: QoS,
    /// Whether the will message is published as retained.
    pub retain: bool,
    /// Will Delay Interval, seconds; 0 when absent (§3.1.3.2.2).
    pub delay_secs: u32,
    /// What the will message carries on.
    pub properties: MessageProperties<'a>,
}

/// Properties of a CONNECT (§3.1.2.11); `None` = absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectProperties<'a> {
    /// Seconds; absent = 0, `u32::MAX` = never expires.
    pub session_expiry_interval_secs: Option<u32>,
    /// Absent = 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Bytes; absent = no limit.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Absent = 0.
    pub topic_alias_maximum: Option<u16>,
    /// Absent = false.
    pub request_response_information: Option<bool>,
    /// Absent = true.
    pub request_problem_information: Option<bool>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Name of an extended authentication.
    pub authentication_method: Option<&'a str>,
    /// Only with a method.
    pub authentication_data: Option<&'a [u8]>,
}

const WILL_FLAGS: DecodeError =
    DecodeError::Malformed("will QoS or will retain without will flag [MQTT-3.1.2-11, -13; 3:3.1.2-13, -15]");
pub(crate) const DATA_WITHOUT_METHOD: DecodeError =
    DecodeError::Protocol("authentication data without authentication method (§3.1.2.11.10)");

/// Reads protocol name and level.
fn protocol(reader: &mut Reader<'_>) -> Result<(Version, bool), DecodeError> {
    let name = reader.string()?;
    let level = reader.u8()?;
    match (name, level) {
        ("MQTT", 5) => Ok((Version::V5, false)),
        ("MQTT", 4) => Ok((Version::V311, false)),
        ("MQIsdp", 3) => Ok((Version::V311, true)),
        ("MQTT" | "MQIsdp", _) => Err(DecodeError::UnsupportedLevel(level)),
        _ => Err(DecodeError::Malformed("protocol name is not MQTT [MQTT-3.1.2-1; 3:3.1.2-1]")),
    }
}

/// Whether and how a server may answer a CONNECT that [`crate::Decoder`] refused with `error`: the version
/// to encode a [`Connack`] in, and its code. `None`: close without a word, as 3.1.1 demands for a malformed
/// CONNECT [3:3.1.4-1]. `body` is the body of the refused packet.
#[must_use]
pub fn connect_refusal(body: &[u8], error: &DecodeError) -> Option<(Version, ConnackCode)> {
    match protocol(&mut Reader(body)) {
        Ok((Version::V5, _)) => Some((Version::V5, error.connack_code())),
        // A level above 5 speaks a successor of 5.0. Bridges that set bit 7 of level 3 or 4 retry without it.
        Err(DecodeError::UnsupportedLevel(level)) => {
            let version = if (6..0x80).contains(&level) { Version::V5 } else { Version::V311 };
            Some((version, ConnackCode::UnsupportedProtocolVersion))
        }
        _ => None,
    }
}

impl<'a> Connect<'a> {
    /// A clean start with keep alive 60 and nothing else.
    #[must_use]
    pub fn new(version: Version, client_id: &'a str) -> Self {
        Self {
            version,
            level3: false,
            clean_start: true,
            keep_alive_secs: 60,
            client_id,
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        }
    }

    pub(crate) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(body);
        let (version, level3) = protocol(&mut reader)?;
        let flags = reader.u8()?;
        if flags & 1 != 0 {
            return Err(DecodeError::Malformed("reserved connect flag is set [MQTT-3.1.2-3; 3:3.1.2-3]"));
        }
        let keep_alive_secs = reader.u16()?;
        let properties = match version {
            Version::V5 => ConnectProperties::decode(&mut reader)?,
            Version::V311 => ConnectProperties::default(),
        };
        let client_id = reader.string()?;
        let (will_qos, will_retain) = (flags >> 3 & 3, flags & 0x20 != 0);
        let will = if flags & 4 != 0 {
            let qos =
                QoS::from_bits(will_qos).ok_or(DecodeError::Malformed("will QoS is 3 [MQTT-3.1.2-12; 3:3.1.2-14]"))?;
            Some(Will::decode(&mut reader, version, qos, will_retain)?)
        } else if will_qos != 0 || will_retain {
            return Err(WILL_FLAGS);
        } else {
            None
        };
        let (has_username, has_password) = (flags & 0x80 != 0, flags & 0x40 != 0);
        if has_password && !has_username && version == Version::V311 {
            return Err(DecodeError::Malformed("password without user name [3:3.1.2-22]"));
        }
        let username = if has_username { Some(reader.string()?) } else { None };
        let password = if has_password { Some(reader.binary()?) } else { None };
        reader.finish()?;
        let clean_start = flags & 2 != 0;
        Ok(Self { version, level3, clean_start, keep_alive_secs, client_id, will, username, password, properties })
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.version == Version::V311 && self.password.is_some() && self.username.is_none() {
            return Err(EncodeError::NotInThisVersion("a password without user name"));
        }
        put_string(out, if self.level3 { "MQIsdp" } else { "MQTT" })?;
        let will = self.will.map_or(0, |will| 4 | (will.qos as u8) << 3 | u8::from(will.retain) << 5);
        out.push(match self.version {
            Version::V5 => 5,
            Version::V311 if self.level3 => 3,
            Version::V311 => 4,
        });
        out.push(
            u8::from(self.clean_start) << 1
                | will
                | u8::from(self.password.is_some()) << 6
                | u8::from(self.username.is_some()) << 7,
        );
        out.extend_from_slice(&self.keep_alive_secs.to_be_bytes());
        if self.version == Version::V5 {
            put_with_length(out, |out| self.properties.put(out))?;
        }
        put_string(out, self.client_id)?;
        if let Some(will) = &self.will {
            if self.version == Version::V5 {
                put_with_length(out, |out| {
                    if will.delay_secs != 0 {
                        Property::WillDelayInterval(will.delay_secs).put(out)?;
                    }
                    if let Some(expiry) = will.properties.message_expiry_secs() {
                        Property::MessageExpiryInterval(expiry).put(out)?;
                    }
                    out.extend_from_slice(&will.properties.forwarded());
                    Ok(())
                })?;
            }
            put_string(out, will.topic)?;
            put_binary(out, will.payload)?;
        }
        if let Some(username) = self.username {
            put_string(out, username)?;
        }
        if let Some(password) = self.password {
            put_binary(out, password)?;
        }
        Ok(())
    }
}

impl<'a> Will<'a> {
    fn decode(reader: &mut Reader<'a>, version: Version, qos: QoS, retain: bool) -> Result<Self, DecodeError> {
        let mut delay_secs = 0;
        let properties = match version {
            Version::V5 => MessageProperties::decode_will(reader, &mut delay_secs)?,
            Version::V311 => MessageProperties::default(),
        };
        let topic = reader.string()?;
        check_topic(topic)?;
        Ok(Self { topic, payload: reader.binary()?, qos, retain, delay_secs, properties })
    }
}

impl<'a> ConnectProperties<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut found = Self::default();
        let mut users = false;
        let block = read_properties(reader, property::CONNECT, |property| match property {
            Property::SessionExpiryInterval(secs) => found.session_expiry_interval_secs = Some(secs),
            Property::ReceiveMaximum(count) => found.receive_maximum = NonZeroU16::new(count),
            Property::MaximumPacketSize(bytes) => found.maximum_packet_size = NonZeroU32::new(bytes),
            Property::TopicAliasMaximum(count) => found.topic_alias_maximum = Some(count),
            Property::RequestResponseInformation(wanted) => found.request_response_information = Some(wanted),
            Property::RequestProblemInformation(wanted) => found.request_problem_information = Some(wanted),
            Property::AuthenticationMethod(method) => found.authentication_method = Some(method),
            Property::AuthenticationData(data) => found.authentication_data = Some(data),
            _ => users = true,
        })?;
        if found.authentication_data.is_some() && found.authentication_method.is_none() {
            return Err(DATA_WITHOUT_METHOD);
        }
        if users {
            found.user_properties = UserProperties::wire(block);
        }
        Ok(found)
    }

    fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let fields = [
            self.session_expiry_interval_secs.map(Property::SessionExpiryInterval),
            self.receive_maximum.map(|count| Property::ReceiveMaximum(count.get())),
            self.maximum_packet_size.map(|bytes| Property::MaximumPacketSize(bytes.get())),
            self.topic_alias_maximum.map(Property::TopicAliasMaximum),
            self.request_response_information.map(Property::RequestResponseInformation),
            self.request_problem_information.map(Property::RequestProblemInformation),
            self.authentication_method.map(Property::AuthenticationMethod),
            self.authentication_data.map(Property::AuthenticationData),
        ];
        fields.into_iter().flatten().try_for_each(|property| property.put(out))?;
        self.user_properties.put(out)
    }
}

/// The answer to a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connack<'a> {
    /// False with any refusal [MQTT-3.2.2-6].
    pub session_present: bool,
    /// In 3.1.1 written as [`ConnackCode::return_code`].
    pub code: ConnackCode,
    /// Empty in 3.1.1.
    pub properties: ConnackProperties<'a>,
}

/// Properties of a CONNACK (§3.2.2.3); `None` = absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnackProperties<'a> {
    /// Seconds; absent = as the client asked.
    pub session_expiry_interval_secs: Option<u32>,
    /// Absent = 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// `Some(AtMostOnce)` or `Some(AtLeastOnce)`; absent = QoS 2. QoS 2 is written as absent.
    pub maximum_qos: Option<QoS>,
    /// Absent = true.
    pub retain_available: Option<bool>,
    /// Bytes; absent = no limit.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Set exactly when the client sent an empty identifier [MQTT-3.2.2-16].
    pub assigned_client_identifier: Option<&'a str>,
    /// Absent = 0.
    pub topic_alias_maximum: Option<u16>,
    /// Words for a person.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Absent = true.
    pub wildcard_subscription_available: Option<bool>,
    /// Absent = true.
    pub subscription_identifiers_available: Option<bool>,
    /// Absent = true.
    pub shared_subscription_available: Option<bool>,
    /// Seconds; the client must use it instead of its own [MQTT-3.2.2-21].
    pub server_keep_alive_secs: Option<u16>,
    /// Basis of response topics.
    pub response_information: Option<&'a str>,
    /// Where to go instead.
    pub server_reference: Option<&'a str>,
    /// Name of an extended authentication.
    pub authentication_method: Option<&'a str>,
    /// Only with a method.
    pub authentication_data: Option<&'a [u8]>,
}

impl<'a> Connack<'a> {
    /// An answer without properties.
    #[must_use]
    pub fn new(code: ConnackCode, session_present: bool) -> Self {
        Self { session_present, code, properties: ConnackProperties::default() }
    }

    pub(crate) fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(body);
        let session_present = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::Malformed("reserved connect acknowledge flag is set [MQTT-3.2.2-1]")),
        };
        let code = reader.u8()?;
        let code = match version {
            Version::V5 => ConnackCode::from_value(code),
            Version::V311 => ConnackCode::from_return_code(code),
        };
        let code =
            code.ok_or(DecodeError::Protocol("CONNACK does not allow this code [MQTT-3.2.2-8; 3: table 3.1]"))?;
        if session_present && code.is_failure() {
            return Err(DecodeError::Protocol("session present with a refusal [MQTT-3.2.2-6; 3:3.2.2-4]"));
        }
        let properties = match version {
            Version::V5 => ConnackProperties::decode(&mut reader)?,
            Version::V311 => ConnackProperties::default(),
        };
        reader.finish()?;
        Ok(Self { session_present, code, properties })
    }

    pub(crate) fn put(&self, version: Version, words: Words, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.push(u8::from(self.session_present && !self.code.is_failure()));
        match version {
            Version::V311 => {
                let code = self.code.return_code();
                out.push(code.ok_or(EncodeError::NotInThisVersion("this CONNACK reason: close instead"))?);
                Ok(())
            }
            Version::V5 => {
                out.push(self.code.value());
                put_with_length(out, |out| self.properties.put(words, out))
            }
        }
    }
}

impl<'a> ConnackProperties<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut found = Self::default();
        let mut users = false;
        let block = read_properties(reader, property::CONNACK, |property| match property {
            Property::SessionExpiryInterval(secs) => found.session_expiry_interval_secs = Some(secs),
            Property::ReceiveMaximum(count) => found.receive_maximum = NonZeroU16::new(count),
            Property::MaximumQos(one) => found.maximum_qos = QoS::from_bits(u8::from(one)),
            Property::RetainAvailable(yes) => found.retain_available = Some(yes),
            Property::MaximumPacketSize(bytes) => found.maximum_packet_size = NonZeroU32::new(bytes),
            Property::AssignedClientIdentifier(id) => found.assigned_client_identifier = Some(id),
            Property::TopicAliasMaximum(count) => found.topic_alias_maximum = Some(count),
            Property::ReasonString(reason) => found.reason_string = Some(reason),
            Property::WildcardSubscriptionAvailable(yes) => found.wildcard_subscription_available = Some(yes),
            Property::SubscriptionIdentifierAvailable(yes) => found.subscription_identifiers_available = Some(yes),
            Property::SharedSubscriptionAvailable(yes) => found.shared_subscription_available = Some(yes),
            Property::ServerKeepAlive(secs) => found.server_keep_alive_secs = Some(secs),
            Property::ResponseInformation(text) => found.response_information = Some(text),
            Property::ServerReference(server) => found.server_reference = Some(server),
            Property::AuthenticationMethod(method) => found.authentication_method = Some(method),
            Property::AuthenticationData(data) => found.authentication_data = Some(data),
            _ => users = true,
        })?;
        if found.authentication_data.is_some() && found.authentication_method.is_none() {
            return Err(DATA_WITHOUT_METHOD);
        }
        if users {
            found.user_properties = UserProperties::wire(block);
        }
        Ok(found)
    }

    fn put(&self, words: Words, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let maximum_qos = self.maximum_qos.filter(|&qos| qos != QoS::ExactlyOnce);
        let fields = [
            self.session_expiry_interval_secs.map(Property::SessionExpiryInterval),
            self.receive_maximum.map(|count| Property::ReceiveMaximum(count.get())),
            maximum_qos.map(|qos| Property::MaximumQos(qos == QoS::AtLeastOnce)),
            self.retain_available.map(Property::RetainAvailable),
            self.maximum_packet_size.map(|bytes| Property::MaximumPacketSize(bytes.get())),
            self.assigned_client_identifier.map(Property::AssignedClientIdentifier),
            self.topic_alias_maximum.map(Property::TopicAliasMaximum),
            self.wildcard_subscription_available.map(Property::WildcardSubscriptionAvailable),
            self.subscription_identifiers_available.map(Property::SubscriptionIdentifierAvailable),
            self.shared_subscription_available.map(Property::SharedSubscriptionAvailable),
            self.server_keep_alive_secs.map(Property::ServerKeepAlive),
            self.response_information.map(Property::ResponseInformation),
            self.server_reference.map(Property::ServerReference),
            self.authentication_method.map(Property::AuthenticationMethod),
            self.authentication_data.map(Property::AuthenticationData),
        ];
        fields.into_iter().flatten().try_for_each(|property| property.put(out))?;
        Explanation { reason_string: self.reason_string, user_properties: self.user_properties }.put(words, out)
    }
}
