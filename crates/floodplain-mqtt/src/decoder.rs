//! From bytes to packets: first the frame, then the packet.

use std::ops::Range;

use crate::{
    Ack, Auth, Connack, Connect, DecodeError, Disconnect, Packet, PacketType, Publish, Role, Suback, Subscribe,
    Unsuback, Unsubscribe, Version,
    packet::QOS_3,
    wire::{PADDED, padded_varint, varint_len},
};

/// What the start of a read buffer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The packet is not whole yet; what there is of its fixed header is acceptable.
    Incomplete {
        /// Bytes the buffer must hold, from its start, before another call can tell more: the whole packet
        /// once its length is known. Never above the maximum packet size given.
        needed: usize,
    },
    /// A whole packet; it ends, and the next one starts, at `body.end`.
    Complete {
        /// Type and flags.
        first_byte: u8,
        /// Where the body is in the buffer; may be empty.
        body: Range<usize>,
    },
}

/// Reads the packets of one connection. Two words; holds no bytes.
///
/// Call [`Decoder::frame`] on what was received. It refuses a wrong type, wrong flags, a wrong direction
/// and a Remaining Length above the limit as soon as the bytes that say so are there, so nothing is
/// buffered for a packet that will be refused. When a frame is complete, [`Decoder::decode`] reads it
/// without allocating. [`Decoder::next`] does both.
///
/// A server accepts only CONNECT until [`Decoder::set_version`] was called, and none after
/// [MQTT-3.1.0-1, -2].
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    role: Role,
    version: Option<Version>,
    level3: bool,
    max_packet_size: u32,
}

impl Decoder {
    /// For a server; packets above `max_packet_size` bytes, fixed header included, are refused.
    #[must_use]
    pub const fn server(max_packet_size: u32) -> Self {
        Self { role: Role::Server, version: None, level3: false, max_packet_size }
    }

    /// For a client that sent its CONNECT in `version`.
    #[must_use]
    pub const fn client(version: Version, max_packet_size: u32) -> Self {
        Self { role: Role::Client, version: Some(version), level3: false, max_packet_size }
    }

    /// Tells the version of the CONNECT that was received.
    pub const fn set_version(&mut self, version: Version) {
        self.version = Some(version);
    }

    /// The client speaks level 3 (`MQIsdp`), which sends PUBREL, SUBSCRIBE and UNSUBSCRIBE again with DUP.
    pub const fn set_level3(&mut self) {
        self.level3 = true;
    }

    /// Whether [`Decoder::set_level3`] was called.
    #[must_use]
    pub const fn is_level3(&self) -> bool {
        self.level3
    }

    /// `None` before CONNECT.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// Changes the limit, for example once the client is known.
    pub const fn set_max_packet_size(&mut self, bytes: u32) {
        self.max_packet_size = bytes;
    }

    /// Looks at the fixed header at the start of `buf`.
    ///
    /// # Errors
    /// [`DecodeError`]: the packet must not be read, whatever its body is; close the connection.
    #[inline]
    pub fn frame(&self, buf: &[u8]) -> Result<Frame, DecodeError> {
        let Some((&first_byte, rest)) = buf.split_first() else {
            return Ok(Frame::Incomplete { needed: 2 });
        };
        let kind = self.check_first_byte(first_byte)?;
        let Some((remaining, len_bytes)) = padded_varint(rest)? else {
            return Ok(Frame::Incomplete { needed: buf.len() + 1 });
        };
        let is_padded = len_bytes > varint_len(remaining);
        if is_padded && self.version == Some(Version::V5) {
            return Err(PADDED);
        }
        self.check_remaining_length(kind, remaining)?;
        let start = 1 + len_bytes;
        let end = start + remaining as usize;
        // At most 268,435,460.
        let len = end as u32;
        if len > self.max_packet_size {
            return Err(DecodeError::TooLarge { len, max: self.max_packet_size });
        }
        Ok(if buf.len() < end {
            Frame::Incomplete { needed: end }
        } else if is_padded && self.version.is_none() && buf[start..end].starts_with(b"\0\x04MQTT\x05") {
            // Before CONNECT nobody knows the version; this one says 5.0.
            return Err(PADDED);
        } else {
            Frame::Complete { first_byte, body: start..end }
        })
    }

