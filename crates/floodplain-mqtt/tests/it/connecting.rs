//! Statements on CONNECT, CONNACK, DISCONNECT and AUTH that bytes alone decide.

use floodplain_mqtt::{ConnackCode, DecodeError, Decoder, DisconnectCode, Packet, Version, connect_refusal};

use crate::check::{
    Is::{Good, Level, Malformed, Protocol, Topic},
    Who::{Client4, Client5, Server, Server4, Server5},
    check, check_all, packet,
};

/// CONNECT of `level` with `flags`, client identifier `a` and what follows it.
fn connect(level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    let (name, properties): (&[u8], &[u8]) = match level {
        3 => (b"\0\x06MQIsdp", b""),
        5 => (b"\0\x04MQTT", b"\0"),
        _ => (b"\0\x04MQTT", b""),
    };
    [name, &[level, flags, 0, 60], properties, b"\0\x01a", rest].concat()
}

#[test]
fn the_first_packet_is_connect_and_no_other() {
    check_all(&[
        ("PUBLISH first [MQTT-3.1.0-1; 3:3.1.0-1]", Server, 0x30, b"\0\x01a", Protocol),
        ("PINGREQ first", Server, 0xC0, b"", Protocol),
        ("AUTH first", Server, 0xF0, b"", Protocol),
        ("CONNACK to a server", Server5, 0x20, b"\0\0\0", Protocol),
    ]);
    for who in [Server4, Server5] {
        for level in [3, 4, 5] {
            check("second CONNECT [MQTT-3.1.0-2; 3:3.1.0-2]", who, 0x10, &connect(level, 2, b""), Protocol);
        }
    }
    for who in [Client4, Client5] {
        check("CONNECT to a client", who, 0x10, &connect(4, 2, b""), Protocol);
    }
}

#[test]
fn levels_3_4_and_5_are_served() {
    for level in 0..=255_u8 {
        let expected = if matches!(level, 3..=5) { Good } else { Level };
        check("level", Server, 0x10, &connect(level, 2, b""), expected);
    }
    check_all(&[
        ("MQTT at level 3", Server, 0x10, b"\0\x04MQTT\x03\x02\0\0\0\0", Level),
        ("MQIsdp at level 4", Server, 0x10, b"\0\x06MQIsdp\x04\x02\0\0\0\0", Level),
        ("another name [MQTT-3.1.2-1; 3:3.1.2-1]", Server, 0x10, b"\0\x04MQTS\x04\x02\0\0\0\0", Malformed),
        ("lower case", Server, 0x10, b"\0\x04mqtt\x04\x02\0\0\0\0", Malformed),
        ("empty name", Server, 0x10, b"\0\0\x04\x02\0\0\0\0", Malformed),
    ]);
    let bytes = packet(0x10, &connect(3, 2, b""));
    let Ok(Some((Packet::Connect(found), _))) = Server.decoder().next(&bytes) else { panic!("a CONNECT") };
    assert!(found.level3 && found.version == Version::V311);
}

