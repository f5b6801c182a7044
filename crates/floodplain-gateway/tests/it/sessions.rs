//! Sessions that outlive their connection, and the server.

use crate::server::{Client, Server, connect, packet, text};

const EXPIRY_HOUR: [u8; 5] = [0x11, 0, 0, 0x0e, 0x10];

fn subscribe(id: u16, filter: &str, options: u8) -> Vec<u8> {
    packet(0x82, &[&id.to_be_bytes()[..], &text(filter), &[options]].concat())
}

/// A 3.1.1 client with a session that is kept.
fn lasting(server: &Server, id: &str, present: u8) -> Client {
    let mut client = server.raw();
    client.send(&connect(4, 0, 60, &[], id));
    client.expect(&[0x20, 2, present, 0]);
    client
}

fn publish_1(publisher: &mut Client, topic: &str, range: std::ops::Range<u8>) {
    for i in range.clone() {
        publisher.send(&packet(0x32, &[&text(topic)[..], &[0, i + 1, i]].concat()));
    }
    for i in range {
        publisher.expect(&[0x40, 2, 0, i + 1]);
    }
}

/// Takes QoS 1 messages with these one-byte payloads in order, and acknowledges them.
fn take_1(client: &mut Client, topic: &str, range: std::ops::Range<u8>) {
    for i in range {
        let got = client.packet();
        let body = &got[2..];
        assert_eq!(got[0] & 0xf6, 0x32, "{got:02x?}");
        assert_eq!(&body[..2 + topic.len()], text(topic), "{got:02x?}");
        assert_eq!(body[body.len() - 1], i, "{got:02x?}");
        let id = &body[2 + topic.len()..4 + topic.len()];
        client.send(&[0x40, 2, id[0], id[1]]);
    }
}

#[test]
fn what_was_published_during_sleep_is_delivered_at_wake_up() {
    let server = Server::start();
    let mut subscriber = lasting(&server, "sleeper", 0);
    subscriber.send(&subscribe(1, "a/+", 1));
    subscriber.expect(b"\x90\x03\x00\x01\x01");
    let mut publisher = server.v3("pub");
    publish_1(&mut publisher, "a/x", 0..10);
    take_1(&mut subscriber, "a/x", 0..10);
    subscriber.send(b"\xe0\x00");
    subscriber.expect_close();
    publish_1(&mut publisher, "a/x", 10..30);
    publish_1(&mut publisher, "b/x", 30..40);
    let mut subscriber = lasting(&server, "sleeper", 1);
    take_1(&mut subscriber, "a/x", 10..30);
    // And live again.
    publish_1(&mut publisher, "a/x", 40..50);
    take_1(&mut subscriber, "a/x", 40..50);
    subscriber.expect_silence();
}

#[test]
fn sessions_survive_a_restart_of_the_server() {
    let server = Server::start();
    let mut subscriber = lasting(&server, "sleeper", 0);
    subscriber.send(&subscribe(1, "a/+", 1));
    subscriber.expect(b"\x90\x03\x00\x01\x01");
    let mut publisher = server.v3("pub");
    publish_1(&mut publisher, "a/x", 0..10);
    take_1(&mut subscriber, "a/x", 0..5);
    subscriber.expect_pong();
    drop(subscriber);
    let server = server.restart();
    let mut publisher = server.v3("pub");
    publish_1(&mut publisher, "a/x", 10..20);
    let mut subscriber = lasting(&server, "sleeper", 1);
    take_1(&mut subscriber, "a/x", 5..20);
    subscriber.expect_silence();
}

