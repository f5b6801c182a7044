//! Connect, publish, subscribe.

use crate::server::{Server, connect, packet, text};

fn subscribe(id: u16, filter: &str, options: u8) -> Vec<u8> {
    packet(0x82, &[&id.to_be_bytes()[..], &text(filter), &[options]].concat())
}

#[test]
fn qos_0_is_delivered_live_in_both_versions() {
    let server = Server::start();
    let mut old = server.v3("sub3");
    old.send(&subscribe(7, "a/+", 0));
    old.expect(b"\x90\x03\x00\x07\x00");
    let mut new = server.v5("sub5", &[]);
    new.send(&packet(0x82, &[b"\x00\x08\x02\x0b\x05", &text("a/#")[..], &[0]].concat()));
    new.expect(b"\x90\x04\x00\x08\x00\x00");
    let mut publisher = server.v3("pub");
    publisher.send(b"\x30\x07\x00\x03a/bhi");
    old.expect(b"\x30\x07\x00\x03a/bhi");
    new.expect(b"\x30\x0a\x00\x03a/b\x02\x0b\x05hi");
}

#[test]
fn qos_1_is_acknowledged_and_delivered_after_commit() {
    let server = Server::start();
    let mut subscriber = server.v3("sub");
    subscriber.send(&subscribe(1, "t", 1));
    subscriber.expect(b"\x90\x03\x00\x01\x01");
    let mut publisher = server.v3("pub");
    for i in 0..100_u8 {
        publisher.send(&[b"\x32\x06\x00\x01t\x00", &[i + 1, i][..]].concat());
    }
    for i in 0..100_u8 {
        publisher.expect(&[0x40, 2, 0, i + 1]);
        subscriber.expect(&[b"\x32\x06\x00\x01t\x00", &[i + 1, i][..]].concat());
        subscriber.send(&[0x40, 2, 0, i + 1]);
    }
}

#[test]
fn qos_2_both_ways() {
    let server = Server::start();
    let mut subscriber = server.v3("sub");
    subscriber.send(&subscribe(1, "t", 2));
    subscriber.expect(b"\x90\x03\x00\x01\x02");
    let mut publisher = server.v3("pub");
    publisher.send(b"\x34\x06\x00\x01t\x00\x09x");
    publisher.expect(b"\x50\x02\x00\x09");
    publisher.send(b"\x3c\x06\x00\x01t\x00\x09x");
    publisher.expect(b"\x50\x02\x00\x09");
    publisher.send(b"\x62\x02\x00\x09");
    publisher.expect(b"\x70\x02\x00\x09");
    subscriber.expect(b"\x34\x06\x00\x01t\x00\x01x");
    subscriber.send(b"\x50\x02\x00\x01");
    subscriber.expect(b"\x62\x02\x00\x01");
    subscriber.send(b"\x70\x02\x00\x01");
    subscriber.expect_silence();
}

#[test]
fn retained_messages_come_with_a_subscription() {
    let server = Server::start();
    let mut publisher = server.v3("pub");
    // QoS 0: appended, and nobody waited for it.
    publisher.send(b"\x31\x04\x00\x01tx");
    publisher.expect_silence();
    let mut subscriber = server.v3("sub");
    subscriber.send(&subscribe(1, "#", 1));
    subscriber.expect(b"\x90\x03\x00\x01\x01");
    subscriber.expect(b"\x31\x04\x00\x01tx");
    publisher.send(b"\x31\x03\x00\x01t");
    subscriber.expect(b"\x30\x03\x00\x01t");
    let mut late = server.v3("late");
    late.send(&subscribe(1, "#", 1));
    late.expect(b"\x90\x03\x00\x01\x01");
    late.expect_silence();
}

#[test]
fn connack_of_5_0_announces_the_limits() {
    let server = Server::start();
    let mut client = server.raw();
    client.send(&connect(5, 2, 60, &[], ""));
    let connack = client.packet();
    let has = |property: &[u8]| connack.windows(property.len()).any(|window| window == property);
    assert!(has(b"\x21\x01\x00"), "receive maximum 256: {connack:02x?}");
    assert!(has(b"\x22\x00\x20"), "topic alias maximum 32");
    assert!(has(b"\x2a\x00"), "no shared subscriptions");
    assert!(has(b"\x12\x00\x23fp-"), "assigned client identifier");
    assert!(has(b"\x26\x00\x0efloodplain-ack\x00\x03all"), "what an acknowledgement means");
}

#[test]
fn stop_tells_5_0_clients() {
    let server = Server::start();
    let mut new = server.v5("new", &[]);
    let mut old = server.v3("old");
    server.stop();
    new.expect(b"\xe0\x01\x8b");
    new.expect_close();
    old.expect_close();
}