#[test]
fn connect_flags_agree_with_the_payload() {
    for level in [3, 4, 5] {
        let will: &[u8] = if level == 5 { b"\0\0\x01w\0\x02ok" } else { b"\0\x01w\0\x02ok" };
        for (statement, flags, rest, expected) in [
            ("nothing", 0x00, &b""[..], Good),
            ("clean", 0x02, b"", Good),
            ("reserved flag [MQTT-3.1.2-3; 3:3.1.2-3]", 0x03, b"", Malformed),
            ("will", 0x06, will, Good),
            ("will, QoS 2, retain", 0x36, will, Good),
            ("will QoS 3 [MQTT-3.1.2-12; 3:3.1.2-14]", 0x1E, will, Malformed),
            ("will QoS without will [MQTT-3.1.2-11; 3:3.1.2-13]", 0x0A, b"", Malformed),
            ("will retain without will [MQTT-3.1.2-13; 3:3.1.2-15]", 0x22, b"", Malformed),
            ("will flag without will [MQTT-3.1.2-9; 3:3.1.2-9]", 0x06, b"", Malformed),
            ("will without will flag [3:3.1.2-11]", 0x02, will, Malformed),
            ("user name", 0x82, b"\0\x01u", Good),
            ("user name and password", 0xC2, b"\0\x01u\0\x02p\0", Good),
            ("empty user name", 0x82, b"\0\0", Good),
            ("user name flag without user name [MQTT-3.1.2-17; 3:3.1.2-19]", 0x82, b"", Malformed),
            ("user name without flag [MQTT-3.1.2-16; 3:3.1.2-18]", 0x02, b"\0\x01u", Malformed),
            ("password flag without password [MQTT-3.1.2-19; 3:3.1.2-21]", 0xC2, b"\0\x01u", Malformed),
            ("password without flag [MQTT-3.1.2-18; 3:3.1.2-20]", 0x82, b"\0\x01u\0\x01p", Malformed),
        ] {
            check(statement, Server, 0x10, &connect(level, flags, rest), expected);
        }
        let expected = if level == 5 { Good } else { Malformed };
        check("password without user name [3:3.1.2-22]", Server, 0x10, &connect(level, 0x42, b"\0\x01p"), expected);
        let wild: &[u8] = if level == 5 { b"\0\0\x01#\0\0" } else { b"\0\x01#\0\0" };
        check("wildcard in the will topic", Server, 0x10, &connect(level, 0x06, wild), Topic);
    }
    for (level, properties) in [(4, &b""[..]), (5, b"\0")] {
        let body = [&b"\0\x04MQTT"[..], &[level, 2, 0, 0], properties].concat();
        check("there is a client id [MQTT-3.1.3-3; 3:3.1.3-3]", Server, 0x10, &body, Malformed);
    }
    // Both are the server's to answer: 5.0 assigns an identifier, 3.1.1 gets CONNACK 2.
    check("empty client id, 5.0 [MQTT-3.1.3-6]", Server, 0x10, b"\0\x04MQTT\x05\0\0\0\0\0\0", Good);
    check("empty client id, kept session, 3.1.1 [3:3.1.3-8]", Server, 0x10, b"\0\x04MQTT\x04\0\0\0\0\0", Good);
}

#[test]
fn fields_of_a_full_connect_are_read() {
    let body = [
        &b"\0\x04MQTT\x05\xEE\x01\x02"[..],
        b"\x05\x11\0\0\0\x0A",
        b"\0\x03dev",
        b"\x0D\x18\0\0\0\x05\x01\x01\x03\0\x03csv",
        b"\0\x02w/\0\x03bye",
        b"\0\x01u\0\x01p",
    ]
    .concat();
    let bytes = packet(0x10, &body);
    let Ok(Some((Packet::Connect(found), _))) = Server.decoder().next(&bytes) else { panic!("a CONNECT") };
    let will = found.will.unwrap();
    assert_eq!((found.version, found.clean_start, found.keep_alive_secs), (Version::V5, true, 0x0102));
    assert_eq!(found.properties.session_expiry_interval_secs, Some(10));
    assert_eq!((found.client_id, found.username, found.password), ("dev", Some("u"), Some(&b"p"[..])));
    assert_eq!((will.topic, will.payload, will.retain, will.delay_secs), ("w/", &b"bye"[..], true, 5));
    assert_eq!(will.qos as u8, 1);
    assert_eq!((will.properties.payload_is_utf8(), will.properties.content_type()), (Some(true), Some("csv")));
    // The delay belongs to the session, not to the message.
    assert_eq!(&*will.properties.forwarded(), b"\x01\x01\x03\0\x03csv");

    // The order of the payload [MQTT-3.1.3-1, -3, 3.1.2-9; 3:3.1.3-1, -3, 3.1.2-9]
    let bytes = packet(0x10, b"\0\x04MQTT\x04\xEE\x01\x02\0\x03dev\0\x02w/\0\x03bye\0\x01u\0\x01p");
    let Ok(Some((Packet::Connect(old), _))) = Server.decoder().next(&bytes) else { panic!("a CONNECT") };
    let old_will = old.will.unwrap();
    assert_eq!((old.version, old.clean_start, old.keep_alive_secs), (Version::V311, true, 0x0102));
    assert_eq!((old.client_id, old.username, old.password), ("dev", Some("u"), Some(&b"p"[..])));
    assert_eq!((old_will.topic, old_will.payload, old_will.retain), ("w/", &b"bye"[..], true));
    assert_eq!(old_will.qos as u8, 1);
}

