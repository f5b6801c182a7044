//! QoS 0, 1, 2, properties, order, topic aliases.

use crate::{
    client::Client,
    target::{Server, Target, each, each_version},
    wire::{
        self, CONTENT_TYPE, CORRELATION, Connect, MESSAGE_EXPIRY, PAYLOAD_FORMAT, PUBACK, PUBCOMP, PUBREC, PUBREL,
        Packet, Prop, Publish, RESPONSE_TOPIC, TOPIC_ALIAS, TOPIC_ALIAS_MAXIMUM, Version,
    },
};
use anyhow::{Result, ensure};
use std::time::Duration;

#[test]
fn delivered_qos_is_the_lower_of_published_and_granted() {
    // [MQTT-3.8.4-8; 3:3.8.4-6], and first with DUP 0 [MQTT-4.3.1-1, 4.3.2-2, 4.3.3-2; 3:4.3.1-1, 4.3.2-1, 4.3.3-1].
    each_version(delivered_qos);
}

pub(crate) fn delivered_qos(t: &Target, v: Version) -> Result<()> {
    for granted in 0..=2 {
        for published in 0..=2 {
            let topic = t.topic(&format!("{granted}/{published}"));
            let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
            subscriber.subscribe(&topic, granted)?;
            let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
            publisher.say(&topic, "x", published)?;
            let got = subscriber.hears(&topic, "x")?;
            ensure!(got.qos == granted.min(published), "{granted} and {published} gave {got:?}");
            ensure!(!got.dup && !got.retain, "{got:?}");
        }
    }
    Ok(())
}

#[test]
fn versions_mix() {
    for (from, to) in [(Version::V311, Version::V5), (Version::V5, Version::V311)] {
        each(|t| {
            let mut subscriber = Client::clean(t.mqtt, to, &t.id("s"))?;
            subscriber.subscribe(&t.topic("#"), 2)?;
            let mut publisher = Client::clean(t.mqtt, from, &t.id("p"))?;
            for qos in 0..=2 {
                publisher.say(&t.topic("a"), &format!("{qos}"), qos)?;
                subscriber.hears(&t.topic("a"), &format!("{qos}"))?;
            }
            Ok(())
        });
    }
}

#[test]
fn payloads_of_many_sizes_arrive_unaltered() {
    each_version(|t, v| {
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        client.subscribe(&t.topic("a"), 1)?;
        for len in [0, 1, 127, 128, 16_383, 16_384, 65_536, 300_000, 800_000] {
            let payload: Vec<u8> = (0..len).map(|i: usize| (i * 31 % 251) as u8).collect();
            client.publish(Publish::new(t.topic("a"), payload.clone(), 1))?;
            let got = client.message()?;
            ensure!(got.payload == payload, "{len} bytes came as {}", got.payload.len());
        }
        Ok(())
    });
}

#[test]
fn order_is_kept_per_publisher_and_qos() {
    // [MQTT-4.6.0-5, -6; 3:4.6.0-5]
    each_version(|t, v| {
        for qos in 0..=2 {
            let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
            subscriber.subscribe(&t.topic("#"), qos)?;
            let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
            let count = 15;
            let mut bytes = Vec::new();
            for n in 1..=count {
                bytes.extend(Publish { id: n, ..Publish::new(t.topic("a"), format!("{n}"), qos) }.encode(v));
            }
            publisher.send(&bytes)?;
            // Acks come in order [MQTT-4.6.0-2, -3], with the ids [MQTT-2.2.1-5, 4.3.2-4, 4.3.3-8; 3:2.3.1-6].
            for n in 1..=count {
                match qos {
                    0 => {}
                    1 => ensure!(matches!(publisher.recv()?, Packet::Ack { kind: PUBACK, id, .. } if id == n)),
                    _ => ensure!(matches!(publisher.recv()?, Packet::Ack { kind: PUBREC, id, .. } if id == n)),
                }
            }
            if qos == 2 {
                for n in 1..=count {
                    publisher.send(&wire::ack(PUBREL, n))?;
                }
                for n in 1..=count {
                    // [MQTT-4.3.3-11]
                    ensure!(matches!(publisher.recv()?, Packet::Ack { kind: PUBCOMP, id, .. } if id == n));
                }
            }
            // Nothing else is answered, above all not QoS 0 [MQTT-3.3.4-1; 3:3.3.4-1].
            publisher.ping()?;
            for n in 1..=count {
                subscriber.hears(&t.topic("a"), &format!("{n}"))?;
            }
        }
        Ok(())
    });
}

