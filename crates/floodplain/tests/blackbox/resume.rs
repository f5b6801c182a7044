//! What comes again, and in which order.

use crate::{
    client::Client,
    target::{each, each_version},
    wire::{self, Connect, MAXIMUM_PACKET_SIZE, PUBREC, PUBREL, Packet, Prop, Publish, Version, Will},
};
use anyhow::{Result, bail, ensure};

/// What a delivery is known by.
fn mark(publish: &Publish) -> (u16, String, u8) {
    (publish.id, publish.text(), publish.qos)
}

#[test]
fn what_was_in_flight_comes_again_first_in_its_order_under_its_ids() {
    // [MQTT-4.4.0-1; 3:4.6.0-1, -6], [MQTT-2.2.1-4]
    const IN_FLIGHT: usize = 60;
    each_version(|t, v| {
        let connect = Connect::lasting(v, t.id("s"), 600);
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        subscriber.subscribe(&t.topic("q/#"), 2)?;
        let mut publishers =
            (0..5).map(|i| Client::clean(t.mqtt, v, &t.id(&format!("p{i}")))).collect::<Result<Vec<_>>>()?;
        let mut publish = |i: usize| {
            let qos = 1 + u8::from(i.is_multiple_of(3));
            publishers[i * 7 % 5].say(&t.topic("q/x"), &format!("m{i}"), qos)
        };
        // A round before, so that ids do not start from 1 on both connections.
        for i in 0..100 {
            publish(i)?;
            subscriber.message()?;
        }
        let mut first = Vec::new();
        for i in 100..100 + IN_FLIGHT {
            publish(i)?;
            first.push(mark(&subscriber.message_raw()?));
        }
        subscriber.cut();
        // Much more than fits the window waits behind them.
        for i in 100 + IN_FLIGHT..400 {
            publish(i)?;
        }
        // Cut again in the middle of the repetition: nothing of the order is forgotten.
        let (mut subscriber, present) = Client::resume(t.mqtt, &connect)?;
        ensure!(present);
        for expected in &first[..IN_FLIGHT / 2] {
            ensure!(mark(&subscriber.message_raw()?) == *expected);
        }
        subscriber.cut();

        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        for (i, expected) in first.iter().enumerate() {
            let again = subscriber.message_raw()?;
            ensure!(mark(&again) == *expected && again.dup, "repetition {i}: {again:?}, expected {expected:?}");
        }
        // All of them stay in flight while a few new ones fill the window.
        let mut in_flight: Vec<u16> = first.iter().map(|(id, ..)| *id).collect();
        let mut texts: Vec<String> = first.iter().map(|(_, text, _)| text.clone()).collect();
        for (id, _, qos) in &first {
            subscriber.accept(&Publish { id: *id, ..Publish::new("", "", *qos) })?;
        }
        in_flight.clear();
        for _ in 100 + IN_FLIGHT..400 {
            let next = subscriber.message_raw()?;
            // The first few may have been on their way when the second connection was cut.
            ensure!(!in_flight.contains(&next.id), "id {} is given twice", next.id);
            in_flight.push(next.id);
            texts.push(next.text());
            if in_flight.len() == 20 {
                in_flight.clear();
            }
            subscriber.accept(&next)?;
        }
        texts.sort();
        texts.dedup();
        ensure!(texts.len() == 300, "{} of 300 messages came", texts.len());
        subscriber.hears_nothing()
    });
}

#[test]
fn pubrel_comes_again_in_the_order_of_the_pubrecs() {
    // [MQTT-4.6.0-4]
    each_version(|t, v| {
        let connect = Connect::lasting(v, t.id("s"), 600);
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        subscriber.subscribe(&t.topic("q"), 2)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        let mut ids = Vec::new();
        for i in 0..4 {
            publisher.say(&t.topic("q"), &i.to_string(), 2)?;
            ids.push(subscriber.message_raw()?.id);
        }
        let order = [ids[2], ids[0], ids[3], ids[1]];
        for id in order {
            subscriber.send(&wire::ack(PUBREC, id))?;
        }
        let released = |client: &mut Client| -> Result<Vec<u16>> {
            (0..4)
                .map(|_| match client.recv()? {
                    Packet::Ack { kind: PUBREL, id, .. } => Ok(id),
                    other => bail!("expected PUBREL, got {other:?}"),
                })
                .collect()
        };
        ensure!(released(&mut subscriber)? == order);
        subscriber.cut();
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        let again = released(&mut subscriber)?;
        ensure!(again == order, "{again:?}, expected {order:?}");
        Ok(())
    });
}

#[test]
fn a_client_that_says_goodbye_and_comes_back_at_once_leaves_no_will() {
    // [MQTT-3.14.4-3; 3:3.14.4-3]
    each_version(|t, v| {
        let mut listener = Client::clean(t.mqtt, v, &t.id("l"))?;
        listener.subscribe(&t.topic("will"), 1)?;
        let mut connect = Connect::new(v, t.id("w"));
        connect.will =
            Some(Will { topic: t.topic("will"), payload: b"gone".to_vec(), qos: 1, retain: false, props: Vec::new() });
        let mut old = Vec::new();
        for _ in 0..300 {
            let (mut client, _) = Client::resume(t.mqtt, &connect)?;
            // The next CONNECT comes on another socket before anybody knows that this one has ended.
            client.send(&wire::disconnect(v, 0, &[]))?;
            old.push(client);
        }
        let mut last = Client::clean(t.mqtt, v, &t.id("w"))?;
        last.say(&t.topic("will"), "end", 1)?;
        listener.hears(&t.topic("will"), "end")?;
        Ok(())
    });
}

#[test]
fn as_many_flows_may_be_open_in_3_1_1_as_there_are_ids() {
    each(|t| {
        let v = Version::V311;
        let mut client = Client::clean(t.mqtt, v, &t.id("p"))?;
        let received = |client: &mut Client, ids: std::ops::RangeInclusive<u16>| -> Result<()> {
            for id in ids {
                match client.recv()? {
                    Packet::Ack { kind: PUBREC, id: i, .. } if i == id => {}
                    other => bail!("expected PUBREC for {id}, got {other:?}"),
                }
            }
            Ok(())
        };
        for start in (1..=u16::MAX).step_by(512) {
            let ids = start..=start.saturating_add(511);
            let packets: Vec<u8> =
                ids.clone().flat_map(|id| Publish { id, ..Publish::new(t.topic("q"), "x", 2) }.encode(v)).collect();
            client.send(&packets)?;
            received(&mut client, ids)?;
        }
        // An id of its own is not left, but QoS 1 has its own flow in most clients: it must not end the server.
        client.send(&Publish { id: 1, ..Publish::new(t.topic("q"), "x", 1) }.encode(v))?;
        client.cut();
        Client::clean(t.mqtt, v, &t.id("p"))?.ping()
    });
}

#[test]
fn a_client_too_small_for_its_connack_is_closed() {
    // [MQTT-3.1.2-24]: it may not be sent, so there is no connection.
    each(|t| {
        for max in [2, 5] {
            let mut connect = Connect::new(Version::V5, t.id("s"));
            connect.props.push(Prop::Four(MAXIMUM_PACKET_SIZE, max));
            let mut client = Client::open(t.mqtt, Version::V5)?;
            client.send(&connect.encode())?;
            let seen = client.until_closed()?;
            ensure!(seen.is_empty(), "{seen:?}");
        }
        Ok(())
    });
}