#[test]
fn a_refused_connect_is_answered_as_its_version_allows() {
    for (statement, body, expected) in [
        ("malformed, 5.0", connect(5, 3, b""), Some((Version::V5, ConnackCode::MalformedPacket))),
        ("malformed, 3.1.1: no CONNACK [3:3.1.4-1, 3.2.2-6]", connect(4, 3, b""), None),
        ("malformed, level 3", connect(3, 3, b""), None),
        ("wildcard in will topic", connect(5, 6, b"\0\0\x01#\0\0"), Some((Version::V5, ConnackCode::MalformedPacket))),
        ("level 6 [MQTT-3.1.2-2]", connect(6, 2, b""), Some((Version::V5, ConnackCode::UnsupportedProtocolVersion))),
        ("level 2 [3:3.1.2-2]", connect(2, 2, b""), Some((Version::V311, ConnackCode::UnsupportedProtocolVersion))),
        ("a bridge's bit 7", connect(0x84, 2, b""), Some((Version::V311, ConnackCode::UnsupportedProtocolVersion))),
        ("no MQTT at all", b"GET / HTTP/1.1".to_vec(), None),
        ("too short to say", b"\0\x04MQTT".to_vec(), None),
    ] {
        let error = Server.decoder().decode(0x10, &body).expect_err(statement);
        assert_eq!(connect_refusal(&body, &error), expected, "{statement}");
    }
}

#[test]
fn connack_is_consistent() {
    check_all(&[
        ("session present [MQTT-3.2.2-2]", Client5, 0x20, b"\x01\0\0", Good),
        ("session present with a refusal [MQTT-3.2.2-6]", Client5, 0x20, b"\x01\x87\0", Protocol),
        ("session present with a refusal [3:3.2.2-4]", Client4, 0x20, b"\x01\x05", Protocol),
        ("reserved acknowledge flags [MQTT-3.2.2-1]", Client5, 0x20, b"\x02\0\0", Malformed),
        ("reserved acknowledge flags", Client4, 0x20, b"\x80\0", Malformed),
        ("CONNACK without property length", Client5, 0x20, b"\0\0", Malformed),
    ]);
}

#[test]
fn disconnect_and_auth() {
    check_all(&[
        ("session expiry from a client", Server5, 0xE0, b"\0\x05\x11\0\0\0\x05", Good),
        ("session expiry from a server [MQTT-3.14.2-2]", Client5, 0xE0, b"\0\x05\x11\0\0\0\x05", Protocol),
        ("a server's reason", Client5, 0xE0, b"\x8B\0", Good),
        ("3.1.1 has no DISCONNECT from a server", Client4, 0xE0, b"", Protocol),
        ("AUTH in 3.1.1 is a reserved type (3: §2.2.1)", Server4, 0xF0, b"", Malformed),
        ("AUTH with method", Server5, 0xF0, b"\x18\x04\x15\0\x01m", Good),
        ("data without method", Server5, 0xF0, b"\x18\x04\x16\0\x01d", Protocol),
    ]);
}

#[test]
fn errors_map_to_reason_codes_and_cite_a_clause() {
    for (first_byte, body, code) in [
        (0x30, &b"\0\x02a\0\0"[..], DisconnectCode::MalformedPacket),
        (0x82, b"\0\x01\0", DisconnectCode::ProtocolError),
        (0x30, b"\0\x01#\0", DisconnectCode::MalformedPacket),
        (0x82, b"\0\x01\0\0\x02##\0", DisconnectCode::MalformedPacket),
        (0x30, b"\0\x01a\x03\x23\0\0", DisconnectCode::TopicAliasInvalid),
    ] {
        let error = Server5.decoder().decode(first_byte, body).expect_err("bad bytes");
        assert_eq!(error.disconnect_code(), code, "{error}");
    }
    assert_eq!(DecodeError::TooLarge { len: 2, max: 1 }.disconnect_code(), DisconnectCode::PacketTooLarge);
    let error = Server5.decoder().decode(0x82, b"\0\x01\0").expect_err("no filter");
    assert_eq!(error.to_string(), "protocol error: SUBSCRIBE has no filter [MQTT-3.8.3-2; 3:3.8.3-3]");
}

/// Level 3 sends these again with DUP (MQTT 3.1 §3.6, §3.8, §3.10); the later levels have reserved the bit.
#[test]
fn only_level_3_repeats_control_packets_with_dup() {
    for packet in [&b"\x6a\x02\0\x07"[..], b"\x8a\x06\0\x07\0\x01a\x01", b"\xaa\x05\0\x07\0\x01a"] {
        let mut decoder = Decoder::server(1 << 20);
        decoder.set_version(Version::V311);
        assert!(decoder.next(packet).is_err(), "{packet:02x?}");
        decoder.set_level3();
        assert!(decoder.next(packet).unwrap().is_some(), "{packet:02x?}");
        let mut other = packet.to_vec();
        other[0] ^= 1;
        assert!(decoder.next(&other).is_err(), "{other:02x?}");
    }
}