#[test]
fn qos_2_repeat_before_pubrel_is_one_message() {
    // [MQTT-4.3.3-10]; after PUBCOMP the identifier is new [MQTT-4.3.3-12]; all of it [3:4.3.3-2].
    each_version(|t, v| {
        let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
        subscriber.subscribe(&t.topic("a"), 2)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        let mut publish = Publish { id: 9, ..Publish::new(t.topic("a"), "once", 2) };
        for dup in [false, true, true] {
            publish.dup = dup;
            publisher.send(&publish.encode(v))?;
            ensure!(matches!(publisher.recv()?, Packet::Ack { kind: PUBREC, id: 9, code: 0 | 0x10 }));
        }
        // PUBREL may be repeated, too.
        for _ in 0..2 {
            publisher.send(&wire::ack(PUBREL, 9))?;
            ensure!(matches!(publisher.recv()?, Packet::Ack { kind: PUBCOMP, id: 9, .. }));
        }
        publish.payload = b"twice".to_vec();
        publish.dup = false;
        publisher.send(&publish.encode(v))?;
        ensure!(matches!(publisher.recv()?, Packet::Ack { kind: PUBREC, id: 9, .. }));
        publisher.send(&wire::ack(PUBREL, 9))?;
        ensure!(matches!(publisher.recv()?, Packet::Ack { kind: PUBCOMP, id: 9, .. }));
        subscriber.hears(&t.topic("a"), "once")?;
        subscriber.hears(&t.topic("a"), "twice")?;
        Ok(())
    });
}

#[test]
fn qos_1_id_is_free_after_its_puback() {
    // [MQTT-4.3.2-5; 3:4.3.2-2]: after the PUBACK the same id is a new message, whatever DUP says.
    each_version(|t, v| {
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        client.subscribe(&t.topic("a"), 1)?;
        for (text, dup) in [("a", false), ("b", true)] {
            client.send(&Publish { id: 5, dup, ..Publish::new(t.topic("a"), text, 1) }.encode(v))?;
            ensure!(matches!(client.answer()?, Packet::Ack { kind: PUBACK, id: 5, .. }));
            let got = client.hears(&t.topic("a"), text)?;
            // [MQTT-3.3.1-3; 3:3.3.1-3]: DUP is never passed on.
            ensure!(!got.dup, "{got:?}");
        }
        Ok(())
    });
}

#[test]
fn pubrel_of_an_unknown_id_is_answered() {
    each(|t| {
        let mut client = Client::clean(t.mqtt, Version::V5, &t.id("c"))?;
        client.send(&wire::ack(PUBREL, 77))?;
        ensure!(matches!(client.recv()?, Packet::Ack { kind: PUBCOMP, id: 77, code: 0x92 }));
        client.ping()
    });
}

#[test]
fn properties_are_passed_on_unaltered() {
    // [MQTT-3.3.2-4, -15, -16, -17, -18, -20]
    each(|t| {
        let v = Version::V5;
        let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
        subscriber.subscribe(&t.topic("a"), 1)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        let user = |k: &str, v: &str| Prop::User(k.into(), v.into());
        let sent = vec![
            user("b", "1"),
            Prop::Byte(PAYLOAD_FORMAT, 1),
            user("a", "2"),
            Prop::Text(CONTENT_TYPE, "application/json".into()),
            Prop::Text(RESPONSE_TOPIC, t.topic("answer")),
            user("b", "3"),
            Prop::Data(CORRELATION, vec![0, 255, 7]),
            user("", ""),
        ];
        publisher.publish(Publish { props: sent.clone(), ..Publish::new(t.topic("a"), "x", 1) })?;
        let got = subscriber.hears(&t.topic("a"), "x")?;
        ensure!(got.user_props() == [("b", "1"), ("a", "2"), ("b", "3"), ("", "")], "{got:?}");
        ensure!(got.props.len() == sent.len(), "{got:?}");
        for prop in &sent {
            ensure!(got.props.contains(prop), "{prop:?} is missing in {got:?}");
        }
        // A 3.1.1 client gets the message without them.
        let mut old = Client::clean(t.mqtt, Version::V311, &t.id("o"))?;
        old.subscribe(&t.topic("a"), 1)?;
        publisher.publish(Publish { props: sent, ..Publish::new(t.topic("a"), "y", 1) })?;
        old.hears(&t.topic("a"), "y")?;
        Ok(())
    });
}

#[test]
fn message_expiry_is_passed_on() {
    each(|t| {
        let v = Version::V5;
        let mut client = Client::clean(t.mqtt, v, &t.id("c"))?;
        client.subscribe(&t.topic("a"), 1)?;
        client.publish(Publish::new(t.topic("a"), "x", 1).with(Prop::Four(MESSAGE_EXPIRY, 600)))?;
        let got = client.hears(&t.topic("a"), "x")?;
        let left = got.props.iter().find_map(|p| if let Prop::Four(MESSAGE_EXPIRY, s) = p { Some(*s) } else { None });
        ensure!(left.is_some_and(|s| (590..=600).contains(&s)), "{got:?}");
        Ok(())
    });
}

