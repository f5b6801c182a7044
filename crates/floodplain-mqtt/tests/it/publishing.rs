//! Statements on PUBLISH and its acknowledgements that bytes alone decide.

use std::num::NonZeroU16;

use floodplain_mqtt::{MessagePropertiesBuf, Packet};

use crate::check::{
    Is::{Alias, Good, Malformed, Protocol, Topic},
    Who::{Client5, Server4, Server5},
    check, check_all, packet,
};

#[test]
fn topics_and_aliases() {
    check_all(&[
        ("empty topic without alias (§3.3.2.1)", Server5, 0x30, b"\0\0\0", Protocol),
        ("empty topic with alias", Server5, 0x30, b"\0\0\x03\x23\0\x01", Good),
        ("empty topic, 3.1.1 [3:4.7.3-1]", Server4, 0x30, b"\0\0", Topic),
        ("alias 0 [MQTT-3.3.2-8]", Server5, 0x30, b"\0\0\x03\x23\0\0", Alias),
        ("alias 65535: the caller knows its maximum", Server5, 0x30, b"\0\0\x03\x23\xFF\xFF", Good),
        ("wildcard # [MQTT-3.3.2-2, 4.7.0-1; 3:3.3.2-2, 4.7.1-1]", Server5, 0x30, b"\0\x03a/#\0", Topic),
        ("wildcard +", Server4, 0x30, b"\0\x03+/a", Topic),
        ("wildcard inside a level", Server4, 0x30, b"\0\x02a+", Topic),
        ("a slash alone is two empty levels", Server4, 0x30, b"\0\x01/", Good),
        ("a space is a character [MQTT-4.7.3-4]", Server4, 0x30, b"\0\x01 ", Good),
        ("$-topics are topics", Server4, 0x30, b"\0\x02$a", Good),
        ("empty payload", Server5, 0x31, b"\0\x01a\0", Good),
    ]);
    for len in [65_535_usize, 1] {
        let body = [&(len as u16).to_be_bytes()[..], &vec![b't'; len]].concat();
        check("1 to 65 535 bytes [MQTT-4.7.3-3]", Server4, 0x30, &body, Good);
    }
}

#[test]
fn flags_of_publish() {
    check_all(&[
        ("QoS 3 [MQTT-3.3.1-4]", Server5, 0x36, b"\0\x01a\0\x01\0", Malformed),
        ("QoS 3 [3:3.3.1-4]", Server4, 0x36, b"\0\x01a\0\x01", Malformed),
        ("DUP with QoS 0 [MQTT-3.3.1-2]", Server5, 0x38, b"\0\x01a\0", Malformed),
        ("DUP with QoS 0 [3:3.3.1-2]", Server4, 0x38, b"\0\x01a", Malformed),
        ("DUP with QoS 1", Server4, 0x3A, b"\0\x01a\0\x01", Good),
        ("DUP, QoS 2, RETAIN", Server5, 0x3D, b"\0\x01a\0\x01\0", Good),
        ("a client's subscription identifier [MQTT-3.3.4-6]", Server5, 0x30, b"\0\x01a\x02\x0B\x01", Protocol),
        ("a server's subscription identifiers", Client5, 0x30, b"\0\x01a\x04\x0B\x01\x0B\x02", Good),
    ]);
}

#[test]
fn fields_of_a_full_publish_are_read_in_place() {
    let properties =
        b"\x26\0\x01k\0\x01v\x23\0\x07\x01\x01\x02\0\0\0\x3C\x03\0\x01c\x08\0\x01r\x09\0\x02\0\xFF\x26\0\x01k\0\x01w";
    let body = [b"\0\x03a/b\x12\x34", &[properties.len() as u8][..], properties, b"payload"].concat();
    let bytes = packet(0x3B, &body);
    let Ok(Some((Packet::Publish(found), _))) = Server5.decoder().next(&bytes) else { panic!("a PUBLISH") };
    assert_eq!((found.dup, found.qos as u8, found.retain), (true, 1, true));
    assert_eq!(found.packet_id.unwrap().get(), 0x1234);
    assert_eq!((found.topic, found.payload), ("a/b", &b"payload"[..]));
    assert!(bytes.as_ptr_range().contains(&found.payload.as_ptr()), "borrowed");
    assert!(bytes.as_ptr_range().contains(&found.topic.as_ptr()), "borrowed");
    let p = found.properties;
    assert_eq!(p.topic_alias(), NonZeroU16::new(7));
    assert_eq!((p.payload_is_utf8(), p.message_expiry_secs()), (Some(true), Some(60)));
    assert_eq!((p.content_type(), p.response_topic()), (Some("c"), Some("r")));
    assert_eq!(p.correlation_data(), Some(&b"\0\xFF"[..]));
    // In order, names repeat [MQTT-3.3.2-18].
    assert!(p.user_properties().iter().eq([("k", "v"), ("k", "w")]));
    // Alias and expiry belong to the hop, the rest passes unaltered [MQTT-3.3.2-4, -15 to -18, -20].
    assert_eq!(&*p.forwarded(), b"\x26\0\x01k\0\x01v\x01\x01\x03\0\x01c\x08\0\x01r\x09\0\x02\0\xFF\x26\0\x01k\0\x01w");
}

#[test]
fn properties_are_built_as_they_are_read() {
    let mut built = MessagePropertiesBuf::new();
    built.payload_is_utf8(true).unwrap().message_expiry_secs(60).unwrap().content_type("c").unwrap();
    built.response_topic("r").unwrap().correlation_data(b"\0").unwrap().user("k", "v").unwrap();
    let found = built.properties().unwrap();
    assert_eq!((found.content_type(), found.message_expiry_secs()), (Some("c"), Some(60)));
    assert!(found.user_properties().iter().eq([("k", "v")]));
    built.content_type("twice").unwrap();
    assert!(built.properties().is_err());
    built.clear();
    assert!(built.properties().unwrap().is_empty());
    assert!(built.user("k", "\0").is_err());
    assert!(built.user(&"k".repeat(65_536), "v").is_err());
    assert!(built.response_topic("#").unwrap().properties().is_err());
}
