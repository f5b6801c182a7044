//! Why bytes were refused, and why a packet could not be written.

use crate::{ConnackCode, DisconnectCode};
use floodplain_types::TopicError;

/// Why received bytes are not a packet that may be acted on. The connection ends with it.
///
/// The text names the clause: `[MQTT-x]` of MQTT 5.0, `[3:x]` of MQTT 3.1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes do not follow the format of the packet.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// The bytes can be read, but say what the standard forbids, or come from the wrong side.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// The packet is larger than this side accepts. Found before its body is buffered.
    #[error("packet has {len} bytes, the limit is {max}")]
    TooLarge {
        /// Bytes of the whole packet, fixed header included.
        len: u32,
        /// The limit given to the decoder.
        max: u32,
    },
    /// A topic alias is 0, or (found by the caller) above the maximum that was announced.
    #[error("topic alias is invalid [MQTT-3.3.2-8]")]
    TopicAlias,
    /// A topic name breaks a rule of §4.7.
    #[error("topic name is invalid: {0}")]
    TopicName(TopicError),
    /// A topic filter breaks a rule of §4.7, or a share name one of §4.8.2.
    #[error("topic filter is invalid: {0}")]
    TopicFilter(&'static str),
    /// CONNECT asks for a protocol level other than 3 (`MQIsdp`), 4 and 5.
    #[error("protocol level {0:#04x} is not supported [MQTT-3.1.2-2; 3:3.1.2-2]")]
    UnsupportedLevel(u8),
}

impl DecodeError {
    /// The reason code for a DISCONNECT. Only an MQTT 5.0 connection that has had its CONNACK gets one.
    #[must_use]
    pub const fn disconnect_code(&self) -> DisconnectCode {
        match self {
            Self::Malformed(_) => DisconnectCode::MalformedPacket,
            Self::Protocol(_) | Self::UnsupportedLevel(_) => DisconnectCode::ProtocolError,
            Self::TooLarge { .. } => DisconnectCode::PacketTooLarge,
            Self::TopicAlias => DisconnectCode::TopicAliasInvalid,
            // Topic name and filter "invalid" are for what is well-formed and still not accepted (§4.13).
            Self::TopicName(TopicError::Empty) => DisconnectCode::ProtocolError,
            Self::TopicName(_) | Self::TopicFilter(_) => DisconnectCode::MalformedPacket,
        }
    }

    /// The reason code for a CONNACK that refuses; ask [`crate::connect_refusal`] whether one may be sent.
    #[must_use]
    pub const fn connack_code(&self) -> ConnackCode {
        match self {
            Self::Malformed(_) | Self::TopicName(_) | Self::TopicFilter(_) => ConnackCode::MalformedPacket,
            Self::Protocol(_) | Self::TopicAlias => ConnackCode::ProtocolError,
            Self::TooLarge { .. } => ConnackCode::PacketTooLarge,
            Self::UnsupportedLevel(_) => ConnackCode::UnsupportedProtocolVersion,
        }
    }
}

/// Why a packet was not written. The output is as it was before the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Strings and binary data carry a two-byte length.
    #[error("a string or binary field has {len} bytes, the format allows 65535")]
    FieldTooLong {
        /// Bytes of the field.
        len: usize,
    },
    /// The receiver does not accept packets of this size. A PUBLISH is then dropped as if it had been
    /// sent [MQTT-3.1.2-25]; other packets were tried without reason string and user properties.
    #[error("packet has {len} bytes, the receiver accepts {max}")]
    TooLarge {
        /// Bytes of the whole packet, fixed header included.
        len: usize,
        /// The smaller of the receiver's limit and what the format can express.
        max: u32,
    },
    /// MQTT 3.1.1 has no such packet or code: the caller chooses another answer or closes.
    #[error("MQTT 3.1.1 cannot express {0}")]
    NotInThisVersion(&'static str),
    /// A PUBLISH with QoS 1 or 2 needs a packet identifier, one with QoS 0 must not have it [MQTT-2.2.1-2].
    #[error("packet identifier does not fit the QoS of the PUBLISH [MQTT-2.2.1-2]")]
    PacketId,
    /// A string holds U+0000 [MQTT-1.5.4-2].
    #[error("a string holds U+0000 [MQTT-1.5.4-2]")]
    Nul,
    /// SUBSCRIBE and UNSUBSCRIBE need at least one topic filter [MQTT-3.8.3-2], [MQTT-3.10.3-2].
    #[error("a topic filter is missing [MQTT-3.8.3-2]")]
    NoFilter,
}