/// The property of two bytes with this identifier.
fn two(props: &[Prop], identifier: u8) -> Option<u16> {
    props.iter().find_map(|prop| match prop {
        Prop::Two(found, value) if *found == identifier => Some(*value),
        _ => None,
    })
}

#[test]
fn topic_alias_of_the_client() {
    each(|t| {
        let v = Version::V5;
        let (mut client, connack) = Client::connect(t.mqtt, &Connect::new(v, t.id("c")))?;
        let maximum = two(&connack.props, TOPIC_ALIAS_MAXIMUM);
        let Some(alias) = maximum.filter(|n| *n > 0) else {
            // Not offered: using one is an error [MQTT-3.2.2-17].
            client.send(&Publish::new(t.topic("a"), "x", 0).with(Prop::Two(TOPIC_ALIAS, 1)).encode(v))?;
            let seen = client.until_closed()?;
            ensure!(seen == [Packet::Disconnect { code: 0x94 }], "{seen:?}");
            return Ok(());
        };
        client.subscribe(&t.topic("#"), 1)?;
        client.publish(Publish::new(t.topic("a"), "1", 1).with(Prop::Two(TOPIC_ALIAS, alias)))?;
        client.publish(Publish::new("", "2", 1).with(Prop::Two(TOPIC_ALIAS, alias)))?;
        client.publish(Publish::new(t.topic("b"), "3", 1).with(Prop::Two(TOPIC_ALIAS, alias)))?;
        client.publish(Publish::new("", "4", 1).with(Prop::Two(TOPIC_ALIAS, alias)))?;
        for (topic, text) in [("a", "1"), ("a", "2"), ("b", "3"), ("b", "4")] {
            let got = client.hears(&t.topic(topic), text)?;
            // This client allowed none, so the broker uses none [MQTT-3.1.2-26, -27, 3.3.2-11].
            ensure!(two(&got.props, TOPIC_ALIAS).is_none(), "{got:?}");
        }
        // Mappings end with the connection [MQTT-3.3.2-7].
        let mut again = Client::clean(t.mqtt, v, &t.id("d"))?;
        again.send(&Publish::new("", "5", 0).with(Prop::Two(TOPIC_ALIAS, alias)).encode(v))?;
        again.until_closed()?;
        // Above the maximum: 0x94 [MQTT-3.3.2-9].
        if let Some(above) = alias.checked_add(1) {
            client.send(&Publish::new(t.topic("a"), "6", 0).with(Prop::Two(TOPIC_ALIAS, above)).encode(v))?;
            let seen = client.until_closed()?;
            ensure!(seen == [Packet::Disconnect { code: 0x94 }], "{seen:?}");
        }
        Ok(())
    });
}

#[test]
fn aliases_towards_a_client_are_those_that_it_allows() {
    // [MQTT-3.1.2-26, -27, 3.3.2-11]
    let server = Server::fresh().unwrap();
    let v = Version::V5;
    for maximum in [0, 2, u16::MAX] {
        let mut connect = Connect::new(v, "s");
        connect.props.push(Prop::Two(TOPIC_ALIAS_MAXIMUM, maximum));
        let (mut subscriber, _) = Client::resume(server.mqtt, &connect).unwrap();
        subscriber.subscribe("devices/#", 1).unwrap();
        let mut publisher = Client::clean(server.mqtt, v, "p").unwrap();
        let mut topics = std::collections::BTreeMap::new();
        // Twice each, and with both QoS: the second time an alias is enough.
        for (round, n) in (0..2).flat_map(|round| (0..20).map(move |n| (round, n))) {
            let topic = format!("devices/{n}/state");
            publisher.say(&topic, &topic, n % 2).unwrap();
            let got = subscriber.message().unwrap();
            let alias = two(&got.props, TOPIC_ALIAS);
            assert!(alias.is_none_or(|alias| 1 <= alias && alias <= maximum), "{got:?}");
            if let Some(alias) = alias.filter(|_| !got.topic.is_empty()) {
                topics.insert(alias, got.topic.clone());
            }
            let named = if got.topic.is_empty() { topics[&alias.unwrap()].clone() } else { got.topic.clone() };
            assert_eq!((&named, &got.text()), (&topic, &topic));
            // The first topics keep theirs, and nobody has more than 16.
            let has_alias = u16::from(n) < maximum.min(16);
            assert_eq!((alias.is_some(), got.topic.is_empty()), (has_alias, has_alias && round == 1), "{got:?}");
        }
        subscriber.leave().unwrap();
    }
}