#[test]
fn unacknowledged_messages_come_again_with_the_same_id_and_dup() {
    let server = Server::start();
    let mut subscriber = server.v5("sleeper", &EXPIRY_HOUR);
    subscriber.send(&packet(0x82, &[b"\x00\x01\x00", &text("t")[..], &[2]].concat()));
    subscriber.expect(b"\x90\x04\x00\x01\x00\x02");
    let mut publisher = server.v3("pub");
    publish_1(&mut publisher, "t", 0..1);
    subscriber.expect(b"\x32\x07\x00\x01t\x00\x01\x00\x00");
    publisher.send(b"\x34\x06\x00\x01t\x00\x09y");
    publisher.expect(b"\x50\x02\x00\x09");
    subscriber.expect(b"\x34\x07\x00\x01t\x00\x02\x00y");
    // QoS 1 stays open, QoS 2 is between PUBREC and PUBCOMP.
    subscriber.send(b"\x50\x02\x00\x02");
    subscriber.expect(b"\x62\x02\x00\x02");
    drop(subscriber);
    let mut subscriber = server.raw();
    subscriber.send(&connect(5, 0, 60, &EXPIRY_HOUR, "sleeper"));
    let connack = subscriber.packet();
    assert_eq!(connack[2..4], [1, 0]);
    subscriber.expect(b"\x62\x02\x00\x02");
    subscriber.expect(b"\x3a\x07\x00\x01t\x00\x01\x00\x00");
    subscriber.send(b"\x70\x02\x00\x02\x40\x02\x00\x01");
    subscriber.expect_silence();
    // The ids are free again, and nothing comes a second time.
    drop(subscriber);
    let mut subscriber = server.raw();
    subscriber.send(&connect(5, 0, 60, &EXPIRY_HOUR, "sleeper"));
    assert_eq!(subscriber.packet()[2..4], [1, 0]);
    subscriber.expect_silence();
}

#[test]
fn a_clean_start_forgets_the_session() {
    let server = Server::start();
    let mut subscriber = lasting(&server, "s", 0);
    subscriber.send(&subscribe(1, "t", 1));
    subscriber.expect(b"\x90\x03\x00\x01\x01");
    drop(subscriber);
    let clean = server.v3("s");
    drop(clean);
    let mut publisher = server.v3("pub");
    publish_1(&mut publisher, "t", 0..1);
    let mut again = lasting(&server, "s", 0);
    again.expect_silence();
}

#[test]
fn a_newer_connection_takes_over() {
    let server = Server::start();
    let mut old = server.v5("one", &[]);
    let mut new = server.v5("one", &[]);
    old.expect(b"\xe0\x01\x8e");
    old.expect_close();
    new.expect_silence();
}

#[test]
fn a_subscriber_that_reads_slowly_gets_everything_from_the_log() {
    let server = Server::start();
    let mut subscriber = server.v3("slow");
    subscriber.send(&subscribe(1, "t", 1));
    subscriber.expect(b"\x90\x03\x00\x01\x01");
    let mut publisher = server.v3("pub");
    // Far more than window and queue hold.
    for round in 0..20 {
        publish_1(&mut publisher, "t", 0..100);
        assert!(round < 20);
    }
    for _ in 0..20 {
        take_1(&mut subscriber, "t", 0..100);
    }
    publish_1(&mut publisher, "t", 0..10);
    take_1(&mut subscriber, "t", 0..10);
    subscriber.expect_silence();
}

#[test]
fn qos_2_publishers_may_repeat_after_a_restart() {
    let server = Server::start();
    let mut publisher = lasting(&server, "pub", 0);
    publisher.send(b"\x34\x06\x00\x01t\x00\x09x");
    publisher.expect(b"\x50\x02\x00\x09");
    drop(publisher);
    let server = server.restart();
    let mut subscriber = server.v3("sub");
    subscriber.send(&subscribe(1, "t", 0));
    subscriber.expect(b"\x90\x03\x00\x01\x00");
    let mut publisher = lasting(&server, "pub", 1);
    publisher.send(b"\x3c\x06\x00\x01t\x00\x09x");
    publisher.expect(b"\x50\x02\x00\x09");
    publisher.send(b"\x62\x02\x00\x09");
    publisher.expect(b"\x70\x02\x00\x09");
    // Stored before, so not delivered again; afterwards the id is new.
    publisher.send(b"\x34\x06\x00\x01t\x00\x09z");
    publisher.expect(b"\x50\x02\x00\x09");
    subscriber.expect(b"\x30\x04\x00\x01tz");
}

