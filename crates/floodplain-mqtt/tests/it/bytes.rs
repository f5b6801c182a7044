//! Statements on bytes: strings, integers, flags, lengths, properties, short forms.

use floodplain_mqtt::{DecodeError, Decoder, Frame, Packet, PacketType, Version};

use crate::check::{
    Is::{self, Alias, Good, Malformed, Protocol, Topic},
    Who::{Client4, Client5, Server, Server4, Server5},
    check, check_all, packet, verdict,
};

#[test]
fn strings_are_well_formed_utf_8() {
    let cases: &[(&str, &[u8], Is)] = &[
        ("ASCII", b"a", Good),
        ("two, three and four bytes", "ä€😀".as_bytes(), Good),
        ("EF BB BF is a character and stays [MQTT-1.5.4-3; 3:1.5.3-3]", b"\xEF\xBB\xBFa", Good),
        ("U+FFFF is discouraged, not forbidden (§1.5.4)", b"\xEF\xBF\xBF", Good),
        ("U+0001 is discouraged, not forbidden (§1.5.4)", b"\x01", Good),
        ("U+0000 [MQTT-1.5.4-2, 4.7.3-2; 3:1.5.3-2, 4.7.3-2]", b"a\0", Malformed),
        ("surrogate U+D800 [MQTT-1.5.4-1; 3:1.5.3-1]", b"\xED\xA0\x80", Malformed),
        ("surrogate U+DFFF", b"\xED\xBF\xBF", Malformed),
        ("overlong NUL", b"\xC0\x80", Malformed),
        ("overlong '/'", b"\xC0\xAF", Malformed),
        ("lone continuation", b"\x80", Malformed),
        ("cut sequence", b"\xE2\x82", Malformed),
        ("above U+10FFFF", b"\xF4\x90\x80\x80", Malformed),
        ("never a byte of UTF-8", b"\xFF", Malformed),
    ];
    for &(statement, text, expected) in cases {
        let string = [&(text.len() as u16).to_be_bytes()[..], text].concat();
        // The topic is the first field of PUBLISH [MQTT-3.3.2-1; 3:3.3.2-1].
        check(statement, Server4, 0x30, &string, expected);
        check(statement, Server5, 0x30, &[&string[..], b"\0"].concat(), expected);
        // Filters [MQTT-3.8.3-1, 3.10.3-1; 3:3.8.3-1, 3.10.3-1]
        check(statement, Server4, 0x82, &[b"\0\x01", &string[..], b"\0"].concat(), expected);
        check(statement, Server5, 0x82, &[b"\0\x01\0", &string[..], b"\0"].concat(), expected);
        check(statement, Server4, 0xA2, &[b"\0\x01\0\x01a", &string[..]].concat(), expected);
        check(statement, Server5, 0xA2, &[b"\0\x01\0\0\x01a", &string[..]].concat(), expected);
        for level in [4, 5] {
            let properties: &[u8] = if level == 5 { b"\0" } else { b"" };
            let connect = |flags: u8, rest: &[u8]| {
                let body = [b"\0\x04MQTT", &[level, flags, 0, 0][..], properties, rest].concat();
                check(statement, Server, 0x10, &body, expected);
            };
            // Client identifier [MQTT-3.1.3-4; 3:3.1.3-4], will topic [MQTT-3.1.3-11; 3:3.1.3-10] and user name
            // [MQTT-3.1.3-12; 3:3.1.3-11].
            connect(0x02, &string);
            connect(0x06, &[b"\0\x01a", properties, &string, b"\0\0"].concat());
            connect(0x82, &[b"\0\x01a", &string[..]].concat());
        }
        // Response topic [MQTT-3.3.2-13] and content type [MQTT-3.3.2-19]
        for id in [0x08_u8, 0x03] {
            let property = [&[id], &string[..]].concat();
            let body = [b"\0\x01a", &[property.len() as u8][..], &property].concat();
            check(statement, Server5, 0x30, &body, expected);
        }
        // Both strings of a pair [MQTT-1.5.7-1]
        for user in [[b"\x26\0\x01k", &string[..]].concat(), [b"\x26", &string[..], b"\0\x01v"].concat()] {
            check(statement, Server5, 0x40, &[b"\0\x01\0", &[user.len() as u8][..], &user].concat(), expected);
        }
    }
    // The character that is kept is in the packet.
    let bytes = packet(0x30, b"\0\x04\xEF\xBB\xBFa");
    let Ok(Some((Packet::Publish(publish), _))) = Server4.decoder().next(&bytes) else { panic!("a PUBLISH") };
    assert_eq!(publish.topic, "\u{FEFF}a");
}