#[test]
fn every_topic_alias_up_to_the_maximum_is_taken() {
    // [MQTT-3.3.2-12]
    each(|t| {
        let v = Version::V5;
        let (mut client, connack) = Client::connect(t.mqtt, &Connect::new(v, t.id("c")))?;
        let maximum = two(&connack.props, TOPIC_ALIAS_MAXIMUM);
        let aliases = 1..=maximum.unwrap_or(0);
        client.subscribe(&t.topic("#"), 0)?;
        for alias in aliases.clone() {
            let first = Publish::new(t.topic(&format!("{alias}")), "named", 0);
            client.publish(first.with(Prop::Two(TOPIC_ALIAS, alias)))?;
            client.hears(&t.topic(&format!("{alias}")), "named")?;
        }
        for alias in aliases.rev() {
            client.publish(Publish::new("", "by alias", 0).with(Prop::Two(TOPIC_ALIAS, alias)))?;
            client.hears(&t.topic(&format!("{alias}")), "by alias")?;
        }
        client.leave()
    });
}

#[test]
fn after_a_pubrec_that_refuses_the_id_is_new() {
    // [MQTT-4.3.3-9]
    let server = Server::fresh().unwrap();
    let v = Version::V5;
    let mut subscriber = Client::clean(server.mqtt, v, "s").unwrap();
    subscriber.subscribe("#", 2).unwrap();
    let mut publisher = Client::clean(server.mqtt, v, "p").unwrap();
    // More levels than this server takes.
    let deep = "/".repeat(300);
    for (topic, code) in [(deep.as_str(), 0x90), (&deep, 0x90), ("a", 0)] {
        publisher.send(&Publish { id: 9, ..Publish::new(topic, "x", 2) }.encode(v)).unwrap();
        assert_eq!(publisher.recv().unwrap(), Packet::Ack { kind: PUBREC, id: 9, code });
    }
    publisher.send(&wire::ack(PUBREL, 9)).unwrap();
    assert_eq!(publisher.recv().unwrap(), Packet::Ack { kind: PUBCOMP, id: 9, code: 0 });
    subscriber.hears("a", "x").unwrap();
}

#[test]
fn a_handshake_at_qos_2_is_finished_though_its_message_has_expired() {
    // [MQTT-4.3.3-13]
    each(|t| {
        let v = Version::V5;
        let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
        subscriber.subscribe(&t.topic("a"), 2)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        let expiring = Publish { id: 5, ..Publish::new(t.topic("a"), "x", 2) }.with(Prop::Four(MESSAGE_EXPIRY, 1));
        publisher.send(&expiring.encode(v))?;
        ensure!(publisher.recv()? == Packet::Ack { kind: PUBREC, id: 5, code: 0 });
        let got = subscriber.message_raw()?;
        // Its time passes while both wait; nothing comes of it.
        ensure!(publisher.recv_within(Duration::from_millis(2_200))?.is_none());
        publisher.send(&wire::ack(PUBREL, 5))?;
        ensure!(publisher.recv()? == Packet::Ack { kind: PUBCOMP, id: 5, code: 0 });
        subscriber.send(&wire::ack(PUBREC, got.id))?;
        ensure!(subscriber.recv()? == Packet::Ack { kind: PUBREL, id: got.id, code: 0 });
        subscriber.send(&wire::ack(PUBCOMP, got.id))?;
        subscriber.ping()
    });
}

#[test]
fn thousands_of_messages_at_qos_1_and_2_all_arrive() {
    for qos in [1, 2] {
        each(|t| {
            let v = Version::V5;
            let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
            subscriber.subscribe(&t.topic("#"), qos)?;
            let address = t.mqtt;
            let (id, topic) = (t.id("p"), t.topic("a"));
            let count = 3_000u16;
            let publisher = std::thread::spawn(move || -> anyhow::Result<()> {
                let mut publisher = Client::clean(address, v, &id)?;
                let window = 20;
                let (mut sent, mut done) = (0, 0);
                while done < count {
                    while sent < count && sent - done < window {
                        sent += 1;
                        publisher
                            .send(&Publish { id: sent, ..Publish::new(&topic, format!("{sent}"), qos) }.encode(v))?;
                    }
                    match publisher.recv()? {
                        Packet::Ack { kind: PUBREC, id, .. } => publisher.send(&wire::ack(PUBREL, id))?,
                        Packet::Ack { kind: PUBACK | PUBCOMP, .. } => done += 1,
                        other => anyhow::bail!("unexpected {other:?}"),
                    }
                }
                Ok(())
            });
            for n in 1..=count {
                subscriber.hears(&t.topic("a"), &format!("{n}"))?;
            }
            publisher.join().expect("the publisher does not panic")
        });
    }
}
