//! The one function that most statements of the standards go through.

use floodplain_mqtt::{DecodeError, Decoder, Encoder, Packet, Version};

/// Who receives, and in which version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// A server that has not seen CONNECT.
    Server,
    Server4,
    Server5,
    Client4,
    Client5,
}

/// What must come of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Is {
    Good,
    Malformed,
    Protocol,
    TooLarge,
    Alias,
    Topic,
    Filter,
    Level,
}

impl Who {
    pub(crate) fn decoder(self) -> Decoder {
        let max = 1 << 20;
        let mut server = Decoder::server(max);
        match self {
            Self::Server => server,
            Self::Server4 => {
                server.set_version(Version::V311);
                server
            }
            Self::Server5 => {
                server.set_version(Version::V5);
                server
            }
            Self::Client4 => Decoder::client(Version::V311, max),
            Self::Client5 => Decoder::client(Version::V5, max),
        }
    }
}

/// A packet with the length that its body has.
pub(crate) fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first_byte];
    let mut len = body.len();
    while len > 127 {
        bytes.push((len & 127) as u8 | 128);
        len >>= 7;
    }
    bytes.push(len as u8);
    bytes.extend_from_slice(body);
    bytes
}

/// What the decoder says about `bytes`, whole or not.
pub(crate) fn verdict(who: Who, bytes: &[u8]) -> (Is, String) {
    match who.decoder().next(bytes) {
        Ok(Some((packet, len))) if len == bytes.len() => (Is::Good, format!("{packet:?}")),
        Ok(other) => panic!("{who:?} {bytes:02x?}: not one whole packet: {other:?}"),
        Err(error) => {
            let is = match error {
                DecodeError::Malformed(_) => Is::Malformed,
                DecodeError::Protocol(_) => Is::Protocol,
                DecodeError::TooLarge { .. } => Is::TooLarge,
                DecodeError::TopicAlias => Is::Alias,
                DecodeError::TopicName(_) => Is::Topic,
                DecodeError::TopicFilter(_) => Is::Filter,
                DecodeError::UnsupportedLevel(_) => Is::Level,
            };
            (is, error.to_string())
        }
    }
}

/// Checks one packet; one that is good must also survive being written and read again.
pub(crate) fn check(statement: &str, who: Who, first_byte: u8, body: &[u8], expected: Is) {
    let bytes = packet(first_byte, body);
    let (found, text) = verdict(who, &bytes);
    assert_eq!(found, expected, "{statement}: {who:?} {bytes:02x?}: {text}");
    let decoder = who.decoder();
    if let Ok(Some((packet, _))) = decoder.next(&bytes) {
        let version = match (&packet, decoder.version()) {
            (Packet::Connect(connect), _) => connect.version,
            (_, version) => version.unwrap(),
        };
        let mut again = Vec::new();
        Encoder::new(version).encode(&packet, &mut again).unwrap_or_else(|error| panic!("{statement}: {error}"));
        assert_eq!(decoder.next(&again), Ok(Some((packet, again.len()))), "{statement}: {bytes:02x?} {again:02x?}");
    }
}

/// Checks a table of statements.
pub(crate) fn check_all(table: &[(&str, Who, u8, &[u8], Is)]) {
    for &(statement, who, first_byte, body, expected) in table {
        check(statement, who, first_byte, body, expected);
    }
}
