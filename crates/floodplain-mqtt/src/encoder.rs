//! From packets to bytes.

use crate::{
    EncodeError, Packet, PacketType, Publish, QoS, Version,
    property::Words,
    wire::{VARINT_MAX, put_varint, put_with_length, varint_len},
};

/// Writes packets for one receiver, behind what its output buffer already holds.
#[derive(Debug, Clone, Copy)]
pub struct Encoder {
    /// Of the connection. A CONNECT is written in its own version.
    pub version: Version,
    /// Bytes the receiver accepts, fixed header included: its Maximum Packet Size, `u32::MAX` if it named none.
    pub max_packet_size: u32,
    /// False if the client sent Request Problem Information 0: then words go only with CONNACK and
    /// DISCONNECT [MQTT-3.1.2-29].
    pub problem_information: bool,
}

impl Encoder {
    /// For a receiver without limits.
    #[must_use]
    pub const fn new(version: Version) -> Self {
        Self { version, max_packet_size: u32::MAX, problem_information: true }
    }

    /// Appends `packet` to `out`. Of an answer that is too large for the receiver first the user
    /// properties, then the reason string are left out [MQTT-3.2.2-19, -20], [MQTT-3.4.2-2, -3].
    ///
    /// # Errors
    /// [`EncodeError`]; `out` is as it was before.
    pub fn encode(&self, packet: &Packet<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        let mut words = match packet {
            Packet::Connack(_) | Packet::Disconnect(_) => Words::All,
            _ if self.problem_information => Words::All,
            _ => Words::None,
        };
        loop {
            let written = match packet {
                Packet::Publish(publish) => self.publish(publish, out),
                other => self.put(other, words, out),
            };
            let len = out.len() - start;
            let error = match written {
                Ok(()) if len <= self.max_packet_size as usize => return Ok(()),
                Ok(()) => EncodeError::TooLarge { len, max: self.max_packet_size },
                Err(error) => error,
            };
            out.truncate(start);
            words = match (error, words, packet) {
                (EncodeError::TooLarge { .. }, Words::All, p) if has_words(p) => Words::Reason,
                (EncodeError::TooLarge { .. }, Words::Reason, _) => Words::None,
                _ => return Err(error),
            };
        }
    }

    fn put(&self, packet: &Packet<'_>, words: Words, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        use PacketType as T;
        let (kind, flags) = match packet {
            Packet::Connect(_) => (T::Connect, 0),
            Packet::Connack(_) => (T::Connack, 0),
            Packet::Publish(publish) => (T::Publish, publish.flags()),
            Packet::Puback(_) => (T::Puback, 0),
            Packet::Pubrec(_) => (T::Pubrec, 0),
            Packet::Pubrel(_) => (T::Pubrel, 2),
            Packet::Pubcomp(_) => (T::Pubcomp, 0),
            Packet::Subscribe(_) => (T::Subscribe, 2),
            Packet::Suback(_) => (T::Suback, 0),
            Packet::Unsubscribe(_) => (T::Unsubscribe, 2),
            Packet::Unsuback(_) => (T::Unsuback, 0),
            Packet::Pingreq => (T::Pingreq, 0),
            Packet::Pingresp => (T::Pingresp, 0),
            Packet::Disconnect(_) => (T::Disconnect, 0),
            Packet::Auth(_) => (T::Auth, 0),
        };
        out.push((kind as u8) << 4 | flags);
        let version = self.version;
        put_with_length(out, |out| match packet {
            Packet::Connect(connect) => connect.put(out),
            Packet::Connack(connack) => connack.put(version, words, out),
            Packet::Publish(publish) => publish.put(version, out),
            Packet::Puback(ack) | Packet::Pubrec(ack) => ack.put(version, words, out),
            Packet::Pubrel(ack) | Packet::Pubcomp(ack) => ack.put(version, words, out),
            Packet::Subscribe(subscribe) => subscribe.put(version, out),
            Packet::Suback(suback) => suback.put(version, words, out),
            Packet::Unsubscribe(unsubscribe) => unsubscribe.put(version, out),
            Packet::Unsuback(unsuback) => unsuback.put(version, words, out),
            Packet::Pingreq | Packet::Pingresp => Ok(()),
            Packet::Disconnect(disconnect) => disconnect.put(version, words, out),
            Packet::Auth(auth) => auth.put(version, words, out),
        })
    }

    /// A PUBLISH may be large: its length is known before a byte is written.
    fn publish(&self, publish: &Publish<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let id = if publish.qos == QoS::AtMostOnce { 0 } else { 2 };
        let properties = match self.version {
            Version::V5 => publish.properties.wire_len(),
            Version::V311 => 0,
        };
        let remaining =
            check_len(2 + publish.topic.len() + id + properties + publish.payload.len(), self.max_packet_size)?;
        out.push((PacketType::Publish as u8) << 4 | publish.flags());
        put_varint(out, remaining);
        publish.put(self.version, out)
    }
}

/// Remaining Length as it is written, if format and receiver allow it.
pub(crate) fn check_len(remaining: usize, max_packet_size: u32) -> Result<u32, EncodeError> {
    let value = u32::try_from(remaining).ok().filter(|&value| value <= VARINT_MAX);
    let value = value.ok_or(EncodeError::TooLarge { len: remaining, max: VARINT_MAX })?;
    let len = 1 + varint_len(value) + remaining;
    if len > max_packet_size as usize {
        return Err(EncodeError::TooLarge { len, max: max_packet_size });
    }
    Ok(value)
}

const fn has_words(packet: &Packet<'_>) -> bool {
    !matches!(
        packet,
        Packet::Connect(_)
            | Packet::Publish(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::Pingreq
            | Packet::Pingresp
    )
}