    fn check_first_byte(&self, first_byte: u8) -> Result<PacketType, DecodeError> {
        use PacketType as T;
        let kind = PacketType::of(first_byte)
            .ok_or(DecodeError::Malformed("packet type 0 is reserved (§2.1.2; 3: §2.2.1)"))?;
        let flags = first_byte & 0x0F;
        match kind {
            T::Publish => {
                if flags & 6 == 6 {
                    return Err(QOS_3);
                }
                if flags & 14 == 8 {
                    return Err(DecodeError::Malformed("DUP is set with QoS 0 [MQTT-3.3.1-2; 3:3.3.1-2]"));
                }
            }
            T::Pubrel | T::Subscribe | T::Unsubscribe if flags != 2 && !(self.level3 && flags == 10) => {
                return Err(DecodeError::Malformed(
                    "flags are not 0010 [MQTT-3.6.1-1, 3.8.1-1, 3.10.1-1; 3:3.6.1-1, 3.8.1-1, 3.10.1-1]",
                ));
            }
            T::Pubrel | T::Subscribe | T::Unsubscribe => {}
            _ if flags != 0 => return Err(DecodeError::Malformed("reserved flags are set [MQTT-2.1.3-1; 3:2.2.2-2]")),
            _ => {}
        }
        match (self.role, kind) {
            (Role::Server, T::Connect) if self.version.is_none() => Ok(kind),
            (Role::Server, T::Connect) => Err(DecodeError::Protocol("second CONNECT [MQTT-3.1.0-2; 3:3.1.0-2]")),
            (Role::Server, _) if self.version.is_none() => {
                Err(DecodeError::Protocol("first packet is not CONNECT [MQTT-3.1.0-1; 3:3.1.0-1]"))
            }
            (Role::Server, T::Connack | T::Suback | T::Unsuback | T::Pingresp)
            | (Role::Client, T::Connect | T::Subscribe | T::Unsubscribe | T::Pingreq) => {
                Err(DecodeError::Protocol("packet comes from the wrong side (§2.1.2, table 2-1)"))
            }
            (_, T::Auth) if self.version == Some(Version::V311) => {
                Err(DecodeError::Malformed("packet type 15 is reserved in 3.1.1 (3: §2.2.1)"))
            }
            (Role::Client, T::Disconnect) if self.version == Some(Version::V311) => {
                Err(DecodeError::Protocol("a server sends no DISCONNECT in 3.1.1 (3: §3.14)"))
            }
            _ => Ok(kind),
        }
    }

    /// Some packets have one length only, and no packet that names an identifier is shorter than it.
    fn check_remaining_length(&self, kind: PacketType, remaining: u32) -> Result<(), DecodeError> {
        use PacketType as T;
        let old = self.version == Some(Version::V311);
        let fits = match kind {
            T::Pingreq | T::Pingresp => remaining == 0,
            T::Disconnect if old => remaining == 0,
            T::Connack | T::Puback | T::Pubrec | T::Pubrel | T::Pubcomp | T::Unsuback if old => remaining == 2,
            T::Disconnect | T::Auth => true,
            _ => remaining >= 2,
        };
        if fits {
            Ok(())
        } else {
            Err(DecodeError::Malformed("remaining length does not fit the packet type (§3.2 to §3.14)"))
        }
    }

    /// Reads the packet of a [`Frame::Complete`]. Everything in the result is checked, also what is read
    /// lazily, and borrows from `body`.
    ///
    /// # Errors
    /// [`DecodeError`]: close the connection, in 5.0 with [`DecodeError::disconnect_code`], after a refused
    /// CONNECT as [`crate::connect_refusal`] says.
    #[inline]
    pub fn decode<'a>(&self, first_byte: u8, body: &'a [u8]) -> Result<Packet<'a>, DecodeError> {
        let kind = self.check_first_byte(first_byte)?;
        self.check_remaining_length(kind, u32::try_from(body.len()).unwrap_or(u32::MAX))?;
        // Before CONNECT only CONNECT passes the checks, and that says its version itself.
        let version = self.version.unwrap_or(Version::V5);
        Ok(match kind {
            PacketType::Connect => Packet::Connect(Connect::decode(body)?),
            PacketType::Connack => Packet::Connack(Connack::decode(version, body)?),
            PacketType::Publish => Packet::Publish(Publish::decode(self.role, version, first_byte & 0x0F, body)?),
            PacketType::Puback => Packet::Puback(Ack::decode(version, body)?),
            PacketType::Pubrec => Packet::Pubrec(Ack::decode(version, body)?),
            PacketType::Pubrel => Packet::Pubrel(Ack::decode(version, body)?),
            PacketType::Pubcomp => Packet::Pubcomp(Ack::decode(version, body)?),
            PacketType::Subscribe => Packet::Subscribe(Subscribe::decode(version, body)?),
            PacketType::Suback => Packet::Suback(Suback::decode(version, body)?),
            PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe::decode(version, body)?),
            PacketType::Unsuback => Packet::Unsuback(Unsuback::decode(version, body)?),
            PacketType::Pingreq => Packet::Pingreq,
            PacketType::Pingresp => Packet::Pingresp,
            PacketType::Disconnect => Packet::Disconnect(Disconnect::decode(self.role, version, body)?),
            PacketType::Auth => Packet::Auth(Auth::decode(body)?),
        })
    }

    /// Reads the packet at the start of `buf` and says how many bytes it takes; `None` while it is not whole.
    ///
    /// # Errors
    /// As [`Decoder::frame`] and [`Decoder::decode`].
    #[inline]
    pub fn next<'a>(&self, buf: &'a [u8]) -> Result<Option<(Packet<'a>, usize)>, DecodeError> {
        match self.frame(buf)? {
            Frame::Incomplete { .. } => Ok(None),
            Frame::Complete { first_byte, body } => {
                let len = body.end;
                Ok(Some((self.decode(first_byte, &buf[body])?, len)))
            }
        }
    }
}
