//! Bad bytes close their connection, and nothing else happens.

use crate::{
    client::Client,
    target::{Server, each, each_version},
    wire::{self, Connect, MAXIMUM_PACKET_SIZE, Packet, Prop, Publish, SUBSCRIPTION_ID, Version, packet},
};
use anyhow::{Context, ensure};
use std::io::Read;

/// Sends `bytes` on a good connection, which must be closed, while another one lives on.
fn closes(t: &crate::target::Target, v: Version, what: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let mut bystander = Client::clean(t.mqtt, v, &t.id("bystander"))?;
    bystander.subscribe(&t.topic("x"), 1)?;
    let mut client = Client::clean(t.mqtt, v, &t.id("bad"))?;
    client.send(bytes)?;
    let seen = client.until_closed().with_context(|| what.to_owned())?;
    let fine = seen.iter().all(|p| matches!(p, Packet::Disconnect { code: 0x80.. }));
    ensure!(fine, "{what}: before closing came {seen:?}");
    bystander.say(&t.topic("x"), "alive", 1)?;
    bystander.hears(&t.topic("x"), "alive")?;
    bystander.leave()
}

#[test]
fn malformed_packets_close_only_their_connection() {
    // [MQTT-4.13.1-1; 3:4.8.0-1]
    each_version(|t, v| {
        let v5 = v == Version::V5;
        let topic = t.topic("x");
        let publish = |p: Publish| p.encode(v);
        let mut cases: Vec<(&str, Vec<u8>)> = vec![
            ("packet type 0", vec![0x00, 0]),
            ("reserved flags of PINGREQ", vec![0xc1, 0]),
            ("reserved flags of SUBSCRIBE [MQTT-3.8.1-1; 3:3.8.1-1]", {
                let mut b = wire::subscribe(v, 1, &[], &[(&topic, 0)]);
                b[0] = 0x80;
                b
            }),
            ("reserved flags of UNSUBSCRIBE [MQTT-3.10.1-1; 3:3.10.1-1]", {
                let mut b = wire::unsubscribe(v, 1, &[&topic]);
                b[0] = 0xa0;
                b
            }),
            ("reserved flags of PUBREL [3:3.6.1-1]", vec![0x60, 2, 0, 1]),
            ("QoS 3", {
                let mut b = publish(Publish { id: 1, ..Publish::new(&topic, "", 1) });
                b[0] = 0x36;
                b
            }),
            ("packet identifier 0", publish(Publish::new(&topic, "", 1))),
            ("subscribe with packet identifier 0", wire::subscribe(v, 0, &[], &[(&topic, 0)])),
            ("subscribe without filter", wire::subscribe(v, 1, &[], &[])),
            ("unsubscribe without filter", wire::unsubscribe(v, 1, &[])),
            ("subscribe with QoS 3", wire::subscribe(v, 1, &[], &[(&topic, 3)])),
            ("reserved bits of the options", wire::subscribe(v, 1, &[], &[(&topic, 0xc0)])),
            ("wildcard in a topic name [MQTT-4.7.0-1; 3:4.7.1-1]", publish(Publish::new(t.topic("+"), "", 0))),
            ("'#' in a topic name", publish(Publish::new(t.topic("#"), "", 0))),
            ("empty topic name", publish(Publish::new("", "", 0))),
            ("remaining length of five bytes", vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x01]),
            ("topic longer than its packet", packet(0x30, &[0, 200, b'a'])),
            ("packet without its topic", packet(0x30, &[0])),
            ("topic that is not UTF-8 [MQTT-3.3.2-1; 3:3.3.2-1]", packet(0x30, &[0, 2, 0xc3, 0x28, 0])),
            ("surrogate in a topic", packet(0x30, &[0, 3, 0xed, 0xa0, 0x80, 0])),
            ("U+0000 in a topic [MQTT-4.7.3-2; 3:4.7.3-2]", packet(0x30, &[0, 2, b'a', 0, 0])),
            ("CONNACK from a client", packet(0x20, if v5 { &[0, 0, 0] } else { &[0, 0] })),
            ("SUBACK from a client", packet(0x90, &[0, 1, 0])),
            ("PINGRESP from a client", vec![0xd0, 0]),
            ("bytes after the last field", packet(0xc0, &[0])),
        ];
        if v5 {
            let prop = |prop| publish(Publish::new(&topic, "", 0).with(prop));
            cases.extend([
                ("retain handling 3", wire::subscribe(v, 1, &[], &[(&topic, 0x30)])),
                ("subscription identifier from a client", prop(Prop::Var(SUBSCRIPTION_ID, 1))),
                ("subscription identifier 0", wire::subscribe(v, 1, &[Prop::Var(SUBSCRIPTION_ID, 0)], &[(&topic, 0)])),
                ("unknown property", prop(Prop::Byte(0x7e, 0))),
                ("property of another packet", prop(Prop::Four(0x11, 1))),
                ("payload format 2", prop(Prop::Byte(0x01, 2))),
                ("topic alias 0", prop(Prop::Two(0x23, 0))),
                ("wildcard in the response topic", prop(Prop::Text(0x08, "a/#".into()))),
                ("property twice", publish(Publish::new(&topic, "", 0).with(Prop::Four(2, 1)).with(Prop::Four(2, 1)))),
                ("properties longer than their packet", packet(0x30, &[0, 1, b'a', 100])),
                ("no local on a shared filter", wire::subscribe(v, 1, &[], &[("$share/g/a", 4)])),
                ("AUTH without method", packet(0xf0, &[])),
            ]);
        } else {
            cases.push(("AUTH in 3.1.1", packet(0xf0, &[])));
        }
        for (what, bytes) in cases {
            closes(t, v, what, &bytes)?;
        }
        Ok(())
    });
}

