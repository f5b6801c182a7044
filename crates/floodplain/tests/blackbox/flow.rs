//! Receive maximum, packet size, readers that stop, disorder.

use crate::{
    client::{Client, PATIENCE, QUIET},
    target::{each, each_version},
    wire::{
        self, Connect, MAXIMUM_PACKET_SIZE, PUBACK, PUBREC, PUBREL, Packet, Prop, Publish, RECEIVE_MAXIMUM, Version,
    },
};
use anyhow::{Result, bail, ensure};
use std::time::{Duration, Instant};

#[test]
fn receive_maximum_bounds_what_is_sent() {
    // [MQTT-3.3.4-9, 4.9.0-1, -2]
    each(|t| {
        let v = Version::V5;
        for qos in [1, 2] {
            let mut connect = Connect::new(v, t.id("s"));
            connect.props.push(Prop::Two(RECEIVE_MAXIMUM, 3));
            let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
            subscriber.subscribe(&t.topic("a"), qos)?;
            subscriber.subscribe(&t.topic("zero"), 0)?;
            let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
            for n in 0..10 {
                publisher.say(&t.topic("a"), &format!("{n}"), qos)?;
            }
            let mut waiting = Vec::new();
            for _ in 0..3 {
                waiting.push(subscriber.message_raw()?);
            }
            subscriber.hears_nothing()?;
            // It never delays other packets [MQTT-3.3.4-10, 4.9.0-3], nor QoS 0.
            subscriber.ping()?;
            subscriber.subscribe(&t.topic("other"), qos)?;
            subscriber.unsubscribe(&[&t.topic("other")])?;
            subscriber.say(&t.topic("nobody"), "x", qos)?;
            publisher.say(&t.topic("zero"), "x", 0)?;
            subscriber.hears(&t.topic("zero"), "x")?;
            for n in 0..10 {
                let publish = waiting.remove(0);
                ensure!(publish.text() == format!("{n}"), "{publish:?}");
                subscriber.accept(&publish)?;
                if n < 7 {
                    waiting.push(subscriber.message_raw()?);
                }
            }
            subscriber.leave()?;
        }
        Ok(())
    });
}

#[test]
fn pubrec_does_not_free_the_place() {
    // §4.9: the quota returns with PUBCOMP, not with PUBREC.
    each(|t| {
        let v = Version::V5;
        let mut connect = Connect::new(v, t.id("s"));
        connect.props.push(Prop::Two(RECEIVE_MAXIMUM, 1));
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        subscriber.subscribe(&t.topic("a"), 2)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        publisher.say(&t.topic("a"), "1", 2)?;
        publisher.say(&t.topic("a"), "2", 2)?;
        let first = subscriber.message_raw()?;
        subscriber.send(&wire::ack(PUBREC, first.id))?;
        ensure!(matches!(subscriber.recv()?, Packet::Ack { kind: PUBREL, .. }));
        subscriber.hears_nothing()?;
        subscriber.send(&wire::ack(wire::PUBCOMP, first.id))?;
        subscriber.hears(&t.topic("a"), "2")?;
        Ok(())
    });
}

#[test]
fn message_larger_than_the_client_allows_is_left_out() {
    // [MQTT-3.1.2-24, -25]
    each(|t| {
        let v = Version::V5;
        let mut connect = Connect::new(v, t.id("s"));
        connect.props.push(Prop::Four(MAXIMUM_PACKET_SIZE, 200));
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        subscriber.subscribe(&t.topic("a"), 1)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        publisher.say(&t.topic("a"), &"x".repeat(300), 1)?;
        publisher.say(&t.topic("a"), "small", 1)?;
        subscriber.hears(&t.topic("a"), "small")?;
        Ok(())
    });
}

