//! Sessions that last: offline messages, unfinished handshakes, expiry.

use crate::{
    client::Client,
    target::{each, each_version},
    wire::{
        self, Connect, MESSAGE_EXPIRY, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Prop, Publish, SESSION_EXPIRY,
        SUBSCRIPTION_ID, Version,
    },
};
use anyhow::{bail, ensure};
use std::time::{Duration, Instant};

#[test]
fn offline_messages_wait() {
    each_version(|t, v| {
        let connect = Connect::lasting(v, t.id("s"), 600);
        // A new one [MQTT-3.1.2-6, 3.1.4-4, 3.2.2-3; 3:3.1.2-4, 3.1.4-3, 3.2.2-3]
        let (mut subscriber, present) = Client::resume(t.mqtt, &connect)?;
        ensure!(!present);
        subscriber.subscribe(&t.topic("#"), 2)?;
        subscriber.leave()?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        for n in 0..60 {
            publisher.say(&t.topic(&format!("{}", n % 3)), &format!("{n}"), 1 + n as u8 % 2)?;
        }
        // It goes on [MQTT-3.1.2-5, 3.2.2-3, 4.5.0-1; 3:3.1.2-4, -5, 3.2.2-2, 4.1.0-1, 4.5.0-1], and CONNACK comes first
        // [MQTT-3.2.0-1; 3:3.2.0-1].
        let (mut subscriber, present) = Client::resume(t.mqtt, &connect)?;
        ensure!(present, "the session was lost");
        // Order holds per topic and QoS of the publisher.
        let mut last = std::collections::BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..60 {
            let got = subscriber.message()?;
            let n: i32 = got.text().parse()?;
            ensure!(got.topic == t.topic(&format!("{}", n % 3)) && got.qos == 1 + n as u8 % 2, "{got:?}");
            ensure!(seen.insert(n), "{n} came twice");
            let before = last.insert((got.topic.clone(), got.qos), n);
            ensure!(before.is_none_or(|before| before < n), "{n} after {before:?}");
        }
        // Live again.
        publisher.say(&t.topic("0"), "live", 1)?;
        subscriber.hears(&t.topic("0"), "live")?;
        Ok(())
    });
}

#[test]
fn what_was_done_does_not_come_again() {
    each_version(|t, v| {
        let connect = Connect::lasting(v, t.id("s"), 600);
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        subscriber.subscribe(&t.topic("a"), 2)?;
        for round in 0..5 {
            for qos in [1, 2] {
                publisher.say(&t.topic("a"), &format!("{round} {qos} live"), qos)?;
                subscriber.hears(&t.topic("a"), &format!("{round} {qos} live"))?;
            }
            subscriber.leave()?;
            publisher.say(&t.topic("a"), &format!("{round} off"), 2)?;
            let (again, present) = Client::resume(t.mqtt, &connect)?;
            ensure!(present);
            subscriber = again;
            subscriber.hears(&t.topic("a"), &format!("{round} off"))?;
        }
        subscriber.leave()?;
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        subscriber.hears_nothing()
    });
}

#[test]
fn clean_start_ends_the_session() {
    each_version(|t, v| {
        let connect = Connect::lasting(v, t.id("s"), 600);
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        subscriber.subscribe(&t.topic("a"), 1)?;
        subscriber.leave()?;
        // [MQTT-3.1.2-4, 3.1.4-4; 3:3.1.4-3, 3.2.2-1]
        Client::clean(t.mqtt, v, &t.id("s"))?.leave()?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        publisher.say(&t.topic("a"), "lost", 1)?;
        // Neither the old one nor that of the clean start is there [3:3.1.2-6].
        let (mut subscriber, present) = Client::resume(t.mqtt, &connect)?;
        ensure!(!present, "the session survived a clean start");
        publisher.say(&t.topic("a"), "lost too", 1)?;
        subscriber.hears_nothing()
    });
}