#[test]
fn flags_that_are_reserved_close_with_0x81() {
    // [MQTT-2.1.3-1, 3.6.1-1, 3.8.1-1, 3.10.1-1, 3.14.1-1, 3.15.1-1, 4.13.1-1],
    // [3:2.2.2-1, -2, 3.6.1-1, 3.8.1-1, 3.10.1-1, 3.14.1-1]
    each_version(|t, v| {
        let subscribe = wire::subscribe(v, 1, &[], &[(&t.topic("a"), 0)]);
        let unsubscribe = wire::unsubscribe(v, 1, &[&t.topic("a")]);
        let mut packets = vec![subscribe, unsubscribe, vec![0xc0, 0], wire::disconnect(v, 0, &[])];
        packets.extend([wire::PUBACK, wire::PUBREC, wire::PUBREL, wire::PUBCOMP].map(|kind| wire::ack(kind, 1)));
        if v == Version::V5 {
            packets.push(vec![0xf0, 0]);
        }
        for good in packets {
            for flags in (0..16).filter(|flags| *flags != good[0] & 15) {
                let mut bytes = good.clone();
                bytes[0] = good[0] & 0xf0 | flags;
                let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
                client.send(&bytes)?;
                let seen = client.until_closed().with_context(|| format!("{bytes:02x?}"))?;
                let told = if v == Version::V5 { &[Packet::Disconnect { code: 0x81 }][..] } else { &[] };
                ensure!(seen == told, "{bytes:02x?}: {seen:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_small_client_gets_its_disconnect_without_words() {
    // [MQTT-3.14.2-3]
    let server = Server::fresh().unwrap();
    for (max, has_words) in [(1_000, true), (20, false)] {
        let mut connect = Connect::new(Version::V5, "c");
        connect.props.push(Prop::Four(MAXIMUM_PACKET_SIZE, max));
        let (mut client, _) = Client::resume(server.mqtt, &connect).unwrap();
        client.send(&[0xc1, 0]).unwrap();
        let mut answer = Vec::new();
        client.socket().read_to_end(&mut answer).unwrap();
        assert!(answer[0] == 0xe0 && answer[2] == 0x81, "{answer:02x?}");
        assert_eq!(answer == [0xe0, 1, 0x81], !has_words, "{answer:02x?}");
    }
}

#[test]
fn bad_filters_are_refused_or_close() {
    // §4.7.1: a misplaced wildcard is malformed; a broker may also answer 0x8F (0x80 in 3.1.1).
    each_version(|t, v| {
        for filter in ["a#", "a/#/b", "a+", "+a/b", "", "a/b+"] {
            let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
            client.send(&wire::subscribe(v, 1, &[], &[(filter, 0)]))?;
            match client.recv() {
                Ok(Packet::Suback { codes, .. }) => ensure!(codes.iter().all(|c| *c >= 0x80), "{filter}: {codes:?}"),
                Ok(Packet::Disconnect { code }) => ensure!(code >= 0x80, "{filter}: {code:#x}"),
                Ok(other) => anyhow::bail!("{filter}: {other:?}"),
                Err(_) => {}
            }
        }
        Ok(())
    });
}

#[test]
fn malformed_connects_are_closed() {
    // [MQTT-3.1.4-1]
    each_version(|t, v| {
        let good = Connect::new(v, t.id("c")).encode();
        let edit = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let mut cases = vec![
            ("protocol name", edit(4, b'X')),
            ("reserved connect flag", edit(9, 3)),
            ("reserved flags", edit(0, 0x11)),
            ("bytes after the last field", {
                let mut b = good.clone();
                b[1] += 1;
                b.push(0);
                b
            }),
            ("client id longer than the packet", {
                let mut b = good.clone();
                let at = b.len() - t.id("c").len() - 1;
                b[at] += 1;
                b
            }),
            ("will QoS 3", edit(9, 0x1e)),
        ];
        if v == Version::V311 {
            cases.push(("password without user name", {
                let mut b = good.clone();
                b[9] |= 0x40;
                b[1] += 3;
                b.extend([0, 1, b'x']);
                b
            }));
        }
        for (what, bytes) in cases {
            let mut client = Client::open(t.mqtt, v)?;
            client.send(&bytes)?;
            let seen = client.until_closed().with_context(|| what.to_owned())?;
            let fine =
                seen.iter().all(|p| matches!(p, Packet::Connack { code: 1 | 0x80..=0x84, session_present: false, .. }));
            ensure!(fine, "{what}: {seen:?}");
            // [3:3.1.4-1, 3.2.2-6]: a malformed 3.1.1 CONNECT is closed without CONNACK.
            ensure!(v == Version::V5 || seen.is_empty() || what == "protocol name", "{what}: {seen:?}");
        }
        Client::clean(t.mqtt, v, &t.id("c"))?.leave()
    });
}

#[test]
fn too_large_a_packet_closes_before_it_is_read() {
    // [MQTT-3.2.2-15]
    each_version(|t, v| {
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        // 256 MiB announced, nothing sent: nobody should wait for it, or keep room for it.
        client.send(&[0x30, 0xff, 0xff, 0xff, 0x7f])?;
        let seen = client.until_closed()?;
        ensure!(seen.iter().all(|p| matches!(p, Packet::Disconnect { code: 0x95 })), "{seen:?}");
        Ok(())
    });
}

#[test]
fn noise_does_no_harm() {
    each(|t| {
        // A fixed generator: the same noise in every run.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut bystander = Client::clean(t.mqtt, Version::V5, &t.id("bystander"))?;
        for round in 0..300 {
            let v = wire::BOTH[round % 2];
            let mut client = Client::open(t.mqtt, v)?;
            let mut bytes = if round % 3 == 0 { Vec::new() } else { Connect::new(v, t.id("noise")).encode() };
            for _ in 0..next() % 200 {
                bytes.push(next() as u8);
            }
            // The broker may close in the middle of it.
            drop(client.send(&bytes));
        }
        bystander.ping()?;
        Client::clean(t.mqtt, Version::V311, &t.id("after"))?.leave()
    });
}