#[test]
fn remaining_length_has_at_most_four_bytes_in_5_0_in_their_shortest_form() {
    for who in [Server4, Server5] {
        // 3.1.1 bounds the number of bytes and no more (3: §2.2.3).
        let padded = matches!(who, Server4);
        for (bytes, good) in [
            (&b"\xC0\x00"[..], true),
            (b"\xC0\x80\x00", padded),
            (b"\xC0\x80\x80\x00", padded),
            (b"\xC0\x80\x80\x80\x00", padded),
            (b"\xC0\x80\x80\x80\x80\x00", false),
            (b"\x30\xFF\xFF\xFF\xFF", false),
            (b"\x30\x80\x80\x80\x80\x01", false),
        ] {
            let found = who.decoder().frame(bytes);
            assert_eq!(matches!(found, Ok(Frame::Complete { .. })), good, "{bytes:02x?}");
            assert_eq!(matches!(found, Err(DecodeError::Malformed(_))), !good, "{bytes:02x?}");
        }
    }
    // [MQTT-1.5.5-1] holds for property lengths and subscription identifiers, too.
    check("property length 80 00", Server5, 0x30, b"\0\x01a\x80\0", Malformed);
    check("subscription identifier 81 00", Server5, 0x82, b"\0\x01\x03\x0B\x81\0\0\x01a\0", Malformed);
    check(
        "subscription identifier of five bytes",
        Server5,
        0x82,
        b"\0\x01\x06\x0B\xFF\xFF\xFF\xFF\x01\0\x01a\0",
        Malformed,
    );
    check("the greatest subscription identifier", Server5, 0x82, b"\0\x01\x05\x0B\xFF\xFF\xFF\x7F\0\x01a\0", Good);
}

/// What a first byte allows, by the tables of both standards:
/// [MQTT-2.1.3-1, 3.6.1-1, 3.8.1-1, 3.10.1-1, 3.14.1-1, 3.15.1-1], [3:2.2.2-1, -2, 3.6.1-1, 3.8.1-1, 3.10.1-1, 3.14.1-1].
#[test]
fn types_flags_and_directions_are_judged_by_the_first_byte() {
    for who in [Server, Server4, Server5, Client4, Client5] {
        for first_byte in 0..=255_u8 {
            let flags = first_byte & 15;
            let kind = PacketType::of(first_byte);
            let flags_fit = match kind {
                None => false,
                Some(PacketType::Publish) => !matches!(flags, 6 | 7 | 14 | 15 | 8 | 9),
                Some(PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe) => flags == 2,
                Some(_) => flags == 0,
            };
            let v5 = matches!(who, Server5 | Client5);
            let direction_fits = match (who, first_byte >> 4) {
                (Server, kind) => kind == 1,
                (_, 15) => v5,
                (Server4 | Server5, kind) => matches!(kind, 3..=8 | 10 | 12 | 14),
                (Client4, 14) => false,
                (_, kind) => matches!(kind, 2..=7 | 9 | 11 | 13 | 14),
            };
            let found = who.decoder().frame(&[first_byte]);
            assert_eq!(found.is_ok(), flags_fit && direction_fits, "{who:?} {first_byte:#04x}: {found:?}");
            if !flags_fit {
                assert!(matches!(found, Err(DecodeError::Malformed(_))), "{who:?} {first_byte:#04x}: {found:?}");
            }
        }
    }
}

