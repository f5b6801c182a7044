//! DISCONNECT and AUTH (§3.14, §3.15).

use super::connect::DATA_WITHOUT_METHOD;
use crate::{
    AuthCode, DecodeError, DisconnectCode, EncodeError, ReasonCode, Role, UserProperties, Version,
    property::{self, Explanation, Property, Words, read_properties},
    wire::{Reader, put_with_length},
};

/// The last packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Always normal in 3.1.1, where only the client sends this packet.
    pub code: DisconnectCode,
    /// Seconds; from a client only [MQTT-3.14.2-2]. The server checks that it was not 0 before (§3.14.2.2.2).
    pub session_expiry_interval_secs: Option<u32>,
    /// Words for a person.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Where to go instead.
    pub server_reference: Option<&'a str>,
}

impl<'a> Disconnect<'a> {
    /// A code without words.
    #[must_use]
    pub fn new(code: DisconnectCode) -> Self {
        Self {
            code,
            session_expiry_interval_secs: None,
            reason_string: None,
            user_properties: UserProperties::default(),
            server_reference: None,
        }
    }

    pub(crate) fn decode(receiver: Role, version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(body);
        let mut found = Self::new(DisconnectCode::NormalDisconnection);
        if version == Version::V5 {
            // A length of 0 says normal disconnection, one of 1 has no property length (§3.14.2.1, §3.14.2.2.1).
            if !reader.is_empty() {
                found.code = DisconnectCode::from_value(reader.u8()?)
                    .ok_or(DecodeError::Protocol("DISCONNECT does not allow this reason code [MQTT-3.14.2-1]"))?;
            }
            if !reader.is_empty() {
                let mut users = false;
                let block = read_properties(&mut reader, property::DISCONNECT, |property| match property {
                    Property::SessionExpiryInterval(secs) => found.session_expiry_interval_secs = Some(secs),
                    Property::ReasonString(reason) => found.reason_string = Some(reason),
                    Property::ServerReference(server) => found.server_reference = Some(server),
                    _ => users = true,
                })?;
                if users {
                    found.user_properties = UserProperties::wire(block);
                }
                if receiver == Role::Client && found.session_expiry_interval_secs.is_some() {
                    return Err(DecodeError::Protocol("a server sent a session expiry interval [MQTT-3.14.2-2]"));
                }
            }
        }
        reader.finish()?;
        Ok(found)
    }

    pub(crate) fn put(&self, version: Version, words: Words, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if version == Version::V311 {
            return match self.code {
                DisconnectCode::NormalDisconnection => Ok(()),
                _ => Err(EncodeError::NotInThisVersion("a reason in a DISCONNECT: close instead")),
            };
        }
        let explanation = Explanation { reason_string: self.reason_string, user_properties: self.user_properties };
        let fields = [
            self.session_expiry_interval_secs.map(Property::SessionExpiryInterval),
            self.server_reference.map(Property::ServerReference),
        ];
        let silent = explanation.is_empty(words) && fields.iter().all(Option::is_none);
        if !silent || self.code != DisconnectCode::NormalDisconnection {
            out.push(self.code.value());
        }
        if silent {
            return Ok(());
        }
        put_with_length(out, |out| {
            fields.into_iter().flatten().try_for_each(|property| property.put(out))?;
            explanation.put(words, out)
        })
    }
}

/// One step of an extended authentication; MQTT 5.0 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auth<'a> {
    /// What the sender wants.
    pub code: AuthCode,
    /// `None` only in the short form of length 0, which says success (§3.15.2.1).
    pub method: Option<&'a str>,
    /// Only with a method.
    pub data: Option<&'a [u8]>,
    /// Words for a person.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Auth<'a> {
    /// Without words.
    #[must_use]
    pub fn new(code: AuthCode, method: &'a str, data: Option<&'a [u8]>) -> Self {
        Self { code, method: Some(method), data, reason_string: None, user_properties: UserProperties::default() }
    }

    pub(crate) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(body);
        let mut found = Self { method: None, ..Self::new(AuthCode::Success, "", None) };
        if reader.is_empty() {
            return Ok(found);
        }
        found.code = AuthCode::from_value(reader.u8()?)
            .ok_or(DecodeError::Protocol("AUTH does not allow this reason code [MQTT-3.15.2-1]"))?;
        let mut users = false;
        let block = read_properties(&mut reader, property::AUTH, |property| match property {
            Property::AuthenticationMethod(method) => found.method = Some(method),
            Property::AuthenticationData(data) => found.data = Some(data),
            Property::ReasonString(reason) => found.reason_string = Some(reason),
            _ => users = true,
        })?;
        if users {
            found.user_properties = UserProperties::wire(block);
        }
        if found.method.is_none() {
            return Err(match found.data {
                Some(_) => DATA_WITHOUT_METHOD,
                None => DecodeError::Protocol("AUTH names no authentication method (§3.15.2.2.2)"),
            });
        }
        reader.finish()?;
        Ok(found)
    }

    pub(crate) fn put(&self, version: Version, words: Words, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if version == Version::V311 {
            return Err(EncodeError::NotInThisVersion("AUTH"));
        }
        let explanation = Explanation { reason_string: self.reason_string, user_properties: self.user_properties };
        let fields = [self.method.map(Property::AuthenticationMethod), self.data.map(Property::AuthenticationData)];
        let silent = explanation.is_empty(words) && fields.iter().all(Option::is_none);
        if silent && self.code == AuthCode::Success {
            return Ok(());
        }
        out.push(self.code.value());
        put_with_length(out, |out| {
            fields.into_iter().flatten().try_for_each(|property| property.put(out))?;
            explanation.put(words, out)
        })
    }
}
