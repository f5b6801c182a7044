//! Two codecs that others wrote, on the same generated and changed packets: the same verdict, and after they
//! wrote what they read, the same fields. Every difference has a row that says why ours stands.

use std::num::NonZeroU16;

use bytes::BytesMut;
use floodplain_mqtt::{
    MessageProperties, Packet, Publish,
    Role::{self, Client, Server},
    Version,
};
use mqtt_protocol_core::mqtt::packet::{GenericPacketTrait, v3_1_1, v5_0};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{check::packet, hostile::mutant, packets::decoder};
use Other::{Core, Rmqtt};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Other {
    /// `rmqtt-codec`
    Rmqtt,
    /// `mqtt-protocol-core`
    Core,
}

impl Other {
    /// The packet as this codec writes it after reading it.
    fn rewrite(self, version: Version, bytes: &[u8], body_at: usize) -> Result<Vec<u8>, String> {
        match self {
            Self::Rmqtt => rmqtt(version, bytes),
            Self::Core => core(version, bytes[0], &bytes[body_at..]),
        }
    }
}

fn rmqtt(version: Version, bytes: &[u8]) -> Result<Vec<u8>, String> {
    fn through<C, P, D, E>(mut codec: C, bytes: &[u8]) -> Result<Vec<u8>, String>
    where
        C: tokio_util::codec::Decoder<Item = (P, u32), Error = D> + tokio_util::codec::Encoder<P, Error = E>,
        D: From<std::io::Error> + std::fmt::Debug,
        E: From<std::io::Error> + std::fmt::Debug,
    {
        let mut input = BytesMut::from(bytes);
        let (packet, _) = codec.decode(&mut input).map_err(|error| format!("{error:?}"))?.ok_or("incomplete")?;
        let mut out = BytesMut::new();
        codec.encode(packet, &mut out).map_err(|error| format!("write: {error:?}"))?;
        Ok(out.to_vec())
    }
    match version {
        Version::V311 => through(rmqtt_codec::v3::Codec::new(0), bytes),
        Version::V5 => through(rmqtt_codec::v5::Codec::new(0, 0), bytes),
    }
}

fn core(version: Version, first_byte: u8, body: &[u8]) -> Result<Vec<u8>, String> {
    macro_rules! through {
        ($type:ty) => {{
            let (packet, used) = <$type>::parse(body).map_err(|error| format!("{error:?}"))?;
            // As its connection does.
            if used != body.len() {
                return Err("bytes are left".to_owned());
            }
            Ok(GenericPacketTrait::to_continuous_buffer(&packet))
        }};
    }
    macro_rules! publish {
        ($type:ty) => {{
            let (packet, _) = <$type>::parse(first_byte & 15, body.into()).map_err(|error| format!("{error:?}"))?;
            Ok(GenericPacketTrait::to_continuous_buffer(&packet))
        }};
    }
    match (version, first_byte >> 4) {
        (Version::V311, 1) => through!(v3_1_1::Connect),
        (Version::V311, 2) => through!(v3_1_1::Connack),
        (Version::V311, 3) => publish!(v3_1_1::Publish),
        (Version::V311, 4) => through!(v3_1_1::Puback),
        (Version::V311, 5) => through!(v3_1_1::Pubrec),
        (Version::V311, 6) => through!(v3_1_1::Pubrel),
        (Version::V311, 7) => through!(v3_1_1::Pubcomp),
        (Version::V311, 8) => through!(v3_1_1::Subscribe),
        (Version::V311, 9) => through!(v3_1_1::Suback),
        (Version::V311, 10) => through!(v3_1_1::Unsubscribe),
        (Version::V311, 11) => through!(v3_1_1::Unsuback),
        (Version::V311, 12) => through!(v3_1_1::Pingreq),
        (Version::V311, 13) => through!(v3_1_1::Pingresp),
        (Version::V311, 14) => through!(v3_1_1::Disconnect),
        (Version::V5, 1) => through!(v5_0::Connect),
        (Version::V5, 2) => through!(v5_0::Connack),
        (Version::V5, 3) => publish!(v5_0::Publish),
        (Version::V5, 4) => through!(v5_0::Puback),
        (Version::V5, 5) => through!(v5_0::Pubrec),
        (Version::V5, 6) => through!(v5_0::Pubrel),
        (Version::V5, 7) => through!(v5_0::Pubcomp),
        (Version::V5, 8) => through!(v5_0::Subscribe),
        (Version::V5, 9) => through!(v5_0::Suback),
        (Version::V5, 10) => through!(v5_0::Unsubscribe),
        (Version::V5, 11) => through!(v5_0::Unsuback),
        (Version::V5, 12) => through!(v5_0::Pingreq),
        (Version::V5, 13) => through!(v5_0::Pingresp),
        (Version::V5, 14) => through!(v5_0::Disconnect),
        (Version::V5, 15) => through!(v5_0::Auth),
        _ => Err("reserved type".to_owned()),
    }
}