#[test]
fn more_than_our_receive_maximum_closes() {
    // [MQTT-3.3.4-7], §3.3.4: DISCONNECT 0x93. Only a broker that holds its acks can be caught at it.
    each(|t| {
        let v = Version::V5;
        let (mut client, connack) = Client::connect(t.mqtt, &Connect::new(v, t.id("c")))?;
        let maximum = connack.props.iter().find_map(|p| match p {
            Prop::Two(RECEIVE_MAXIMUM, n) => Some(*n),
            _ => None,
        });
        // QoS 2 without PUBREL stays open for as long as the client likes.
        let maximum = maximum.unwrap_or(u16::MAX);
        if maximum == u16::MAX {
            return client.leave();
        }
        for n in 1..=maximum {
            client.send(&Publish { id: n, ..Publish::new(t.topic("a"), "x", 2) }.encode(v))?;
        }
        for n in 1..=maximum {
            ensure!(matches!(client.recv()?, Packet::Ack { kind: PUBREC, id, .. } if id == n));
        }
        client.send(&Publish { id: maximum + 1, ..Publish::new(t.topic("a"), "x", 2) }.encode(v))?;
        // Nothing more comes, and the server closes [MQTT-3.14.4-1, -2, 4.13.1-1, 4.13.2-1].
        let seen = client.until_closed()?;
        ensure!(seen == [Packet::Disconnect { code: 0x93 }], "{seen:?}");
        Ok(())
    });
}

#[test]
fn an_id_is_not_given_again_while_it_is_in_use() {
    // [MQTT-4.3.2-1, 4.3.3-1; 3:2.3.1-4, 4.3.2-1, 4.3.3-1]
    /// So many messages at once; all together they are more than there are ids.
    const EACH: u16 = 200;
    const ROUNDS: u16 = 330;
    each_version(|t, v| {
        let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
        subscriber.subscribe(&t.topic("#"), 2)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        // Some are never answered, others only as far as PUBREC goes.
        let mut in_use = std::collections::BTreeSet::new();
        for n in 0..30 {
            publisher.say(&t.topic("kept"), &format!("{n}"), 1 + n % 2)?;
            let got = subscriber.message_raw()?;
            ensure!(in_use.insert(got.id), "{got:?}: in use are {in_use:?}");
            if n % 4 == 1 {
                subscriber.send(&wire::ack(PUBREC, got.id))?;
                ensure!(matches!(subscriber.recv()?, Packet::Ack { kind: PUBREL, id, .. } if id == got.id));
            }
        }
        let topic = t.topic("a");
        let publisher = std::thread::spawn(move || -> Result<()> {
            let packets: Vec<u8> =
                (1..=EACH).flat_map(|id| Publish { id, ..Publish::new(&topic, "x", 1) }.encode(v)).collect();
            for _ in 0..ROUNDS {
                publisher.send(&packets)?;
                for n in 1..=EACH {
                    ensure!(matches!(publisher.recv()?, Packet::Ack { kind: PUBACK, id, .. } if id == n));
                }
            }
            Ok(())
        });
        for _ in 0..u32::from(ROUNDS) * u32::from(EACH) {
            let got = subscriber.message()?;
            ensure!(got.topic == t.topic("a") && !in_use.contains(&got.id), "{got:?}: in use are {in_use:?}");
        }
        publisher.join().expect("the publisher does not panic")
    });
}

/// Publishes `count` messages of `len` bytes with at most 20 in flight.
fn publish_many(publisher: &mut Client, topic: &str, qos: u8, count: u16, len: usize) -> Result<()> {
    let text = "x".repeat(len);
    let (mut sent, mut acked) = (0, 0);
    while acked < count {
        while sent < count && sent - acked < 20 {
            sent += 1;
            let publish = Publish { id: sent, ..Publish::new(topic, text.as_str(), qos) };
            publisher.send(&publish.encode(publisher.version))?;
            if qos == 0 {
                acked += 1;
            }
        }
        if qos > 0 {
            match publisher.recv()? {
                Packet::Ack { kind: PUBACK, .. } => acked += 1,
                other => bail!("unexpected {other:?}"),
            }
        }
    }
    publisher.ping()
}

/// That it does not even slow it is counted by the broker's own tests.
#[test]
fn subscriber_that_stops_reading_does_not_stop_a_publisher() {
    each_version(|t, v| {
        for qos in [0, 1] {
            let mut stopped = Client::clean(t.mqtt, v, &t.id("stopped"))?;
            stopped.subscribe(&t.topic("a"), qos)?;
            let mut reader = Client::clean(t.mqtt, v, &t.id("reader"))?;
            reader.subscribe(&t.topic("b"), 1)?;
            let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
            // 20 MB: more than the sockets hold. `stopped` reads nothing.
            publish_many(&mut publisher, &t.topic("a"), qos, 2_000, 10_000)?;
            publisher.say(&t.topic("b"), "alive", 1)?;
            reader.hears(&t.topic("b"), "alive")?;
            stopped.cut();
        }
        Ok(())
    });
}