#[test]
fn session_expires() {
    // [MQTT-3.1.2-23, 4.1.0-2]
    each(|t| {
        let v = Version::V5;
        // Each look would renew a session, so each is looked at once.
        let short: Vec<Connect> = (0..30).map(|n| Connect::lasting(v, t.id(&format!("s{n}")), 1)).collect();
        let long = Connect::lasting(v, t.id("l"), 600);
        for connect in short.iter().chain([&long]) {
            let (mut subscriber, _) = Client::resume(t.mqtt, connect)?;
            subscriber.subscribe(&t.topic("a"), 1)?;
            subscriber.leave()?;
        }
        let left = Instant::now();
        for connect in &short {
            let (_subscriber, present) = Client::resume(t.mqtt, connect)?;
            if !present {
                let (_subscriber, present) = Client::resume(t.mqtt, &long)?;
                ensure!(present, "gone before its time");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        bail!("still there after {:?}", left.elapsed());
    });
}

#[test]
fn disconnect_can_shorten_the_expiry() {
    // §3.14.2.2.2
    each(|t| {
        let v = Version::V5;
        let connect = Connect::lasting(v, t.id("s"), 600);
        let (subscriber, _) = Client::resume(t.mqtt, &connect)?;
        subscriber.leave_with(0, &[Prop::Four(SESSION_EXPIRY, 0)])?;
        let (_subscriber, present) = Client::resume(t.mqtt, &connect)?;
        ensure!(!present);
        Ok(())
    });
}

#[test]
fn expired_messages_are_not_delivered() {
    // [MQTT-3.3.2-5, -6]
    each(|t| {
        let v = Version::V5;
        // What a session was sent once does not expire for it any more, so each is looked at once.
        let sessions: Vec<Connect> = (0..40).map(|n| Connect::lasting(v, t.id(&format!("s{n}")), 600)).collect();
        for connect in &sessions {
            let (mut subscriber, _) = Client::resume(t.mqtt, connect)?;
            subscriber.subscribe(&t.topic("a"), 1)?;
            subscriber.leave()?;
        }
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        let expiring = |text: &str, s| Publish::new(t.topic("a"), text, 1).with(Prop::Four(MESSAGE_EXPIRY, s));
        publisher.publish(expiring("short", 1))?;
        publisher.publish(expiring("long", 600))?;
        publisher.say(&t.topic("a"), "for good", 1)?;
        let published = Instant::now();
        for connect in &sessions {
            let (mut subscriber, _) = Client::resume(t.mqtt, connect)?;
            let first = subscriber.message()?;
            if first.text() == "short" {
                // Its time is not up yet: the next one looks.
                std::thread::sleep(Duration::from_millis(250));
                continue;
            }
            ensure!(first.text() == "long", "{first:?}");
            let left =
                first.props.iter().find_map(|p| if let Prop::Four(MESSAGE_EXPIRY, s) = p { Some(*s) } else { None });
            ensure!(left.is_some_and(|s| (300..600).contains(&s)), "{first:?}");
            subscriber.hears(&t.topic("a"), "for good")?;
            return Ok(());
        }
        bail!("still delivered after {:?}", published.elapsed());
    });
}

#[test]
fn unacknowledged_message_comes_again_with_its_id() {
    // [MQTT-4.4.0-1; 3:4.4.0-1], and until then it is unacknowledged [MQTT-4.3.2-3, 4.3.3-3; 3:4.3.2-1, 4.3.3-1].
    each_version(|t, v| {
        for qos in [1, 2] {
            let connect = Connect::lasting(v, t.id(&format!("s{qos}")), 600);
            let topic = t.topic(&format!("{qos}"));
            let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
            subscriber.subscribe(&topic, qos)?;
            let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
            publisher.say(&topic, "a", qos)?;
            publisher.say(&topic, "b", qos)?;
            let first = [subscriber.message_raw()?, subscriber.message_raw()?];
            subscriber.cut();
            let (mut subscriber, present) = Client::resume(t.mqtt, &connect)?;
            ensure!(present);
            for before in first {
                let again = subscriber.message_raw()?;
                ensure!(again.id == before.id && again.payload == before.payload, "{before:?} came as {again:?}");
                // [MQTT-3.3.1-1; 3:3.3.1-1]
                ensure!(again.dup, "{again:?}");
                subscriber.accept(&again)?;
            }
            subscriber.hears_nothing()?;
        }
        Ok(())
    });
}

#[test]
fn after_pubrec_only_the_pubrel_is_repeated() {
    // [MQTT-4.3.3-6; 3:4.3.3-1]
    each_version(|t, v| {
        let connect = Connect::lasting(v, t.id("s"), 600);
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        subscriber.subscribe(&t.topic("a"), 2)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        publisher.say(&t.topic("a"), "once", 2)?;
        let got = subscriber.message_raw()?;
        subscriber.send(&wire::ack(PUBREC, got.id))?;
        // [MQTT-2.2.1-5, 4.3.3-4; 3:2.3.1-6]
        ensure!(matches!(subscriber.recv()?, Packet::Ack { kind: PUBREL, id, .. } if id == got.id));
        subscriber.cut();
        // Unacknowledged until PUBCOMP [MQTT-4.3.3-5; 3:4.4.0-1]
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        ensure!(matches!(subscriber.recv()?, Packet::Ack { kind: PUBREL, id, .. } if id == got.id));
        subscriber.send(&wire::ack(PUBCOMP, got.id))?;
        publisher.say(&t.topic("a"), "next", 2)?;
        subscriber.hears(&t.topic("a"), "next")?;
        Ok(())
    });
}

#[test]
fn publisher_finishes_qos_2_after_a_break() {
    // [MQTT-4.3.3-10, -11; 3:4.3.3-2]
    each_version(|t, v| {
        let mut subscriber = Client::clean(t.mqtt, v, &t.id("s"))?;
        subscriber.subscribe(&t.topic("a"), 2)?;
        let connect = Connect::lasting(v, t.id("p"), 600);
        let (mut publisher, _) = Client::resume(t.mqtt, &connect)?;
        let mut publish = Publish { id: 3, ..Publish::new(t.topic("a"), "once", 2) };
        publisher.send(&publish.encode(v))?;
        ensure!(matches!(publisher.recv()?, Packet::Ack { kind: PUBREC, id: 3, .. }));
        publisher.cut();
        let (mut publisher, present) = Client::resume(t.mqtt, &connect)?;
        ensure!(present, "the session was lost");
        publish.dup = true;
        publisher.send(&publish.encode(v))?;
        ensure!(matches!(publisher.recv()?, Packet::Ack { kind: PUBREC, id: 3, .. }));
        publisher.send(&wire::ack(PUBREL, 3))?;
        ensure!(matches!(publisher.recv()?, Packet::Ack { kind: PUBCOMP, id: 3, .. }));
        publisher.say(&t.topic("a"), "end", 2)?;
        subscriber.hears(&t.topic("a"), "once")?;
        subscriber.hears(&t.topic("a"), "end")?;
        Ok(())
    });
}

#[test]
fn sessions_are_told_apart_by_their_client_ids() {
    // [MQTT-3.1.3-2; 3:3.1.3-2]
    each_version(|t, v| {
        let names = ["s", "S", "s ", "sü"];
        for (i, name) in names.iter().enumerate() {
            let (mut client, present) = Client::resume(t.mqtt, &Connect::lasting(v, t.id(name), 600))?;
            ensure!(!present, "{name:?} has the session of another client");
            client.subscribe(&t.topic(&format!("{i}")), 1)?;
            client.leave()?;
        }
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        for (i, name) in names.iter().enumerate() {
            publisher.say(&t.topic(&format!("{i}")), name, 1)?;
        }
        for (i, name) in names.iter().enumerate() {
            let (mut client, present) = Client::resume(t.mqtt, &Connect::lasting(v, t.id(name), 600))?;
            ensure!(present, "the session of {name:?} was lost");
            client.hears(&t.topic(&format!("{i}")), name)?;
            client.hears_nothing()?;
        }
        Ok(())
    });
}

#[test]
fn a_session_lasts_as_long_as_its_connection() {
    // [MQTT-4.1.0-1; 3:4.1.0-2]: its expiry begins with the end of the connection.
    each_version(|t, v| {
        let mut connect = Connect::new(v, t.id("s"));
        if v == Version::V5 {
            connect.props.push(Prop::Four(SESSION_EXPIRY, 1));
        }
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        let mut clean = Client::clean(t.mqtt, v, &t.id("c"))?;
        subscriber.subscribe(&t.topic("a"), 2)?;
        clean.subscribe(&t.topic("a"), 2)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        publisher.say(&t.topic("a"), "1", 2)?;
        let unfinished = [subscriber.message_raw()?, clean.message_raw()?];
        ensure!(subscriber.recv_within(Duration::from_millis(2_500))?.is_none());
        subscriber.accept(&unfinished[0])?;
        clean.accept(&unfinished[1])?;
        publisher.say(&t.topic("a"), "2", 2)?;
        subscriber.hears(&t.topic("a"), "2")?;
        clean.hears(&t.topic("a"), "2")?;
        Ok(())
    });
}

#[test]
fn unsubscribed_while_away_from_the_topic() {
    each_version(|t, v| {
        let connect = Connect::lasting(v, t.id("s"), 600);
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        subscriber.subscribe_with(&[], &[(&t.topic("a"), 1), (&t.topic("b"), 1)])?;
        subscriber.unsubscribe(&[&t.topic("a")])?;
        subscriber.leave()?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        publisher.say(&t.topic("a"), "no", 1)?;
        publisher.say(&t.topic("b"), "yes", 1)?;
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        subscriber.hears(&t.topic("b"), "yes")?;
        subscriber.hears_nothing()
    });
}

#[test]
fn session_changes_its_protocol_version() {
    each(|t| {
        let old = Connect::lasting(Version::V311, t.id("s"), 0);
        let (mut subscriber, _) = Client::resume(t.mqtt, &old)?;
        subscriber.subscribe(&t.topic("a"), 1)?;
        subscriber.leave()?;
        let mut publisher = Client::clean(t.mqtt, Version::V5, &t.id("p"))?;
        publisher.publish(Publish::new(t.topic("a"), "x", 1).with(Prop::User("k".into(), "v".into())))?;
        let new = Connect::lasting(Version::V5, t.id("s"), 600);
        let (mut subscriber, present) = Client::resume(t.mqtt, &new)?;
        ensure!(present);
        let got = subscriber.hears(&t.topic("a"), "x")?;
        ensure!(got.user_props() == [("k", "v")], "{got:?}");
        Ok(())
    });
}

#[test]
fn hundred_thousand_bytes_wait_for_each_of_ten_sleepers() {
    each(|t| {
        let v = Version::V5;
        for i in 0..10 {
            let (mut sleeper, _) = Client::resume(t.mqtt, &Connect::lasting(v, t.id(&format!("s{i}")), 600))?;
            sleeper.subscribe(&t.topic(if i % 2 == 0 { "#" } else { "+" }), 1)?;
            sleeper.leave()?;
        }
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        // Mosquitto keeps 1000 per client unless told otherwise.
        let mut acked = 0u16;
        for n in 1..=900u16 {
            let text = format!("{n} {}", "x".repeat(110));
            publisher.send(&Publish { id: n, ..Publish::new(t.topic("a"), text, 1) }.encode(v))?;
            while n - acked >= 20 || n == 900 && acked < n {
                match publisher.recv()? {
                    Packet::Ack { kind: PUBACK, id, .. } if id == acked + 1 => acked = id,
                    other => bail!("unexpected {other:?}"),
                }
            }
        }
        for i in 0..10 {
            let (mut sleeper, _) = Client::resume(t.mqtt, &Connect::lasting(v, t.id(&format!("s{i}")), 600))?;
            for n in 1..=900 {
                let got = sleeper.message()?;
                ensure!(got.text().starts_with(&format!("{n} ")), "expected {n}, got {}", got.text());
            }
            sleeper.hears_nothing()?;
        }
        Ok(())
    });
}

#[test]
fn options_of_a_subscription_last() {
    // §3.8.3.1, §3.8.2.1.2: they are of the subscription, and that is of the session (§4.1).
    const NO_LOCAL: u8 = 1 << 2;
    const AS_PUBLISHED: u8 = 1 << 3;
    each(|t| {
        let v = Version::V5;
        let connect = Connect::lasting(v, t.id("s"), 600);
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        subscriber.subscribe_with(&[Prop::Var(SUBSCRIPTION_ID, 7)], &[(&t.topic("a"), 1 | NO_LOCAL | AS_PUBLISHED)])?;
        subscriber.subscribe_with(&[Prop::Var(SUBSCRIPTION_ID, 268_435_455)], &[(&t.topic("+"), 1 | NO_LOCAL)])?;
        subscriber.leave()?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        publisher.publish(Publish::new(t.topic("a"), "asleep", 1).retained())?;
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        subscriber.say(&t.topic("a"), "own", 1)?;
        publisher.publish(Publish::new(t.topic("a"), "awake", 1).retained())?;
        publisher.publish(Publish::new(t.topic("b"), "other", 1).retained())?;
        for (topic, text, retain, mut ids) in [
            ("a", "asleep", true, vec![7, 268_435_455]),
            ("a", "awake", true, vec![7, 268_435_455]),
            ("b", "other", false, vec![268_435_455]),
        ] {
            let got = subscriber.hears(&t.topic(topic), text)?;
            let mut found = got.subscription_ids();
            found.sort_unstable();
            ids.sort_unstable();
            ensure!(got.retain == retain && found == ids, "{got:?}");
        }
        subscriber.hears_nothing()
    });
}

#[test]
fn a_pubrec_that_refuses_frees_its_place() {
    // §4.3.3, §4.9: the identifier and the place in Receive Maximum are free again.
    each(|t| {
        let v = Version::V5;
        let mut connect = Connect::lasting(v, t.id("s"), 600);
        connect.props.push(Prop::Two(wire::RECEIVE_MAXIMUM, 1));
        let (mut subscriber, _) = Client::resume(t.mqtt, &connect)?;
        subscriber.subscribe(&t.topic("a"), 2)?;
        let mut publisher = Client::clean(t.mqtt, v, &t.id("p"))?;
        for n in 0..5 {
            publisher.say(&t.topic("a"), &format!("{n}"), 2)?;
        }
        for n in 0..5 {
            let got = subscriber.message_raw()?;
            ensure!(got.text() == format!("{n}"), "{got:?}");
            // 0x97: quota exceeded.
            let [high, low] = got.id.to_be_bytes();
            subscriber.send(&wire::packet(0x50, &[high, low, 0x97]))?;
        }
        subscriber.cut();
        let (mut subscriber, present) = Client::resume(t.mqtt, &connect)?;
        ensure!(present);
        subscriber.hears_nothing()
    });
}
