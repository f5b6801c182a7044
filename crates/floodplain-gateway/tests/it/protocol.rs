//! Statements of the standards about a server, as bytes.

use crate::server::{Client, Server, connect, packet, text};
use floodplain_broker::BrokerConfig;

/// What the server does after these bytes on a fresh connection.
enum Then {
    /// It answers this and closes.
    Closes(&'static [u8]),
    /// It closes without a word.
    Silent,
    /// It goes on.
    Answers(&'static [u8]),
}
use Then::{Answers, Closes, Silent};

fn check(server: &Server, what: &str, client: &mut Client, bytes: &[u8], then: &Then) {
    eprintln!("{what}");
    client.send(bytes);
    match then {
        Closes(answer) => {
            // Reason strings are for people: codes are compared.
            let got = client.packet();
            assert_eq!(got[0], answer[0], "{what}: {got:02x?}");
            assert_eq!(got[2..answer.len()], answer[2..], "{what}: {got:02x?}");
            client.expect_close();
        }
        Silent => client.expect_close(),
        Answers(answer) => client.expect(answer),
    }
    // Whatever one client does, the server serves the next.
    server.v3("next").expect_silence();
}

#[test]
fn connect_is_checked() {
    let server = Server::start();
    let v3 = |flags, id: &str| connect(4, flags, 60, &[], id);
    let v5 = |properties: &[u8], id: &str| connect(5, 2, 60, properties, id);
    let cases: Vec<(&str, Vec<u8>, Then)> = vec![
        ("first packet is CONNECT [MQTT-3.1.0-1]", b"\xc0\x00".to_vec(), Silent),
        ("unknown level [3:3.1.2-2]", connect(3, 2, 60, &[], "a"), Closes(b"\x20\x02\x00\x01")),
        ("level of a later version", connect(6, 2, 60, &[], "a"), Closes(b"\x20\x02\x00\x84")),
        ("malformed 3.1.1 CONNECT [3:3.1.4-1]", v3(3, "a"), Silent),
        ("reserved flag in 5.0 [MQTT-3.1.2-3]", connect(5, 3, 60, &[], "a"), Closes(b"\x20\x02\x00\x81")),
        ("empty id without clean session [3:3.1.3-8]", v3(0, ""), Closes(b"\x20\x02\x00\x02")),
        ("empty id with clean session", v3(2, ""), Answers(b"\x20\x02\x00\x00")),
        ("id of 256 bytes", v3(2, &"x".repeat(256)), Answers(b"\x20\x02\x00\x00")),
        ("id of 257 bytes", v3(2, &"x".repeat(257)), Closes(b"\x20\x02\x00\x02")),
        ("authentication method [MQTT-4.12.0-1]", v5(b"\x15\x00\x01x", "a"), Closes(b"\x20\x02\x00\x8c")),
        ("receive maximum 0", v5(b"\x21\x00\x00", "a"), Closes(b"\x20\x02\x00\x82")),
        ("property twice", v5(b"\x21\x00\x01\x21\x00\x01", "a"), Closes(b"\x20\x02\x00\x82")),
        ("MQIsdp", packet(0x10, b"\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01a"), Answers(b"\x20\x02\x00\x00")),
        (
            "MQIsdp without id (3.1 §3.1)",
            packet(0x10, b"\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x00"),
            Closes(b"\x20\x02\x00\x02"),
        ),
    ];
    for (what, bytes, then) in cases {
        check(&server, what, &mut server.raw(), &bytes, &then);
    }
}

#[test]
fn packets_of_3_1_1_are_checked() {
    let server = Server::start();
    let cases: Vec<(&str, Vec<u8>, Then)> = vec![
        ("second CONNECT [3:3.1.0-2]", connect(4, 2, 60, &[], "c"), Silent),
        ("wildcard in a topic name [MQTT-3.3.2-2]", b"\x30\x05\x00\x03a/+".to_vec(), Silent),
        ("QoS 3 [MQTT-3.3.1-4]", b"\x36\x05\x00\x01a\x00\x01".to_vec(), Silent),
        ("packet id 0 [3:2.3.1-1]", b"\x32\x05\x00\x01a\x00\x00".to_vec(), Silent),
        ("SUBSCRIBE without filter [3:3.8.3-3]", b"\x82\x02\x00\x01".to_vec(), Silent),
        ("SUBSCRIBE with wrong flags [3:3.8.1-1]", b"\x80\x06\x00\x01\x00\x01a\x00".to_vec(), Silent),
        ("QoS 3 in SUBSCRIBE [3:3.8.3-4]", b"\x82\x06\x00\x01\x00\x01a\x03".to_vec(), Silent),
        ("misplaced wildcard [MQTT-4.7.1-1]", b"\x82\x08\x00\x01\x00\x03a#b\x00".to_vec(), Silent),
        ("shared subscription", b"\x82\x0f\x00\x01\x00\x0a$share/g/a\x00".to_vec(), Answers(b"\x90\x03\x00\x01\x80")),
        ("UNSUBSCRIBE of nothing [MQTT-3.10.4-5]", b"\xa2\x05\x00\x07\x00\x01a".to_vec(), Answers(b"\xb0\x02\x00\x07")),
        ("unknown PUBREL", b"\x62\x02\x00\x07".to_vec(), Answers(b"\x70\x02\x00\x07")),
        ("unknown PUBACK", b"\x40\x02\x00\x07\xc0\x00".to_vec(), Answers(b"\xd0\x00")),
        ("PINGREQ", b"\xc0\x00".to_vec(), Answers(b"\xd0\x00")),
        ("DISCONNECT [MQTT-3.14.4-2]", b"\xe0\x00".to_vec(), Silent),
        ("AUTH does not exist", b"\xf0\x00".to_vec(), Silent),
    ];
    for (what, bytes, then) in cases {
        check(&server, what, &mut server.v3("c"), &bytes, &then);
    }
}

#[test]
fn packets_of_5_0_are_checked() {
    let server = Server::start();
    let cases: Vec<(&str, Vec<u8>, Then)> = vec![
        ("second CONNECT [MQTT-3.1.0-2]", connect(5, 2, 60, &[], "c"), Closes(b"\xe0\x01\x82")),
        ("empty topic without alias", b"\x30\x03\x00\x00\x00".to_vec(), Closes(b"\xe0\x01\x82")),
        ("unknown alias", b"\x30\x06\x00\x00\x03\x23\x00\x01".to_vec(), Closes(b"\xe0\x01\x82")),
        (
            "alias above the maximum [MQTT-3.3.2-8]",
            b"\x30\x07\x00\x01a\x03\x23\x00\x21".to_vec(),
            Closes(b"\xe0\x01\x94"),
        ),
        ("alias 0", b"\x30\x07\x00\x01a\x03\x23\x00\x00".to_vec(), Closes(b"\xe0\x01\x94")),
        (
            "subscription id from a client [MQTT-3.3.4-6]",
            b"\x30\x06\x00\x01a\x02\x0b\x01".to_vec(),
            Closes(b"\xe0\x01\x82"),
        ),
        (
            "topic of too many levels",
            packet(0x32, &[&text(&"/".repeat(256))[..], b"\x00\x05\x00"].concat()),
            Answers(b"\x40\x03\x00\x05\x90"),
        ),
        (
            "topic of too many levels, QoS 2",
            packet(0x34, &[&text(&"/".repeat(256))[..], b"\x00\x05\x00"].concat()),
            Answers(b"\x50\x03\x00\x05\x90"),
        ),
        (
            "topic of too many levels, QoS 0",
            packet(0x30, &[&text(&"/".repeat(256))[..], b"\x00"].concat()),
            Closes(b"\xe0\x01\x90"),
        ),
        ("packet over the limit", b"\x30\xff\xff\xff\x7f".to_vec(), Closes(b"\xe0\x01\x95")),
        (
            "shared subscriptions 0x9E",
            b"\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x00".to_vec(),
            Answers(b"\x90\x2d\x00\x01\x29\x1f\x00\x26shared subscriptions are not supported\x9e"),
        ),
        (
            "no local on a shared filter [MQTT-3.8.3-4]",
            b"\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x04".to_vec(),
            Closes(b"\xe0\x01\x82"),
        ),
        ("UNSUBSCRIBE of nothing", b"\xa2\x06\x00\x07\x00\x00\x01a".to_vec(), Answers(b"\xb0\x04\x00\x07\x00\x11")),
        ("unknown PUBREL 0x92", b"\x62\x02\x00\x07".to_vec(), Answers(b"\x70\x03\x00\x07\x92")),
        ("unknown PUBREC 0x92", b"\x50\x02\x00\x07".to_vec(), Answers(b"\x62\x03\x00\x07\x92")),
        ("AUTH without method [MQTT-4.12.0-6]", b"\xf0\x00".to_vec(), Closes(b"\xe0\x01\x82")),
        ("session expiry from zero", b"\xe0\x07\x00\x05\x11\x00\x00\x00\x01".to_vec(), Closes(b"\xe0\x01\x82")),
    ];
    for (what, bytes, then) in cases {
        check(&server, what, &mut server.v5("c", &[]), &bytes, &then);
    }
}

#[test]
fn what_follows_connect_is_handled_after_connack() {
    let server = Server::start();
    // A session that is stored: CONNACK waits for the log.
    let mut client = server.raw();
    client.send(&[connect(4, 0, 60, &[], "eager"), b"\x32\x05\x00\x01a\x00\x01\xc0\x00".to_vec()].concat());
    client.expect(b"\x20\x02\x00\x00");
    // PINGRESP does not wait for the log, PUBACK does.
    client.expect(b"\xd0\x00\x40\x02\x00\x01");
    // After a refusal nothing of it is handled [MQTT-3.1.4-6].
    let mut refused = server.raw();
    refused.send(&[connect(4, 0, 60, &[], ""), b"\xc0\x00".to_vec()].concat());
    refused.expect(b"\x20\x02\x00\x02");
    refused.expect_close();
}

#[test]
fn a_packet_may_come_byte_by_byte() {
    let server = Server::start();
    let mut client = server.raw();
    let bytes = [connect(4, 2, 60, &[], "slow"), b"\x82\x06\x00\x01\x00\x01a\x00\x30\x04\x00\x01ax".to_vec()].concat();
    for byte in bytes {
        client.send(&[byte]);
    }
    client.expect(b"\x20\x02\x00\x00\x90\x03\x00\x01\x00\x30\x04\x00\x01ax");
}

#[test]
fn a_large_message_passes() {
    let server = Server::start();
    let mut subscriber = server.v3("sub");
    subscriber.send(b"\x82\x06\x00\x01\x00\x01a\x01");
    subscriber.expect(b"\x90\x03\x00\x01\x01");
    let mut publisher = server.v3("pub");
    let payload = vec![0x55; 900 << 10];
    let sent = packet(0x32, &[b"\x00\x01a\x00\x01", &payload[..]].concat());
    publisher.send(&sent);
    publisher.expect(b"\x40\x02\x00\x01");
    subscriber.expect(&sent);
}

/// At the limit of the default and of the largest that may be configured everything passes; one byte more is refused
/// before it is read, to 5.0 in words: DISCONNECT 0x95, and CONNACK says the limit [MQTT-3.2.2-15].
#[test]
fn a_packet_has_as_many_bytes_as_the_limit_and_no_more() {
    for max in [BrokerConfig::default().maximum_packet_size, 7 << 20] {
        let broker = BrokerConfig { maximum_packet_size: max, ..BrokerConfig::default() };
        let server = Server::start_with(tempfile::tempdir().unwrap(), 2, broker);
        let mut subscriber = server.v3("sub");
        subscriber.send(b"\x82\x06\x00\x01\x00\x01a\x02");
        subscriber.expect(b"\x90\x03\x00\x01\x02");
        // One byte for the type, three or four for the length.
        let head = if max < 2 << 20 { 4 } else { 5 };
        let publish = |head_of_body: &[u8], len: usize| {
            let body = [head_of_body, &vec![0x55; len - head - head_of_body.len()]].concat();
            packet(0x32, &body)
        };
        let max = max as usize;
        let mut publisher = server.v3("pub3");
        let sent = publish(b"\x00\x01a\x00\x01", max);
        assert_eq!(sent.len(), max);
        publisher.send(&sent);
        publisher.expect(b"\x40\x02\x00\x01");
        subscriber.expect(&sent);
        subscriber.send(b"\x40\x02\x00\x01");
        publisher.send(&publish(b"\x00\x01a\x00\x01", max + 1)[..head]);
        publisher.expect_close();

        let mut publisher = server.raw();
        publisher.send(&connect(5, 2, 60, &[], "pub5"));
        let connack = publisher.packet();
        let told = [&[0x27][..], &(max as u32).to_be_bytes()].concat();
        assert!(connack.windows(5).any(|bytes| bytes == told), "{connack:02x?}");
        publisher.send(&publish(b"\x00\x01a\x00\x01\x00", max));
        assert_eq!(publisher.packet()[..4], *b"\x40\x02\x00\x01");
        assert_eq!(subscriber.packet().len(), max - 1);
        publisher.send(&publish(b"\x00\x01a\x00\x02\x00", max + 1)[..head]);
        let refused = publisher.packet();
        assert_eq!((refused[0], refused[2]), (0xe0, 0x95), "{refused:02x?}");
        publisher.expect_close();
    }
}

/// Ten thousand connections that say nothing, or half of it, and are gone: the next one is served.
#[test]
fn connections_that_are_opened_and_dropped_cost_nothing_later() {
    let server = Server::start();
    for n in 0..10_000 {
        let mut client = server.raw();
        match n % 4 {
            0 => {}
            1 => client.send(&connect(4, 2, 60, &[], "half")[..7]),
            // Lost before CONNACK is read: closing with unread bytes resets.
            2 => client.send(&connect(4, 2, 60, &[], &format!("gone{n}"))),
            _ => client.send(b"GET / HTTP/1.1\r\n\r\n"),
        }
    }
    server.v3("next").expect_silence();
}

#[test]
fn aliases_no_local_and_retain_as_published() {
    let server = Server::start();
    // No Local on `a`, Retain As Published on `b`.
    let mut client = server.v5("c", &[]);
    client.send(&packet(0x82, b"\x00\x01\x00\x00\x01a\x04\x00\x01b\x08"));
    client.expect(b"\x90\x05\x00\x01\x00\x00\x00");
    // Alias 1 is `a`, then used for `a`; alias 1 becomes `b`.
    client.send(&packet(0x30, b"\x00\x01a\x03\x23\x00\x01x"));
    client.send(&packet(0x31, b"\x00\x01b\x03\x23\x00\x01y"));
    client.send(&packet(0x30, b"\x00\x00\x03\x23\x00\x01z"));
    client.expect(b"\x31\x05\x00\x01b\x00y");
    client.expect(b"\x30\x05\x00\x01b\x00z");
    client.expect_silence();
}

#[test]
fn properties_pass_unaltered_and_expiry_is_known_to_the_subscriber() {
    let server = Server::start();
    let mut subscriber = server.v5("sub", &[]);
    subscriber.send(&packet(0x82, b"\x00\x01\x00\x00\x01a\x01"));
    subscriber.expect(b"\x90\x04\x00\x01\x00\x01");
    let mut publisher = server.v5("pub", &[]);
    let properties = b"\x02\x00\x00\x00\x64\x01\x01\x03\x00\x01c\x08\x00\x01r\x09\x00\x02\x00\xff\x26\x00\x01k\x00\x011\x26\x00\x01k\x00\x012";
    let body = [b"\x00\x01a\x00\x01", &[properties.len() as u8][..], properties, b"p"].concat();
    publisher.send(&packet(0x32, &body));
    publisher.expect(b"\x40\x02\x00\x01");
    subscriber.expect(&packet(0x32, &body));
}

#[test]
fn receive_maximum_bounds_both_ways() {
    let server = Server::start();
    // Ours is 256: the 257th QoS 2 message without PUBREL is too much.
    let mut publisher = server.v5("pub", &[]);
    for id in 1..=257_u16 {
        publisher.send(&packet(0x34, &[b"\x00\x01a", &id.to_be_bytes()[..], b"\x00"].concat()));
    }
    let mut got = publisher.packet();
    while got[0] == 0x50 {
        got = publisher.packet();
    }
    assert_eq!((got[0], got[2]), (0xe0, 0x93));
    publisher.expect_close();
    // The client's is 2: the third waits for an acknowledgement, other packets do not.
    let mut subscriber = server.v5("sub", b"\x21\x00\x02");
    subscriber.send(&packet(0x82, b"\x00\x01\x00\x00\x01b\x01"));
    subscriber.expect(b"\x90\x04\x00\x01\x00\x01");
    let mut publisher = server.v3("pub3");
    for id in 1..=3_u8 {
        publisher.send(&[0x32, 6, 0, 1, b'b', 0, id, id]);
        publisher.expect(&[0x40, 2, 0, id]);
    }
    subscriber.expect(b"\x32\x07\x00\x01b\x00\x01\x00\x01\x32\x07\x00\x01b\x00\x02\x00\x02");
    subscriber.expect_silence();
    subscriber.send(b"\x40\x02\x00\x02");
    subscriber.expect(b"\x32\x07\x00\x01b\x00\x03\x00\x03");
}

#[test]
fn a_message_larger_than_the_client_takes_is_left_out() {
    let server = Server::start();
    let mut subscriber = server.v5("sub", b"\x27\x00\x00\x00\x20");
    subscriber.send(&packet(0x82, b"\x00\x01\x00\x00\x01a\x01"));
    subscriber.expect(b"\x90\x04\x00\x01\x00\x01");
    let mut publisher = server.v3("pub");
    publisher.send(&packet(0x32, &[b"\x00\x01a\x00\x01", &[0x55; 40][..]].concat()));
    publisher.send(b"\x32\x06\x00\x01a\x00\x02x");
    publisher.expect(b"\x40\x02\x00\x01\x40\x02\x00\x02");
    subscriber.expect(b"\x32\x07\x00\x01a\x00\x01\x00x");
}

#[test]
fn retain_handling() {
    let server = Server::start();
    let mut live = server.v3("live");
    live.send(&packet(0x82, b"\x00\x01\x00\x01a\x01"));
    live.expect(b"\x90\x03\x00\x01\x01");
    let mut publisher = server.v3("pub");
    publisher.send(b"\x33\x06\x00\x01a\x00\x01x");
    publisher.expect(b"\x40\x02\x00\x01");
    // PUBACK says that it is kept, not that it has been passed on: a subscription before that may see it live.
    live.expect(b"\x32\x06\x00\x01a\x00\x01x");
    let mut client = server.v5("sub", &[]);
    let subscribe = |options: u8| packet(0x82, &[b"\x00\x01\x00\x00\x01a", &[options][..]].concat());
    // Do not send.
    client.send(&subscribe(0x20));
    client.expect(b"\x90\x04\x00\x01\x00\x00");
    client.expect_silence();
    // Send if the subscription is new: it is not.
    client.send(&subscribe(0x10));
    client.expect(b"\x90\x04\x00\x01\x00\x00");
    client.expect_silence();
    // Send.
    client.send(&subscribe(0x00));
    client.expect(b"\x90\x04\x00\x01\x00\x00\x31\x05\x00\x01a\x00x");
    client.send(&packet(0xa2, b"\x00\x02\x00\x00\x01a"));
    client.expect(b"\xb0\x04\x00\x02\x00\x00");
    client.send(&subscribe(0x10));
    client.expect(b"\x90\x04\x00\x01\x00\x00\x31\x05\x00\x01a\x00x");
}

#[test]
fn acknowledgements_leave_in_order_of_arrival() {
    let server = Server::start();
    let mut client = server.v3("c");
    let mut sent = Vec::new();
    let mut expected = Vec::new();
    for id in 1..=60_u8 {
        let (publish, ack) = if id % 3 == 0 { (0x34, 0x50) } else { (0x32, 0x40) };
        sent.extend([publish, 5, 0, 1, b'a', 0, id]);
        expected.extend([ack, 2, 0, id]);
    }
    client.send(&sent);
    client.expect(&expected);
}