#[test]
fn the_will_fires_when_the_connection_breaks_and_not_after_disconnect() {
    let server = Server::start();
    let mut subscriber = server.v3("sub");
    subscriber.send(&subscribe(1, "w/#", 1));
    subscriber.expect(b"\x90\x03\x00\x01\x01");
    let with_will = |flags: u8, id: &str| {
        let body = [&b"\x00\x04MQTT\x04"[..], &[flags], &[0, 60], &text(id), &text("w/t"), &text(id)].concat();
        let mut client = server.raw();
        client.send(&packet(0x10, &body));
        client.expect(b"\x20\x02\x00\x00");
        client
    };
    let mut leaves = with_will(0x06, "leaves");
    leaves.send(b"\xe0\x00");
    leaves.expect_close();
    drop(with_will(0x06, "breaks0"));
    subscriber.expect(b"\x30\x0c\x00\x03w/tbreaks0");
    drop(with_will(0x0e, "breaks1"));
    subscriber.expect(b"\x32\x0e\x00\x03w/t\x00\x01breaks1");
}

/// MQTT 3.1: CONNACK has no session present, and SUBSCRIBE and PUBREL may be sent again with DUP.
#[test]
fn a_client_of_level_3_finds_its_session() {
    let server = Server::start();
    let connect = packet(0x10, b"\x00\x06MQIsdp\x03\x00\x00\x3c\x00\x03old");
    for qos in [1, 2] {
        let mut client = server.raw();
        client.send(&connect);
        client.expect(b"\x20\x02\x00\x00");
        if qos == 1 {
            let again = |first| packet(first, &[b"\x00\x01", &text("t")[..], b"\x01"].concat());
            client.send(&[again(0x82), again(0x8a)].concat());
            client.expect(b"\x90\x03\x00\x01\x01\x90\x03\x00\x01\x01");
            continue;
        }
        let mut publisher = server.v3("pub");
        publish_1(&mut publisher, "t", 0..1);
        take_1(&mut client, "t", 0..1);
        client.send(b"\x34\x05\x00\x01x\x00\x09\x6a\x02\x00\x09\x6a\x02\x00\x09");
        client.expect(b"\x50\x02\x00\x09\x70\x02\x00\x09\x70\x02\x00\x09");
    }
}

/// Subscription identifier, No Local and Retain As Published are of the session: a restart keeps them.
#[test]
fn options_of_a_subscription_survive_a_restart() {
    let server = Server::start();
    let mut subscriber = server.v5("s", &EXPIRY_HOUR);
    // QoS 1, No Local, Retain As Published, subscription identifier 7.
    subscriber.send(&packet(0x82, &[b"\x00\x01\x02\x0b\x07", &text("t")[..], &[1 | 4 | 8]].concat()));
    subscriber.expect(b"\x90\x04\x00\x01\x00\x01");
    drop(subscriber);
    let server = server.restart();
    let mut subscriber = server.raw();
    subscriber.send(&connect(5, 0, 60, &EXPIRY_HOUR, "s"));
    assert_eq!(subscriber.packet()[2..4], [1, 0]);
    subscriber.send(b"\x32\x07\x00\x01t\x00\x09\x00o");
    subscriber.expect(b"\x40\x02\x00\x09");
    let mut publisher = server.v3("pub");
    publisher.send(b"\x33\x06\x00\x01t\x00\x01r");
    publisher.expect(b"\x40\x02\x00\x01");
    let got = subscriber.packet();
    assert_eq!((got[0], &got[5..]), (0x33, &[0, 1, 2, 0x0b, 7, b'r'][..]), "{got:02x?}");
    subscriber.expect_silence();
}