#[test]
fn a_packet_is_refused_before_it_is_buffered() {
    let mut decoder = Decoder::server(1000);
    decoder.set_version(Version::V5);
    assert_eq!(decoder.frame(b""), Ok(Frame::Incomplete { needed: 2 }));
    assert_eq!(decoder.frame(b"\x30"), Ok(Frame::Incomplete { needed: 2 }));
    assert_eq!(decoder.frame(b"\x30\x80"), Ok(Frame::Incomplete { needed: 3 }));
    assert_eq!(decoder.frame(b"\x30\xE5\x07"), Ok(Frame::Incomplete { needed: 1000 }));
    assert_eq!(decoder.frame(b"\x30\xE6\x07"), Err(DecodeError::TooLarge { len: 1001, max: 1000 }));
    assert_eq!(decoder.frame(b"\x30\xFF\xFF\xFF\x7F"), Err(DecodeError::TooLarge { len: 268_435_460, max: 1000 }));
    // More bytes than the packet has belong to the next one.
    assert_eq!(decoder.frame(b"\xC0\0\xC0"), Ok(Frame::Complete { first_byte: 0xC0, body: 2..2 }));
    for bytes in [&b"\xC0\x01"[..], b"\x40\x01", b"\x30\x01", b"\x82\x00"] {
        assert!(matches!(decoder.frame(bytes), Err(DecodeError::Malformed(_))), "{bytes:02x?}");
    }
    decoder.set_version(Version::V311);
    for bytes in [&b"\x40\x03"[..], b"\x50\x04", b"\x62\x03", b"\x70\x00", b"\xE0\x01"] {
        assert!(matches!(decoder.frame(bytes), Err(DecodeError::Malformed(_))), "{bytes:02x?}");
    }
}

#[test]
fn every_prefix_of_a_packet_is_incomplete() {
    for (who, bytes) in [
        (Server5, packet(0x32, b"\0\x03a/b\0\x07\x05\x02\0\0\0\x05payload")),
        (Server4, packet(0x30, &[b"\0\x01a", &[7; 200][..]].concat())),
        (Client5, packet(0x20, b"\0\0\x03\x21\0\x05")),
    ] {
        for cut in 0..bytes.len() {
            let Ok(Frame::Incomplete { needed }) = who.decoder().frame(&bytes[..cut]) else {
                panic!("{cut} of {bytes:02x?}")
            };
            assert!(needed > cut && needed <= bytes.len());
        }
        assert_eq!(verdict(who, &bytes).0, Good);
    }
}

