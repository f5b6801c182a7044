//! What is written, and what is refused, by version and by the receiver's limits.

use floodplain_mqtt::{
    Ack, Auth, AuthCode, Connack, ConnackCode, Connect, Disconnect, DisconnectCode, EncodeError, Encoder, Packet,
    PacketId, PubackCode, Publish, PubrelCode, QoS, Suback, SubackCode, Subscribe, Subscription, Unsuback,
    UnsubackCode, Unsubscribe, UserProperties, Version,
};

const ID: PacketId = PacketId::MIN;

fn encode(encoder: Encoder, packet: &Packet<'_>) -> Result<Vec<u8>, EncodeError> {
    let mut out = b"before".to_vec();
    let result = encoder.encode(packet, &mut out);
    assert!(out.starts_with(b"before"));
    result.map(|()| out.split_off(6)).inspect_err(|_| assert_eq!(out, b"before", "an error leaves the output alone"))
}

#[test]
fn bytes_of_each_version() {
    // Those of 5.0 say that there are no properties [MQTT-2.2.2-1].
    let subscriptions = [Subscription::new("a/#", QoS::AtLeastOnce)];
    let codes = [SubackCode::GrantedQos1, SubackCode::NotAuthorized];
    let uncodes = [UnsubackCode::NoSubscriptionExisted];
    let table: &[(Packet<'_>, &[u8], &[u8])] = &[
        (Packet::Connack(Connack::new(ConnackCode::Success, true)), b"\x20\x02\x01\0", b"\x20\x03\x01\0\0"),
        (Packet::Connack(Connack::new(ConnackCode::NotAuthorized, false)), b"\x20\x02\0\x05", b"\x20\x03\0\x87\0"),
        // Session present is 0 with any refusal [MQTT-3.2.2-6; 3:3.2.2-4], whatever the caller said.
        (Packet::Connack(Connack::new(ConnackCode::ServerBusy, true)), b"\x20\x02\0\x03", b"\x20\x03\0\x89\0"),
        (Packet::Puback(Ack::new(ID)), b"\x40\x02\0\x01", b"\x40\x02\0\x01"),
        (Packet::Pubrec(Ack::new(ID)), b"\x50\x02\0\x01", b"\x50\x02\0\x01"),
        (Packet::Pubrel(Ack::new(ID)), b"\x62\x02\0\x01", b"\x62\x02\0\x01"),
        (Packet::Pubcomp(Ack::new(ID)), b"\x70\x02\0\x01", b"\x70\x02\0\x01"),
        (
            Packet::Puback(Ack::with_code(ID, PubackCode::NoMatchingSubscribers)),
            b"\x40\x02\0\x01",
            b"\x40\x03\0\x01\x10",
        ),
        (
            Packet::Subscribe(Subscribe::new(ID, &subscriptions)),
            b"\x82\x08\0\x01\0\x03a/#\x01",
            b"\x82\x09\0\x01\0\0\x03a/#\x01",
        ),
        // 3.1.1 knows one refusal [3:3.9.3-2].
        (Packet::Suback(Suback::new(ID, &codes)), b"\x90\x04\0\x01\x01\x80", b"\x90\x05\0\x01\0\x01\x87"),
        (Packet::Unsubscribe(Unsubscribe::new(ID, &["a"])), b"\xA2\x05\0\x01\0\x01a", b"\xA2\x06\0\x01\0\0\x01a"),
        (Packet::Unsuback(Unsuback::new(ID, &uncodes)), b"\xB0\x02\0\x01", b"\xB0\x04\0\x01\0\x11"),
        (Packet::Pingreq, b"\xC0\0", b"\xC0\0"),
        (Packet::Pingresp, b"\xD0\0", b"\xD0\0"),
        (Packet::Disconnect(Disconnect::new(DisconnectCode::NormalDisconnection)), b"\xE0\0", b"\xE0\0"),
        (Packet::Publish(Publish::new("a", b"p")), b"\x30\x04\0\x01ap", b"\x30\x05\0\x01a\0p"),
    ];
    for (packet, old, new) in table {
        assert_eq!(encode(Encoder::new(Version::V311), packet).as_deref(), Ok(*old), "{packet:?}");
        assert_eq!(encode(Encoder::new(Version::V5), packet).as_deref(), Ok(*new), "{packet:?}");
    }
    let connect = Connect::new(Version::V311, "a");
    for (connect, bytes) in [
        (connect, &b"\x10\x0D\0\x04MQTT\x04\x02\0\x3C\0\x01a"[..]),
        (Connect { level3: true, ..connect }, b"\x10\x0F\0\x06MQIsdp\x03\x02\0\x3C\0\x01a"),
        (Connect { version: Version::V5, ..connect }, b"\x10\x0E\0\x04MQTT\x05\x02\0\x3C\0\0\x01a"),
    ] {
        // In its own version, whatever the encoder's is.
        for version in [Version::V311, Version::V5] {
            assert_eq!(encode(Encoder::new(version), &Packet::Connect(connect)).as_deref(), Ok(bytes));
        }
    }
    let bye = Packet::Disconnect(Disconnect::new(DisconnectCode::ServerShuttingDown));
    assert_eq!(encode(Encoder::new(Version::V5), &bye).as_deref(), Ok(&b"\xE0\x01\x8B"[..]));
}

#[test]
fn what_3_1_1_cannot_say_is_an_error() {
    let options = Subscription::new("a", QoS::AtMostOnce);
    let no_local = [Subscription {
        options: floodplain_mqtt::SubscriptionOptions { no_local: true, ..options.options },
        ..options
    }];
    for packet in [
        Packet::Connack(Connack::new(ConnackCode::MalformedPacket, false)),
        Packet::Puback(Ack::with_code(ID, PubackCode::NotAuthorized)),
        Packet::Disconnect(Disconnect::new(DisconnectCode::ServerShuttingDown)),
        Packet::Auth(Auth::new(AuthCode::ContinueAuthentication, "m", None)),
        Packet::Connect(Connect { password: Some(b"p"), ..Connect::new(Version::V311, "a") }),
        Packet::Subscribe(Subscribe::new(ID, &no_local)),
    ] {
        let found = encode(Encoder::new(Version::V311), &packet);
        assert!(matches!(found, Err(EncodeError::NotInThisVersion(_))), "{packet:?}: {found:?}");
    }
}

#[test]
fn what_no_version_can_say_is_an_error() {
    let long = "x".repeat(65_536);
    for (packet, expected) in [
        (Packet::Publish(Publish::new(&long, b"")), EncodeError::FieldTooLong { len: 65_536 }),
        (Packet::Publish(Publish::new("a\0", b"")), EncodeError::Nul),
        (Packet::Publish(Publish { qos: QoS::AtLeastOnce, ..Publish::new("a", b"") }), EncodeError::PacketId),
        // [MQTT-2.2.1-2; 3:2.3.1-5]
        (Packet::Publish(Publish { packet_id: Some(ID), ..Publish::new("a", b"") }), EncodeError::PacketId),
        (Packet::Subscribe(Subscribe::new(ID, &[])), EncodeError::NoFilter),
        (Packet::Unsubscribe(Unsubscribe::new(ID, &[])), EncodeError::NoFilter),
        (Packet::Connect(Connect::new(Version::V5, &long)), EncodeError::FieldTooLong { len: 65_536 }),
    ] {
        for version in [Version::V311, Version::V5] {
            assert_eq!(encode(Encoder::new(version), &packet), Err(expected));
        }
    }
}

/// [MQTT-3.4.2-2, -3] and their like: user properties go first, then the reason string, then the packet fails.
#[test]
fn words_are_left_out_of_answers_that_are_too_large() {
    let pairs = [("key", "a longer value")];
    let words = Ack {
        reason_string: Some("why"),
        user_properties: UserProperties::from(&pairs[..]),
        ..Ack::with_code(ID, PubackCode::QuotaExceeded)
    };
    let packet = Packet::Puback(words);
    let limited = |max_packet_size| Encoder { max_packet_size, ..Encoder::new(Version::V5) };
    let all = encode(limited(u32::MAX), &packet).unwrap();
    let reason = encode(limited(all.len() as u32 - 1), &packet).unwrap();
    assert_eq!(reason, b"\x40\x0A\0\x01\x97\x06\x1F\0\x03why");
    assert_eq!(encode(limited(12), &packet).unwrap(), reason);
    assert_eq!(encode(limited(11), &packet).unwrap(), b"\x40\x03\0\x01\x97");
    assert_eq!(encode(limited(4), &packet), Err(EncodeError::TooLarge { len: 5, max: 4 }));
    assert_eq!(encode(limited(all.len() as u32), &packet).unwrap(), all);

    // [MQTT-3.1.2-29]: problem information 0 leaves words to CONNACK, DISCONNECT and PUBLISH.
    let silent = Encoder { problem_information: false, ..Encoder::new(Version::V5) };
    assert_eq!(encode(silent, &packet).unwrap(), b"\x40\x03\0\x01\x97");
    let disconnect = Disconnect { reason_string: Some("why"), ..Disconnect::new(DisconnectCode::QuotaExceeded) };
    assert_eq!(encode(silent, &Packet::Disconnect(disconnect)).unwrap(), b"\xE0\x08\x97\x06\x1F\0\x03why");
}

/// [MQTT-3.2.2-19, -20], [MQTT-3.4.2-2, -3], [MQTT-3.5.2-2, -3], [MQTT-3.6.2-2, -3], [MQTT-3.7.2-2, -3],
/// [MQTT-3.9.2-1, -2], [MQTT-3.11.2-1, -2], [MQTT-3.14.2-3, -4], [MQTT-3.15.2-2, -3]
#[test]
fn every_answer_fits_without_words() {
    let pairs = [("key", "a longer value")];
    let (why, users) = (Some("why"), UserProperties::from(&pairs[..]));
    let ack = Ack { reason_string: why, user_properties: users, ..Ack::with_code(ID, PubackCode::QuotaExceeded) };
    let release =
        Ack { reason_string: why, user_properties: users, ..Ack::with_code(ID, PubrelCode::PacketIdentifierNotFound) };
    let mut connack = Connack::new(ConnackCode::ServerBusy, false);
    (connack.properties.reason_string, connack.properties.user_properties) = (why, users);
    let codes = [SubackCode::GrantedQos1];
    let suback = Suback { reason_string: why, user_properties: users, ..Suback::new(ID, &codes) };
    let codes = [UnsubackCode::Success];
    let unsuback = Unsuback { reason_string: why, user_properties: users, ..Unsuback::new(ID, &codes) };
    let code = DisconnectCode::QuotaExceeded;
    let disconnect = Disconnect { reason_string: why, user_properties: users, ..Disconnect::new(code) };
    let auth = Auth::new(AuthCode::ContinueAuthentication, "m", None);
    let auth = Auth { reason_string: why, user_properties: users, ..auth };
    const WHY: &[u8] = b"\x1F\0\x03why";
    const USER: &[u8] = b"\x26\0\x03key\0\x0Ea longer value";
    for (packet, bare) in [
        (Packet::Connack(connack), &b"\x20\x03\0\x89\0"[..]),
        (Packet::Puback(ack), b"\x40\x03\0\x01\x97"),
        (Packet::Pubrec(ack), b"\x50\x03\0\x01\x97"),
        (Packet::Pubrel(release), b"\x62\x03\0\x01\x92"),
        (Packet::Pubcomp(release), b"\x70\x03\0\x01\x92"),
        (Packet::Suback(suback), b"\x90\x04\0\x01\0\x01"),
        (Packet::Unsuback(unsuback), b"\xB0\x04\0\x01\0\0"),
        (Packet::Disconnect(disconnect), b"\xE0\x01\x97"),
        (Packet::Auth(auth), b"\xF0\x06\x18\x04\x15\0\x01m"),
    ] {
        let limited = |max: usize| {
            let encoder = Encoder { max_packet_size: max as u32, ..Encoder::new(Version::V5) };
            encode(encoder, &packet)
        };
        let has = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        let all = limited(1_000).unwrap();
        assert!(has(&all, WHY) && has(&all, USER), "{all:02x?}");
        for max in bare.len()..all.len() {
            let less = limited(max).unwrap();
            assert!(less.len() <= max && !has(&less, USER), "{max}: {less:02x?}");
            assert!(less == bare || has(&less, WHY), "{max}: {less:02x?}");
        }
        assert_eq!(limited(bare.len()).unwrap(), bare);
        assert!(limited(bare.len() - 1).is_err());
    }
}

#[test]
fn a_publish_that_is_too_large_is_not_written() {
    let payload = vec![0; 100];
    let packet = Packet::Publish(Publish::new("a", &payload));
    let encoder = Encoder { max_packet_size: 105, ..Encoder::new(Version::V311) };
    assert_eq!(encode(encoder, &packet).unwrap().len(), 105);
    let encoder = Encoder { max_packet_size: 104, ..encoder };
    assert_eq!(encode(encoder, &packet), Err(EncodeError::TooLarge { len: 105, max: 104 }));
}
