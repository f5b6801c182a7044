//! PUBACK, PUBREC, PUBREL and PUBCOMP share one format (§3.4 to §3.7).

use crate::{
    DecodeError, EncodeError, PacketId, ReasonCode, UserProperties, Version,
    property::{self, Explanation, Words, read_explanation},
    wire::Reader,
};

/// An answer about one packet identifier: `C` is [`crate::PubackCode`] or [`crate::PubrelCode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a, C> {
    /// Of the PUBLISH.
    pub packet_id: PacketId,
    /// 3.1.1 has no codes: there only success can be written, and 0x10 is written as success.
    pub code: C,
    /// Words for a person.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a, C: ReasonCode> Ack<'a, C> {
    /// Success.
    #[must_use]
    pub fn new(packet_id: PacketId) -> Self {
        Self::with_code(packet_id, C::SUCCESS)
    }

    /// A code without words.
    #[must_use]
    pub fn with_code(packet_id: PacketId, code: C) -> Self {
        Self { packet_id, code, reason_string: None, user_properties: UserProperties::default() }
    }

    pub(crate) fn decode(version: Version, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(body);
        let mut ack = Self::new(PacketId::read(&mut reader)?);
        if version == Version::V5 {
            // A length of 2 says success, one of 3 has a code and no property length (§3.4.2.1, §3.4.2.2.1).
            if !reader.is_empty() {
                ack.code = C::from_value(reader.u8()?)
                    .ok_or(DecodeError::Protocol("packet does not allow this reason code [MQTT-3.4.2-1, 3.5.2-1]"))?;
            }
            if !reader.is_empty() {
                let words = read_explanation(&mut reader, property::ACK)?;
                (ack.reason_string, ack.user_properties) = (words.reason_string, words.user_properties);
            }
        }
        reader.finish()?;
        Ok(ack)
    }

    pub(crate) fn put(&self, version: Version, words: Words, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.packet_id.put(out);
        if version == Version::V311 {
            return if self.code.is_failure() {
                Err(EncodeError::NotInThisVersion("a refusal in an acknowledgement: acknowledge or close [3:3.3.5-2]"))
            } else {
                Ok(())
            };
        }
        let explanation = Explanation { reason_string: self.reason_string, user_properties: self.user_properties };
        let silent = explanation.is_empty(words);
        if !silent || self.code != C::SUCCESS {
            out.push(self.code.value());
        }
        if silent { Ok(()) } else { explanation.put_block(words, out) }
    }
}
