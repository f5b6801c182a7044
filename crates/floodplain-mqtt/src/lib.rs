//! MQTT 3.1.1 and 5.0 packets, both directions, without I/O.
//!
//! **Reading.** A [`Decoder`] looks at the bytes received so far, refuses what must be refused before it
//! is buffered, and turns a whole packet into a [`Packet`] that borrows from the buffer:
//!
//! ```
//! use floodplain_mqtt::{Decoder, Packet};
//!
//! let mut decoder = Decoder::server(1 << 20);
//! let mut input: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01a\xc0\0";
//! while let Some((packet, len)) = decoder.next(input)? {
//!     match packet {
//!         Packet::Connect(connect) => decoder.set_version(connect.version),
//!         other => println!("{other:?}"),
//!     }
//!     input = &input[len..];
//! }
//! # Ok::<(), floodplain_mqtt::DecodeError>(())
//! ```
//!
//! **Writing.** An [`Encoder`] appends any packet to an output buffer:
//!
//! ```
//! use floodplain_mqtt::{Ack, Encoder, Packet, PacketId, Version};
//!
//! let mut out = Vec::new();
//! let id = PacketId::new(7).expect("not 0");
//! Encoder::new(Version::V5).encode(&Packet::Puback(Ack::new(id)), &mut out)?;
//! assert_eq!(out, [0x40, 2, 0, 7]);
//! # Ok::<(), floodplain_mqtt::EncodeError>(())
//! ```
//!
//! In 3.1.1 what that version does not have is left out (properties, reason codes of success) or refused
//! ([`EncodeError::NotInThisVersion`]). What depends on state is left to the caller: aliases, packet
//! identifiers in use, quotas, the order of packets after CONNECT, limits of topics.

mod decoder;
mod encoder;
mod error;
mod packet;
mod property;
mod reason;
mod wire;

pub use decoder::{Decoder, Frame};
pub use encoder::Encoder;
pub use error::{DecodeError, EncodeError};
pub use packet::{
    Ack, Auth, Connack, ConnackProperties, Connect, ConnectProperties, Disconnect, Filters, MessageProperties,
    MessagePropertiesBuf, Packet, PacketId, PacketType, Publish, QoS, RetainHandling, Role, Suback, SubackCodes,
    Subscribe, Subscription, SubscriptionOptions, Subscriptions, Unsuback, UnsubackCodes, Unsubscribe, Version, Will,
    connect_refusal, share,
};
pub use property::{UserProperties, UserPropertiesIter};
pub use reason::{AuthCode, ConnackCode, DisconnectCode, PubackCode, PubrelCode, ReasonCode, SubackCode, UnsubackCode};