/// A rule that we keep and others do not.
struct Laxer {
    /// Part of our error's text.
    ours: &'static str,
    /// Who accepts the witness.
    others: &'static [Other],
    witness: (Version, Role, u8, &'static [u8]),
    why: &'static str,
}

const BOTH: &[Other] = &[Rmqtt, Core];
const OLD: Version = Version::V311;
const NEW: Version = Version::V5;

#[rustfmt::skip]
const LAXER: &[Laxer] = &[
    Laxer { ours: "DUP is set with QoS 0", others: BOTH, witness: (OLD, Server, 0x38, b"\0\x01a"),
        why: "[MQTT-3.3.1-2]: DUP MUST be 0 for all QoS 0 messages" },
    Laxer { ours: "flags are not 0010", others: &[Core], witness: (OLD, Server, 0x60, b"\0\x01"),
        why: "[MQTT-3.6.1-1]; that codec's packets do not see the flags" },
    Laxer { ours: "reserved flags are set", others: &[Core], witness: (OLD, Server, 0xC1, b""),
        why: "[MQTT-2.1.3-1]; that codec's packets do not see the flags" },
    Laxer { ours: "packet comes from the wrong side", others: BOTH, witness: (NEW, Server, 0xD0, b""),
        why: "table 2-1; the codecs do not know which side they are" },
    Laxer { ours: "a server sends no DISCONNECT in 3.1.1", others: BOTH, witness: (OLD, Client, 0xE0, b""),
        why: "3.1.1 §3.14 is client to server only" },
    Laxer { ours: "remaining length does not fit", others: &[Rmqtt], witness: (OLD, Server, 0xC0, b"x"),
        why: "PINGREQ has no body (§3.12)" },
    Laxer { ours: "remaining length does not fit", others: &[Core], witness: (OLD, Server, 0x40, b"\0\x01\0"),
        why: "PUBACK of 3.1.1 has length 2, reason codes are new in 5.0" },
    Laxer { ours: "bytes follow the last field", others: &[Rmqtt], witness: (OLD, Server, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01ax"),
        why: "§1.2: such a packet cannot be parsed by the specification" },
    Laxer { ours: "a field runs past the end", others: BOTH, witness: (NEW, Server, 0xF0, b"\0"),
        why: "§3.15.2.1: only a Remaining Length of 0 leaves out reason code and property length" },
    Laxer { ours: "a field runs past the end", others: &[Core], witness: (NEW, Server, 0x30, b"\0\x01a"),
        why: "§3.3.2.3.1: a PUBLISH has a property length" },
    Laxer { ours: "AUTH names no authentication method", others: BOTH, witness: (NEW, Server, 0xF0, b"\0\0"),
        why: "§3.15.2.2.2: a protocol error to omit the method" },
    Laxer { ours: "authentication data without", others: BOTH, witness: (NEW, Client, 0x20, b"\0\0\x04\x16\0\x01d"),
        why: "§3.1.2.11.10 for CONNECT; a CONNACK's data has no more meaning without a method" },
    Laxer { ours: "string holds U+0000", others: BOTH, witness: (OLD, Server, 0x30, b"\0\x02a\0"),
        why: "[MQTT-1.5.4-2; 3:1.5.3-2]" },
    Laxer { ours: "not in its shortest form", others: BOTH, witness: (NEW, Server, 0x30, b"\0\x01a\x80\0"),
        why: "[MQTT-1.5.5-1]" },
    Laxer { ours: "packet identifier is 0", others: &[Core], witness: (OLD, Server, 0x32, b"\0\x01a\0\0"),
        why: "[MQTT-2.2.1-3; 3:2.3.1-1]" },
    Laxer { ours: "reserved connect flag", others: &[Core], witness: (OLD, Server, 0x10, b"\0\x04MQTT\x04\x03\0\0\0\x01a"),
        why: "[MQTT-3.1.2-3]" },
    Laxer { ours: "without will flag", others: &[Core], witness: (OLD, Server, 0x10, b"\0\x04MQTT\x04\x22\0\0\0\x01a"),
        why: "[MQTT-3.1.2-11, -13]" },
    Laxer { ours: "without will flag", others: BOTH, witness: (NEW, Server, 0x10, b"\0\x04MQTT\x05\x0A\0\0\0\0\x01a"),
        why: "[MQTT-3.1.2-11, -13]" },
    Laxer { ours: "will QoS is 3", others: &[Core], witness: (OLD, Server, 0x10, b"\0\x04MQTT\x04\x1E\0\0\0\x01a\0\x01w\0\0"),
        why: "[MQTT-3.1.2-12]" },
    Laxer { ours: "password without user name", others: &[Rmqtt], witness: (OLD, Server, 0x10, b"\0\x04MQTT\x04\x42\0\0\0\x01a\0\x01p"),
        why: "[3:3.1.2-22]" },
    Laxer { ours: "protocol level 0x03", others: &[Rmqtt], witness: (OLD, Server, 0x10, b"\0\x04MQTT\x03\x02\0\0\0\x01a"),
        why: "level 3 is called MQIsdp" },
    Laxer { ours: "reserved connect acknowledge flag", others: &[Core], witness: (OLD, Client, 0x20, b"\x02\0"),
        why: "[MQTT-3.2.2-1]" },
    Laxer { ours: "session present with a refusal", others: BOTH, witness: (OLD, Client, 0x20, b"\x01\x05"),
        why: "[MQTT-3.2.2-6; 3:3.2.2-4]" },
    Laxer { ours: "CONNACK does not allow this code", others: &[Rmqtt], witness: (OLD, Client, 0x20, b"\0\x06"),
        why: "3.1.1 table 3.1: 6 to 255 are reserved" },
    Laxer { ours: "DISCONNECT does not allow this reason code", others: &[Rmqtt], witness: (NEW, Server, 0xE0, b"\x8C"),
        why: "table 3-10 does not have it [MQTT-3.14.2-1]" },
    Laxer { ours: "neither 0 nor 1", others: &[Rmqtt], witness: (NEW, Client, 0x20, b"\0\0\x02\x24\x02"),
        why: "§3.2.2.3.4: Maximum QoS is 0 or 1, QoS 2 is said by its absence" },
    Laxer { ours: "SUBACK has no code", others: &[Rmqtt], witness: (OLD, Client, 0x90, b"\0\x01"),
        why: "[MQTT-3.8.4-6; 3:3.8.4-5]: a code per filter, and there is at least one" },
    Laxer { ours: "UNSUBACK has no code", others: &[Rmqtt], witness: (NEW, Client, 0xB0, b"\0\x01\0"),
        why: "[MQTT-3.11.3-1]" },
    Laxer { ours: "reserved subscription bits", others: BOTH, witness: (OLD, Server, 0x82, b"\0\x01\0\x01a\x04"),
        why: "[3:3.8.3-4]: in 3.1.1 the upper six bits are reserved" },
    Laxer { ours: "wildcard does not fill its level", others: BOTH, witness: (OLD, Server, 0x82, b"\0\x01\0\x02a#\0"),
        why: "[MQTT-4.7.1-1, -2]" },
    Laxer { ours: "topic filter is invalid: it is empty", others: &[Core], witness: (OLD, Server, 0x82, b"\0\x01\0\0\0"),
        why: "[MQTT-4.7.3-1]" },
    Laxer { ours: "no filter follows the share name", others: &[Rmqtt], witness: (NEW, Server, 0x82, b"\0\x01\0\0\x08$share/g\0"),
        why: "[MQTT-4.8.2-2]" },
    Laxer { ours: "share name is empty or holds a wildcard", others: &[Rmqtt], witness: (NEW, Server, 0x82, b"\0\x01\0\0\x09$share//a\0"),
        why: "[MQTT-4.8.2-1]" },
    Laxer { ours: "no local on a shared subscription", others: BOTH, witness: (NEW, Server, 0x82, b"\0\x01\0\0\x0A$share/g/a\x04"),
        why: "[MQTT-3.8.3-4]" },
    Laxer { ours: "topic name holds a wildcard", others: BOTH, witness: (OLD, Server, 0x30, b"\0\x01#"),
        why: "[MQTT-3.3.2-2]" },
    Laxer { ours: "topic name is invalid: topic is empty", others: &[Core], witness: (OLD, Server, 0x30, b"\0\0"),
        why: "[MQTT-4.7.3-1]" },
    Laxer { ours: "topic name is invalid: topic is empty", others: BOTH, witness: (OLD, Server, 0x10, b"\0\x04MQTT\x04\x06\0\0\0\x01a\0\0\0\0"),
        why: "[MQTT-4.7.3-1], for the will" },
    Laxer { ours: "there is no topic alias", others: BOTH, witness: (NEW, Server, 0x30, b"\0\0\0"),
        why: "§3.3.2.1" },
    Laxer { ours: "a client sent a subscription identifier", others: BOTH, witness: (NEW, Server, 0x30, b"\0\x01a\x02\x0B\x01"),
        why: "[MQTT-3.3.4-6]; the codecs do not know which side they are" },
    Laxer { ours: "a server sent a session expiry interval", others: BOTH, witness: (NEW, Client, 0xE0, b"\0\x05\x11\0\0\0\x01"),
        why: "[MQTT-3.14.2-2]; the codecs do not know which side they are" },
];

/// What we accept and others do not.
fn stricter(other: Other, packet: &Packet<'_>) -> Option<&'static str> {
    match (other, packet) {
        (Rmqtt, Packet::Connect(c)) if c.client_id.is_empty() && !c.clean_start => Some(
            "5.0 assigns an identifier whatever Clean Start says [MQTT-3.1.3-6]; 3.1.1 needs a CONNACK 2 [3:3.1.3-8]",
        ),
        (Core, Packet::Connect(c)) if c.level3 => Some("level 3 is served like 3.1.1; it is older than the codec"),
        (Core, Packet::Connect(c)) if c.password.is_some() && c.username.is_none() && c.version == NEW => {
            Some("§3.1.2.9: 5.0 allows a password without user name")
        }
        _ => None,
    }
}

/// What others read, but do not write as it was.
fn loses(other: Other, packet: &Packet<'_>) -> Option<&'static str> {
    match (other, packet) {
        (Rmqtt, Packet::Connect(c)) if c.level3 => Some("writes the name MQIsdp with level 4"),
        (Rmqtt, Packet::Auth(a)) if a.method.is_none() => Some("writes the short form with an empty property block"),
        _ => None,
    }
}

/// `packet` without explicit defaults: `rmqtt-codec` does not tell them from absent properties.
fn without_defaults(mut packet: Packet<'_>) -> Packet<'_> {
    fn drop_default<T: PartialEq>(field: &mut Option<T>, default: T) {
        if field.as_ref() == Some(&default) {
            *field = None;
        }
    }
    match &mut packet {
        Packet::Connect(connect) => {
            let p = &mut connect.properties;
            drop_default(&mut p.session_expiry_interval_secs, 0);
            drop_default(&mut p.topic_alias_maximum, 0);
            drop_default(&mut p.request_problem_information, true);
            drop_default(&mut p.request_response_information, false);
        }
        Packet::Connack(connack) => {
            let p = &mut connack.properties;
            drop_default(&mut p.receive_maximum, NonZeroU16::MAX);
            drop_default(&mut p.topic_alias_maximum, 0);
            drop_default(&mut p.retain_available, true);
            drop_default(&mut p.wildcard_subscription_available, true);
            drop_default(&mut p.subscription_identifiers_available, true);
            drop_default(&mut p.shared_subscription_available, true);
        }
        _ => {}
    }
    packet
}

fn same(other: Other, ours: Packet<'_>, theirs: Packet<'_>) -> bool {
    if other == Core {
        return ours == theirs;
    }
    match (ours, theirs) {
        (Packet::Publish(ours), Packet::Publish(theirs)) => {
            let (a, b) = (ours.properties, theirs.properties);
            let none = MessageProperties::default();
            Publish { properties: none, ..ours } == Publish { properties: none, ..theirs }
                && a.payload_is_utf8().unwrap_or(false) == b.payload_is_utf8().unwrap_or(false)
                && a.topic_alias() == b.topic_alias()
                && a.message_expiry_secs() == b.message_expiry_secs()
                && a.content_type() == b.content_type()
                && a.response_topic() == b.response_topic()
                && a.correlation_data() == b.correlation_data()
                && a.subscription_ids().eq(b.subscription_ids())
                && a.user_properties() == b.user_properties()
        }
        (ours, theirs) => without_defaults(ours) == without_defaults(theirs),
    }
}

/// The bytes that begin the body.
fn body_at(bytes: &[u8]) -> usize {
    2 + bytes[1..].iter().take_while(|&&byte| byte & 0x80 != 0).count()
}

#[test]
fn differences_are_explained() {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = mutant();
    let (mut agreed, mut refused) = (0, 0);
    for _ in 0..150_000 {
        let (version, receiver, bytes) = strategy.new_tree(&mut runner).unwrap().current();
        let decoder = decoder(version, receiver, bytes[0]);
        let ours = decoder.next(&bytes).map(|packet| packet.expect("a whole packet").0);
        // A CONNECT says its version itself.
        let version = match &ours {
            Ok(Packet::Connect(connect)) => connect.version,
            _ => version,
        };
        for other in [Rmqtt, Core] {
            let theirs = other.rewrite(version, &bytes, body_at(&bytes));
            match (&ours, &theirs) {
                (Ok(packet), Ok(again)) => {
                    agreed += 1;
                    let found = decoder.next(again);
                    let equal = matches!(found, Ok(Some((found, _))) if same(other, *packet, found));
                    assert!(
                        equal || loses(other, packet).is_some(),
                        "{other:?}\n{bytes:02x?}\n{again:02x?}\n{packet:?}\n{found:?}"
                    );
                }
                (Ok(packet), Err(error)) => {
                    assert!(stricter(other, packet).is_some(), "{other:?} {error} {bytes:02x?} {packet:?}");
                }
                (Err(error), Ok(_)) => {
                    let text = error.to_string();
                    let known = LAXER.iter().any(|row| row.others.contains(&other) && text.contains(row.ours));
                    assert!(known, "{other:?} accepts {bytes:02x?}: {text}");
                }
                (Err(_), Err(_)) => refused += 1,
            }
        }
    }
    // The generator makes enough of both.
    assert!(agreed > 50_000 && refused > 50_000, "{agreed} {refused}");
}

#[test]
fn every_explanation_has_a_witness() {
    let mut wrong = Vec::new();
    for row in LAXER {
        let (version, receiver, first_byte, body) = row.witness;
        let bytes = packet(first_byte, body);
        let error = decoder(version, receiver, first_byte).next(&bytes).expect_err(row.why);
        assert!(error.to_string().contains(row.ours), "{}: {error}", row.why);
        for other in [Rmqtt, Core] {
            let theirs = other.rewrite(version, &bytes, body_at(&bytes));
            if theirs.is_ok() != row.others.contains(&other) {
                wrong.push(format!("{other:?} {}: {theirs:?}", row.ours));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (other, version, body) in [
        (Rmqtt, NEW, &b"\0\x04MQTT\x05\0\0\0\0\0\0"[..]),
        (Core, OLD, b"\0\x06MQIsdp\x03\x02\0\0\0\x01a"),
        (Core, NEW, b"\0\x04MQTT\x05\x42\0\0\0\0\x01a\0\x01p"),
    ] {
        let bytes = packet(0x10, body);
        let (found, _) = decoder(version, Server, 0x10).next(&bytes).unwrap().unwrap();
        assert!(stricter(other, &found).is_some());
        assert!(other.rewrite(version, &bytes, body_at(&bytes)).is_err());
    }
}