#[test]
fn every_byte_belongs_to_a_field() {
    check_all(&[
        ("a field past the end", Server5, 0x40, b"\0\x01\0\x05", Malformed),
        ("a string past the end", Server4, 0x30, b"\0\x05a", Malformed),
        ("a property length past the end", Server5, 0x30, b"\0\x01a\x05\x01\x01", Malformed),
        ("a property past the property length", Server5, 0x30, b"\0\x01a\x02\x02\0\0\0\x05", Malformed),
        ("bytes after PUBACK's properties", Server5, 0x40, b"\0\x01\0\0x", Malformed),
        ("bytes after DISCONNECT's properties", Server5, 0xE0, b"\0\0x", Malformed),
        ("bytes after AUTH's properties", Server5, 0xF0, b"\0\x04\x15\0\x01mx", Malformed),
        ("bytes after CONNACK", Client5, 0x20, b"\0\0\0x", Malformed),
        ("bytes after CONNACK, 3.1.1", Client4, 0x20, b"\0\0x", Malformed),
        ("bytes after CONNECT", Server, 0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x01ax", Malformed),
        ("bytes after CONNECT, 3.1.1", Server, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01ax", Malformed),
        ("bytes after PINGREQ", Server5, 0xC0, b"x", Malformed),
        ("a PUBLISH without topic length", Server4, 0x30, b"\0", Malformed),
        ("a PUBLISH without property length [MQTT-2.2.2-1]", Server5, 0x30, b"\0\x01a", Malformed),
        ("a PUBLISH without packet identifier", Server4, 0x32, b"\0\x01a", Malformed),
        ("half a filter", Server4, 0x82, b"\0\x01\0\x03a", Malformed),
        ("a filter without options", Server4, 0x82, b"\0\x01\0\x01a", Malformed),
    ]);
}

#[test]
fn packet_identifier_0_is_refused() {
    for (first_byte, rest) in [
        (0x32, &b""[..]),
        (0x34, b""),
        (0x40, b""),
        (0x50, b""),
        (0x62, b""),
        (0x70, b""),
        (0x82, b"\0\x01a\0"),
        (0xA2, b"\0\x01a"),
    ] {
        for (who, properties) in [(Server4, &b""[..]), (Server5, b"\0")] {
            let is_ack = matches!(first_byte, 0x40..=0x70);
            let topic: &[u8] = if first_byte < 0x40 { b"\0\x01a" } else { b"" };
            let properties = if is_ack { b"" } else { properties };
            for (id, expected) in [([0, 0], Protocol), ([0, 1], Good), ([255, 255], Good)] {
                let body = [topic, &id, properties, rest].concat();
                check("[MQTT-2.2.1-3; 3:2.3.1-1]", who, first_byte, &body, expected);
            }
        }
    }
    check("SUBACK", Client5, 0x90, b"\0\0\0\0", Protocol);
    check("UNSUBACK, 3.1.1", Client4, 0xB0, b"\0\0", Protocol);
}

/// Table 2-4 of MQTT 5.0: what each packet may carry, once.
#[test]
fn properties_stand_where_they_belong_and_once() {
    // Identifier, a good value, the places: C CONNECT, c CONNACK, P PUBLISH to a client, W will, A acks,
    // S SUBSCRIBE, s SUBACK, U UNSUBSCRIBE, u UNSUBACK, D DISCONNECT to a server, X AUTH.
    let table: &[(u8, &[u8], &str)] = &[
        (0x01, b"\x01", "PW"),
        (0x02, b"\0\0\0\x01", "PW"),
        (0x03, b"\0\x01t", "PW"),
        (0x08, b"\0\x01t", "PW"),
        (0x09, b"\0\x01\0", "PW"),
        (0x0B, b"\x01", "PS"),
        (0x11, b"\0\0\0\x01", "CcD"),
        (0x12, b"\0\x01i", "c"),
        (0x13, b"\0\x01", "c"),
        (0x15, b"\0\x01m", "CcX"),
        (0x16, b"\0\x01\0", "CcX"),
        (0x17, b"\0", "C"),
        (0x18, b"\0\0\0\x01", "W"),
        (0x19, b"\x01", "C"),
        (0x1A, b"\0\x01i", "c"),
        (0x1C, b"\0\x01s", "cD"),
        (0x1F, b"\0\x01r", "cAsuDX"),
        (0x21, b"\0\x01", "Cc"),
        (0x22, b"\0\x01", "Cc"),
        (0x23, b"\0\x01", "P"),
        (0x24, b"\x01", "c"),
        (0x25, b"\x01", "c"),
        (0x26, b"\0\x01k\0\x01v", "CcPWASsUuDX"),
        (0x27, b"\0\0\0\x01", "Cc"),
        (0x28, b"\x01", "c"),
        (0x29, b"\x01", "c"),
        (0x2A, b"\x01", "c"),
    ];
    // Place, receiver, first byte, what is before and behind the properties.
    let carriers = [
        ('C', Server, 0x10, &b"\0\x04MQTT\x05\x02\0\0"[..], &b"\0\x01a"[..]),
        ('c', Client5, 0x20, b"\0\0", b""),
        ('P', Client5, 0x30, b"\0\x01a", b"payload"),
        ('W', Server, 0x10, b"\0\x04MQTT\x05\x06\0\0\0\0\x01a", b"\0\x01w\0\x01p"),
        ('A', Server5, 0x40, b"\0\x01\0", b""),
        ('A', Server5, 0x50, b"\0\x01\0", b""),
        ('A', Server5, 0x62, b"\0\x01\0", b""),
        ('A', Server5, 0x70, b"\0\x01\0", b""),
        ('S', Server5, 0x82, b"\0\x01", b"\0\x01a\0"),
        ('s', Client5, 0x90, b"\0\x01", b"\0"),
        ('U', Server5, 0xA2, b"\0\x01", b"\0\x01a"),
        ('u', Client5, 0xB0, b"\0\x01", b"\0"),
        ('D', Server5, 0xE0, b"\0", b""),
        ('X', Server5, 0xF0, b"\0", b""),
    ];
    let mut checked = 0;
    for id in 0..=0x7F_u8 {
        let row = table.iter().find(|row| row.0 == id);
        let (value, places) = row.map_or((&b"\0\0\0\0\0\0"[..], ""), |row| (row.1, row.2));
        for (place, who, first_byte, before, after) in carriers {
            // Authentication data needs its method; AUTH needs one always.
            let method: &[u8] = match (id, place) {
                (0x16, 'C' | 'c') | (_, 'X') if id != 0x15 => b"\x15\0\x01m",
                _ => b"",
            };
            for (times, expected) in [
                (1, if places.contains(place) { Good } else { Malformed }),
                (
                    2,
                    match (places.contains(place), id, place) {
                        (false, ..) => Malformed,
                        // User properties repeat; a server names every subscription that matched (§3.3.2.3.8).
                        (true, 0x26, _) | (true, 0x0B, 'P') => Good,
                        _ => Protocol,
                    },
                ),
            ] {
                let property = [&[id], value].concat().repeat(times);
                let block = [method, &property].concat();
                let body = [before, &[block.len() as u8], &block, after].concat();
                check(&format!("property {id:#04x} {times} times in {place}"), who, first_byte, &body, expected);
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 128 * 14 * 2);
}

#[test]
fn values_of_properties_are_checked() {
    let connect = |block: &[u8]| [b"\0\x04MQTT\x05\x02\0\0", &[block.len() as u8][..], block, b"\0\x01a"].concat();
    let connack = |block: &[u8]| [b"\0\0", &[block.len() as u8][..], block].concat();
    for (statement, block, expected) in [
        ("receive maximum 0", &b"\x21\0\0"[..], Protocol),
        ("maximum packet size 0", b"\x27\0\0\0\0", Protocol),
        ("topic alias maximum 0 is a value", b"\x22\0\0", Good),
        ("session expiry never", b"\x11\xFF\xFF\xFF\xFF", Good),
        ("data without method", b"\x16\0\x01d", Protocol),
        ("data with method", b"\x15\0\x01m\x16\0\x01d", Good),
        ("data before method", b"\x16\0\x01d\x15\0\x01m", Good),
    ] {
        check(statement, Server, 0x10, &connect(block), expected);
        check(statement, Client5, 0x20, &connack(block), expected);
    }
    for id in [0x17, 0x19] {
        for (value, expected) in [(0, Good), (1, Good), (2, Protocol), (255, Protocol)] {
            check("a boolean is 0 or 1", Server, 0x10, &connect(&[id, value]), expected);
        }
    }
    for id in [0x24, 0x25, 0x28, 0x29, 0x2A] {
        for (value, expected) in [(0, Good), (1, Good), (2, Protocol), (255, Protocol)] {
            check("a boolean is 0 or 1", Client5, 0x20, &connack(&[id, value]), expected);
        }
    }
    check_all(&[
        ("payload format 2 (§3.3.2.3.2)", Server5, 0x30, b"\0\x01a\x02\x01\x02", Protocol),
        ("topic alias 0 [MQTT-3.3.2-8]", Server5, 0x30, b"\0\x01a\x03\x23\0\0", Alias),
        ("subscription identifier 0 in PUBLISH", Client5, 0x30, b"\0\x01a\x02\x0B\0", Protocol),
        ("subscription identifier 0 in SUBSCRIBE", Server5, 0x82, b"\0\x01\x02\x0B\0\0\x01a\0", Protocol),
        ("response topic # [MQTT-3.3.2-14]", Server5, 0x30, b"\0\x01a\x06\x08\0\x03a/#", Topic),
        ("response topic + [MQTT-3.3.2-14]", Server5, 0x30, b"\0\x01a\x04\x08\0\x01+", Topic),
        ("empty response topic [MQTT-4.7.3-1]", Server5, 0x30, b"\0\x01a\x03\x08\0\0", Topic),
        ("unknown property 0x7F", Server5, 0x30, b"\0\x01a\x02\x7F\0", Malformed),
        ("identifier as a longer integer", Server5, 0x30, b"\0\x01a\x03\x81\0\x01", Malformed),
    ]);
}

#[test]
fn short_forms_stand_for_success() {
    for first_byte in [0x40, 0x50, 0x62, 0x70] {
        check("length 2 = success (§3.4.2.1)", Server5, first_byte, b"\0\x01", Good);
        check("length 3 = code without property length (§3.4.2.2.1)", Server5, first_byte, b"\0\x01\0", Good);
        check("length 4 = code and property length", Server5, first_byte, b"\0\x01\0\0", Good);
        check("3.1.1 has the identifier only", Server4, first_byte, b"\0\x01", Good);
    }
    check_all(&[
        ("PUBACK 0x87 in three bytes", Server5, 0x40, b"\0\x01\x87", Good),
        ("PUBREL 0x92 in three bytes", Server5, 0x62, b"\0\x01\x92", Good),
        ("DISCONNECT of length 0", Server5, 0xE0, b"", Good),
        ("DISCONNECT of length 0, 3.1.1", Server4, 0xE0, b"", Good),
        ("DISCONNECT of length 1", Server5, 0xE0, b"\x04", Good),
        ("DISCONNECT of length 2", Server5, 0xE0, b"\x04\0", Good),
        ("AUTH of length 0", Server5, 0xF0, b"", Good),
        ("AUTH without property length is no short form (§3.15.2.1)", Server5, 0xF0, b"\x18", Malformed),
        ("AUTH names its method (§3.15.2.2.2)", Server5, 0xF0, b"\x18\0", Protocol),
        ("SUBACK has a property length", Client5, 0x90, b"\0\x01", Malformed),
    ]);
    for (bytes, text) in [
        (packet(0x40, b"\0\x01"), "Success"),
        (packet(0x62, b"\0\x01"), "Success"),
        (packet(0xE0, b""), "NormalDisconnection"),
        (packet(0xF0, b""), "Success"),
    ] {
        assert!(verdict(Server5, &bytes).1.contains(text), "{bytes:02x?}");
    }
}

/// [MQTT-3.2.2-8], [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1], [MQTT-3.9.3-2], [MQTT-3.11.3-2],
/// [MQTT-3.14.2-1], [MQTT-3.15.2-1]; the sets themselves are compared with the standard's tables beside their enums.
#[test]
fn codes_of_another_packet_are_refused() {
    check_all(&[
        ("PUBACK", Server5, 0x40, b"\0\x01\x92", Protocol),
        ("PUBREC", Server5, 0x50, b"\0\x01\x01", Protocol),
        ("PUBREL", Server5, 0x62, b"\0\x01\x10", Protocol),
        ("PUBCOMP", Server5, 0x70, b"\0\x01\x80", Protocol),
        ("SUBACK", Client5, 0x90, b"\0\x01\0\x03", Protocol),
        ("SUBACK in 3.1.1 knows 0, 1, 2, 0x80 [3:3.9.3-2]", Client4, 0x90, b"\0\x01\x87", Protocol),
        ("SUBACK in 3.1.1", Client4, 0x90, b"\0\x01\0\x01\x02\x80", Good),
        ("UNSUBACK", Client5, 0xB0, b"\0\x01\0\x01", Protocol),
        ("UNSUBACK 0x11", Client5, 0xB0, b"\0\x01\0\x11", Good),
        ("CONNACK", Client5, 0x20, b"\0\x8B\0", Protocol),
        ("CONNACK 6 in 3.1.1 (3: table 3.1)", Client4, 0x20, b"\0\x06", Protocol),
        ("CONNACK 5 in 3.1.1", Client4, 0x20, b"\0\x05", Good),
        ("DISCONNECT", Server5, 0xE0, b"\x01", Protocol),
        ("AUTH", Server5, 0xF0, b"\x01\x04\x15\0\x01m", Protocol),
    ]);
}