#[test]
fn slow_reader_of_qos_1_loses_nothing() {
    each(|t| {
        let v = Version::V5;
        // A session that lasts: nothing of it may be dropped.
        let (mut slow, _) = Client::resume(t.mqtt, &Connect::lasting(v, t.id("slow"), 600))?;
        slow.subscribe(&t.topic("a"), 1)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        let count = 900u16;
        for n in 1..=count {
            let text = format!("{n} {}", "x".repeat(10_000));
            publisher.send(&Publish { id: n, ..Publish::new(t.topic("a"), text, 1) }.encode(v))?;
            ensure!(matches!(publisher.recv()?, Packet::Ack { kind: PUBACK, .. }));
        }
        for n in 1..=count {
            let got = slow.message()?;
            ensure!(got.text().starts_with(&format!("{n} ")), "expected {n}, got {}", &got.text()[..20]);
        }
        slow.hears_nothing()
    });
}

#[test]
fn half_a_packet_blocks_nobody() {
    each_version(|t, v| {
        let mut half = Client::clean(t.mqtt, v, &t.id("half"))?;
        let bytes = Publish { id: 1, ..Publish::new(t.topic("a"), "x".repeat(50_000), 1) }.encode(v);
        half.send(&bytes[..30_000])?;
        let mut other = Client::clean(t.mqtt, v, &t.id("other"))?;
        other.subscribe(&t.topic("a"), 1)?;
        other.say(&t.topic("a"), "other", 1)?;
        other.hears(&t.topic("a"), "other")?;
        half.send(&bytes[30_000..])?;
        ensure!(matches!(half.recv()?, Packet::Ack { kind: PUBACK, id: 1, .. }));
        ensure!(other.message()?.payload.len() == 50_000);
        Ok(())
    });
}

#[test]
fn many_publishers_keep_their_own_order() {
    // [MQTT-4.6.0-5, -6; 3:4.6.0-5]
    each(|t| {
        let v = Version::V311;
        let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
        subscriber.subscribe(&t.topic("#"), 1)?;
        let threads: Vec<_> = (0..8)
            .map(|i| {
                let (address, id, topic) = (t.mqtt, t.id(&format!("p{i}")), t.topic(&format!("{i}")));
                std::thread::spawn(move || -> Result<()> {
                    let mut publisher = Client::clean(address, v, &id)?;
                    for n in 0..200 {
                        publisher.say(&topic, &format!("{n}"), (n % 2) as u8)?;
                    }
                    publisher.leave()
                })
            })
            .collect();
        // Per topic and QoS: QoS 0 may overtake QoS 1.
        let mut next = std::collections::BTreeMap::new();
        for _ in 0..8 * 200 {
            let got = subscriber.message()?;
            let n: u32 = got.text().parse()?;
            let expected = next.entry((got.topic.clone(), n % 2)).or_insert(n % 2);
            ensure!(n == *expected, "{}: expected {expected}, got {n}", got.topic);
            *expected += 2;
        }
        for thread in threads {
            thread.join().expect("publishers do not panic")?;
        }
        ensure!(subscriber.recv_within(QUIET)?.is_none());
        Ok(())
    });
}

#[test]
fn connection_that_never_says_connect_is_closed() {
    // A bound on half-open work: CONNECT must come soon after the TCP accept.
    each(|t| {
        let mut silent = Client::open(t.mqtt, Version::V5)?;
        let since = Instant::now();
        loop {
            match silent.recv_within(Duration::from_secs(1)) {
                Err(_) => return Ok(()),
                Ok(None) => ensure!(since.elapsed() < PATIENCE * 3, "still open after {:?}", since.elapsed()),
                Ok(Some(packet)) => bail!("unexpected {packet:?}"),
            }
        }
    });
}
